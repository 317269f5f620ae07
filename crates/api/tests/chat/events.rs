//! The stream of everything that changed for a person.

use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use molt_api::router;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::kit::{Person, Stack};

struct Stream {
    body: Body,
    text: String,
}

impl Stream {
    async fn open(stack: &Stack, who: &Person, after: Option<&str>) -> (StatusCode, Self) {
        let mut request =
            Request::builder().uri("/api/events").header("authorization", format!("Bearer {}", who.token));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = router(stack.state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        (response.status(), Self { body: response.into_body(), text: String::new() })
    }

    /// The next event's id and data.
    async fn next(&mut self) -> (i64, Value) {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let found = field("id: ").zip(field("data: "));
                self.text = rest.to_owned();
                if let Some((id, data)) = found {
                    return (id.parse().unwrap(), serde_json::from_str(&data).unwrap());
                }
            }
            let frame =
                tokio::time::timeout(Duration::from_secs(10), self.body.frame()).await.expect("an event in time");
            let data = frame.expect("the stream goes on").unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_live_go_on_where_they_stopped_and_are_nobody_elses() {
    let stack = Stack::start().await;
    let eve = stack.sign_up("eve@example.com").await;
    let path = format!("/api/bots/{}/conversations", stack.bot);
    stack.ask(Method::POST, &path, Some(json!({"title": "before"}))).await;
    let (status, mut live) = Stream::open(&stack, &stack.ada, None).await;
    assert_eq!(status, StatusCode::OK);
    let (_, mut hers) = Stream::open(&stack, &eve, Some("0")).await;
    stack.ask(Method::POST, &path, Some(json!({"title": "one"}))).await;
    let (id, data) = live.next().await;
    assert_eq!((id, &data["kind"], &data["id"]), (2, &json!("conversation.changed"), &json!(2)));
    assert_eq!((&data["bot_id"], &data["body"]["change"]), (&json!(stack.bot), &json!("created")));
    let mut browser = stack.browser().await;
    let run = browser.send("m-1", "hello").await;
    let (id, data) = live.next().await;
    assert_eq!((id, &data["kind"], &data["seq"]), (3, &json!("chat"), &json!(1)));
    assert_eq!((&data["run_id"], &data["body"]["content"]), (&json!(run), &json!("hello")));
    drop(live);

    // Many more than one batch, while nobody listens.
    for index in 0..150 {
        let (status, _) =
            stack.ask(Method::PATCH, &format!("{path}/main"), Some(json!({"title": format!("t{index}")}))).await;
        assert_eq!(status, StatusCode::OK);
    }
    let (_, mut again) = Stream::open(&stack, &stack.ada, Some("2")).await;
    let mut ids = Vec::new();
    while ids.last() != Some(&154) {
        ids.push(again.next().await.0);
    }
    assert_eq!(ids, (3..=154).collect::<Vec<_>>());

    stack.insert_bot(eve.user, &molt_model::BotId::random()).await;
    let hers_path = format!(
        "/api/bots/{}/conversations",
        stack.db.text(&format!("select id from molt.bots where user_id = '{}'", eve.user)).await.unwrap()
    );
    stack.ask_as(&eve, Method::POST, &hers_path, Some(json!({}))).await;
    let (id, data) = hers.next().await;
    assert_eq!((id, &data["kind"]), (1, &json!("conversation.changed")));

    for wrong in ["x", "-1", "1.5", ""] {
        assert_eq!(Stream::open(&stack, &stack.ada, Some(wrong)).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    // A position beyond the newest (a restored database) starts now.
    let (_, mut ahead) = Stream::open(&stack, &stack.ada, Some("99999")).await;
    stack.ask(Method::POST, &path, Some(json!({"title": "now"}))).await;
    assert_eq!(ahead.next().await.1["body"]["change"], "created");
    stack.state.relays.close();
    while ahead.body.frame().await.is_some() {}
}
