//! One file of the journal, mapped into memory as words that are only ever read and written whole.
//! Never: a mapping of room that the disk may not have, or a plain reference into the mapped memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use molt_model::HolderId;
use rustix::fs::{FallocateFlags, fallocate};
use uuid::Uuid;

use super::record;
use super::signals::Signals;

/// A file. Small enough that what is booked leaves the disk soon, large enough that files are made a few times a second at
/// most (3,600 calls each).
pub(super) const SEGMENT_BYTES: usize = 1024 * 1024;
/// The mark, the number, the holder (two words), their checksum, and room for what a later version may need.
pub(super) const HEADER_WORDS: usize = 8;
/// "MOLTJRN1", little-endian.
const MARK: u64 = u64::from_le_bytes(*b"MOLTJRN1");
const FILE_PREFIX: &str = "calls-";
const FILE_SUFFIX: &str = ".journal";
/// A segment that was touched is synced by this many rounds, so that a write that raced with one is caught by the next.
const TOUCHED: u8 = 2;

/// What is known of a file without mapping it.
pub(super) struct Facts {
    pub(super) number: u64,
    /// Whoever wrote it.
    pub(super) holder: HolderId,
    pub(super) path: PathBuf,
    bytes: usize,
    /// Words taken, the header included.
    pub(super) used: AtomicUsize,
    /// Calls that are neither booked nor void.
    pub(super) live: AtomicUsize,
    /// Calls that are settled and not booked.
    pub(super) ready: AtomicUsize,
    /// Calls that the books refused.
    pub(super) aside: AtomicUsize,
    /// Nothing is added any more.
    pub(super) sealed: AtomicBool,
    /// The last trace of a holder whose leases haven't returned.
    pub(super) kept: AtomicBool,
    touched: AtomicU8,
    /// The folder doesn't safely know the file yet.
    fresh: AtomicBool,
}

/// A mapped file. Unmapped when the last call in it is closed and nothing is added to it any more.
pub(super) struct Segment {
    map: MmapRaw,
    pub(super) facts: Arc<Facts>,
    pub(super) signals: Arc<Signals>,
}

impl Facts {
    fn new(number: u64, holder: HolderId, path: PathBuf, bytes: usize) -> Arc<Self> {
        let zero = || AtomicUsize::new(0);
        Arc::new(Self {
            number,
            holder,
            path,
            bytes,
            used: AtomicUsize::new(HEADER_WORDS),
            live: zero(),
            ready: zero(),
            aside: zero(),
            sealed: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            touched: AtomicU8::new(0),
            fresh: AtomicBool::new(false),
        })
    }

    /// Everything in it is booked, and nobody needs to know any more that it was there.
    pub(super) fn is_done(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
            && self.live.load(Ordering::Acquire) == 0
            && !self.kept.load(Ordering::Acquire)
    }

    /// Whether there is something to sync; one round less to go.
    pub(super) fn take_touched(&self) -> bool {
        let lower = |rounds: u8| rounds.checked_sub(1);
        self.touched.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lower).is_ok()
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched.load(Ordering::SeqCst) > 0
    }

    /// Syncs what was written, and with a new file the folder that it lies in.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_data()?;
        if self.fresh.load(Ordering::Acquire) {
            self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
            self.fresh.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl Segment {
    /// A new file with all its room taken on the disk: a full disk is an error here, not a fault in the middle of a call.
    pub(super) fn create(
        folder: &Path,
        number: u64,
        holder: HolderId,
        bytes: usize,
        signals: &Arc<Signals>,
    ) -> io::Result<Self> {
        let path = folder.join(format!("{FILE_PREFIX}{number:08}{FILE_SUFFIX}"));
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
        let mapped = take_room(&file, bytes).and_then(|()| map(&file, bytes));
        let map = mapped.inspect_err(|_| _ = std::fs::remove_file(&path))?;
        let facts = Facts::new(number, holder, path, bytes);
        facts.fresh.store(true, Ordering::Release);
        let segment = Self { map, facts, signals: Arc::clone(signals) };
        let (high, low) = holder.0.as_u64_pair();
        let header = [MARK, number, high, low];
        for (word, value) in segment.words().iter().zip(header.into_iter().chain([record::checksum(&header)])) {
            word.store(value, Ordering::Relaxed);
        }
        segment.touch();
        Ok(segment)
    }

    /// A file of an earlier process; `None`: it isn't one of ours, or its beginning was never written.
    pub(super) fn recover(path: PathBuf, signals: &Arc<Signals>) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if !(HEADER_WORDS * 8..=SEGMENT_BYTES).contains(&bytes) || bytes % 8 != 0 {
            return Ok(None);
        }
        let map = map(&file, bytes)?;
        let facts = Facts::new(0, HolderId(Uuid::nil()), path, bytes);
        let mut segment = Self { map, facts, signals: Arc::clone(signals) };
        let header: Vec<u64> = segment.words()[..5].iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let &[MARK, number, high, low, sum] = header.as_slice() else { return Ok(None) };
        if sum != record::checksum(&[MARK, number, high, low]) {
            return Ok(None);
        }
        segment.facts = Facts::new(number, HolderId(Uuid::from_u64_pair(high, low)), segment.facts.path.clone(), bytes);
        segment.facts.sealed.store(true, Ordering::Release);
        Ok(Some(segment))
    }

    /// Maps a file of this journal again, which was unmapped meanwhile.
    pub(super) fn reopen(facts: &Arc<Facts>, signals: &Arc<Signals>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&facts.path)?;
        if file.metadata()?.len() != facts.bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a file of the journal was cut short"));
        }
        Ok(Self { map: map(&file, facts.bytes)?, facts: Arc::clone(facts), signals: Arc::clone(signals) })
    }

    /// The file as words. Every access is atomic, so that threads that write their own calls and the one that reads
    /// settled ones can share it.
    #[expect(unsafe_code, reason = "memory that is mapped from a file; the one place where the journal touches it")]
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, readable, writable and `bytes` long, and lives as long as `self`. Nothing
        // else refers to it, here or elsewhere, but as atomics: the folder's lock makes this process its only user. All bit
        // patterns are valid words. The room is taken on the disk and nobody but this journal shortens the file, so an
        // access can't fault for lack of it.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().cast::<AtomicU64>(), self.facts.bytes / 8) }
    }

    /// Something was written: it is synced within moments.
    pub(super) fn touch(&self) {
        if self.facts.touched.load(Ordering::Relaxed) != TOUCHED {
            self.facts.touched.store(TOUCHED, Ordering::SeqCst);
            self.signals.wake_writer();
        }
    }

    /// Begins the file again: all that was in it is over. The caller sees to it that nobody adds meanwhile.
    pub(super) fn rewind(&self) {
        let used = self.facts.used.load(Ordering::Acquire);
        for word in &self.words()[HEADER_WORDS..used] {
            word.store(0, Ordering::Relaxed);
        }
        self.facts.used.store(HEADER_WORDS, Ordering::Release);
        self.touch();
    }
}

/// The files of a folder, oldest first.
pub(super) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(FILE_PREFIX)?.strip_suffix(FILE_SUFFIX)?.parse().ok());
        files.extend(number.map(|number: u64| (number, entry.path())));
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Asks the file system for the room; where it can't promise any, zeros are written.
fn take_room(mut file: &File, bytes: usize) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes as u64) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            io::Write::write_all(&mut file, &vec![0; bytes])
        }
        Err(error) => Err(error.into()),
    }
}

fn map(file: &File, bytes: usize) -> io::Result<MmapRaw> {
    MmapOptions::new().len(bytes).map_raw(file)
}
