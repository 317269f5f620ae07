//! What the front door promises about chat, clause by clause, to a client that somebody else wrote.
//! Never: a promise that the page does not make.

use std::time::Duration;

use serde_json::{Value, json};

use crate::stack::Stack;
use crate::stack::chat::{Chat, assert_in_order};
use crate::stack::http::Ask;
use crate::stack::people::Person;
use crate::stack::upstream::Upstream;

/// Slow enough that a second client can join in the middle of an answer.
const READABLE: Duration = Duration::from_millis(40);

async fn with_parrot() -> (Stack, Person, String) {
    let upstream = Upstream::start(READABLE).await;
    let stack = Stack::start_with(&upstream.settings()).await;
    let (person, bot) = stack.with_bot("Ada").await;
    (stack, person, bot)
}

#[tokio::test]
async fn one_id_is_one_message_and_one_run_also_from_two_places() {
    let (stack, person, bot) = with_parrot().await;
    let (mut one, mut two) = (stack.chat(&person, &bot).await, stack.chat(&person, &bot).await);
    let message = json!({"type": "send", "id": "same", "text": "Say something."});
    one.say(message.clone()).await;
    two.say(message.clone()).await;
    one.say(message).await;
    let ack = async |chat: &mut Chat| {
        let ack = chat.until("an ack", |frame| frame["type"] == "ack").await;
        ack["run_id"].as_str().expect("a run").to_owned()
    };
    let run = ack(&mut one).await;
    assert_eq!([ack(&mut two).await, ack(&mut one).await], [run.clone(), run.clone()]);
    let (first, second) = (one.end_of(&run).await, two.end_of(&run).await);
    assert_eq!([first.end(), second.end()], ["finished", "finished"]);
    let finished = |turn: &[Value]| -> Vec<Value> { turn.iter().filter(|f| f["seq"].is_i64()).cloned().collect() };
    assert_eq!(finished(&first.frames), finished(&second.frames), "both see the same");
    assert_eq!(stack.database.count("select count(*) from molt.runs").await, 1);
    stack.finish().await;
}

#[tokio::test]
async fn an_open_answer_arrives_once_as_its_text_so_far() {
    let (stack, person, bot) = with_parrot().await;
    let mut first = stack.chat(&person, &bot).await;
    let run = first.send("m-1", "main", "Say something.").await;
    first.until("the fourth word", |f| f["delta"].as_str().is_some_and(|delta| delta.contains("word3"))).await;
    let mut joined = stack.chat(&person, &bot).await;
    joined.say(json!({"type": "resume", "after": 0})).await;
    let turn = joined.end_of(&run).await;
    let pieces: Vec<&Value> = turn.of("message").into_iter().filter(|frame| frame["done"] == false).collect();
    let so_far = pieces.iter().position(|frame| frame["content"].is_string()).expect("the text so far");
    let mut text = pieces[so_far]["content"].as_str().unwrap_or_default().to_owned();
    text.extend(pieces[so_far + 1..].iter().map(|frame| frame["delta"].as_str().expect("pieces only, from then on")));
    assert_eq!(text, turn.answer(), "what was open, then the rest, nothing twice");
    assert_in_order(&joined.frames);
    stack.finish().await;
}

#[tokio::test]
async fn messages_wait_for_a_bot_that_does_not_run_yet_and_are_answered_in_order() {
    let stack = Stack::start().await;
    let person = stack.signup("Ada").await;
    let bot = stack.wizard(&person, "Pip").await;
    let mut chat = stack.chat(&person, &bot).await;
    let first = chat.send("m-1", "main", "What is 2 plus 3?").await;
    let second = chat.send("m-2", "main", "What is 20 plus 30?").await;
    assert!(chat.rest().await.iter().all(|frame| frame["type"] != "run"), "nothing runs before there is a plan");
    stack.accept_plan(&person, &bot).await;
    let (first, second) = (chat.end_of(&first).await, chat.end_of(&second).await);
    assert!(first.answer().contains('5') && second.answer().contains("50"), "{first:#?} {second:#?}");
    let seq = |frames: &[Value]| frames.iter().filter_map(|frame| frame["seq"].as_i64()).max();
    assert!(seq(&first.frames) < seq(&second.frames), "one after the other");
    assert_in_order(&chat.frames);
    stack.finish().await;
}

#[tokio::test]
async fn history_goes_backwards_in_pages_and_conversations_come_and_go() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let conversations = format!("/api/bots/{bot}/conversations");
    let made = stack.http.post(&conversations, &person, &json!({})).await.ok();
    let id = made["id"].as_str().expect("an id").to_owned();
    let mut chat = stack.chat(&person, &bot).await;
    for number in 0..3 {
        chat.turn(&format!("m-{number}"), &id, &format!("What is {number} plus 40?")).await;
    }
    let whole = chat.history(&id).await;
    let mut pages: Vec<Value> = Vec::new();
    loop {
        let before = pages.first().map_or(Value::Null, |frame| frame["seq"].clone());
        let mut ask = json!({"type": "history", "conversation": id, "limit": 4});
        if !before.is_null() {
            ask["before"] = before;
        }
        chat.say(ask).await;
        let page = chat.until("a page", |frame| frame["type"] == "history").await;
        let items = page["items"].as_array().expect("a list").clone();
        assert!(items.len() <= 4);
        pages.splice(0..0, items);
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(pages, whole, "page by page the same as at once");
    assert_in_order(&pages);

    let patch = |body: Value| Ask::new("patch", &format!("{conversations}/{id}")).by(&person).json(&body);
    stack.http.send(patch(json!({"title": "Sums"}))).await.ok();
    let listed = stack.http.get(&conversations, &person).await.ok();
    let titles: Vec<&str> =
        listed["items"].as_array().into_iter().flatten().filter_map(|c| c["title"].as_str()).collect();
    assert!(titles.contains(&"Sums"), "{listed}");
    assert_eq!(stack.http.delete(&format!("{conversations}/main"), &person).await.status, 409, "main stays");
    let gone = stack.http.delete(&format!("{conversations}/{id}"), &person).await;
    assert!((200..300).contains(&gone.status), "{}", gone.text);
    chat.say(json!({"type": "history", "conversation": id, "limit": 10})).await;
    let answer = chat.until("an answer", |f| f["type"] == "error" || f["type"] == "history").await;
    assert!(answer["type"] == "error" || answer["items"] == json!([]), "its messages are gone: {answer}");
    let left = format!("select count(*) from molt.events where conversation = '{id}' and kind = 'chat'");
    assert_eq!(stack.database.count(&left).await, 0);
    stack.finish().await;
}
