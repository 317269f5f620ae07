//! An assistant that was paused, as its owner meets it: in the chat, on its page, and with the way back.
//! Never: the noticing itself; that is tested beside the proxy.

use std::time::Duration;

use molt_model::{Caution, Clock as _, SystemClock};
use molt_store::watch::Sign;
use serde_json::{Value, json};

use crate::stack::Stack;
use crate::stack::upstream::Upstream;

/// What the proxy writes when it notices something.
async fn pause(stack: &Stack, bot: &str) {
    let now = SystemClock.now();
    let sign = Sign { caution: Caution::Paused, reason: "It ran in circles.".to_owned(), since: now };
    let mut tx = stack.database.store.system().await.expect("the database is there");
    let noted = tx.note_sign(&bot.parse().expect("an id"), &sign, now).await.expect("a row");
    tx.commit().await.expect("a row");
    assert_eq!(noted, Some(Caution::Paused));
}

#[tokio::test]
async fn a_paused_assistant_says_so_and_goes_on_when_its_owner_wants_it() {
    let upstream = Upstream::start(Duration::ZERO).await;
    let stack = Stack::start_with(&upstream.settings()).await;
    let (person, bot) = stack.with_bot("Ada").await;
    let mut chat = stack.chat(&person, &bot).await;
    assert!(chat.turn("m-1", "main", "Say something.").await.answer().contains("word3"));
    let sent = upstream.calls().len();
    pause(&stack, &bot).await;
    let turn = chat.turn("m-2", "main", "And again.").await;
    let said = turn.answer();
    assert!(said.contains("I was paused") && said.contains(&format!("/app/bots/{bot}")), "{said}");
    assert_eq!((turn.end(), upstream.calls().len()), ("finished", sent), "nothing went out");
    let unusual = stack.bot(&person, &bot).await["unusual"].clone();
    assert_eq!((&unusual["caution"], &unusual["reason"]), (&json!("paused"), &json!("It ran in circles.")));
    let mails = "select subject from molt.mails where subject like '%paused%'";
    let subject = stack.eventually("the mail", async || stack.database.text(mails).await).await;
    assert_eq!(subject, "Pip is paused");

    let resumed = stack.http.post(&format!("/api/bots/{bot}/resume"), &person, &json!({})).await.ok();
    assert_eq!(resumed["unusual"], Value::Null);
    assert!(chat.turn("m-3", "main", "Once more.").await.answer().contains("word3"));
    pause(&stack, &bot).await;
    assert!(stack.operator(&["admin", "resume", &bot]).await.contains("The assistant goes on."));
    assert!(chat.turn("m-4", "main", "Still there?").await.answer().contains("word3"));
    stack.finish().await;
}
