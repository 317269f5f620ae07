//! Connections to the proxy, wherever it is: the one machine that a cell ever speaks to.
//! Never: a connection to anywhere else.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::environment::ProxyAddress;
use crate::isolate::Outside;
use crate::tls::Tls;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: ProxyAddress,
    /// It is reached from another network than the runtime's.
    outside: Option<Outside>,
    tls: Option<Tls>,
}

pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Proxy {
    /// Fails for a name that no certificate can have.
    pub fn new(address: ProxyAddress, outside: Option<Outside>) -> anyhow::Result<Self> {
        let tls = match &address {
            ProxyAddress::Tls { name, .. } => Some(Tls::new(name)?),
            ProxyAddress::Tcp { .. } | ProxyAddress::Unix { .. } => None,
        };
        Ok(Self { address, outside, tls })
    }

    /// The same, with an authority of one's own for its certificate.
    #[must_use]
    pub fn trusting(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    #[must_use]
    pub const fn address(&self) -> &ProxyAddress {
        &self.address
    }

    /// One attempt; the caller bounds it.
    pub async fn connect(&self) -> std::io::Result<Box<dyn Connection>> {
        let authority = match &self.address {
            ProxyAddress::Unix { path } => return Ok(Box::new(UnixStream::connect(path).await?)),
            ProxyAddress::Tcp { authority, .. } | ProxyAddress::Tls { authority, .. } => authority,
        };
        let stream = match &self.outside {
            Some(outside) => outside.connect(authority).await?,
            None => TcpStream::connect(authority).await?,
        };
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => Ok(Box::new(tls.connect(stream).await?)),
            None => Ok(Box::new(stream)),
        }
    }
}
