//! One request to a place that runs no models: the operator's own collector.
//! Never: a master key, or a connection kept for it.

use std::io;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use url::Url;

use super::body::WireBody;
use super::connect::{self, Address};
use super::exchange::exchange;
use super::head::{self, Head};
use super::provider::beginning;

/// Where to send to. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outpost {
    address: Address,
    /// Path, host.
    opening: String,
}

impl Outpost {
    /// `None`: not an address that can be called.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        let address = Address::of(url, &connect::tls())?;
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
        Some(Self { address, opening: head::opening_of(path, authority) })
    }

    /// Posts with these headers; what is answered: a status, when to come back, and the beginning of the body.
    pub(crate) async fn post(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> io::Result<(StatusCode, Option<Duration>, Vec<u8>)> {
        let mut connection = self.address.connect().await?;
        let head = head::with_headers(&self.opening, headers, body.len());
        let answered = exchange(&mut connection, &head, body).await;
        let Head { status, retry_after, framing, .. } =
            answered.map_err(|unanswered| io::Error::other(unanswered.broken))?;
        let text = beginning(&mut WireBody::new(connection, framing, None)).await;
        Ok((status, retry_after, text))
    }
}
