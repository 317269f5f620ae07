//! Where a gate's socket lies, and how it gets there.
//! Never: a moment at which the folder holds a socket that nobody listens on while an older one still did.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tokio::net::UnixListener;

/// In the folder that the cell sees as its way out.
const SOCKET: &str = "proxy.sock";
/// It listens under this name before it takes the other one.
const DRAFT: &str = ".proxy.sock.draft";

/// A socket of ours, told from another one that may lie under the same name later.
pub(super) struct Place {
    path: PathBuf,
    device: u64,
    file: u64,
}

impl Place {
    /// Listens in the folder, in the place of whatever an earlier process left there. `None`: there is no such folder.
    pub(super) fn take(folder: &Path) -> io::Result<Option<(Self, UnixListener)>> {
        let Some(handle) = open_own(folder)? else { return Ok(None) };
        let inside = through(&handle, folder);
        let draft = inside.join(DRAFT);
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&draft)?;
        // Only who may pass through the folders above gets this far: the platform and the cell.
        std::fs::set_permissions(&draft, Permissions::from_mode(0o666))?;
        let facts = std::fs::symlink_metadata(&draft)?;
        std::fs::rename(&draft, inside.join(SOCKET))?;
        let place = Self { path: folder.join(SOCKET), device: facts.dev(), file: facts.ino() };
        Ok(Some((place, listener)))
    }

    pub(super) fn is_still_there(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|facts| (facts.dev(), facts.ino()) == (self.device, self.file))
    }
}

/// The folder itself, not what a link in its place leads to, if it is ours.
fn open_own(folder: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(folder);
    let handle = match opened {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        opened => opened?,
    };
    if handle.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "the folder of the gate belongs to somebody else"));
    }
    Ok(Some(handle))
}

/// A socket's address holds only 108 bytes; a path through the folder's handle always fits.
#[cfg(target_os = "linux")]
fn through(handle: &File, _folder: &Path) -> PathBuf {
    use std::os::fd::AsRawFd;

    Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string())
}

#[cfg(not(target_os = "linux"))]
fn through(_handle: &File, folder: &Path) -> PathBuf {
    folder.to_owned()
}
