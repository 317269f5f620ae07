//! Who may open a chat, and what happens to nonsense on an open one.

use chrono::TimeDelta;
use http::{Method, StatusCode};
use molt_model::BotId;
use serde_json::{Value, json};

use crate::kit::{ORIGIN, Stack, open};

fn refused(result: Result<crate::kit::Browser, (StatusCode, Value)>) -> (u16, String) {
    let Err((status, body)) = result else { panic!("the socket opened") };
    assert!(body["detail"].as_str().is_some_and(|detail| detail.ends_with('.')), "{body}");
    (status.as_u16(), body["code"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_once_soon_and_for_one_bot() {
    let stack = Stack::start().await;
    let ticket = stack.ticket().await;
    let query = format!("?ticket={ticket}");
    // A plain request doesn't use it up.
    let (status, body) = stack.ask(Method::GET, &format!("/api/chat/{}{query}", stack.bot), None).await;
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_header")));
    // Nor does a page of a foreign origin, or another bot.
    let foreign = [("origin", "https://evil.example")];
    assert_eq!(refused(stack.open(&query, &foreign).await), (403, "origin_not_allowed".into()));
    assert_eq!(refused(stack.open(&query, &[("origin", "null")]).await), (403, "origin_not_allowed".into()));
    let other = BotId::random();
    stack.insert_bot(stack.ada.user, &other).await;
    assert_eq!(refused(open(stack.address, &other, &query, &[]).await), (401, "ticket_invalid".into()));

    let mut browser = stack.open(&query, &[("origin", ORIGIN)]).await.unwrap();
    assert_eq!(refused(stack.open(&query, &[]).await), (401, "ticket_invalid".into()));
    browser.send("m-1", "still open").await;

    let ticket = stack.ticket().await;
    stack.clock.forward(TimeDelta::seconds(31));
    assert_eq!(refused(stack.open(&format!("?ticket={ticket}"), &[]).await), (401, "ticket_invalid".into()));
    assert_eq!(refused(stack.open("?ticket=made-up", &[]).await), (401, "ticket_invalid".into()));
    assert_eq!(refused(stack.open("", &[]).await), (401, "unauthenticated".into()));
    assert_eq!(stack.db.count("select count(*) from molt.chat_tickets where octet_length(ticket_hash) <> 32").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_may_send_its_session_token_and_a_stranger_finds_nothing() {
    let stack = Stack::start().await;
    let eve = stack.sign_up("eve@example.com").await;
    let header = |token: &str| format!("Bearer {token}");
    let (ada, eve_header) = (header(&stack.ada.token), header(&eve.token));
    let mut program = stack.open("", &[("authorization", ada.as_str())]).await.unwrap();
    let run = program.send("m-1", "hello").await;
    let strange = [("authorization", eve_header.as_str())];
    assert_eq!(refused(stack.open("", &strange).await), (404, "bot_not_found".into()));
    let forged = [("authorization", "Bearer abc.def.ghi")];
    assert_eq!(refused(stack.open("", &forged).await), (401, "unauthenticated".into()));
    let path = |tail: &str| format!("/api/bots/{}/{tail}", stack.bot);
    for (method, path, body) in [
        (Method::POST, path("chat-ticket"), None),
        (Method::GET, path("conversations"), None),
        (Method::POST, path("conversations"), Some(json!({}))),
        (Method::PATCH, path("conversations/main"), Some(json!({"title": "mine"}))),
        (Method::DELETE, path("conversations/main"), None),
        (Method::GET, format!("/api/chat/{}", stack.bot), None),
        (Method::POST, "/api/bots/nonsense/chat-ticket".to_owned(), None),
    ] {
        let (status, answer) = stack.ask_as(&eve, method.clone(), &path, body).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path} {answer}");
    }
    // A stranger's own bot doesn't help to reach Ada's run.
    let hers = BotId::random();
    stack.insert_bot(eve.user, &hers).await;
    let mut stranger = open(stack.address, &hers, "", &strange).await.unwrap();
    stranger.tell(json!({"type": "abort", "run_id": run})).await;
    assert_eq!(stranger.next().await.unwrap()["code"], "unknown_run");
    stranger.tell(json!({"type": "resume", "after": 0})).await;
    stranger.tell(json!({"type": "history"})).await;
    assert_eq!(stranger.next().await.unwrap()["items"], json!([]));
    stack.until_true("select count(*) = 1 from molt.runs where abort_requested_at is null").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_answered_and_the_socket_stays_open() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    for (text, code) in [
        ("not json", "bad_frame"),
        (r#"{"type":"send","id":"a"}"#, "bad_frame"),
        (r#"{"type":"send","id":"a","text":"  "}"#, "empty_text"),
        (r#"{"type":"send","id":"a","text":"x","conversation":"c-none"}"#, "unknown_conversation"),
        (r#"{"type":"fly"}"#, "bad_frame"),
    ] {
        browser.tell_text(text).await;
        let answer = browser.next().await.unwrap();
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{text}");
        assert!(answer["message"].as_str().unwrap().ends_with('.'));
    }
    browser.tell(json!({"type": "send", "id": "long", "text": "x".repeat(100_001)})).await;
    let answer = browser.next().await.unwrap();
    assert_eq!((&answer["code"], &answer["id"]), (&json!("text_too_long"), &json!("long")));
    browser.send("m-1", &"x".repeat(100_000)).await;
    assert_eq!(stack.db.count("select count(*) from molt.runs").await, 1);

    stack.take_cell_away().await;
    for index in 0..49 {
        browser.send(&format!("n-{index}"), "wait").await;
    }
    browser.tell(json!({"type": "send", "id": "over", "text": "one too many"})).await;
    let frames = browser.until(|frame| frame["type"] == "error").await;
    assert_eq!(frames.last().unwrap()["code"], "too_many_waiting");
    assert_eq!(frames.last().unwrap()["id"], "over");
    browser.tell_until_cut_off(&"x".repeat(2 * 1024 * 1024)).await;
    while browser.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_bot_says_goodbye() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    browser.send("m-1", "hello").await;
    browser.next().await;
    let bot = &stack.bot;
    stack
        .db
        .execute(&format!(
            "update molt.bots set intent = 'deleted' where id = '{bot}'; select pg_notify('molt', 'fleet')"
        ))
        .await;
    let (code, reason) = browser.close_reason().await;
    assert_eq!((code, reason.as_str()), (4404, "This assistant was deleted."));
    let (status, _) = stack.ask(Method::POST, &format!("/api/bots/{bot}/chat-ticket"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_says_so() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    stack.state.relays.close();
    assert_eq!(browser.close_reason().await.0, 1001);
}
