//! Takes a chat request apart: what the person really said, what was said before, and what the tools answered since.
//! Never: take a runtime's own notes, which stand in user messages too, for the person's words.

use serde_json::Value;

/// The runtime wraps its notes in these.
const NOTE_BEGIN: &str = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>";
const NOTE_END: &str = "<<<END_OPENCLAW_INTERNAL_CONTEXT>>>";
/// The words with which OpenClaw 2026.9.6 begins a turn again that a restart has cut.
const QUEUE_NOTE: &str = "[Queued user message from a previous active turn";
/// A time stamp in brackets, with room.
const STAMP_BYTES_MAX: usize = 80;
/// Older turns that are looked at.
const HISTORY_MAX: usize = 200;

/// The request as the practice model understands it.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// What the person said last.
    pub(super) words: String,
    /// What they said before, oldest first.
    pub(super) earlier: Vec<String>,
    /// The system's instructions.
    pub(super) system: String,
    /// What was done for `words` so far, in order.
    pub(super) done: Vec<Outcome>,
    /// The assistant's own name, if the request tells it.
    pub(super) name: Option<String>,
}

/// A tool that was called, and what came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) tool: String,
    pub(super) arguments: Value,
    pub(super) result: String,
}

pub(super) fn hear(request: &Value) -> Heard {
    let messages = request.get("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut heard = Heard::default();
    for message in messages {
        let text = content(message);
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => {
                heard.system.push_str(&text);
                heard.system.push('\n');
            }
            Some("user") => heard.listen(&text),
            Some("assistant") => heard.note_calls(message),
            Some("tool" | "function") => heard.note_result(message, text),
            _ => {}
        }
    }
    let skip = heard.earlier.len().saturating_sub(HISTORY_MAX);
    heard.earlier.drain(..skip);
    if heard.name.is_none() {
        heard.name = name_in(&heard.system);
    }
    heard
}

impl Heard {
    fn listen(&mut self, text: &str) {
        if let Some(name) = runtime_line(text).and_then(|line| line.split(" | ").next()?.split_once("name=")) {
            self.name = Some(name.1.trim().to_owned());
        }
        let words = spoken(text);
        if words.is_empty() {
            return;
        }
        let before = std::mem::replace(&mut self.words, words);
        if !before.is_empty() {
            self.earlier.push(before);
        }
        self.done.clear();
    }

    fn note_calls(&mut self, message: &Value) {
        for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let function = call.get("function").unwrap_or(&Value::Null);
            let arguments = function.get("arguments").and_then(Value::as_str).unwrap_or("");
            self.done.push(Outcome {
                tool: function.get("name").and_then(Value::as_str).unwrap_or("").to_owned(),
                arguments: serde_json::from_str(arguments).unwrap_or(Value::Null),
                // Told by place, as runtimes rewrite the ids of calls.
                result: String::new(),
            });
        }
    }

    /// Results come in the order of the calls; the first one without a result takes it.
    fn note_result(&mut self, _message: &Value, text: String) {
        if let Some(open) = self.done.iter_mut().find(|outcome| outcome.result.is_empty()) {
            open.result = if text.is_empty() { "\n".to_owned() } else { text };
        }
    }
}

/// The text of a message, whether it is a string or a list of parts.
fn content(message: &Value) -> String {
    match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts =
                parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str).or_else(|| part.as_str()));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// The person's own words: without notes, time stamps, message ids and the runtime's line about itself.
pub(super) fn spoken(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(begin) = text.find(NOTE_BEGIN) {
        let end = text[begin..].find(NOTE_END).map_or(text.len(), |at| begin + at + NOTE_END.len());
        text.replace_range(begin..end, "");
    }
    let mut text = text.trim();
    let mut begun_again = false;
    loop {
        if let Some(rest) = without_queue_note(text) {
            (begun_again, text) = (true, rest.trim_start());
        } else if let Some(rest) = without_metadata_block(text).or_else(|| without_stamp(text)) {
            text = rest.trim_start();
        } else {
            break;
        }
    }
    if let Some(line) = runtime_line(text) {
        text = text[..text.len() - line.len()].trim_end();
    }
    if begun_again {
        text = said_once(text);
    }
    let lines = text.lines().filter(|line| !is_message_id(line));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// `Runtime: name=Pip | agent=main | …` as the last line.
fn runtime_line(text: &str) -> Option<&str> {
    let last = text.trim_end().lines().next_back()?;
    let fits = last.starts_with("Runtime: ") && last.contains(" | ") && last.contains('=');
    fits.then(|| &text[text.trim_end().len() - last.len()..])
}

/// `[Sun 2026-11-22 12:30 GMT+1] …`
fn without_stamp(text: &str) -> Option<&str> {
    let (stamp, rest) = text.strip_prefix('[')?.split_once(']')?;
    let digits = stamp.bytes().filter(u8::is_ascii_digit).count();
    let fits = stamp.len() <= STAMP_BYTES_MAX
        && digits >= 8
        && stamp.contains('-')
        && stamp.contains(':')
        && !stamp.contains('\n');
    fits.then_some(rest)
}

/// In front of a message whose turn was cut by a restart; the message follows, then what the turn goes on with.
fn without_queue_note(text: &str) -> Option<&str> {
    text.strip_prefix(QUEUE_NOTE)?.split_once(']').map(|(_, rest)| rest)
}

/// A turn that goes on with the very message that was cut has it twice.
fn said_once(text: &str) -> &str {
    let near_the_middle = |at: &usize| at.abs_diff(text.len() - at) <= STAMP_BYTES_MAX + 4;
    let twice = |at: &usize| {
        let (first, second) = (text[..*at].trim(), text[*at..].trim());
        first == without_stamp(second).unwrap_or(second).trim()
    };
    let middle = text.match_indices("\n\n").map(|(at, _)| at).filter(near_the_middle).find(twice);
    middle.map_or(text, |at| text[..at].trim())
}

/// `Sender (untrusted metadata):` and a fenced block after it.
fn without_metadata_block(text: &str) -> Option<&str> {
    let (first, rest) = text.split_once('\n')?;
    if !first.trim_end().ends_with("metadata):") {
        return None;
    }
    let fenced = rest.trim_start().strip_prefix("```")?;
    fenced.split_once("\n```").map(|(_, after)| after)
}

fn is_message_id(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("[message_id:") && line.ends_with(']')
}

fn name_in(system: &str) -> Option<String> {
    let rest =
        ["Your name is ", "You are called ", "**Name:** "].iter().find_map(|lead| Some(system.split_once(lead)?.1))?;
    let name: String = rest.chars().take_while(|c| !matches!(c, '.' | ',' | '\n' | ';')).take(40).collect();
    (!name.trim().is_empty()).then(|| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_persons_words_are_told_from_the_runtimes() {
        for (text, words) in [
            ("[Sun 2026-11-22 12:20 GMT+1] Hello there\n\nRuntime: name=Pip | agent=main | os=Linux", "Hello there"),
            ("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\nnone\n<<<END_OPENCLAW_INTERNAL_CONTEXT>>>", ""),
            ("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>> cut off", ""),
            ("Sender (untrusted metadata):\n```json\n{}\n```\n\n[2026-11-22 10:00] Hi\n[message_id: 7]", "Hi"),
            ("[x] is a box", "[x] is a box"),
            (
                "[Queued user message from a previous active turn; go on.]\nHi there.\n\n[2026-11-22 10:00] Hi there.",
                "Hi there.",
            ),
            ("[Queued user message from a previous active turn; go on.]\nHi.\n\nRuntime: name=Pip | agent=main", "Hi."),
            ("[Queued user message from a previous active turn; go on.]\nHi.\n\nAnd this?", "Hi.\n\nAnd this?"),
            ("two\n\nlines", "two\n\nlines"),
        ] {
            assert_eq!(spoken(text), words, "{text}");
        }
    }

    #[test]
    fn tool_results_belong_to_the_last_words() {
        let call = |id: &str| json!({ "id": id, "function": { "name": "read", "arguments": "{\"path\":\"a\"}" } });
        let heard = hear(&json!({ "messages": [
            { "role": "system", "content": "Your name is Ada." },
            { "role": "user", "content": "first" },
            { "role": "assistant", "content": null, "tool_calls": [call("c0")] },
            { "role": "tool", "tool_call_id": "other", "content": "old" },
            { "role": "assistant", "content": "done" },
            { "role": "user", "content": [{ "type": "text", "text": "second" }] },
            { "role": "assistant", "tool_calls": [call("c1")] },
            { "role": "tool", "content": [{ "type": "text", "text": "new" }] },
            { "role": "user", "content": "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>x<<<END_OPENCLAW_INTERNAL_CONTEXT>>>" },
        ]}));
        assert_eq!((heard.words.as_str(), heard.earlier.as_slice()), ("second", &["first".to_owned()][..]));
        let outcome = Outcome { tool: "read".into(), arguments: json!({ "path": "a" }), result: "new".into() };
        assert_eq!(heard.done, [outcome]);
        assert_eq!(heard.name.as_deref(), Some("Ada"));
    }

    proptest! {
        #[test]
        fn any_text_can_be_heard(text in "(\\[|\\]|\n|Runtime: |a=b | \\| |<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>|```|metadata\\):|é|\\PC){0,30}") {
            let _ = spoken(&text);
        }
    }
}
