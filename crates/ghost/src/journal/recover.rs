//! Reads what an earlier process left, in place: what was on its way is settled as an estimate, and waits for the books like
//! any other settled call.
//! Never: a call charged that didn't leave, or a list of calls in memory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use molt_model::{HolderId, Time};

use super::record::{self, CALL_WORDS, Reader, State};
use super::segment::{self, HEADER_WORDS, Segment};
use super::signals::Signals;
use super::{BATCH_MAX, Listed};

/// What an earlier process left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// Calls that wait for the books.
    pub(crate) calls: usize,
    /// Those of them that were open, and are estimates now.
    pub(crate) estimated: usize,
    /// Whose leases return once these calls are booked.
    pub(crate) holders: Vec<HolderId>,
}

/// All files of the folder, oldest first.
pub(super) fn read(folder: &Path, now: Time, signals: &Arc<Signals>) -> io::Result<(Recovered, BTreeMap<u64, Listed>)> {
    let mut recovered = Recovered::default();
    let mut segments = BTreeMap::new();
    let mut last: BTreeMap<HolderId, u64> = BTreeMap::new();
    for path in segment::files(folder)? {
        let Some(segment) = Segment::recover(path.clone(), signals)? else {
            // Its process died while it was made, before a call could be in it.
            std::fs::remove_file(&path)?;
            continue;
        };
        read_segment(&segment, now, &mut recovered);
        last.insert(segment.facts.holder, segment.facts.number);
        let number = segment.facts.number;
        segments.insert(number, Listed::new(&Arc::new(segment)));
    }
    for number in last.values() {
        segments[number].facts.kept.store(true, Ordering::Release);
    }
    recovered.holders = last.into_keys().collect();
    if recovered.calls > 0 {
        signals.add_waiting(recovered.calls);
        signals.wake_books(true, BATCH_MAX);
    }
    Ok((recovered, segments))
}

fn read_segment(segment: &Segment, now: Time, recovered: &mut Recovered) {
    let facts = &segment.facts;
    let mut reader = Reader::new(segment.words(), facts.holder);
    let used = reader.mend(HEADER_WORDS);
    facts.used.store(used, Ordering::Release);
    for at in reader.calls(HEADER_WORDS, used) {
        let words = &segment.words()[at..at + CALL_WORDS];
        let state = record::state(words);
        let settled = match state {
            Some((State::Settled, _)) => {
                reader.settled(at).is_some() || estimated(&mut reader, words, at, now, recovered)
            }
            Some((State::SetAside, route)) => {
                record::set(words, State::Settled, route);
                true
            }
            Some((State::Sent, _)) => estimated(&mut reader, words, at, now, recovered),
            Some((State::Admitted | State::Returned, _)) | None => {
                record::set(words, State::Void, 0);
                false
            }
            Some((State::Void | State::Booked, _)) => false,
        };
        if settled {
            facts.live.fetch_add(1, Ordering::SeqCst);
            facts.ready.fetch_add(1, Ordering::SeqCst);
            recovered.calls += 1;
        }
    }
    segment.touch();
}

/// Settles a call that was on its way, or whose figures a power cut took.
fn estimated(
    reader: &mut Reader<'_>,
    words: &[std::sync::atomic::AtomicU64],
    at: usize,
    now: Time,
    recovered: &mut Recovered,
) -> bool {
    let Some(outcome) = reader.left_open(at, now) else {
        tracing::error!(request.id = %record::id(words), "a call of the usage journal can't be read and isn't booked");
        record::set(words, State::Void, 0);
        return false;
    };
    record::write_outcome(words, &outcome);
    recovered.estimated += 1;
    true
}
