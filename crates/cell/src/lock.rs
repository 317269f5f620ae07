//! One cell per state folder.
//! Never: wait for the lock; a second cell is a mistake of the host, and it is told at once.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Held as long as the value lives; the kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub struct CellLock {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another cell already runs on this state folder")]
    Taken,
    #[error("the lock can't be taken")]
    Unexpected(#[from] anyhow::Error),
}

impl CellLock {
    /// Takes the lock and notes who holds it.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(path).context("open the lock")?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Taken),
            Err(error) => return Err(LockError::Unexpected(anyhow::Error::new(error).context("flock"))),
        }
        let pid = std::process::id();
        let started = molt_bot::leftovers::start_time(pid).unwrap_or(0);
        file.set_len(0).context("empty the lock")?;
        writeln!(file, "{pid} {started}").context("write the lock")?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told() {
        let path = std::env::temp_dir().join(format!("molt-lock-{}", uuid::Uuid::new_v4()));
        let first = CellLock::take(&path).unwrap();
        assert!(matches!(CellLock::take(&path), Err(LockError::Taken)));
        drop(first);
        assert!(CellLock::take(&path).is_ok());
        std::fs::remove_file(&path).unwrap();
    }
}
