//! Asking a cell: health, configuration, and the chat stream.
//! Never: wait without a deadline, or retry by itself; the caller's loop is the retry.

use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::connect::CellAddress;
use crate::error::ClientError;
use crate::stream::CellStream;
use crate::wire::{Applied, CellHealth, CellSeq, Fault, REVISION_HEADER, Revision};

/// Health is answered from memory; longer means that the cell is stuck.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// The runtime gets five seconds to end by itself.
const RESTART_TIMEOUT: Duration = Duration::from_secs(15);
/// A change may need a restart of the runtime, which takes up to 45 s on a busy machine.
const APPLY_TIMEOUT: Duration = Duration::from_secs(120);
/// Answers of a cell are small; a cell that runs a stranger's code must not fill our memory.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Speaks to one cell. Cheap to clone; every call opens a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    address: CellAddress,
    token: SecretString,
}

impl Client {
    /// `token` is the bot's gateway token.
    #[must_use]
    pub const fn new(address: CellAddress, token: SecretString) -> Self {
        Self { address, token }
    }

    #[must_use]
    pub const fn address(&self) -> &CellAddress {
        &self.address
    }

    /// What the cell is doing. Answered in every phase.
    pub async fn health(&self) -> Result<CellHealth, ClientError> {
        let request = self.request(Method::GET, "/api/health", None, Bytes::new())?;
        within(HEALTH_TIMEOUT, self.ask(request)).await
    }

    /// Has the cell start its runtime anew; answers when that has begun. The cell, its state and its chats stay.
    pub async fn restart_runtime(&self) -> Result<CellHealth, ClientError> {
        let request = self.request(Method::POST, "/api/restart", None, Bytes::new())?;
        within(RESTART_TIMEOUT, self.ask(request)).await
    }

    /// Gives the runtime a configuration; answers once it has really taken it over. Safe to repeat: the same
    /// configuration again changes nothing. `Refused` means that it doesn't validate, or that the runtime doesn't come up with
    /// it (`config_breaks`); the old one stays.
    pub async fn apply(&self, revision: Revision, config: &Value) -> Result<Applied, ClientError> {
        let body = serde_json::to_vec(config).context("encode config").map_err(ClientError::Protocol)?;
        let request = self.request(Method::POST, "/api/config", Some(revision), Bytes::from(body))?;
        within(APPLY_TIMEOUT, self.ask(request)).await
    }

    /// Opens the chat stream and says hello: finished frames after `after` come first.
    pub async fn stream(&self, after: CellSeq) -> Result<CellStream, ClientError> {
        let connection = self.address.connect().await?;
        CellStream::open(connection, self.bearer()?, after).await
    }

    fn request(
        &self,
        method: Method,
        path: &'static str,
        revision: Option<Revision>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "cell")
            .header(AUTHORIZATION, self.bearer()?)
            .header(CONTENT_TYPE, "application/json");
        if let Some(revision) = revision {
            request = request.header(REVISION_HEADER, revision);
        }
        request.body(Full::new(body)).context("build request").map_err(ClientError::Protocol)
    }

    fn bearer(&self) -> Result<HeaderValue, ClientError> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.token.expose_secret()))
            .map_err(|_| ClientError::Protocol(anyhow!("the gateway token can't be a header")))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn ask<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, ClientError> {
        let connection = TokioIo::new(self.address.connect().await?);
        let (mut sender, driver) = hyper::client::conn::http1::handshake(connection).await.map_err(broken)?;
        let answer = async move { read_answer(sender.send_request(request).await.map_err(broken)?).await };
        tokio::pin!(driver, answer);
        // Driven from here: a task of its own would be woken on another thread, for each of ten thousand cells a minute.
        let mut over = false;
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                _ = &mut driver, if !over => over = true,
            }
        }
    }
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Unreachable(std::io::Error::other(error))
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    tokio::time::timeout(limit, work).await.map_err(|_| ClientError::Timeout)?
}

async fn read_answer<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| ClientError::Protocol(anyhow!(error).context("read the answer")))?
        .to_bytes();
    if status == StatusCode::UNAUTHORIZED {
        return Err(ClientError::Unauthorized);
    }
    if !status.is_success() {
        let fault: Fault = serde_json::from_slice(&body).context("decode a refusal").map_err(ClientError::Protocol)?;
        return Err(ClientError::Refused { status, fault });
    }
    serde_json::from_slice(&body).context("decode the answer").map_err(ClientError::Protocol)
}
