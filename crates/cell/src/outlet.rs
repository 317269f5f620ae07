//! The runtime's way to the world outside: a loopback port whose bytes go to the bot's gate and back, unread. The proxy
//! behind the gate resolves names and decides what may be reached.
//! Never: a connection to anywhere but the gate.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;

/// Where forward proxies are looked for. In a network of its own, which a sealed cell has, it is always free.
const PORT: u16 = 3128;
/// Connections at a time; the next one waits. The gate has a limit of its own.
const CONNECTIONS_MAX: usize = 128;
/// When no descriptor is left; a moment later there may be one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts listening on a loopback port; which one.
pub async fn start(gate: PathBuf) -> anyhow::Result<u16> {
    let listener = match TcpListener::bind(("127.0.0.1", PORT)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("127.0.0.1", 0)).await.context("find a port for the way out")?,
    };
    let port = listener.local_addr().context("ask for the port of the way out")?.port();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let gate = gate.clone();
            tokio::spawn(async move {
                // A gate that isn't there ends the connection, which says all that a caller can do something about.
                if let Err(error) = pass(stream, gate).await {
                    tracing::debug!(%error, "a connection to the world outside broke");
                }
                drop(place);
            });
        }
    });
    Ok(port)
}

async fn pass(mut inside: TcpStream, gate: PathBuf) -> std::io::Result<()> {
    inside.set_nodelay(true)?;
    let mut outside = UnixStream::connect(gate).await?;
    copy_bidirectional(&mut inside, &mut outside).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_go_to_the_gate_and_back() {
        let folder = std::env::temp_dir().join(format!("molt-outlet-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let gate = folder.join("proxy.sock");
        let port = start(gate.clone()).await.unwrap();
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
}
