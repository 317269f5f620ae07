//! Reads of a request body only what the proxy needs, and changes only what must change; all other bytes stay as they are.
//! Never: a body parsed and written anew, which would reorder fields and respell numbers.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::answer::Refusal;

/// Longer names are no model's.
const MODEL_BYTES_MAX: usize = 200;

/// What was asked, and where in the body it stands.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `provider/model`.
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// The caller wants the usage in the stream.
    pub(crate) usage_asked: bool,
    model_at: Range<usize>,
    options: Options,
}

#[derive(Clone, Debug)]
enum Options {
    /// Usage comes by itself, or the caller asked for it.
    Fine,
    /// Right after the opening brace.
    Insert(usize),
    Replace(Range<usize>, String),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream_options: Option<&'a RawValue>,
}

/// Keeps a `null` as what it is, so that it can be replaced in its place.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads the envelope. A field that is there twice is refused: two readers could see two different models.
pub(crate) fn read(body: &[u8]) -> Result<Asked, Refusal> {
    if opening_brace(body).is_none() {
        return Err(Refusal::invalid("invalid_json", "The body must be a JSON object."));
    }
    let envelope: Envelope<'_> = serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid("invalid_json", format!("The body isn't a valid request: {error}.")))?;
    let raw = envelope.model.ok_or_else(|| Refusal::invalid("model_missing", "Name a model: \"provider/model\"."))?;
    let model: String = serde_json::from_str(raw.get())
        .map_err(|_| Refusal::invalid("model_invalid", "The model must be a text, such as \"provider/model\"."))?;
    if model.len() > MODEL_BYTES_MAX {
        return Err(Refusal::invalid("model_invalid", "That is no model's name."));
    }
    let stream = envelope.stream.unwrap_or(false);
    let (usage_asked, options) = match (stream, envelope.stream_options) {
        (false, _) => (false, Options::Fine),
        (true, None) => (false, Options::Insert(opening_brace(body).unwrap_or(0))),
        (true, Some(raw)) => with_usage(raw, place(body, raw))?,
    };
    Ok(Asked { model, stream, usage_asked, model_at: place(body, raw), options })
}

/// The body as it goes out: the provider's own name for the model, and the usage asked for.
pub(crate) fn outgoing(body: &Bytes, asked: &Asked, model: &str) -> Bytes {
    let mut edits = vec![(asked.model_at.clone(), Value::from(model).to_string())];
    match &asked.options {
        Options::Fine => {}
        Options::Insert(at) => edits.push((*at..*at, r#""stream_options":{"include_usage":true},"#.to_owned())),
        Options::Replace(at, text) => edits.push((at.clone(), text.clone())),
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut from = 0;
    for (range, text) in edits {
        out.extend_from_slice(&body[from..range.start]);
        out.extend_from_slice(text.as_bytes());
        from = range.end;
    }
    out.extend_from_slice(&body[from..]);
    out.into()
}

fn with_usage(raw: &RawValue, at: Range<usize>) -> Result<(bool, Options), Refusal> {
    let wrong = || Refusal::invalid("stream_options_invalid", "stream_options must be an object.");
    let mut options = match serde_json::from_str(raw.get()).map_err(|_| wrong())? {
        Value::Object(map) => map,
        Value::Null => serde_json::Map::new(),
        _ => return Err(wrong()),
    };
    if options.get("include_usage") == Some(&Value::Bool(true)) {
        return Ok((true, Options::Fine));
    }
    options.insert("include_usage".to_owned(), Value::Bool(true));
    Ok((false, Options::Replace(at, Value::Object(options).to_string())))
}

/// Where a borrowed value stands in the body that it was borrowed from.
fn place(body: &[u8], raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + raw.get().len()
}

/// The place after the brace that opens the body; `None`: it isn't an object.
fn opening_brace(body: &[u8]) -> Option<usize> {
    let at = body.iter().position(|byte| !byte.is_ascii_whitespace())?;
    (body[at] == b'{').then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(body: &str) -> String {
        let body = Bytes::from(body.to_owned());
        let asked = read(&body).unwrap();
        String::from_utf8(outgoing(&body, &asked, "m-1").to_vec()).unwrap()
    }

    #[test]
    fn only_what_must_change_changes() {
        for (given, sent) in [
            (r#"{"n":1.0, "model" : "p/m" ,"x":[1e5]}"#, r#"{"n":1.0, "model" : "m-1" ,"x":[1e5]}"#),
            (
                r#" {"model":"p/m","stream":true}"#,
                r#" {"stream_options":{"include_usage":true},"model":"m-1","stream":true}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":true},"stream":true,"model":"p\/m"}"#,
                r#"{"stream_options":{"include_usage":true},"stream":true,"model":"m-1"}"#,
            ),
            (
                r#"{"model":"p/m","stream":true,"stream_options":{"a":1,"include_usage":false}}"#,
                r#"{"model":"m-1","stream":true,"stream_options":{"a":1,"include_usage":true}}"#,
            ),
            (
                r#"{"model":"p/m","stream":true,"stream_options":null}"#,
                r#"{"model":"m-1","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
        ] {
            assert_eq!(through(given), sent, "{given}");
        }
    }

    #[test]
    fn wrong_bodies_are_refused_in_words() {
        for (body, code) in [
            ("", "invalid_json"),
            (r#"["p/m", true]"#, "invalid_json"),
            ("{}", "model_missing"),
            (r#"{"model":7}"#, "model_invalid"),
            (r#"{"model":"a","model":"b"}"#, "invalid_json"),
            (r#"{"model":"a","stream":"yes"}"#, "invalid_json"),
            (r#"{"model":"a","stream":true,"stream_options":3}"#, "stream_options_invalid"),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap_err().code, code, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body);
        }

        #[test]
        fn what_goes_out_is_the_same_request(text in ".{0,40}", number in any::<i64>(), stream in any::<bool>()) {
            let given = serde_json::json!({ "a": text, "model": "p/m", "b": [number, { "model": text }], "stream": stream });
            let sent: Value = serde_json::from_str(&through(&given.to_string())).unwrap();
            prop_assert_eq!(&sent["model"], "m-1");
            prop_assert_eq!((&sent["a"], &sent["b"], &sent["stream"]), (&given["a"], &given["b"], &given["stream"]));
            prop_assert_eq!(sent.get("stream_options").is_some(), stream);
        }
    }
}
