//! The product's main story, from sign-up to the bill and the end, by HTTP and one WebSocket alone.
//! Never: a step that a person could not take.

use serde_json::{Value, json};

use crate::stack::chat::assert_in_order;
use crate::stack::http::Ask;
use crate::stack::people::Person;
use crate::stack::{Stack, has_no_folders, processes};

/// Slow enough that a person, or a test, can press Stop while the answer is being written.
const READABLE_PACE: &str = "practice_pace_ms = 30";

#[tokio::test]
async fn from_sign_up_to_the_bill_and_the_end() {
    let stack = Stack::start_with(READABLE_PACE).await;
    let client = stack.http.try_get("/api/client-config").await.expect("an answer").ok();
    assert_eq!([&client["identity"], &client["payments"], &client["signup"]], ["local", "local", "open"]);

    let person = stack.signup("Ada").await;
    let bot = wizard_and_plan(&stack, &person).await;
    remembers_in_another_conversation(&stack, &person, &bot).await;
    stops_when_told_to(&stack, &person, &bot).await;
    the_bill_is_exact(&stack, &person).await;
    settings_change_and_a_restart(&stack, &person, &bot).await;
    nothing_is_left_of_it(&stack, &person, &bot).await;
    stack.finish().await;
}

/// Before the plan nothing runs; after it the bot comes up, step by step, each told in a sentence.
async fn wizard_and_plan(stack: &Stack, person: &Person) -> String {
    let bot = stack.wizard(person, "Pip").await;
    let seen = stack.bot(person, &bot).await;
    assert_eq!([&seen["status"], &seen["phase"]], ["provisioning", "awaiting_plan"]);
    assert_eq!(stack.cells(), Vec::new(), "nothing runs before there is a plan");

    stack.accept_plan(person, &bot).await;
    stack.wait_running(person, &bot).await;
    let seen = stack.bot(person, &bot).await;
    assert_eq!([&seen["bot_name"], &seen["vertical"], &seen["status"]], ["Pip", "developer", "running"]);
    assert_eq!(seen["settings"]["timezone"], "Europe/Berlin");
    let steps = seen["steps"].as_array().expect("a timeline");
    assert!(steps.len() >= 2, "{seen:#}");
    for step in steps {
        let text = |name: &str| step[name].as_str().unwrap_or_default();
        assert!(text("sentence").contains(' '), "a sentence for people: {step}");
        assert!(text("started_at") < text("deadline_at") && text("started_at") <= text("ended_at"), "{step}");
    }
    assert_eq!([stack.cells().len(), stack.runtimes().len()], [1, 1]);
    bot
}

/// A turn with a tool call that really writes a file, and a new conversation that gets it back.
async fn remembers_in_another_conversation(stack: &Stack, person: &Person, bot: &str) {
    let mut chat = stack.chat(person, bot).await;
    let told = chat.turn("m-1", "main", "Keep in mind that my bicycle is called Rosinante.").await;
    assert_eq!(told.end(), "finished");
    assert!(!told.of("tool_call").is_empty(), "{told:#?}");
    assert!(told.of("tool_result").last().is_some_and(|result| result["success"] == true), "{told:#?}");
    assert!(told.of("memory_access").iter().any(|access| access["action"] == "write"), "{told:#?}");
    assert!(!told.answer().is_empty());
    let deltas = told.frames.iter().filter(|frame| frame["type"] == "message" && frame["done"] == false).count();
    assert!(deltas > 3, "the answer streams");
    let usage = told.of("usage");
    assert!(!usage.is_empty() && usage.iter().all(|usage| usage["tokens_in"].as_i64() > Some(0)), "{usage:?}");
    assert_eq!(told.frames.last().expect("frames")["type"], "run", "nothing comes after a run's end");
    assert!(stack.files_say(bot, "Rosinante"), "the memory file is really written");

    let made = stack.http.post(&format!("/api/bots/{bot}/conversations"), person, &json!({"title": "Later"})).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let conversation = made.json["id"].as_str().expect("an id");
    let asked = chat.turn("m-2", conversation, "What is my bicycle called?").await;
    assert_eq!(asked.end(), "finished");
    assert!(asked.answer().contains("Rosinante"), "{asked:#?}");
    assert!(asked.frames.iter().all(|frame| frame["conversation"] == conversation));
    assert_in_order(&chat.frames);

    let mut again = stack.chat(person, bot).await;
    let replayed = again.resume(0).await;
    assert_in_order(&replayed);
    let finished: Vec<&Value> = chat.frames.iter().filter(|frame| frame["seq"].is_i64()).collect();
    let missing: Vec<_> = finished.into_iter().filter(|frame| !replayed.contains(frame)).collect();
    assert!(missing.is_empty(), "a client that was away gets the same frames: {missing:#?}");
    let paged = again.history(conversation).await;
    assert_eq!(paged, asked.frames.iter().filter(|f| f["seq"].is_i64()).cloned().collect::<Vec<_>>());
}

async fn stops_when_told_to(stack: &Stack, person: &Person, bot: &str) {
    let mut chat = stack.chat(person, bot).await;
    let run_id = chat.send("m-3", "main", "Please explain at length what you can do for me.").await;
    chat.until("the first words", |frame| frame["run_id"] == run_id && frame["done"] == false).await;
    chat.say(json!({"type": "abort", "run_id": run_id})).await;
    let turn = chat.end_of(&run_id).await;
    assert_eq!(turn.end(), "aborted");
    let next = chat.turn("m-4", "main", "Thanks. What is 3 plus 4?").await;
    assert_eq!(next.end(), "finished", "the conversation goes on after a stop");
}

/// Every call at its price, rounded down once per call, and nothing else on the bill.
async fn the_bill_is_exact(stack: &Stack, person: &Person) {
    let shown = stack.http.get("/api/billing/usage", person).await.ok();
    let models = stack.http.get("/api/models", person).await.ok();
    assert!(models["items"].as_array().is_some_and(|items| !items.is_empty()), "{models}");
    // $0.20 and $0.80 per million tokens for the practice model, $0.02 for its embeddings, as molt.default.toml has it
    let exact = "select coalesce(sum(case model when 'practice/practice-1' \
        then (tokens_in * 200000000 + tokens_out * 800000000) * 12 / 10000000 \
        else tokens_in * 20000000 * 12 / 10000000 end), 0)::bigint from molt.usage_logs";
    let nanos = stack.database.count(exact).await;
    assert!(nanos > 0);
    assert_eq!(shown["usage_usd"].as_str().map(nanos_of), Some(nanos), "{shown}");
    for (name, column) in [("tokens_in", "tokens_in"), ("tokens_out", "tokens_out")] {
        let sum = stack.database.count(&format!("select sum({column}) from molt.usage_logs")).await;
        assert_eq!(shown[name].as_i64(), Some(sum));
    }
    let frames = "select count(*) from molt.events where body->>'type' = 'usage' and kind = 'chat'";
    let of_runs = "select count(*) from molt.usage_logs where run_id is not null and surface like 'chat%'";
    assert_eq!(stack.database.count(frames).await, stack.database.count(of_runs).await, "one frame a call");
    assert_eq!(shown["base_usd"].as_str().map(nanos_of), Some(50_000_000_000));
    let total = shown["total_usd"].as_str().map(nanos_of);
    assert_eq!(total, Some(50_000_000_000 + nanos));
    let lower = stack.http.send(Ask::new("put", "/api/billing/cap").by(person).json(&json!({"cap_usd": "7.50"}))).await;
    lower.ok();
    let shown = stack.http.get("/api/billing/usage", person).await.ok();
    assert_eq!(shown["cap_usd"].as_str().map(nanos_of), Some(7_500_000_000));
}

async fn settings_change_and_a_restart(stack: &Stack, person: &Person, bot: &str) {
    let before = stack.bot(person, bot).await;
    let (path, revision) = (format!("/api/bots/{bot}/config"), before["revision"].as_i64().expect("a number"));
    let mut settings = before["settings"].clone();
    settings["bot_name"] = json!("Pippa");
    settings["personality"] = json!("concise");
    let change =
        |revision: i64| Ask::new("post", &path).by(person).json(&settings).header("if-match", &revision.to_string());
    let mut unmarked = change(revision);
    unmarked.headers.remove("if-match");
    stack.http.send(unmarked).await.refused(428, "revision_required");
    let taken = stack.http.send(change(revision)).await;
    assert_eq!((taken.status, taken.json["revision"].as_i64()), (202, Some(revision + 1)), "{}", taken.text);
    stack.http.send(change(revision)).await.refused(412, "revision_stale");
    stack
        .eventually("the settings are applied", async || {
            let seen = stack.bot(person, bot).await;
            (seen["applied_revision"] == seen["revision"] && seen["settings"]["bot_name"] == "Pippa").then_some(())
        })
        .await;

    let runtimes = stack.runtimes();
    let restarted = stack.http.post(&format!("/api/bots/{bot}/restart"), person, &Value::Null).await;
    assert!((200..300).contains(&restarted.status), "{}", restarted.text);
    stack
        .eventually("another runtime runs", async || {
            let now = stack.runtimes();
            (now.len() == 1 && now != runtimes && stack.bot(person, bot).await["status"] == "running").then_some(())
        })
        .await;
    let mut chat = stack.chat(person, bot).await;
    let turn = chat.turn("m-5", "main", "Do you recall the name of my bicycle?").await;
    assert_eq!(turn.end(), "finished");
    assert!(turn.answer().contains("Rosinante"), "memory outlives a restart: {turn:#?}");
}

async fn nothing_is_left_of_it(stack: &Stack, person: &Person, bot: &str) {
    let gone = stack.http.delete(&format!("/api/bots/{bot}"), person).await;
    assert!((200..300).contains(&gone.status), "{}", gone.text);
    stack
        .eventually("the bot is gone", async || {
            (stack.http.get(&format!("/api/bots/{bot}"), person).await.status == 404).then_some(())
        })
        .await;
    let bots = stack.data().join("bots");
    stack
        .eventually("no process and no folder is left", async || {
            let idle = stack.cells().is_empty() && stack.runtimes().is_empty();
            (idle && has_no_folders(&bots)).then_some(())
        })
        .await;
    let left = processes::below(&stack.data());
    assert_eq!(left.len(), 1, "only molt itself runs: {left:?}");
    let usage = stack.http.get("/api/billing/usage", person).await.ok();
    assert!(usage["tokens_in"].as_i64() > Some(0), "the books stay");
}

/// A decimal amount in dollars as nano-dollars, without a detour through floating point.
pub(crate) fn nanos_of(usd: &str) -> i64 {
    let (whole, part) = usd.split_once('.').unwrap_or((usd, ""));
    let part: i64 = format!("{part:0<9}").parse().expect("at most nine decimals");
    whole.parse::<i64>().expect("whole dollars") * 1_000_000_000 + part
}
