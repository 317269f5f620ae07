//! Everything here against real sockets on the loopback: what providers say wrongly, late, twice or not at all.
//! Never: a stand-in for the wire, or a test that waits for a time to pass where it can wait for a fact.

mod lies;
mod sends;
mod server;
mod tls;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use molt_model::RequestId;

use super::*;

/// Counts the notes that a journal would get.
#[derive(Default)]
struct Notes {
    left: AtomicUsize,
    returned: AtomicUsize,
    disk_full: bool,
}

impl Departure for Notes {
    fn tries(&self, _candidate: usize) {}

    fn leaves(&self) -> io::Result<()> {
        if self.disk_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.left.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn returned(&self) {
        self.returned.fetch_add(1, Ordering::SeqCst);
    }
}

impl Notes {
    /// How often a call left, and how often an attempt came to nothing.
    fn counts(&self) -> (usize, usize) {
        (self.left.load(Ordering::SeqCst), self.returned.load(Ordering::SeqCst))
    }
}

fn provider(name: &str, kind: ProviderKind, base_url: &str, keys: &[&str]) -> ProviderConfig {
    let api_keys = keys.iter().map(|key| secrecy::SecretString::from(*key).into()).collect();
    ProviderConfig { name: name.to_owned(), kind, base_url: Some(base_url.parse().unwrap()), api_keys, key_file: None }
}

fn upstreams(configs: &[ProviderConfig]) -> Upstreams {
    Upstreams::start(configs, Duration::ZERO).unwrap()
}

/// One chat call to the providers in this order.
async fn send(
    upstreams: &Upstreams,
    providers: &[&str],
    body: &Bytes,
    notes: &Notes,
) -> Result<(usize, Reply), Refusal> {
    let candidates: Vec<_> = providers.iter().map(|provider| Candidate { provider, body: body.clone() }).collect();
    let headers = HeaderMap::new();
    let origin = Origin { request_id: RequestId::random(), traceparent: None, headers: &headers };
    upstreams.send(Surface::Chat, &candidates, &origin, notes).await
}

/// The whole body, or how it broke and what came before.
async fn read(mut body: ReplyBody) -> Result<Vec<u8>, (Broken, Vec<u8>)> {
    let mut whole = Vec::new();
    loop {
        match body.next().await {
            Some(Ok(data)) => {
                assert!(!data.is_empty(), "an empty piece would be an empty write");
                whole.extend_from_slice(&data);
            }
            Some(Err(broken)) => {
                assert!(matches!(body.next().await, Some(Err(_))), "an error is never followed by an end");
                assert!(!body.is_ended());
                return Err((broken, whole));
            }
            None => {
                assert!(body.is_ended());
                return Ok(whole);
            }
        }
    }
}
