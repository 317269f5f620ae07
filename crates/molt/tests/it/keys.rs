//! `molt keys rotate` beside a running installation: cut at any moment, run again, and finished, while people chat.
//! Never: a moment at which something that is sealed can't be opened with the keys that are there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use molt_store::{Place, SealKey, SealRing};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::stack::Stack;

/// Enough for several batches, so that a cut falls between two of them.
const MAILS: usize = 3_000;
/// Longer than a rotation of so many takes here.
const CUT_WITHIN_MS: u64 = 600;

/// How often a rotation is cut: a few times, or many where somebody wants proof.
fn cuts() -> u64 {
    if std::env::var_os("MOLT_PROVE").is_some() { 60 } else { 6 }
}

fn key_file(stack: &Stack) -> PathBuf {
    stack.data().join("seal.key")
}

/// Mails with a sealed link that have left long ago; a rotation seals them anew all the same.
async fn write_mails(stack: &Stack) {
    let ring = SealRing::read(&key_file(stack)).expect("the installation made it");
    let mail = |_| {
        let id = uuid::Uuid::new_v4();
        let sealed = hex::encode(ring.seal(&Place::MailLink(id), &id.to_string().into()));
        format!("('{id}', 'magic-link', 'ada@example.com', '{{\"link_sealed\": \"{sealed}\"}}', null, now())")
    };
    let rows: Vec<String> = (0..MAILS).map(mail).collect();
    let columns = "id, template, to_address, data, due_at, sent_at";
    stack.database.execute(&format!("insert into molt.outbox ({columns}) values {}", rows.join(","))).await;
}

/// How much of what is sealed opens with these keys, and how much there is.
async fn opened(stack: &Stack, ring: &SealRing) -> (usize, usize) {
    let rows = "select string_agg(line, E'\\n') from (
        select 'bot ' || id || ' ' || encode(gateway_token, 'hex') line from molt.bots where gateway_token is not null
        union all select 'key ' || kid || ' ' || encode(private_sealed, 'hex') from molt.signing_keys
        union all select 'mail ' || id || ' ' || (data ->> 'link_sealed') from molt.outbox where data ? 'link_sealed') l";
    let rows = stack.database.text(rows).await.expect("something is sealed");
    let opens = |line: &&str| {
        let mut words = line.split(' ');
        let (kind, row, sealed) = (words.next(), words.next().expect("a key"), words.next().expect("a value"));
        let place = match kind {
            Some("bot") => Place::GatewayToken(row.parse().expect("a bot")),
            Some("key") => Place::SigningKey(row.to_owned()),
            _ => Place::MailLink(row.parse().expect("an id")),
        };
        ring.open(&place, &hex::decode(sealed).expect("hexadecimal digits")).is_ok()
    };
    (rows.lines().filter(opens).count(), rows.lines().count())
}

fn keys_in(file: &Path) -> SealRing {
    SealRing::read(file).expect("a file that holds keys at every moment")
}

#[tokio::test]
async fn the_seal_key_is_replaced_beside_a_running_installation_however_often_it_is_cut() {
    let mut stack = Stack::prepare("").await;
    stack.keeps_key = true;
    stack.launch().await;
    // The test's own connections would count as a process that lacks the key.
    stack.database.store.close().await;
    let (person, bot) = stack.with_bot("Ada").await;
    write_mails(&stack).await;
    let file = key_file(&stack);
    let stolen = SealRing::parse(&std::fs::read_to_string(&file).expect("our own folder").into()).expect("a key");
    assert_eq!(opened(&stack, &stolen).await, (MAILS + 2, MAILS + 2));

    for cut in 0..cuts() {
        let after = (cut.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % CUT_WITHIN_MS;
        let mut rotating = stack.operator_command(&["keys", "rotate"]).spawn().expect("the program was built");
        tokio::time::sleep(Duration::from_millis(after)).await;
        rotating.kill().expect("our own child");
        rotating.wait().expect("our own child");
        let ring = keys_in(&file);
        let (good, all) = opened(&stack, &ring).await;
        println!("cut after {after} ms: {} keys, {good} of {all} open", ring.ids().len());
        assert_eq!(good, all, "cut after {after} ms");
    }
    let mut chat = stack.chat(&person, &bot).await;
    assert_eq!(chat.turn("m-1", "main", "Good morning!").await.end(), "finished");
    drop(chat);

    let rotated = stack.operator_command(&["keys", "rotate"]).output().expect("the program was built");
    let said = String::from_utf8_lossy(&rotated.stdout) + String::from_utf8_lossy(&rotated.stderr);
    assert!(rotated.status.success() && said.contains("Done."), "{said}");
    let ring = keys_in(&file);
    let secret = std::fs::read_to_string(&file).expect("our own folder");
    assert!(ring.ids().len() == 1 && !said.contains(secret.trim()), "{said}");
    let (good, all) = opened(&stack, &ring).await;
    assert_eq!(good, all);
    assert_eq!(opened(&stack, &stolen).await.0, 0, "a stolen old key opens nothing");

    // The running platform has the new key: a restarted bot gets its token, a new link is sealed under it.
    let runtimes = stack.runtimes();
    let restarted = stack.http.post(&format!("/api/bots/{bot}/restart"), &person, &Value::Null).await;
    assert!((200..300).contains(&restarted.status), "{}", restarted.text);
    stack
        .eventually("another runtime runs", async || {
            let now = stack.runtimes();
            (now.len() == 1 && now != runtimes && stack.bot(&person, &bot).await["status"] == "running").then_some(())
        })
        .await;
    let mut chat = stack.chat(&person, &bot).await;
    assert_eq!(chat.turn("m-2", "main", "Still there?").await.end(), "finished");
    drop(chat);
    stack.kill();
    stack.launch().await;
    stack.wait_running(&person, &bot).await;
    let (good, all) = opened(&stack, &keys_in(&file)).await;
    assert_eq!(good, all);
    assert_eq!(opened(&stack, &stolen).await.0, 0);
    stack.finish().await;
}

#[tokio::test]
async fn keys_that_molt_cannot_write_are_rotated_by_hand_and_it_says_how() {
    let mut stack = Stack::start().await;
    stack.database.store.close().await;
    stack.signup("Ada").await;
    let rotate = |stack: &Stack, keys: &str| {
        let mut command = stack.operator_command(&["keys", "rotate"]);
        let output = command.env("MOLT_SEAL_KEY", keys).output().expect("the program was built");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said.into_owned())
    };
    let (old, new) = (stack.seal.expose_secret().to_owned(), SealKey::generate_hex().expose_secret().to_owned());
    let (stolen, both) = (SealRing::parse(&stack.seal).expect("made for this stack"), format!("{new},{old}"));
    let (good, said) = rotate(&stack, &old);
    assert!(!good && said.contains("MOLT_SEAL_KEY=<new>,<old>") && said.contains("openssl rand"), "{said}");
    assert!(!key_file(&stack).exists());

    // The platform still seals with the old key alone: nothing is retired.
    let (good, said) = rotate(&stack, &both);
    assert!(!good && said.contains("don't have the new key") && said.contains("Nothing is lost"), "{said}");
    assert_eq!(opened(&stack, &stolen).await, (1, 1), "the key that signs tokens");

    stack.interrupt().await;
    stack.seal = both.clone().into();
    stack.launch().await;
    let (good, said) = rotate(&stack, &both);
    assert!(good && said.contains("take the old one out"), "{said}");
    assert_eq!(opened(&stack, &stolen).await, (0, 1));
    stack.interrupt().await;
    stack.seal = new.into();
    stack.launch().await;
    stack.signup("Bob").await;
    stack.finish().await;
}
