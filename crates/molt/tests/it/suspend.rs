//! An operator suspends an assistant from the command line, as its owner meets it: it stops, says why, takes no message, and
//! comes back with all that it had.
//! Never: a plan's end; that needs a clock that moves, and is tested at the front door.

use serde_json::{Value, json};

use crate::stack::Stack;

#[tokio::test]
async fn a_suspended_assistant_stops_says_why_and_comes_back_as_it_was() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let mut chat = stack.chat(&person, &bot).await;
    assert_eq!(chat.turn("m-1", "main", "Say something.").await.end(), "finished");
    let said = stack.operator(&["admin", "suspend", &bot, "--reason", "Somebody complained"]).await;
    assert!(said.contains(&format!("molt admin resume {bot}")), "{said}");
    stack
        .eventually("no cell", async || {
            let stopped = format!("select observed from molt.bots where id = '{bot}' and observed = 'suspended'");
            stack.database.text(&stopped).await
        })
        .await;
    let seen = stack.bot(&person, &bot).await;
    assert_eq!((&seen["status"], &seen["phase"]), (&json!("stopped"), &json!("suspended")));
    assert_eq!(seen["suspended"]["reason"], "Somebody complained.");
    for verb in ["restart", "resume"] {
        let answer = stack.http.post(&format!("/api/bots/{bot}/{verb}"), &person, &json!({})).await;
        answer.refused(409, "bot_suspended");
    }
    let mails = "select subject from molt.mails where subject like '%suspended%'";
    let subject = stack.eventually("the mail", async || stack.database.text(mails).await).await;
    assert_eq!(subject, "Pip is suspended");

    assert!(stack.operator(&["admin", "resume", &bot]).await.contains("The assistant goes on."));
    assert!(stack.operator(&["admin", "resume", &bot]).await.contains("Nothing was in the assistant's way."));
    stack.wait_running(&person, &bot).await;
    assert_eq!(stack.bot(&person, &bot).await["suspended"], Value::Null);
    let mut chat = stack.chat(&person, &bot).await;
    assert_eq!(chat.turn("m-2", "main", "Still there?").await.end(), "finished");
    stack.finish().await;
}

#[tokio::test]
async fn an_operator_who_names_nobody_or_says_nothing_is_told_what_to_do() {
    let stack = Stack::start().await;
    for (arguments, hint) in [
        (["admin", "suspend", "molt-000000000000", "--reason", "Why not"], "check the id"),
        (["admin", "suspend", "molt-000000000000", "--reason", " "], "1 to 300 characters"),
        (["admin", "suspend", "nonsense", "--reason", "Why not"], "nonsense"),
    ] {
        let mut command = stack.operator_command(&arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("a program");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(hint), "{said}");
    }
    stack.finish().await;
}
