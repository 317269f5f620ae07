//! The body of a provider's answer: each read is freed of its chunk marks in place and given on as one piece.
//! Never: waiting to fill a buffer, memory that grows with the answer, or a short body taken for a whole one.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::Broken;
use super::connect::Connection;
use super::pool::Pool;

/// Of one chunk. No answer has a terabyte; a larger figure is a lie or a fault.
const CHUNK_BYTES_MAX: u64 = 1 << 40;
/// Of all chunk extensions and trailers of one body together. Nobody sends any; what comes is skipped.
const ASIDE_BYTES_MAX: usize = 16 * 1024;

/// How the end of a body is told, and how far it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are missing.
    Length(u64),
    Chunked(Chunks),
    /// Everything until the provider closes.
    UntilClose,
    /// The provider closed, and this was the end.
    Closed,
}

/// A reader of chunk marks that can stop after any byte.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// Of the chunk's data; while its size is read, of what was read of it.
    left: u64,
    aside_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    SizeStart,
    Size,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// The first byte of a line after the last chunk.
    LineStart,
    Line,
    LineEnd,
    LastEnd,
    End,
}

/// What one pass over bytes that were read came to.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    /// Where the data lies now, in one piece.
    data: Range<usize>,
    /// So many bytes are dealt with.
    used: usize,
}

/// The body of one answer, with the connection that it comes on.
pub(crate) struct WireBody {
    /// Gone once the body has ended or broken.
    connection: Option<Connection>,
    framing: Framing,
    /// Where the connection goes when the body has ended; `None`: it must not be used again.
    pool: Option<Arc<Pool>>,
}

impl WireBody {
    pub(super) fn new(mut connection: Connection, framing: Framing, pool: Option<Arc<Pool>>) -> Self {
        if let Framing::Length(bytes) = framing {
            connection.expect(bytes);
        }
        let mut body = Self { connection: Some(connection), framing, pool };
        if body.framing.is_ended() {
            body.finish();
        }
        body
    }

    /// Everything was given on, and it was whole.
    pub(crate) fn is_ended(&self) -> bool {
        self.framing.is_ended()
    }

    /// The next bytes, as many as there are; `None`: the end. After an error only errors come.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            if self.framing.is_ended() {
                return Poll::Ready(None);
            }
            let Some(connection) = &mut self.connection else { return Poll::Ready(Some(Err(Broken::Short))) };
            if connection.buffer.is_empty() {
                match ready!(connection.poll_fill(cx)) {
                    Ok(0) if self.framing == Framing::UntilClose => self.framing = Framing::Closed,
                    Ok(0) => return self.broken(Broken::Short),
                    Ok(_) => {}
                    Err(error) => return self.broken(Broken::Lost(error)),
                }
            } else {
                let decoded = self.framing.decode(&mut connection.buffer);
                if self.framing.is_ended() {
                    self.finish();
                }
                match decoded {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Poll::Ready(Some(Ok(data))),
                    Err(broken) => return self.broken(broken),
                }
            }
        }
    }

    fn broken(&mut self, broken: Broken) -> Poll<Option<Result<Bytes, Broken>>> {
        self.connection = None;
        Poll::Ready(Some(Err(broken)))
    }

    /// The connection is free. Bytes after the end belong to nothing that was asked, so it can't be trusted then.
    fn finish(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if let Some(pool) = self.pool.take().filter(|_| connection.buffer.is_empty()) {
            pool.put(connection, Instant::now());
        }
    }
}

impl Framing {
    pub(super) fn is_ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.at == At::End,
            Self::UntilClose => false,
            Self::Closed => true,
        }
    }

    /// Takes the data out of the buffer. What stays in it comes after the body's end.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Bytes, Broken> {
        match self {
            Self::Length(left) => {
                let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= bytes as u64;
                Ok(buffer.split_to(bytes).freeze())
            }
            Self::Chunked(chunks) => {
                let taken = chunks.take(buffer)?;
                let mut data = buffer.split_to(taken.data.end);
                data.advance(taken.data.start);
                buffer.advance(taken.used - taken.data.end);
                Ok(data.freeze())
            }
            Self::UntilClose => Ok(buffer.split().freeze()),
            Self::Closed => Ok(Bytes::new()),
        }
    }
}

impl Chunks {
    /// Reads marks and moves the data of later chunks up behind that of the first. One chunk stays where it is.
    fn take(&mut self, bytes: &mut [u8]) -> Result<Taken, Broken> {
        let (mut used, mut data) = (0, 0..0);
        while used < bytes.len() && self.at != At::End {
            if self.at != At::Data {
                self.mark(bytes[used])?;
                used += 1;
                continue;
            }
            let size = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - used);
            if data.is_empty() {
                data = used..used;
            } else if data.end != used {
                bytes.copy_within(used..used + size, data.end);
            }
            data.end += size;
            used += size;
            self.left -= size as u64;
            if self.left == 0 {
                self.at = At::DataReturn;
            }
        }
        Ok(Taken { data, used })
    }

    /// One byte that isn't data.
    fn mark(&mut self, byte: u8) -> Result<(), Broken> {
        const WRONG: Broken = Broken::Malformed("a chunk mark is wrong");
        self.at = match (self.at, byte) {
            (At::SizeStart | At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(WRONG)?;
                self.left = self.left * 16 + u64::from(digit);
                if self.left > CHUNK_BYTES_MAX {
                    return Err(Broken::Malformed("a chunk is absurdly long"));
                }
                // Zeros before a size are an aside: without a bound they could go on for ever.
                if self.left == 0 {
                    self.aside()?;
                }
                At::Size
            }
            (At::Size, b'\r') | (At::Extension, b'\r') => At::SizeEnd,
            (At::Size, b' ' | b'\t' | b';') => self.aside().map(|()| At::Extension)?,
            (At::Extension, byte) if byte != b'\n' => self.aside().map(|()| At::Extension)?,
            (At::SizeEnd, b'\n') if self.left == 0 => At::LineStart,
            (At::SizeEnd, b'\n') => At::Data,
            (At::DataReturn, b'\r') => At::DataEnd,
            (At::DataEnd, b'\n') => At::SizeStart,
            (At::LineStart, b'\r') => At::LastEnd,
            (At::LineStart | At::Line, byte) if byte != b'\r' && byte != b'\n' => self.aside().map(|()| At::Line)?,
            (At::Line, b'\r') => At::LineEnd,
            (At::LineEnd, b'\n') => At::LineStart,
            (At::LastEnd, b'\n') => At::End,
            _ => return Err(WRONG),
        };
        Ok(())
    }

    fn aside(&mut self) -> Result<(), Broken> {
        self.aside_bytes += 1;
        if self.aside_bytes > ASIDE_BYTES_MAX {
            return Err(Broken::Malformed("too much beside the data of its chunks"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All reads through one reader, as `poll_data` does it. The data, and whether the end was reached.
    fn through(framing: &mut Framing, reads: impl Iterator<Item = Vec<u8>>) -> Result<(Vec<u8>, usize), Broken> {
        let (mut out, mut after) = (Vec::new(), 0);
        for read in reads {
            let mut buffer = BytesMut::from(&read[..]);
            out.extend_from_slice(&framing.decode(&mut buffer)?);
            assert!(buffer.is_empty() || framing.is_ended(), "only what comes after the end stays");
            after += buffer.len();
        }
        Ok((out, after))
    }

    fn chunked(text: &str) -> Result<(String, usize, bool), Broken> {
        let mut framing = Framing::Chunked(Chunks::default());
        let (out, after) = through(&mut framing, std::iter::once(text.as_bytes().to_vec()))?;
        Ok((String::from_utf8(out).unwrap(), after, framing.is_ended()))
    }

    #[test]
    fn chunk_marks_are_read_as_the_standard_says_or_not_at_all() {
        for (wire, data, after, ended) in [
            ("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "abcde", 0, true),
            ("0003 ; a=\"b\"\r\nabc\r\n00\r\n\r\n", "abc", 0, true),
            ("A\r\n0123456789\r\n0\r\nX: y\r\nZ:\r\n\r\n", "0123456789", 0, true),
            ("1\r\na\r\n0\r\n\r\nHTTP/1.1", "a", 8, true),
            ("5\r\nabc", "abc", 0, false),
            ("5\r\nabcde\r\n", "abcde", 0, false),
            ("", "", 0, false),
        ] {
            assert_eq!(chunked(wire).unwrap(), (data.to_owned(), after, ended), "{wire:?}");
        }
        for wire in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1;a\n",
            "1\r\na\r\n0\r\n\n",
            "1\r\na\r\n0\r\nX: y\n\r\n",
            "0\r\rX",
            "ffffffffffffffff\r\n",
            "20000000000\r\n",
        ] {
            assert!(matches!(chunked(wire), Err(Broken::Malformed(_))), "{wire:?}");
        }
        for endless in
            ["0".repeat(20_000), format!("1;{}", "x".repeat(20_000)), format!("0\r\n{}", "X: y\r\n".repeat(5_000))]
        {
            assert!(matches!(chunked(&endless), Err(Broken::Malformed(_))), "{}", &endless[..9]);
        }
    }

    /// A body in chunks of these sizes, as it goes over the wire.
    fn wire(data: &[u8], sizes: &[usize], extension: &str) -> Vec<u8> {
        let (mut out, mut rest, mut sizes) = (Vec::new(), data, sizes.iter().cycle());
        while !rest.is_empty() {
            let (chunk, more) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            out.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
            rest = more;
        }
        out.extend_from_slice(b"0\r\nTrailer: x\r\n\r\n");
        out
    }

    fn reads(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let (mut out, mut rest, mut cuts) = (Vec::new(), bytes, cuts.iter().cycle());
        while !rest.is_empty() {
            let (read, more) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            out.push(read.to_vec());
            rest = more;
        }
        out
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_body_is_the_same(
            data in proptest::collection::vec(any::<u8>(), 0..600),
            sizes in proptest::collection::vec(1usize..90, 1..8),
            cuts in proptest::collection::vec(1usize..200, 1..8),
            extension in "(;[a-z]{0,5})?",
        ) {
            let bytes = wire(&data, &sizes, &extension);
            let mut framing = Framing::Chunked(Chunks::default());
            let (out, after) = through(&mut framing, reads(&bytes, &cuts).into_iter()).unwrap();
            prop_assert_eq!((out, after, framing.is_ended()), (data.clone(), 0, true));
            let mut framing = Framing::Length(data.len() as u64);
            let (out, after) = through(&mut framing, reads(&[&data[..], b"zz"].concat(), &cuts).into_iter()).unwrap();
            prop_assert_eq!((out, after, framing.is_ended()), (data, 2, true));
        }

        #[test]
        fn a_body_that_stops_early_never_looks_whole(
            sizes in proptest::collection::vec(1usize..40, 1..5), at in any::<prop::sample::Index>(),
        ) {
            let mut bytes = wire(&[b'.'; 200], &sizes, "");
            bytes.truncate(at.index(bytes.len()));
            let mut framing = Framing::Chunked(Chunks::default());
            let (out, after) = through(&mut framing, std::iter::once(bytes)).unwrap();
            prop_assert!(out.len() <= 200 && after == 0 && !framing.is_ended());
        }

        #[test]
        fn any_bytes_are_data_or_broken(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1usize..50) {
            let mut framing = Framing::Chunked(Chunks::default());
            if let Ok((out, after)) = through(&mut framing, reads(&bytes, &[cut]).into_iter()) {
                prop_assert!(out.len() + after <= bytes.len());
            }
        }
    }
}
