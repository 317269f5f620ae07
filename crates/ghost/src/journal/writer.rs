//! The journal's own thread: syncs what was written, makes the next file ahead, removes the ones that are over.
//! Never: anything that a call waits for.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Shared;
use super::segment::{Facts, HEADER_WORDS, Segment};
use super::signals::Signals;

/// What a power cut may take; a killed process loses nothing. A round costs its core most of a millisecond under load, so
/// twenty a second were nearly two hundredths of a core for a promise that nobody was given.
const ROUND: Duration = Duration::from_millis(200);

pub(super) fn start(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let (signals, weak) = (Arc::clone(&shared.signals), Arc::downgrade(shared));
    let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || run(&weak, &signals))?;
    shared.signals.writer_is(thread.thread());
    Ok(thread)
}

/// Until stopped: rounds while there is something to write, then sleep.
fn run(shared: &Weak<Shared>, signals: &Signals) {
    signals.writer_is(&std::thread::current());
    while !signals.is_stopped() {
        let Some(shared) = shared.upgrade() else { return };
        let busy = round(&shared);
        if busy {
            std::thread::park_timeout(ROUND);
        } else {
            signals.park(|| shared.touched().is_empty());
        }
    }
}

/// Whether there was anything to do.
fn round(shared: &Shared) -> bool {
    let touched: Vec<Arc<Facts>> = shared.touched().into_iter().filter(|facts| facts.take_touched()).collect();
    for facts in &touched {
        match facts.sync() {
            // Booked and removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                file = %facts.path.display(),
                "the usage journal can't be synced: calls of the last moments would be lost in a power cut"
            ),
            Ok(()) => {}
        }
    }
    if let Err(error) = shared.make_spare() {
        tracing::debug!(error = &error as &dyn std::error::Error, "no file could be made ahead for the usage journal");
    }
    shared.remove_done();
    shared.begin_again();
    !touched.is_empty()
}

impl Shared {
    fn touched(&self) -> Vec<Arc<Facts>> {
        let state = self.state();
        let listed = state.segments.values().map(|listed| &listed.facts);
        let spare = state.spare.as_ref().map(|spare| &spare.facts);
        listed.chain(spare).filter(|facts| facts.is_touched()).map(Arc::clone).collect()
    }

    /// Once the current file is half full. The file is made outside the lock.
    fn make_spare(&self) -> io::Result<()> {
        let number = {
            let mut state = self.state();
            let room = state.segments.len() < self.bounds.segments;
            if state.spare.is_some() || state.next < state.current.words().len() / 2 || !room {
                return Ok(());
            }
            state.newest += 1;
            state.newest
        };
        let spare = Arc::new(Segment::create(&self.folder, number, self.holder, self.bounds.bytes, &self.signals)?);
        self.state().spare.get_or_insert(spare);
        Ok(())
    }

    /// With nothing open and nothing to book, the current file begins again: where little happens there is one file, and it
    /// is empty.
    fn begin_again(&self) {
        let mut state = self.state();
        if state.next > HEADER_WORDS && state.current.facts.live.load(Ordering::SeqCst) == 0 {
            state.current.rewind();
            state.routes.clear();
            state.next = HEADER_WORDS;
        }
    }
}
