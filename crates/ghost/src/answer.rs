//! What the proxy says itself, in the provider's own shapes: refusals as errors, notices as ordinary assistant messages.
//! Never: a 402, or words about money in an error; the runtime would lock the whole provider out for ten minutes.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use molt_model::Time;
use serde_json::{Value, json};

/// An error in OpenAI's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// OpenAI's `type`.
    pub(crate) kind: &'static str,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) retry_after_seconds: Option<u64>,
}

impl Refusal {
    pub(crate) fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    pub(crate) fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code, message: message.into(), retry_after_seconds: None }
    }

    /// "Not now": neutral words and a time to come back. A 429 rather than a 5xx, because the runtime repeats a 5xx
    /// eight times over 84 seconds while its user waits, and a 429 once.
    pub(crate) fn later(code: &'static str, message: impl Into<String>, retry_after_seconds: u64) -> Self {
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, message);
        Self { retry_after_seconds: Some(retry_after_seconds), ..refusal }
    }

    /// The body of an error, also for one inside a stream.
    pub(crate) fn body(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": null, "code": self.code } })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The shape in which a notice is put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) model: &'a str,
    pub(crate) stream: bool,
    pub(crate) usage_asked: bool,
}

/// A whole, ordinary chat completion that says `text` and used nothing.
pub(crate) fn notice(text: &str, shape: Shape<'_>, id: &str, now: Time) -> Response {
    let usage = json!({ "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 });
    if !shape.stream {
        let message = json!({ "role": "assistant", "content": text });
        return Json(json!({
            "id": id, "object": "chat.completion", "created": now.timestamp(), "model": shape.model,
            "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }], "usage": usage,
        }))
        .into_response();
    }
    let piece = |choices: Value| json!({ "id": id, "object": "chat.completion.chunk", "created": now.timestamp(), "model": shape.model, "choices": choices });
    let said = json!({ "role": "assistant", "content": text });
    let mut pieces = vec![
        piece(json!([{ "index": 0, "delta": said, "finish_reason": null }])),
        piece(json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }])),
    ];
    if shape.usage_asked {
        let mut last = piece(json!([]));
        last["usage"] = usage;
        pieces.push(last);
    }
    let mut text: String = pieces.iter().map(|piece| format!("data: {piece}\n\n")).collect();
    text.push_str("data: [DONE]\n\n");
    event_stream(Body::from(text))
}

/// A 200 whose body is a stream of server-sent events.
pub(crate) fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
