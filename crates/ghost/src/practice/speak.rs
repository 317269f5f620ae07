//! Puts an answer on the wire, whole or word by word, with an honest count of what it used.
//! Never: a pace that holds up somebody who isn't there to read.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Sleep;

use super::hands::NextCall;
use crate::usage::estimate;

/// Letters of a tool call's arguments in one piece.
const ARGUMENT_PIECE_LETTERS: usize = 24;
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

/// What the wire needs beside the answer.
#[derive(Clone, Debug)]
pub(super) struct Frame<'a> {
    pub(super) id: &'a str,
    pub(super) model: &'a Value,
    /// Of the request.
    pub(super) body_bytes: usize,
    pub(super) usage_asked: bool,
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

    fn finish_reason(&self) -> &'static str {
        match (&self.call, self.cut) {
            (Some(_), _) => "tool_calls",
            (None, true) => "length",
            (None, false) => "stop",
        }
    }

    /// One token for every four bytes, rounded up: of the whole request, and of everything in the answer.
    fn usage(&self, body_bytes: usize) -> Value {
        let called = self.call.as_ref().map_or(0, |call| call.tool.len() + call.arguments.to_string().len());
        let (input, output) = (estimate(body_bytes), estimate(self.reasoning.len() + self.text.len() + called));
        json!({
            "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
            "prompt_tokens_details": { "cached_tokens": 0 },
            "completion_tokens_details": { "reasoning_tokens": estimate(self.reasoning.len()) },
        })
    }

    fn tool_call(&self, frame: &Frame<'_>, arguments: &str) -> Option<Value> {
        let call = self.call.as_ref()?;
        let id = format!("call_{}", frame.id.rsplit('-').next().unwrap_or("0"));
        Some(
            json!({ "index": 0, "id": id, "type": "function", "function": { "name": call.tool, "arguments": arguments } }),
        )
    }

    /// In one piece.
    pub(super) fn whole(&self, frame: &Frame<'_>) -> Bytes {
        let mut message = json!({ "role": "assistant", "content": self.text });
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = self.reasoning.clone().into();
        }
        if let Some(call) = self.call.as_ref().and_then(|call| self.tool_call(frame, &call.arguments.to_string())) {
            message["content"] = Value::Null;
            message["tool_calls"] = json!([call]);
        }
        let choice = json!({ "index": 0, "message": message, "finish_reason": self.finish_reason() });
        json!({
            "id": frame.id, "object": "chat.completion", "created": 0, "model": frame.model, "choices": [choice],
            "usage": self.usage(frame.body_bytes),
        })
        .to_string()
        .into()
    }

    /// Word by word.
    pub(super) fn pieces(&self, frame: &Frame<'_>) -> VecDeque<(Bytes, bool)> {
        let mut pieces = VecDeque::new();
        let chunk = |choices: Value| json!({ "id": frame.id, "object": "chat.completion.chunk", "created": 0, "model": frame.model, "choices": choices });
        let mut push = |chunk: Value, paced: bool| pieces.push_back((Bytes::from(format!("data: {chunk}\n\n")), paced));
        let delta = |delta: Value| chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]));
        push(delta(json!({ "role": "assistant", "content": "" })), false);
        for word in words(&self.reasoning) {
            push(delta(json!({ "reasoning_content": word })), true);
        }
        for word in words(&self.text) {
            push(delta(json!({ "content": word })), true);
        }
        if let Some(call) = self.tool_call(frame, "") {
            push(delta(json!({ "tool_calls": [call] })), false);
            let arguments: Vec<char> =
                self.call.iter().flat_map(|call| call.arguments.to_string().chars().collect::<Vec<_>>()).collect();
            for piece in arguments.chunks(ARGUMENT_PIECE_LETTERS) {
                let piece: String = piece.iter().collect();
                push(delta(json!({ "tool_calls": [{ "index": 0, "function": { "arguments": piece } }] })), false);
            }
        }
        push(chunk(json!([{ "index": 0, "delta": {}, "finish_reason": self.finish_reason() }])), false);
        if frame.usage_asked {
            let mut last = chunk(json!([]));
            last["usage"] = self.usage(frame.body_bytes);
            push(last, false);
        }
        pieces.push_back((Bytes::from_static(b"data: [DONE]\n\n"), false));
        pieces
    }
}

/// Words with the white space after them; together they are the text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(char::is_whitespace)
}

/// An answer on its way.
pub(crate) struct PracticeBody {
    pieces: VecDeque<(Bytes, bool)>,
    pace: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl PracticeBody {
    pub(super) fn new(pieces: VecDeque<(Bytes, bool)>, pace: Duration) -> Self {
        Self { pieces, pace, pause: None }
    }

    /// The next piece in its time. A pause that was begun goes on when the future is dropped and made anew.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let paced = self.pieces.front()?.1 && !self.pace.is_zero();
        if paced {
            let pace = self.pace;
            self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(pace))).await;
            self.pause = None;
        }
        self.pieces.pop_front().map(|(piece, _)| piece)
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
