//! Puts an answer on the wire in the shape of each surface, whole or as a stream of events: what the practice model says,
//! and what the proxy says itself.
//! Never: half a sequence of events; a client that waits for the end of a block would wait for ever.

mod chat;
mod messages;
mod responses;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::Value;

use crate::surface::Surface;

/// Letters of a tool call's arguments in one piece.
const ARGUMENT_PIECE_LETTERS: usize = 24;

/// An answer, before it has a shape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Speech<'a> {
    /// Without the prefix that a surface puts before it.
    pub(crate) id: &'a str,
    pub(crate) model: &'a str,
    /// Seconds since 1970.
    pub(crate) created: i64,
    pub(crate) reasoning: &'a str,
    pub(crate) text: &'a str,
    pub(crate) call: Option<Call<'a>>,
    /// The text was cut at the caller's limit.
    pub(crate) cut: bool,
    pub(crate) input_tokens: i64,
    /// With those of the reasoning.
    pub(crate) output_tokens: i64,
    pub(crate) reasoning_tokens: i64,
    /// For chat streams, which tell the usage only to those who ask.
    pub(crate) usage_asked: bool,
    /// In a stream: word by word rather than at once.
    pub(crate) by_words: bool,
}

/// A tool to be called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) tool: &'a str,
    pub(crate) arguments: &'a Value,
}

/// The events of a stream; `true`: it may keep the reader waiting a little, as a model does.
pub(crate) type Pieces = VecDeque<(Bytes, bool)>;

impl Speech<'_> {
    /// In one piece. Surfaces on which no model speaks have none.
    pub(crate) fn whole(&self, surface: Surface) -> Option<Bytes> {
        let answer = match surface {
            Surface::Chat => chat::whole(self),
            Surface::Responses => responses::whole(self),
            Surface::Messages => messages::whole(self),
            Surface::Embeddings | Surface::CountTokens => return None,
        };
        Some(answer.to_string().into())
    }

    /// As a stream, from its first event to its end mark.
    pub(crate) fn pieces(&self, surface: Surface) -> Option<Pieces> {
        match surface {
            Surface::Chat => Some(chat::pieces(self)),
            Surface::Responses => Some(responses::pieces(self)),
            Surface::Messages => Some(messages::pieces(self)),
            Surface::Embeddings | Surface::CountTokens => None,
        }
    }

    /// The parts of a text in a stream; together they are the text.
    fn parts<'t>(&self, text: &'t str) -> Vec<&'t str> {
        if self.by_words {
            text.split_inclusive(char::is_whitespace).collect()
        } else {
            Some(text).filter(|text| !text.is_empty()).into_iter().collect()
        }
    }
}

impl Call<'_> {
    /// The arguments as JSON text, in parts.
    fn argument_parts(&self) -> Vec<String> {
        let letters: Vec<char> = self.arguments.to_string().chars().collect();
        letters.chunks(ARGUMENT_PIECE_LETTERS).map(|part| part.iter().collect()).collect()
    }
}

/// An event that carries its name, as all streams but those of chat completions have them.
fn named(kind: &str, event: &Value) -> Bytes {
    format!("event: {kind}\ndata: {event}\n\n").into()
}
