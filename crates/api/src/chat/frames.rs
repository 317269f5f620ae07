//! The chat's frames as the browser sees them: reading what it sends, building what it gets. Pure.
//! Never: a text that Postgres can't keep, or a field of the cell's that browsers have no use for.

use molt_bot::{Decision, Event};
use molt_model::{ConversationId, RunId, Time};
use molt_store::event::EventRow;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// A long message to read; what is longer belongs in a file.
pub(crate) const TEXT_BYTES_MAX: usize = 100_000;
/// A client's own id is a UUID or something like it.
const CLIENT_ID_CHARACTERS_MAX: usize = 128;
/// As the cell names approvals, with room.
const APPROVAL_ID_CHARACTERS_MAX: usize = 200;
/// What `history` answers with unless it is asked for less or more.
pub(crate) const HISTORY_LIMIT: i64 = 50;
pub(crate) const HISTORY_LIMIT_MAX: i64 = 200;
/// A title fits one line of a phone.
const TITLE_CHARACTERS_MAX: usize = 48;

/// What a browser asks for, in the words it sends. The cell has a language of its own (`molt_bot::Op`): there a message
/// carries the run that it is, and nobody asks for history.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FromBrowser {
    Send {
        id: String,
        #[serde(default = "ConversationId::main", deserialize_with = "or_main")]
        conversation: ConversationId,
        text: String,
    },
    Abort {
        run_id: RunId,
    },
    Approve {
        approval_id: String,
        decision: Decision,
    },
    /// Frames with a `seq` below `before`, the newest of them.
    History {
        #[serde(default = "ConversationId::main", deserialize_with = "or_main")]
        conversation: ConversationId,
        limit: Option<i64>,
        before: Option<i64>,
    },
    Resume {
        after: i64,
    },
}

/// A frame that isn't taken; the socket stays open. `id` is the message's own, if it was one.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) id: Option<String>,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), id: None }
    }

    pub(crate) fn of(self, id: &str) -> Self {
        Self { id: Some(id.to_owned()), ..self }
    }

    pub(crate) fn text(&self) -> String {
        let mut frame = json!({ "type": "error", "code": self.code, "message": self.message });
        if let Some(id) = &self.id {
            frame["id"] = json!(id);
        }
        frame.to_string()
    }
}

/// Reads one frame of a browser's.
pub(crate) fn read(text: &str) -> Result<FromBrowser, Refusal> {
    let not_an_object = || Refusal::new("bad_frame", "Send one JSON object with a \"type\".");
    let value: Value = serde_json::from_str(text).map_err(|_| not_an_object())?;
    let Value::Object(fields) = &value else { return Err(not_an_object()) };
    let id = fields.get("id").and_then(Value::as_str).map(str::to_owned);
    let takes = match fields.get("type").and_then(Value::as_str).unwrap_or_default() {
        "send" => "Correct the frame: send takes \"id\", \"text\" and, if it isn't main, \"conversation\".",
        "abort" => "Correct the frame: abort takes \"run_id\", as the ack named it.",
        "approve" => "Correct the frame: approve takes \"approval_id\" and \"decision\": once, always or no.",
        "history" => "Correct the frame: history takes \"conversation\", \"limit\" and \"before\" (a seq).",
        "resume" => "Correct the frame: resume takes \"after\", the last seq that you have seen.",
        _ => "The type is one of send, abort, approve, history and resume.",
    };
    let frame = serde_json::from_value(value).map_err(|_| Refusal::new("bad_frame", takes));
    frame.and_then(checked).map_err(|refusal| Refusal { id, ..refusal })
}

fn checked(frame: FromBrowser) -> Result<FromBrowser, Refusal> {
    match frame {
        FromBrowser::Send { id, conversation, text } => send(id, conversation, text),
        FromBrowser::Approve { approval_id, .. }
            if !(1..=APPROVAL_ID_CHARACTERS_MAX).contains(&approval_id.chars().count()) =>
        {
            Err(Refusal::new("bad_frame", "Send the approval_id as the approval frame named it."))
        }
        other => Ok(other),
    }
}

fn send(id: String, conversation: ConversationId, text: String) -> Result<FromBrowser, Refusal> {
    if !(1..=CLIENT_ID_CHARACTERS_MAX).contains(&id.chars().count()) || id.contains('\0') {
        let message = format!("Give the message an id of your own, 1 to {CLIENT_ID_CHARACTERS_MAX} characters.");
        return Err(Refusal::new("bad_frame", message));
    }
    if text.trim().is_empty() {
        return Err(Refusal::new("empty_text", "Write something first."));
    }
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("A message has at most {TEXT_BYTES_MAX} bytes; send it in parts.");
        return Err(Refusal::new("text_too_long", message));
    }
    Ok(FromBrowser::Send { id, conversation, text: without_nul(text) })
}

fn or_main<'de, D: Deserializer<'de>>(from: D) -> Result<ConversationId, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_else(ConversationId::main))
}

/// The user's own message, without `seq` and `at`.
pub(crate) fn user_message(id: &str, run: RunId, conversation: &ConversationId, text: &str) -> Value {
    json!({
        "type": "message", "role": "user", "message_id": id, "id": id, "content": text, "done": true,
        "run_id": run, "conversation": conversation,
    })
}

/// A cell's event as a browser's frame, without `seq` and `at`.
pub(crate) fn of_event(event: &Event, run: RunId, conversation: &ConversationId) -> Value {
    let mut frame = serde_json::to_value(event).unwrap_or_else(|_| json!({ "type": "unknown" }));
    scrub(&mut frame);
    if let Value::Object(fields) = &mut frame {
        fields.remove("provider_calls");
        name(fields, Some(run), Some(conversation.as_str()));
    }
    frame
}

/// A row of `events` as the browser gets it.
pub(crate) fn of_row(row: EventRow) -> Value {
    let mut frame = match row.body {
        Value::Object(fields) => fields,
        other => Map::from_iter([("type".to_owned(), json!("unknown")), ("body".to_owned(), other)]),
    };
    name(&mut frame, row.run_id.map(RunId), row.conversation.as_deref());
    frame.insert("seq".to_owned(), json!(row.seq));
    frame.insert("at".to_owned(), json!(row.at));
    Value::Object(frame)
}

/// A passing frame (a piece of an open text) as the browser gets it.
pub(crate) fn passing(event: &Event, run: RunId, conversation: &ConversationId, at: Time) -> Value {
    let mut frame = of_event(event, run, conversation);
    frame["at"] = json!(at);
    frame
}

fn name(frame: &mut Map<String, Value>, run: Option<RunId>, conversation: Option<&str>) {
    if let Some(run) = run {
        frame.insert("run_id".to_owned(), json!(run));
    }
    if let Some(conversation) = conversation {
        frame.insert("conversation".to_owned(), json!(conversation));
    }
}

/// The first words of a message, as a title.
pub(crate) fn title_of(text: &str) -> String {
    let mut title = String::new();
    for word in text.split_whitespace() {
        let length = title.chars().count() + usize::from(!title.is_empty()) + word.chars().count();
        if length > TITLE_CHARACTERS_MAX {
            if title.is_empty() {
                title.extend(word.chars().take(TITLE_CHARACTERS_MAX - 1));
            }
            title.push('…');
            return title;
        }
        if !title.is_empty() {
            title.push(' ');
        }
        title.push_str(word);
    }
    title
}

/// Postgres keeps no NUL in a text.
pub(crate) fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

fn scrub(value: &mut Value) {
    match value {
        Value::String(text) => *text = without_nul(std::mem::take(text)),
        Value::Array(items) => items.iter_mut().for_each(scrub),
        Value::Object(fields) => {
            if fields.keys().any(|key| key.contains('\0')) {
                *fields = std::mem::take(fields).into_iter().map(|(key, item)| (without_nul(key), item)).collect();
            }
            fields.values_mut().for_each(scrub);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use molt_bot::{Role, RunPhase, Text};

    #[test]
    fn frames_that_are_taken() {
        let run = RunId::random();
        let main = ConversationId::main;
        let other: ConversationId = "c-1".parse().unwrap();
        let cases = [
            (
                json!({"type": "send", "id": "a", "text": "hi\0"}),
                FromBrowser::Send { id: "a".into(), conversation: main(), text: "hi\u{fffd}".into() },
            ),
            (
                json!({"type": "send", "id": "a", "conversation": "c-1", "text": "hi", "more": 1}),
                FromBrowser::Send { id: "a".into(), conversation: other.clone(), text: "hi".into() },
            ),
            (json!({"type": "abort", "run_id": run}), FromBrowser::Abort { run_id: run }),
            (
                json!({"type": "approve", "approval_id": "p", "decision": "always"}),
                FromBrowser::Approve { approval_id: "p".into(), decision: Decision::Always },
            ),
            (json!({"type": "history"}), FromBrowser::History { conversation: main(), limit: None, before: None }),
            (
                json!({"type": "history", "conversation": "c-1", "limit": 9999, "before": 7}),
                FromBrowser::History { conversation: other, limit: Some(9999), before: Some(7) },
            ),
            (
                json!({"type": "history", "conversation": null, "limit": null, "before": null}),
                FromBrowser::History { conversation: main(), limit: None, before: None },
            ),
            (json!({"type": "resume", "after": -3}), FromBrowser::Resume { after: -3 }),
        ];
        for (frame, expected) in cases {
            assert_eq!(read(&frame.to_string()), Ok(expected), "{frame}");
        }
    }

    #[test]
    fn frames_that_are_refused_say_what_to_do() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let cases = [
            ("", "bad_frame", None),
            ("[]", "bad_frame", None),
            ("{}", "bad_frame", None),
            (r#"{"type":"dance","id":"i"}"#, "bad_frame", Some("i")),
            (r#"{"type":"send","text":"x"}"#, "bad_frame", None),
            (r#"{"type":"send","id":7,"text":"x"}"#, "bad_frame", None),
            (r#"{"type":"send","id":"","text":"x"}"#, "bad_frame", Some("")),
            (r#"{"type":"send","id":"i","text":"x","conversation":"A B"}"#, "bad_frame", Some("i")),
            (r#"{"type":"send","id":"i","text":" \n"}"#, "empty_text", Some("i")),
            (&format!(r#"{{"type":"send","id":"i","text":"{long}"}}"#), "text_too_long", Some("i")),
            (r#"{"type":"abort","run_id":"nope"}"#, "bad_frame", None),
            (r#"{"type":"approve","approval_id":"p","decision":"maybe"}"#, "bad_frame", None),
            (r#"{"type":"resume"}"#, "bad_frame", None),
            (r#"{"type":"resume","after":"3"}"#, "bad_frame", None),
        ];
        for (frame, code, id) in cases {
            let refusal = read(frame).unwrap_err();
            assert_eq!((refusal.code, refusal.id.as_deref()), (code, id), "{frame:.60}");
            let shown: Value = serde_json::from_str(&refusal.text()).unwrap();
            assert_eq!(shown["type"], "error");
            assert!(refusal.message.ends_with('.'), "{}", refusal.message);
        }
    }

    #[test]
    fn titles_are_the_first_words() {
        let cases = [
            ("  hello\n  there ", "hello there"),
            (
                "please write down that the wifi password is on the fridge",
                "please write down that the wifi password is on…",
            ),
            ("", ""),
        ];
        for (text, title) in cases {
            assert_eq!(title_of(text), title);
        }
        assert_eq!(title_of(&"ä".repeat(100)).chars().count(), TITLE_CHARACTERS_MAX);
    }

    #[test]
    fn what_a_cell_says_is_cleaned_for_the_database_and_the_browser() {
        let run = RunId::random();
        let main = ConversationId::main();
        let call = Event::ToolCall { call_id: "c".into(), tool: "t".into(), args: json!({"a\0": ["b\0", 1]}) };
        let frame = of_event(&call, run, &main);
        let expected = json!({"type": "tool_call", "call_id": "c", "tool": "t",
            "args": {"a\u{fffd}": ["b\u{fffd}", 1]}, "run_id": run, "conversation": "main"});
        assert_eq!(frame, expected);
        let end = Event::Run { phase: RunPhase::Finished, model: None, provider_calls: Some(3), error: None };
        assert_eq!(
            of_event(&end, run, &main),
            json!({"type": "run", "phase": "finished", "run_id": run, "conversation": "main"})
        );
        let text = Text::SoFar("he".into());
        let piece = Event::Message { role: Role::Assistant, message_id: "m".into(), text };
        let at: Time = "2026-11-22T10:00:00Z".parse().unwrap();
        assert_eq!(
            passing(&piece, run, &main, at),
            json!({"type": "message", "role": "assistant", "message_id": "m", "content": "he", "done": false,
                "run_id": run, "conversation": "main", "at": "2026-11-22T10:00:00Z"})
        );
    }
}
