//! Tables of what is noticed and what is left alone, each a run of whole requests as a runtime sends them.
//! Never: a step without a case right below it.

use chrono::TimeDelta;
use molt_model::{Caution, Time};
use serde_json::{Value, json};

use super::alike::likeness;
use super::loops::{Circle, Judgement, Lately};

fn chat(messages: Value) -> String {
    json!({ "model": "p/m", "stream": true, "messages": messages }).to_string()
}

/// What is judged of requests that come at even distances.
fn judged(bodies: impl IntoIterator<Item = String>, every: TimeDelta) -> Option<Judgement> {
    let (mut lately, mut now, mut last) = (Lately::default(), Time::UNIX_EPOCH, None);
    for body in bodies {
        last = lately.add(likeness(body.as_bytes()).unwrap(), None, now);
        now += every;
    }
    last
}

fn seconds(number: i64) -> TimeDelta {
    TimeDelta::seconds(number)
}

fn step(judgement: Option<Judgement>) -> Option<(Caution, Circle)> {
    judgement.map(|judgement| (judgement.caution, judgement.circle))
}

/// A talk that grows by a call of the tool and its answer each time, as the runtime sends it.
fn talk(rounds: usize, call: impl Fn(usize) -> (String, String)) -> String {
    let mut messages = vec![
        json!({ "role": "system", "content": format!("You are Pip. It is 2026-11-22 10:{rounds:02}.") }),
        json!({ "role": "user", "content": "Look after the build." }),
        json!({ "role": "user", "content": "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>> …" }),
    ];
    for round in 0..rounds {
        let (arguments, result) = call(round);
        let function = json!({ "name": "exec", "arguments": arguments });
        messages.push(json!({ "role": "assistant", "content": null, "reasoning_content": format!("Thought {round}."),
            "tool_calls": [{ "id": format!("call_{round}"), "type": "function", "function": function }] }));
        messages.push(json!({ "role": "tool", "tool_call_id": format!("call_{round}"), "content": result }));
    }
    chat(json!(messages))
}

#[test]
fn the_same_again_and_again_is_noticed_step_by_step() {
    let again = |minute: usize| {
        let id = format!("{minute:08x}-89ab-4cde-8123-456789abcdef");
        chat(
            json!([{ "role": "system", "content": format!("Now: 2026-11-22T10:{:02}:07Z, request {id}", minute % 60) },
                    { "role": "user", "content": "Are you there?" }]),
        )
    };
    for (count, expected) in [
        (1, None),
        (11, None),
        (12, Some(Caution::Warned)),
        (23, Some(Caution::Warned)),
        (24, Some(Caution::Slowed)),
        (47, Some(Caution::Slowed)),
        (48, Some(Caution::Paused)),
        (500, Some(Caution::Paused)),
    ] {
        let found = judged((0..count).map(again), seconds(5));
        assert_eq!(step(found), expected.map(|caution| (caution, Circle::Request)), "{count}");
    }
    let late = judged((0..500).map(again), seconds(60));
    assert_eq!(late, None, "eleven in ten minutes");
    let sentence = judged((0..12).map(again), seconds(5)).unwrap().sentence();
    assert_eq!(sentence, "It sent the same request 12 times within ten minutes.");
}

#[test]
fn a_tool_that_is_called_in_circles_is_noticed_on_every_surface() {
    let stuck = |_: usize| (r#"{"command":"make"}"#.to_owned(), "error: no rule, took 123ms at 10:22:07".to_owned());
    let found = judged((1..=24).map(|rounds| talk(rounds, stuck)), seconds(8));
    assert_eq!(step(found), Some((Caution::Slowed, Circle::Tool)));
    let responses = |rounds: usize| {
        let pair = |round: usize| {
            [
                json!({ "type": "function_call", "call_id": format!("c{round}"), "name": "exec", "arguments": "{}" }),
                json!({ "type": "function_call_output", "call_id": format!("c{round}"), "output": "no" }),
            ]
        };
        let mut input = vec![json!({ "role": "user", "content": "Go." })];
        input.extend((0..rounds).flat_map(pair));
        json!({ "model": "p/m", "input": input }).to_string()
    };
    assert_eq!(judged((1..=11).map(responses), seconds(8)), None);
    let found = judged((1..=12).map(responses), seconds(8));
    assert_eq!(step(found), Some((Caution::Warned, Circle::Tool)));
    let messages = |rounds: usize| {
        let pair = |round: usize| {
            let (id, input) = (format!("toolu_{round}"), json!({ "path": "a" }));
            [
                json!({ "role": "assistant", "content": [{ "type": "text", "text": format!("Try {round}") },
                    { "type": "tool_use", "id": id, "name": "read", "input": input }] }),
                json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": id, "content": "gone" }] }),
            ]
        };
        let mut said = vec![json!({ "role": "user", "content": "Go." })];
        said.extend((0..rounds).flat_map(pair));
        json!({ "model": "p/m", "max_tokens": 9, "messages": said }).to_string()
    };
    let found = judged((1..=48).map(messages), seconds(5));
    assert_eq!(step(found), Some((Caution::Paused, Circle::Tool)));
    assert!(found.unwrap().sentence().contains("48 times"));
}

#[test]
fn ordinary_heavy_use_is_left_alone() {
    // A person who has an answer made anew ten times, then goes on, and does it again.
    let asked = |turn: usize| {
        let said: Vec<Value> = (0..=turn)
            .flat_map(|turn| {
                [
                    json!({ "role": "user", "content": format!("Poem {turn}") }),
                    json!({ "role": "assistant", "content": "Roses." }),
                ]
            })
            .collect();
        chat(json!(said[..=turn * 2]))
    };
    assert_eq!(judged((0..60).map(|number| asked(number / 10)), seconds(12)), None);
    // An agent at work for hours: the same tool, other arguments or other answers each time.
    let pages = |round: usize| (format!("{{\"page\":{round}}}"), "ok".to_owned());
    assert_eq!(judged((1..=90).map(|rounds| talk(rounds, pages)), seconds(2)), None);
    let progress = |round: usize| (r#"{"command":"make status"}"#.to_owned(), format!("{round} of 400 done"));
    assert_eq!(judged((1..=90).map(|rounds| talk(rounds, progress)), seconds(2)), None);
    // One that looks at the same file between all that it does.
    let mixed = |round: usize| {
        let other = (format!("{{\"command\":\"cc part{round}.c\"}}"), format!("part{round}.o"));
        if round.is_multiple_of(4) {
            ("{\"command\":\"cat plan.md\"}".to_owned(), "The plan.".to_owned())
        } else {
            other
        }
    };
    assert_eq!(judged((1..=90).map(|rounds| talk(rounds, mixed)), seconds(2)), None);
    // A heartbeat with the same words every half hour, and a summary every night.
    let same = || chat(json!([{ "role": "user", "content": "Anything to do?" }]));
    assert_eq!(judged((0..48).map(|_| same()), seconds(1_800)), None);
    assert_eq!(judged((0..30).map(|_| same()), TimeDelta::days(1)), None);
    // A message sent on to many, each a talk of its own.
    let greeting = |number: usize| chat(json!([{ "role": "user", "content": format!("Greet guest {number}") }]));
    assert_eq!(judged((0..90).map(greeting), seconds(1)), None);
}

#[test]
fn what_was_forgiven_counts_no_more() {
    let likeness = likeness(chat(json!([{ "role": "user", "content": "x" }])).as_bytes()).unwrap();
    let (mut lately, start) = (Lately::default(), Time::UNIX_EPOCH);
    let mut add = |resumed_at, second: i64| lately.add(likeness, resumed_at, start + seconds(second));
    let judged: Vec<bool> = (0..13).map(|second| add(None, second).is_some()).collect();
    assert_eq!(judged.iter().filter(|found| **found).count(), 2);
    let resumed = Some(start + seconds(20));
    let judged: Vec<Option<Judgement>> = (21..33).map(|second| add(resumed, second)).collect();
    assert!(judged[..11].iter().all(Option::is_none));
    assert_eq!(judged[11].unwrap().since, start + seconds(21));
}

#[test]
fn requests_that_differ_in_nothing_but_ids_and_times_are_alike_and_others_are_not() {
    let of = |text: &str| likeness(chat(json!([{ "role": "user", "content": text }])).as_bytes()).unwrap().whole;
    for (one, other, alike) in [
        ("at 10:22", "at 11:05", true),
        ("on 2026-11-22", "on 2026-12-01", true),
        ("2026-11-22T10:00:00.123Z", "2026-11-22T10:00:09.5Z", true),
        ("run 4bf92f3577b34da6a3ce929d0e0e4736", "run 0af7651916cd43dd8448eb211c80319c", true),
        ("took 12ms", "took 845.2ms", true),
        ("1795328054065", "1795328054999", true),
        ("page 1", "page 2", false),
        ("$12.50", "$12.60", false),
        ("version 1.2.3", "version 1.2.4", false),
        ("Ann", "Ben", false),
        ("naïve", "naive", false),
        ("", " ", false),
    ] {
        assert_eq!(of(one) == of(other), alike, "{one} / {other}");
    }
    assert!(likeness(b"{}").is_none() && likeness(b"[").is_none() && likeness(br#"{"messages":7}"#).is_none());
    assert!(likeness(br#"{"input":"one text"}"#).is_some());
    let long = |end: &str| of(&format!("{}{end}", "é".repeat(100_000)));
    assert!(long("a") == long("a") && long("a") != long("b"));
}
