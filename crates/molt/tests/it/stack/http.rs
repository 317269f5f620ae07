//! Plain HTTP against the stack: what a program that somebody else wrote would send.
//! Never: a retry, or a redirect followed by itself.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::http::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::people::Person;

/// No answer of ours takes longer, but for streams, which are not read with this.
const ANSWER_PATIENCE: Duration = Duration::from_secs(35);

#[derive(Clone)]
pub(crate) struct Client {
    inner: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    port: u16,
}

/// What came back. `json` is null when the body isn't JSON.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

/// What is to be sent, taken apart so that a test can spoil any part of it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Bytes>,
}

impl Ask {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let method = method.to_ascii_uppercase().parse().expect("a method");
        Self { method, path: path.to_owned(), headers: HeaderMap::new(), body: None }
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header(AUTHORIZATION.as_str(), &format!("Bearer {token}"))
    }

    pub(crate) fn by(self, person: &Person) -> Self {
        self.bearer(&person.token)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header's name");
        self.headers.insert(name, HeaderValue::from_str(value).expect("a header's value"));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.raw(body.to_string())
    }

    /// Any bytes, still marked as JSON.
    pub(crate) fn raw(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self.header(CONTENT_TYPE.as_str(), "application/json")
    }
}

impl Answer {
    /// The answer's JSON when it is a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "refused: {} {}", self.status, self.text);
        self.json
    }

    /// A refusal in the one shape that all refusals have.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) {
        self.is_problem();
        assert_eq!((self.status, self.code()), (status, code), "{}", self.text);
    }

    pub(crate) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// Checks the shape of a Problem, whatever it says.
    #[track_caller]
    pub(crate) fn is_problem(&self) {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!(kind, "application/problem+json", "{} {}", self.status, self.text);
        let text = |name: &str| self.json[name].as_str().unwrap_or_default().to_owned();
        assert!(!text("code").is_empty() && !text("title").is_empty(), "{}", self.text);
        assert_eq!(self.json["status"].as_u64(), Some(self.status.into()), "{}", self.text);
        let detail = text("detail");
        assert!(detail.len() > 10 && detail.ends_with(['.', '?', '!']), "not a sentence: {}", self.text);
        for inner in ["sqlx", "panicked", "src/", "SqlState", "postgres"] {
            assert!(!self.text.contains(inner), "inner words leave the house: {}", self.text);
        }
    }
}

impl Client {
    pub(crate) fn new(port: u16) -> Self {
        Self { inner: hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http(), port }
    }

    /// `None`: nobody answers. Live events never end; of those only the head is read.
    pub(crate) async fn try_send(&self, ask: Ask) -> Option<Answer> {
        let events = ask.path.starts_with("/api/");
        let answer = async {
            let (head, body) = self.open(ask).await?.into_parts();
            let live = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
            let bytes = if live && events { Bytes::new() } else { body.collect().await.ok()?.to_bytes() };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let json = serde_json::from_str(&text).unwrap_or_default();
            Some(Answer { status: head.status.as_u16(), headers: head.headers, text, json })
        };
        tokio::time::timeout(ANSWER_PATIENCE, answer).await.expect("an answer within its time")
    }

    /// The head of the answer, and a body to be read.
    pub(crate) async fn open(&self, ask: Ask) -> Option<Response<Incoming>> {
        let uri = format!("http://127.0.0.1:{}{}", self.port, ask.path);
        let mut request = Request::builder().method(ask.method).uri(uri);
        *request.headers_mut().expect("a good request so far") = ask.headers;
        let request = request.body(Full::new(ask.body.unwrap_or_default())).expect("a good request");
        self.inner.request(request).await.ok()
    }

    pub(crate) async fn send(&self, ask: Ask) -> Answer {
        let what = format!("{} {}", ask.method, ask.path);
        self.try_send(ask).await.unwrap_or_else(|| panic!("nobody answers {what}"))
    }

    pub(crate) async fn try_get(&self, path: &str) -> Option<Answer> {
        self.try_send(Ask::new("get", path)).await
    }

    pub(crate) async fn get(&self, path: &str, person: &Person) -> Answer {
        self.send(Ask::new("get", path).by(person)).await
    }

    pub(crate) async fn post(&self, path: &str, person: &Person, body: &Value) -> Answer {
        self.send(Ask::new("post", path).by(person).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str, person: &Person) -> Answer {
        self.send(Ask::new("delete", path).by(person)).await
    }
}
