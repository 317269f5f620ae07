//! The runtime's way to the world outside: a loopback port whose bytes go to the proxy and back, unread, by the bot's gate or,
//! where there is none, through the proxy's door. The proxy resolves names and decides what may be reached.
//! Never: a connection to anywhere but the proxy, or a key where the runtime could see it.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::environment::ProxyAddress;
use crate::proxy::{Connection, Proxy};

/// Where forward proxies are looked for. In a network of its own, which a sealed cell has, it is always free.
const PORT: u16 = 3128;
/// Connections at a time; the next one waits. The proxy has a limit of its own.
const CONNECTIONS_MAX: usize = 128;
/// When no descriptor is left; a moment later there may be one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// To connect, shake hands and be let in.
const ENTER_MAX: Duration = Duration::from_secs(10);
/// What the proxy answers at its door has some hundred bytes.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// Of the answer that lets us in.
const LET_IN: &[u8] = b"HTTP/1.1 101 ";

/// How the proxy knows whose connection it is.
#[derive(Clone, Debug)]
pub enum Way {
    /// By the socket.
    Gate,
    /// By two keys, shown before the first byte of the runtime's.
    Door { ghost_key: SecretString, egress_key: SecretString },
}

/// Starts listening on a loopback port; which one.
pub async fn start(proxy: Proxy, way: Way) -> anyhow::Result<u16> {
    let listener = match TcpListener::bind(("127.0.0.1", PORT)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("127.0.0.1", 0)).await.context("find a port for the way out")?,
    };
    let port = listener.local_addr().context("ask for the port of the way out")?.port();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let out = Arc::new((proxy, way));
    tokio::spawn(async move {
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let out = Arc::clone(&out);
            tokio::spawn(async move {
                // A proxy that isn't there ends the connection, which says all that a caller can do something about.
                if let Err(error) = pass(stream, &out.0, &out.1).await {
                    tracing::debug!(%error, "a connection to the world outside broke");
                }
                drop(place);
            });
        }
    });
    Ok(port)
}

async fn pass(mut inside: TcpStream, proxy: &Proxy, way: &Way) -> io::Result<()> {
    inside.set_nodelay(true)?;
    let mut outside = timeout(ENTER_MAX, enter(proxy, way)).await.map_err(|_elapsed| ErrorKind::TimedOut)??;
    copy_bidirectional(&mut inside, &mut outside).await?;
    Ok(())
}

/// A connection on which the proxy takes requests for the world.
async fn enter(proxy: &Proxy, way: &Way) -> io::Result<Box<dyn Connection>> {
    let mut outside = proxy.connect().await?;
    let Way::Door { ghost_key, egress_key } = way else { return Ok(outside) };
    let (ProxyAddress::Tcp { authority, prefix } | ProxyAddress::Tls { authority, prefix, .. }) = proxy.address()
    else {
        return Ok(outside);
    };
    let request = format!(
        "GET {prefix}/egress HTTP/1.1\r\nhost: {authority}\r\nconnection: upgrade\r\nupgrade: molt-egress\r\n\
         authorization: Bearer {}\r\nx-molt-egress-key: {}\r\n\r\n",
        ghost_key.expose_secret(),
        egress_key.expose_secret()
    );
    outside.write_all(request.as_bytes()).await?;
    outside.flush().await?;
    let answer = head(&mut outside).await?;
    if answer.starts_with(LET_IN) {
        return Ok(outside);
    }
    let status = String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    tracing::warn!(status, "the proxy lets nothing out");
    Err(ErrorKind::PermissionDenied.into())
}

/// Reads no further than the head: what follows is for the runtime.
async fn head(outside: &mut Box<dyn Connection>) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == ANSWER_BYTES_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
        head.push(outside.read_u8().await?);
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn secret(text: &str) -> SecretString {
        text.to_owned().into()
    }

    #[tokio::test]
    async fn bytes_go_to_the_gate_and_back() {
        let folder = std::env::temp_dir().join(format!("molt-outlet-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let gate = folder.join("proxy.sock");
        let proxy = Proxy::new(ProxyAddress::Unix { path: gate.clone() }, None).unwrap();
        let port = start(proxy, Way::Gate).await.unwrap();
        let mut early = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(early.read(&mut [0; 1]).await.unwrap(), 0, "without a gate there is no way out");

        let listener = tokio::net::UnixListener::bind(&gate).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut outside, _) = listener.accept().await.unwrap();
        stream.write_all(b"CONNECT").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        outside.read_to_string(&mut said).await.unwrap();
        outside.write_all(b"200").await.unwrap();
        drop(outside);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!((said.as_str(), answer.as_str()), ("CONNECT", "200"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_door_is_shown_both_keys_and_opens_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let proxy = Proxy::new(ProxyAddress::Tcp { authority, prefix: "/v1".to_owned() }, None).unwrap();
        let way = Way::Door { ghost_key: secret("mgk_1"), egress_key: secret("mek_2") };
        let port = start(proxy, way).await.unwrap();
        for (answer, expected) in [
            (
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: molt-egress\r\n\r\nHTTP/1.1 200 OK\r\n",
                "HTTP/1.1 200 OK\r\n",
            ),
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\nno", ""),
            ("HTTP/1.1 101", ""),
            ("", ""),
        ] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(b"CONNECT").await.unwrap();
            let (outside, _) = listener.accept().await.unwrap();
            let mut outside: Box<dyn Connection> = Box::new(outside);
            let asked = String::from_utf8(head(&mut outside).await.unwrap()).unwrap();
            assert!(asked.starts_with("GET /v1/egress HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("\r\nauthorization: Bearer mgk_1\r\nx-molt-egress-key: mek_2\r\n"), "{asked}");
            outside.write_all(answer.as_bytes()).await.unwrap();
            if !expected.is_empty() {
                let mut said = [0; 7];
                outside.read_exact(&mut said).await.unwrap();
                assert_eq!(&said, b"CONNECT", "only what comes behind the answer is the runtime's");
            }
            drop(outside);
            let mut heard = String::new();
            stream.read_to_string(&mut heard).await.ok();
            assert_eq!(heard, expected, "{answer}");
        }
    }
}
