//! Recorded frames of the real runtime, translated. A change of a snapshot is a change of what people see.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::fmt::Write;

use molt_bot::{Event, Text};
use molt_cell::translate::Translator;
use serde_json::Value;

/// Replays a recording; one line per event, runs numbered in order, deltas of one text joined.
fn replay(recording: &str) -> String {
    let mut runs: Vec<String> = Vec::new();
    let mut translators: HashMap<String, Translator> = HashMap::new();
    let mut shown = String::new();
    for line in recording.lines() {
        let frame: Value = serde_json::from_str(line).unwrap();
        let run = frame["payload"]["runId"].as_str().unwrap().to_owned();
        if !runs.contains(&run) {
            runs.push(run.clone());
        }
        let number = runs.iter().position(|known| *known == run).unwrap() + 1;
        let translator = translators.entry(run).or_default();
        for event in translator.frame(frame["event"].as_str().unwrap(), &frame["payload"]) {
            let text = serde_json::to_string(&event).unwrap();
            let short: String = text.chars().take(300).collect();
            writeln!(shown, "{number} {short}").unwrap();
        }
    }
    let open: Vec<usize> =
        runs.iter().enumerate().filter(|(_, run)| !translators[*run].has_ended()).map(|(at, _)| at + 1).collect();
    writeln!(shown, "open at the end: {open:?}").unwrap();
    shown
}

macro_rules! recordings {
    ($($name:ident),+) => { $(
        #[test]
        fn $name() {
            insta::assert_snapshot!(replay(include_str!(concat!("transcripts/", stringify!($name), ".jsonl"))));
        }
    )+ };
}

recordings!(tools, failures, stream, preamble, resumed);

#[test]
fn every_run_of_every_recording_ends_once_and_its_deltas_add_up() {
    let recordings = [
        include_str!("transcripts/tools.jsonl"),
        include_str!("transcripts/failures.jsonl"),
        include_str!("transcripts/stream.jsonl"),
        include_str!("transcripts/preamble.jsonl"),
        include_str!("transcripts/resumed.jsonl"),
    ];
    for recording in recordings {
        let mut translators: HashMap<String, (Translator, Vec<Event>)> = HashMap::new();
        for line in recording.lines() {
            let frame: Value = serde_json::from_str(line).unwrap();
            let run = frame["payload"]["runId"].as_str().unwrap().to_owned();
            let (translator, events) = translators.entry(run).or_default();
            events.extend(translator.frame(frame["event"].as_str().unwrap(), &frame["payload"]));
        }
        for (run, (_, events)) in translators {
            let ends = events.iter().filter(|event| event.ends_run()).count();
            assert!(ends <= 1, "{run}");
            assert!(ends == 0 || events.last().unwrap().ends_run(), "{run}");
            let mut open: HashMap<&str, String> = HashMap::new();
            for event in &events {
                let (Event::Message { message_id, text, .. } | Event::Thinking { message_id, text }) = event else {
                    continue;
                };
                match text {
                    Text::Delta(delta) => open.entry(message_id).or_default().push_str(delta),
                    Text::SoFar(text) => open.entry(message_id).or_default().clone_from(text),
                    Text::Done(text) => {
                        let streamed = open.remove(message_id.as_str()).unwrap_or_default();
                        assert!(text.trim().starts_with(streamed.trim()), "{run}: {streamed:?} became {text:?}");
                    }
                }
            }
        }
    }
}
