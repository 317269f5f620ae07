//! Reports as providers send them, where they stand, and where somebody would like them to stand.
//! Never: a figure that is only nearly right.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(style: Style, report: Value) -> Option<TokenUsage> {
    serde_json::from_value::<Report>(report).unwrap().tokens(style)
}

fn plain(input: i64, output: i64) -> Option<TokenUsage> {
    Some(TokenUsage { input, output, ..TokenUsage::default() })
}

#[test]
fn reports_are_read_as_they_come() {
    let details = json!({ "prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": { "cached_tokens": 64 },
                          "completion_tokens_details": { "reasoning_tokens": 3 }, "total_tokens": 107 });
    let full = TokenUsage { input: 100, output: 7, cache_read: 64, cache_write: 0, reasoning: 3 };
    assert_eq!(read(Style::OpenAi, details), Some(full));
    let responses = json!({ "input_tokens": 100, "output_tokens": 7, "input_tokens_details": { "cached_tokens": 64 },
                            "output_tokens_details": { "reasoning_tokens": 3 } });
    assert_eq!(read(Style::OpenAi, responses), Some(full));
    let beside = json!({ "prompt_tokens": 100, "completion_tokens": 4, "total_tokens": 107,
                         "prompt_tokens_details": { "cached_tokens": 64 }, "completion_tokens_details": { "reasoning_tokens": 3 } });
    assert_eq!(read(Style::OpenAi, beside), Some(full));
    let anthropic = json!({ "input_tokens": 30, "cache_creation_input_tokens": 6, "cache_read_input_tokens": 64,
                            "output_tokens": 7, "cache_creation": { "ephemeral_5m_input_tokens": 6 } });
    let cached = TokenUsage { input: 100, output: 7, cache_read: 64, cache_write: 6, reasoning: 0 };
    assert_eq!(read(Style::Anthropic, anthropic), Some(cached));
    for (report, tokens) in [
        (json!({ "prompt_tokens": 5, "total_tokens": 5 }), plain(5, 0)),
        (json!({ "prompt_tokens": -5, "completion_tokens": 1e300 }), plain(0, TOKENS_MAX)),
        (json!({ "prompt_tokens": u64::MAX, "completion_tokens": 2.0 }), plain(TOKENS_MAX, 2)),
        (json!({ "prompt_tokens": "many", "prompt_tokens_details": 3 }), None),
        (json!({ "completion_tokens": null, "output_tokens": 4 }), plain(0, 4)),
        (json!({}), None),
    ] {
        assert_eq!(read(Style::OpenAi, report.clone()), tokens, "{report}");
    }
}

#[test]
fn the_report_of_a_whole_answer_is_found() {
    let told = |input, output| Whole { usage: plain(input, output), said_tokens_estimate: 0 };
    let long = "x".repeat(3 * TAIL_BYTES);
    let words = r#"a \"usage\":{\"prompt_tokens\":1} b"#;
    let bait = r#""usage":{"prompt_tokens":0,"completion_tokens":0,"input_tokens":0,"output_tokens":0}"#;
    let report = r#""usage" : {"prompt_tokens":9,"completion_tokens":2,"x":{"y":"}"}}"#;
    let baits = vec![format!("{{{bait}}}"); 3 * CANDIDATES_MAX].join(",");
    for body in [
        format!(r#"{{"choices":[{{"message":{{"content":"{words}"}}}}],{report},"z":null}}"#),
        format!(r#"{{{report},"choices":[{{"message":{{"content":"{words}"}}}}]}}"#),
        format!(r#"{{"choices":["{long}"],{report}}}"#),
        format!(r#"{{{report},"choices":["{long}"]}}"#),
        format!(r#" {{{report},"tools":[{baits}]}} "#),
        format!(r#"{{{report},"tools":{{{bait}}}}}"#),
        format!(r#"{{"tools":{{{bait}}},{report},"x":[1,{{"a":"]}}"}}]}}"#),
        format!(r#"{{{report},"x":"usage","y":["usage"],"a\"usage":{{"prompt_tokens":7}}}}"#),
    ] {
        assert!(serde_json::from_str::<Value>(&body).is_ok(), "{body}");
        assert_eq!(whole(Surface::Chat, body.as_bytes()), told(9, 2), "{}", &body[..body.len().min(300)]);
    }
    let event = r#"{"type":"response.completed","response":{"tools":[{"usage":{"input_tokens":1}}],"usage":{"input_tokens":4,"output_tokens":5},"user":null}}"#;
    assert_eq!(last_report(event.as_bytes(), 2).unwrap().tokens(Style::OpenAi), plain(4, 5));
    assert_eq!(last_report(&event.as_bytes()[30..], 2).unwrap().tokens(Style::OpenAi), plain(4, 5));
}

#[test]
fn an_answer_without_a_report_is_estimated() {
    let said = |surface, body: &str| whole(surface, body.as_bytes());
    let spoken = |said_tokens_estimate| Whole { usage: None, said_tokens_estimate };
    let chat = r#"{"choices":[{"message":{"content":"12345678","reasoning_content":"1234"}},{"message":{"content":null,"tool_calls":[1, 2]}}],"usage":null}"#;
    assert_eq!(said(Surface::Chat, chat), spoken(5));
    assert_eq!(said(Surface::Responses, r#"{"output":["1234"]}"#), spoken(2));
    assert_eq!(said(Surface::Messages, r#"{"content":["1234"],"usage":3}"#), spoken(2));
    assert_eq!(said(Surface::Embeddings, r#"{"data":["1234"]}"#), spoken(0));
    assert_eq!(said(Surface::Chat, "no JSON"), spoken(0));
    assert_eq!(said(Surface::Chat, &chat[..60]), spoken(15), "cut short, but given on");
}

proptest! {
    #[test]
    fn no_figure_escapes_its_bounds(input in any::<f64>(), output in any::<i64>(), cached in any::<i64>()) {
        let report = json!({ "input_tokens": input, "output_tokens": output, "cache_read_input_tokens": cached });
        for style in [Style::OpenAi, Style::Anthropic] {
            let tokens = read(style, report.clone()).unwrap();
            for figure in [tokens.input, tokens.output, tokens.cache_read, tokens.cache_write, tokens.reasoning] {
                prop_assert!((0..=TOKENS_MAX).contains(&figure));
            }
        }
    }

    #[test]
    fn the_short_way_finds_what_the_long_way_finds(body in any_json(), report in 0i64..9) {
        let mut body = body;
        if let Some(map) = body.as_object_mut() {
            map.insert("usage".into(), json!({ "prompt_tokens": report }));
            map.insert("after".into(), json!({ "usage": { "prompt_tokens": 77 } }));
        }
        let text = body.to_string();
        let slow = field(text.as_bytes(), 1).and_then(|report| report.tokens(Style::OpenAi));
        prop_assert_eq!(last_report(text.as_bytes(), 1).and_then(|report| report.tokens(Style::OpenAi)), slow);
    }

    #[test]
    fn any_bytes_are_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = (whole(Surface::Chat, &bytes), last_report(&bytes, 2));
    }
}

/// Values with words in them that look like reports.
fn any_json() -> impl Strategy<Value = Value> {
    let text = "(usage|\"usage\":\\{|\\\\|\"|\\}|\\]|a){0,6}";
    let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), text.prop_map(Value::from)];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let key = prop_oneof![Just("usage".to_owned()), Just("prompt_tokens".to_owned()), text.prop_map(String::from)];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..4).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}
