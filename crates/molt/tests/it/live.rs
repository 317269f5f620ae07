//! Live events: whatever a person can notice comes once and in order, also to whoever was away, and to nobody else.
//! Never: a look into the table instead of the stream.

use serde_json::Value;

use crate::stack::Stack;
use crate::stack::http::Ask;
use crate::stack::people::PASSWORD;

#[tokio::test]
async fn whatever_changes_comes_once_in_order_and_again_to_whoever_was_away() {
    let stack = Stack::start().await;
    let person = stack.signup("Ada").await;
    let stranger = stack.signup("Eve").await;
    let mut live = stack.live(&person, None).await;
    let mut theirs = stack.live(&stranger, None).await;
    let bot = stack.wizard(&person, "Pip").await;
    stack.accept_plan(&person, &bot).await;
    live.until("plan.changed").await;
    let running = live.until("bot.running").await;
    assert_eq!(running["bot_id"], bot.as_str());
    let mut chat = stack.chat(&person, &bot).await;
    chat.turn("m-1", "main", "Good morning!").await;
    live.until_that("the run's end", |event| event["body"]["phase"] == "finished").await;

    let ids: Vec<i64> = live.events.iter().map(|(id, _)| *id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gap, nothing twice: {ids:?}");
    let (middle, last) = (ids[ids.len() / 2], ids[ids.len() - 1]);
    let mut again = stack.live(&person, Some(middle)).await;
    again.until_that("the newest event", |event| event["id"] == last).await;
    let missed: Vec<&(i64, Value)> = live.events.iter().filter(|(id, _)| *id > middle).collect();
    assert_eq!(again.events.iter().collect::<Vec<_>>(), missed, "the same events, from where it was left");

    stack.wizard(&stranger, "Rex").await;
    let own = theirs.until("bot.created").await;
    assert_eq!(theirs.events.len(), 1, "nothing of the first person's came: {own}");
    stack.finish().await;
}

#[tokio::test]
async fn a_person_who_leaves_takes_everything_along_but_the_books() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let mut chat = stack.chat(&person, &bot).await;
    chat.turn("m-1", "main", "Remember that my sister is called Grace.").await;
    let export = stack.http.get("/api/me/export", &person).await.ok().to_string();
    for kept in [person.email.as_str(), bot.as_str(), "my sister is called Grace"] {
        assert!(export.contains(kept), "{kept} is missing in the export");
    }
    let charged = stack.database.count("select sum(cost_nanos) from molt.usage_logs").await;

    let left = stack.http.delete("/api/me", &person).await;
    assert!((200..300).contains(&left.status), "{}", left.text);
    stack.http.get("/api/me", &person).await.refused(401, "unauthenticated");
    stack
        .eventually("nothing is left of the person", async || {
            let users = stack.database.count("select count(*) from molt.users").await;
            (users == 0 && stack.cells().is_empty() && stack.runtimes().is_empty()).then_some(())
        })
        .await;
    let log_in = serde_json::json!({"email": person.email, "password": PASSWORD});
    let refused = stack.http.send(Ask::new("post", "/api/auth/login").json(&log_in)).await;
    refused.refused(401, "wrong_credentials");
    let everywhere = "select count(*) from molt.mails where to_address = 'ada@example.com'";
    assert_eq!(stack.database.count(everywhere).await, 0, "their mails are gone too");
    let books = "select sum(cost_nanos) from molt.usage_logs where user_id is null";
    assert_eq!(stack.database.count(books).await, charged, "the books stay, without a name");
    assert!(!stack.files_say(&bot, "Grace"), "the memory is gone");
    stack.signup("Ada").await;
    stack.finish().await;
}
