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
use molt_model::{ModelFacts, RequestId, TokenUsage};
use molt_store::ghost::Admission;
use serde_json::json;
use tokio::sync::{TryAcquireError, oneshot};

use crate::admit::{bearer, decide, run_label};
use crate::answer::{Refusal, Shape, notice};
use crate::journal::{AdmittedCall, Route};
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
    let data: Vec<_> = ghost.0.catalog.models.iter().map(entry).collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

async fn answer(inner: &Arc<Inner>, surface: Surface, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let key = bearer(headers)?;
    let admission = inner.admission(&key).await?;
    let body = read_body(body).await?;
    let asked = request::read(&body)?;
    let (model, provider_name, provider_model) = inner.model(surface, &asked.model)?;
    let provider_name = provider_name.to_owned();
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
    let call = open(inner, surface, headers, admission, model, body.len())?;
    let outgoing = request::outgoing(&body, &asked, provider_model);
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
    model: &ModelFacts,
    body_bytes: usize,
) -> Result<OpenCall, Refusal> {
    let busy = || Refusal::later("busy", "Too many calls at once; please try again in a moment.", BUSY_RETRY_SECONDS);
    let permit = Arc::clone(&inner.calls).try_acquire_owned().map_err(|error| match error {
        TryAcquireError::NoPermits => busy(),
        TryAcquireError::Closed => {
            Refusal::later("restarting", "Restarting; please try again in a moment.", BUSY_RETRY_SECONDS)
        }
    })?;
    let route = Route {
        provider: model.id.split_once('/').map_or("", |(provider, _)| provider).into(),
        model: model.id.as_str().into(),
        surface: surface.name().into(),
        price: model.price,
        price_version: inner.catalog.version.clone(),
    };
    let worst = TokenUsage {
        input: i64::try_from(body_bytes).unwrap_or(i64::MAX),
        output: model.output_max.into(),
        ..TokenUsage::default()
    };
    let call = AdmittedCall {
        id: RequestId::random(),
        user: admission.user,
        book_key: admission.book_key,
        bot: admission.bot.as_ref(),
        key: admission.key,
        run: run_label(headers),
        routes: &[Arc::new(route)],
        period_start: admission.period_start,
        input_tokens_estimate: estimate(body_bytes),
        reserved: model.price.charge(&worst),
        at: inner.clock.now(),
    };
    OpenCall::open(&inner.journal, &call, permit).map_err(|error| {
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

impl Inner {
    /// The model's facts, its provider's name and the provider's own name for it.
    fn model<'a>(&'a self, surface: Surface, id: &'a str) -> Result<(&'a ModelFacts, &'a str, &'a str), Refusal> {
        let model = self.catalog.find(id).ok_or_else(|| unknown_model(id))?;
        let (provider, name) = id.split_once('/').ok_or_else(|| unknown_model(id))?;
        match (surface, model.embedding) {
            (Surface::Chat, true) => Err(Refusal::invalid(
                "model_for_embeddings",
                "This model makes embeddings; call /v1/embeddings with it.",
            )),
            (Surface::Embeddings, false) => {
                Err(Refusal::invalid("model_for_chat", "This model doesn't make embeddings; choose one that does."))
            }
            _ => Ok((model, provider, name)),
        }
    }
}

fn unknown_model(id: &str) -> Refusal {
    let message = format!("There is no model \"{id}\" here. GET /v1/models lists the ones that there are.");
    Refusal::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message)
}
