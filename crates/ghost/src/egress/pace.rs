//! A connection to the world that is counted, and given up when nothing moves on it.
//! Never: an idle connection without an end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::count::Counts;

/// Nothing was said in either direction for so long. Chats and feeds that stay open say something more often.
const IDLE_MAX: Duration = Duration::from_secs(5 * 60);

/// When something last moved.
pub(super) struct Pulse {
    began: Instant,
    /// Milliseconds after that.
    last: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), last: AtomicU64::new(0) })
    }

    fn beat(&self) {
        let since = self.began.elapsed().as_millis();
        self.last.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Comes when nothing has moved for too long.
    pub(super) async fn stopped(&self) {
        loop {
            let last = self.last.load(Ordering::Relaxed);
            tokio::time::sleep_until(self.began + Duration::from_millis(last) + IDLE_MAX).await;
            if self.last.load(Ordering::Relaxed) == last {
                return;
            }
        }
    }
}

pub(super) struct Paced {
    stream: TcpStream,
    pulse: Arc<Pulse>,
    counts: Arc<Counts>,
}

impl Paced {
    pub(super) fn new(stream: TcpStream, pulse: &Arc<Pulse>, counts: Arc<Counts>) -> Self {
        Self { stream, pulse: Arc::clone(pulse), counts }
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.pulse.beat();
        self.counts.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.pulse.beat();
        self.counts.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
