//! Coming back: what was missed comes in order, an open text comes whole, nothing comes twice.

use std::collections::BTreeMap;
use std::time::Duration;

use molt_bot::RunPhase;
use molt_model::{ConversationId, RunId};
use serde_json::{Value, json};

use crate::kit::{Browser, Stack, wait_for};

fn seqs(frames: &[Value]) -> Vec<i64> {
    frames.iter().filter_map(|frame| frame["seq"].as_i64()).collect()
}

async fn taken(stack: &Stack, run: RunId) {
    wait_for("the cell has it", || async { stack.cell.state().runs.iter().any(|(known, ..)| *known == run) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_comes_in_order_and_an_open_text_comes_whole() {
    let stack = Stack::start().await;
    let mut first = stack.browser().await;
    let run = first.send("m-1", "hello").await;
    taken(&stack, run).await;
    stack.cell.phase(run, RunPhase::Started);
    stack.cell.done(run, "m1", "first part");
    stack.cell.delta(run, "m2", "half a ");
    first.until(|frame| frame["delta"] == "half a ").await;
    drop(first);
    stack.cell.delta(run, "m2", "sen");

    let mut second = stack.browser().await;
    second.tell(json!({"type": "resume", "after": 1})).await;
    let frames = second.until(|frame| frame["content"].as_str().is_some_and(|text| text.starts_with("half"))).await;
    assert_eq!(seqs(&frames), [2, 3]);
    assert_eq!(frames.last().unwrap()["done"], false);
    let so_far = frames.last().unwrap()["content"].as_str().unwrap().to_owned();
    stack.cell.delta(run, "m2", "tence");
    let rest = second.until(|frame| frame["delta"].as_str().is_some_and(|text| text.ends_with("tence"))).await;
    let rest: String = rest.iter().filter_map(|frame| frame["delta"].as_str()).collect();
    assert_eq!(so_far + &rest, "half a sentence");

    // Again on the same socket: what went out doesn't go out twice, what is open comes once more.
    second.tell(json!({"type": "resume", "after": 0})).await;
    let frames = second.until(|frame| frame["done"] == json!(false)).await;
    assert_eq!(seqs(&frames), [1]);
    stack.cell.done(run, "m2", "half a sentence");
    stack.cell.phase(run, RunPhase::Finished);
    assert_eq!(seqs(&second.until_end(run).await), [4, 5]);

    // A position from the future (a restored database): live from now on.
    let mut third = stack.browser().await;
    third.tell(json!({"type": "resume", "after": 999_999})).await;
    let next = third.send("m-2", "more").await;
    assert_eq!(third.next().await.unwrap()["seq"], 6);
    taken(&stack, next).await;

    // Without a resume nothing is replayed, and what happens from now on comes by itself.
    let mut fourth = stack.browser().await;
    stack.cell.answer(next, &ConversationId::main(), &["ok"]);
    assert_eq!(seqs(&fourth.until_end(next).await), [7, 8, 9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_pages_backwards() {
    let stack = Stack::start().await;
    let mut browser = stack.browser().await;
    for index in 0..6 {
        let run = browser.send(&format!("m-{index}"), &format!("question {index}")).await;
        taken(&stack, run).await;
        stack.cell.answer(run, &ConversationId::main(), &["answer"]);
        browser.until_end(run).await;
    }
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        browser.tell(json!({"type": "history", "limit": 10, "before": before})).await;
        let page = browser.next().await.unwrap();
        assert_eq!((&page["type"], &page["conversation"]), (&json!("history"), &json!("main")));
        let items = page["items"].as_array().unwrap();
        assert!(items.iter().all(|item| item["at"].is_string() && item["run_id"].is_string()));
        let page_seqs = seqs(items);
        assert!(page_seqs.is_sorted_by(|a, b| a < b) && page_seqs.len() <= 10);
        before = page_seqs.first().copied();
        seen.splice(0..0, page_seqs);
        if page["more"] == json!(false) {
            break;
        }
    }
    assert_eq!(seen, (1..=24).collect::<Vec<_>>());
    // Exactly at the edge there is no more.
    browser.tell(json!({"type": "history", "limit": 24})).await;
    assert_eq!(browser.next().await.unwrap()["more"], false);
    browser.tell(json!({"type": "history", "limit": 200, "before": 1})).await;
    let page = browser.next().await.unwrap();
    assert_eq!((&page["items"], &page["more"]), (&json!([]), &json!(false)));
    browser.tell(json!({"type": "history", "conversation": "c-none"})).await;
    assert_eq!(browser.next().await.unwrap()["code"], "unknown_conversation");
}

/// Small steps of a generator, so that a failing seed can be played again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What a page knows, kept as the app keeps it.
#[derive(Default)]
struct Page {
    last_seq: i64,
    finished: BTreeMap<i64, Value>,
    open: BTreeMap<(String, String), String>,
}

impl Page {
    fn take(&mut self, frame: Value, socket_seqs: &mut Vec<i64>) {
        if let Some(seq) = frame["seq"].as_i64() {
            assert!(!socket_seqs.contains(&seq), "{seq} came twice on one socket");
            assert!(seq > self.last_seq, "{seq} after {}", self.last_seq);
            assert_eq!(seq, self.last_seq + 1, "a frame is missing before {seq}");
            socket_seqs.push(seq);
            self.last_seq = seq;
            if frame["type"] == "message" && frame["role"] == "assistant" {
                let key = key_of(&frame);
                let whole = frame["content"].as_str().unwrap();
                let so_far = self.open.remove(&key).unwrap_or_default();
                assert!(whole.starts_with(&so_far), "{so_far:?} is no beginning of {whole:?}");
            }
            self.finished.insert(seq, frame);
        } else if frame["type"] == "message" {
            let text = self.open.entry(key_of(&frame)).or_default();
            match (frame["delta"].as_str(), frame["content"].as_str()) {
                (Some(delta), None) => text.push_str(delta),
                (None, Some(content)) => content.clone_into(text),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn key_of(frame: &Value) -> (String, String) {
    (frame["run_id"].as_str().unwrap().to_owned(), frame["message_id"].as_str().unwrap().to_owned())
}

/// A page that loses its connection at random, against a cell that loses its own at random, while turns are going on.
#[tokio::test(flavor = "multi_thread")]
async fn random_disconnections_lose_and_repeat_nothing() {
    for seed in [3, 1_000_003, 77_777_777, 20_261_122] {
        eprintln!("seed {seed}");
        let stack = Stack::start().await;
        let turns = turns_of(&stack, seed);
        let reading = read_with_cuts(&stack, seed, 10);
        let ((), page) = tokio::join!(turns, reading);
        let answers = page.finished.values().filter(|frame| frame["role"] == "assistant");
        for frame in answers.clone() {
            let text = frame["content"].as_str().unwrap();
            assert_eq!(text, expected_text(frame["message_id"].as_str().unwrap()));
        }
        assert_eq!(answers.count(), 20);
        assert!(page.open.is_empty(), "{:?}", page.open);
        stack.assert_rows_are_sound().await;
    }
}

fn expected_text(id: &str) -> String {
    (0..12).map(|word| format!("{id}-{word} ")).collect()
}

/// Ten turns with two messages each.
async fn turns_of(stack: &Stack, seed: u64) {
    let mut dice = Dice(seed);
    for turn in 0..10 {
        let run = stack.write_message(&format!("turn-{turn}"), "go").await;
        taken(stack, run).await;
        stack.cell.phase(run, RunPhase::Started);
        for id in ["a", "b"] {
            for word in 0..12 {
                stack.cell.delta(run, id, &format!("{id}-{word} "));
                if dice.roll(4) == 0 {
                    tokio::time::sleep(Duration::from_millis(dice.roll(8))).await;
                }
                if dice.roll(40) == 0 {
                    stack.cell.cut();
                }
            }
            stack.cell.done(run, id, &expected_text(id));
        }
        stack.cell.phase(run, RunPhase::Finished);
    }
}

async fn read_with_cuts(stack: &Stack, seed: u64, turns: usize) -> Page {
    let mut dice = Dice(seed ^ 0x5555_5555);
    let mut page = Page::default();
    let over = |page: &Page| {
        page.finished.values().filter(|frame| frame["type"] == "run" && frame["phase"] == "finished").count() == turns
    };
    while !over(&page) {
        let mut browser: Browser = stack.browser().await;
        // What was open was of the old connection.
        page.open.clear();
        browser.tell(json!({"type": "resume", "after": page.last_seq})).await;
        let mut socket_seqs = Vec::new();
        for _ in 0..dice.roll(120) + 1 {
            let Some(frame) = browser.next_within(Duration::from_secs(2)).await else { break };
            page.take(frame, &mut socket_seqs);
            if over(&page) {
                break;
            }
        }
    }
    page
}
