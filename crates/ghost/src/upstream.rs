//! The way to the places where models run: connect, send, wait for the first byte, try again while that is harmless.
//! Never: a second try after the first byte of an answer, or a provider's text passed on with a key in it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::StartError;
use crate::answer::Refusal;
use crate::config::{Config, ProviderConfig, ProviderKind};
use crate::outgoing::OutgoingBody;
use crate::practice::{Practice, PracticeBody};
use crate::settle::Departure;
use crate::surface::Surface;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A model that thinks, or answers in one piece, may be silent for minutes.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(180);
/// Providers close idle connections after a minute or more; a younger one is good.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(50);
const ATTEMPTS_MAX: u32 = 3;
/// No new attempt after this, so that the runtime's own patience isn't used up.
const ATTEMPTS_TIME_MAX: Duration = Duration::from_secs(20);
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Of a provider's error body.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
/// Of a provider's sentence that is passed on.
const ERROR_TEXT_CHARACTERS_MAX: usize = 500;
/// Asked of the caller when the provider names no time.
const RETRY_AFTER_SECONDS: u64 = 10;
const RETRY_AFTER_SECONDS_MAX: u64 = 300;
/// Words that make the runtime lock the provider out, whatever the status.
const LOCKING_WORDS: [&str; 7] = ["credit", "billing", "balance", "payment", "quota", "insufficient", "subscription"];

pub(crate) enum Provider {
    OpenAi(OpenAi),
    Practice(Practice),
}

/// Any address that speaks OpenAI's API.
pub(crate) struct OpenAi {
    /// Without a slash at its end.
    base_url: String,
    api_key: Option<SecretString>,
    client: Client<HttpsConnector<HttpConnector>, OutgoingBody>,
}

/// The beginning of a provider's answer.
pub(crate) struct Reply {
    /// The provider streams: the body is server-sent events.
    pub(crate) streams: bool,
    pub(crate) body: ReplyBody,
}

pub(crate) enum ReplyBody {
    OpenAi(Incoming),
    Practice(PracticeBody),
}

/// The connection broke before the body's end.
#[derive(Debug, thiserror::Error)]
#[error("the provider's answer broke off")]
pub(crate) struct Broken(#[source] Option<hyper::Error>);

impl ReplyBody {
    /// The next bytes; `None`: the end. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        match self {
            Self::OpenAi(incoming) => loop {
                match incoming.frame().await? {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => return Some(Ok(data)),
                        Err(_trailers) => {}
                    },
                    Err(error) => return Some(Err(Broken(Some(error)))),
                }
            },
            Self::Practice(body) => body.next().await.map(Ok),
        }
    }

    /// Nobody reads along any more: no need to go slowly.
    pub(crate) fn hurry(&mut self) {
        if let Self::Practice(body) = self {
            body.hurry();
        }
    }
}

/// One attempt's failure.
struct Failure {
    refusal: Refusal,
    /// Nothing was done yet on the provider's side, or it says that it failed: another try is harmless.
    again: bool,
    pause: Duration,
}

/// The providers by name. Faults of the configuration are said here, before anything starts.
pub(crate) fn providers(config: &Config) -> Result<HashMap<String, Provider>, StartError> {
    let client = client();
    let mut providers = HashMap::new();
    for given in &config.providers {
        let fault = |problem| StartError::Provider { name: given.name.clone(), problem };
        let provider = match given.kind {
            ProviderKind::Practice => Provider::Practice(Practice::new(given.name.clone(), config.practice_pace)),
            ProviderKind::OpenAi => Provider::OpenAi(OpenAi::new(given, client.clone()).map_err(fault)?),
        };
        if providers.insert(given.name.clone(), provider).is_some() {
            return Err(fault("there are two of this name; give each its own"));
        }
    }
    Ok(providers)
}

fn client() -> Client<HttpsConnector<HttpConnector>, OutgoingBody> {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let https = HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().wrap_connector(http);
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_CONNECTION_MAX)
        .pool_timer(TokioTimer::new())
        .build(https)
}

impl Provider {
    /// Sends the request, again where that is harmless, and returns when the answer begins.
    pub(crate) async fn send(&self, surface: Surface, body: Bytes, departure: &Departure) -> Result<Reply, Refusal> {
        match self {
            Self::Practice(practice) => {
                departure.leaves().map_err(|_| Failure::away(false).refusal)?;
                practice.reply(surface, &body)
            }
            Self::OpenAi(provider) => provider.send(surface, body, departure).await,
        }
    }
}

impl OpenAi {
    fn new(
        given: &ProviderConfig,
        client: Client<HttpsConnector<HttpConnector>, OutgoingBody>,
    ) -> Result<Self, &'static str> {
        let base_url = given.base_url.as_ref().ok_or("set its base_url, such as \"https://api.openai.com/v1\"")?;
        if !matches!(base_url.scheme(), "http" | "https") || base_url.host().is_none() {
            return Err("its base_url must begin with http:// or https://");
        }
        if !base_url.username().is_empty() || base_url.password().is_some() {
            return Err("its base_url must not hold a user or a password; use api_key");
        }
        let key_fits = given.api_key.as_ref().is_none_or(|key| bearer(key).is_some());
        if !key_fits {
            return Err("its api_key holds characters that no key has");
        }
        let base_url = base_url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { base_url, api_key: given.api_key.clone(), client })
    }

    async fn send(&self, surface: Surface, body: Bytes, departure: &Departure) -> Result<Reply, Refusal> {
        let started = Instant::now();
        let mut attempt = 1;
        loop {
            let failure = match self.attempt(surface, body.clone(), departure).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            departure.returned();
            let last = attempt >= ATTEMPTS_MAX || started.elapsed() + failure.pause > ATTEMPTS_TIME_MAX;
            if last || !failure.again {
                return Err(failure.refusal);
            }
            tokio::time::sleep(failure.pause * attempt).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, surface: Surface, body: Bytes, departure: &Departure) -> Result<Reply, Failure> {
        let request = self.request(surface, OutgoingBody::new(body, departure.clone()));
        let response = match tokio::time::timeout(FIRST_BYTE_TIMEOUT, self.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let again = error.is_connect();
                tracing::warn!(error = &error as &dyn std::error::Error, again, "a provider can't be reached");
                return Err(Failure::away(again));
            }
            Err(_elapsed) => {
                tracing::warn!("a provider sent no first byte in time");
                return Err(Failure::away(false));
            }
        };
        let status = response.status();
        if status.is_success() {
            let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
            let streams = kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream");
            return Ok(Reply { streams, body: ReplyBody::OpenAi(response.into_body()) });
        }
        let retry_after = retry_after(response.headers());
        let read = Limited::new(response.into_body(), ERROR_BODY_BYTES_MAX).collect();
        let text = match tokio::time::timeout(CONNECT_TIMEOUT, read).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        tracing::warn!(status = status.as_u16(), "a provider refused a call");
        Err(self.failure(status, retry_after, &text))
    }

    fn request(&self, surface: Surface, body: OutgoingBody) -> Request<OutgoingBody> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() =
            format!("{}{}", self.base_url, surface.path()).parse().expect("the base was checked as a URL at the start");
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("molt/", env!("CARGO_PKG_VERSION"))));
        if let Some(value) = self.api_key.as_ref().and_then(bearer) {
            headers.insert(header::AUTHORIZATION, value);
        }
        request
    }

    /// What a provider's error means for the caller. What only the operator can mend is a neutral "not now".
    fn failure(&self, status: StatusCode, retry_after: Option<u64>, body: &[u8]) -> Failure {
        match status.as_u16() {
            400 | 404 | 413 | 415 | 422 => {
                let said =
                    self.sentence(body).unwrap_or_else(|| "The model's provider refused the request.".to_owned());
                let refusal = Refusal::new(status, "invalid_request_error", "provider_refused", said);
                Failure { refusal, again: false, pause: RETRY_PAUSE }
            }
            429 => {
                let seconds = retry_after.unwrap_or(RETRY_AFTER_SECONDS);
                let refusal = Refusal::later("provider_busy", "The model is busy just now; please try again.", seconds);
                Failure { refusal, again: seconds <= 2, pause: Duration::from_secs(seconds).max(RETRY_PAUSE) }
            }
            401..=403 => {
                tracing::error!(
                    status = status.as_u16(),
                    "a provider refuses this installation's key: check its api_key"
                );
                Failure::away(false)
            }
            _ => Failure::away(status.is_server_error()),
        }
    }

    /// The provider's own sentence, without our key and without words that would lock the runtime.
    fn sentence(&self, body: &[u8]) -> Option<String> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let message =
            value.pointer("/error/message").or_else(|| value.get("message")).or_else(|| value.get("error"))?;
        let mut text: String = message.as_str()?.chars().take(ERROR_TEXT_CHARACTERS_MAX).collect();
        if let Some(key) = self.api_key.as_ref().map(|key| key.expose_secret()).filter(|key| !key.is_empty()) {
            text = text.replace(key, "[key]");
        }
        let text: Vec<_> = text.split(' ').map(|word| if looks_like_a_key(word) { "[key]" } else { word }).collect();
        let text = text.join(" ");
        let lower = text.to_lowercase();
        (!LOCKING_WORDS.iter().any(|word| lower.contains(word))).then_some(text)
    }
}

impl Failure {
    fn away(again: bool) -> Self {
        let message = "The model can't be reached just now; please try again.";
        let refusal = Refusal::later("provider_unavailable", message, RETRY_AFTER_SECONDS);
        Self { refusal, again, pause: RETRY_PAUSE }
    }
}

/// Providers quote a part of a wrong key (`sk-…abcd`).
fn looks_like_a_key(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    word.starts_with("sk-") || word.starts_with("Bearer") || (word.contains("***") && word.len() > 8)
}

fn bearer(key: &SecretString) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(seconds.clamp(1, RETRY_AFTER_SECONDS_MAX))
}
