//! A rotation beside everything else that writes, cut at any moment; and that no sealed column can be forgotten.
//! Never: a rotation that is only tried whole.

use molt_model::{BotId, UserId};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::*;
use crate::seal::{Place, SealKey};
use crate::testing::{TestDatabase, database};
use crate::{Store, StoreError};

fn ring(keys: &[&SecretString]) -> SealRing {
    let text: Vec<&str> = keys.iter().map(|key| key.expose_secret()).collect();
    SealRing::parse(&text.join("\n").into()).unwrap()
}

async fn store(database: &TestDatabase, ring: &SealRing) -> Store {
    Store::connect(&database.url, ring.clone()).await.unwrap()
}

fn literal(sealed: &[u8]) -> String {
    format!("'\\x{}'", hex::encode(sealed))
}

/// Bots whose gateway tokens are their own ids.
async fn bots(database: &TestDatabase, user: UserId, ring: &SealRing, count: usize) -> Vec<BotId> {
    let bots: Vec<BotId> = (0..count).map(|_| BotId::random()).collect();
    let row = |bot: &BotId| {
        let sealed = ring.seal(&Place::GatewayToken(bot.clone()), &bot.to_string().into());
        format!("('{bot}', '{user}', 'Pip', 'developer', '{{}}', 'stopped', {})", literal(&sealed))
    };
    let rows: Vec<String> = bots.iter().map(row).collect();
    let columns = "id, user_id, bot_name, vertical, settings, intent, gateway_token";
    database.execute(&format!("insert into molt.bots ({columns}) values {}", rows.join(","))).await;
    bots
}

async fn user(database: &TestDatabase) -> UserId {
    let user = UserId::random();
    let sql = format!(
        "insert into molt.users (id, issuer, subject, email) values ('{user}', 'test', 'pat', 'pat@example.test')"
    );
    database.execute(&sql).await;
    user
}

/// How many values of every column open with this ring, and how many there are.
async fn opened(store: &Store) -> (usize, usize) {
    let (mut good, mut all) = (0, 0);
    for column in Column::ALL {
        let mut system = store.system().await.unwrap();
        // No value begins with an empty prefix that is longer than none: all are other than this one.
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(column.select())
            .bind(column.before_all())
            .bind(Vec::<u8>::new())
            .bind(10_000_i64)
            .fetch_all(&mut *system.tx)
            .await
            .unwrap();
        all += rows.len();
        good +=
            rows.iter().filter(|(key, sealed)| store.seal().open(&column.place(key).unwrap(), sealed).is_ok()).count();
    }
    (good, all)
}

#[tokio::test]
async fn everything_is_sealed_anew_and_the_old_key_opens_nothing_new() {
    let database = database().await;
    let (new, old) = (SealKey::generate_hex(), SealKey::generate_hex());
    let (before, both, after) = (ring(&[&old]), ring(&[&new, &old]), ring(&[&new]));
    let user = user(&database).await;
    bots(&database, user, &before, 450).await;
    let signing = before.seal(&Place::SigningKey("k".to_owned()), &"private".to_owned().into());
    let mail = Uuid::new_v4();
    let link = before.seal(&Place::MailLink(mail), &"https://molt.example/link".to_owned().into());
    let text = before.seal(&Place::MailText(mail), &"Open https://molt.example/link".to_owned().into());
    // From before keys had names: the first form, which carries none.
    let unnamed =
        [&[1][..], &before.seal(&Place::SigningKey("first".to_owned()), &"x".to_owned().into())[9..]].concat();
    database
        .execute(&format!(
            "insert into molt.signing_keys (kid, private_sealed, public_jwk) values ('k', {}, '{{}}'), ('first', {}, '{{}}');
             insert into molt.outbox (id, template, to_address, data)
             values ('{mail}', 'magic-link', 'pat@example.test', '{{\"link_sealed\": \"{}\", \"minutes\": 15}}');
             insert into molt.mails (outbox_id, to_address, subject, text_sealed)
             values ('{mail}', 'pat@example.test', 'Your link', {})",
            literal(&signing),
            literal(&unnamed),
            hex::encode(&link),
            literal(&text)
        ))
        .await;

    let rotating = store(&database, &both).await;
    let mut system = rotating.system().await.unwrap();
    assert!(!system.seal_key_is_retired(before.newest()).await.unwrap());
    system.retire_seal_keys(&both.ids()[1..], chrono::Utc::now()).await.unwrap();
    system.commit().await.unwrap();
    let done = rotating.reseal().await.unwrap();
    let counts: Vec<(u64, u64)> = done.iter().map(|column| (column.done, column.lost)).collect();
    assert_eq!(counts, [(450, 0), (2, 0), (1, 0), (1, 0)]);
    let again = rotating.reseal().await.unwrap();
    assert!(again.iter().all(|column| column.done == 0 && column.lost == 0), "{again:?}");

    assert_eq!(opened(&store(&database, &after).await).await, (454, 454));
    assert_eq!(opened(&store(&database, &before).await).await, (0, 454), "a stolen old key opens nothing");
    assert_eq!(database.text("select data ->> 'minutes' from molt.outbox").await.as_deref(), Some("15"));
}

#[tokio::test]
async fn a_rotation_that_is_cut_anywhere_is_finished_by_the_next_one() {
    let database = database().await;
    let (new, old) = (SealKey::generate_hex(), SealKey::generate_hex());
    let both = ring(&[&new, &old]);
    let user = user(&database).await;
    bots(&database, user, &ring(&[&old]), 4 * usize::try_from(BATCH).unwrap()).await;
    let rotating = store(&database, &both).await;
    // Cut in the middle of a batch, after one and after two whole ones: nothing is ever unreadable.
    for batches in 0..3 {
        let mut outcome = Resealed { column: "", done: 0, lost: 0 };
        let mut after = String::new();
        for batch in 0..=batches {
            let mut system = rotating.system().await.unwrap();
            let rows = system.sealed_otherwise(Column::GatewayTokens, &both, &after).await.unwrap();
            after.clone_from(&rows.last().unwrap().0);
            let anew = seal_anew(Column::GatewayTokens, &both, rows, &mut outcome);
            system.put_sealed(Column::GatewayTokens, anew).await.unwrap();
            if batch < batches {
                system.commit().await.unwrap();
            }
        }
        assert_eq!(opened(&rotating).await, (800, 800), "cut in batch {batches}");
    }
    rotating.reseal().await.unwrap();
    assert_eq!(opened(&store(&database, &ring(&[&new])).await).await, (800, 800));
}

#[tokio::test]
async fn the_database_refuses_what_is_sealed_under_a_retired_key() {
    let database = database().await;
    let (new, old) = (SealKey::generate_hex(), SealKey::generate_hex());
    let (before, after) = (ring(&[&old]), ring(&[&new]));
    let user = user(&database).await;
    let bot = bots(&database, user, &before, 1).await.remove(0);
    let (late, rotating) = (store(&database, &before).await, store(&database, &after).await);
    let write = async |ring: &SealRing| {
        let sealed = ring.seal(&Place::GatewayToken(bot.clone()), &"later".to_owned().into());
        let mut system = late.system().await?;
        sqlx::query("update molt.bots set gateway_token = $1").bind(sealed).execute(&mut *system.tx).await?;
        Ok::<_, StoreError>(system)
    };
    // Whoever writes under the old key when it is retired is waited for, so that the next look at the rows sees it.
    let open = write(&before).await.unwrap();
    let retire = async {
        let mut system = rotating.system().await.unwrap();
        system.retire_seal_keys(&before.ids(), chrono::Utc::now()).await.unwrap();
        system.commit().await.unwrap();
    };
    tokio::pin!(retire);
    let waits = tokio::time::timeout(std::time::Duration::from_millis(200), &mut retire).await;
    assert!(waits.is_err(), "it does not wait for an open transaction");
    open.commit().await.unwrap();
    retire.await;
    let refused = write(&before).await.err();
    assert!(
        matches!(&refused, Some(StoreError::Constraint { constraint }) if constraint == "seal_key_in_force"),
        "{refused:?}"
    );
    write(&after).await.unwrap().commit().await.unwrap();
    let untouched = "update molt.bots set bot_name = 'Pop', gateway_token = coalesce(gateway_token, 'other')";
    database.execute("alter table molt.bots disable trigger seal").await;
    write(&before).await.unwrap().commit().await.unwrap();
    database.execute("alter table molt.bots enable trigger seal").await;
    database.execute(untouched).await;
}

#[tokio::test]
async fn a_process_says_which_key_it_seals_with_and_reads_the_file_when_it_is_told() {
    let database = database().await;
    let path = std::env::temp_dir().join(format!("molt-ring-{}", Uuid::new_v4().simple()));
    let (new, old) = (SealKey::generate_hex(), SealKey::generate_hex());
    std::fs::write(&path, old.expose_secret()).unwrap();
    let other = store(&database, &SealRing::read(&path).unwrap()).await;
    let mut heard = other.wakeups().subscribe();
    let rotating = store(&database, &ring(&[&new, &old])).await;
    let newest = rotating.seal().newest();
    let behind = async |count: usize| {
        let looking = async {
            while rotating.processes_without_seal_key(newest).await.unwrap().len() != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), looking).await.expect("a listener's name");
    };
    // The one of the test's own database, and the other process.
    behind(2).await;
    std::fs::write(&path, format!("{}\n{}\n", new.expose_secret(), old.expose_secret())).unwrap();
    rotating.announce_seal_keys().await.unwrap();
    while heard.recv().await.unwrap() != Channel::SealKeys {}
    behind(1).await;
    assert_eq!(other.seal().newest(), newest);
    std::fs::remove_file(&path).unwrap();
}

/// What tells a forgotten column: bytes that are no hash, and the word `sealed` among the values.
#[tokio::test]
async fn no_sealed_column_is_forgotten() {
    let database = database().await;
    let bytes = "select string_agg(table_name || '.' || column_name, ' ' order by 1) from information_schema.columns
                 where table_schema = 'molt' and data_type = 'bytea' and column_name not like '%\\_hash'
                   and table_name <> '_sqlx_migrations'";
    let known: Vec<&str> =
        Column::ALL.iter().map(|column| column.name()).filter(|name| *name != "outbox.data").collect();
    assert_eq!(
        database.text(bytes).await.as_deref(),
        Some(known.join(" ").as_str()),
        "seal/place.rs lists what is sealed"
    );
    for column in Column::ALL {
        let table = column.name().split('.').next().unwrap();
        let guarded =
            format!("select count(*) from pg_trigger where tgname = 'seal' and tgrelid = 'molt.{table}'::regclass");
        assert_eq!(database.count(&guarded).await, 1, "{table}: what is sealed under a retired key gets in");
    }
    database.execute("alter table molt.users add column diary bytea").await;
    assert_ne!(database.text(bytes).await.as_deref(), Some(known.join(" ").as_str()), "this test can fail");
}
