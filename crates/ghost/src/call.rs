//! One call from its request to its answer: who asks, what it may cost at most, where it goes, what comes back.
//! Never: bytes to a provider before the call is reserved and in the journal, or the caller's headers passed on.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Body;
use molt_model::{BotId, Catalog, RequestId, Target};
use serde_json::json;

use crate::Inner;
use crate::admission::{Declined, KeyEntry};
use crate::answer::{Notice, Refusal, notice};
use crate::body::{Buffered, read};
use crate::egress::door;
use crate::framing::TWO_LENGTHS;
use crate::outlive::Outliving;
use crate::relay::{self, AnswerBody, Streaming};
use crate::request;
use crate::settle::{Granted, OpenCall};
use crate::surface::{Style, Surface};
use crate::upstream::{Candidate, Origin, Reply};
use crate::worst_case::{WorstCase, reserve};

/// Carries the request id on every answer that will have a row in the books, and on no other.
pub(crate) const METERED_HEADER: &str = "x-molt-request-id";
/// Stands on a 200 that no provider gave and no row will follow, so that nobody waits for one.
pub(crate) const UNMETERED_HEADER: &str = "x-molt-unmetered";
/// Asked of callers when the proxy is at its limit.
const BUSY_RETRY_SECONDS: u64 = 2;
/// Our keys have 68 bytes; anything much longer isn't looked at.
const KEY_BYTES_MAX: usize = 256;

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Caller<'a> {
    /// Whoever the key in the request's head belongs to.
    KeyHolder,
    /// The bot whose gate it came through; a key in the head says nothing then.
    Bot(&'a BotId),
}

impl Caller<'_> {
    async fn entry(self, inner: &Inner, headers: &HeaderMap) -> Result<Arc<KeyEntry>, Refusal> {
        match self {
            Self::KeyHolder => inner.admission.entry(presented_key(headers)?).await,
            Self::Bot(bot) => inner.admission.entry_of_bot(bot).await,
        }
    }
}

/// Answers any request that isn't a page's: the paths below `/v1`, among them the door of ways out, and `/healthz` for whoever
/// watches the process.
pub(crate) async fn handle<B>(inner: &Arc<Inner>, caller: Caller<'_>, request: Request<B>) -> Response<AnswerBody>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    let started = Instant::now();
    let (mut head, body) = request.into_parts();
    if head.method == Method::GET && head.uri.path() == door::PATH {
        return door::open(inner, &mut head).await.map(AnswerBody::whole);
    }
    let path = head.uri.path();
    let below = path.strip_prefix("/v1").unwrap_or_default();
    let surface = Surface::ALL.into_iter().find(|surface| surface.path() == below);
    let answered = match (surface, &head.method) {
        (Some(surface), &Method::POST) => answer(inner, caller, surface, &head.headers, body, started).await,
        (None, &Method::GET) if below == "/models" => models(inner, caller, &head.headers).await,
        (None, &Method::GET) if path == "/healthz" => Ok(plain("ok\n")),
        (None, _) if below != "/models" => Err(not_here()),
        _ => Err(wrong_method(surface)),
    };
    answered.unwrap_or_else(|refusal| {
        inner.metrics.refused(surface, refusal.code, "error");
        refusal.response(surface.map_or(Style::OpenAi, Surface::style)).map(AnswerBody::whole)
    })
}

/// For a request whose body has a length and comes in chunks. Its connection ends with the answer.
pub(crate) fn two_lengths() -> Response<AnswerBody> {
    let refused = Refusal::invalid("two_lengths", TWO_LENGTHS).response(Style::OpenAi);
    let mut refused = refused.map(AnswerBody::whole);
    refused.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    refused
}

fn not_here() -> Refusal {
    let message = "There is nothing here. GET /v1/models lists the models; the paths are OpenAI's and Anthropic's.";
    Refusal::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
}

fn wrong_method(surface: Option<Surface>) -> Refusal {
    let message = if surface.is_some() { "Send this request with POST." } else { "Send this request with GET." };
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "wrong_method", message)
}

fn plain(text: &'static str) -> Response<AnswerBody> {
    Response::new(AnswerBody::whole(Bytes::from_static(text.as_bytes())))
}

/// The key of the call: `Authorization: Bearer`, or `x-api-key` as Anthropic's clients send it.
pub(crate) fn presented_key(headers: &HeaderMap) -> Result<&[u8], Refusal> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
    });
    let key = bearer.or_else(|| Some(headers.get("x-api-key")?.as_bytes().trim_ascii()));
    key.filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX).ok_or_else(|| {
        let message = "Send your Ghost Key as \"Authorization: Bearer <key>\" or as \"x-api-key: <key>\".";
        Refusal::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    })
}

/// The catalogue, in OpenAI's list shape, with the fields that Anthropic's clients look for beside them.
async fn models(inner: &Arc<Inner>, caller: Caller<'_>, headers: &HeaderMap) -> Result<Response<AnswerBody>, Refusal> {
    caller.entry(inner, headers).await?;
    let catalog = inner.catalog.current();
    let entry = |model: &molt_model::ModelFacts| {
        let owner = model.id.split_once('/').map_or("", |(provider, _)| provider);
        json!({ "id": model.id, "object": "model", "created": 0, "owned_by": owner,
                "type": "model", "display_name": model.name, "created_at": "1970-01-01T00:00:00Z" })
    };
    let data: Vec<_> = catalog
        .chat_models()
        .chain(catalog.models().filter(|model| !model.listed || model.embedding))
        .map(entry)
        .collect();
    let (first, last) = (data.first().map(|model| &model["id"]), data.last().map(|model| &model["id"]));
    let list = json!({ "object": "list", "first_id": first, "last_id": last, "has_more": false, "data": data });
    Ok(as_json(list.to_string().into()))
}

fn as_json(bytes: Bytes) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn answer<B>(
    inner: &Arc<Inner>,
    caller: Caller<'_>,
    surface: Surface,
    headers: &HeaderMap,
    body: B,
    started: Instant,
) -> Result<Response<AnswerBody>, Refusal>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    inner.is_open()?;
    let entry = caller.entry(inner, headers).await?;
    let body = read(&inner.buffers, headers, body).await?;
    let asked = request::read(surface, &body.bytes)?;
    let catalog = inner.catalog.current();
    let targets = targets(&catalog, surface, &asked.model)?;
    let worst = WorstCase::of(&asked, surface, &targets, body.bytes.len());
    let place = inner.admission.place(&entry, worst.likely_tokens)?;
    let (reservation, output_limit) = match reserve(inner, &entry, &worst, &targets).await {
        Ok(reserved) => reserved,
        Err(Declined::Refusal(refusal)) => return Err(refusal),
        Err(Declined::Notice(why)) => {
            let text = why.text(&inner.public_url);
            let said = notice(&text, surface, &asked, RequestId::random(), inner.clock.now());
            let refusal = why.refusal();
            let Some(said) = said else { return Err(refusal) };
            inner.metrics.refused(Some(surface), refusal.code, "notice");
            return Ok(noticed(&said));
        }
    };
    let granted = Granted { reservation, place, permit: inner.permit()? };
    let routes = targets.iter().map(|target| inner.routes.of(&catalog, surface, target, &inner.metrics)).collect();
    let known = (worst.input_tokens_estimate, surface.is_free());
    let mut call = OpenCall::open(inner, headers, granted, routes, known, started).map_err(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, "no call can go out: the usage journal can't be written");
        Refusal::later("not_available", "Not available just now; please try again.", BUSY_RETRY_SECONDS)
    })?;
    let traceparent = match &inner.traces {
        None => headers.get("traceparent").cloned(),
        Some(traces) => {
            let (span, traceparent) = traces.begin(headers, surface, call.id, started.elapsed());
            call.span = span.map(Box::new);
            traceparent
        }
    };
    let bodies = targets.iter().map(|target| request::outgoing(&body.bytes, &asked, target.model, output_limit));
    let exchange = Exchange {
        surface,
        bodies: bodies.collect(),
        strip_usage: asked.stream && !asked.usage_asked,
        call,
        entry,
        traceparent,
        switches: Origin::switches(headers),
        body,
    };
    Outliving::new(exchange.run(), inner.tasks.clone()).await
}

fn noticed(said: &Notice) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(said.body.clone()));
    response.headers_mut().insert(header::CONTENT_TYPE, said.content_type());
    response.headers_mut().insert(UNMETERED_HEADER, HeaderValue::from_static("1"));
    response
}

/// Where the call may go, best first.
fn targets<'a>(catalog: &'a Catalog, surface: Surface, name: &'a str) -> Result<Vec<Target<'a>>, Refusal> {
    let targets = catalog.resolve(name);
    let Some(first) = targets.first() else {
        let message = format!("There is no model \"{name}\" here. GET /v1/models lists the ones that there are.");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message));
    };
    let wanted = surface == Surface::Embeddings;
    if !first.ceiling && first.facts.embedding != wanted {
        return Err(if wanted {
            Refusal::invalid("model_for_chat", "This model doesn't make embeddings; choose one that does.")
        } else {
            Refusal::invalid("model_for_embeddings", "This model makes embeddings; call /v1/embeddings with it.")
        });
    }
    Ok(targets)
}

/// One call on its way to a provider. It is run to its end also when the caller hangs up.
struct Exchange {
    surface: Surface,
    /// One for each route of the call.
    bodies: Vec<Bytes>,
    strip_usage: bool,
    call: OpenCall,
    entry: Arc<KeyEntry>,
    traceparent: Option<HeaderValue>,
    /// Of the caller's: only switches of the provider's API.
    switches: HeaderMap,
    /// As the caller sent it; held as long as the call may be sent again.
    body: Buffered,
}

impl Exchange {
    async fn run(self) -> Result<Response<AnswerBody>, Refusal> {
        let Self { surface, bodies, strip_usage, mut call, entry, traceparent, switches, body } = self;
        let routes = call.routes().iter().zip(bodies);
        let candidates: Vec<_> = routes.map(|(route, body)| Candidate { provider: &route.provider, body }).collect();
        call.goes_out(body.waited);
        let origin = Origin { request_id: call.id, traceparent: traceparent.as_ref(), headers: &switches };
        let sent = call.inner.upstreams.send(surface, &candidates, &origin, &call.departure()).await;
        let (chosen, reply) = match sent {
            Ok(sent) => sent,
            Err(refusal) => {
                call.refused(&refusal);
                return Err(refusal);
            }
        };
        call.answered_by(chosen);
        if let Some(watch) = &call.inner.watch {
            watch.answered(&entry, surface, &body.bytes);
        }
        let id = HeaderValue::from_str(&call.id.to_string()).expect("a UUID is plain ASCII");
        let mut response = answer_of(reply, surface, strip_usage, call).await;
        let marked =
            if surface.is_free() { (UNMETERED_HEADER, HeaderValue::from_static("1")) } else { (METERED_HEADER, id) };
        response.headers_mut().insert(marked.0, marked.1);
        Ok(response)
    }
}

async fn answer_of(reply: Reply, surface: Surface, strip_usage: bool, mut call: OpenCall) -> Response<AnswerBody> {
    if reply.streams {
        let mut response =
            Response::new(AnswerBody::Stream(Box::new(Streaming::new(reply.body, surface, strip_usage, call))));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        return response;
    }
    match relay::whole(reply.body, surface, &mut call).await {
        Ok(bytes) => as_json(bytes),
        Err(_not_whole) => {
            let message = "The model's answer broke off; please try again.";
            Refusal::later("provider_cut", message, 1).response(surface.style()).map(AnswerBody::whole)
        }
    }
}
