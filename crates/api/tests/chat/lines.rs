//! Chat sockets and live streams end with the log-in that opened them, are counted for each person, and close politely.

use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use molt_api::router;
use molt_store::sessions::LogIn;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::kit::{Person, Stack, open, wait_for};

/// What the product promises.
const SOON: Duration = Duration::from_secs(1);

async fn events(stack: &Stack, who: &Person) -> (StatusCode, Body) {
    let request = Request::builder().uri("/api/events").header("authorization", format!("Bearer {}", who.token));
    let response = router(stack.state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    (response.status(), response.into_body())
}

/// A stream that has begun: its first words were read.
async fn live(stack: &Stack, who: &Person) -> Body {
    let (status, mut body) = events(stack, who).await;
    assert_eq!(status, StatusCode::OK);
    body.frame().await.expect("the first words").unwrap();
    body
}

async fn ends(body: &mut Body) {
    tokio::time::timeout(Duration::from_secs(10), async { while body.frame().await.is_some() {} })
        .await
        .expect("an end");
}

/// Nothing came, and no end either.
async fn goes_on(body: &mut Body) {
    assert!(tokio::time::timeout(Duration::from_millis(50), body.frame()).await.is_err(), "it has ended");
}

async fn log_out(stack: &Stack, who: &Person) {
    let request = Request::builder().method(Method::POST).uri("/api/auth/logout").header("cookie", &who.cookie);
    let answer = router(stack.state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_out_ends_what_that_log_in_has_open_and_nothing_else() {
    let stack = Stack::start().await;
    let phone = stack.log_in("ada@example.com").await;
    let bearer = |who: &Person| format!("Bearer {}", who.token);
    let mut browser = stack.browser().await;
    let mut program = stack.open("", &[("authorization", bearer(&stack.ada).as_str())]).await.unwrap();
    let mut stream = live(&stack, &stack.ada).await;
    let mut phones = stack.open("", &[("authorization", bearer(&phone).as_str())]).await.unwrap();
    let mut phones_stream = live(&stack, &phone).await;
    let unused = stack.ticket().await;

    let begun = Instant::now();
    log_out(&stack, &stack.ada).await;
    assert_eq!(browser.close_reason().await, (4401, "This log-in has ended; log in again.".to_owned()));
    assert_eq!(program.close_reason().await.0, 4401);
    ends(&mut stream).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    phones.send("m-1", "still here").await;
    phones.next().await.expect("the phone's socket is open");
    phones_stream.frame().await.expect("and so is its stream").unwrap();
    let Err((status, body)) = stack.open(&format!("?ticket={unused}"), &[]).await else { panic!("it opened") };
    assert_eq!((status.as_u16(), &body["code"]), (401, &json!("unauthenticated")), "a ticket ends with its log-in too");
    assert_eq!(events(&stack, &stack.ada).await.0, StatusCode::UNAUTHORIZED);

    let begun = Instant::now();
    let (status, _) = stack.ask_as(&phone, Method::DELETE, "/api/me", None).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    ends(&mut phones_stream).await;
    while phones.next().await.is_some() {}
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_refresh_token_that_comes_back_ends_the_stream_too() {
    let stack = Stack::start().await;
    let mut stream = live(&stack, &stack.ada).await;
    let refresh = || async {
        let request =
            Request::builder().method(Method::POST).uri("/api/auth/refresh").header("cookie", &stack.ada.cookie);
        router(stack.state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    assert_eq!(refresh().await, StatusCode::OK);
    goes_on(&mut stream).await;
    stack.clock.forward(chrono::TimeDelta::minutes(1));
    let begun = Instant::now();
    assert_eq!(refresh().await, StatusCode::UNAUTHORIZED);
    ends(&mut stream).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_has_so_many_streams_and_sockets_open_and_no_more() {
    let stack = Stack::start().await;
    let eve = stack.sign_up("eve@example.com").await;
    let refused = |status: StatusCode, body: &Value| {
        assert_eq!((status.as_u16(), &body["code"]), (429, &json!("too_many_open")), "{body}");
        assert!(body["detail"].as_str().unwrap().ends_with('.'));
    };
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(live(&stack, &stack.ada).await);
    }
    let (status, body) = events(&stack, &stack.ada).await;
    refused(status, &serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap());
    let (status, _) = events(&stack, &eve).await;
    assert_eq!(status, StatusCode::OK, "somebody else is not concerned");
    streams.pop();
    streams.push(live(&stack, &stack.ada).await);

    let authorization = format!("Bearer {}", stack.ada.token);
    let headers = [("authorization", authorization.as_str())];
    let mut sockets = Vec::new();
    for _ in 0..100 {
        sockets.push(stack.open("", &headers).await.unwrap());
    }
    let Err((status, body)) = open(stack.address, &stack.bot, "", &headers).await else { panic!("one too many") };
    refused(status, &body);
    sockets.pop().unwrap().close().await;
    wait_for("room for one more", || async { stack.open("", &headers).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_answered_with_a_close() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    browser.send("m-1", "bye").await;
    assert_eq!(browser.close().await, Some(1000), "the code that the browser said");
    let mut other = stack.browser().await;
    other.tell_until_cut_off(&"x".repeat(2 * 1024 * 1024)).await;
    assert_eq!(other.close_reason().await.0, 1002);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_ins_that_ended_are_told_apart() {
    let stack = Stack::start().await;
    let eve = stack.sign_up("eve@example.com").await;
    let family = |who: &Person| {
        let claims = who.token.split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&base64_url(claims)).unwrap();
        claims["sid"].as_str().unwrap().parse().ok()
    };
    log_out(&stack, &eve).await;
    let (ada, eve) =
        (LogIn { user: stack.ada.user, family: family(&stack.ada) }, LogIn { user: eve.user, family: family(&eve) });
    let asked = [
        ada,
        eve,
        LogIn { user: ada.user, family: eve.family },
        LogIn { user: eve.user, family: ada.family },
        LogIn { family: None, ..ada },
        LogIn { user: molt_model::UserId(uuid::Uuid::new_v4()), family: None },
    ];
    let mut ended = stack.db.store.system().await.unwrap().ended_log_ins(&asked).await.unwrap();
    ended.sort_unstable();
    assert_eq!(ended, [1, 2, 3, 5]);
}

fn base64_url(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}
