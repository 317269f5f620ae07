//! Speaking to a Docker engine on this machine: HTTP over its unix socket, a connection for every call.
//! Never: a call without a deadline (but the one that waits for a cell's end), or an engine on another machine, whose
//! folders are not ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

use crate::host::HostError;

/// An engine that is asked something small answers within milliseconds; one under load may take seconds.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Descriptions of a few thousand containers.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The oldest dialect that has all that is used here (engine 20.10), and the newest that was read.
const DIALECT_MIN: (u32, u32) = (1, 41);
const DIALECT_MAX: (u32, u32) = (1, 47);
/// What the kernel calls it, in the words of the engine.
const NO_ROOM: &str = "no space left on device";

/// One engine. Its dialect is asked for once.
#[derive(Debug)]
pub(super) struct Engine {
    socket: PathBuf,
    dialect: OnceCell<String>,
}

/// What came of a call.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versions {
    api_version: String,
    #[serde(default, rename = "MinAPIVersion")]
    min_api_version: String,
}

impl Engine {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), dialect: OnceCell::new() }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, HostError> {
        self.call(Method::GET, path, None, CALL_MAX).await
    }

    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Answer, HostError> {
        self.call(Method::POST, path, body, CALL_MAX).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Answer, HostError> {
        self.call(Method::DELETE, path, None, CALL_MAX).await
    }

    /// As `post`, for what takes the engine so much longer.
    pub(super) async fn post_slow(&self, path: &str, longer: Duration) -> Result<Answer, HostError> {
        self.call(Method::POST, path, None, CALL_MAX + longer).await
    }

    /// Resolves when the engine answers, however long that takes.
    pub(super) async fn wait(&self, path: &str) -> Result<Answer, HostError> {
        let request = self.request(Method::POST, path, None).await?;
        self.ask(request).await
    }

    /// Opens the way to a container's standard input. It is open until the value is dropped.
    pub(super) async fn attach(&self, path: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>, HostError> {
        let mut request = self.request(Method::POST, path, None).await?;
        request.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(UPGRADE, http::HeaderValue::from_static("tcp"));
        let opening = async {
            let (mut sender, driver) = self.connect().await?;
            tokio::spawn(driver);
            let response = sender.send_request(request).await.context("attach to the cell")?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(read(response).await?.refusal("attach to the cell"));
            }
            Ok(TokioIo::new(hyper::upgrade::on(response).await.context("attach to the cell")?))
        };
        within(CALL_MAX, opening).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Answer, HostError> {
        let request = self.request(method, path, body).await?;
        within(limit, self.ask(request)).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, HostError> {
        let dialect = self.dialect.get_or_try_init(|| self.negotiate()).await?;
        build(method, &format!("/v{dialect}{path}"), body)
    }

    /// The newest dialect that both speak. A newer engine that gave up ours is taken at its word.
    async fn negotiate(&self) -> Result<String, HostError> {
        let answer = within(CALL_MAX, self.ask(build(Method::GET, "/version", None)?)).await?;
        let versions: Versions = answer.expect("ask for the engine's version")?.read()?;
        let (newest, oldest) = (parse(&versions.api_version), parse(&versions.min_api_version));
        if newest < DIALECT_MIN {
            return Err(HostError::Unusable("the Docker engine is too old: 20.10 or newer is needed".to_owned()));
        }
        let (major, minor) = newest.min(DIALECT_MAX).max(oldest);
        Ok(format!("{major}.{minor}"))
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Answer, HostError> {
        let (mut sender, driver) = self.connect().await?;
        let driver = tokio::spawn(driver);
        let answer = async { read(sender.send_request(request).await.map_err(broken)?).await }.await;
        driver.abort();
        answer
    }

    async fn connect(
        &self,
    ) -> Result<(SendRequest<Full<Bytes>>, impl Future<Output = Result<(), hyper::Error>> + use<>), HostError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.away(&error))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        Ok((sender, connection.with_upgrades()))
    }

    fn away(&self, error: &std::io::Error) -> HostError {
        let socket = self.socket.display();
        HostError::Unusable(match error.kind() {
            std::io::ErrorKind::PermissionDenied => format!(
                "this account may not speak to the Docker engine at {socket}: add it to the group `docker` and log in \
                 again, or start molt as root"
            ),
            _ => format!(
                "the Docker engine doesn't answer at {socket}: start it (systemctl start docker), or name its socket in \
                 [fleet] docker_socket"
            ),
        })
    }
}

impl Answer {
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, HostError> {
        Ok(serde_json::from_slice(&self.body).context("read the engine's answer")?)
    }

    /// The answer, if the engine did what it was asked to (or had done it before).
    pub(super) fn expect(self, what: &'static str) -> Result<Self, HostError> {
        let good = self.status.is_success() || self.status == StatusCode::NOT_MODIFIED;
        if good { Ok(self) } else { Err(self.refusal(what)) }
    }

    /// As `expect`; what isn't there is `None`.
    pub(super) fn found(self, what: &'static str) -> Result<Option<Self>, HostError> {
        if self.status == StatusCode::NOT_FOUND { Ok(None) } else { self.expect(what).map(Some) }
    }

    pub(super) fn refusal(&self, what: &'static str) -> HostError {
        let said = self.said();
        if said.contains(NO_ROOM) {
            return HostError::DiskFull;
        }
        let status = self.status.as_u16();
        HostError::Unexpected(anyhow!("the engine answered {status}: {said}").context(what))
    }

    /// The engine's own words, for the log.
    pub(super) fn said(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["message"].as_str().unwrap_or("it gave no reason").to_owned()
    }
}

fn build(method: Method, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, HostError> {
    let bytes = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header(HOST, "docker");
    let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(bytes)));
    Ok(request.context("build a request to the engine")?)
}

async fn read(response: Response<Incoming>) -> Result<Answer, HostError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow!(error).context("read the engine's answer"))?.to_bytes();
    Ok(Answer { status, body })
}

/// The engine took the call and went away over it: nobody knows whether it was done.
fn broken(error: hyper::Error) -> HostError {
    HostError::Unexpected(anyhow!(error).context("the engine broke off"))
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
    let slow = |_| HostError::Unusable(format!("the Docker engine did not answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, work).await.map_err(slow)?
}

fn parse(dialect: &str) -> (u32, u32) {
    let (major, minor) = dialect.split_once('.').unwrap_or((dialect, "0"));
    (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

/// What goes into a query.
pub(super) fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_are_numbers() {
        assert!(parse("1.9") < parse("1.41") && parse("1.41") < parse("2.0"));
        assert_eq!(parse(""), (0, 0));
        assert_eq!(escape("{\"label\":[\"a=b\"]}"), "%7B%22label%22%3A%5B%22a%3Db%22%5D%7D");
    }

    #[tokio::test]
    async fn an_engine_that_is_away_says_what_to_do() {
        let engine = Engine::new(Path::new("/nowhere/docker.sock"));
        let error = engine.get("/info").await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("/nowhere/docker.sock") && error.contains("docker_socket"), "{error}");
    }
}
