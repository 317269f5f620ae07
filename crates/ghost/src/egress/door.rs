//! The door: how a cell without a socket to this machine comes to its ways out. It shows two keys, its Ghost Key, which says
//! whose it is, and one that opens nothing but this; then the connection is what a gate's is, without the model calls.
//! Never: opened by a Ghost Key alone, or for longer than both keys are in force.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use molt_model::BotId;
use molt_store::ghost;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::{Denied, Egress, Guest, place_of};
use crate::Inner;
use crate::call::presented_key;
use crate::gate::serve::converse;

/// Beside the models, so that a cell needs one address only.
pub(crate) const PATH: &str = "/v1/egress";
/// What the connection turns into: HTTP/1.1 as proxies speak it.
const PROTOCOL: HeaderValue = HeaderValue::from_static("molt-egress");
/// Not `Proxy-Authorization`: that is for the next machine only, and what stands in front of us may keep it.
const KEY_HEADER: HeaderName = HeaderName::from_static("x-molt-egress-key");

/// Answers with the change of protocol, or why not. The connection must be served with upgrades.
pub(crate) async fn open(inner: &Arc<Inner>, head: &mut Head) -> Response<Bytes> {
    let opened = match guest(inner, &head.headers).await {
        Ok(guest) => inner.egress.open_door(guest, head).await,
        Err(denied) => Err(denied),
    };
    opened.unwrap_or_else(|denied| {
        inner.egress.0.counts.denied(&denied);
        denied.text().map(Bytes::from)
    })
}

/// Whose keys they are. What doesn't look like two keys costs no look at anything.
async fn guest(inner: &Inner, headers: &HeaderMap) -> Result<Guest, Denied> {
    let ghost_key = presented_key(headers).map_err(|_none| Denied::NoKey)?;
    let egress_key = headers.get(KEY_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
    if !ghost::looks_like_a_key(ghost_key) || !ghost::looks_like_an_egress_key(egress_key) {
        return Err(Denied::NoKey);
    }
    let entry = inner.admission.entry(ghost_key).await.map_err(|refusal| match refusal.status {
        StatusCode::UNAUTHORIZED => Denied::NoKey,
        _ => Denied::Unknown,
    })?;
    // A program's key is of no bot and has no ways out.
    let bot: BotId = entry.bot.clone().ok_or(Denied::NoKey)?;
    Ok(Guest { bot, key: Some(Sha256::digest(egress_key).into()) })
}

impl Egress {
    async fn open_door(&self, guest: Guest, head: &mut Head) -> Result<Response<Bytes>, Denied> {
        let parts = &self.0;
        let (known, _) = self.admit(&guest).await?;
        let wanted = head.headers.get(header::UPGRADE) == Some(&PROTOCOL);
        let upgrade = head.extensions.remove::<OnUpgrade>().filter(|_| wanted);
        let upgrade = upgrade.ok_or(Denied::Malformed("Ask for the upgrade to molt-egress, in HTTP/1.1."))?;
        let places = (place_of(&known.doors)?, place_of(&parts.doors)?);
        parts.tasks.spawn(self.clone().host(guest, upgrade, places));
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, PROTOCOL);
        Ok(response)
    }

    /// Serves what comes through the door. Each request is judged by itself, so a revoked key asks in vain from then on; ways
    /// that are open see to their own end.
    async fn host(self, guest: Guest, upgrade: OnUpgrade, places: Places) {
        // An error: the cell was gone before it had the answer.
        let Ok(upgraded) = upgrade.await else { return };
        let stream = Held { stream: TokioIo::new(upgraded), _places: places };
        let (egress, stop) = (self.clone(), self.0.stop.clone());
        let answer = move |request, double| {
            let (egress, guest) = (egress.clone(), guest.clone());
            async move { if double { egress.two_lengths() } else { egress.serve(&guest, request).await } }
        };
        converse(stream, &stop, answer).await;
    }
}

type Places = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// A connection that holds its places as long as it is open, also as a tunnel.
struct Held {
    stream: TokioIo<Upgraded>,
    _places: Places,
}

impl AsyncRead for Held {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
