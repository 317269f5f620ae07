//! Makes an answer ready for the wire: cut to its limit, with an honest count of what it used, word by word in its time.
//! Never: a pace that holds up somebody who isn't there to read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Sleep;

use super::hands::NextCall;
use crate::speech::{Call, Pieces, Speech};
use crate::usage::estimate;

const BYTES_PER_TOKEN: usize = 4;

/// What the model says or does, and how much it may say.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) reasoning: String,
    pub(super) text: String,
    pub(super) call: Option<NextCall>,
    /// The text was cut at the caller's limit.
    pub(super) cut: bool,
}

impl Answer {
    /// Keeps to so many tokens. A tool call is never cut: half of one is of no use.
    pub(super) fn limit(&mut self, tokens: Option<u64>) {
        let Some(mut left) = tokens
            .and_then(|tokens| usize::try_from(tokens).ok())
            .and_then(|tokens| tokens.checked_mul(BYTES_PER_TOKEN))
        else {
            return;
        };
        for part in [&mut self.reasoning, &mut self.text] {
            let end = (0..=left.min(part.len())).rev().find(|&at| part.is_char_boundary(at)).unwrap_or(0);
            self.cut |= end < part.len();
            part.truncate(end);
            left -= end;
        }
    }

    /// One token for every four bytes, rounded up: of the whole request, and of everything in the answer.
    pub(super) fn speech<'a>(&'a self, id: &'a str, model: &'a str, body_bytes: usize) -> Speech<'a> {
        let called = self.call.as_ref().map_or(0, |call| call.tool.len() + call.arguments.to_string().len());
        Speech {
            id,
            model,
            created: 0,
            reasoning: &self.reasoning,
            text: &self.text,
            call: self.call.as_ref().map(|call| Call { tool: &call.tool, arguments: &call.arguments }),
            cut: self.cut,
            input_tokens: estimate(body_bytes),
            output_tokens: estimate(self.reasoning.len() + self.text.len() + called),
            reasoning_tokens: estimate(self.reasoning.len()),
            usage_asked: false,
            by_words: true,
        }
    }
}

/// An answer on its way.
pub(crate) struct PracticeBody {
    pieces: Pieces,
    pace: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl PracticeBody {
    pub(super) fn new(pieces: Pieces, pace: Duration) -> Self {
        Self { pieces, pace, pause: None }
    }

    /// The next piece in its time.
    pub(crate) fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some((_, paced)) = self.pieces.front() else { return Poll::Ready(None) };
        if *paced && !self.pace.is_zero() {
            let pace = self.pace;
            let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(pace)));
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(self.pieces.pop_front().map(|(piece, _)| piece))
    }

    /// The same, for whoever waits. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        std::future::poll_fn(|context| self.poll_data(context)).await
    }

    /// The last piece was given.
    pub(crate) fn is_ended(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Nobody reads along any more.
    pub(crate) fn hurry(&mut self) {
        self.pace = Duration::ZERO;
        self.pause = None;
    }
}
