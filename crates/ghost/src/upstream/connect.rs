//! Connections to a provider: name lookup, TCP, TLS, and the bytes in both directions.
//! Never: an address that a request names, or a certificate that isn't checked.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Id};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

use crate::turn::Turn;

/// Lookup, TCP and TLS together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A name may have many addresses; each gets its share of the time, and more would leave too little for each.
const ADDRESSES_MAX: usize = 4;
/// The first read of an answer; most events and small answers fit.
const READ_BYTES: usize = 8 * 1024;
/// One read takes so much at most once the provider has shown that it sends faster than we read.
const READ_BYTES_MAX: usize = 64 * 1024;
/// With less room than this the next read would be a small one, so the buffer is made anew.
const READ_ROOM_MIN: usize = 2 * 1024;

/// Where a provider is, from its configured `base_url` and nothing else.
#[derive(Clone)]
pub(super) struct Address {
    host: Host<String>,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// One open connection. It belongs to the runtime that opened it.
pub(super) struct Connection {
    stream: Stream,
    pub(super) runtime: Id,
    /// Read and not yet given on.
    pub(super) buffer: BytesMut,
    read_bytes: usize,
    /// It has carried an earlier answer; the provider may be closing it at this very moment.
    pub(super) reused: bool,
    turn: Turn,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Address {
    /// `None`: not an address that can be called.
    pub(super) fn of(url: &Url, tls: &Arc<ClientConfig>) -> Option<Self> {
        let host = url.host()?.to_owned();
        let port = url.port_or_known_default()?;
        let tls = match url.scheme() {
            "http" => None,
            "https" => {
                let name = match &host {
                    Host::Domain(name) => ServerName::try_from(name.clone()).ok()?,
                    Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
                    Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
                };
                Some((TlsConnector::from(Arc::clone(tls)), name))
            }
            _ => return None,
        };
        Some(Self { host, port, tls })
    }

    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await;
        opened.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn open(&self) -> io::Result<Connection> {
        let tcp = self.open_tcp().await?;
        tcp.set_nodelay(true)?;
        let stream = match &self.tls {
            None => Stream::Plain(tcp),
            Some((connector, name)) => Stream::Tls(Box::new(connector.connect(name.clone(), tcp).await?)),
        };
        let runtime = Handle::current().id();
        Ok(Connection {
            stream,
            runtime,
            buffer: BytesMut::new(),
            read_bytes: READ_BYTES,
            reused: false,
            turn: Turn::default(),
        })
    }

    async fn open_tcp(&self) -> io::Result<TcpStream> {
        let mut addresses: Vec<SocketAddr> = match &self.host {
            Host::Ipv4(ip) => vec![(*ip, self.port).into()],
            Host::Ipv6(ip) => vec![(*ip, self.port).into()],
            Host::Domain(name) => tokio::net::lookup_host((name.as_str(), self.port)).await?.collect(),
        };
        addresses.truncate(ADDRESSES_MAX);
        let until = Instant::now() + CONNECT_TIMEOUT;
        let mut left = u32::try_from(addresses.len()).unwrap_or(1);
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            let share = until.saturating_duration_since(Instant::now()) / left;
            left -= 1;
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_elapsed) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failed)
    }
}

impl Connection {
    /// Nothing was said on it since its last answer. Bytes that nobody asked for, or an end, make it useless.
    pub(super) fn is_quiet(&self) -> bool {
        let tcp = match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        };
        let mut byte = [0];
        matches!(tcp.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The next answer is expected to be so long.
    pub(super) fn expect(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(READ_BYTES_MAX);
        self.read_bytes = bytes.clamp(READ_BYTES, READ_BYTES_MAX);
    }

    /// Makes it ready to lie in the pool, holding as little memory as it can.
    pub(super) fn rest(&mut self) {
        self.buffer = BytesMut::new();
        self.read_bytes = READ_BYTES;
        self.reused = true;
    }

    /// One read, behind what is in the buffer already. 0: the provider has ended its side.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() - self.buffer.len() < READ_ROOM_MIN {
            self.buffer.reserve(self.read_bytes);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        // The future keeps nothing between two polls, so a new one each time loses nothing.
        let read = match &mut self.stream {
            Stream::Plain(tcp) => ready!(pin!(tcp.read_buf(&mut self.buffer)).poll(cx)),
            Stream::Tls(tls) => ready!(pin!(tls.read_buf(&mut self.buffer)).poll(cx)),
        }?;
        if read == room {
            self.read_bytes = READ_BYTES_MAX;
        }
        Poll::Ready(Ok(read))
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.turn.poll(cx));
        let written = ready!(match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Stream::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, parts),
        });
        self.turn.over();
        Poll::Ready(written)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }
}

/// Certificates are checked against the roots that browsers trust; HTTP/1.1 is all that is offered.
pub(super) fn tls() -> Arc<ClientConfig> {
    tls_trusting(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
}

pub(super) fn tls_trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the cipher suites of the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
