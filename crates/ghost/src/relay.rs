//! Carries one answer from the provider to the caller, and settles the call before the caller has the last byte.
//! Never: bytes held back without need, an end mark that the provider didn't send, or an end without a settlement.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use molt_model::usage::Estimate;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answer::{Refusal, event_stream};
use crate::settle::OpenCall;
use crate::surface::Surface;
use crate::tap::Tap;
use crate::upstream::{Candidate, Origin, Reply, ReplyBody, Upstreams};
use crate::usage::{Report, estimate};

/// Silence in the middle of an answer after which the provider counts as gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// A caller that doesn't read for so long counts as gone.
const CALLER_STALL_MAX: Duration = Duration::from_secs(120);
/// After a caller hung up, the provider is listened to for so long and so far, to learn the true usage.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
const DRAIN_BYTES_MAX: usize = 1024 * 1024;
/// Chunks between the provider and a slow caller.
const CHUNKS_MAX: usize = 16;
/// Of an answer in one piece. Embeddings of a large batch have some megabytes.
const WHOLE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Carries the request id on every answer that will have a row in the books, and on no other.
pub(crate) const METERED_HEADER: &str = "x-molt-request-id";

/// Stands on a 200 that no provider gave and no row will follow, so that nobody waits for one.
pub(crate) const UNMETERED_HEADER: &str = "x-molt-unmetered";

/// Everything about one call on its way.
pub(crate) struct Relay {
    pub(crate) call: OpenCall,
    pub(crate) surface: Surface,
    /// The caller didn't ask for the usage.
    pub(crate) strip_usage: bool,
    pub(crate) stopping: CancellationToken,
    /// Where the answer's beginning goes; closed when the caller hangs up.
    pub(crate) head: oneshot::Sender<Response>,
}

/// How listening to the provider ended.
enum End {
    Whole,
    Cut,
    /// The caller is gone and the time or the bytes to listen on are used up.
    Drained,
    Stopping,
}

/// Runs on after the caller hung up, for a bounded time. The answer's beginning goes through `relay.head`.
pub(crate) async fn run(mut relay: Relay, upstreams: &Upstreams, candidate: Candidate<'_>, headers: &HeaderMap) {
    let stopping = relay.stopping.clone();
    let departure = relay.call.departure();
    let origin = Origin { request_id: relay.call.id(), traceparent: headers.get("traceparent"), headers };
    let reply = tokio::select! {
        reply = upstreams.send(relay.surface, std::slice::from_ref(&candidate), &origin, &departure) => reply.map(|(_, reply)| reply),
        () = gone_for_long(&mut relay.head) => return relay.call.settle(Err(Estimate::HungUp)),
        () = stopping.cancelled() => return relay.call.settle(Err(Estimate::ProxyRestarted)),
    };
    match reply {
        Err(refusal) => {
            relay.call.void();
            let _ = relay.head.send(refusal.into_response());
        }
        Ok(reply) if reply.streams => stream_through(relay, reply).await,
        Ok(reply) => whole(relay, reply).await,
    }
}

async fn gone_for_long(head: &mut oneshot::Sender<Response>) {
    head.closed().await;
    tokio::time::sleep(DRAIN_TIME_MAX).await;
}

/// A streaming answer: bytes pass as they come, a tap listens.
async fn stream_through(relay: Relay, reply: Reply) {
    let Relay { mut call, strip_usage, stopping, head, .. } = relay;
    call.first_byte();
    let (to_caller, mut from_provider) = mpsc::channel::<Result<Bytes, io::Error>>(CHUNKS_MAX);
    let body = Body::from_stream(stream::poll_fn(move |context| from_provider.poll_recv(context)));
    // The caller may be gone already: the channel is closed then, and the loop drains.
    let _ = head.send(metered(event_stream(body), &call));

    let mut tap = Tap::new(strip_usage);
    let mut caller = Caller { channel: Some(to_caller), drained: 0, until: None };
    let end = listen(reply.body, &mut tap, &mut caller, &mut call, &stopping).await;
    let rest = tap.rest();
    call.relayed(tap.pieces);
    let complete = matches!(end, End::Whole) && (tap.done || tap.finished);
    call.settle(tap.usage.ok_or(match end {
        End::Whole if complete => Estimate::NotReported,
        End::Whole | End::Cut => Estimate::ProviderCut,
        End::Drained => Estimate::HungUp,
        End::Stopping => Estimate::ProxyRestarted,
    }));
    caller.give(rest).await;
    if !complete && !tap.done {
        caller.give(cut_off()).await;
    }
}

/// Until the provider ends, breaks, or nobody is there to listen for.
async fn listen(
    mut body: ReplyBody,
    tap: &mut Tap,
    caller: &mut Caller,
    call: &mut OpenCall,
    stopping: &CancellationToken,
) -> End {
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(IDLE_TIMEOUT, body.next()) => next,
            () = caller.gone() => { caller.drain_from_now(); body.hurry(); continue; }
            () = caller.patience() => return End::Drained,
            () = stopping.cancelled() => return End::Stopping,
        };
        let chunk = match next {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(None) => return End::Whole,
            Ok(Some(Err(error))) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a provider's stream broke off");
                return End::Cut;
            }
            Err(_elapsed) => {
                tracing::warn!("a provider fell silent in the middle of an answer");
                return End::Cut;
            }
        };
        let size = chunk.len();
        let out = tap.push(chunk);
        call.relayed(tap.pieces);
        if tap.done {
            call.settle(tap.usage.ok_or(Estimate::NotReported));
        }
        if !caller.give(out).await {
            body.hurry();
            caller.drained += size;
            if caller.drained > DRAIN_BYTES_MAX {
                return End::Drained;
            }
        }
    }
}

/// The caller's end of a stream.
struct Caller {
    channel: Option<mpsc::Sender<Result<Bytes, io::Error>>>,
    drained: usize,
    until: Option<Instant>,
}

impl Caller {
    /// Whether the caller is still there.
    async fn give(&mut self, bytes: Bytes) -> bool {
        let Some(channel) = &self.channel else { return false };
        if bytes.is_empty() {
            return true;
        }
        let given = tokio::time::timeout(CALLER_STALL_MAX, channel.send(Ok(bytes))).await;
        let there = matches!(given, Ok(Ok(())));
        if !there {
            self.drain_from_now();
        }
        there
    }

    fn drain_from_now(&mut self) {
        self.channel = None;
        self.until.get_or_insert_with(|| Instant::now() + DRAIN_TIME_MAX);
    }

    /// Returns once, when the caller hangs up.
    async fn gone(&self) {
        match &self.channel {
            Some(channel) => channel.closed().await,
            None => std::future::pending().await,
        }
    }

    async fn patience(&self) {
        match self.until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

/// An answer in one piece: read, settled, then given.
async fn whole(relay: Relay, reply: Reply) {
    let Relay { mut call, surface, stopping, mut head, .. } = relay;
    call.first_byte();
    let body = tokio::select! {
        body = read_whole(reply.body) => body,
        () = gone_for_long(&mut head) => return call.settle(Err(Estimate::HungUp)),
        () = stopping.cancelled() => return call.settle(Err(Estimate::ProxyRestarted)),
    };
    let Some(body) = body else {
        call.settle(Err(Estimate::ProviderCut));
        let message = "The model's answer broke off; please try again.";
        let response = Refusal::later("provider_cut", message, 1).into_response();
        let _ = head.send(metered(response, &call));
        return;
    };
    let answer: Whole = serde_json::from_slice(&body).unwrap_or_default();
    call.relayed(answer.said(surface));
    call.settle(answer.usage.and_then(|report| report.tokens()).ok_or(Estimate::NotReported));
    let mut response = (StatusCode::OK, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let _ = head.send(metered(response, &call));
}

/// `None`: broken off, silent or too long.
async fn read_whole(mut body: ReplyBody) -> Option<Bytes> {
    let mut read = Vec::new();
    loop {
        match tokio::time::timeout(IDLE_TIMEOUT, body.next()).await {
            Ok(Some(Ok(chunk))) if read.len() + chunk.len() <= WHOLE_BYTES_MAX => read.extend_from_slice(&chunk),
            Ok(None) => return Some(read.into()),
            Ok(Some(_)) | Err(_) => {
                tracing::warn!(body_bytes = read.len(), "a provider's answer broke off, fell silent or grew too long");
                return None;
            }
        }
    }
}

/// What is needed of an answer in one piece.
#[derive(Default, Deserialize)]
struct Whole {
    #[serde(default)]
    usage: Option<Report>,
    #[serde(default)]
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    message: serde_json::Value,
}

impl Whole {
    /// Tokens of the answer, estimated.
    fn said(&self, surface: Surface) -> i64 {
        let text = |choice: &Choice| choice.message.get("content").and_then(|text| text.as_str()).map_or(0, str::len);
        match surface {
            Surface::Chat => estimate(self.choices.iter().map(text).sum()),
            _ => 0,
        }
    }
}

/// An error inside a stream: the caller must not take half an answer for a whole one.
fn cut_off() -> Bytes {
    let message = "The model's answer broke off here; please try again.";
    let refusal = Refusal::new(StatusCode::OK, "server_error", "provider_cut", message);
    format!("data: {}\n\n", refusal.body()).into()
}

fn metered(mut response: Response, call: &OpenCall) -> Response {
    let id = HeaderValue::from_str(&call.id().to_string()).expect("a UUID is plain ASCII");
    response.headers_mut().insert(METERED_HEADER, id);
    response
}
