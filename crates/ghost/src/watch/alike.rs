//! Tells whether two requests say the same, whatever ids and times they carry.
//! Never: the words themselves kept; only two numbers leave here.

use std::hash::Hasher;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::hash::Fnv;

/// The newest messages say what a request is about; the count of all of them says how far the talk is.
const NEWEST: usize = 6;
/// Of a longer message only the beginning and the end are looked at.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
const END_BYTES: usize = 16 * 1024;
/// Names whose value is made up anew for each request.
const IDS: [&str; 5] = ["id", "tool_call_id", "call_id", "tool_use_id", "encrypted_content"];
/// Words of the runtime to the model, which it puts behind the person's.
const RUNTIMES_OWN: &str = "OPENCLAW_INTERNAL_CONTEXT";
/// A number of so many digits or more is a time or an id.
const DIGITS_OF_AN_ID: usize = 10;
/// A word of so many letters and digits with several digits in it is an id.
const LETTERS_OF_AN_ID: usize = 16;

/// What a request is compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Likeness {
    /// All of it: the same for a request that is sent again.
    pub(crate) whole: u64,
    /// The tools that were called last and what they answered, if the request only hands that on.
    pub(crate) tools: Option<u64>,
}

#[derive(Deserialize)]
struct Talk<'a> {
    #[serde(borrow, default)]
    messages: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

/// `None`: it says nothing that could be compared.
pub(crate) fn likeness(body: &[u8]) -> Option<Likeness> {
    let talk: Talk<'_> = serde_json::from_slice(body).ok()?;
    let said = match (talk.messages, talk.input) {
        (Some(messages), _) => messages,
        (None, Some(input)) => serde_json::from_str(input.get()).unwrap_or_else(|_| vec![input]),
        (None, None) => return None,
    };
    let newest: Vec<Value> = said.iter().rev().take(NEWEST).map(|raw| message(raw.get())).collect();
    let mut whole = Fnv::default();
    whole.write_usize(said.len());
    newest.iter().for_each(|message| feed(&mut whole, message));
    Some(Likeness { whole: whole.finish(), tools: tools(&newest) })
}

fn message(raw: &str) -> Value {
    if raw.len() <= MESSAGE_BYTES_MAX
        && let Ok(value) = serde_json::from_str(raw)
    {
        return value;
    }
    let (start, end) =
        (raw.floor_char_boundary(END_BYTES), raw.floor_char_boundary(raw.len().saturating_sub(END_BYTES)));
    Value::String(format!("{}{}", &raw[..start], &raw[end.max(start)..]))
}

/// Feeds what doesn't change from one request to the next.
fn feed(hasher: &mut Fnv, value: &Value) {
    match value {
        Value::Null => hasher.write_u8(0),
        Value::Bool(value) => hasher.write_u8(1 + u8::from(*value)),
        Value::Number(number) => feed_text(hasher, &number.to_string()),
        Value::String(text) => feed_text(hasher, text),
        Value::Array(items) => {
            hasher.write_usize(items.len());
            items.iter().for_each(|item| feed(hasher, item));
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !IDS.contains(&name.as_str())) {
                hasher.write(name.as_bytes());
                feed(hasher, value);
            }
        }
    }
}

fn feed_text(hasher: &mut Fnv, text: &str) {
    let is_word =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'.' | b'+') || byte > 127;
    for word in text.as_bytes().chunk_by(|left, right| is_word(*left) == is_word(*right)) {
        if is_word(word[0]) && is_passing(word) {
            hasher.write(b"#");
        } else {
            hasher.write(word);
        }
    }
    hasher.write_u8(0xff);
}

/// A time, a date, a duration or an id: what differs although nothing else does. Not a plain number, which is what a varied
/// task differs by.
fn is_passing(word: &[u8]) -> bool {
    let digits = word.iter().filter(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return false;
    }
    let around = |mark: u8| {
        word.windows(3).any(|three| three[0].is_ascii_digit() && three[1] == mark && three[2].is_ascii_digit())
    };
    let date = digits >= 6 && word.iter().filter(|byte| **byte == b'-').count() >= 2 && around(b'-');
    let duration =
        word.strip_suffix(b"ms").is_some_and(|rest| rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.'));
    let id = word.len() >= LETTERS_OF_AN_ID && digits >= 4;
    around(b':') || date || duration || id || digits >= DIGITS_OF_AN_ID
}

/// Newest first. The calls of tools and their answers at the end of the talk; `None`: something else was said last.
fn tools(newest: &[Value]) -> Option<u64> {
    let mut hasher = Fnv::default();
    let (mut answered, mut called) = (false, false);
    for message in newest {
        let text = |name: &str| message[name].as_str().unwrap_or_default();
        let blocks = |kind: &str| {
            message["content"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(move |block| block["type"] == kind)
                .collect::<Vec<_>>()
        };
        let results = blocks("tool_result");
        if called && (text("type") != "function_call") {
            break;
        }
        if text("role") == "tool" || text("type") == "function_call_output" {
            feed(&mut hasher, &message["content"]);
            feed(&mut hasher, &message["output"]);
            answered = true;
        } else if !results.is_empty() {
            results.iter().for_each(|block| feed(&mut hasher, &block["content"]));
            answered = true;
        } else if text("type") == "function_call" {
            feed(&mut hasher, &message["name"]);
            feed(&mut hasher, &message["arguments"]);
            called = true;
        } else if text("role") == "assistant" && answered {
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                feed(&mut hasher, &call["function"]);
                called = true;
            }
            for block in blocks("tool_use") {
                feed(&mut hasher, &block["name"]);
                feed(&mut hasher, &block["input"]);
                called = true;
            }
            break;
        } else if answered || !is_runtimes_own(message) {
            break;
        }
    }
    (answered && called).then(|| hasher.finish())
}

fn is_runtimes_own(message: &Value) -> bool {
    matches!(message["role"].as_str(), Some("system" | "developer"))
        || message["content"].to_string().contains(RUNTIMES_OWN)
}
