//! What is counted of one provider on the network, and how it stands.
//! Never: a key, or anything that a caller sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::keyring::Standing;
use super::provider::Provider;
use super::scrub::Trouble;

#[derive(Default)]
pub(super) struct Tally {
    attempts: AtomicU64,
    retries: AtomicU64,
    connections: AtomicU64,
    failed: [AtomicU64; REASONS.len()],
}

/// Why attempts come to nothing, as the label `reason` says it.
const REASONS: [&str; 5] = ["key_refused", "busy", "request_refused", "away", "not_sent"];

/// How one provider does: counts since the start, and its state now.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) provider: String,
    pub(crate) attempts: u64,
    pub(crate) retries: u64,
    pub(crate) connections: u64,
    /// By reason.
    pub(crate) failed: [(&'static str, u64); REASONS.len()],
    pub(crate) breaker_open: bool,
    pub(crate) keys: Standing,
}

impl Tally {
    /// A request is on its way.
    pub(super) fn leaves(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A call tries again here.
    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, trouble: &Trouble) {
        let reason = match trouble {
            Trouble::Key { .. } => 0,
            Trouble::Busy(_) => 1,
            Trouble::Caller(_) => 2,
            Trouble::Away { .. } => 3,
            Trouble::Here => 4,
        };
        self.failed[reason].fetch_add(1, Ordering::Relaxed);
    }
}

impl Provider {
    pub(super) fn health(&self, now: Instant) -> Health {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let tally = &self.tally;
        Health {
            provider: self.name.clone(),
            attempts: read(&tally.attempts),
            retries: read(&tally.retries),
            connections: read(&tally.connections),
            failed: std::array::from_fn(|at| (REASONS[at], read(&tally.failed[at]))),
            breaker_open: self.breaker.is_open(),
            keys: self.keys.standing(now),
        }
    }
}
