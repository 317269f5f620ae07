//! Opening a connection to a cell.
//! Never: follow what a cell put in the place of its socket; the folder is writable by the cell.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::error::ClientError;

/// A cell is on this machine or one private network away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a cell listens: `unix:/path` or `tcp:host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CellAddress {
    Unix(PathBuf),
    Tcp(String),
}

/// The text is neither `unix:/absolute/path` nor `tcp:host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address is unix:/absolute/path or tcp:host:port")]
pub struct InvalidAddress;

impl FromStr for CellAddress {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(InvalidAddress) };
        }
        let address = text.strip_prefix("tcp:").ok_or(InvalidAddress)?;
        let (host, port) = address.rsplit_once(':').ok_or(InvalidAddress)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(InvalidAddress);
        }
        Ok(Self::Tcp(address.to_owned()))
    }
}

impl fmt::Display for CellAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl CellAddress {
    pub(crate) async fn connect(&self) -> Result<Connection, ClientError> {
        let opening = async {
            match self {
                Self::Unix(path) => open_socket(path).await.map(Connection::Unix),
                Self::Tcp(address) => {
                    let stream = TcpStream::connect(address).await.map_err(ClientError::Unreachable)?;
                    stream.set_nodelay(true).map_err(ClientError::Unreachable)?;
                    Ok(Connection::Tcp(stream))
                }
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| ClientError::Timeout)?
    }
}

/// Opens the path without following it, makes sure that it is a socket, and connects to exactly what was checked.
/// The detour through the descriptor also frees the path from the 108 bytes of a socket address.
#[cfg(target_os = "linux")]
async fn open_socket(path: &std::path::Path) -> Result<UnixStream, ClientError> {
    use rustix::fs::{FileType, Mode, OFlags};
    use std::os::fd::AsRawFd;

    let unreachable = |error: rustix::io::Errno| ClientError::Unreachable(error.into());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(unreachable)?;
    let facts = rustix::fs::fstat(&handle).map_err(unreachable)?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::Socket {
        return Err(ClientError::NotASocket);
    }
    let address = format!("/proc/self/fd/{}", handle.as_raw_fd());
    UnixStream::connect(address).await.map_err(ClientError::Unreachable)
}

/// Elsewhere (a developer's Mac) there is no such detour: the link is refused, a race remains, and no cell is sealed.
#[cfg(not(target_os = "linux"))]
async fn open_socket(path: &std::path::Path) -> Result<UnixStream, ClientError> {
    use std::os::unix::fs::FileTypeExt;

    let facts = std::fs::symlink_metadata(path).map_err(ClientError::Unreachable)?;
    if !facts.file_type().is_socket() {
        return Err(ClientError::NotASocket);
    }
    UnixStream::connect(path).await.map_err(ClientError::Unreachable)
}

/// An open connection of either kind.
pub(crate) enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["unix:/run/molt/in/cell.sock", "tcp:127.0.0.1:18789", "tcp:bot.internal:18789"] {
            assert_eq!(good.parse::<CellAddress>().unwrap().to_string(), good);
        }
        for wrong in ["", "unix:relative", "tcp:", "tcp:host", "tcp::1", "tcp:host:99999", "/run/x"] {
            assert!(wrong.parse::<CellAddress>().is_err(), "{wrong}");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_link_in_the_place_of_the_socket_is_not_followed() {
        let folder = std::env::temp_dir().join(format!("molt-bot-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let socket = folder.join("real.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let link = folder.join("link.sock");
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        assert!(CellAddress::Unix(socket).connect().await.is_ok());
        assert!(matches!(CellAddress::Unix(link).connect().await, Err(ClientError::NotASocket)));
        assert!(matches!(CellAddress::Unix(folder.join("absent")).connect().await, Err(ClientError::Unreachable(_))));
        drop(listener);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
