//! Kill -9 of molt, of the cell and of the runtime, at several moments of provisioning and of a chat turn: one runtime, no
//! message lost or doubled, one end for every run, every call in the books once.
//! Never: a sleep where a frame says that the moment has come. Few rounds in every test run, many under MOLT_PROVE.

use std::time::Duration;

use serde_json::Value;

use crate::stack::chat::{assert_in_order, ends_a_run};
use crate::stack::people::Person;
use crate::stack::upstream::{NOTE, Upstream};
use crate::stack::{LOOK_AGAIN, PATIENCE, Stack};

/// A word takes this long, so that a turn has a middle.
const PACE: Duration = Duration::from_millis(8);
/// Rounds of the whole proof for each victim.
const ROUNDS_WHOLE: usize = 60;
/// What dies again and again is started again ever more slowly, rightly; this stays below.
const ROUNDS_PER_BOT: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Victim {
    Molt,
    Cell,
    Runtime,
}

/// When the plug is pulled.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The server has just said that it has the message.
    Acknowledged,
    /// A tool is being called.
    Tool,
    /// The first words of an answer are there.
    FirstWords,
    /// So many milliseconds after the acknowledgement.
    Later(u64),
}

const MOMENTS: [Moment; 6] =
    [Moment::Acknowledged, Moment::FirstWords, Moment::Tool, Moment::Later(3), Moment::Later(60), Moment::Later(170)];

/// How many rounds: a handful, or `whole` of them where somebody wants proof.
fn rounds(few: usize, whole: usize) -> usize {
    if std::env::var_os("MOLT_PROVE").is_some() { whole } else { few }
}

#[tokio::test]
async fn molt_dies_in_the_middle_of_a_turn() {
    turns(Victim::Molt, rounds(4, ROUNDS_WHOLE)).await;
}

#[tokio::test]
async fn the_cell_dies_in_the_middle_of_a_turn() {
    turns(Victim::Cell, rounds(4, ROUNDS_WHOLE)).await;
}

#[tokio::test]
async fn the_runtime_dies_in_the_middle_of_a_turn() {
    turns(Victim::Runtime, rounds(4, ROUNDS_WHOLE)).await;
}

#[tokio::test]
async fn anything_dies_while_a_bot_is_being_provisioned() {
    for round in 0..rounds(6, ROUNDS_WHOLE) {
        let victim = [Victim::Molt, Victim::Cell, Victim::Runtime][round % 3];
        provisioning(victim, spread(round, 400)).await;
    }
}

#[tokio::test]
async fn molt_dies_while_a_bot_is_restarted_and_removed() {
    for round in 0..rounds(3, ROUNDS_WHOLE) {
        let mut stack = Stack::start().await;
        let (person, bot) = stack.with_bot("Ada").await;
        let folder = stack.data().join("bots").join(&bot);
        let mark = folder.join("state").join("mark");
        std::fs::write(&mark, "kept").expect("the bot's folder is there");
        let restarted = stack.http.post(&format!("/api/bots/{bot}/restart"), &person, &Value::Null).await;
        assert!((200..300).contains(&restarted.status), "{}", restarted.text);
        tokio::time::sleep(Duration::from_millis(spread(round, 300))).await;
        strike(&mut stack, Victim::Molt).await;
        settled(&stack, &person, &bot).await;
        assert!(mark.exists(), "its state is the same one");

        let removed = stack.http.delete(&format!("/api/bots/{bot}"), &person).await;
        assert!((200..300).contains(&removed.status), "{}", removed.text);
        tokio::time::sleep(Duration::from_millis(spread(round + 1, 200))).await;
        strike(&mut stack, Victim::Molt).await;
        stack
            .eventually("nothing is left of it", async || {
                let rows = stack.database.count("select count(*) from molt.bots").await;
                let gone = rows == 0 && stack.cells().is_empty() && stack.runtimes().is_empty();
                (gone && !folder.exists()).then_some(())
            })
            .await;
        stack.finish().await;
    }
}

/// A number below `below` that is different every round and the same every time.
fn spread(round: usize, below: u64) -> u64 {
    let round = u64::try_from(round).expect("few rounds");
    (round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % below
}

async fn provisioning(victim: Victim, after_ms: u64) {
    let mut stack = Stack::start().await;
    let person = stack.signup("Ada").await;
    let bot = stack.wizard(&person, "Pip").await;
    stack.accept_plan(&person, &bot).await;
    tokio::time::sleep(Duration::from_millis(after_ms)).await;
    strike(&mut stack, victim).await;
    settled(&stack, &person, &bot).await;
    let mut chat = stack.chat(&person, &bot).await;
    assert_eq!(chat.turn("m-1", "main", "Good morning!").await.end(), "finished");
    let mails = "select count(*) from molt.outbox where template like '%ready%'";
    assert_eq!(stack.database.count(mails).await, 1, "told once that it is ready ({victim:?} after {after_ms} ms)");
    stack.finish().await;
}

/// Pulls the plug; a dead platform is started again, everything else has to come back by itself.
async fn strike(stack: &mut Stack, victim: Victim) {
    match victim {
        Victim::Molt => {
            stack.kill();
            stack.launch().await;
        }
        Victim::Cell => stack.cells().iter().for_each(|cell| cell.kill()),
        Victim::Runtime => stack.runtimes().iter().for_each(|runtime| runtime.kill()),
    }
}

/// The bot runs, with exactly one cell and one runtime.
async fn settled(stack: &Stack, person: &Person, bot: &str) {
    stack.wait_running(person, bot).await;
    stack
        .eventually("one cell and one runtime", async || {
            let alone = stack.cells().len() == 1 && stack.runtimes().len() == 1;
            (alone && stack.bot(person, bot).await["status"] == "running").then_some(())
        })
        .await;
}

async fn turns(victim: Victim, rounds: usize) {
    for first in (0..rounds).step_by(ROUNDS_PER_BOT) {
        turns_of_a_bot(victim, first).await;
    }
}

async fn turns_of_a_bot(victim: Victim, first: usize) {
    let upstream = Upstream::start(PACE).await;
    let mut stack = Stack::start_with(&upstream.settings()).await;
    let (person, bot) = stack.with_bot("Ada").await;
    let mut seen: Vec<Value> = Vec::new();
    for round in first..first + ROUNDS_PER_BOT {
        let moment = MOMENTS.get(round).copied().unwrap_or(Moment::Later(spread(round, 450)));
        println!("round {round}: {victim:?} at {moment:?}");
        let text = if round % 2 == 0 { "Go on.".to_owned() } else { format!("Please {NOTE} this down.") };
        let tool = matches!(moment, Moment::Tool).then(|| format!("Now {NOTE} it down."));
        let run_id = one_turn(&mut stack, &person, &bot, victim, moment, round, &tool.unwrap_or(text), &mut seen).await;
        ended_once(&stack, &run_id).await;
        settled(&stack, &person, &bot).await;
    }
    nothing_lost_or_doubled(&stack, &person, &bot, &seen, ROUNDS_PER_BOT).await;
    books_are_whole(&stack, &upstream).await;
    stack.finish().await;
}

/// One message whose turn is struck; `seen` is what a client that comes back has seen in all.
#[expect(clippy::too_many_arguments, reason = "a round is described by all of these, and by nothing less")]
async fn one_turn(
    stack: &mut Stack,
    person: &Person,
    bot: &str,
    victim: Victim,
    moment: Moment,
    round: usize,
    text: &str,
    seen: &mut Vec<Value>,
) -> String {
    let mut chat = stack.chat(person, bot).await;
    let id = format!("m-{round}");
    let run_id = chat.send(&id, "main", text).await;
    let of_run = |frame: &Value| frame["run_id"] == run_id.as_str();
    match moment {
        Moment::Acknowledged => {}
        Moment::Tool => drop(chat.until("a tool call", |f| of_run(f) && f["type"] == "tool_call").await),
        Moment::FirstWords => drop(chat.until("a word", |f| of_run(f) && f["done"] == false).await),
        Moment::Later(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
    strike(stack, victim).await;
    seen.extend(chat.frames.iter().filter(|frame| frame["seq"].is_i64()).cloned());
    drop(chat);
    loop {
        let mut chat = stack.chat(person, bot).await;
        let after = seen.iter().filter_map(|frame| frame["seq"].as_i64()).max().unwrap_or_default();
        chat.try_say(serde_json::json!({"type": "resume", "after": after})).await;
        // the same message again, as a client does that never saw its ack
        chat.try_say(serde_json::json!({"type": "send", "id": id, "text": text})).await;
        let ended = |frame: &Value| of_run(frame) && ends_a_run(frame);
        while let Some(frame) = chat.next().await {
            if ended(&frame) {
                break;
            }
        }
        seen.extend(chat.frames.iter().filter(|frame| frame["seq"].is_i64()).cloned());
        if seen.iter().any(ended) {
            return run_id;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The run has one end, in the rows as well; one that failed says so and offers a retry.
async fn ended_once(stack: &Stack, run_id: &str) {
    let ends = format!(
        "select count(*) from molt.events where run_id = '{run_id}' and body->>'type' = 'run' \
         and body->>'phase' in ('finished', 'failed', 'aborted')"
    );
    assert_eq!(stack.database.count(&ends).await, 1, "a run ends exactly once");
    let failed = format!(
        "select body->'error' from molt.events where run_id = '{run_id}' and body->>'type' = 'run' and body->>'phase' = 'failed'"
    );
    if let Some(error) = stack.database.text(&failed).await {
        let error: Value = serde_json::from_str(&error).expect("JSON");
        assert!(error["retry"] == true && error["message"].as_str().is_some_and(|text| text.ends_with('.')), "{error}");
    }
    let state = format!("select state from molt.runs where id = '{run_id}'");
    let state = stack.database.text(&state).await.unwrap_or_default();
    assert!(["finished", "failed", "aborted"].contains(&state.as_str()), "the run is {state}");
}

/// What a client saw through all the breaks is what one sees that comes fresh, each thing once.
async fn nothing_lost_or_doubled(stack: &Stack, person: &Person, bot: &str, seen: &[Value], rounds: usize) {
    assert_in_order(seen);
    let mut fresh = stack.chat(person, bot).await;
    let whole = fresh.resume(0).await;
    assert_in_order(&whole);
    let whole: Vec<Value> = whole.into_iter().filter(|frame| frame["seq"].is_i64()).collect();
    assert_eq!(seen, whole, "the same frames, none lost, none twice");
    let of = |role: &str| whole.iter().filter(|f| f["type"] == "message" && f["role"] == role).count();
    assert_eq!(of("user"), rounds, "every message once");
    let count = async |sql: &str| stack.database.count(sql).await;
    assert_eq!(count("select count(*) from molt.runs").await, i64::try_from(rounds).expect("few"));
    assert_eq!(count("select count(*) from molt.runs where state in ('pending', 'accepted')").await, 0);
    let finished = whole.iter().filter(|frame| frame["type"] == "run" && frame["phase"] == "finished").count();
    assert!(of("assistant") >= finished, "every finished run has an answer");
    println!("{finished} of {rounds} turns finished, the others offer a retry");
}

/// One row for every call that reached the provider, and the provider's own figures wherever it reported them.
async fn books_are_whole(stack: &Stack, upstream: &Upstream) {
    let calls = upstream.calls();
    let expected = i64::try_from(calls.len()).expect("few");
    let rows = "select count(*) from molt.usage_logs where provider = 'mine'";
    let began = std::time::Instant::now();
    while stack.database.count(rows).await < expected && began.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    assert_eq!(stack.database.count(rows).await, expected, "one row a call");
    let exact = "select count(*) from molt.usage_logs where provider = 'mine' and estimate is null and tokens_in = ";
    for call in &calls {
        let known = stack.database.count(&format!("{exact}{}", call.tokens_in)).await;
        assert!(known <= 1, "{call:?} is in the books {known} times");
    }
    let estimates = "select count(*) from molt.usage_logs where provider = 'mine' and estimate is not null";
    let told = calls.iter().filter(|call| call.reported).count();
    println!("{expected} calls, {told} reported to the end, {} estimated", stack.database.count(estimates).await);
}
