//! Who calls in the storm: people with programs and bots, many of them with caps, some with hardly any money.
//! Never: a limit on how fast they call; the storm is about money.

use molt_model::{BotId, Nanos, UserId};
use molt_store::testing::TestDatabase;
use secrecy::ExposeSecret;

use super::dice::Dice;

pub(super) const KEYS_PER_PERSON: u64 = 5;
/// The first two keys of each person are their bots', the others their programs'.
const BOTS_PER_PERSON: u64 = 2;
/// A few calls' worth, or less than one.
const TINY_NANOS: [i64; 5] = [0, 150_000, 1_000_000, 3_000_000, 9_000_001];
const SMALL_NANOS: [i64; 3] = [20_000_000, 60_000_007, 250_000_000];

/// A cap as somebody might set one: so many in a hundred of them are tiny, a quarter of them small. `None`: none.
fn cap(dice: &mut Dice, tiny_percent: u64) -> Option<i64> {
    match dice.below(100) {
        throw if throw < tiny_percent => Some(dice.pick(&TINY_NANOS)),
        throw if throw < tiny_percent + 25 => Some(dice.pick(&SMALL_NANOS)),
        _ => None,
    }
}

fn sql(cap: Option<i64>) -> String {
    cap.map_or_else(|| "null".to_owned(), |cap| cap.to_string())
}

/// The keys of so many people, in clear.
pub(super) async fn settle_in(database: &TestDatabase, people: u64, seed: u64) -> Vec<String> {
    let mut dice = Dice::new(seed, u64::MAX);
    let mut keys = Vec::new();
    for _ in 0..people {
        let user = UserId::random();
        let mut rows = format!(
            "insert into molt.users (id, issuer, subject, email, cap_nanos)
               values ('{user}', 'storm', '{user}', '{user}@example.com', {});
             insert into molt.billing (user_id, provider, subscription_status) values ('{user}', 'local', 'active');",
            sql(cap(&mut dice, 5))
        );
        let bots: Vec<BotId> = (0..BOTS_PER_PERSON).map(|_| BotId::random()).collect();
        for bot in &bots {
            rows += &format!(
                "insert into molt.bots (id, user_id, bot_name, vertical, settings, intent, cap_nanos)
                   values ('{bot}', '{user}', 'Pip', 'developer', '{{}}', 'running', {});",
                sql(cap(&mut dice, 10))
            );
        }
        database.execute(&rows).await;
        let mut tx = database.store.system().await.expect("the database answers");
        for number in 0..KEYS_PER_PERSON {
            let bot = bots.get(usize::try_from(number).expect("a few"));
            let (label, cap) = if bot.is_some() { ("bot", None) } else { ("program", cap(&mut dice, 10)) };
            let made = tx.create_ghost_key(user, bot, label, cap.map(Nanos), chrono::Utc::now()).await;
            keys.push(made.expect("a key").1.expose_secret().to_owned());
        }
        tx.commit().await.expect("the database answers");
    }
    keys
}

/// The key of a program whose person has set no cap.
pub(crate) async fn program(database: &TestDatabase) -> String {
    let user = UserId::random();
    let rows = format!(
        "insert into molt.users (id, issuer, subject, email) values ('{user}', 'storm', '{user}', '{user}@example.com');
         insert into molt.billing (user_id, provider, subscription_status) values ('{user}', 'local', 'active');"
    );
    database.execute(&rows).await;
    let mut tx = database.store.system().await.expect("the database answers");
    let (_, key) = tx.create_ghost_key(user, None, "program", None, chrono::Utc::now()).await.expect("a key");
    tx.commit().await.expect("the database answers");
    key.expose_secret().to_owned()
}
