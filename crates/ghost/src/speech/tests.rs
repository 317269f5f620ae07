//! What is spoken is what the taps understand, and the whole and the stream say the same.
//! Never: a shape that only its own writer knows; the parts are put together here as a client does it.

use molt_model::TokenUsage;
use serde_json::json;

use super::*;
use crate::tap::{Tap, whole};

const SURFACES: [Surface; 3] = [Surface::Chat, Surface::Responses, Surface::Messages];

fn speech<'a>(call: Option<Call<'a>>, reasoning: &'a str, cut: bool) -> Speech<'a> {
    let text = "Good\nmorning, \"you\" — all.";
    Speech {
        id: "0a",
        model: "p/m",
        created: 7,
        reasoning,
        text,
        call,
        cut,
        input_tokens: 11,
        output_tokens: 5,
        reasoning_tokens: 2,
        usage_asked: true,
        by_words: true,
    }
}

/// The events' data, in order.
fn events(pieces: &Pieces) -> Vec<Value> {
    let data = |piece: &Bytes| {
        let text = String::from_utf8(piece.to_vec()).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap().to_owned();
        let kind = text.lines().find_map(|line| line.strip_prefix("event: ").map(str::to_owned));
        assert!(text.ends_with("\n\n"));
        let value: Value = if data == "[DONE]" { "done".into() } else { serde_json::from_str(&data).unwrap() };
        assert_eq!(kind.as_deref(), value.get("type").filter(|_| kind.is_some()).and_then(Value::as_str));
        value
    };
    pieces.iter().map(|(piece, _)| data(piece)).collect()
}

fn joined(events: &[Value], pointer: &str) -> String {
    events.iter().filter_map(|event| event.pointer(pointer)?.as_str()).collect()
}

#[test]
fn every_answer_is_understood_by_the_taps() {
    let arguments = json!({ "path": "a \"b\" and a good deal more than one piece of it" });
    let call = Some(Call { tool: "read", arguments: &arguments });
    let usage = Some(TokenUsage { input: 11, output: 5, reasoning: 2, ..TokenUsage::default() });
    for (call, reasoning, cut) in [(None, "", false), (None, "hm hm", true), (call, "hm", false)] {
        let speech = speech(call, reasoning, cut);
        for surface in SURFACES {
            let usage = if surface == Surface::Messages {
                usage.map(|usage| TokenUsage { reasoning: 0, ..usage })
            } else {
                usage
            };
            assert_eq!(whole(surface, &speech.whole(surface).unwrap()).usage, usage, "{surface:?}");
            let mut tap = Tap::new(surface, false);
            let pieces = speech.pieces(surface).unwrap();
            for (piece, _) in &pieces {
                assert!(!tap.done());
                tap.push(piece.clone());
            }
            assert_eq!((tap.usage(), tap.done(), tap.finished()), (usage, true, true), "{surface:?}");
            let paced = pieces.iter().filter(|(_, paced)| *paced).count();
            assert!(tap.pieces() >= i64::try_from(paced).unwrap(), "{surface:?}");
        }
    }
    for surface in [Surface::Embeddings, Surface::CountTokens] {
        assert!(speech(None, "", false).whole(surface).is_none() && speech(None, "", false).pieces(surface).is_none());
    }
}

#[test]
fn the_stream_says_what_the_whole_says() {
    let arguments = json!({ "path": "a \"b\" and a good deal more than one piece of it" });
    let said = speech(None, "hm hm", false);
    let called = speech(Some(Call { tool: "read", arguments: &arguments }), "", false);
    for (surface, text, thought, parts, end) in [
        (
            Surface::Chat,
            "/choices/0/delta/content",
            "/choices/0/delta/reasoning_content",
            "/choices/0/delta/tool_calls/0/function/arguments",
            "/choices/0/finish_reason",
        ),
        (Surface::Messages, "/delta/text", "/delta/thinking", "/delta/partial_json", "/delta/stop_reason"),
    ] {
        let spoken = events(&said.pieces(surface).unwrap());
        assert_eq!((joined(&spoken, text), joined(&spoken, thought)), (said.text.to_owned(), "hm hm".to_owned()));
        let asked = events(&called.pieces(surface).unwrap());
        assert_eq!(joined(&asked, parts), arguments.to_string());
        let whole: Value = serde_json::from_slice(&called.whole(surface).unwrap()).unwrap();
        assert_eq!(
            joined(&asked, end),
            whole.pointer("/choices/0/finish_reason").or(whole.get("stop_reason")).unwrap().as_str().unwrap()
        );
    }
    for speech in [&said, &called] {
        let events = events(&speech.pieces(Surface::Responses).unwrap());
        let whole: Value = serde_json::from_slice(&speech.whole(Surface::Responses).unwrap()).unwrap();
        assert_eq!(events.last().unwrap()["response"], whole);
        let items: Vec<Value> = events
            .iter()
            .filter(|event| event["type"] == "response.output_item.done")
            .map(|event| event["item"].clone())
            .collect();
        assert_eq!(Value::from(items), whole["output"]);
        for (at, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], at);
        }
    }
}

#[test]
fn what_is_cut_says_so() {
    let speech = speech(None, "", true);
    let whole = |surface| serde_json::from_slice::<Value>(&speech.whole(surface).unwrap()).unwrap();
    assert_eq!(whole(Surface::Chat)["choices"][0]["finish_reason"], "length");
    assert_eq!(whole(Surface::Responses)["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(whole(Surface::Messages)["stop_reason"], "max_tokens");
    let events = events(&speech.pieces(Surface::Responses).unwrap());
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
}
