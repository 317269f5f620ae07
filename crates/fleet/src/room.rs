//! Whether there is room on a disk for one more cell.
//! Never: a promise; what is free now may be gone in a moment.

use std::io::{self, ErrorKind};
use std::path::Path;

/// What a cell writes before anybody could be told of a full disk: its lock, its configuration, the start of its journal.
const BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Bytes that are free where this folder lies, for those who aren't root.
pub(crate) fn free(folder: &Path) -> io::Result<u64> {
    let facts = rustix::fs::statvfs(folder)?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// A cell that can't even write its lock would end without a word.
pub(crate) fn check(folder: &Path) -> io::Result<()> {
    if free(folder)? < BYTES_MIN { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
}
