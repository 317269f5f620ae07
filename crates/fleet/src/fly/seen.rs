//! What was seen of cells lately, so that nobody asks Fly ten times a second, and who waits for one to be gone.
//! Never: an answer from memory that says that a cell is absent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use molt_bot::CellAddress;
use molt_model::BotId;
use tokio::sync::Notify;

/// While a cell boots it is looked at every 100 ms; Fly wants to be asked five times a second at most, and a cell that is
/// gone doesn't answer anyway.
const FRESH: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Seen(Mutex<HashMap<BotId, Present>>);

struct Present {
    address: CellAddress,
    at: Instant,
    /// Since when it is there without a break.
    since: Instant,
    gone: Arc<Notify>,
}

impl Seen {
    fn all(&self) -> MutexGuard<'_, HashMap<BotId, Present>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn present(&self, bot: &BotId, address: CellAddress) {
        let now = Instant::now();
        let mut all = self.all();
        let present = all.entry(bot.clone()).or_insert_with(|| Present {
            address: address.clone(),
            at: now,
            since: now,
            gone: Arc::default(),
        });
        (present.address, present.at) = (address, now);
    }

    pub(super) fn absent(&self, bot: &BotId) {
        if let Some(present) = self.all().remove(bot) {
            present.gone.notify_waiters();
        }
    }

    /// Its address, if it was seen a moment ago.
    pub(super) fn fresh(&self, bot: &BotId) -> Option<CellAddress> {
        let all = self.all();
        all.get(bot).filter(|present| present.at.elapsed() < FRESH).map(|present| present.address.clone())
    }

    pub(super) fn since(&self, bot: &BotId) -> Option<Instant> {
        self.all().get(bot).map(|present| present.since)
    }

    /// Resolves when the cell is noted as absent; at once when it is.
    pub(super) async fn gone(&self, bot: &BotId) {
        let Some(gone) = self.all().get(bot).map(|present| present.gone.clone()) else { return };
        let notified = gone.notified();
        tokio::pin!(notified);
        // From here on no notice is missed; one that came before left nothing in the table.
        notified.as_mut().enable();
        if self.all().get(bot).is_none_or(|present| !Arc::ptr_eq(&present.gone, &gone)) {
            return;
        }
        notified.await;
    }
}
