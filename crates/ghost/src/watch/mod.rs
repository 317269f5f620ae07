//! Notices bots that run in circles while their calls go by, and says so in the database, where every proxy sees it.
//! Never: a call that waits for this, a request kept, or an alarm about calls that no provider answered.

mod alike;
mod hash;
mod loops;
mod rounds;
mod spending;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::TimeDelta;
use molt_model::{BotId, Caution, Clock, Time};
use molt_store::watch::Sign;
use molt_store::{Store, StoreError};
use tokio::runtime::Handle;

use crate::admission::KeyEntry;
use crate::surface::Surface;
use alike::likeness;
use loops::Lately;

pub use rounds::{Looked, Rounds};

/// Bots that are remembered at one time, some kilobytes each. Those of the last ten minutes; more are not looked at.
const BOTS_MAX: usize = 4_096;
/// A bot's calls are looked at so often at most, so that looking costs the same however many there are. A circle shows in
/// a part of them just as well.
const LOOK_EVERY_MS: i64 = 250;
/// Reading a long request takes longer; the longer it is, the longer the rest after it: 1 MB, a quarter of a second.
const BYTES_PER_MS: usize = 4_096;
/// While a circle goes on, the newest sign is renewed this often.
const SAY_AGAIN: TimeDelta = TimeDelta::minutes(1);

/// All bots of this process.
pub(crate) struct Watch {
    store: Store,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    bots: Mutex<HashMap<BotId, Watched>>,
}

#[derive(Default)]
struct Watched {
    lately: Lately,
    said: Option<(Caution, Time)>,
}

/// When a key's calls are to be looked at next, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct NextLook(AtomicI64);

impl NextLook {
    /// At most one of those who ask at the same time may.
    fn may(&self, now_ms: i64, rest_ms: i64) -> bool {
        let due = |next: i64| (now_ms >= next).then_some(now_ms.saturating_add(rest_ms));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }
}

impl Watch {
    /// Needs a tokio runtime, on which whatever was noticed is written down.
    pub(crate) fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, runtime: Handle::current(), bots: Mutex::default() }
    }

    /// A provider has begun to answer this request.
    pub(crate) fn answered(self: &Arc<Self>, entry: &KeyEntry, surface: Surface, body: &[u8]) {
        let Some(bot) = entry.bot.as_ref().filter(|_| surface.speaks()) else { return };
        let now = self.clock.now();
        let rest = LOOK_EVERY_MS + i64::try_from(body.len() / BYTES_PER_MS).unwrap_or(i64::MAX);
        if !entry.next_look.may(now.timestamp_millis(), rest) {
            return;
        }
        let Some(likeness) = likeness(body) else { return };
        let mut bots = self.bots();
        if bots.len() >= BOTS_MAX && !bots.contains_key(bot) {
            bots.retain(|_, watched| !watched.lately.is_over(now));
            if bots.len() >= BOTS_MAX {
                return;
            }
        }
        let watched = bots.entry(bot.clone()).or_default();
        let Some(judgement) = watched.lately.add(likeness, entry.resumed_at, now) else { return };
        let is_news = watched.said.is_none_or(|(said, at)| {
            judgement.caution > said || now - at >= SAY_AGAIN || entry.resumed_at.is_some_and(|resumed| resumed >= at)
        });
        if !is_news {
            return;
        }
        watched.said = Some((judgement.caution, now));
        drop(bots);
        let sign = Sign { caution: judgement.caution, reason: judgement.sentence(), since: judgement.since };
        let (watch, bot) = (Arc::clone(self), bot.clone());
        self.runtime.spawn(async move { watch.say(&bot, &sign, now).await });
    }

    async fn say(&self, bot: &BotId, sign: &Sign, now: Time) {
        match self.note(bot, sign, now).await {
            Ok(Some(caution)) => {
                tracing::info!(bot.id = %bot, caution = caution.as_str(), "a bot runs in circles; its owner was told");
            }
            Ok(None) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, bot.id = %bot, "what was noticed about a bot can't be written down just now");
                // The next call tries again.
                if let Some(watched) = self.bots().get_mut(bot) {
                    watched.said = None;
                }
            }
        }
    }

    async fn note(&self, bot: &BotId, sign: &Sign, now: Time) -> Result<Option<Caution>, StoreError> {
        let mut tx = self.store.system().await?;
        let noted = tx.note_sign(bot, sign, now).await?;
        tx.commit().await?;
        Ok(noted)
    }

    fn bots(&self) -> MutexGuard<'_, HashMap<BotId, Watched>> {
        self.bots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
