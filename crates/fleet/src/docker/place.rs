//! What of a bot lies in a folder of this machine although its state is in a volume: the way in, the way out, and the lock
//! that keeps two programs from working on one bot.
//! Never: a change inside `run/in/` that follows a link; that folder is the cell's.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use molt_model::BotId;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tokio::time::Instant;

use crate::room;

/// Somebody else's work on the same bot, its grace to end included.
const LOCK_MAX: Duration = Duration::from_secs(25);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// `<data>/bots/<bot>/run/{in,out}`.
#[derive(Clone, Debug)]
pub(super) struct Place {
    root: PathBuf,
    lock: PathBuf,
}

impl Place {
    pub(super) fn new(bots: &Path, bot: &BotId) -> Self {
        Self { root: bots.join(bot.as_str()), lock: bots.join(format!(".lock-{bot}")) }
    }

    pub(super) fn way_in(&self) -> PathBuf {
        self.root.join("run/in")
    }

    pub(super) fn way_out(&self) -> PathBuf {
        self.root.join("run/out")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.way_in().join("cell.sock")
    }

    /// Makes what is missing. Nobody of this machine passes through `run`; inside the container the folders stand alone, and
    /// there the cell may write into its way in and only look into its way out. So it makes no difference whether this
    /// program is root.
    pub(super) fn create(&self) -> io::Result<()> {
        room::check(self.root.parent().unwrap_or(&self.root))?;
        let run = self.root.join("run");
        for (path, mode) in [(&self.root, 0o700), (&run, 0o700), (&self.way_in(), 0o777), (&self.way_out(), 0o755)] {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        match fs::remove_file(self.socket()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Nobody else works on this bot while the file is open, whichever program they are. `None`: somebody does, all the time.
    pub(super) async fn alone(&self) -> io::Result<Option<File>> {
        let deadline = Instant::now() + LOCK_MAX;
        while Instant::now() < deadline {
            let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&self.lock)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Whoever removed the bot took the name away; then it is another file that counts.
                Ok(()) if same(&file, &self.lock) => return Ok(Some(file)),
                Ok(()) | Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        Ok(None)
    }

    /// Removes everything, the lock's name last: the caller holds it.
    pub(super) fn remove(&self) -> io::Result<()> {
        for removed in [fs::remove_dir_all(&self.root), fs::remove_file(&self.lock)] {
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

fn same(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

/// Bots that have a folder, or the rest of one.
pub(super) fn on_disk(bots: &Path) -> io::Result<Vec<BotId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(bots)? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<BotId>().ok()));
    }
    Ok(found)
}
