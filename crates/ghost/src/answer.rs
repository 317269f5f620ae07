//! What the proxy says itself, in the provider's own shapes: refusals as errors, notices as ordinary assistant messages.
//! Never: a 402, or words about money in an error; the runtime would lock the whole provider out for ten minutes.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use molt_model::{RequestId, Time};
use serde_json::{Value, json};

use crate::request::Asked;
use crate::speech::Speech;
use crate::surface::{Style, Surface};

/// An error.
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
    #[cold]
    pub(crate) fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    #[cold]
    pub(crate) fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code, message: message.into(), retry_after_seconds: None }
    }

    /// "Not now": neutral words and a time to come back. A 429 rather than a 5xx, because the runtime repeats a 5xx
    /// eight times over 84 seconds while its user waits, and a 429 once.
    #[cold]
    pub(crate) fn later(code: &'static str, message: impl Into<String>, retry_after_seconds: u64) -> Self {
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, message);
        Self { retry_after_seconds: Some(retry_after_seconds), ..refusal }
    }

    /// The body of an error.
    pub(crate) fn body(&self, style: Style) -> Value {
        match style {
            Style::OpenAi => {
                json!({ "error": { "message": self.message, "type": self.kind, "param": null, "code": self.code } })
            }
            Style::Anthropic => {
                json!({ "type": "error", "error": { "type": self.anthropic_kind(), "message": self.message } })
            }
        }
    }

    pub(crate) fn response(&self, style: Style) -> http::Response<Bytes> {
        let mut response = http::Response::new(Bytes::from(self.body(style).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// Anthropic's `type` follows the status.
    fn anthropic_kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.response(Style::OpenAi).map(Body::from)
    }
}

/// An answer of the proxy's own, from its first byte to its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) streams: bool,
    pub(crate) body: Bytes,
}

impl Notice {
    pub(crate) fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(if self.streams { EVENT_STREAM } else { "application/json" })
    }
}

const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// An ordinary assistant message that says `text` and used nothing, in the very shape that was asked for. `None`: on this
/// surface no model speaks, and a refusal must do.
pub(crate) fn notice(text: &str, surface: Surface, asked: &Asked, id: RequestId, now: Time) -> Option<Notice> {
    let id = id.0.simple().to_string();
    let (model, usage_asked) = (asked.model.as_str(), asked.usage_asked);
    let speech = Speech { id: &id, model, created: now.timestamp(), text, usage_asked, ..Speech::default() };
    let body = if asked.stream {
        let pieces = speech.pieces(surface)?;
        pieces.iter().flat_map(|(piece, _)| piece.as_ref()).copied().collect::<Vec<u8>>().into()
    } else {
        speech.whole(surface)?
    };
    Some(Notice { streams: asked.stream, body })
}

/// An error inside a stream: the caller must not take half an answer for a whole one. It begins with a blank line, as
/// half an event may stand before it.
pub(crate) fn cut_off(surface: Surface) -> Bytes {
    let message = "The model's answer broke off here; please try again.";
    let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "provider_cut", message);
    match surface {
        Surface::Chat | Surface::Embeddings | Surface::CountTokens => {
            format!("\n\ndata: {}\n\n", refusal.body(Style::OpenAi))
        }
        Surface::Responses => {
            // The number would follow the last one, which only the provider's own events tell.
            let event = json!({ "type": "error", "code": refusal.code, "message": message, "param": null,
                                "sequence_number": 0 });
            format!("\n\nevent: error\ndata: {event}\n\n")
        }
        Surface::Messages => format!("\n\nevent: error\ndata: {}\n\n", refusal.body(Style::Anthropic)),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::read;
    use crate::tap::{Tap, whole};
    use molt_model::TokenUsage;

    const BODY: &[u8] = br#"{"model":"p/m","max_tokens":5,"stream":true}"#;
    const SAID: &str = "This month's limit is reached: https://molt.example/app/usage";

    #[test]
    fn a_notice_is_a_whole_answer_that_used_nothing() {
        for surface in Surface::ALL {
            for stream in [true, false] {
                let mut asked = read(surface, BODY).unwrap();
                asked.stream = stream;
                asked.usage_asked = true;
                let notice = notice(SAID, surface, &asked, RequestId::random(), Time::UNIX_EPOCH);
                let Some(notice) = notice.filter(|_| surface.speaks()) else {
                    assert!(!surface.speaks(), "{surface:?}");
                    continue;
                };
                let text = String::from_utf8(notice.body.to_vec()).unwrap();
                assert!(text.contains(SAID) && text.contains("\"p/m\"") && notice.streams == stream);
                let kind = notice.content_type();
                assert_eq!(kind.to_str().unwrap().starts_with("text/event-stream"), stream);
                if stream {
                    let mut tap = Tap::new(surface, false);
                    assert_eq!(tap.push(notice.body.clone()), notice.body);
                    assert_eq!((tap.usage(), tap.done(), tap.finished()), (Some(TokenUsage::default()), true, true));
                } else {
                    assert_eq!(whole(surface, &notice.body).usage, Some(TokenUsage::default()));
                }
            }
        }
    }

    #[test]
    fn a_refusal_has_the_manners_of_its_surface() {
        let refusal = Refusal::later("busy", "Please try again.", 7);
        let response = refusal.response(Style::Anthropic);
        assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &HeaderValue::from(7)));
        let expected = r#"{"type":"error","error":{"type":"rate_limit_error","message":"Please try again."}}"#;
        assert_eq!(response.into_body(), expected);
        let expected =
            r#"{"error":{"message":"Please try again.","type":"rate_limit_error","param":null,"code":"busy"}}"#;
        assert_eq!(refusal.response(Style::OpenAi).into_body(), expected);
        for (status, kind) in [(400, "invalid_request_error"), (404, "not_found_error"), (413, "request_too_large")] {
            let status = StatusCode::from_u16(status).unwrap();
            let body = Refusal::new(status, "x", "y", "z").body(Style::Anthropic);
            assert_eq!(body["error"]["type"], kind);
        }
    }

    #[test]
    fn a_break_is_an_error_and_no_end() {
        for surface in Surface::ALL.into_iter().filter(|surface| surface.speaks()) {
            let mut tap = Tap::new(surface, false);
            // In the middle of an event, as breaks are.
            tap.push(Bytes::from_static(b"event: x\ndata: {\"cho"));
            let cut = cut_off(surface);
            tap.push(cut.clone());
            assert_eq!((tap.done(), tap.finished(), tap.usage()), (false, false, None));
            let text = String::from_utf8(cut.to_vec()).unwrap();
            let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            let event: Value = serde_json::from_str(data).unwrap();
            assert!(
                text.starts_with("\n\n")
                    && text.ends_with("\n\n")
                    && text.contains("provider_cut") != (surface == Surface::Messages)
            );
            assert_eq!(event.get("error").is_some(), surface != Surface::Responses);
            assert_eq!(text.contains("event: error\n"), surface != Surface::Chat);
        }
    }
}
