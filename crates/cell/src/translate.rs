//! The runtime's frames of one run → our event language. Pure: no clock, no I/O, so that recorded frames are its test.
//! Never: pass on the runtime's own error texts (they speak of its command line and its provider accounts), or its
//! session objects.

use std::collections::{HashMap, HashSet};

use molt_bot::{Event, Role, RunError, RunPhase, Text};
use serde_json::Value;

use crate::failure;
use crate::tools;

/// The prefix that `molt_bot::runtime_model` puts before our model names.
const PROVIDER_PREFIX: &str = "molt/";
/// A finished text longer than this is cut: the wire, the database and the page all have their limits.
const TEXT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Follows one run.
#[derive(Debug, Default)]
pub struct Translator {
    started: bool,
    ended: bool,
    model: Option<String>,
    /// The last reason the runtime gave for a failed model call.
    failure: Option<String>,
    message: Option<OpenText>,
    thinking: Option<OpenText>,
    /// How many texts there were, for their ids.
    texts: u32,
    last_message: Option<String>,
    /// The runtime's ids of finished texts: what it repeats of them is no news.
    items: HashSet<String>,
    /// The last answer alone; the final message repeats earlier texts in front of it.
    reply: Option<String>,
    calls: HashMap<String, Call>,
    calls_seen: HashMap<String, u32>,
}

#[derive(Debug)]
struct OpenText {
    message_id: String,
    /// The runtime's id of the text, when it gives one.
    item: Option<String>,
    text: String,
}

#[derive(Debug)]
struct Call {
    call_id: String,
    tool: String,
    args: Value,
    /// The envelope around a deferred tool: not shown, unless nothing is inside.
    envelope: bool,
    opened: bool,
}

impl Translator {
    /// Goes on with a run whose finished events are already known, after the cell was restarted.
    #[must_use]
    pub fn resume<'a>(events: impl Iterator<Item = &'a Event>) -> Self {
        let mut translator = Self::default();
        for event in events {
            translator.recall(event);
        }
        translator
    }

    fn recall(&mut self, event: &Event) {
        match event {
            Event::Run { phase, model, .. } => {
                self.started = true;
                self.ended |= event.ends_run();
                if matches!(phase, RunPhase::Model | RunPhase::Fallback) {
                    self.model.clone_from(model);
                }
            }
            Event::Message { text: Text::Done(content), .. } => {
                self.texts += 1;
                self.last_message = Some(content.clone());
            }
            Event::Thinking { .. } => self.texts += 1,
            Event::ToolCall { call_id, tool, args } => {
                let key = call_id.split('#').next().unwrap_or(call_id).to_owned();
                *self.calls_seen.entry(key.clone()).or_default() += 1;
                let call = Call {
                    call_id: call_id.clone(),
                    tool: tool.clone(),
                    args: args.clone(),
                    envelope: false,
                    opened: true,
                };
                self.calls.insert(key, call);
            }
            Event::ToolResult { call_id, .. } => self.calls.retain(|_, call| call.call_id != *call_id),
            Event::Message { .. } | Event::MemoryAccess { .. } | Event::Approval { .. } => {}
        }
    }

    /// The run has had its last event.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The open texts as they are so far, for a reader who joins now.
    #[must_use]
    pub fn open_texts(&self) -> Vec<Event> {
        let thinking = self
            .thinking
            .iter()
            .map(|open| Event::Thinking { message_id: open.message_id.clone(), text: Text::SoFar(open.text.clone()) });
        let message = self.message.iter().map(|open| message(&open.message_id, Text::SoFar(open.text.clone())));
        thinking
            .chain(message)
            .filter(|event| !matches!(event, Event::Message { text: Text::SoFar(t), .. } if t.is_empty()))
            .collect()
    }

    /// The run goes on after a crash: what was open is void, what was called is answered with the truth.
    pub fn interrupt(&mut self) -> Vec<Event> {
        let mut events = self.begin();
        self.message = None;
        self.thinking = None;
        let mut open: Vec<Call> = self.calls.drain().map(|(_, call)| call).filter(|call| call.opened).collect();
        open.sort_by(|a, b| a.call_id.cmp(&b.call_id));
        events.extend(open.into_iter().map(|call| Event::ToolResult {
            call_id: call.call_id,
            tool: call.tool,
            result: "Interrupted by a restart; whether it took effect isn't known.".into(),
            success: false,
        }));
        events.push(run(RunPhase::Resumed));
        events
    }

    /// Ends the run from outside: the runtime will say nothing more about it.
    pub fn end(&mut self, phase: RunPhase, error: Option<RunError>) -> Vec<Event> {
        if self.ended {
            return Vec::new();
        }
        let mut events = self.begin();
        events.extend(self.finish_thinking());
        events.extend(self.finish_message(None));
        events.push(Event::Run { phase, model: None, provider_calls: None, error });
        self.ended = true;
        events
    }

    /// An answer that the frames didn't bring, found in the history: shown unless it was shown already.
    pub fn answer(&mut self, content: &str) -> Vec<Event> {
        let mut events = self.begin();
        if self.last_message.as_deref().is_none_or(|last| last.trim() != content.trim()) {
            events.extend(self.finish_thinking());
            events.extend(self.finish_message(Some(content)));
        }
        events
    }

    /// One frame of this run.
    pub fn frame(&mut self, event: &str, payload: &Value) -> Vec<Event> {
        if self.ended {
            return Vec::new();
        }
        match event {
            "chat" => self.chat(payload),
            "agent" => self.agent(payload),
            _ => Vec::new(),
        }
    }

    fn chat(&mut self, payload: &Value) -> Vec<Event> {
        match payload["state"].as_str() {
            Some("final") => {
                let text = self.reply.take().or_else(|| message_text(&payload["message"]));
                let mut events = self.begin();
                events.extend(self.finish_thinking());
                events.extend(self.finish_message(text.as_deref()));
                self.ended = true;
                events.push(run(RunPhase::Finished));
                events
            }
            Some("aborted") => self.end(RunPhase::Aborted, None),
            Some("error") => {
                let kind = payload["errorKind"].as_str().or(self.failure.as_deref());
                let error = failure::describe(kind.unwrap_or_default());
                self.end(RunPhase::Failed, Some(error))
            }
            _ => Vec::new(),
        }
    }

    fn agent(&mut self, payload: &Value) -> Vec<Event> {
        let data = &payload["data"];
        match payload["stream"].as_str() {
            Some("lifecycle") => self.lifecycle(data),
            Some("thinking") => self.thinking(data),
            Some("assistant") => self.assistant(data),
            Some("item") if data["kind"] == "preamble" => self.preamble(data),
            Some("tool") => match data["phase"].as_str() {
                Some("start") => self.tool_start(data),
                Some("result") => self.tool_result(data),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn begin(&mut self) -> Vec<Event> {
        if std::mem::replace(&mut self.started, true) { Vec::new() } else { vec![run(RunPhase::Started)] }
    }

    fn lifecycle(&mut self, data: &Value) -> Vec<Event> {
        if let Some(reason) =
            data["errorObservation"]["failoverReason"].as_str().or(data["fallbackStepFromFailureReason"].as_str())
        {
            self.failure = Some(reason.to_owned());
        }
        if let Some(reply) = data["terminalReply"]["text"].as_str() {
            self.reply = Some(reply.to_owned());
        }
        match data["phase"].as_str() {
            Some("start") => self.begin(),
            Some("model") => {
                let Some(model) = data["model"].as_str().map(own_name) else { return Vec::new() };
                self.model_event(RunPhase::Model, model)
            }
            Some("fallback_step") => {
                let Some(model) = data["fallbackStepToModel"].as_str().map(own_name) else { return Vec::new() };
                self.model_event(RunPhase::Fallback, model)
            }
            _ => Vec::new(),
        }
    }

    fn model_event(&mut self, phase: RunPhase, model: &str) -> Vec<Event> {
        // Once the answer streams, the runtime names the model as the provider does: without our `provider/`.
        let named = |known: &str| known == model || known.rsplit_once('/').is_some_and(|(_, name)| name == model);
        if self.model.as_deref().is_some_and(named) {
            return Vec::new();
        }
        self.model = Some(model.to_owned());
        let mut events = self.begin();
        events.push(Event::Run { phase, model: Some(model.to_owned()), provider_calls: None, error: None });
        events
    }

    fn thinking(&mut self, data: &Value) -> Vec<Event> {
        let Some(text) = data["text"].as_str() else { return Vec::new() };
        let mut events = self.begin();
        // Each model call thinks anew, without an id: a text that doesn't go on is a new one.
        if self.thinking.as_ref().is_some_and(|open| !text.starts_with(&open.text)) {
            events.extend(self.finish_thinking());
        }
        if self.thinking.is_none() {
            let message_id = self.next_id("thinking");
            self.thinking = Some(OpenText { message_id, item: None, text: String::new() });
        }
        let open = self.thinking.as_mut().expect("just set");
        let message_id = open.message_id.clone();
        events.extend(open.grow(text).map(|text| Event::Thinking { message_id, text }));
        events
    }

    fn assistant(&mut self, data: &Value) -> Vec<Event> {
        let Some(text) = data["text"].as_str() else { return Vec::new() };
        self.message_text(data["itemId"].as_str(), text)
    }

    /// What the assistant says before it uses a tool. It may have begun as an ordinary text, under another id.
    fn preamble(&mut self, data: &Value) -> Vec<Event> {
        let (Some(text), Some(item)) = (data["progressText"].as_str(), data["itemId"].as_str()) else {
            return Vec::new();
        };
        let begun = self.message.as_ref().filter(|open| text.starts_with(&open.text) || open.text.starts_with(text));
        let item = begun.and_then(|open| open.item.clone()).unwrap_or_else(|| item.to_owned());
        let mut events = self.message_text(Some(&item), text);
        if data["phase"] == "end" {
            events.extend(self.finish_message(None));
        }
        events
    }

    fn message_text(&mut self, item: Option<&str>, text: &str) -> Vec<Event> {
        if item.is_some_and(|item| self.items.contains(item)) {
            return Vec::new();
        }
        let mut events = self.begin();
        events.extend(self.finish_thinking());
        if self.message.as_ref().is_some_and(|open| open.item.as_deref() != item) {
            events.extend(self.finish_message(None));
        }
        if self.message.is_none() {
            if text.is_empty() {
                return events;
            }
            let message_id = self.next_id("message");
            self.message = Some(OpenText { message_id, item: item.map(str::to_owned), text: String::new() });
        }
        let open = self.message.as_mut().expect("just set");
        let message_id = open.message_id.clone();
        events.extend(open.grow(text).map(|text| message(&message_id, text)));
        events
    }

    fn finish_thinking(&mut self) -> Option<Event> {
        let open = self.thinking.take()?;
        Some(Event::Thinking { message_id: open.message_id, text: Text::Done(cut(open.text, TEXT_BYTES_MAX)) })
    }

    /// Ends the open message, with the runtime's own last word for it where there is one.
    fn finish_message(&mut self, last_word: Option<&str>) -> Option<Event> {
        let open = self.message.take();
        let content = match (last_word.filter(|text| !text.is_empty()), &open) {
            (Some(text), _) => text.to_owned(),
            (None, Some(open)) if !open.text.is_empty() => open.text.clone(),
            _ => return None,
        };
        self.items.extend(open.as_ref().and_then(|open| open.item.clone()));
        let message_id = open.map_or_else(|| self.next_id("message"), |open| open.message_id);
        let content = cut(content, TEXT_BYTES_MAX);
        self.last_message = Some(content.clone());
        Some(message(&message_id, Text::Done(content)))
    }

    fn next_id(&mut self, kind: &str) -> String {
        self.texts += 1;
        format!("{kind}-{}", self.texts)
    }

    fn tool_start(&mut self, data: &Value) -> Vec<Event> {
        let (Some(key), Some(tool)) = (data["toolCallId"].as_str(), data["name"].as_str()) else { return Vec::new() };
        let mut events = self.begin();
        events.extend(self.finish_thinking());
        events.extend(self.finish_message(None));
        if let Some(envelope) = data["parentToolCallId"].as_str().and_then(|parent| self.calls.get_mut(parent)) {
            envelope.opened = true;
        }
        let call = self.new_call(key, tool, data["args"].clone());
        events.extend(call.then(|| self.calls[key].event()));
        events
    }

    /// Notes a call; true when it is to be shown.
    fn new_call(&mut self, key: &str, tool: &str, args: Value) -> bool {
        let seen = self.calls_seen.entry(key.to_owned()).or_default();
        *seen += 1;
        // Some models number their calls from one in every answer; within a run an id must name one call.
        let call_id = if *seen == 1 { key.to_owned() } else { format!("{key}#{seen}") };
        let envelope = tool == tools::ENVELOPE;
        let call = Call { call_id, tool: tool.to_owned(), args: tools::shown_args(args), envelope, opened: !envelope };
        self.calls.insert(key.to_owned(), call);
        !envelope
    }

    fn tool_result(&mut self, data: &Value) -> Vec<Event> {
        let Some(key) = data["toolCallId"].as_str() else { return Vec::new() };
        let mut events = self.begin();
        if !self.calls.contains_key(key) {
            // Started while nobody listened.
            let tool = data["name"].as_str().unwrap_or("tool");
            if self.new_call(key, tool, Value::Null) {
                events.push(self.calls[key].event());
            }
        }
        let mut call = self.calls.remove(key).expect("just ensured");
        if call.envelope {
            if call.opened {
                return events;
            }
            // The envelope named a tool that doesn't exist: nothing else will tell.
            if let Some(inner) = call.args["id"].as_str() {
                call.tool = inner.to_owned();
            }
            events.push(call.event());
        }
        let result = tools::result_text(&data["result"]);
        let success = data["isError"] != Value::Bool(true);
        if success {
            events.extend(tools::memory_access(&call.tool, &call.args, &result));
        }
        let shown = cut(result, tools::RESULT_BYTES_MAX);
        let result = Event::ToolResult { call_id: call.call_id, tool: call.tool, result: shown, success };
        events.push(result);
        events
    }
}

impl OpenText {
    /// Takes the whole text so far; what is new of it.
    fn grow(&mut self, text: &str) -> Option<Text> {
        if text == self.text {
            return None;
        }
        let news = match text.strip_prefix(self.text.as_str()) {
            Some(delta) => Text::Delta(delta.to_owned()),
            None => Text::SoFar(text.to_owned()),
        };
        text.clone_into(&mut self.text);
        Some(news)
    }
}

impl Call {
    fn event(&self) -> Event {
        Event::ToolCall { call_id: self.call_id.clone(), tool: self.tool.clone(), args: self.args.clone() }
    }
}

fn run(phase: RunPhase) -> Event {
    Event::Run { phase, model: None, provider_calls: None, error: None }
}

fn message(message_id: &str, text: Text) -> Event {
    Event::Message { role: Role::Assistant, message_id: message_id.to_owned(), text }
}

fn own_name(model: &str) -> &str {
    model.strip_prefix(PROVIDER_PREFIX).unwrap_or(model)
}

/// The text blocks of a message of the runtime; none when it has no text.
#[must_use]
pub fn message_text(message: &Value) -> Option<String> {
    let text = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str()).collect()
        }
        _ => return None,
    };
    (!text.trim().is_empty()).then_some(text)
}

/// Cuts at a character's border, and says so.
#[must_use]
pub fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n… (cut)");
    }
    text
}
