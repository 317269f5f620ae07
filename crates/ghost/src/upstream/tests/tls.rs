//! TLS for real: an authority and a certificate of the test's own, made when it runs.
//! Never: a check of certificates that is switched off.

use std::sync::LazyLock;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::super::connect::{Address, Connection, tls, tls_trusting};
use super::super::exchange::exchange;
use super::*;

/// An authority that nobody else trusts, and what it says of 127.0.0.1.
struct Made {
    authority: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: Vec<u8>,
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (own, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let authority = params.self_signed(&own).unwrap().der().clone();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(params, own)).unwrap().der().clone();
    Made { authority, leaf, key: key.serialize_der() }
});

/// Answers each request with the same bytes, then closes without TLS's own goodbye when `closes`.
async fn serve(answer: Vec<u8>, closes: bool) -> url::Url {
    let key = PrivatePkcs8KeyDer::from(MADE.key.clone()).into();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![MADE.leaf.clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            let mut asked = Vec::new();
            while stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0) {
                if asked.ends_with(b"end") {
                    asked.clear();
                    stream.write_all(&answer).await.unwrap();
                    stream.flush().await.unwrap();
                    if closes {
                        break;
                    }
                }
            }
        }
    });
    url
}

fn trusting_the_test() -> Arc<tokio_rustls::rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(MADE.authority.clone()).unwrap();
    tls_trusting(roots)
}

async fn ask(mut connection: Connection, pool: &Arc<pool::Pool>, body: &[u8]) -> Result<Vec<u8>, (Broken, Vec<u8>)> {
    let request = format!("POST /v1 HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    let head = exchange(&mut connection, request.as_bytes(), body).await.unwrap();
    read(ReplyBody::Wire(WireBody::new(connection, head.framing, Some(Arc::clone(pool))))).await
}

#[tokio::test]
async fn calls_go_over_tls_and_only_to_whom_the_certificate_names() {
    let data = "0123456789abcdef".repeat(20_000);
    let chunk = format!("{:x}\r\n{data}\r\n", data.len());
    let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    let url = serve(answer.into_bytes(), false).await;
    let address = Address::of(&url, &trusting_the_test()).unwrap();
    let pool = Arc::default();
    let long = [vec![b' '; 3 * 1024 * 1024], b"end".to_vec()].concat();
    let got = ask(address.connect().await.unwrap(), &pool, &long).await.unwrap();
    assert!(got == data.repeat(2).as_bytes(), "{} bytes", got.len());
    let again = pool.take(Instant::now()).expect("kept");
    assert!(again.reused);
    assert_eq!(ask(again, &pool, b"end").await.unwrap().len(), 2 * data.len());

    let stranger = Address::of(&url, &tls()).unwrap();
    assert!(stranger.connect().await.is_err(), "the test's authority is nobody's but the test's");
    let other = url.as_str().replace("127.0.0.1", "localhost").parse().unwrap();
    assert!(Address::of(&other, &trusting_the_test()).unwrap().connect().await.is_err(), "another name");
}

#[tokio::test]
async fn an_end_without_tls_saying_so_is_no_end() {
    let url = serve(b"HTTP/1.1 200 OK\r\n\r\nhalf".to_vec(), true).await;
    let address = Address::of(&url, &trusting_the_test()).unwrap();
    let (broken, before) = ask(address.connect().await.unwrap(), &Arc::default(), b"end").await.unwrap_err();
    assert!(matches!(broken, Broken::Lost(_)), "{broken:?}");
    assert_eq!(before, b"half");
}
