//! Fly's Machines API as its documentation and its client library describe it, with state, limits and faults: what
//! `FlyHost` is tested against. It was never compared with Fly itself.
//! Never: kinder than the documentation. No answer repeats a change, no list is whole beyond its page, nothing is at once.

mod faults;
mod life;
mod routes;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use molt_fleet::BoxFuture;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

pub(crate) use faults::Fault;
pub(crate) use state::{App, Call, State};

pub(crate) const TOKEN: &str = "fo1_simulated";
pub(crate) const ORG: &str = "acme";

/// What runs in a machine: a program, with the machine's environment on top.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) command: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    /// Volumes are folders in here.
    pub(crate) volumes: PathBuf,
}

/// What a test puts into machines in the place of programs, and where it steps in.
pub(crate) trait Guests: Send + Sync {
    /// A machine has started and answers at this address, with this environment.
    fn start(&self, address: &str, environment: &BTreeMap<String, String>);

    /// It is down, or gone, or about to be.
    fn end(&self, bot: &str);

    /// Every call passes this before it does anything and once more before it is answered.
    fn point(&self) -> BoxFuture<'_, ()>;

    /// What the call that just passed its first point has to suffer.
    fn suffers(&self) -> Option<Fault>;
}

/// How this Fly behaves.
#[derive(Clone)]
pub(crate) struct Rules {
    /// `None`: machines are empty, only their states move.
    pub(crate) program: Option<Program>,
    pub(crate) guests: Option<Arc<dyn Guests>>,
    /// How long a machine takes from one state to the next.
    pub(crate) lag: Duration,
    /// What a call takes, by method and path.
    pub(crate) latency: fn(&Method, &str) -> Duration,
    /// How long a program has to end before it is killed. Fly waits for what `stop_config` says; here time is short.
    pub(crate) grace: Duration,
    /// The same for leases that nobody gives back.
    pub(crate) lease_max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            program: None,
            guests: None,
            lag: Duration::from_millis(30),
            latency: |_, _| Duration::ZERO,
            grace: Duration::from_secs(3),
            lease_max: Duration::MAX,
        }
    }
}

pub(crate) struct Simulator {
    pub(crate) inner: Arc<Inner>,
    pub(crate) address: SocketAddr,
    server: AbortHandle,
}

pub(crate) struct Inner {
    state: Mutex<State>,
    changed: Notify,
    rules: Rules,
}

impl Simulator {
    pub(crate) async fn new() -> Self {
        Self::with(Rules::default()).await
    }

    pub(crate) async fn with(rules: Rules) -> Self {
        let inner = Arc::new(Inner { state: Mutex::new(State::new()), changed: Notify::new(), rules });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = inner.clone();
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let inner = served.clone();
                let service = service_fn(move |request| answer(inner.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        Self { inner, address, server: server.abort_handle() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state()
    }

    /// The only app, which must be the only one.
    pub(crate) fn app(&self) -> App {
        let state = self.state();
        assert_eq!(state.apps.len(), 1, "{:?}", state.apps.keys());
        state.apps.values().next().unwrap().clone()
    }

    /// Calls of this kind so far, by method and the end of the path.
    pub(crate) fn calls(&self, method: &str, end: &str) -> Vec<Call> {
        let state = self.state();
        state.calls.iter().filter(|call| call.method == method && call.path.ends_with(end)).cloned().collect()
    }

    /// Signals the program of the app's machine.
    pub(crate) fn signal(&self, app: &str, what: Signal) {
        let process = self.state().apps[app].living().next().and_then(|machine| machine.process);
        life::signal(process.unwrap(), what);
    }

    /// The machine's computer takes it away.
    pub(crate) fn destroy_machine(&self, app: &str) {
        self.inner.destroy(app);
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.server.abort();
        self.inner.end_all();
    }
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed while it held the state has said so already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection ends without an answer.
#[derive(Debug)]
pub(super) struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("lost")
    }
}

impl std::error::Error for Lost {}

/// What came to the front door, taken apart.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Value,
    pub(super) nonce: Option<String>,
}

impl Asked {
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

pub(super) type Answer = (StatusCode, Value);

pub(super) fn refuse(status: u16, error: &str) -> Answer {
    (StatusCode::from_u16(status).unwrap(), json!({ "error": error, "status": "unknown" }))
}

pub(super) fn refuse_as(status: u16, error: &str, kind: &str) -> Answer {
    (StatusCode::from_u16(status).unwrap(), json!({ "error": error, "status": kind }))
}

async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Lost> {
    let authorized = request.headers().get("authorization").is_some_and(|it| it == format!("Bearer {TOKEN}").as_str());
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
    let query = parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let asked = Asked {
        path: parts.uri.path().to_owned(),
        query: query.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        body: if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or(Value::Null) },
        nonce: parts.headers.get("fly-machine-lease-nonce").map(|value| value.to_str().unwrap().to_owned()),
        method: parts.method,
    };
    if !authorized {
        return Ok(written(refuse(401, "unauthorized"), None));
    }
    if let Some(guests) = &inner.rules.guests {
        guests.point().await;
    }
    let suffers = inner.rules.guests.as_ref().and_then(|guests| guests.suffers());
    let fault = suffers.or_else(|| inner.state().next_fault(&asked));
    match fault {
        Some(Fault::LoseRequest) => return Err(Lost),
        Some(Fault::Slow(pause)) => tokio::time::sleep(pause).await,
        Some(Fault::Broken) => return Ok(written(refuse(503, "our fault"), None)),
        Some(Fault::TooMany(seconds)) => return Ok(written(refuse(429, "slow down"), Some(seconds))),
        Some(Fault::Lie) => return Ok(written((StatusCode::OK, json!({ "id": 7, "name": ["x"], "state": 1 })), None)),
        Some(Fault::LoseAnswer) | None => {}
    }
    if let Some(seconds) = inner.state().over_limit(&asked) {
        return Ok(written(refuse(429, "rate limit exceeded"), Some(seconds)));
    }
    tokio::time::sleep((inner.rules.latency)(&asked.method, &asked.path)).await;
    let answer = inner.route(&asked).await;
    inner.state().note(&asked);
    if let Some(guests) = &inner.rules.guests {
        guests.point().await;
    }
    if fault == Some(Fault::LoseAnswer) {
        return Err(Lost);
    }
    Ok(written(answer, None))
}

fn written((status, body): Answer, retry_after: Option<u64>) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status).header("fly-request-id", "01SIMULATED");
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    if body.is_null() {
        return response.body(Full::default()).unwrap();
    }
    response.header("content-type", "application/json").body(Full::from(body.to_string())).unwrap()
}
