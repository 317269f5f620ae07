//! A connection whose every byte the test decides, and a reader of the answers that come on it.
//! Never: a fault of the caller's mended on the way.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer takes longer, and no write waits longer for a proxy that still takes bytes.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One answer.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// Of a stream, with its chunk marks.
    pub(crate) body: String,
}

/// A well-formed request.
pub(crate) fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: molt\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n");
    format!("{head}\r\n{body}").into_bytes()
}

impl Wire {
    pub(crate) async fn open(port: u16) -> Self {
        Self::over(TcpStream::connect(("127.0.0.1", port)).await.expect("the proxy listens"))
    }

    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// Whether it was taken.
    pub(crate) async fn try_say(&mut self, bytes: &[u8]) -> bool {
        let written = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        written.is_ok_and(|written| written.is_ok())
    }

    /// The proxy may answer, and end the connection, before it has all.
    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        let _ = self.try_say(bytes).await;
    }

    /// The next answer; `None`: the connection is over.
    pub(crate) async fn hear(&mut self) -> Option<Said> {
        tokio::time::timeout(PATIENCE, self.next()).await.expect("an answer or an end")
    }

    async fn next(&mut self) -> Option<Said> {
        let head_end = self.until(b"\r\n\r\n", 0).await?;
        let head = String::from_utf8_lossy(&self.read[..head_end]).into_owned();
        let lower = head.to_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        let end = match length {
            Some(length) => head_end + length,
            None if lower.contains("transfer-encoding: chunked") => self.until(b"0\r\n\r\n", head_end).await?,
            None => head_end,
        };
        while self.read.len() < end {
            self.more().await?;
        }
        let body = String::from_utf8_lossy(&self.read[head_end..end]).into_owned();
        self.read.drain(..end);
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Said { status, head, body })
    }

    /// The place behind the next `mark`.
    async fn until(&mut self, mark: &[u8], from: usize) -> Option<usize> {
        loop {
            let found = self.read[from..].windows(mark.len()).position(|window| window == mark);
            if let Some(at) = found {
                return Some(from + at + mark.len());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.read).await.ok()?;
        (read > 0).then_some(())
    }

    /// Everything until the end of the stream or the connection; how many bytes.
    pub(crate) async fn swallow(&mut self) -> usize {
        const END: &[u8] = b"0\r\n\r\n";
        let mut bytes = 0;
        self.read.clear();
        loop {
            // The end may come in two reads.
            let kept = self.read.len().min(END.len() - 1);
            self.read.drain(..self.read.len() - kept);
            let more = tokio::time::timeout(PATIENCE, self.more()).await.expect("more, or an end");
            bytes += self.read.len() - kept;
            if more.is_none() || self.read.ends_with(END) {
                return bytes;
            }
        }
    }
}

impl Said {
    /// An error that says what is wrong.
    #[track_caller]
    pub(crate) fn refuses(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.body.contains(code), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn is_refused(&self) {
        assert!((400..500).contains(&self.status), "{} {}", self.head, &self.body[..self.body.len().min(400)]);
    }
}
