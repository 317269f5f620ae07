//! The name that a TLS connection asks for, read from its first message without opening anything. With an encrypted hello it
//! is the outer name, the one that leads to the machine which is asked.
//! Never: more than a first message, or one that trickles in without end.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use tokio_rustls::rustls::server::Acceptor;

/// Hellos have some hundred bytes, with keys that outlive quantum computers two thousand.
const HELLO_BYTES_MAX: usize = 16 * 1024;
/// A client sends it at once, in one or two packets.
const HELLO_TIME_MAX: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 4 * 1024;
/// The type of a TLS record that carries a handshake.
const HANDSHAKE: u8 = 0x16;

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A TLS hello for this name, in lower case; without one.
    Tls(Option<String>),
    NotTls,
    /// It begins like TLS and isn't, or it is too long.
    Broken,
}

/// Collects first bytes until they say something.
#[derive(Default)]
struct Listening {
    acceptor: Acceptor,
    bytes: usize,
}

impl Listening {
    /// `None`: more is needed.
    fn hear(&mut self, bytes: &[u8]) -> Option<Said> {
        if self.bytes == 0 && *bytes.first()? != HANDSHAKE {
            return Some(Said::NotTls);
        }
        self.bytes += bytes.len();
        if self.bytes > HELLO_BYTES_MAX {
            return Some(Said::Broken);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.acceptor.read_tls(&mut rest) {
                Ok(read) if read > 0 => {}
                _ => return Some(Said::Broken),
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let name = hello.server_name().map(|name| name.strip_suffix('.').unwrap_or(name));
                    return Some(Said::Tls(name.map(str::to_ascii_lowercase)));
                }
                Err(_) => return Some(Said::Broken),
            }
        }
        None
    }
}

/// Reads until the first bytes say something; what they say, and the bytes, to be sent on. An end or a long silence before
/// that is an error.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Said, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(READ_BYTES);
    // The first byte may take its time where the other side speaks first; the caller bounds that.
    if from.read_buf(&mut bytes).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut listening = Listening::default();
    let mut heard = 0;
    let rest = async {
        loop {
            if let Some(said) = listening.hear(&bytes[heard..]) {
                return Ok(said);
            }
            heard = bytes.len();
            if from.read_buf(&mut bytes).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
    };
    let said = timeout(HELLO_TIME_MAX, rest).await.map_err(|_elapsed| io::ErrorKind::TimedOut)??;
    Ok((said, bytes))
}

/// The same where nothing but a hello makes sense.
pub(super) async fn read_soon(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Said, Vec<u8>)> {
    timeout(HELLO_TIME_MAX, read(from)).await.map_err(|_elapsed| io::ErrorKind::TimedOut)?
}

/// A fatal TLS alert: unrecognized name (RFC 6066).
pub(super) const ALERT: [u8; 7] = [0x15, 3, 1, 0, 2, 2, 112];

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    use super::*;

    /// However a hello is cut into pieces, the same is heard; and what is heard as a name stands in the bytes. The first byte
    /// says how it is cut.
    pub(crate) fn client_hello(data: &[u8]) {
        let Some((&first, hello)) = data.split_first() else { return };
        let whole = Listening::default().hear(hello);
        let mut listening = Listening::default();
        let cut = hello.chunks(usize::from(first) + 1).find_map(|piece| listening.hear(piece));
        // A flight that is cut may be understood before what comes behind it is seen to be wrong.
        assert!(whole == cut || whole == Some(Said::Broken), "{whole:?} {cut:?}");
        if let Some(Said::Tls(Some(name))) = cut {
            let lower = hello.to_ascii_lowercase();
            assert!(memchr::memmem::find(&lower, name.as_bytes()).is_some());
        }
    }
}
