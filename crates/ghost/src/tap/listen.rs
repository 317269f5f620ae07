//! What the events of each family of streams mean for the books.
//! Never: a figure from inside the words of a model; reports are read where the provider puts them.

use memchr::{memchr, memmem};
use molt_model::TokenUsage;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Finder;
use crate::surface::{Style, Surface};
use crate::usage::{Report, after_colon, last_report};

static DELTA: Finder = Finder::new(|| memmem::Finder::new(b"\"delta\""));
static FINISH: Finder = Finder::new(|| memmem::Finder::new(b"\"finish_reason\""));
static STOP: Finder = Finder::new(|| memmem::Finder::new(b"\"stop_reason\""));
static USAGE: Finder = Finder::new(|| memmem::Finder::new(b"\"usage\""));
static CHOICES: Finder = Finder::new(|| memmem::Finder::new(b"\"choices\""));

/// What was heard of a stream.
#[derive(Debug)]
pub(super) struct Listener {
    surface: Surface,
    pub(super) pieces: i64,
    pub(super) usage: Option<TokenUsage>,
    pub(super) so_far: Option<TokenUsage>,
    pub(super) done: bool,
    pub(super) finished: bool,
}

#[derive(Deserialize)]
struct Piece {
    #[serde(default)]
    choices: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    usage: Option<Report>,
}

/// Whether the beginning of a chat event leaves it open that it carries only the usage.
pub(super) fn may_be_usage(beginning: &[u8]) -> bool {
    let Some(at) = CHOICES.find(beginning) else { return true };
    let Some(from) = after_colon(beginning, at + CHOICES.needle().len()) else { return true };
    let inside = beginning[from..].strip_prefix(b"[").unwrap_or(b"").trim_ascii_start();
    !inside.starts_with(b"{")
}

impl Listener {
    pub(super) fn new(surface: Surface) -> Self {
        Self { surface, pieces: 0, usage: None, so_far: None, done: false, finished: false }
    }

    /// Whether the event carries the usage and nothing else.
    pub(super) fn event(&mut self, event: &[u8]) -> bool {
        let (mut usage, mut other) = (false, false);
        let mut rest = event;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            let (line, later) = rest.split_at(end);
            rest = later;
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let only_usage = self.data(data.trim_ascii());
            usage |= only_usage;
            other |= !only_usage;
        }
        usage && !other
    }

    /// An event of which only the beginning and the end are there.
    pub(super) fn long_event(&mut self, head: &[u8], tail: &[u8]) {
        let data = memmem::find(head, b"data:").map_or(&[][..], |at| head[at + 5..].trim_ascii_start());
        match self.surface {
            Surface::Chat | Surface::Embeddings | Surface::CountTokens => {
                self.pieces += i64::from(DELTA.find(data).is_some());
                self.finished |= is_text(tail, &FINISH);
                if let Some(tokens) = last_report(tail, 1).and_then(|report| report.tokens(Style::OpenAi)) {
                    self.report(tokens, false);
                }
            }
            Surface::Responses => self.responses(data, tail),
            Surface::Messages => self.messages(data, tail),
        }
    }

    fn data(&mut self, data: &[u8]) -> bool {
        if data == b"[DONE]" {
            self.done = true;
            return false;
        }
        match self.surface {
            Surface::Chat | Surface::Embeddings | Surface::CountTokens => return self.chat(data),
            Surface::Responses => self.responses(data, data),
            Surface::Messages => self.messages(data, data),
        }
        false
    }

    fn chat(&mut self, data: &[u8]) -> bool {
        let said = DELTA.find(data).is_some_and(|at| !is_empty_object(data, at + DELTA.needle().len()));
        self.pieces += i64::from(said);
        self.finished = self.finished || is_text(data, &FINISH);
        if !has_object(data, &USAGE) {
            return false;
        }
        let Ok(Piece { choices, usage: Some(report) }) = serde_json::from_slice(data) else { return false };
        let Some(tokens) = report.tokens(Style::OpenAi) else { return false };
        let only_usage = choices.is_none_or(|choices| choices.is_empty());
        self.report(tokens, only_usage);
        only_usage
    }

    /// Some providers say with every piece how much it was so far. Only what comes at the end is final.
    fn report(&mut self, tokens: TokenUsage, only_usage: bool) {
        self.so_far = Some(tokens);
        if only_usage || self.finished {
            self.usage = Some(tokens);
        }
    }

    /// `tail` is the end of `head`'s event.
    fn responses(&mut self, head: &[u8], tail: &[u8]) {
        let Some(kind) = kind(head) else { return };
        let kind = kind.as_ref();
        self.pieces += i64::from(kind.ends_with(b".delta"));
        let ended = matches!(kind, b"response.completed" | b"response.incomplete");
        if ended || kind == b"response.failed" {
            self.usage = last_report(tail, 2).and_then(|report| report.tokens(Style::OpenAi));
            self.so_far = self.usage;
            self.finished |= ended;
            self.done = true;
        }
    }

    fn messages(&mut self, head: &[u8], tail: &[u8]) {
        let Some(kind) = kind(head) else { return };
        match kind.as_ref() {
            b"content_block_delta" => self.pieces += 1,
            b"message_start" => {
                self.so_far = last_report(tail, 2).and_then(|report| report.tokens(Style::Anthropic));
            }
            b"message_delta" => {
                self.finished |= is_text(tail, &STOP);
                if let Some(tokens) = last_report(tail, 1).and_then(|report| report.tokens(Style::Anthropic)) {
                    let tokens = later(self.so_far.unwrap_or_default(), tokens);
                    self.so_far = Some(tokens);
                    self.usage = Some(tokens);
                }
            }
            b"message_stop" => self.done = true,
            _ => {}
        }
    }
}

/// The last report counts; but most don't say the input again, which stood in the first.
fn later(first: TokenUsage, last: TokenUsage) -> TokenUsage {
    let input = if last.input > 0 { last } else { first };
    TokenUsage {
        input: input.input,
        cache_read: input.cache_read,
        cache_write: input.cache_write,
        output: last.output.max(first.output),
        reasoning: last.reasoning.max(first.reasoning),
    }
}

/// The `type` of an event's data.
fn kind(data: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    let first = data.strip_prefix(b"{\"type\":\"").or_else(|| data.strip_prefix(b"{\"type\": \""));
    if let Some(rest) = first {
        return memchr(b'"', rest).map(|end| rest[..end].into());
    }
    serde_json::from_slice(data).ok().map(|Kind { kind }| kind.into_bytes().into())
}

/// Whether the value of the key is a text.
fn is_text(data: &[u8], key: &Finder) -> bool {
    key.find_iter(data).any(|at| after_colon(data, at + key.needle().len()).is_some_and(|from| data[from] == b'"'))
}

fn has_object(data: &[u8], key: &Finder) -> bool {
    key.find_iter(data).any(|at| after_colon(data, at + key.needle().len()).is_some_and(|from| data[from] == b'{'))
}

fn is_empty_object(data: &[u8], after_key: usize) -> bool {
    let inside = after_colon(data, after_key).and_then(|from| data[from..].strip_prefix(b"{"));
    inside.is_some_and(|inside| inside.trim_ascii_start().starts_with(b"}"))
}
