//! Names to addresses: the one look-up of a way out.
//! Never: asked by a bot directly, or twice for one connection.

use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use molt_model::egress::Domain;

/// The world's name servers.
#[async_trait]
pub(crate) trait Resolve: Send + Sync {
    /// All addresses of the name, in the order in which they should be tried.
    async fn addresses(&self, name: &Domain) -> io::Result<Vec<IpAddr>>;
}

/// As this machine resolves names.
pub(crate) struct System;

#[async_trait]
impl Resolve for System {
    async fn addresses(&self, name: &Domain) -> io::Result<Vec<IpAddr>> {
        // The dot makes it the whole name: without it the machine's own search domains would be tried behind it.
        let found = tokio::net::lookup_host((format!("{name}."), 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}
