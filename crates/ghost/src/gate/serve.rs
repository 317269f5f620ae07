//! What comes in through one bot's gate: model calls, and requests for the world outside.
//! Never: a connection, a head or a stalled reader without a bound.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use molt_model::BotId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::Ghost;
use crate::call::{self, Caller};
use crate::egress;
use crate::framing::Watched;
use crate::serve::{ACCEPT_PAUSE, BUFFER_BYTES_MAX, HEAD_TIME_MAX, Patient};

/// Connections of one bot. A turn holds a few, and its tools some; the next one waits in the socket's queue.
const CONNECTIONS_MAX: usize = 128;
/// How long open answers get when the gate closes.
const GRACE: Duration = Duration::from_secs(8);

pub(super) async fn accept(ghost: Ghost, bot: BotId, listener: UnixListener, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let next = || async {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        (place, listener.accept().await)
    };
    loop {
        let (place, accepted) = tokio::select! {
            next = next() => next,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(ghost.clone(), bot.clone(), stream, stop.clone(), place));
            }
            Err(error) => {
                tracing::warn!(bot.id = %bot, error = &error as &dyn std::error::Error, "a connection can't be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    ghost: Ghost,
    bot: BotId,
    stream: UnixStream,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    let answer = move |request, double| {
        let (ghost, bot) = (ghost.clone(), bot.clone());
        async move { answer(&ghost, &bot, request, double).await }
    };
    converse(stream, &stop, answer).await;
}

/// Serves one connection of a bot until it ends, or for a moment more when `stop` says so. `answer` is told with each request
/// whether its body can be read in two ways.
pub(crate) async fn converse<S, A, F>(stream: S, stop: &CancellationToken, answer: A)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(Request<Incoming>, bool) -> F,
    F: Future<Output = Response<Body>>,
{
    let stream = Watched::new(stream);
    let framing = stream.framing();
    let service = service_fn(move |request: Request<Incoming>| {
        let double = framing.is_double(request.headers());
        let answered = answer(request, double);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream)), service)
        .with_upgrades();
    tokio::pin!(serving);
    // A connection that breaks is its caller's own doing, and ordinary.
    tokio::select! {
        _ = serving.as_mut() => return,
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(GRACE, serving).await;
}

/// A request that names another machine wants out; any other one is for the proxy itself. `double`: its body can be read in
/// two ways, so it goes nowhere.
async fn answer(ghost: &Ghost, bot: &BotId, request: Request<Incoming>, double: bool) -> Response<Body> {
    if request.method() == Method::CONNECT || request.uri().authority().is_some() {
        return if double { ghost.0.egress.two_lengths() } else { egress::handle(&ghost.0, bot, request).await };
    }
    if double {
        return call::two_lengths().map(Body::new);
    }
    call::handle(&ghost.0, Caller::Bot(bot), request).await.map(Body::new)
}
