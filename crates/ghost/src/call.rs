//! One call from its request to its answer: who asks, what it may cost at most, where it goes, what comes back.
//! Never: bytes to a provider before the call is reserved and in the journal, or the caller's headers passed on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use molt_model::{ModelFacts, RequestId};
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::Inner;
use crate::admission::{Declined, KeyEntry, Reservation, presented_key};
use crate::answer::{Refusal, notice};
use crate::body::{Buffered, read};
use crate::relay::{self, AnswerBody, DRAIN_TIME_MAX, Streaming};
use crate::request::{self, Asked};
use crate::settle::OpenCall;
use crate::surface::Surface;
use crate::upstream::{Candidate, Reply};

/// Carries the request id on every answer that will have a row in the books, and on no other.
pub(crate) const METERED_HEADER: &str = "x-molt-request-id";
/// Stands on a 200 that no provider gave and no row will follow, so that nobody waits for one.
pub(crate) const UNMETERED_HEADER: &str = "x-molt-unmetered";
/// Asked of callers when the proxy is at its limit.
pub(crate) const BUSY_RETRY_SECONDS: u64 = 2;

/// Answers any request below `/v1`.
pub(crate) async fn handle<B>(inner: &Arc<Inner>, request: Request<B>) -> Response<AnswerBody>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path == "/v1/models" && head.method == Method::GET {
        return models(inner, &head.headers).await.unwrap_or_else(|refusal| refused(&refusal, Surface::Chat));
    }
    let Some(surface) = Surface::at(path) else {
        let message = "There is nothing here. GET /v1/models lists the models; the paths are OpenAI's and Anthropic's.";
        let refusal = Refusal::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message);
        return refused(&refusal, Surface::Chat);
    };
    if head.method != Method::POST {
        let message = "Send this request with POST.";
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "wrong_method", message);
        return refused(&refusal, surface);
    }
    let answered = answer(inner, surface, &head.headers, body, started).await;
    answered.unwrap_or_else(|refusal| refused(&refusal, surface))
}

fn refused(refusal: &Refusal, surface: Surface) -> Response<AnswerBody> {
    refusal.response(surface.style()).map(AnswerBody::whole)
}

async fn answer<B>(
    inner: &Arc<Inner>,
    surface: Surface,
    headers: &HeaderMap,
    body: B,
    started: Instant,
) -> Result<Response<AnswerBody>, Refusal>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    let entry = inner.admission.entry(presented_key(headers)?).await?;
    let body = read(&inner.buffers, headers, body).await?;
    let asked = request::read(surface, &body.bytes)?;
    let catalog = inner.catalog();
    let models = inner.candidates(&catalog, surface, &asked.model)?;
    let reserved = inner.reserve(&entry, surface, &asked, &models, body.bytes.len()).await;
    let (reservation, output_limit) = match reserved {
        Ok(reserved) => reserved,
        Err(Declined::Refusal(refusal)) => return Err(refusal),
        Err(Declined::Notice(why)) if surface.speaks() => {
            let text = why.text(&inner.public_url, entry.period_end);
            let id = RequestId::random();
            let mut response = notice(&text, surface, &asked, id, inner.clock.now()).map(AnswerBody::whole);
            response.headers_mut().insert(UNMETERED_HEADER, HeaderValue::from_static("1"));
            return Ok(response);
        }
        Err(Declined::Notice(why)) => return Err(why.refusal()),
    };
    let call = OpenCall::open(inner, surface, headers, &entry, reservation, &catalog, &models, body.bytes.len(), started)?;
    let exchange = Exchange { inner: inner.clone(), surface, body, asked, models, output_limit, call };
    let traceparent = headers.get("traceparent").cloned();
    Outliving::new(exchange.run(traceparent), inner.tasks.clone()).await
}
