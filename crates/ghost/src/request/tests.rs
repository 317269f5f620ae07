//! What goes out of what comes in, as tables and by properties.
//! Never: a body that only this reader would take.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const LIMIT: i64 = 900;

fn through(surface: Surface, body: &str) -> String {
    let body = Bytes::from(body.to_owned());
    let asked = read(surface, &body).unwrap();
    String::from_utf8(outgoing(&body, &asked, "m-1", LIMIT).to_vec()).unwrap()
}

#[test]
fn only_what_must_change_changes() {
    use Surface::{Chat, CountTokens, Embeddings, Messages, Responses};
    for (surface, given, sent) in [
        (Embeddings, r#"{"n":1.0, "model" : "p/m" ,"x":[1e5]}"#, r#"{"n":1.0, "model" : "m-1" ,"x":[1e5]}"#),
        (
            Chat,
            r#" {"model":"p/m","stream":true,"max_tokens":1}"#,
            r#" {"stream_options":{"include_usage":true},"model":"m-1","stream":true,"max_tokens":1}"#,
        ),
        (
            Chat,
            r#"{"stream_options":{"include_usage":true},"stream":true,"model":"p\/m","max_completion_tokens":7}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true,"model":"m-1","max_completion_tokens":7}"#,
        ),
        (
            Chat,
            r#"{"model":"p/m","stream":true,"n":2,"stream_options":{"a":1,"include_usage":false},"max_tokens":1}"#,
            r#"{"model":"m-1","stream":true,"n":2,"stream_options":{"a":1,"include_usage":true},"max_tokens":1}"#,
        ),
        (
            Chat,
            r#"{"model":"p/m","stream":true,"stream_options":null}"#,
            r#"{"max_completion_tokens":900,"model":"m-1","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            Chat,
            r#"{"model":"p/m","stream":true,"stream_options":{"include_usage":true,"include_usage":true},"max_tokens":1}"#,
            r#"{"model":"m-1","stream":true,"stream_options":{"include_usage":true},"max_tokens":1}"#,
        ),
        (
            Chat,
            r#"{"max_completion_tokens" : null ,"max_tokens":null,"model":"p/m"}"#,
            r#"{"max_completion_tokens" : 900 ,"max_tokens":null,"model":"m-1"}"#,
        ),
        (Responses, r#"{"model":"p/m","stream":true}"#, r#"{"max_output_tokens":900,"model":"m-1","stream":true}"#),
        (Responses, r#"{"model":"p/m","max_output_tokens":4}"#, r#"{"model":"m-1","max_output_tokens":4}"#),
        (
            Messages,
            r#"{"max_tokens":9,"stream":true,"model":"p/m"}"#,
            r#"{"max_tokens":9,"stream":true,"model":"m-1"}"#,
        ),
        (CountTokens, r#"{"model":"p/m"}"#, r#"{"model":"m-1"}"#),
    ] {
        assert_eq!(through(surface, given), sent, "{given}");
    }
}

#[test]
fn what_was_asked_is_known() {
    let asked = |surface, body: &str| read(surface, body.as_bytes()).unwrap();
    let chat = asked(Surface::Chat, r#"{"model":"p/m","stream":true,"max_tokens":5,"max_completion_tokens":7,"n":3}"#);
    assert_eq!((chat.stream, chat.usage_asked, chat.output_limit, chat.n), (true, false, Some(7), 3));
    let usual = asked(Surface::Chat, r#"{"model":"p/m","stream":null,"n":null,"max_tokens":null}"#);
    assert_eq!((usual.stream, usual.usage_asked, usual.output_limit, usual.n), (false, true, None, 1));
    let responses = asked(Surface::Responses, r#"{"model":"p/m","stream":true,"n":5,"input":[{"image_url":"r"}]}"#);
    assert_eq!((responses.usage_asked, responses.n, responses.remote_input), (true, 1, true));
    assert_eq!(responses.input_tokens_max(50, 8_000), 8_000);
    assert_eq!((chat.input_tokens_max(50, 8_000), chat.input_tokens_max(50_000, 8_000)), (1_050, 8_000));
}

#[test]
fn wrong_bodies_are_refused_in_words() {
    for (body, code) in [
        (&b""[..], "invalid_json"),
        (br#"["p/m", true]"#, "invalid_json"),
        (b"{}", "model_missing"),
        (br#"{"model":7}"#, "model_invalid"),
        (br#"{"model":null}"#, "model_invalid"),
        (br#"{"model":"a","model":"b"}"#, "invalid_json"),
        (br#"{"model":"a"} x"#, "invalid_json"),
        (br#"{"model":"a","stream":"yes"}"#, "invalid_value"),
        (br#"{"model":"a","max_tokens":-1}"#, "invalid_value"),
        (br#"{"model":"a","max_tokens":1.5}"#, "invalid_value"),
        (br#"{"model":"a","max_completion_tokens":99999999999999999999}"#, "invalid_value"),
        (br#"{"model":"a","max_tokens":1E999}"#, "invalid_value"),
        (br#"{"model":"a","n":0}"#, "invalid_value"),
        (br#"{"model":"a","n":129}"#, "invalid_value"),
        (br#"{"model":"a","stream":true,"stream_options":3}"#, "stream_options_invalid"),
        (b"{\"model\":\"a\",\"x\":\"\xff\"}", "invalid_utf8"),
    ] {
        let refusal = read(Surface::Chat, body).unwrap_err();
        assert_eq!((refusal.code, refusal.status.as_u16()), (code, 400), "{}", String::from_utf8_lossy(body));
    }
    assert_eq!(read(Surface::Messages, br#"{"model":"a"}"#).unwrap_err().code, "max_tokens_missing");
    assert!(read(Surface::Responses, br#"{"model":"a","max_tokens":1E999}"#).is_ok(), "no limit there, and JSON");
    let deep = format!("{{\"model\":\"a\",\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(read(Surface::Chat, deep.as_bytes()).unwrap_err().code, "invalid_json");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..5) {
        let _ = read(Surface::ALL[at], &body);
    }

    #[test]
    fn what_goes_out_is_the_same_request(
        text in ".{0,40}", number in any::<i64>(), stream in any::<bool>(), limit in proptest::option::of(0i64..9), at in 0usize..5,
    ) {
        let surface = Surface::ALL[at];
        let mut given = json!({ "a": text, "model": "p/m", "b": [number, { "model": text }], "stream": stream });
        if let Some(limit) = limit.or((surface == Surface::Messages).then_some(3)) {
            given["max_tokens"] = limit.into();
        }
        let sent: Value = serde_json::from_str(&through(surface, &given.to_string())).unwrap();
        prop_assert_eq!(&sent["model"], "m-1");
        for same in ["a", "b", "stream", "max_tokens"] {
            prop_assert_eq!(sent.get(same), given.get(same));
        }
        prop_assert_eq!(sent.get("stream_options").is_some(), stream && surface == Surface::Chat);
        prop_assert_eq!(sent.get("max_completion_tokens").is_some(), limit.is_none() && surface == Surface::Chat);
    }
}
