//! What is counted of the exchanges with the database about leased money.
//! Never: whose money it was.

use std::sync::atomic::{AtomicU64, Ordering};

use molt_store::budget::Leased;

/// Exchanges since the start, and the money that they moved.
#[derive(Debug, Default)]
pub(crate) struct LeaseTally {
    answered: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    granted: AtomicU64,
    returned: AtomicU64,
}

/// What a tally holds at one moment; money in nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeasesSoFar {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) unanswered: u64,
    pub(crate) granted: u64,
    pub(crate) returned: u64,
}

impl LeaseTally {
    pub(crate) fn now(&self) -> LeasesSoFar {
        let Self { answered, refused, unanswered, granted, returned } = self;
        let [answered, refused, unanswered, granted, returned] =
            [answered, refused, unanswered, granted, returned].map(|count| count.load(Ordering::Relaxed));
        LeasesSoFar { answered, refused, unanswered, granted, returned }
    }

    pub(super) fn answered(&self, answers: &[Leased]) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        for answer in answers {
            let moved = if answer.granted.0 < 0 { &self.returned } else { &self.granted };
            moved.fetch_add(answer.granted.0.unsigned_abs(), Ordering::Relaxed);
        }
    }

    /// A definite no.
    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Nobody knows what came of it; it is asked again.
    pub(super) fn unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }
}
