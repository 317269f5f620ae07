//! The keys in memory, by their hash or by their bot: read by every call, loaded once by the first.
//! Never: a key in clear, an entry that was read before a change and counts as read after it, or a table that strangers fill.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use molt_model::{BotId, Time, UserId};
use tokio::sync::watch;
use tokio::time::Instant;

use super::KeyEntry;

/// How a caller is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Known {
    /// By a key; the form in which it rests.
    Key([u8; 32]),
    /// By the gate that it came through: the key in force of the bot behind it counts.
    Bot(BotId),
}

/// An unknown key isn't looked up again for so long.
const STRANGER_REST: Duration = Duration::from_secs(1);
/// Look-ups of keys that turn out to be unknown, a second. A flood of wrong keys costs the database no more than that.
const STRANGERS_PER_SECOND: u32 = 200;
/// An entry that wasn't used for so many ticks (ten minutes) is dropped.
const DROPPED_AFTER_TICKS: u64 = 120;
/// An entry in use is read anew after so many ticks (30 seconds), in case a wake-up was lost.
const REREAD_AFTER_TICKS: u64 = 6;

/// How a look-up ended.
#[derive(Clone, Debug)]
pub(crate) enum Loaded {
    Entry(Arc<KeyEntry>),
    Unknown,
    /// The database didn't answer.
    Away,
}

/// A look-up under way; everybody who wants the same key waits for the same one.
pub(crate) type Loading = watch::Receiver<Option<Loaded>>;

#[derive(Default)]
pub(crate) struct Table {
    entries: RwLock<HashMap<Known, Arc<KeyEntry>>>,
    loading: Mutex<HashMap<Known, Loading>>,
    strangers: Mutex<Strangers>,
    /// Counts changes. What was begun to be read before one may be older than it.
    changes: AtomicU64,
    /// The newest look-up wasn't answered.
    pub(crate) away: AtomicBool,
}

#[derive(Default)]
struct Strangers {
    recent: HashMap<Known, Instant>,
    since: Option<Instant>,
    count: u32,
}

impl Table {
    pub(crate) fn get(&self, known: &Known) -> Option<Arc<KeyEntry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(known).cloned()
    }

    /// What is known of this person's keys is old; of everybody's without one.
    pub(crate) fn invalidate(&self, user: Option<UserId>) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.values().filter(|entry| user.is_none_or(|user| entry.user == user)) {
            entry.stale.store(true, Ordering::Release);
        }
    }

    /// To be asked before a look-up begins.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Puts in what was read, or takes out what is no more. `changes`: as they were before it was read.
    pub(crate) fn put(&self, known: Known, loaded: &Loaded, changes: u64) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Loaded::Entry(entry) => {
                if self.changes() != changes {
                    entry.stale.store(true, Ordering::Release);
                }
                entries.insert(known, Arc::clone(entry));
            }
            Loaded::Unknown => {
                entries.remove(&known);
            }
            Loaded::Away => {}
        }
        drop(entries);
        self.away.store(matches!(loaded, Loaded::Away), Ordering::Release);
    }

    /// The look-up that is under way, or the one that `begin` starts.
    pub(crate) fn join(&self, known: Known, begin: impl FnOnce(watch::Sender<Option<Loaded>>)) -> Loading {
        let mut loading = self.loading();
        if let Some(receiver) = loading.get(&known) {
            return receiver.clone();
        }
        let (sender, receiver) = watch::channel(None);
        loading.insert(known, receiver.clone());
        drop(loading);
        begin(sender);
        receiver
    }

    pub(crate) fn ended(&self, known: &Known) {
        self.loading().remove(known);
    }

    /// Whether a key that isn't in the table may be looked up now: `Ok(false)` when it was unknown a moment ago.
    pub(crate) fn may_look_up(&self, known: &Known, now: Instant) -> Result<bool, TooManyStrangers> {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.since.is_none_or(|since| now >= since + STRANGER_REST) {
            (strangers.since, strangers.count) = (Some(now), 0);
            strangers.recent.retain(|_, until| *until > now);
        }
        if strangers.recent.get(known).is_some_and(|until| *until > now) {
            return Ok(false);
        }
        if strangers.count >= STRANGERS_PER_SECOND {
            return Err(TooManyStrangers);
        }
        strangers.count += 1;
        Ok(true)
    }

    /// What a look-up of a key that wasn't in the table found: known ones don't count.
    pub(crate) fn looked_up(&self, known: Known, loaded: &Loaded, now: Instant) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Loaded::Entry(_) => strangers.count = strangers.count.saturating_sub(1),
            // Bounded: each second adds no more than are let through.
            Loaded::Unknown => {
                strangers.recent.insert(known, now + STRANGER_REST);
            }
            Loaded::Away => {}
        }
    }

    /// Drops what nobody uses; the keys that are in use and were read a while ago.
    pub(crate) fn sweep(&self, tick: u64) -> Vec<Known> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let age = |since: &AtomicU64| tick.saturating_sub(since.load(Ordering::Relaxed));
        entries.retain(|_, entry| age(&entry.used) < DROPPED_AFTER_TICKS);
        let old = |entry: &KeyEntry| {
            tick.saturating_sub(entry.read_at) >= REREAD_AFTER_TICKS && age(&entry.used) < REREAD_AFTER_TICKS
        };
        entries.iter().filter(|(_, entry)| old(entry)).map(|(known, _)| known.clone()).collect()
    }

    fn loading(&self) -> MutexGuard<'_, HashMap<Known, Loading>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// More unknown keys a second than are looked up.
#[derive(Debug)]
pub(crate) struct TooManyStrangers;

impl KeyEntry {
    /// It may decide about a call.
    pub(crate) fn is_current(&self, now: Time) -> bool {
        !self.stale.load(Ordering::Acquire) && now < self.period_end
    }
}
