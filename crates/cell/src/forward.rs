//! The runtime's only way to a model: a reverse proxy on loopback that puts the Ghost Key on the way out.
//! Never: let the runtime see the key, hold back a byte of a stream, or send a request twice.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::body::Body;
use axum::response::IntoResponse;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::environment::ProxyAddress;
use crate::proxy::{Connection, Proxy};
use crate::traces::Traces;

/// The addresses under which a model answers; calls of these are counted for a run.
const ANSWERS: [&str; 3] = ["/chat/completions", "/responses", "/messages"];
/// The platform restarts within seconds; meanwhile a call waits instead of failing.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// One attempt on a private network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What the runtime is asked to wait before it tries again.
const RETRY_AFTER_SECONDS: &str = "2";
/// The path that the runtime's base address ends with.
const LOCAL_PREFIX: &str = "/v1";
/// Below the ports that the system gives to outgoing connections, so that a cell finds its own one free again.
const PORTS: RangeInclusive<u16> = 20_000..=32_000;
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Headers that concern one connection only, or carry a key.
const NOT_PASSED: [HeaderName; 9] = [
    AUTHORIZATION,
    CONNECTION,
    HOST,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("te"),
    HeaderName::from_static("transfer-encoding"),
    HeaderName::from_static("upgrade"),
];

/// Where model calls go, and with which key.
#[derive(Clone, Debug)]
pub struct Forwarder {
    proxy: Proxy,
    ghost_key: SecretString,
    traces: Traces,
}

impl Forwarder {
    #[must_use]
    pub fn new(proxy: Proxy, ghost_key: SecretString, traces: Traces) -> Self {
        Self { proxy, ghost_key, traces }
    }

    /// Starts listening on a loopback port; which one. It is the port that `note` remembers if that is free, since the
    /// runtime gives up its index of the memory when the address of its embeddings changes.
    pub async fn start(self, note: &Path) -> anyhow::Result<u16> {
        let listener = same_port_as_before(note).await?;
        let port = listener.local_addr().context("ask for the port")?.port();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Out of descriptors, most likely; going on at once would only spin.
                    tokio::time::sleep(CONNECT_PAUSE).await;
                    continue;
                };
                let forwarder = self.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let forwarder = forwarder.clone();
                        async move { Ok::<_, Infallible>(forwarder.forward(request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    connection.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Ok(port)
    }

    async fn forward(&self, request: Request<Incoming>) -> Response<Body> {
        match self.pass(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(%error, "a model call couldn't be forwarded");
                unavailable()
            }
        }
    }

    async fn pass(&self, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
        let request = self.outgoing(request)?;
        let trace = request.headers().get(&TRACEPARENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // Only what the platform shows as usage of the turn: a search in the memory or a list of models isn't.
        let trace = trace.filter(|_| ANSWERS.iter().any(|path| request.uri().path().ends_with(path)));
        // The connection is made before anything of the request is read, so that waiting for it repeats nothing.
        let connection = self.connect().await?;
        let (mut sender, driver) =
            hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.context("start with the proxy")?;
        tokio::spawn(driver);
        let mut response = sender.send_request(request).await.context("ask the proxy")?;
        // The proxy's own notices (a cap is reached) are no provider's answer, and no usage follows them.
        let metered = response.status().is_success() && !response.headers().contains_key("x-molt-unmetered");
        if let Some(trace) = trace.filter(|_| metered) {
            self.traces.count(&trace);
        }
        for name in [CONNECTION, HeaderName::from_static("keep-alive"), HeaderName::from_static("transfer-encoding")] {
            response.headers_mut().remove(name);
        }
        Ok(response.map(Body::new))
    }

    /// The request as the proxy is to see it.
    fn outgoing(&self, request: Request<Incoming>) -> anyhow::Result<Request<Incoming>> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let rest = path.strip_prefix(LOCAL_PREFIX).unwrap_or(path);
        let (host, prefix) = match self.proxy.address() {
            ProxyAddress::Tcp { authority, prefix } | ProxyAddress::Tls { authority, prefix, .. } => {
                (authority.as_str(), prefix.as_str())
            }
            ProxyAddress::Unix { .. } => ("proxy", LOCAL_PREFIX),
        };
        parts.uri = format!("{prefix}{rest}").parse::<Uri>().context("build the address")?;
        let mut headers: HeaderMap =
            parts.headers.into_iter().filter_map(|(name, value)| Some((name?, value))).collect();
        for name in &NOT_PASSED {
            headers.remove(name);
        }
        headers.insert(HOST, HeaderValue::try_from(host).context("name the host")?);
        let mut key = HeaderValue::try_from(format!("Bearer {}", self.ghost_key.expose_secret()))
            .map_err(|_| anyhow::anyhow!("the key can't be a header"))?;
        key.set_sensitive(true);
        headers.insert(AUTHORIZATION, key);
        let incoming = headers.get(&TRACEPARENT).and_then(|value| value.to_str().ok());
        // What comes behind the end of its run (memory is indexed afterwards) belongs to no run any more.
        match self.traces.attribute(incoming) {
            Some(trace) => headers.insert(TRACEPARENT, HeaderValue::try_from(trace).context("write the trace")?),
            None => headers.remove(&TRACEPARENT),
        };
        parts.headers = headers;
        Ok(Request::from_parts(parts, body))
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Connection>> {
        let deadline = Instant::now() + CONNECT_PATIENCE;
        loop {
            let attempt = self.proxy.connect();
            let error = match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => anyhow::Error::new(error),
                Err(elapsed) => anyhow::Error::new(elapsed),
            };
            if Instant::now() > deadline {
                return Err(error.context("connect to the proxy"));
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }
}

async fn same_port_as_before(note: &Path) -> anyhow::Result<TcpListener> {
    let remembered = std::fs::read_to_string(note).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let first = remembered.filter(|port| PORTS.contains(port)).unwrap_or_else(|| first_port(note));
    for port in (first..=*PORTS.end()).chain(*PORTS.start()..first) {
        let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await else { continue };
        if remembered != Some(port) {
            std::fs::write(note, port.to_string()).context("remember the port of the model calls")?;
        }
        return Ok(listener);
    }
    anyhow::bail!("no loopback port between {} and {} is free", PORTS.start(), PORTS.end())
}

/// Where this bot begins to look: each bot elsewhere, so that neighbours rarely want the same port.
fn first_port(note: &Path) -> u16 {
    let digest = Sha256::digest(note.as_os_str().as_encoded_bytes());
    let span = PORTS.end() - PORTS.start() + 1;
    PORTS.start() + u16::from_be_bytes([digest[0], digest[1]]) % span
}

/// Words matter here: the runtime reads "credit" or "billing" in an error as a reason to lock the provider out.
fn unavailable() -> Response<Body> {
    let body =
        r#"{"error":{"message":"The model gateway is restarting. Try again in a moment.","type":"unavailable"}}"#;
    let headers = [(CONTENT_TYPE, "application/json"), (RETRY_AFTER, RETRY_AFTER_SECONDS)];
    (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cell_takes_the_same_port_again_and_another_one_when_it_is_taken() {
        let note = std::env::temp_dir().join(format!("molt-forwarder-port-{}", std::process::id()));
        let first = same_port_as_before(&note).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let neighbour = same_port_as_before(&note).await.unwrap();
        let moved = neighbour.local_addr().unwrap().port();
        assert_ne!(moved, port);
        drop((first, neighbour));
        let again = same_port_as_before(&note).await.unwrap();
        assert_eq!(again.local_addr().unwrap().port(), moved);
        std::fs::remove_file(&note).unwrap();
    }
}
