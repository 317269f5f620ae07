//! Whether there is room on a disk for one more cell.
//! Never: a promise; what is free now may be gone in a moment.

use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::fs::StatVfs;

/// What a cell writes before anybody could be told of a full disk: its lock, its configuration, the start of its journal.
const BYTES_MIN: u64 = 4 * 1024 * 1024;

/// A container takes about thirty files, and whoever makes it some for a moment. File systems without a limit say zero of zero.
const FILES_MIN: u64 = 64;

/// Bytes that are free where this folder lies, for those who aren't root.
pub(crate) fn free(folder: &Path) -> io::Result<u64> {
    Ok(free_of(&rustix::fs::statvfs(folder)?))
}

/// Whether whatever fails here may well fail for want of room.
pub(crate) fn is_short(folder: &Path) -> bool {
    check(folder).is_err_and(|error| error.kind() == ErrorKind::StorageFull)
}

/// A cell that can't even write its lock would end without a word.
pub(crate) fn check(folder: &Path) -> io::Result<()> {
    let facts = rustix::fs::statvfs(folder)?;
    let few_files = facts.f_files > 0 && facts.f_favail < FILES_MIN;
    if few_files || free_of(&facts) < BYTES_MIN { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
}

fn free_of(facts: &StatVfs) -> u64 {
    facts.f_bavail.saturating_mul(facts.f_frsize)
}
