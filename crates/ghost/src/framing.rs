//! Sees a request that says both how long its body is and that it comes in chunks. The HTTP library reads the chunks, forgets
//! the length and closes, which is safe and says nothing; whoever sends such a request should hear that it is wrong.
//! Never: a byte changed or held back, or more memory than one short line.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http::{HeaderMap, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is said to whoever sends such a request.
pub const TWO_LENGTHS: &str =
    "Send either Content-Length or Transfer-Encoding: with both, the body can be read in two ways.";
/// The longest line that is looked into: a length or the name of an encoding. Of longer ones this is the beginning.
const LINE_BYTES: usize = 64;

/// What a connection and the service of its requests know in common. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Framing(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Requests that the service was asked for.
    served: AtomicU64,
    /// The first request that says both, counted from 1. It is the last one of its connection.
    double: AtomicU64,
}

impl Framing {
    /// Once for each request, in their order: whether this one says both.
    #[must_use]
    pub fn is_double(&self, headers: &HeaderMap) -> bool {
        let number = self.0.served.fetch_add(1, Ordering::Relaxed) + 1;
        // The chunks are what is read, so without them it is another request that was meant.
        number == self.0.double.load(Ordering::Relaxed) && headers.contains_key(header::TRANSFER_ENCODING)
    }
}

/// A stream whose requests are watched as they are read.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    watch: Watch,
}

impl<S> Watched<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, watch: Watch::default() }
    }

    pub fn framing(&self) -> Framing {
        self.watch.framing.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        self.watch.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Where in the requests of a connection its reader stands.
#[derive(Debug, Default)]
struct Watch {
    framing: Framing,
    at: At,
    heads: u64,
    length: Option<u64>,
    chunked: bool,
    line: Line,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The line that a request begins with.
    #[default]
    Opening,
    Headers,
    /// So many bytes of a body, or of a chunk with its end.
    Body(u64),
    Chunk(u64),
    ChunkSize,
    Trailers,
    /// Something that isn't HTTP/1.1, or that the library will refuse.
    Blind,
}

/// The beginning of the line that is being read.
#[derive(Debug)]
struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; LINE_BYTES], length: 0 }
    }
}

impl Line {
    fn add(&mut self, bytes: &[u8]) {
        let taken = bytes.len().min(LINE_BYTES - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
    }

    fn take(&mut self) -> &[u8] {
        let line = &self.bytes[..std::mem::take(&mut self.length)];
        line.strip_suffix(b"\r").unwrap_or(line)
    }
}

impl Watch {
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.at {
                At::Blind => return,
                At::Body(left) | At::Chunk(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[here..];
                    let left = left - here as u64;
                    self.at = match self.at {
                        At::Body(_) if left > 0 => At::Body(left),
                        At::Body(_) => At::Opening,
                        _ if left > 0 => At::Chunk(left),
                        _ => At::ChunkSize,
                    };
                }
                At::Opening | At::Headers | At::ChunkSize | At::Trailers => {
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        self.line.add(bytes);
                        return;
                    };
                    self.line.add(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    self.line_is_over();
                }
            }
        }
    }

    fn line_is_over(&mut self) {
        let line = self.line.take();
        self.at = match self.at {
            // Empty lines before a request are skipped, as the library does.
            At::Opening if line.is_empty() => At::Opening,
            // What a tunnel carries begins otherwise, but for plain HTTP, which is read on as such and harms nobody.
            At::Opening if !line[0].is_ascii_graphic() || line.starts_with(b"PRI ") => At::Blind,
            At::Opening => {
                (self.length, self.chunked) = (None, false);
                At::Headers
            }
            At::Headers if line.is_empty() => return self.head_is_over(),
            At::Headers => {
                if let Some(value) = value_of(line, b"content-length:") {
                    self.length = Some(number(value, 10).unwrap_or(u64::MAX));
                } else if value_of(line, b"transfer-encoding:").is_some() {
                    self.chunked = true;
                }
                At::Headers
            }
            At::ChunkSize => match number(line.split(|&byte| byte == b';').next().unwrap_or_default(), 16) {
                Some(0) => At::Trailers,
                Some(size) => At::Chunk(size.saturating_add(2)),
                None => At::Blind,
            },
            At::Trailers if line.is_empty() => At::Opening,
            at => at,
        };
    }

    fn head_is_over(&mut self) {
        self.heads += 1;
        if self.chunked && self.length.is_some() {
            self.framing.0.double.store(self.heads, Ordering::Relaxed);
            self.at = At::Blind;
            return;
        }
        self.at = match self.length {
            _ if self.chunked => At::ChunkSize,
            Some(length) if length > 0 => At::Body(length),
            _ => At::Opening,
        };
    }
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(text.trim_ascii()).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GET: &str = "GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n";
    const BODY: &str =
        "POST /v1 HTTP/1.1\r\nContent-Length: 47\r\nx: y\r\n\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n";
    const CHUNKS: &str =
        "POST /v1 HTTP/1.1\nTransfer-Encoding: chunked\n\nA;x=y\r\n\r\n\r\nabcdef\r\n0\r\nContent-Length: 3\r\n\r\n";
    const DOUBLE: &str = "POST /v1 HTTP/1.1\r\ntransfer-ENCODING:chunked\r\nhost: a\r\nCONTENT-length:5\r\n\r\n";
    const OTHER_WAY: &str = "POST /v1 HTTP/1.1\r\ncontent-length: x\r\ntransfer-encoding: a, chunked\r\n\r\n";

    fn double(pieces: &[&[u8]]) -> u64 {
        let mut watch = Watch::default();
        pieces.iter().for_each(|piece| watch.read(piece));
        watch.framing.0.double.load(Ordering::Relaxed)
    }

    #[test]
    fn only_a_head_that_says_both_is_seen_wherever_it_stands() {
        for (wire, found) in [
            ([GET, BODY, CHUNKS].concat(), 0),
            (DOUBLE.to_owned(), 1),
            ([GET, OTHER_WAY].concat(), 2),
            (["\r\n", BODY, BODY, CHUNKS, CHUNKS, GET, DOUBLE].concat(), 6),
            ([DOUBLE, OTHER_WAY].concat(), 1),
            // A tunnel that was refused leaves a connection for requests; one that was opened carries anything.
            (["CONNECT a:1 HTTP/1.1\r\n\r\n", DOUBLE].concat(), 2),
            (["CONNECT a:1 HTTP/1.1\r\n\r\n", "\u{16}\u{3}\u{1}\n", DOUBLE].concat(), 0),
            (["PRI * HTTP/2.0\r\n\r\n", DOUBLE].concat(), 0),
        ] {
            assert_eq!(double(&[wire.as_bytes()]), found, "{wire}");
            let bytes: Vec<&[u8]> = wire.as_bytes().chunks(1).collect();
            assert_eq!(double(&bytes), found, "byte by byte: {wire}");
        }
    }

    #[test]
    fn the_service_hears_of_it_at_the_right_request() {
        let mut watch = Watch::default();
        watch.read([GET, BODY, DOUBLE].concat().as_bytes());
        let chunked = HeaderMap::from_iter([(header::TRANSFER_ENCODING, "chunked".parse().unwrap())]);
        let none = HeaderMap::new();
        let framing = watch.framing.clone();
        let heard = [&none, &none, &chunked].map(|headers| framing.is_double(headers));
        assert_eq!(heard, [false, false, true]);
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..400) {
            let (one, two) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(double(&[one, two]), double(&[&bytes]));
        }
    }
}
