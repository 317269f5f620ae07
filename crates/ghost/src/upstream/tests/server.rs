//! A provider that says exactly the bytes it is told to, and remembers what it was asked.
//! Never: an answer of its own making.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens on a connection when a request has come.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// These bytes, each piece as its own write, and the connection stays.
    Say(Vec<Vec<u8>>),
    /// These bytes and then the end.
    SayAndClose(Vec<u8>),
    /// Closes without a word.
    Close,
    /// An answer before the body has come, and the end.
    SayEarly(Vec<u8>),
    /// An answer, and the end once the caller is known to have it.
    SayAndCloseLater(Vec<u8>),
}

#[derive(Default)]
struct Seen {
    acts: VecDeque<Act>,
    requests: Vec<String>,
    connections: usize,
}

#[derive(Clone)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    pub(super) close_idle: Arc<tokio::sync::Notify>,
    pub(super) closed_idle: Arc<tokio::sync::Notify>,
}

impl Act {
    pub(super) fn say(text: &str) -> Self {
        Self::Say(vec![text.as_bytes().to_vec()])
    }

    /// A whole answer with a length.
    pub(super) fn answer(status: u16, headers: &str, body: &str) -> Self {
        Self::say(&format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
    }
}

impl Server {
    /// The acts are played one a request; after the last, connections are closed without a word.
    pub(super) async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let seen = Seen { acts: acts.into_iter().collect(), ..Seen::default() };
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::new(Mutex::new(seen)),
            close_idle: Arc::default(),
            closed_idle: Arc::default(),
        };
        let shared = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.seen.lock().unwrap().connections += 1;
                let shared = shared.clone();
                tokio::spawn(async move { shared.serve(stream).await });
            }
        });
        server
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/v1/", self.address)
    }

    pub(super) fn plan(&self, act: Act) {
        self.seen.lock().unwrap().acts.push_back(act);
    }

    /// The requests with heads and bodies, in their order.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).unwrap();
        let mut bytes = Vec::new();
        loop {
            let head_end = loop {
                if let Some(at) = bytes.windows(4).position(|four: &[u8]| four == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            };
            let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
            let act = self.seen.lock().unwrap().acts.pop_front().unwrap_or(Act::Close);
            if let Act::SayEarly(text) = act {
                self.seen.lock().unwrap().requests.push(head);
                stream.write_all(&text).await.ok()?;
                return None;
            }
            let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
            while bytes.len() < head_end + length {
                if stream.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            }
            let request: Vec<u8> = bytes.drain(..head_end + length).collect();
            self.seen.lock().unwrap().requests.push(String::from_utf8_lossy(&request).into_owned());
            match act {
                Act::Close | Act::SayEarly(_) => return None,
                Act::SayAndClose(text) => return stream.write_all(&text).await.ok(),
                Act::Say(pieces) => {
                    for piece in pieces {
                        stream.write_all(&piece).await.ok()?;
                        tokio::task::yield_now().await;
                    }
                }
                Act::SayAndCloseLater(text) => {
                    stream.write_all(&text).await.ok()?;
                    self.close_idle.notified().await;
                    drop(stream);
                    self.closed_idle.notify_one();
                    return None;
                }
            }
        }
    }
}
