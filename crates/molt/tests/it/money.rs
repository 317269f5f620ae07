//! The bill against a provider whose figures the test knows: tokens times price times 1.2, to the nano-dollar.
//! Never: a figure taken from our own books as the truth.

use std::time::Duration;

use serde_json::{Value, json};

use crate::journey::nanos_of;
use crate::stack::Stack;
use crate::stack::http::{Ask, Client};
use crate::stack::people::Person;
use crate::stack::upstream::{NOTE, Upstream};

#[tokio::test]
async fn the_bill_is_what_the_provider_reported_times_price_times_markup() {
    let upstream = Upstream::start(Duration::from_millis(2)).await;
    let stack = Stack::start_with(&upstream.settings()).await;
    let (person, bot) = stack.with_bot("Ada").await;
    let mut chat = stack.chat(&person, &bot).await;
    let plain = chat.turn("m-1", "main", "Say something.").await;
    let with_tool = chat.turn("m-2", "main", &format!("Please {NOTE} this down.")).await;
    assert_eq!([plain.end(), with_tool.end()], ["finished", "finished"]);
    let calls = upstream.calls();
    let shown: Vec<(i64, i64, i64)> = plain.of("usage").into_iter().chain(with_tool.of("usage")).map(figures).collect();
    let told: Vec<(i64, i64, i64)> = calls.iter().map(|call| (call.tokens_in, call.tokens_out, call.nanos())).collect();
    assert_eq!(shown, told, "every answer shows what it cost");
    assert_eq!([plain.of("usage").len(), with_tool.of("usage").len()], [1, 2], "each run its own calls");

    abort_in_the_middle(&stack, &person, &bot).await;
    by_program(&stack, &person).await;
    the_bill_equals(&stack, &person, &upstream).await;
    so_do_the_figures_for_operators(&stack, &upstream).await;
    stack.finish().await;
}

fn figures(frame: &Value) -> (i64, i64, i64) {
    let number = |name: &str| frame[name].as_i64().unwrap_or(-1);
    (number("tokens_in"), number("tokens_out"), nanos_of(frame["cost_usd"].as_str().expect("a decimal")))
}

/// A person who presses Stop still pays what the provider reports, and only that.
async fn abort_in_the_middle(stack: &Stack, person: &Person, bot: &str) {
    let mut chat = stack.chat(person, bot).await;
    let run_id = chat.send("m-3", "main", "Go on.").await;
    chat.until("a word", |frame| frame["run_id"] == run_id && frame["done"] == false).await;
    chat.say(json!({"type": "abort", "run_id": run_id})).await;
    assert_eq!(chat.end_of(&run_id).await.end(), "aborted");
}

/// A program with a key of its own: streaming and not, and with a key that opens nothing.
async fn by_program(stack: &Stack, person: &Person) {
    let key = stack.make_key(&person.email).await;
    let body = json!({"model": "mine/parrot", "messages": [{"role": "user", "content": "hello"}]});
    let ask = |key: &str, body: &Value| Ask::new("post", "/v1/chat/completions").bearer(key).json(body);
    let whole = stack.http.send(ask(&key, &body)).await.ok();
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant", "{whole}");
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let stream = stack.http.send(ask(&key, &streamed)).await;
    assert!(stream.status == 200 && stream.text.trim_end().ends_with("data: [DONE]"), "{}", stream.text);
    assert!(!stream.text.contains("prompt_tokens"), "usage that the caller did not ask for is taken out again");
    streamed["stream_options"] = json!({"include_usage": true});
    let stream = stack.http.send(ask(&key, &streamed)).await;
    assert!(stream.text.contains("prompt_tokens"), "usage that the caller asked for stays");
    for wrong in ["lobster", "", &format!("{key}x")] {
        let refused = stack.http.send(ask(wrong, &body)).await;
        assert_eq!(refused.status, 401, "{}", refused.text);
        assert!(refused.json["error"]["message"].is_string(), "in the provider's own shape: {}", refused.text);
    }
}

async fn the_bill_equals(stack: &Stack, person: &Person, upstream: &Upstream) {
    let calls = i64::try_from(upstream.calls().len()).expect("few");
    let rows = "select count(*) from molt.usage_logs where provider = 'mine'";
    stack.eventually("a row for every call", async || (stack.database.count(rows).await == calls).then_some(())).await;
    let estimated = "select count(*) from molt.usage_logs where estimate is not null";
    assert_eq!(stack.database.count(estimated).await, 0, "the provider told everything");
    assert!(upstream.calls().iter().all(|call| call.reported));
    let shown = stack.http.get("/api/billing/usage", person).await.ok();
    let embeddings = "select coalesce(sum(cost_nanos), 0)::bigint from molt.usage_logs where provider <> 'mine'";
    let expected = upstream.nanos() + stack.database.count(embeddings).await;
    assert_eq!(shown["usage_usd"].as_str().map(nanos_of), Some(expected), "{shown}");
    let of_model = |list: &Value| {
        let mine = list.as_array().into_iter().flatten().find(|row| row["model"] == "mine/parrot").cloned();
        mine.expect("a row of the model")
    };
    let model = of_model(&shown["by_model"]);
    let sum = |of: fn(&crate::stack::upstream::Call) -> i64| upstream.calls().iter().map(of).sum::<i64>();
    assert_eq!(model["tokens_in"].as_i64(), Some(sum(|call| call.tokens_in)));
    assert_eq!(model["tokens_out"].as_i64(), Some(sum(|call| call.tokens_out)));
}

/// The page stands on the next port, and is a whole one.
async fn so_do_the_figures_for_operators(stack: &Stack, upstream: &Upstream) {
    let page = Client::new(stack.port + 1).send(Ask::new("get", "/metrics")).await;
    let kind = page.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(page.status == 200 && kind.starts_with("application/openmetrics-text"), "{} {kind}", page.status);
    let last = page.text.matches("# EOF").count() == 1 && page.text.ends_with("\n# EOF\n");
    assert!(last && page.text.contains("\nmolt_loop_runs_total{loop=\"fleet\"} "), "{}", page.text);
    let value = |line: &str| page.text.lines().find_map(|other| other.strip_prefix(line)?.trim().parse::<i64>().ok());
    let labels = "provider=\"mine\",model=\"parrot\",surface=\"chat\"";
    assert_eq!(value(&format!("molt_ghost_charged_nanos_total{{{labels}}}")), Some(upstream.nanos()), "{}", page.text);
    let calls = i64::try_from(upstream.calls().len()).expect("few");
    assert_eq!(value(&format!("molt_ghost_calls_total{{{labels},status=\"ok\"}}")), Some(calls), "{}", page.text);
}

#[tokio::test]
async fn a_cap_that_is_reached_is_said_in_an_ordinary_answer() {
    let upstream = Upstream::start(Duration::ZERO).await;
    let stack = Stack::start_with(&upstream.settings()).await;
    let (person, bot) = stack.with_bot("Ada").await;
    let mut chat = stack.chat(&person, &bot).await;
    chat.turn("m-1", "main", "Say something.").await;
    let spent = upstream.calls().len();
    let cap = Ask::new("put", "/api/billing/cap").by(&person).json(&json!({"cap_usd": "0.000001"}));
    stack.http.send(cap).await.ok();
    let turn = chat.turn("m-2", "main", "And again.").await;
    assert_eq!(turn.end(), "finished", "{turn:#?}");
    assert!(turn.answer().contains("/app/usage"), "the answer says where to change it: {}", turn.answer());
    assert_eq!(upstream.calls().len(), spent, "nothing went out");
    let none = Ask::new("put", "/api/billing/cap").by(&person).json(&json!({"cap_usd": null}));
    stack.http.send(none).await.ok();
    let turn = chat.turn("m-3", "main", "Once more.").await;
    assert_eq!((turn.end(), upstream.calls().len()), ("finished", spent + 1), "{turn:#?}");
    stack.finish().await;
}
