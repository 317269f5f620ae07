//! What was refused, gathered in memory and written down in sums, so that a program that tries again and again costs no more
//! than one that tries once.
//! Never: a row for each try, or memory that grows with what a bot asks for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use molt_model::egress::{Place, Reason};
use molt_model::{BotId, Clock};
use molt_store::egress::Refused;
use molt_store::{Store, StoreError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A program that meets one refusal often meets some more at once; they are written together.
const GATHER: Duration = Duration::from_millis(250);
/// Of one bot nothing is written again for so long.
const REST: Duration = Duration::from_secs(2);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Places and ports of one bot between two writes; what is beyond stands in the metrics only.
const PLACES_MAX: usize = 64;
/// Bots with something to write, or at rest.
const BOTS_MAX: usize = 4_096;

pub(super) struct Refusals {
    gathered: Arc<Gathered>,
    stop: CancellationToken,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Gathered {
    store: Store,
    clock: Arc<dyn Clock>,
    bots: Mutex<HashMap<BotId, Batch>>,
    wake: Notify,
}

/// What is to be written of one bot.
#[derive(Default)]
struct Batch {
    places: HashMap<(String, u16), Refused>,
    /// When it is to be written, if there is something; else until when it rests.
    due: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Refusals {
    pub(super) fn start(store: Store, clock: Arc<dyn Clock>) -> Self {
        let (wake, bots) = (Notify::new(), Mutex::default());
        let gathered = Arc::new(Gathered { store, clock, bots, wake });
        let stop = CancellationToken::new();
        let writer = tokio::spawn(write(Arc::clone(&gathered), stop.clone()));
        Self { gathered, stop, writer: Mutex::new(Some(writer)) }
    }

    pub(super) fn note(&self, bot: &BotId, place: &Place, port: u16, reason: Reason, quiet: bool) {
        let (at, now) = (self.gathered.clock.now(), Instant::now());
        let place = place.to_string();
        let one = Refused { place: place.clone(), port, reason, count: 1, first_at: at, last_at: at, quiet };
        let mut bots = self.gathered.bots();
        if bots.len() >= BOTS_MAX && !bots.contains_key(bot) {
            return;
        }
        let batch = bots.entry(bot.clone()).or_default();
        batch.add(one);
        if batch.due.is_none() {
            batch.due = Some(batch.rests_until.map_or(now + GATHER, |until| until.max(now + GATHER)));
            self.gathered.wake.notify_one();
        }
    }

    /// Writes what is left.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.await;
        }
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Batch {
    fn add(&mut self, one: Refused) {
        let key = (one.place.clone(), one.port);
        if let Some(known) = self.places.get_mut(&key) {
            known.count += one.count;
            known.reason = one.reason;
            known.first_at = known.first_at.min(one.first_at);
            known.last_at = known.last_at.max(one.last_at);
        } else if self.places.len() < PLACES_MAX {
            self.places.insert(key, one);
        }
    }
}

impl Gathered {
    /// What is due, taken out; and when the next thing is.
    fn take(&self, now: Instant, all: bool) -> (Vec<(BotId, Vec<Refused>)>, Option<Instant>) {
        let mut bots = self.bots();
        bots.retain(|_, batch| batch.due.is_some() || batch.rests_until.is_some_and(|until| until > now));
        let (mut taken, mut next) = (Vec::new(), None);
        for (bot, batch) in bots.iter_mut() {
            match batch.due {
                Some(due) if due <= now || all => {
                    let places = std::mem::take(&mut batch.places);
                    (batch.due, batch.rests_until) = (None, Some(now + REST));
                    taken.push((bot.clone(), places.into_values().collect()));
                }
                Some(due) => next = Some(next.map_or(due, |next: Instant| next.min(due))),
                None => {}
            }
        }
        (taken, next)
    }

    fn put_back(&self, bot: &BotId, refused: Vec<Refused>, now: Instant) {
        let mut bots = self.bots();
        let batch = bots.entry(bot.clone()).or_default();
        refused.into_iter().for_each(|one| batch.add(one));
        batch.due = Some(now + RETRY);
    }

    async fn note(&self, bot: &BotId, refused: &[Refused]) -> Result<usize, StoreError> {
        let mut tx = self.store.system().await?;
        let told = tx.note_refusals(bot, refused, self.clock.now()).await?;
        tx.commit().await?;
        Ok(told)
    }

    /// One round; when the next one is due.
    async fn write(&self, all: bool) -> Option<Instant> {
        let (taken, mut next) = self.take(Instant::now(), all);
        for (bot, refused) in taken {
            match self.note(&bot, &refused).await {
                Ok(0) => {}
                Ok(_) => tracing::info!(bot.id = %bot, "a bot was refused a way out; its owner was told"),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(bot.id = %bot, error, "refused ways out can't be written down just now");
                    let now = Instant::now();
                    self.put_back(&bot, refused, now);
                    next = Some(next.map_or(now + RETRY, |next| next.min(now + RETRY)));
                }
            }
        }
        next
    }

    fn bots(&self) -> MutexGuard<'_, HashMap<BotId, Batch>> {
        self.bots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write(gathered: Arc<Gathered>, stop: CancellationToken) {
    loop {
        let next = gathered.write(false).await;
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = gathered.wake.notified() => {}
            () = stop.cancelled() => break,
        }
    }
    gathered.write(true).await;
}
