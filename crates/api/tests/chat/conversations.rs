//! Conversations: made, named, archived, deleted for good.

use http::{Method, StatusCode};
use molt_bot::Op;
use molt_model::{ConversationId, RunId};
use serde_json::{Value, json};

use crate::kit::{Stack, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_from_its_first_word_to_its_end() {
    let stack = Stack::start().await;
    let path = format!("/api/bots/{}/conversations", stack.bot);
    let (status, list) = stack.ask(Method::GET, &path, None).await;
    assert_eq!((status, list["items"].as_array().unwrap().len(), &list["next"]), (StatusCode::OK, 1, &Value::Null));
    assert_eq!((&list["items"][0]["id"], &list["items"][0]["archived"]), (&json!("main"), &json!(false)));

    let (status, made) = stack.ask(Method::POST, &path, Some(json!({}))).await;
    assert_eq!((status, &made["title"]), (StatusCode::CREATED, &json!("New conversation")));
    let id: ConversationId = made["id"].as_str().unwrap().parse().unwrap();
    let mut browser = stack.browser().await;
    browser.tell(json!({"type": "send", "id": "m-1", "text": "what is a heron", "conversation": id})).await;
    let acked = browser.until(|frame| frame["type"] == "ack").await;
    let run: RunId = acked.last().unwrap()["run_id"].as_str().unwrap().parse().unwrap();
    wait_for("the cell has it", || async { stack.cell.state().runs.len() == 1 }).await;
    assert_eq!(stack.cell.state().runs[0].1, id);
    stack.cell.answer(run, &id, &["A bird."]);
    assert!(browser.until_end(run).await.iter().all(|frame| frame["conversation"] == json!(id)));
    let (_, list) = stack.ask(Method::GET, &path, None).await;
    assert_eq!((&list["items"][0]["id"], &list["items"][0]["title"]), (&json!(id), &json!("what is a heron")));

    let own = format!("{path}/{id}");
    let (status, changed) = stack.ask(Method::PATCH, &own, Some(json!({"title": " Birds ", "archived": true}))).await;
    assert_eq!((status, &changed["title"], &changed["archived"]), (StatusCode::OK, &json!("Birds"), &json!(true)));
    let (status, problem) = stack.ask(Method::PATCH, &own, Some(json!({"title": ""}))).await;
    assert_eq!((status, &problem["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("title")));
    let (status, _) = stack.ask(Method::PATCH, &format!("{path}/main"), Some(json!({"title": "Daily"}))).await;
    assert_eq!(status, StatusCode::OK);

    let before = stack.db.count("select count(*) from molt.events where seq is not null").await;
    assert_eq!(stack.ask(Method::DELETE, &own, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(before - stack.db.count("select count(*) from molt.events where seq is not null").await, 4);
    let forgets = |stack: &Stack| stack.cell.state().ops.iter().any(|op| matches!(op, Op::Forget { .. }));
    wait_for("the cell is told", || async { forgets(&stack) }).await;
    // What the cell still says of it is dropped, and does not stop what comes after it.
    stack.cell.answer(run, &id, &["late"]);
    let next = browser.send("m-2", "still there?").await;
    wait_for("the cell has it", || async { stack.cell.state().runs.iter().any(|(known, ..)| *known == next) }).await;
    stack.cell.answer(next, &ConversationId::main(), &["yes"]);
    let frames = browser.until_end(next).await;
    assert!(!frames.iter().any(|frame| frame["seq"].is_i64() && frame["conversation"] == json!(id)));
    stack.until_true(&format!("select not exists (select from molt.conversations where id = '{id}')")).await;
    browser.tell(json!({"type": "send", "id": "m-3", "text": "hello?", "conversation": id})).await;
    assert_eq!(browser.next().await.unwrap()["code"], "unknown_conversation");

    for (method, path, code) in [
        (Method::DELETE, own.clone(), "conversation_not_found"),
        (Method::PATCH, own, "conversation_not_found"),
        (Method::DELETE, format!("{path}/Not an id"), "route_not_found"),
        (Method::DELETE, format!("{path}/NOT-AN-ID"), "conversation_not_found"),
        (Method::DELETE, format!("{path}/main"), "not_in_this_state"),
    ] {
        if path.contains(' ') {
            continue;
        }
        let body = (method == Method::PATCH).then(|| json!({"archived": true}));
        let (status, problem) = stack.ask(method.clone(), &path, body).await;
        assert!(status.is_client_error(), "{method} {path}");
        assert_eq!(problem["code"], code, "{method} {path}");
    }
    let kinds = stack.db.text("select string_agg(body ->> 'change', ' ' order by id) from molt.events where kind = 'conversation.changed'").await;
    assert_eq!(
        kinds.unwrap().split(' ').filter(|change| *change != "changed").collect::<Vec<_>>(),
        ["created", "deleted"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_is_deleted_while_its_run_goes_on_takes_the_run_with_it() {
    let stack = Stack::start().await;
    let path = format!("/api/bots/{}/conversations", stack.bot);
    let (_, made) = stack.ask(Method::POST, &path, Some(json!({"title": "Secret"}))).await;
    let id = made["id"].as_str().unwrap();
    stack.take_cell_away().await;
    let mut browser = stack.browser().await;
    browser.tell(json!({"type": "send", "id": "m-1", "text": "psst", "conversation": id})).await;
    browser.until(|frame| frame["type"] == "ack").await;
    assert_eq!(stack.ask(Method::DELETE, &format!("{path}/{id}"), None).await.0, StatusCode::NO_CONTENT);
    stack.give_cell().await;
    stack.until_true("select count(*) = 0 from molt.conversations where deleted_at is not null").await;
    assert!(stack.cell.state().runs.is_empty());
    assert_eq!(stack.db.count("select count(*) from molt.runs").await, 0);
}
