//! TLS on the way to the proxy, where that way is not private.
//! Never: a certificate that isn't checked.

use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Connections to one name.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts the roots that browsers trust.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        Self::trusting(name, RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }

    /// Trusts these and no others.
    pub fn trusting(name: &str, roots: RootCertStore) -> anyhow::Result<Self> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choose versions of TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(name.to_owned()).context("the proxy's name is not one for TLS")?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub async fn connect(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

    use super::*;

    #[tokio::test]
    async fn the_proxy_must_have_a_certificate_for_its_name() {
        // A certificate for itself, which nobody trusts who wasn't told to.
        let own = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&own).unwrap();
        let certificate = certificate.der().clone();
        let key = PrivatePkcs8KeyDer::from(own.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    stream.write_all(b"hello").await.unwrap();
                    stream.shutdown().await.ok();
                }
            }
        });
        let roots = || {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).unwrap();
            roots
        };
        let dial = || async { TcpStream::connect(address).await.unwrap() };

        let mut stream = Tls::trusting("127.0.0.1", roots()).unwrap().connect(dial().await).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
        assert!(Tls::trusting("proxy.example", roots()).unwrap().connect(dial().await).await.is_err(), "another name");
        assert!(Tls::new("127.0.0.1").unwrap().connect(dial().await).await.is_err(), "an unknown authority");
    }
}
