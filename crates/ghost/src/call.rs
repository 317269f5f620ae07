//! The handlers: read, admit, send on, answer.
//! Never: more of a body in memory than the limit, or a call in a task that dies with its caller.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use molt_model::{Catalog, ModelFacts, PriceVersion, RequestId, Target};
use molt_store::ghost::Admission;
use serde_json::json;
use tokio::sync::{TryAcquireError, oneshot};

use crate::admit::{bearer, decide, run_label};
use crate::answer::{Refusal, Shape, notice};
use crate::journal::AdmittedCall;
use crate::relay::{self, Relay, Surface};
use crate::request::{self, Asked};
use crate::settle::OpenCall;
use crate::usage::estimate;
use crate::{Ghost, Inner};

/// The runtime's own limit for a frame; pictures in a long conversation come near it.
const BODY_BYTES_MAX: usize = 25 * 1024 * 1024;
/// For the whole body: a caller that sends a byte a second holds a connection, not a call.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);
/// Asked of callers when the proxy is at its limit.
const BUSY_RETRY_SECONDS: u64 = 2;

pub(crate) async fn chat(State(ghost): State<Ghost>, headers: HeaderMap, body: Body) -> Response {
    answer(&ghost.0, Surface::Chat, &headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

pub(crate) async fn embeddings(State(ghost): State<Ghost>, headers: HeaderMap, body: Body) -> Response {
    answer(&ghost.0, Surface::Embeddings, &headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

/// The catalogue, in OpenAI's list shape.
pub(crate) async fn models(State(ghost): State<Ghost>, headers: HeaderMap) -> Response {
    let admitted = match bearer(&headers) {
        Ok(key) => ghost.0.admission(&key).await,
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = admitted {
        return refusal.into_response();
    }
    let entry = |model: &ModelFacts| {
        let owner = model.id.split_once('/').map_or("", |(provider, _)| provider);
        json!({ "id": model.id, "object": "model", "created": 0, "owned_by": owner })
    };
    let data: Vec<_> = ghost.0.catalog.current().models().map(entry).collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

async fn answer(inner: &Arc<Inner>, surface: Surface, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let key = bearer(headers)?;
    let admission = inner.admission(&key).await?;
    let body = read_body(body).await?;
    let asked = request::read(&body)?;
    let catalog = inner.catalog.current();
    let target = target(&catalog, surface, &asked.model)?;
    let provider_name = target.provider.to_owned();
    if !inner.providers.contains_key(&provider_name) {
        return Err(unknown_model(&asked.model));
    }
    if let Some(refused) = decide(&admission, inner.monthly_cap) {
        if surface == Surface::Embeddings {
            return Err(refused.refusal());
        }
        let text = refused.text(&inner.public_url, admission.period_end);
        let shape = Shape { model: &asked.model, stream: asked.stream, usage_asked: asked.usage_asked };
        let id = format!("chatcmpl-{}", RequestId::random().0.simple());
        let mut response = notice(&text, shape, &id, inner.clock.now());
        response.headers_mut().insert(relay::UNMETERED_HEADER, HeaderValue::from_static("1"));
        return Ok(response);
    }
    let call = open(inner, surface, headers, admission, (&target, &catalog.version), body.len())?;
    let outgoing = request::outgoing(&body, &asked, target.model);
    send(inner, surface, &asked, call, provider_name, outgoing).await
}

/// Hands the call to a task of its own, which outlives a caller that hangs up, and waits for the answer's beginning.
async fn send(
    inner: &Arc<Inner>,
    surface: Surface,
    asked: &Asked,
    call: OpenCall,
    provider_name: String,
    body: Bytes,
) -> Result<Response, Refusal> {
    let (head, beginning) = oneshot::channel();
    let strip_usage = asked.stream && !asked.usage_asked;
    let relay = Relay { call, surface, strip_usage, stopping: inner.stopping.clone(), head };
    let owner = Arc::clone(inner);
    inner.tasks.spawn(async move {
        if let Some(provider) = owner.providers.get(&provider_name) {
            relay::run(relay, provider, body).await;
        }
    });
    beginning
        .await
        .map_err(|_| Refusal::later("not_available", "Not available just now; please try again.", BUSY_RETRY_SECONDS))
}

fn open(
    inner: &Arc<Inner>,
    surface: Surface,
    headers: &HeaderMap,
    admission: Admission,
    (target, version): (&Target<'_>, &PriceVersion),
    body_bytes: usize,
) -> Result<OpenCall, Refusal> {
    let busy = || Refusal::later("busy", "Too many calls at once; please try again in a moment.", BUSY_RETRY_SECONDS);
    let permit = Arc::clone(&inner.calls).try_acquire_owned().map_err(|error| match error {
        TryAcquireError::NoPermits => busy(),
        TryAcquireError::Closed => {
            Refusal::later("restarting", "Restarting; please try again in a moment.", BUSY_RETRY_SECONDS)
        }
    })?;
    if inner.pending.is_full() {
        return Err(busy());
    }
    let call = AdmittedCall {
        id: RequestId::random(),
        user: admission.user,
        book_key: admission.book_key,
        bot: admission.bot,
        key: admission.key,
        run: run_label(headers),
        provider: target.provider.to_owned(),
        model: target.id.to_owned(),
        surface: surface.name().to_owned(),
        price: target.facts.price.clone(),
        price_version: version.clone(),
        input_tokens_estimate: estimate(body_bytes),
        at: inner.clock.now(),
    };
    OpenCall::open(Arc::clone(inner), call, permit).map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "no call can go out: the usage journal can't be written"
        );
        Refusal::later("not_available", "Not available just now; please try again.", BUSY_RETRY_SECONDS)
    })
}

async fn read_body(body: Body) -> Result<Bytes, Refusal> {
    let too_large = |_| {
        let message = format!("The body is larger than {} MB.", BODY_BYTES_MAX / 1024 / 1024);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "body_too_large", message)
    };
    let read = tokio::time::timeout(BODY_TIME_MAX, axum::body::to_bytes(body, BODY_BYTES_MAX));
    let slow = |_| {
        Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            "body_too_slow",
            "The body didn't arrive in time.",
        )
    };
    read.await.map_err(slow)?.map_err(too_large)
}

/// Where the call goes first, and at which price.
fn target<'a>(catalog: &'a Catalog, surface: Surface, name: &'a str) -> Result<Target<'a>, Refusal> {
    let target = *catalog.resolve(name).first().ok_or_else(|| unknown_model(name))?;
    match (surface, target.facts.embedding) {
        _ if target.ceiling => Ok(target),
        (Surface::Chat, true) => {
            let message = "This model makes embeddings; call /v1/embeddings with it.";
            Err(Refusal::invalid("model_for_embeddings", message))
        }
        (Surface::Embeddings, false) => {
            Err(Refusal::invalid("model_for_chat", "This model doesn't make embeddings; choose one that does."))
        }
        _ => Ok(target),
    }
}

fn unknown_model(id: &str) -> Refusal {
    let message = format!("There is no model \"{id}\" here. GET /v1/models lists the ones that there are.");
    Refusal::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message)
}
