//! One request out and the head of its answer in, on one connection.
//! Never: a wait for the request's last byte when the provider has answered already.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use super::Broken;
use super::connect::Connection;
use super::head::{Head, HeadReader};

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) broken: Broken,
    /// Not a byte of an answer came, and the provider has closed the connection.
    pub(super) closed_silently: bool,
}

/// A request on its way. Bytes of the answer may come before the last byte of the request is gone.
struct Exchange<'a> {
    connection: &'a mut Connection,
    parts: [&'a [u8]; 2],
    flushed: bool,
    /// Nothing more can be written; what the provider said before may still be read.
    refused: Option<io::Error>,
    reader: HeadReader,
    heard: bool,
}

/// Sends a head and a body in as few writes as it takes, and reads the answer's head.
pub(super) async fn exchange(connection: &mut Connection, head: &[u8], body: &[u8]) -> Result<Head, Unanswered> {
    let reader = HeadReader::default();
    let mut exchange =
        Exchange { connection, parts: [head, body], flushed: false, refused: None, reader, heard: false };
    std::future::poll_fn(|cx| exchange.poll(cx)).await
}

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Unanswered>> {
        if !self.flushed && self.refused.is_none() {
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => self.refused = Some(error),
                Poll::Pending => {}
            }
        }
        let read = ready!(self.poll_read(cx));
        Poll::Ready(read.map(|head| Head { keep_alive: head.keep_alive && self.flushed, ..head }))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.parts.iter().any(|part| !part.is_empty()) {
            let slices = self.parts.map(IoSlice::new);
            // Without the empty parts: a TLS session would take an empty first one for all there is.
            let first = usize::from(self.parts[0].is_empty());
            let written = ready!(self.connection.poll_write(cx, &slices[first..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            for (part, from) in self.parts.iter_mut().scan(written, |left, part| {
                let from = (*left).min(part.len());
                *left -= from;
                Some((part, from))
            }) {
                *part = &part[from..];
            }
        }
        self.connection.poll_flush(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Unanswered>> {
        loop {
            let broken = match self.connection.poll_fill(cx) {
                Poll::Ready(Ok(0)) => Broken::Short,
                Poll::Ready(Ok(_)) => {
                    self.heard = true;
                    match self.reader.read(&mut self.connection.buffer) {
                        Ok(Some(head)) => return Poll::Ready(Ok(head)),
                        Ok(None) => continue,
                        Err(broken) => broken,
                    }
                }
                Poll::Ready(Err(error)) => Broken::Lost(error),
                Poll::Pending => match self.refused.take() {
                    Some(error) => Broken::Lost(error),
                    None => return Poll::Pending,
                },
            };
            let closed_silently = !self.heard && !matches!(broken, Broken::Malformed(_));
            return Poll::Ready(Err(Unanswered { broken, closed_silently }));
        }
    }
}
