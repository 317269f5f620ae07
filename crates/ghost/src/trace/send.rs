//! Sends spans to a collector, over the proxy's own HTTP/1.1 and TLS.
//! Never: a collector's answer read without a bound, or a failure that nobody is told of.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use opentelemetry_sdk::{Resource, error::OTelSdkError};
use tokio::runtime::Handle;
use url::Url;

use super::Counts;
use crate::StartError;
use crate::upstream::Outpost;

/// For one batch, its repetitions included.
const SEND_MAX: Duration = Duration::from_secs(10);
const PATH: &str = "/v1/traces";

/// Counts what the library sends, and says once when a collector is away.
#[derive(Debug)]
pub(super) struct Exporter {
    inner: opentelemetry_otlp::SpanExporter,
    counts: Arc<Counts>,
    away: AtomicBool,
}

/// The library's way out.
struct Client {
    outpost: Outpost,
    /// The library has threads of its own, on which no connection of ours works.
    runtime: Handle,
}

pub(super) fn exporter(endpoint: &Url, counts: Arc<Counts>) -> Result<Exporter, StartError> {
    let mut endpoint = endpoint.clone();
    let path = endpoint.path().trim_end_matches('/').to_owned();
    if !path.ends_with(PATH) {
        endpoint.set_path(&format!("{path}{PATH}"));
    }
    let outpost = Outpost::of(&endpoint).ok_or(StartError::Traces("it must begin with http:// or https://"))?;
    let inner = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Client { outpost, runtime: Handle::current() })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_timeout(SEND_MAX)
        .build()
        .map_err(|_| StartError::Traces("it can't be used as an address"))?;
    Ok(Exporter { inner, counts, away: AtomicBool::new(false) })
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let sent = self.inner.export(batch).await;
        let counter = if sent.is_ok() { &self.counts.sent } else { &self.counts.failed };
        counter.fetch_add(spans, Ordering::Relaxed);
        match &sent {
            Ok(()) => self.away.store(false, Ordering::Relaxed),
            Err(error) if !self.away.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "traces can't be sent; said once until they can"
                );
            }
            Err(_) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> Result<(), OTelSdkError> {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (outpost, (head, body)) = (self.outpost.clone(), request.into_parts());
        let sent = self.runtime.spawn(async move {
            let sent = tokio::time::timeout(SEND_MAX, outpost.post(&head.headers, &body)).await;
            sent.map_err(|_elapsed| std::io::Error::from(std::io::ErrorKind::TimedOut))?
        });
        let (status, retry_after, body) = sent.await??;
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        if let Some(wait) = retry_after {
            response.headers_mut().insert(http::header::RETRY_AFTER, wait.as_secs().into());
        }
        Ok(response)
    }
}
