//! The texts that are being written just now: what was said so far of each, so that whoever joins sees it once and whole.
//! Pure.
//! Never: a piece of a text whose whole has gone out already.

use std::collections::VecDeque;

use molt_bot::{Event, Frame, Text};
use molt_model::{ConversationId, RunId, Time};
use molt_store::event::EventRow;
use serde_json::Value;

use crate::chat::frames;

/// A turn writes one or two texts at a time; a bot that opens more is not ours to remember.
const TEXTS_MAX: usize = 64;
/// The cell cuts a text at 2 MiB. Beyond this sum, pieces only pass; their whole comes at the end.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// A piece can trail behind its whole only as long as two processes read one cell at different speeds.
const CLOSED_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Message,
    Thinking,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    run: RunId,
    /// `None` in `closed`: all texts of the run.
    text: Option<(Kind, String)>,
}

struct OpenText {
    key: Key,
    conversation: ConversationId,
    at: Time,
    /// The latest piece, of which the shape is taken.
    event: Event,
    so_far: String,
}

/// The open texts of one bot.
#[derive(Default)]
pub(crate) struct OpenTexts {
    texts: Vec<OpenText>,
    closed: VecDeque<Key>,
}

impl OpenTexts {
    /// Adds a piece. False: its text is complete already, so nobody may see the piece.
    pub(crate) fn add(&mut self, frame: &Frame) -> bool {
        let Some((kind, id, text)) = piece(&frame.event) else { return true };
        let key = Key { run: frame.run_id, text: Some((kind, id.to_owned())) };
        if self.closed.iter().any(|closed| *closed == key || (closed.run == key.run && closed.text.is_none())) {
            return false;
        }
        let others: usize = self.texts.iter().filter(|open| open.key != key).map(|open| open.so_far.len()).sum();
        let index = self.texts.iter().position(|open| open.key == key);
        let index = match index {
            Some(index) => index,
            None if self.texts.len() >= TEXTS_MAX => return true,
            None => {
                let (conversation, at, event) = (frame.conversation.clone(), frame.at, frame.event.clone());
                self.texts.push(OpenText { key, conversation, at, event, so_far: String::new() });
                self.texts.len() - 1
            }
        };
        let open = &mut self.texts[index];
        let so_far = match text {
            Text::Delta(delta) => {
                open.so_far.push_str(delta);
                &open.so_far
            }
            Text::SoFar(content) | Text::Done(content) => {
                open.so_far.clone_from(content);
                content
            }
        };
        if others + so_far.len() > BYTES_MAX {
            self.texts.remove(index);
        }
        true
    }

    /// A finished frame closes its text; the frame that ends a run closes all of the run's.
    pub(crate) fn close(&mut self, row: &EventRow) {
        let Some(run) = row.run_id.map(RunId) else { return };
        let word = |name: &str| row.body.get(name).and_then(Value::as_str);
        let text = |kind: Kind| word("message_id").map(|id| Key { run, text: Some((kind, id.to_owned())) });
        let key = match (word("type"), word("phase")) {
            (Some("message"), _) => text(Kind::Message),
            (Some("thinking"), _) => text(Kind::Thinking),
            (Some("run"), Some("finished" | "failed" | "aborted")) => Some(Key { run, text: None }),
            _ => None,
        };
        let Some(key) = key else { return };
        self.texts.retain(|open| open.key != key && (open.key.run != run || key.text.is_some()));
        if self.closed.len() >= CLOSED_MAX {
            self.closed.pop_front();
        }
        self.closed.push_back(key);
    }

    /// A conversation that is being deleted has no open texts any more.
    pub(crate) fn forget(&mut self, conversation: &ConversationId) {
        self.texts.retain(|open| open.conversation != *conversation);
    }

    /// All open texts as browser's frames, each with its text so far.
    pub(crate) fn snapshot(&self) -> Vec<Value> {
        self.texts.iter().map(OpenText::frame).collect()
    }
}

impl OpenText {
    fn frame(&self) -> Value {
        let mut event = self.event.clone();
        if let Event::Message { text, .. } | Event::Thinking { text, .. } = &mut event {
            *text = Text::SoFar(self.so_far.clone());
        }
        frames::passing(&event, self.key.run, &self.conversation, self.at)
    }
}

fn piece(event: &Event) -> Option<(Kind, &str, &Text)> {
    match event {
        Event::Message { message_id, text, .. } => Some((Kind::Message, message_id, text)),
        Event::Thinking { message_id, text } => Some((Kind::Thinking, message_id, text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use molt_bot::Role;
    use serde_json::json;

    fn said(run: RunId, id: &str, text: Text) -> Frame {
        let event = Event::Message { role: Role::Assistant, message_id: id.into(), text };
        let at = "2026-11-22T10:00:00Z".parse().unwrap();
        Frame { cell_seq: None, run_id: run, conversation: ConversationId::main(), at, event }
    }

    fn row(run: RunId, body: Value) -> EventRow {
        let at = "2026-11-22T10:00:00Z".parse().unwrap();
        let kind = "chat".to_owned();
        EventRow { id: 1, kind, bot_id: None, seq: Some(1), conversation: None, run_id: Some(run.0), body, at }
    }

    fn contents(open: &OpenTexts) -> Vec<String> {
        open.snapshot().iter().map(|frame| frame["content"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_text_grows_is_replaced_and_closes() {
        let run = RunId::random();
        let mut open = OpenTexts::default();
        assert!(open.add(&said(run, "m1", Text::Delta("he".into()))));
        assert!(open.add(&said(run, "m1", Text::Delta("llo".into()))));
        assert!(open.add(&said(run, "m2", Text::Delta("x".into()))));
        assert_eq!(contents(&open), ["hello", "x"]);
        assert!(open.add(&said(run, "m1", Text::SoFar("Hel".into()))));
        assert_eq!(contents(&open), ["Hel", "x"]);
        assert_eq!(open.snapshot()[0]["done"], false);
        open.close(&row(run, json!({"type": "message", "role": "assistant", "message_id": "m1", "content": "Hello"})));
        assert_eq!(contents(&open), ["x"]);
        assert!(!open.add(&said(run, "m1", Text::Delta("late".into()))));
        open.close(&row(run, json!({"type": "run", "phase": "started"})));
        assert_eq!(contents(&open), ["x"]);
        open.close(&row(run, json!({"type": "run", "phase": "failed"})));
        assert!(contents(&open).is_empty());
        assert!(!open.add(&said(run, "m2", Text::Delta("late".into()))));
        assert!(!open.add(&said(run, "m3", Text::Delta("late".into()))));
        assert!(open.add(&said(RunId::random(), "m1", Text::Delta("other".into()))));
        open.forget(&"c-1".parse().unwrap());
        assert_eq!(contents(&open), ["other"]);
        open.forget(&ConversationId::main());
        assert!(contents(&open).is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut open = OpenTexts::default();
        for index in 0..200 {
            assert!(open.add(&said(RunId::random(), &index.to_string(), Text::Delta("x".into()))));
        }
        assert_eq!(open.snapshot().len(), TEXTS_MAX);
        let mut open = OpenTexts::default();
        let run = RunId::random();
        for _ in 0..9 {
            assert!(open.add(&said(run, "m", Text::Delta("x".repeat(1024 * 1024)))));
        }
        assert!(contents(&open).is_empty());
    }
}
