//! From a person's message to the bot's answer, and what happens when something in between breaks.

use std::time::Duration;

use molt_bot::{Op, RunPhase, Text};
use molt_model::{ConversationId, RunId};
use serde_json::{Value, json};

use crate::cell::{Habits, message, run_event};
use crate::kit::{Stack, is_end_of, open, serve, state, wait_for};

fn kinds(frames: &[Value]) -> Vec<String> {
    let kind = |frame: &Value| match frame["type"].as_str().unwrap() {
        "run" => format!("run {}", frame["phase"].as_str().unwrap()),
        kind if frame["done"] == json!(false) => format!("{kind} piece"),
        kind => kind.to_owned(),
    };
    frames.iter().map(kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_and_the_same_message_again_is_nothing_new() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    let run = browser.send("m-1", "hello\0 there").await;
    let shown = browser.next().await.unwrap();
    assert_eq!(shown["type"], "message");
    assert_eq!(
        (&shown["role"], &shown["content"], &shown["done"]),
        (&json!("user"), &json!("hello\u{fffd} there"), &json!(true))
    );
    assert_eq!((&shown["id"], &shown["run_id"], &shown["seq"]), (&json!("m-1"), &json!(run), &json!(1)));
    assert_eq!(shown["conversation"], "main");
    assert!(shown["at"].is_string());
    wait_for("the cell has it", || async { stack.cell.state().runs.len() == 1 }).await;
    stack.until_true(&format!("select state = 'accepted' from molt.runs where id = '{run}'")).await;

    assert_eq!(browser.send("m-1", "hello again").await, run);
    stack.cell.answer(run, &ConversationId::main(), &["Hi ", "Ada."]);
    let frames = browser.until_end(run).await;
    assert_eq!(kinds(&frames), ["run started", "message piece", "message piece", "message", "run finished"]);
    assert_eq!(
        (&frames[1]["delta"], &frames[2]["delta"], &frames[3]["content"]),
        (&json!("Hi "), &json!("Ada."), &json!("Hi Ada."))
    );
    assert!(frames[1].get("seq").is_none() && frames[1]["message_id"] == frames[3]["message_id"]);
    assert_eq!(frames.iter().filter_map(|frame| frame["seq"].as_i64()).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(frames.iter().all(|frame| frame["run_id"] == json!(run) && frame["conversation"] == "main"));
    assert!(frames[4].get("provider_calls").is_none());

    // After the end too: the same id, the same run, and no second answer.
    assert_eq!(browser.send("m-1", "hello").await, run);
    let second = browser.send("m-2", "more").await;
    assert_ne!(second, run);
    wait_for("the cell has both", || async { stack.cell.state().runs.len() == 2 }).await;
    let sends = stack.cell.state().ops.iter().filter(|op| matches!(op, Op::Send { .. })).count();
    assert_eq!(sends, 2);
    stack
        .until_true(&format!("select state = 'finished' and ended_at is not null from molt.runs where id = '{run}'"))
        .await;
    stack.until_true("select title = 'hello� there' from molt.conversations where id = 'main'").await;
    assert!(stack.cell.state().acked > 0);
    stack.assert_rows_are_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_for_a_bot_that_is_not_there_and_keep_their_order() {
    let stack = Stack::start().await;
    stack.take_cell_away().await;
    let mut browser = stack.browser().await;
    let mut runs = Vec::new();
    for index in 0..5 {
        runs.push(browser.send(&format!("m-{index}"), &format!("text {index}")).await);
    }
    // Stopped before anybody took it: it ends at once.
    browser.tell(json!({"type": "abort", "run_id": runs[2]})).await;
    let frames = browser.until_end(runs[2]).await;
    assert_eq!(frames.last().unwrap()["phase"], "aborted");
    drop(browser);
    stack.give_cell().await;
    wait_for("the cell has the others", || async { stack.cell.state().runs.len() == 4 }).await;
    let taken: Vec<RunId> = stack.cell.state().runs.iter().map(|(run, ..)| *run).collect();
    assert_eq!(taken, [runs[0], runs[1], runs[3], runs[4]]);
    for run in &taken {
        stack.cell.answer(*run, &ConversationId::main(), &["ok"]);
    }
    stack.until_true("select count(*) = 4 from molt.runs where state = 'finished'").await;
    stack.assert_rows_are_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_bot_takes_no_message_and_says_why() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    let before = browser.send("m-1", "before").await;
    let now = chrono::Utc::now();
    let mut tx = stack.db.store.system().await.unwrap();
    tx.suspend_bot(&stack.bot, "Somebody complained.", now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    browser.tell(json!({"type": "send", "id": "m-2", "text": "hello?"})).await;
    let refused = browser.until(|frame| frame["type"] == "error").await.pop().unwrap();
    assert_eq!((&refused["code"], &refused["id"]), (&json!("bot_suspended"), &json!("m-2")));
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("suspended since") && message.contains("Somebody complained."), "{message}");
    assert_eq!(browser.send("m-1", "before").await, before, "what was taken before is taken");
    assert_eq!(stack.db.count("select count(*) from molt.runs").await, 1);
    let mut tx = stack.db.store.system().await.unwrap();
    tx.resume_for_operator(&stack.bot, now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    browser.send("m-2", "hello?").await;
    stack.assert_rows_are_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_delivered_after_a_restart_without_any_browser() {
    let stack = Stack::start().await;
    stack.cell.state().habits.mute = true;
    let run = stack.browser().await.send("m-1", "hello").await;
    wait_for("the cell has it", || async { stack.cell.state().runs.len() == 1 }).await;
    stack.state.relays.close();
    // The cell's word never arrived, and the process is gone. The next one says it again: one message, one run.
    stack.cell.cut();
    stack.cell.state().habits.mute = false;
    let second = state(&stack.db, &stack.clock).await;
    second.relays.start();
    stack.until_true(&format!("select state = 'accepted' from molt.runs where id = '{run}'")).await;
    assert_eq!(stack.cell.state().runs.len(), 1);
    stack.cell.answer(run, &ConversationId::main(), &["ok"]);
    stack.until_true(&format!("select state = 'finished' from molt.runs where id = '{run}'")).await;
    stack.assert_rows_are_sound().await;
    second.relays.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_stopped_and_what_it_says_afterwards_is_not_heard() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    let run = browser.send("m-1", "count to a million").await;
    wait_for("the cell has it", || async { stack.cell.state().runs.len() == 1 }).await;
    stack.until_true(&format!("select state = 'accepted' from molt.runs where id = '{run}'")).await;
    stack.cell.phase(run, RunPhase::Started);
    stack.cell.delta(run, "m1", "one ");
    browser.tell(json!({"type": "abort", "run_id": run})).await;
    let asked = |stack: &Stack| stack.cell.state().ops.iter().filter(|op| **op == Op::Abort { run_id: run }).count();
    wait_for("the cell is asked to stop", || async { asked(&stack) == 1 }).await;
    stack.cell.phase(run, RunPhase::Aborted);
    browser.until_end(run).await;
    stack.cell.done(run, "m1", "one two");
    stack.cell.phase(run, RunPhase::Finished);
    let next = browser.send("m-2", "and now?").await;
    let shown = browser.next().await.unwrap();
    assert_eq!((&shown["run_id"], &shown["role"]), (&json!(next), &json!("user")));
    stack.assert_rows_are_sound().await;
    browser.tell(json!({"type": "abort", "run_id": RunId::random(), "id": "x"})).await;
    assert_eq!(browser.next().await.unwrap()["code"], "unknown_run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_refuses_ends_the_run_and_a_busy_one_is_asked_again() {
    let stack = Stack::start().await;
    stack.cell.state().habits = Habits { refuses: Some("message_too_long"), ..Habits::default() };
    let mut browser = stack.browser().await;
    let run = browser.send("m-1", "hello").await;
    let frames = browser.until_end(run).await;
    let error = &frames.last().unwrap()["error"];
    assert_eq!((&error["code"], &error["retry"]), (&json!("message_too_long"), &json!(true)));
    stack.cell.state().habits.refuses = Some("busy");
    let run = browser.send("m-2", "hello").await;
    let asked = |stack: &Stack| stack.cell.state().ops.iter().filter(|op| matches!(op, Op::Send { .. })).count();
    // At least: a wake-up that was on its way makes it ask once more.
    wait_for("the cell was asked", || async { asked(&stack) >= 2 }).await;
    stack.cell.state().habits.refuses = None;
    // Any other message makes it look again.
    browser.send("m-3", "more").await;
    wait_for("the cell has both", || async { stack.cell.state().runs.len() == 2 }).await;
    assert_eq!(stack.cell.state().runs[0].0, run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_after_its_usage_and_other_conversations_do_not_wait() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    let run = browser.send("m-1", "hello").await;
    wait_for("the cell has it", || async { stack.cell.state().runs.len() == 1 }).await;
    let main = ConversationId::main();
    stack.cell.say(run, &main, run_event(RunPhase::Finished, Some(2)));
    let (_, made) =
        stack.ask(http::Method::POST, &format!("/api/bots/{}/conversations", stack.bot), Some(json!({}))).await;
    let other: ConversationId = made["id"].as_str().unwrap().parse().unwrap();
    browser.tell(json!({"type": "send", "id": "m-2", "text": "there?", "conversation": other})).await;
    let acked = browser.until(|frame| frame["type"] == "ack").await;
    let second: RunId = acked.last().unwrap()["run_id"].as_str().unwrap().parse().unwrap();
    wait_for("the cell has both", || async { stack.cell.state().runs.len() == 2 }).await;
    stack.cell.answer(second, &other, &["yes"]);
    let frames = browser.until_end(second).await;
    assert!(!frames.iter().any(|frame| is_end_of(frame, run)), "the first run ended before its usage was known");
    // Its acknowledgement waits as well: a crash now would lose nothing.
    let ending = stack.cell.state().journal[0].cell_seq.unwrap();
    assert!(stack.cell.state().acked < ending);

    usage(&stack, run, 1).await;
    assert_eq!(browser.next().await.unwrap()["type"], "usage");
    assert!(browser.next_within(Duration::from_millis(300)).await.is_none());
    usage(&stack, run, 2).await;
    let frames = browser.until_end(run).await;
    assert_eq!(kinds(&frames), ["usage", "run finished"]);
    assert_eq!(
        (&frames[0]["tokens_in"], &frames[0]["run_id"], &frames[0]["conversation"]),
        (&json!(10), &json!(run), &json!("main"))
    );
    let newest = stack.cell.state().journal.last().and_then(|frame| frame.cell_seq).unwrap();
    wait_for("all is acknowledged", || async { stack.cell.state().acked >= newest }).await;

    // A call that never reaches the books holds up the end for three seconds, no longer.
    let third = browser.send("m-3", "bye").await;
    wait_for("the cell has it", || async { stack.cell.state().runs.len() == 3 }).await;
    stack.cell.say(third, &main, run_event(RunPhase::Finished, Some(1)));
    let started = std::time::Instant::now();
    browser.until_end(third).await;
    assert!((2800..4500).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    stack.assert_rows_are_sound().await;
}

/// What the proxy writes for one call.
async fn usage(stack: &Stack, run: RunId, index: u32) {
    let (bot, user) = (&stack.bot, stack.ada.user);
    let sql = format!(
        "insert into molt.price_books (version, prices) values ('test', '{{}}') on conflict do nothing;
         insert into molt.usage_logs (id, user_id, book_key, bot_id, run_id, provider, model, surface, tokens_in, tokens_out,
           cost_nanos, price_version, duration_ms, at)
         values (gen_random_uuid(), '{user}', gen_random_uuid(), '{bot}', '{run}', 'practice', 'practice/practice-1', 'chat', 10, 5,
           1, 'test', 7, now());
         with s as (update molt.bots set chat_seq = chat_seq + 1 where id = '{bot}' returning chat_seq),
              e as (update molt.users set event_id = event_id + 1 where id = '{user}' returning event_id)
         insert into molt.events (user_id, id, kind, bot_id, seq, conversation, run_id, body, at)
         select '{user}', e.event_id, 'chat', '{bot}', s.chat_seq, 'main', '{run}',
           '{{\"type\": \"usage\", \"tokens_in\": 10, \"index\": {index}}}', now() from s, e;
         select pg_notify('molt', 'chat {bot}')"
    );
    stack.db.execute(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_relay_one_bot_without_doubling_anything() {
    let stack = Stack::start().await;
    let second = state(&stack.db, &stack.clock).await;
    let address = serve(&second).await;
    let mut here = stack.browser().await;
    let bearer = format!("Bearer {}", stack.ada.token);
    let mut there = open(address, &stack.bot, "", &[("authorization", bearer.as_str())]).await.unwrap();
    there.tell(json!({"type": "resume", "after": 0})).await;
    here.tell(json!({"type": "resume", "after": 0})).await;
    wait_for("both are connected", || async { stack.cell.state().hellos.len() >= 2 }).await;
    for index in 0..10 {
        let run =
            if index % 2 == 0 { here.send("x", "y").await } else { there.send(&format!("m-{index}"), "hi").await };
        wait_for("the cell has it", || async { stack.cell.state().runs.iter().any(|(known, ..)| *known == run) }).await;
        if index % 2 == 1 {
            stack.cell.answer(run, &ConversationId::main(), &["a", "b", "c"]);
            let (one, two) = (here.until_end(run).await, there.until_end(run).await);
            let seqs = |frames: &[Value]| frames.iter().filter_map(|frame| frame["seq"].as_i64()).collect::<Vec<_>>();
            assert!(seqs(&one).is_sorted_by(|a, b| a < b) && seqs(&two).is_sorted_by(|a, b| a < b));
            let text = |frames: &[Value]| frames.iter().filter_map(|frame| frame["delta"].as_str()).collect::<String>();
            // A process that stored first may be ahead of the other's pieces, never the other way round.
            assert!("abc".starts_with(&text(&one)) && "abc".starts_with(&text(&two)));
        }
    }
    assert_eq!(stack.cell.state().runs.len(), 6);
    stack.assert_rows_are_sound().await;
    second.relays.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_any_moment_loses_and_doubles_nothing() {
    let stack = Stack::start().await;
    stack.cell.state().habits.replays_everything = true;
    let mut expected = Vec::new();
    for round in 0..12u64 {
        let run = stack.write_message(&format!("m-{round}"), "go").await;
        let process = Process::start(&stack).await;
        wait_for("the cell has it", || async { stack.cell.state().runs.iter().any(|(known, ..)| *known == run) }).await;
        for piece in 0..20 {
            stack.cell.done(run, &format!("m{piece}"), &format!("text {piece} of {round}"));
            expected.push((run, format!("text {piece} of {round}")));
            if piece == round {
                process.kill();
            }
            tokio::task::yield_now().await;
        }
        stack.cell.phase(run, RunPhase::Finished);
        process.kill();
        stack.cell.cut();
    }
    let last = Process::start(&stack).await;
    stack.until_true("select count(*) = 12 from molt.runs where state = 'finished'").await;
    let stored = "select string_agg(run_id || ' ' || (body ->> 'content'), '|' order by seq) from molt.events
                  where body ->> 'role' = 'assistant'";
    let expected: Vec<String> = expected.iter().map(|(run, text)| format!("{run} {text}")).collect();
    assert_eq!(stack.db.text(stored).await.unwrap().split('|').collect::<Vec<_>>(), expected);
    stack.assert_rows_are_sound().await;
    last.kill();
}

/// Relays in a runtime of their own that can be torn down at any moment, as a kill does.
struct Process(std::sync::Mutex<Option<tokio::runtime::Runtime>>);

impl Process {
    async fn start(stack: &Stack) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (url, seal) = (stack.db.url.clone(), stack.db.seal.clone());
        let clock = std::sync::Arc::new(stack.clock.clone());
        let started = runtime.spawn(async move {
            let store = molt_store::Store::connect(&url, seal).await.unwrap();
            molt_api::Relays::new(store, clock).start();
        });
        started.await.unwrap();
        Self(std::sync::Mutex::new(Some(runtime)))
    }

    fn kill(&self) {
        if let Some(runtime) = self.0.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cells_open_text_is_replaced_not_repeated_when_the_cell_connects_again() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    let run = browser.send("m-1", "hello").await;
    wait_for("the cell has it", || async { stack.cell.state().runs.len() == 1 }).await;
    stack.cell.delta(run, "m1", "one ");
    browser.until(|frame| frame["delta"] == "one ").await;
    stack.cell.cut();
    stack.cell.delta(run, "m1", "two ");
    let frames = browser.until(|frame| frame["done"] == json!(false)).await;
    assert_eq!(frames.last().unwrap()["content"], "one two ");
    stack.cell.say(run, &ConversationId::main(), message("m1", Text::Delta("three".into())));
    assert_eq!(browser.next().await.unwrap()["delta"], "three");
    stack.cell.done(run, "m1", "one two three");
    stack.cell.phase(run, RunPhase::Failed);
    let frames = browser.until_end(run).await;
    assert_eq!(kinds(&frames), ["message", "run failed"]);
    assert_eq!(frames[1]["error"]["retry"], true);
}
