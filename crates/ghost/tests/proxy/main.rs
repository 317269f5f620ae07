//! The proxy through its front door: HTTP in, a provider of the test's own that misbehaves on demand, rows and events out.
//! Never: a stand-in for Postgres or for the wire.

#![expect(clippy::unwrap_used, reason = "a test panics where it can't go on")]

mod door;
mod gate;
mod kill;
mod observed;
mod rig;
mod traces;
mod upstream;
mod watch;

use std::time::{Duration, Instant};

use molt_model::{RunId, TokenUsage};
use rig::{Call, PRICE, Rig};
use serde_json::{Value, json};
use upstream::{KEY, Upstream};

#[tokio::test]
async fn the_books_hold_what_the_provider_counted() {
    let rig = Rig::start().await;
    let cases = [
        (json!({ "stream": true, "stream_options": { "include_usage": true } }), true),
        (json!({ "stream": true }), false),
        (json!({}), true),
    ];
    for (at, (extra, usage_shown)) in cases.into_iter().enumerate() {
        let answer = rig.chat("up/ok", extra.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.text.contains("word3"), "{}", answer.text);
        assert_eq!(answer.text.contains("prompt_tokens"), usage_shown, "{extra}: {}", answer.text);
        assert_eq!(answer.text.contains("[DONE]"), extra["stream"] == true);
        let row = rig.row(&answer).await;
        let usage = TokenUsage {
            input: 1000 + i64::try_from(at).unwrap(),
            output: 7,
            cache_read: 400,
            reasoning: 3,
            cache_write: 0,
        };
        assert_eq!(row["tokens_in"], usage.input);
        assert_eq!(
            (&row["tokens_out"], &row["tokens_cache_read"], &row["tokens_reasoning"]),
            (&json!(7), &json!(400), &json!(3))
        );
        assert_eq!(row["cost_nanos"], PRICE.charge(&usage).0);
        assert_eq!((&row["provider"], &row["model"], &row["surface"]), (&json!("up"), &json!("up/ok"), &json!("chat")));
        assert_eq!((&row["estimate"], &row["price_version"]), (&Value::Null, &json!("book-1")));
        let sent = rig.upstream.requests().pop().unwrap();
        assert_eq!(sent.body["model"], "ok");
        assert_eq!(sent.authorization, format!("Bearer {KEY}"));
        assert_eq!(sent.body["stream_options"]["include_usage"] == true, extra["stream"] == true);
    }
    let embedded = rig.call(Call::post("/v1/embeddings", json!({ "model": "up/embed", "input": "a" }))).await;
    let row = rig.row(&embedded).await;
    assert_eq!((&row["surface"], &row["tokens_in"], &row["tokens_out"]), (&json!("embeddings"), &json!(5), &json!(0)));
    assert_eq!(rig.rows().await, 4);
    let summary = rig.summary().await;
    assert_eq!((summary.calls, summary.tokens_in, summary.tokens_out), (4, 3008, 21));
    assert_eq!(summary.by_model.iter().map(|model| model.cost).sum::<molt_model::Nanos>(), summary.cost);
    assert_eq!(summary.by_day.iter().map(|day| day.calls).sum::<i64>(), 4);
    rig.ghost.drain().await;
    assert_eq!(rig.chat("up/ok", json!({})).await.status, 429);
}

#[tokio::test]
async fn a_call_of_a_run_becomes_a_frame_of_its_chat_until_the_run_ends() {
    let rig = Rig::start().await;
    let run = RunId::random();
    rig.insert_run(run, "accepted").await;
    let call = || {
        let call = Call::post(
            "/v1/chat/completions",
            json!({ "model": "practice/practice-1", "messages": [{ "role": "user", "content": "Hi" }] }),
        );
        call.header("traceparent", &format!("00-{}-00f067aa0ba902b7-01", run.0.simple()))
    };
    let answer = rig.call(call()).await;
    rig.row(&answer).await;
    let frame = rig.event("chat").await;
    assert_eq!((&frame["seq"], &frame["conversation"]), (&json!(1), &json!("main")));
    let body = &frame["body"];
    assert_eq!(
        (&body["type"], &body["run_id"], &body["model"]),
        (&json!("usage"), &json!(run), &json!("practice/practice-1"))
    );
    let reported: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(body["tokens_in"], reported["usage"]["prompt_tokens"]);
    assert_eq!(body["tokens_out"], reported["usage"]["completion_tokens"]);
    rig.database.execute("update molt.runs set state = 'finished'").await;
    let late = rig.call(call()).await;
    rig.row(&late).await;
    assert_eq!(rig.event("usage").await["run_id"], json!(run));
    assert_eq!(rig.count("select count(*) from molt.events where kind = 'chat'").await, 1);
    let foreign = RunId::random();
    let parent = format!("00-{}-00f067aa0ba902b7-01", foreign.0.simple());
    let other = rig.call(call().header("traceparent", &parent)).await;
    assert_eq!(rig.row(&other).await["run_id"], Value::Null);
    let mut tx = rig.database.store.system().await.unwrap();
    assert_eq!(tx.usage_count_of_run(run).await.unwrap(), 2);
}

#[tokio::test]
async fn what_a_provider_does_wrong_is_booked_or_not_charged_and_said_in_neutral_words() {
    let rig = Rig::start().await;
    let stream = json!({ "stream": true });
    for (model, estimate, output) in [("up/cut", "provider_cut", 4), ("up/nousage", "not_reported", 4)] {
        let answer = rig.chat(model, stream.clone()).await;
        assert_eq!(answer.text.contains("[DONE]"), model == "up/nousage", "{}", answer.text);
        assert_eq!(answer.text.contains("provider_cut"), model == "up/cut", "{}", answer.text);
        let row = rig.row(&answer).await;
        assert_eq!((&row["estimate"], &row["tokens_out"]), (&json!(estimate), &json!(output)), "{model}");
        assert!(row["tokens_in"].as_i64().unwrap() > 0);
    }
    let whole = rig.chat("up/cut", json!({})).await;
    assert_eq!((whole.status, rig.row(&whole).await["estimate"].as_str()), (429, Some("provider_cut")));
    let booked = rig.rows().await;

    let before = rig.upstream.requests().len();
    let failed = rig.chat("up/broken", stream.clone()).await;
    assert_eq!((failed.status, rig.upstream.requests().len() - before), (429, 3), "tried three times, then said once");
    assert!(failed.retry_after.is_some() && failed.request_id.is_none());
    let recovered = rig.chat("up/flaky", stream.clone()).await;
    assert!(recovered.text.contains("[DONE]"));
    rig.row(&recovered).await;
    for model in ["up/unpaid", "other/badkey", "up/badrequest", "down/x"] {
        let before = rig.upstream.requests().len();
        let answer = rig.chat(model, stream.clone()).await;
        assert_eq!(answer.status, if model == "up/badrequest" { 400 } else { 429 }, "{model}");
        assert!(model == "down/x" || rig.upstream.requests().len() - before == 1, "{model}: asked once");
        let text = answer.text.to_lowercase();
        for word in ["credit", "billing", "balance", "quota", &KEY.to_lowercase(), "sk-"] {
            assert!(!text.contains(word), "{model}: {word} in {text}");
        }
    }
    let asked = rig.upstream.requests().len();
    assert_eq!((rig.chat("other/badkey", stream.clone()).await.status, rig.upstream.requests().len()), (429, asked));
    assert!(rig.chat("up/badrequest", stream).await.text.contains("maximum context length"));
    assert_eq!(rig.rows().await, booked + 1);
    let lied = rig.chat("up/lies", json!({ "stream": true })).await;
    let row = rig.row(&lied).await;
    assert_eq!((&row["tokens_in"], &row["tokens_out"]), (&json!(0), &json!(100_000_000)));
}

#[tokio::test]
async fn who_hangs_up_still_pays_what_was_used() {
    let rig = Rig::start().await;
    let asked = json!({ "stream": true });
    let id = rig.hang_up("up/slow", &asked, 3).await;
    let row = rig.row_of(&id, Duration::from_secs(10)).await;
    assert_eq!((&row["estimate"], &row["tokens_out"]), (&Value::Null, &json!(7)), "drained to the true figure");
    let practice = rig.hang_up("practice/practice-1", &asked, 1).await;
    assert_eq!(rig.row_of(&practice, Duration::from_secs(3)).await["estimate"], Value::Null);
    let id = rig.hang_up("up/endless", &asked, 3).await;
    let row = rig.row_of(&id, Duration::from_secs(15)).await;
    assert_eq!(row["estimate"], "hung_up");
    assert!(row["tokens_out"].as_i64().unwrap() >= 3);
}

#[tokio::test]
async fn a_cap_or_a_missing_plan_is_said_as_a_message_and_mended_within_a_second() {
    let rig = Rig::start().await;
    assert!(rig.chat("up/ok", json!({})).await.text.contains("word3"));
    rig.database.execute("update molt.users set cap_nanos = 0").await;
    rig.chat_until("up/ok", "this month's spending limit of $0.00 is reached").await;
    for extra in [json!({}), json!({ "stream": true, "stream_options": { "include_usage": true } })] {
        let answer = rig.chat("up/ok", extra).await;
        assert_eq!((answer.status, answer.request_id, answer.unmetered), (200, None, true));
        assert!(answer.text.contains("https://molt.example/app/usage"), "{}", answer.text);
        assert!(answer.text.contains("\"stop\""));
    }
    let embeddings = Call::post("/v1/embeddings", json!({ "model": "up/embed", "input": "a" }));
    let answer = rig.call(embeddings).await;
    assert_eq!((answer.status, answer.retry_after), (429, Some(60)));
    rig.database
        .execute("update molt.users set cap_nanos = null; update molt.billing set subscription_status = 'canceled'")
        .await;
    rig.chat_until("up/ok", "https://molt.example/app/bots/molt-").await;
    rig.database.execute("update molt.billing set subscription_status = 'past_due'").await;
    rig.chat_until("up/ok", "word3").await;
    // What was spent counts: it is more than the key may spend at all.
    rig.database.execute("update molt.ghost_keys set cap_nanos = 1").await;
    rig.chat_until("up/ok", "this key's own spending limit of $0.000000001 is reached").await;
    // Some is left, but not enough for even a short answer.
    rig.rows_after_settling(i64::try_from(rig.upstream.requests().len()).unwrap()).await;
    rig.database
        .execute(
            "update molt.ghost_keys set cap_nanos = null;
             update molt.bots set cap_nanos = (select sum(cost_nanos) + 2000000 from molt.usage_logs)",
        )
        .await;
    rig.chat_until("up/ok", "what is left of my own spending limit for this month of $").await;
    let sent = i64::try_from(rig.upstream.requests().len()).unwrap();
    assert_eq!(rig.rows_after_settling(sent).await, sent, "what was answered here was sent nowhere");
}

#[tokio::test]
async fn wrong_calls_are_refused_in_openais_shape() {
    let rig = Rig::start().await;
    let chat = |body: Value| Call::post("/v1/chat/completions", body);
    let fine = json!({ "model": "up/ok", "messages": [] });
    for (call, status, code) in [
        (chat(fine.clone()).key(""), 401, "invalid_api_key"),
        (chat(fine.clone()).key("mgk_unknown"), 401, "invalid_api_key"),
        (chat(json!({ "messages": [] })), 400, "model_missing"),
        (chat(json!({ "model": "up/none" })), 404, "model_not_found"),
        (chat(json!({ "model": "http://evil.example/" })), 404, "model_not_found"),
        (chat(json!({ "model": "up/embed" })), 400, "model_for_embeddings"),
        (Call::post("/v1/embeddings", fine.clone()), 400, "model_for_chat"),
        (chat(json!({ "model": "practice/practice-1" })), 400, "messages_missing"),
        (Call::post("/v1/embeddings", json!({ "model": "practice/practice-embed" })), 400, "input_invalid"),
        (chat(json!("x".repeat(26 * 1024 * 1024))), 413, "body_too_large"),
        (Call::get("/v1/models").key("nope"), 401, "invalid_api_key"),
    ] {
        let answer = rig.call(call).await;
        let body: Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!((answer.status, body["error"]["code"].as_str()), (status, Some(code)), "{body}");
        assert!(
            body["error"]["message"].as_str().is_some_and(|text| text.len() > 10) && body["error"]["type"].is_string()
        );
    }
    rig.database.execute("update molt.ghost_keys set revoked_at = now()").await;
    rig.refused_within_a_second(&rig.key).await;
    let key = rig.rotate().await;
    let models = rig.call(Call::get("/v1/models").key(&key)).await;
    let models: Value = serde_json::from_str(&models.text).unwrap();
    assert_eq!((&models["object"], &models["data"][0]["owned_by"]), (&json!("list"), &json!("up")));
    let second = rig.rotate().await;
    rig.refused_within_a_second(&key).await;
    assert_eq!(rig.call(Call::get("/v1/models").key(&second)).await.status, 200);
    assert_eq!((rig.rows().await, rig.upstream.requests().len()), (0, 0));
}

#[tokio::test]
async fn the_books_catch_up_after_trouble_in_the_database() {
    let rig = Rig::start().await;
    rig.chat("up/ok", json!({})).await;
    assert_eq!(rig.rows_after_settling(1).await, 1);
    rig.database.execute("alter table molt.events rename to events_away").await;
    for _ in 0..5 {
        assert_eq!(rig.chat("up/ok", json!({ "stream": true })).await.status, 200);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.rows().await, 1, "a row never comes without its event");
    rig.database
        .execute(
            "alter table molt.events_away rename to events;
             select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await;
    assert_eq!(rig.rows_after_settling(6).await, 6);
    let told = "select sum(coalesce((body->>'calls')::bigint, 1)) from molt.events where kind = 'usage'";
    assert_eq!(rig.count(told).await, 6);
    let until = Instant::now() + Duration::from_secs(5);
    while !rig::journal_is_empty(&rig.folder) {
        assert!(Instant::now() < until, "what is in the books leaves the journal");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_practice_model_speaks_the_wire_protocol_and_counts_honestly() {
    let rig = Rig::start().await;
    let body = json!({ "model": "practice/practice-1", "stream": true, "stream_options": { "include_usage": true },
        "max_completion_tokens": 500, "messages": [{ "role": "user", "content": "What is 6 * 7?" }] });
    let answer = rig.call(Call::post("/v1/chat/completions", body.clone())).await;
    let pieces: Vec<Value> = answer
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
        .map(|rest| serde_json::from_str(&format!("{{{rest}")).unwrap())
        .collect();
    let text: String = pieces.iter().filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str()).collect();
    assert!(text.contains("**42**") && text.to_lowercase().contains("practice model"), "{text}");
    assert!(pieces.len() > 6 && answer.text.ends_with("data: [DONE]\n\n"));
    assert!(pieces.iter().all(|piece| piece["model"] == "practice/practice-1"), "the name that was asked for");
    let usage = &pieces.last().unwrap()["usage"];
    let sent = body.to_string().replace("practice/practice-1", "practice-1");
    assert_eq!(usage["prompt_tokens"], sent.len().div_ceil(4));
    assert_eq!(usage["completion_tokens"], text.len().div_ceil(4));
    let row = rig.row(&answer).await;
    assert_eq!((&row["tokens_in"], &row["tokens_out"]), (&usage["prompt_tokens"], &usage["completion_tokens"]));
    let embed = json!({ "model": "practice/practice-embed", "input": ["trains", "I like trains"] });
    let answer = rig.call(Call::post("/v1/embeddings", embed)).await;
    let list: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(list["data"][1]["embedding"].as_array().map(Vec::len), Some(256));
}

#[tokio::test]
async fn one_journal_has_one_writer() {
    let rig = Rig::start().await;
    let taken =
        molt_ghost::Ghost::start(rig.config(&Upstream::start().await), rig.database.store.clone(), rig::clock());
    assert!(matches!(taken, Err(molt_ghost::StartError::JournalTaken(_))));
}
