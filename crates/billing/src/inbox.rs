//! The loop that turns verified payment events into plans. Each event is one transaction, locked while it is processed.
//! Never: an event twice, or an event dropped because it came at a bad moment.

use std::sync::Arc;

use chrono::TimeDelta;
use molt_model::{Clock, Time};
use molt_store::billing::InboxRow;
use molt_store::{Store, StoreError, SystemTx};

use crate::{CHECKOUT_ACCEPTED, PLAN_CANCELLED};

/// Events of one run; the next run comes at once when there are more.
const BATCH_MAX: u32 = 50;
/// An event that fails this often needs a person: its row keeps the reason.
const ATTEMPTS_MAX: i32 = 10;
const PAUSE: TimeDelta = TimeDelta::seconds(30);

/// What one run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub processed: u32,
    pub failed: u32,
}

/// An event that can't be processed as it is.
#[derive(Debug, thiserror::Error)]
enum Faulty {
    #[error("no such kind of event is known")]
    UnknownKind,
    #[error("the event's id isn't a checkout's")]
    NotACheckout,
    #[error("the event doesn't say whose plan it is about")]
    NobodysPlan,
    #[error("the database did not do its part")]
    Store(#[from] StoreError),
}

/// The loop and what it needs.
pub struct Inbox {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl Inbox {
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Processes what is due, at most a batch. Safe to run in several processes.
    pub async fn run_once(&self) -> Result<Counts, StoreError> {
        let mut counts = Counts::default();
        for _ in 0..BATCH_MAX {
            let now = self.clock.now();
            let mut tx = self.store.system().await?;
            let Some(row) = tx.lock_due_inbox(now).await? else { break };
            match process(&mut tx, &row, now).await {
                Ok(()) => {
                    tx.inbox_is_processed(&row, now).await?;
                    tx.commit().await?;
                    counts.processed += 1;
                }
                Err(Faulty::Store(error @ StoreError::Unavailable(_))) => return Err(error),
                Err(faulty) => {
                    // What was half done goes with the transaction; the reason is kept in one of its own.
                    drop(tx);
                    self.keep_failure(&row, &faulty, now).await?;
                    counts.failed += 1;
                }
            }
        }
        Ok(counts)
    }

    async fn keep_failure(&self, row: &InboxRow, faulty: &Faulty, now: Time) -> Result<(), StoreError> {
        let again = row.attempts + 1 < ATTEMPTS_MAX;
        if again {
            let error = faulty as &dyn std::error::Error;
            tracing::warn!(event.id = %row.event_id, error, "a payment event failed; trying again later");
        } else {
            let error = faulty as &dyn std::error::Error;
            tracing::error!(event.id = %row.event_id, error, "a payment event can't be processed");
        }
        let mut tx = self.store.system().await?;
        tx.inbox_has_failed(row, &faulty.to_string(), again.then_some(now + PAUSE)).await?;
        tx.commit().await
    }
}

async fn process(tx: &mut SystemTx, row: &InboxRow, now: Time) -> Result<(), Faulty> {
    match (row.provider.as_str(), row.kind.as_str()) {
        ("local", CHECKOUT_ACCEPTED) => accept_checkout(tx, row, now).await,
        ("local", PLAN_CANCELLED) => cancel_plan(tx, row, now).await,
        _ => Err(Faulty::UnknownKind),
    }
}

/// The plan is in force, and every bot that waited for it, or was suspended at its end, is wanted as before.
async fn accept_checkout(tx: &mut SystemTx, row: &InboxRow, now: Time) -> Result<(), Faulty> {
    let checkout = row.event_id.parse().map_err(|_| Faulty::NotACheckout)?;
    let Some(user) = tx.complete_checkout(checkout).await? else {
        tracing::info!("a checkout was accepted by somebody who is gone; nothing to do");
        return Ok(());
    };
    let bots = tx.activate_plan(user, "local", now).await?;
    tracing::info!(user.id = %user, bots.count = bots.len(), "a plan is in force");
    Ok(())
}

/// The plan stays in force until its period is over; `renew` ends it then.
async fn cancel_plan(tx: &mut SystemTx, row: &InboxRow, now: Time) -> Result<(), Faulty> {
    let user = row.body["user_id"].as_str().and_then(|id| id.parse().ok()).ok_or(Faulty::NobodysPlan)?;
    match tx.cancel_plan(user, now).await? {
        Some(ends_at) => tracing::info!(user.id = %user, plan.ends_at = %ends_at, "a plan was cancelled"),
        None => tracing::info!(user.id = %user, "a plan was cancelled that isn't in force; nothing to do"),
    }
    Ok(())
}
