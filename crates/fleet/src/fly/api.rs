//! One call to the Machines API: its turn, its deadline, its answer or what went wrong with it.
//! Never: send a call again whose effect isn't known, unless it only reads; or put a secret into an error.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::connect::{Connector, Stream};
use super::pace::{Action, Pace};
use crate::host::HostError;

/// Fly's slow calls (a machine's creation) take up to half of this.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// On top of what a call was asked to wait for.
const WAIT_MARGIN: Duration = Duration::from_secs(10);
/// A page of a thousand machines with their settings.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Calls under way together.
const CALLS_AT_ONCE: usize = 64;
/// How long "too many requests" is waited out before the call is given up; the loop comes again.
const PATIENCE: Duration = Duration::from_secs(60);
/// When Fly doesn't say how long.
const REST: Duration = Duration::from_secs(1);
/// Pauses between tries of a call that only reads.
const READ_PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];
/// Of what Fly says about a refusal; more is no sentence.
const DETAIL_CHARS_MAX: usize = 300;
const NONCE: HeaderName = HeaderName::from_static("fly-machine-lease-nonce");

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It may have been done or not: the answer was lost, or says that something broke.
    #[error("Fly gives no answer: {0}")]
    Unknown(&'static str),
    /// It was not done.
    #[error("Fly answered {status}: {detail}")]
    Refused { status: StatusCode, kind: Kind, detail: String },
    /// Fly asks to come back later than we can wait.
    #[error("Fly asks us to slow down")]
    Busy,
}

/// What Fly says is the matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    InsufficientCapacity,
    NameTaken,
    #[default]
    #[serde(other)]
    Unknown,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
    #[serde(default)]
    status: Kind,
}

impl Failure {
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    pub(super) fn is_kind(&self, wanted: Kind) -> bool {
        matches!(self, Self::Refused { kind, .. } if *kind == wanted)
    }

    pub(super) fn is_status(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }
}

impl From<Failure> for HostError {
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::Refused { status: StatusCode::UNAUTHORIZED, .. } => Self::Unusable(
                "Fly does not accept the token; put one for the whole organisation where fleet.fly.token_env says"
                    .to_owned(),
            ),
            Failure::Refused { status: StatusCode::FORBIDDEN, .. } => Self::Unusable(
                "the token does not allow this at Fly; it must be one for the organisation that fleet.fly.org names"
                    .to_owned(),
            ),
            Failure::Refused { .. } => Self::Unexpected(failure.into()),
            // Silence is no answer: nobody may take it for a bot that isn't there.
            Failure::Unknown(_) | Failure::Busy => Self::Unusable(format!("{failure}; it is asked again by itself")),
        }
    }
}

/// What is asked.
pub(super) struct Call<'a> {
    pub(super) action: Action,
    /// Whose limit it counts against: an app, or an app's machine.
    pub(super) id: &'a str,
    pub(super) method: Method,
    /// From `/v1` on, with the query.
    pub(super) path: String,
    pub(super) body: Option<Value>,
    pub(super) nonce: Option<&'a str>,
    /// How long Fly itself was asked to wait.
    pub(super) waits: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new(action: Action, id: &'a str, method: Method, path: String) -> Self {
        Self { action, id, method, path, body: None, nonce: None, waits: Duration::ZERO }
    }

    pub(super) fn get(action: Action, id: &'a str, path: String) -> Self {
        Self::new(action, id, Method::GET, path)
    }

    pub(super) fn post(action: Action, id: &'a str, path: String, body: Value) -> Self {
        Self { body: Some(body), ..Self::new(action, id, Method::POST, path) }
    }

    pub(super) fn under(self, nonce: &'a str) -> Self {
        Self { nonce: Some(nonce), ..self }
    }
}

/// The Machines API with our token.
pub(super) struct Api {
    client: Client<Connect, Full<Bytes>>,
    /// Without a slash at the end.
    base: String,
    token: HeaderValue,
    pace: Pace,
    at_once: Semaphore,
}

impl Api {
    /// `base` is such as `https://api.machines.dev`.
    pub(super) fn new(base: &str, token: &SecretString) -> Result<Self, HostError> {
        let base = base.trim_end_matches('/').to_owned();
        let address: Option<Uri> = base.parse().ok();
        if !address.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()) {
            return Err(HostError::Unusable(
                "fleet.fly.api_url is not an address such as https://api.machines.dev".into(),
            ));
        }
        let mut token = HeaderValue::try_from(format!("Bearer {}", token.expose_secret().trim()))
            .map_err(|_| HostError::Unusable("the token for Fly holds characters that no token has".to_owned()))?;
        token.set_sensitive(true);
        let client = Client::builder(TokioExecutor::new()).build(Connect(Connector::new()));
        Ok(Self { client, base, token, pace: Pace::default(), at_once: Semaphore::new(CALLS_AT_ONCE) })
    }

    /// A call that only reads: tried again while its answer is lost. `None`: there is no such thing.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        action: Action,
        id: &str,
        path: &str,
    ) -> Result<Option<T>, Failure> {
        let mut pauses = READ_PAUSES.iter();
        loop {
            match self.ask(&Call::get(action, id, path.to_owned())).await {
                Ok(body) => return decode(&body).map(Some),
                Err(failure) if failure.is_status(StatusCode::NOT_FOUND) => return Ok(None),
                Err(failure) if failure.is_unknown() => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(failure),
                },
                Err(failure) => return Err(failure),
            }
        }
    }

    /// A call that changes something, with an answer to read.
    pub(super) async fn change<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Failure> {
        decode(&self.ask(&call).await?)
    }

    /// A call whose answer says nothing more than that it was done.
    pub(super) async fn tell(&self, call: Call<'_>) -> Result<(), Failure> {
        self.ask(&call).await.map(|_| ())
    }

    /// In its turn, and again after the pause that Fly asks for: a call that was refused for its pace was not done.
    async fn ask(&self, call: &Call<'_>) -> Result<Bytes, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            if !self.pace.turn(call.action, call.id, until.saturating_duration_since(Instant::now())).await {
                return Err(Failure::Busy);
            }
            let response = {
                let _place = self.at_once.acquire().await.map_err(|_| Failure::Unknown("closed"))?;
                self.send(call).await?
            };
            let (status, rest, body) = response;
            if status.is_success() {
                return Ok(body);
            }
            if status != StatusCode::TOO_MANY_REQUESTS {
                return Err(refusal(status, call.action, &body));
            }
            let rest = rest.unwrap_or(REST);
            tracing::debug!(fly.action = ?call.action, rest_ms = rest.as_millis(), "Fly asks us to slow down");
            self.pace.hold(call.action, call.id, rest);
        }
    }

    async fn send(&self, call: &Call<'_>) -> Result<(StatusCode, Option<Duration>, Bytes), Failure> {
        let limit = if call.waits.is_zero() { CALL_TIMEOUT } else { call.waits + WAIT_MARGIN };
        let exchange = async {
            let response = self.client.request(self.request(call)?).await.map_err(|error| {
                tracing::debug!(error = &error as &dyn std::error::Error, "a call to Fly broke off");
                Failure::Unknown("the connection broke")
            })?;
            read_whole(response).await
        };
        tokio::time::timeout(limit, exchange).await.map_err(|_| Failure::Unknown("it took too long"))?
    }

    fn request(&self, call: &Call<'_>) -> Result<Request<Full<Bytes>>, Failure> {
        let body = call.body.as_ref().map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.base, call.path))
            .header(AUTHORIZATION, &self.token);
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(nonce) = call.nonce {
            request = request.header(NONCE, nonce);
        }
        request.body(Full::new(body)).map_err(|_| Failure::Unknown("the request can't be written"))
    }
}

async fn read_whole(response: Response<Incoming>) -> Result<(StatusCode, Option<Duration>, Bytes), Failure> {
    let status = response.status();
    let rest = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|_| Failure::Unknown("the answer broke off"))?.to_bytes();
    Ok((status, rest.map(Duration::from_secs), body))
}

fn refusal(status: StatusCode, action: Action, body: &[u8]) -> Failure {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    if status.is_server_error() && refusal.status != Kind::InsufficientCapacity {
        return Failure::Unknown("it has a fault of its own");
    }
    // What was sent could come back in the text.
    let detail = match action {
        Action::SetSecrets => "the secrets were refused".to_owned(),
        _ => refusal.error.chars().take(DETAIL_CHARS_MAX).collect(),
    };
    Failure::Refused { status, kind: refusal.status, detail }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "an answer of Fly can't be read");
        Failure::Unknown("its answer can't be read")
    })
}

/// The connector as the client wants it.
#[derive(Clone)]
struct Connect(Connector);

impl tower::Service<Uri> for Connect {
    type Response = TokioIo<Stream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.0.clone().connect(uri))
    }
}
