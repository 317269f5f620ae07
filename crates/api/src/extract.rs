//! What a handler takes from a request, with every refusal as a `Problem` that says what to do.
//! Never: axum's own extractors in a handler, because their refusals are plain text.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, IF_MATCH, ORIGIN};
use http::request::Parts;
use molt_model::BotId;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;

use crate::problem::{Code, Problem, sentence};
use crate::state::ApiState;

/// A JSON body of a given shape.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(not_marked());
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| refuse_bytes(&rejection))?;
        parse(&bytes).map(Self)
    }
}

/// A JSON body that may be left out.
pub(crate) struct OptionalJson<T>(pub(crate) Option<T>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let marked = is_json(request.headers());
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| refuse_bytes(&rejection))?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        if !marked {
            return Err(not_marked());
        }
        if bytes.trim_ascii() == b"null" {
            return Ok(Self(None));
        }
        parse(&bytes).map(|body| Self(Some(body)))
    }
}

fn not_marked() -> Problem {
    Problem::new(Code::UnsupportedMediaType, "Send JSON with the header Content-Type: application/json.")
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// What is no JSON as a whole is told apart from JSON of another shape. Only an object is a body: a list would be read as the
/// fields in their order, which nobody means.
fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Problem> {
    let Ok(whole) = serde_json::from_slice::<Value>(bytes) else {
        let detail = "Send one JSON object as the body, in UTF-8, and nothing after it.";
        return Err(Problem::new(Code::InvalidJson, detail));
    };
    if !whole.is_object() {
        let detail = "Send one JSON object with the fields that this address takes.";
        return Err(Problem::new(Code::InvalidBody, detail));
    }
    // Once more from the text, which knows of fields that are there twice.
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(bytes)).map_err(refuse_body)
}

fn refuse_body(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let path = error.path().to_string();
    let error = error.into_inner();
    let text = error.to_string();
    // Where in the text it is tells a program less than the field's name.
    let fault = match error.classify() {
        Category::Data => text.rsplit_once(" at line ").map_or(text.as_str(), |(fault, _)| fault),
        _ => "this isn't a value that it takes",
    };
    match path.as_str() {
        "." | "?" => Problem::new(Code::InvalidBody, format!("Send the fields that this address takes: {fault}.")),
        _ => Problem::field(&*path, format!("Send the fields that this address takes: {path}: {fault}.")),
    }
}

fn refuse_bytes(rejection: &BytesRejection) -> Problem {
    if rejection.status() == http::StatusCode::PAYLOAD_TOO_LARGE {
        let limit = crate::middleware::BODY_BYTES_MAX;
        return Problem::new(Code::BodyTooLarge, format!("Send a body of at most {limit} bytes."));
    }
    Problem::new(Code::InvalidJson, "The body did not arrive whole; send it again.")
}

/// The query string as a given shape.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let text = rejection.body_text();
                let fault = text.rsplit_once("query string: ").map_or(text.as_str(), |(_, fault)| fault);
                Err(Problem::new(Code::InvalidQuery, format!("Correct the query: {fault}.")))
            }
        }
    }
}

/// One or more parts of the path, as text. What isn't UTF-8 is no address of ours.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(_) => Err(Problem::new(Code::RouteNotFound, "Nothing is at this address; see /api/docs.")),
        }
    }
}

/// `{id}` of `/api/bots/{id}/…`. A text that can't be a bot's id names no bot of the caller's, so it is "not found" too.
pub(crate) struct BotPath(pub(crate) BotId);

impl<S: Send + Sync> FromRequestParts<S> for BotPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(names) = Path::<std::collections::HashMap<String, String>>::from_request_parts(parts, state).await?;
        let id = names.get("id").ok_or_else(Problem::bot_not_found)?;
        BotId::from_str(id).map(Self).map_err(|_| Problem::bot_not_found())
    }
}

/// The revision that the caller has seen, from `If-Match: 7` or `If-Match: "7"`.
pub(crate) struct IfMatch(pub(crate) i64);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(IF_MATCH) else {
            let detail = "Say which revision you have seen: send its number in the header If-Match.";
            return Err(Problem::new(Code::RevisionRequired, detail));
        };
        let text = value.to_str().unwrap_or_default().trim();
        let number = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        number.parse().map(Self).map_err(|_| {
            Problem::new(Code::InvalidHeader, sentence("send the revision in If-Match as a number, such as \"7\""))
        })
    }
}

/// Longer keys than a UUID with a word around it are no keys.
const KEY_CHARACTERS_MAX: usize = 200;
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What makes a request that comes twice one request, from the header `Idempotency-Key`, which may be left out.
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(IDEMPOTENCY_KEY) else { return Ok(Self(None)) };
        let key = value.to_str().ok().map(str::trim).filter(|key| (1..=KEY_CHARACTERS_MAX).contains(&key.len()));
        key.map(|key| Self(Some(key.to_owned()))).ok_or_else(|| {
            let detail =
                format!("Send a key of your own in Idempotency-Key, 1 to {KEY_CHARACTERS_MAX} plain characters.");
            Problem::new(Code::InvalidHeader, detail)
        })
    }
}

/// Where a request came from, as far as we can tell: the other end's address without its port. Behind a reverse proxy all
/// requests come from one place; limits by place are then limits for all.
pub(crate) struct Place(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_string());
        Ok(Self(address.unwrap_or_default()))
    }
}

/// Refuses requests that a page of another origin made the browser send with our cookie. A program sends no origin.
pub(crate) struct SameOrigin;

impl FromRequestParts<ApiState> for SameOrigin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let Some(origin) = parts.headers.get(ORIGIN) else { return Ok(Self) };
        if origin.to_str().is_ok_and(|origin| state.config.allows_origin(origin)) {
            return Ok(Self);
        }
        let detail = "Open the app at its own address; the operator can allow another one in the setting `origins`.";
        Err(Problem::new(Code::OriginNotAllowed, detail))
    }
}
