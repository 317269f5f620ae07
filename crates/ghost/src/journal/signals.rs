//! Who has to look: the books when calls are settled, the writer thread when something is to be synced.
//! Never: a system call for each call; whoever is awake already isn't woken.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

/// What settles within so long goes into the books together, but for calls of a run: a chat waits for those.
const GATHER: Duration = Duration::from_millis(250);

/// Nobody waits for a wake-up yet: the next settlement gives one.
const ASLEEP: u8 = 0;
/// Woken in a moment, in which more may come.
const GATHERING: u8 = 1;
/// Woken.
const AT_ONCE: u8 = 2;

#[derive(Default)]
pub(super) struct Signals {
    /// Calls that are settled and not booked.
    waiting: AtomicUsize,
    books: AtomicU8,
    settled: Notify,
    /// The writer thread sleeps until it is woken.
    parked: AtomicBool,
    writer: OnceLock<Thread>,
    stopped: AtomicBool,
}

impl Signals {
    /// Calls were settled, and counted before. `many`: so many that nobody should wait for more.
    pub(super) fn wake_books(self: &Arc<Self>, at_once: bool, many: usize) {
        let state = self.books.load(Ordering::SeqCst);
        let wanted = if at_once || self.waiting() >= many { AT_ONCE } else { GATHERING };
        if state >= wanted || self.books.fetch_max(wanted, Ordering::SeqCst) >= wanted {
            return;
        }
        match Handle::try_current() {
            // By the thread that settles, and later: the books' own would take its core from the caller's next request.
            Ok(runtime) if wanted == GATHERING => {
                let wakes = WakesBooks(Arc::clone(self));
                runtime.spawn(async move {
                    tokio::time::sleep(GATHER).await;
                    drop(wakes);
                });
            }
            _ => self.settled.notify_one(),
        }
    }

    /// Counts calls before the books can see them, so that the count is never below what they take.
    pub(super) fn add_waiting(&self, calls: usize) {
        self.waiting.fetch_add(calls, Ordering::SeqCst);
    }

    pub(super) fn done(&self, calls: usize) {
        self.waiting.fetch_sub(calls, Ordering::SeqCst);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Returns when there was a wake-up since the last `look`.
    pub(super) async fn wake(&self) {
        self.settled.notified().await;
    }

    /// From here on whatever is settled gives a wake-up; what was settled before is there to be seen.
    pub(super) fn look(&self) {
        self.books.swap(ASLEEP, Ordering::SeqCst);
    }

    pub(super) fn wake_writer(&self) {
        if self.parked.load(Ordering::SeqCst) && self.parked.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    /// The writer thread says that it sleeps, and looks once more before it does.
    pub(super) fn park(&self, nothing_to_do: impl FnOnce() -> bool) {
        self.parked.store(true, Ordering::SeqCst);
        if nothing_to_do() && !self.is_stopped() {
            std::thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }

    pub(super) fn writer_is(&self, thread: &Thread) {
        let _ = self.writer.set(thread.clone());
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.unpark();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// The writer's next round begins now.
    pub(super) fn unpark(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

/// Wakes the books when it is dropped: also where the runtime ends that it waits on.
struct WakesBooks(Arc<Signals>);

impl Drop for WakesBooks {
    fn drop(&mut self) {
        self.0.settled.notify_one();
    }
}
