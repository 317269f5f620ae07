//! Idle connections to one provider, kept for the next call.
//! Never: a connection used under another runtime than its own, which would wake a foreign thread for every read.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};

use super::connect::Connection;

/// Providers close idle connections after a minute or more; a younger one is good.
const IDLE_MAX: Duration = Duration::from_secs(50);
/// Idle connections to one provider in one shard, which is mostly one runtime. Above it, what comes back is closed: a burst is over by then.
const CONNECTIONS_MAX: usize = 256;
/// More than the cores of most machines, so that threads seldom meet at a lock.
const SHARDS: usize = 16;

/// Each runtime finds its own connections; the last one that came back goes out first.
#[derive(Default)]
pub(super) struct Pool {
    shards: [Mutex<Vec<Idle>>; SHARDS],
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// A connection of this runtime that is young and quiet.
    pub(super) fn take(&self, now: Instant) -> Option<Connection> {
        let runtime = Handle::current().id();
        loop {
            let mut shard = self.shard(runtime);
            let at = shard.iter().rposition(|idle| idle.connection.runtime == runtime)?;
            let idle = shard.remove(at);
            drop(shard);
            if now.saturating_duration_since(idle.since) < IDLE_MAX && idle.connection.is_quiet() {
                return Some(idle.connection);
            }
        }
    }

    /// Takes a connection back whose answer was read to its end.
    pub(super) fn put(&self, mut connection: Connection, now: Instant) {
        connection.rest();
        let mut shard = self.shard(connection.runtime);
        if shard.len() < CONNECTIONS_MAX {
            shard.push(Idle { connection, since: now });
        }
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        for shard in &self.shards {
            let old: Vec<Idle> =
                lock(shard).extract_if(.., |idle| now.saturating_duration_since(idle.since) >= IDLE_MAX).collect();
            drop(old);
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, runtime: Id) -> MutexGuard<'_, Vec<Idle>> {
        let mut hasher = DefaultHasher::new();
        runtime.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[at])
    }
}

/// A thread that panicked elsewhere leaves the list as it was.
fn lock(shard: &Mutex<Vec<Idle>>) -> MutexGuard<'_, Vec<Idle>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
