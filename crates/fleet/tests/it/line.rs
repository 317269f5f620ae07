//! The line between a fleet and its database, which is cut for good at a chosen commit: the commit is done, and whoever asked
//! for it never hears so.
//! Never: a byte that passes once the fleet is dead; what it had open, Postgres rolls back.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use url::Url;

use crate::simulated::Fuse;

/// At which side of a commit there is a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commits {
    None,
    /// It is done, and nobody hears so.
    Done,
    /// The same, and before it is asked for: whatever was called out for last is done, and nothing tells of it.
    Both,
}

/// Where Postgres is.
#[derive(Clone)]
enum Server {
    Socket(String),
    Address(String),
}

/// An open line. Dropped, every connection on it ends.
pub(crate) struct Line {
    accepting: tokio::task::AbortHandle,
    /// What the fleet connects to.
    pub(crate) url: SecretString,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Line {
    /// A line to the server of `url`; where `commits` says so they are points of the fuse.
    pub(crate) async fn open(url: &SecretString, fuse: Arc<Fuse>, commits: Commits) -> Self {
        let mut url: Url = url.expose_secret().parse().unwrap();
        let (host_part, port) = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5432));
        let plain = url::form_urlencoded::parse(host_part.as_bytes()).next().unwrap().0.into_owned();
        let server = match plain.starts_with('/') {
            true => Server::Socket(format!("{plain}/.s.PGSQL.{port}")),
            false => Server::Address(format!("{plain}:{port}")),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        url.set_query(Some("sslmode=disable"));
        let accepting = tokio::spawn(accept(listener, server, fuse, commits)).abort_handle();
        Self { accepting, url: url.to_string().into() }
    }
}

async fn accept(listener: TcpListener, server: Server, fuse: Arc<Fuse>, commits: Commits) {
    let mut lines = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        while lines.try_join_next().is_some() {}
        let (server, fuse) = (server.clone(), fuse.clone());
        lines.spawn(async move {
            match server {
                Server::Socket(path) => carry(client, UnixStream::connect(path).await.unwrap(), &fuse, commits).await,
                Server::Address(address) => {
                    carry(client, TcpStream::connect(address).await.unwrap(), &fuse, commits).await
                }
            }
        });
    }
}

async fn carry(client: TcpStream, server: impl AsyncRead + AsyncWrite, fuse: &Fuse, commits: Commits) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let read = from_client.read(&mut bytes).await.unwrap_or(0);
            if commits == Commits::Both && bytes[..read].ends_with(b"COMMIT\0") {
                fuse.point().await;
            }
            fuse.alive().await;
            if read == 0 || to_server.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut message = Vec::new();
        loop {
            let Ok(kind) = from_server.read_u8().await else { return };
            let Ok(length) = from_server.read_u32().await else { return };
            message.clear();
            message.push(kind);
            message.extend_from_slice(&length.to_be_bytes());
            message.resize(1 + length as usize, 0);
            if from_server.read_exact(&mut message[5..]).await.is_err() {
                return;
            }
            if commits != Commits::None && message.starts_with(b"C") && message[5..].starts_with(b"COMMIT\0") {
                fuse.point().await;
            }
            fuse.alive().await;
            if to_client.write_all(&message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
