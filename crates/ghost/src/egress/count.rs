//! What the operator sees of all ways out together.
//! Never: a bot, a domain or an address among the labels.

use std::sync::atomic::{AtomicU64, Ordering};

use molt_model::egress::Reason;

use super::Denied;

/// How many ends a request can come to.
const ENDS: usize = 7 + Reason::ALL.len();

#[derive(Debug, Default)]
pub(crate) struct Counts {
    ends: [AtomicU64; ENDS],
    /// From cells to the world.
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) open: AtomicU64,
}

/// The same at one moment.
pub(crate) struct Counted {
    /// By outcome and reason.
    pub(crate) ends: Vec<([(&'static str, &'static str); 2], u64)>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) open: u64,
}

/// Outcome and reason of each end that isn't a refusal.
const OTHERS: [(&str, &str); ENDS - Reason::ALL.len()] = [
    ("allowed", "listed"),
    ("failed", "malformed"),
    ("failed", "no_list"),
    ("failed", "busy"),
    ("failed", "unreachable"),
    ("failed", "too_slow"),
    ("failed", "no_key"),
];

impl Counts {
    pub(super) fn allowed(&self) {
        self.ends[0].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn denied(&self, denied: &Denied) {
        let place = match denied {
            Denied::Malformed(_) => 1,
            Denied::Unknown => 2,
            Denied::Busy => 3,
            Denied::Unreachable(_) => 4,
            Denied::TooSlow(_) => 5,
            Denied::NoKey => 6,
            Denied::Refused(reason, _) => return self.refused(*reason),
        };
        self.ends[place].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, reason: Reason) {
        let place = Reason::ALL.iter().position(|one| *one == reason).unwrap_or(0);
        self.ends[OTHERS.len() + place].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Counted {
        let refused = Reason::ALL.iter().map(|reason| ("refused", reason.as_str()));
        let words = OTHERS.into_iter().chain(refused);
        let ends = words.zip(&self.ends).map(|((outcome, reason), count)| {
            ([("outcome", outcome), ("reason", reason)], count.load(Ordering::Relaxed))
        });
        Counted {
            ends: ends.collect(),
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
        }
    }
}
