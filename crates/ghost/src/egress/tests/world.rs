//! What lies beyond the way out: servers of the tests' own on the loopback, and the wire as one may write it by hand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// What secure.example and other.example show for themselves, made for this run.
struct Made {
    certificate: rcgen::Certificate,
    key: Vec<u8>,
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let names = ["secure.example".to_owned(), "other.example".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Made { certificate, key: key.serialize_der() }
});

pub(super) fn certificate() -> CertificateDer<'static> {
    MADE.certificate.der().clone()
}

/// The certificate as a file, for programs that have to be told whom to trust.
pub(super) struct Trusted(PathBuf);

impl Trusted {
    pub(super) fn write() -> Self {
        let path = std::env::temp_dir().join(format!("molt-trusted-{}.pem", uuid::Uuid::new_v4()));
        std::fs::write(&path, MADE.certificate.pem()).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Trusted {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// Sends, and reads to the end of a head.
pub(super) async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    head(stream).await
}

/// Reads to the end of a head, or of everything.
pub(super) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

/// Of an answer's head; 0: there is none.
pub(super) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Answers each request with what was asked, and keeps the connection.
pub(super) async fn web() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// The same over TLS.
pub(super) async fn secure_web() -> SocketAddr {
    let key = PrivatePkcs8KeyDer::from(MADE.key.clone());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream).await;
                }
            });
        }
    });
    address
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    loop {
        let asked = head(&mut stream).await;
        if asked.is_empty() {
            return;
        }
        let length = asked.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let said = format!("reached: {asked}{}", String::from_utf8_lossy(&body));
        let answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nkeep-alive: timeout=5\r\n\r\n{said}", said.len());
        if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// Sends each connection this as soon as it is there, reads one piece, and closes.
pub(super) async fn says(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(bytes).await;
                let _ = stream.read(&mut [0; 1024]).await;
            });
        }
    });
    address
}
