//! Reads before writes: of all connections that a thread is woken for at once, the first one is written to at once, and the
//! others when each of them was read. Whoever is written to then finds more to do each time it wakes, and so do we.
//! Never: a wait where nobody else has anything to do.

use std::cell::Cell;
use std::task::{Context, Poll};

thread_local! {
    /// Whether something was written since the thread last slept. `None`: nobody says when it sleeps, so nothing waits.
    static WRITTEN: Cell<Option<bool>> = const { Cell::new(None) };
}

/// To be called by a thread whenever it has nothing to do.
pub(crate) fn rests() {
    WRITTEN.set(Some(false));
}

/// One stream's turn to be written to.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    waited: bool,
}

impl Turn {
    /// Ready when the stream may be written to; `Pending` at most once for each write.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.waited || WRITTEN.replace(WRITTEN.get().map(|_| true)) != Some(true) {
            return Poll::Ready(());
        }
        self.waited = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Something was written.
    pub(crate) fn over(&mut self) {
        self.waited = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_but_the_first_wait_once_for_each_write_and_are_woken() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let [mut first, mut second] = [Turn::default(), Turn::default()];
        rests();
        assert!(first.poll(&mut context).is_ready());
        first.over();
        assert!(second.poll(&mut context).is_pending());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(second.poll(&mut context).is_ready());
        assert!(second.poll(&mut context).is_ready(), "it has its turn until something is written");
        second.over();
        assert!(second.poll(&mut context).is_pending(), "also whoever was written to already");
        assert!(first.poll(&mut context).is_pending());
        assert_eq!(woken.0.load(Ordering::Relaxed), 3);
        rests();
        let mut third = Turn::default();
        assert!(third.poll(&mut context).is_ready(), "nobody else had anything to do");
    }

    #[test]
    fn nothing_waits_on_a_thread_that_does_not_say_when_it_rests() {
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = [Turn::default(), Turn::default()];
        assert!(turns.iter_mut().chain(&mut [Turn::default()]).all(|turn| turn.poll(&mut context).is_ready()));
    }
}
