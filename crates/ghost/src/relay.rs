//! Carries one answer from the provider to the caller, and settles the call before the caller has the last byte.
//! Never: bytes held back without need, an end mark that the provider didn't send, or an end without a settlement.
//!
//! The body of the answer owns everything: the provider's connection, the tap and the call's guard. While the caller
//! reads, it is polled by the caller's own connection; when the caller hangs up it is dropped there, and what it owned
//! goes to a task that listens on for a bounded time, to learn the true usage.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use molt_model::usage::Estimate;
use tokio::time::{Instant, Sleep};

use crate::answer::cut_off;
use crate::settle::OpenCall;
use crate::surface::Surface;
use crate::tap::{self, Tap};
use crate::upstream::{Broken, ReplyBody};

/// Silence in the middle of an answer after which the provider counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// After a caller hung up, the provider is listened to for so long and so far, to learn the true usage.
pub(crate) const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
const DRAIN_BYTES_MAX: usize = 1024 * 1024;
/// Of an answer in one piece. Embeddings of a large batch have some megabytes.
const WHOLE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The body of whatever the proxy answers.
pub(crate) enum AnswerBody {
    /// In one piece; `None`: it was given.
    Whole(Option<Bytes>),
    Stream(Box<Streaming>),
}

impl AnswerBody {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.poll_next(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(stream) => matches!(stream.state, State::Over),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A streaming answer on its way.
pub(crate) struct Streaming {
    state: State,
}

enum State {
    Open(Box<Listening>),
    /// The provider has ended; this is still owed to the caller.
    Last(Bytes),
    Over,
}

/// One open stream: who speaks, who listens in, and the call that is charged.
struct Listening {
    body: ReplyBody,
    tap: Tap,
    call: OpenCall,
    surface: Surface,
    silence: Silence,
}

impl Streaming {
    pub(crate) fn new(body: ReplyBody, surface: Surface, strip_usage: bool, call: OpenCall) -> Self {
        let tap = Tap::new(surface, strip_usage);
        Self { state: State::Open(Box::new(Listening { body, tap, call, surface, silence: Silence::new() })) }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.state {
                State::Open(open) => match ready!(open.poll_heard(context)) {
                    // With the provider's last bytes goes all that is still owed: one write less.
                    Heard::Bytes(bytes) if open.body.is_ended() => {
                        let rest = open.finish(End::Whole);
                        self.state = State::Last(if rest.is_empty() { bytes } else { [bytes, rest].concat().into() });
                    }
                    Heard::Bytes(bytes) if bytes.is_empty() => {}
                    Heard::Bytes(bytes) => return Poll::Ready(Some(bytes)),
                    Heard::End(end) => self.state = State::Last(open.finish(end)),
                },
                State::Last(bytes) => {
                    let bytes = std::mem::take(bytes);
                    self.state = State::Over;
                    return Poll::Ready((!bytes.is_empty()).then_some(bytes));
                }
                State::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Streaming {
    /// The caller hung up: what the provider still says decides what the call costs.
    fn drop(&mut self) {
        if let State::Open(open) = std::mem::replace(&mut self.state, State::Over) {
            let tracker = open.call.tasks();
            if !open.call.is_settled() && tokio::runtime::Handle::try_current().is_ok() {
                tracker.spawn(open.drain());
            }
        }
    }
}

/// What came from the provider.
enum Heard {
    Bytes(Bytes),
    End(End),
}

/// How listening to the provider ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
    /// The caller is gone and the time or the bytes to listen on are used up.
    Drained,
    Stopping,
}

impl Listening {
    fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<Heard> {
        match self.body.poll_data(context) {
            Poll::Ready(Some(Ok(chunk))) => {
                self.silence.broken();
                let out = self.tap.push(chunk);
                self.call.relayed(self.tap.pieces());
                if self.tap.done() {
                    self.call.settle(self.tap.usage().ok_or(Estimate::NotReported));
                }
                Poll::Ready(Heard::Bytes(out))
            }
            Poll::Ready(None) => Poll::Ready(Heard::End(End::Whole)),
            Poll::Ready(Some(Err(error))) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a provider's stream broke off");
                Poll::Ready(Heard::End(End::Cut))
            }
            Poll::Pending => {
                ready!(self.silence.poll_too_long(context));
                tracing::warn!("a provider fell silent in the middle of an answer");
                Poll::Ready(Heard::End(End::Cut))
            }
        }
    }

    /// Settles, and returns what the caller still gets.
    fn finish(&mut self, end: End) -> Bytes {
        let rest = self.tap.rest();
        self.call.relayed(self.tap.pieces());
        self.call.reported_so_far(self.tap.so_far());
        let complete = end == End::Whole && (self.tap.done() || self.tap.finished());
        self.call.settle(self.tap.usage().ok_or(match end {
            End::Whole if complete => Estimate::NotReported,
            End::Whole | End::Cut => Estimate::ProviderCut,
            End::Drained => Estimate::HungUp,
            End::Stopping => Estimate::ProxyRestarted,
        }));
        if complete || self.tap.done() {
            return rest;
        }
        [rest, cut_off(self.surface)].concat().into()
    }

    /// Listens on with nobody reading along.
    async fn drain(mut self: Box<Self>) {
        self.body.hurry();
        let until = Instant::now() + DRAIN_TIME_MAX;
        let stopping = self.call.stopping();
        let mut drained = 0;
        let end = loop {
            let heard = tokio::select! {
                heard = std::future::poll_fn(|context| self.poll_heard(context)) => heard,
                () = tokio::time::sleep_until(until) => break End::Drained,
                () = stopping.cancelled() => break End::Stopping,
            };
            match heard {
                Heard::End(end) => break end,
                Heard::Bytes(bytes) => drained += bytes.len(),
            }
            if self.call.is_settled() {
                return;
            }
            if drained > DRAIN_BYTES_MAX {
                break End::Drained;
            }
        };
        self.finish(end);
    }
}

/// How long the provider has said nothing. Armed once and moved on when it fires, so that a chunk costs no timer.
struct Silence {
    heard: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    fn new() -> Self {
        Self { heard: false, timer: None }
    }

    fn broken(&mut self) {
        self.heard = true;
    }

    /// Ready when nothing was heard for `SILENCE_MAX`, or for at most twice as long.
    fn poll_too_long(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(SILENCE_MAX)));
        loop {
            ready!(timer.as_mut().poll(context));
            if !std::mem::take(&mut self.heard) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + SILENCE_MAX);
        }
    }
}

/// An answer in one piece, read to its end and settled. `Err`: it broke off, fell silent or grew too long; settled too.
pub(crate) async fn whole(mut body: ReplyBody, surface: Surface, call: &mut OpenCall) -> Result<Bytes, NotWhole> {
    match collect(&mut body).await {
        Ok(bytes) => {
            let answer = tap::whole(surface, &bytes);
            call.relayed(answer.said_tokens_estimate);
            call.settle(answer.usage.ok_or(Estimate::NotReported));
            Ok(bytes)
        }
        Err(why) => {
            tracing::warn!(error = &why as &dyn std::error::Error, "a provider's answer in one piece is not whole");
            call.settle(Err(Estimate::ProviderCut));
            Err(why)
        }
    }
}

/// Why an answer in one piece can't be given on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotWhole {
    #[error("the connection broke")]
    Broken(#[source] Broken),
    #[error("the provider fell silent")]
    Silent,
    #[error("the answer is longer than {WHOLE_BYTES_MAX} bytes")]
    TooLong,
}

async fn collect(body: &mut ReplyBody) -> Result<Bytes, NotWhole> {
    let mut silence = Silence::new();
    // Most answers come in one read and are passed on as they are.
    let mut only = Bytes::new();
    let mut read: Vec<u8> = Vec::new();
    loop {
        let next = std::future::poll_fn(|context| match body.poll_data(context) {
            Poll::Ready(next) => Poll::Ready(Ok(next)),
            Poll::Pending => silence.poll_too_long(context).map(|()| Err(NotWhole::Silent)),
        });
        let Some(chunk) = next.await?.transpose().map_err(NotWhole::Broken)? else {
            return Ok(if read.is_empty() { only } else { read.into() });
        };
        silence.broken();
        if read.is_empty() && only.is_empty() {
            only = chunk;
            continue;
        }
        if read.is_empty() {
            read.extend_from_slice(&std::mem::take(&mut only));
        }
        if read.len() + chunk.len() > WHOLE_BYTES_MAX {
            return Err(NotWhole::TooLong);
        }
        read.extend_from_slice(&chunk);
    }
}
