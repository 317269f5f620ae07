//! Looks into a stream of server-sent events for the usage, the end mark and how much was said, while the bytes pass by.
//! Never: hold bytes back, except the event in progress when it may be the one that must be taken out again; or keep
//! more of an event than its beginning and its end.

mod listen;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use memchr::{memchr, memmem};
use molt_model::TokenUsage;

use crate::surface::Surface;
use listen::{Listener, may_be_usage};

pub(crate) use crate::usage::whole;

/// Of an event that arrives in pieces. A longer one is only looked at where it begins and where it ends.
const EVENT_BYTES_MAX: usize = 64 * 1024;
const HEAD_BYTES: usize = 512;
const TAIL_BYTES: usize = 16 * 1024;
/// No event that only carries a usage is longer, so nothing longer is held back.
const HELD_BYTES_MAX: usize = 4 * 1024;

/// The listener on one stream.
#[derive(Debug)]
pub(crate) struct Tap {
    listener: Listener,
    /// The caller didn't ask for the usage: the event that only carries it is taken out.
    strip: bool,
    /// The event in progress, or the end of a long one.
    carry: Vec<u8>,
    /// The beginning of a long one.
    head: Vec<u8>,
    /// `carry` wasn't handed on yet.
    held: bool,
}

impl Tap {
    /// `strip`: take the usage out. Only chat completions have an event that nobody asked for.
    pub(crate) fn new(surface: Surface, strip: bool) -> Self {
        Self {
            listener: Listener::new(surface),
            strip: strip && surface == Surface::Chat,
            carry: Vec::new(),
            head: Vec::new(),
            held: false,
        }
    }

    /// Takes what came from the provider and gives what goes to the caller: the very same bytes, mostly.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Bytes {
        let mut passed = Passed { chunk: &chunk, from: 0, joined: None };
        let mut at = 0;
        if !self.carry.is_empty() {
            let Some(end) = self.boundary(&chunk) else {
                self.carry.extend_from_slice(&chunk);
                return self.still_in_progress(chunk);
            };
            self.carry.extend_from_slice(&chunk[..end]);
            let only_usage = self.end_event();
            if self.held {
                passed.from = end;
                passed.joined = (!only_usage).then(|| std::mem::take(&mut self.carry));
            }
            self.carry.clear();
            self.held = false;
            at = end;
        }
        while let Some(end) = event_end(&chunk, at) {
            if only_usage(&mut self.listener, &chunk[at..end]) && self.strip {
                passed.cut(at, end);
            }
            at = end;
        }
        let mut until = chunk.len();
        if at < chunk.len() {
            self.carry.extend_from_slice(&chunk[at..]);
            self.held = self.strip && self.is_doubtful();
            if self.held {
                until = at;
            }
            self.shorten();
        }
        passed.end(until)
    }

    /// What is still held back when the stream ends. An event without its blank line counts as well.
    pub(crate) fn rest(&mut self) -> Bytes {
        if self.carry.is_empty() {
            return Bytes::new();
        }
        let only_usage = self.end_event();
        let carry = std::mem::take(&mut self.carry);
        let held = std::mem::take(&mut self.held);
        if held && !only_usage { carry.into() } else { Bytes::new() }
    }

    /// Events with something of an answer in them, of all that was handed on so far. Providers send about one token in
    /// each.
    pub(crate) fn pieces(&self) -> i64 {
        self.listener.pieces
    }

    /// The provider's final figures.
    pub(crate) fn usage(&self) -> Option<TokenUsage> {
        self.listener.usage
    }

    /// The provider's figures for a part of the answer: exact for the input, too low for the output.
    pub(crate) fn so_far(&self) -> Option<TokenUsage> {
        self.listener.so_far
    }

    /// The end mark went by.
    pub(crate) fn done(&self) -> bool {
        self.listener.done
    }

    /// The model said all that it wanted to say, or was allowed to.
    pub(crate) fn finished(&self) -> bool {
        self.listener.finished
    }

    /// `chunk`, whose bytes are in `carry` now, didn't end the event.
    fn still_in_progress(&mut self, chunk: Bytes) -> Bytes {
        let mut out = chunk;
        if self.held {
            self.held = self.is_doubtful();
            out = if self.held { Bytes::new() } else { Bytes::copy_from_slice(&self.carry) };
        }
        self.shorten();
        out
    }

    /// Whether the event in progress may turn out to carry only the usage.
    fn is_doubtful(&self) -> bool {
        is_doubtful(&self.carry)
    }

    /// Lets go of the middle of an event that is too long.
    fn shorten(&mut self) {
        if self.carry.len() <= EVENT_BYTES_MAX {
            return;
        }
        if self.head.is_empty() {
            self.head.extend_from_slice(&self.carry[..HEAD_BYTES]);
        }
        self.carry.drain(..self.carry.len() - TAIL_BYTES);
    }

    /// Whether the event in `carry` carries the usage and nothing else.
    fn end_event(&mut self) -> bool {
        if self.head.is_empty() {
            return only_usage(&mut self.listener, &self.carry);
        }
        self.listener.long_event(&self.head, &self.carry);
        self.head.clear();
        false
    }

    /// Where the event in progress ends in what comes next.
    fn boundary(&self, chunk: &[u8]) -> Option<usize> {
        // A blank line may be cut in two.
        let before = &self.carry[self.carry.len().saturating_sub(2)..];
        let after = &chunk[..chunk.len().min(2)];
        let mut seam = [0; 4];
        seam[..before.len()].copy_from_slice(before);
        seam[before.len()..before.len() + after.len()].copy_from_slice(after);
        let seam = &seam[..before.len() + after.len()];
        event_end(seam, 0)
            .and_then(|end| end.checked_sub(before.len()))
            .filter(|&end| end > 0)
            .or_else(|| event_end(chunk, 0))
    }
}

/// Whether this beginning of an event, or all of it, may carry the usage and nothing else. What doesn't never does later.
fn is_doubtful(event: &[u8]) -> bool {
    event.len() <= HELD_BYTES_MAX && may_be_usage(event)
}

/// Hears the event: whether it carries the usage and nothing else, which is the same whether it came whole or in pieces.
fn only_usage(listener: &mut Listener, event: &[u8]) -> bool {
    listener.event(event) && is_doubtful(event)
}

/// The place after the blank line that ends the event at `from`.
fn event_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr(b'\n', bytes.get(at..)?)? + 1;
        match &bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// What of a chunk goes on: a slice of it as long as that is possible.
struct Passed<'a> {
    chunk: &'a Bytes,
    from: usize,
    joined: Option<Vec<u8>>,
}

impl Passed<'_> {
    fn cut(&mut self, from: usize, to: usize) {
        if self.joined.is_some() || from > self.from {
            self.joined.get_or_insert_default().extend_from_slice(&self.chunk[self.from..from]);
        }
        self.from = to;
    }

    fn end(self, until: usize) -> Bytes {
        match self.joined {
            None => self.chunk.slice(self.from..until.max(self.from)),
            Some(mut joined) => {
                joined.extend_from_slice(&self.chunk[self.from..until.max(self.from)]);
                joined.into()
            }
        }
    }
}

/// A search that is prepared once.
type Finder = std::sync::LazyLock<memmem::Finder<'static>>;
