//! The loop that looks at what bots used lately, and lets the caution go down where nothing happened for a while.
//! Never: a look at all bots; only at those with calls since the last round.

use std::sync::Arc;

use chrono::TimeDelta;
use molt_model::{BotId, Caution, Clock, Time};
use molt_store::{Store, StoreError};

use super::spending::judge;

/// A bot's usual hour is made of these.
const LOOK_BACK: TimeDelta = TimeDelta::days(14);
/// Without a sign for so long, the caution goes down a step.
const CALM_AFTER: TimeDelta = TimeDelta::minutes(30);
/// Of one round; each costs a few indexed rows.
const BOTS_PER_ROUND: usize = 200;

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    pub bots: u64,
    /// Bots that went up a step.
    pub noticed: u64,
    /// Bots that went down a step.
    pub calmed: u64,
    /// There are more bots to look at.
    pub more: bool,
}

/// The loop and what it needs.
pub struct Rounds {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl Rounds {
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Looks at each bot with calls since the last round, a bounded number of them. Safe to run in several processes and to
    /// repeat: a step is taken once, and what grew meanwhile is looked at again.
    pub async fn run_once(&self) -> Result<Looked, StoreError> {
        let now = self.clock.now();
        let limit = i64::try_from(BOTS_PER_ROUND).expect("a small number");
        let mut tx = self.store.system().await?;
        let calmed = tx.calm_down(now - CALM_AFTER, limit, now).await?;
        tx.commit().await?;
        let mut tx = self.store.system().await?;
        let bots = tx.bots_to_look_at(limit).await?;
        tx.commit().await?;
        let mut looked = Looked { calmed, more: bots.len() == BOTS_PER_ROUND, ..Looked::default() };
        for bot in &bots {
            let noted = self.look_at(bot, now).await?;
            looked.bots += 1;
            if let Some(caution) = noted {
                looked.noticed += 1;
                tracing::info!(bot.id = %bot, caution = caution.as_str(), "a bot's use is unusual; its owner was told");
            }
        }
        Ok(looked)
    }

    async fn look_at(&self, bot: &BotId, now: Time) -> Result<Option<Caution>, StoreError> {
        let mut tx = self.store.system().await?;
        let used = tx.use_of(bot, now - LOOK_BACK).await?;
        let noted = match judge(&used, now) {
            Some(sign) => tx.note_sign(bot, &sign, now).await?,
            None => None,
        };
        tx.hours_are_seen(bot, &used.hours).await?;
        tx.commit().await?;
        Ok(noted)
    }
}
