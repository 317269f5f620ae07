//! The usage journal: what was let through and what it used, written down before the caller has the last byte.
//! Never: a record removed before it is in the books, a system call for each call, or more memory for a longer backlog.
//!
//! Records lie in files that are mapped into memory and are changed in place. What is written there outlives a kill of the
//! process at once, as the memory is the kernel's. Files are synced every 200 ms: a power cut can take that much with it,
//! and a write can wait some milliseconds for the disk where the file system holds pages still while it writes them.

mod record;
mod recover;
mod segment;
mod signals;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use molt_model::{HolderId, Time};
use molt_store::usage::SettledCall;

use crate::StartError;
use record::{CALL_WORDS, ROUTES_MAX, Reader, State as CallState};
use segment::{Facts, SEGMENT_BYTES, Segment};
use signals::Signals;

pub(crate) use record::{AdmittedCall, Outcome, Route};
pub(crate) use recover::Recovered;

/// On the disk. More than three million calls: ten minutes without a database at 6,000 calls a second. Then new calls are
/// refused.
const JOURNAL_BYTES_MAX: usize = 1024 * SEGMENT_BYTES;
/// Rows in one transaction of the books, and so many settled calls wake them without waiting for more.
pub(crate) const BATCH_MAX: usize = 2_000;

/// The open journal. One process at a time.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

/// Of a file, and how many of them.
#[derive(Clone, Copy)]
struct Bounds {
    bytes: usize,
    segments: usize,
}

struct Shared {
    folder: PathBuf,
    _lock: File,
    holder: HolderId,
    bounds: Bounds,
    signals: Arc<Signals>,
    state: Mutex<State>,
}

struct State {
    current: Arc<Segment>,
    /// The first free word of it.
    next: usize,
    /// Where each route stands in it. By address; the route is kept, so that the address stays its own.
    routes: HashMap<usize, (Arc<Route>, u32)>,
    /// All files, the current one included, oldest first.
    segments: BTreeMap<u64, Listed>,
    /// Made ahead, so that no call waits for a file.
    spare: Option<Arc<Segment>>,
    newest: u64,
}

struct Listed {
    facts: Arc<Facts>,
    /// Alive while calls in it are open, or the books read it.
    segment: Weak<Segment>,
}

/// One open call. Dropped without `settle` or `void`, the call stays open until the next start, which settles it as it
/// stands.
pub(crate) struct Slot {
    segment: Arc<Segment>,
    at: usize,
    at_once: bool,
}

/// Settled calls for the books, and at the same index where each stands.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) calls: Vec<SettledCall>,
    pub(crate) places: Vec<Place>,
}

/// How full a journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// On the disk.
    pub(crate) bytes: u64,
    /// Calls that are settled and not booked.
    pub(crate) unbooked: u64,
    /// Calls that the books refused.
    pub(crate) set_aside: u64,
}

/// Where a settled call stands.
pub(crate) struct Place {
    segment: Arc<Segment>,
    at: usize,
}

impl Journal {
    /// Opens the journal and settles what an earlier process left open, as estimates. Needs no runtime.
    pub(crate) fn open(folder: &Path, now: Time) -> Result<(Self, Recovered), StartError> {
        Self::open_bounded(folder, now, Bounds { bytes: SEGMENT_BYTES, segments: JOURNAL_BYTES_MAX / SEGMENT_BYTES })
    }

    fn open_bounded(folder: &Path, now: Time, bounds: Bounds) -> Result<(Self, Recovered), StartError> {
        let shown = folder.display().to_string();
        let failed = |source| StartError::Journal { folder: shown.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StartError::JournalTaken(shown)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let signals = Arc::new(Signals::default());
        let (recovered, mut segments) = recover::read(folder, now, &signals).map_err(failed)?;
        let newest = segments.last_key_value().map_or(0, |(number, _)| number + 1);
        let holder = HolderId::random();
        let current = Arc::new(Segment::create(folder, newest, holder, bounds.bytes, &signals).map_err(failed)?);
        current.facts.sync().map_err(failed)?;
        segments.insert(newest, Listed::new(&current));
        let next = current.facts.used.load(Ordering::Relaxed);
        let state = State { current, next, routes: HashMap::new(), segments, spare: None, newest };
        let folder = folder.to_owned();
        let shared = Arc::new(Shared { folder, _lock: lock, holder, bounds, signals, state: Mutex::new(state) });
        let writer = writer::start(&shared).map_err(failed)?;
        Ok((Self { shared, writer: Some(writer) }, recovered))
    }

    /// This start of this process, to whom its leases are given.
    pub(crate) fn holder(&self) -> HolderId {
        self.shared.holder
    }

    /// Before the call is sent. An error: the disk or the journal is full, so the call must not go out.
    pub(crate) fn admit(&self, call: &AdmittedCall<'_>) -> io::Result<Slot> {
        let mut places = [0; ROUTES_MAX];
        let (segment, at) = self.shared.reserve(call.routes, &mut places)?;
        record::write_call(&segment.words()[at..at + CALL_WORDS], call, &places[..call.routes.len()]);
        segment.touch();
        Ok(Slot { segment, at, at_once: call.run.is_some() })
    }

    /// Returns when there are calls for the books, after a moment in which more may come where that is harmless.
    pub(crate) async fn settled(&self) {
        self.shared.signals.wake().await;
        self.shared.signals.look();
    }

    /// Calls that are settled and not booked.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.signals.waiting()
    }

    /// How full it is.
    pub(crate) fn size(&self) -> Size {
        let state = self.shared.state();
        let files = state.segments.len() + usize::from(state.spare.is_some());
        let aside = state.segments.values().map(|listed| listed.facts.aside.load(Ordering::Relaxed));
        let set_aside = aside.sum::<usize>() as u64;
        Size { bytes: (files * self.shared.bounds.bytes) as u64, unbooked: self.waiting() as u64, set_aside }
    }

    /// Settled calls for the books, at most so many. Oldest files first.
    pub(crate) fn collect(&self, limit: usize) -> Batch {
        let ready: Vec<Arc<Facts>> = {
            let state = self.shared.state();
            let all = state.segments.values().map(|listed| &listed.facts);
            all.filter(|facts| facts.ready.load(Ordering::SeqCst) > 0).map(Arc::clone).collect()
        };
        let mut found = Batch::default();
        for facts in ready {
            let Some(segment) = self.shared.segment(&facts) else { continue };
            let mut reader = Reader::new(segment.words(), facts.holder);
            for at in reader.calls(segment::HEADER_WORDS, facts.used.load(Ordering::Acquire)) {
                if found.calls.len() >= limit {
                    return found;
                }
                if record::state(&segment.words()[at..]).is_none_or(|(state, _)| state != CallState::Settled) {
                    continue;
                }
                match reader.settled(at) {
                    Some(call) => {
                        found.calls.push(call);
                        found.places.push(Place { segment: Arc::clone(&segment), at });
                    }
                    None => self.shared.lay_aside(&segment, at, "it can't be read"),
                }
            }
        }
        found
    }

    /// These are in the books.
    pub(crate) fn booked(&self, places: &[Place]) {
        for place in places {
            let facts = &place.segment.facts;
            record::set(&place.segment.words()[place.at..], CallState::Booked, 0);
            facts.ready.fetch_sub(1, Ordering::SeqCst);
            place.segment.touch();
            facts.live.fetch_sub(1, Ordering::SeqCst);
        }
        self.shared.signals.done(places.len());
    }

    /// The books refuse this one: it stays here and keeps nobody waiting. It is tried again by `bring_back` and by the next
    /// start.
    pub(crate) fn set_aside(&self, place: &Place) {
        self.shared.lay_aside(&place.segment, place.at, "the books refuse it");
    }

    /// What was set aside is tried again.
    pub(crate) fn bring_back(&self) {
        let laid: Vec<Arc<Facts>> = {
            let state = self.shared.state();
            let all = state.segments.values().map(|listed| &listed.facts);
            all.filter(|facts| facts.aside.load(Ordering::SeqCst) > 0).map(Arc::clone).collect()
        };
        for facts in laid {
            let Some(segment) = self.shared.segment(&facts) else { continue };
            let reader = Reader::new(segment.words(), facts.holder);
            for at in reader.calls(segment::HEADER_WORDS, facts.used.load(Ordering::Acquire)) {
                let words = &segment.words()[at..];
                if let Some((CallState::SetAside, route)) = record::state(words) {
                    facts.aside.fetch_sub(1, Ordering::SeqCst);
                    facts.ready.fetch_add(1, Ordering::SeqCst);
                    self.shared.signals.add_waiting(1);
                    record::set(words, CallState::Settled, route);
                    self.shared.signals.wake_books(true, BATCH_MAX);
                }
            }
        }
    }

    /// Earlier holders of whom nothing is left to book.
    pub(crate) fn holders_done(&self) -> Vec<HolderId> {
        let state = self.shared.state();
        let mut holders: BTreeMap<HolderId, bool> = BTreeMap::new();
        for listed in state.segments.values().filter(|listed| listed.facts.holder != self.shared.holder) {
            *holders.entry(listed.facts.holder).or_insert(true) &= listed.facts.live.load(Ordering::SeqCst) == 0;
        }
        holders.into_iter().filter_map(|(holder, done)| done.then_some(holder)).collect()
    }

    /// The leases of an earlier holder have returned: its last file may go.
    pub(crate) fn holder_released(&self, holder: HolderId) {
        for listed in self.shared.state().segments.values().filter(|listed| listed.facts.holder == holder) {
            listed.facts.kept.store(false, Ordering::Release);
        }
        self.shared.remove_done();
    }

    /// No call of this process is open or waits for the books.
    pub(crate) fn is_done(&self) -> bool {
        let state = self.shared.state();
        let mut own = state.segments.values().filter(|listed| listed.facts.holder == self.shared.holder);
        own.all(|listed| listed.facts.live.load(Ordering::SeqCst) == 0)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.signals.stop();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Slot {
    /// The next thing to leave is the call, on its way to this one of its routes.
    pub(crate) fn sent(&self, route: usize) {
        self.set(CallState::Sent, route);
    }

    /// A provider has it, or may have it.
    pub(crate) fn has_left(&self) -> bool {
        record::state(self.words()).is_some_and(|(state, _)| state == CallState::Sent)
    }

    /// An attempt came to nothing, and another one may follow.
    pub(crate) fn returned(&self) {
        self.set(CallState::Returned, 0);
    }

    /// While a long answer goes by, so that a restart estimates from what was relayed.
    pub(crate) fn relayed(&self, pieces: i64) {
        record::set_relayed(self.words(), pieces);
        self.segment.touch();
    }

    /// Before the last byte goes to the caller.
    pub(crate) fn settle(self, outcome: &Outcome) {
        self.segment.facts.ready.fetch_add(1, Ordering::SeqCst);
        self.segment.signals.add_waiting(1);
        record::write_outcome(self.words(), outcome);
        self.segment.touch();
        self.segment.signals.wake_books(self.at_once, BATCH_MAX);
    }

    /// Nothing was used.
    pub(crate) fn void(self) {
        self.set(CallState::Void, 0);
        self.segment.facts.live.fetch_sub(1, Ordering::SeqCst);
    }

    fn set(&self, state: CallState, route: usize) {
        record::set(self.words(), state, route);
        self.segment.touch();
    }

    fn words(&self) -> &[std::sync::atomic::AtomicU64] {
        &self.segment.words()[self.at..self.at + CALL_WORDS]
    }
}

impl Listed {
    fn new(segment: &Arc<Segment>) -> Self {
        Self { facts: Arc::clone(&segment.facts), segment: Arc::downgrade(segment) }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the room of one call, and tells where its routes stand.
    fn reserve(&self, routes: &[Arc<Route>], places: &mut [u32; ROUTES_MAX]) -> io::Result<(Arc<Segment>, usize)> {
        if routes.is_empty() || routes.len() > ROUTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a call has one to seven routes"));
        }
        let mut state = self.state();
        if !state.place(routes, places)? {
            self.turn_over(&mut state)?;
            if !state.place(routes, places)? {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the routes of a call are too long"));
            }
        }
        let at = state.next;
        state.next += CALL_WORDS;
        let half = state.current.words().len() / 2;
        if (at..state.next).contains(&half) {
            // In time for the next file to be there before this one is full.
            self.signals.unpark();
        }
        let segment = Arc::clone(&state.current);
        record::take_room(&segment.words()[at..]);
        segment.facts.live.fetch_add(1, Ordering::SeqCst);
        segment.facts.used.store(state.next, Ordering::Release);
        Ok((segment, at))
    }

    /// Begins the next file.
    fn turn_over(&self, state: &mut State) -> io::Result<()> {
        let next = match state.spare.take() {
            Some(spare) => spare,
            None => self.create(state)?,
        };
        state.segments.insert(next.facts.number, Listed::new(&next));
        state.next = next.facts.used.load(Ordering::Relaxed);
        state.routes.clear();
        let full = std::mem::replace(&mut state.current, next);
        full.facts.sealed.store(true, Ordering::Release);
        full.touch();
        Ok(())
    }

    fn create(&self, state: &mut State) -> io::Result<Arc<Segment>> {
        if state.segments.len() >= self.bounds.segments {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the usage journal is full"));
        }
        let number = state.newest + 1;
        let segment = Segment::create(&self.folder, number, self.holder, self.bounds.bytes, &self.signals)?;
        state.newest = number;
        Ok(Arc::new(segment))
    }

    /// The mapping of a file, made again where nobody has it any more.
    fn segment(&self, facts: &Arc<Facts>) -> Option<Arc<Segment>> {
        let known = self.state().segments.get(&facts.number).and_then(|listed| listed.segment.upgrade());
        if let Some(known) = known {
            return Some(known);
        }
        match Segment::reopen(facts, &self.signals) {
            Ok(segment) => {
                let segment = Arc::new(segment);
                if let Some(listed) = self.state().segments.get_mut(&facts.number) {
                    listed.segment = Arc::downgrade(&segment);
                }
                Some(segment)
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    file = %facts.path.display(),
                    "a file of the usage journal can't be read; its calls aren't in the books"
                );
                None
            }
        }
    }

    fn lay_aside(&self, segment: &Segment, at: usize, why: &'static str) {
        let words = &segment.words()[at..];
        let route = record::state(words).map_or(0, |(_, route)| route);
        record::set(words, CallState::SetAside, route);
        segment.facts.ready.fetch_sub(1, Ordering::SeqCst);
        segment.facts.aside.fetch_add(1, Ordering::SeqCst);
        segment.touch();
        self.signals.done(1);
        tracing::error!(request.id = %record::id(words), file = %segment.facts.path.display(), why,
            "a call isn't in the books; it stays in the usage journal");
    }

    /// Files in which nothing is needed any more go.
    fn remove_done(&self) {
        let mut state = self.state();
        let done: Vec<u64> =
            state.segments.iter().filter(|(_, listed)| listed.facts.is_done()).map(|(number, _)| *number).collect();
        let done: Vec<Listed> = done.iter().filter_map(|number| state.segments.remove(number)).collect();
        drop(state);
        for listed in done {
            if let Err(error) = std::fs::remove_file(&listed.facts.path) {
                tracing::warn!(error = &error as &dyn std::error::Error, "an old usage journal can't be removed");
            }
        }
    }
}

impl State {
    /// Finds or writes the routes of a call. `false`: the file has no room for them and the call.
    fn place(&mut self, routes: &[Arc<Route>], places: &mut [u32; ROUTES_MAX]) -> io::Result<bool> {
        for (route, place) in routes.iter().zip(places) {
            let address = Arc::as_ptr(route).addr();
            if let Some((_, known)) = self.routes.get(&address) {
                *place = *known;
                continue;
            }
            let words = record::encode_route(route)?;
            if self.next + words.len() + CALL_WORDS > self.current.words().len() {
                return Ok(false);
            }
            record::write_route(&self.current.words()[self.next..], &words);
            *place = u32::try_from(self.next).expect("a file has fewer words");
            self.routes.insert(address, (Arc::clone(route), *place));
            self.next += words.len();
        }
        self.current.facts.used.store(self.next, Ordering::Release);
        Ok(self.next + CALL_WORDS <= self.current.words().len())
    }
}
