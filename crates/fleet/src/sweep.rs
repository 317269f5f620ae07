//! The sweeper: what the host holds against what the rows say, now and then, for everything that no wake-up tells of.
//! Never: unbounded work in one go, decisions about a bot that has a row (it only has the plan look), or a removal of what
//! belongs to another database.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};
use molt_model::BotId;

use crate::error::FleetError;
use crate::host::{HostError, Report};
use crate::reconcile::Shared;
use crate::start::is_ours;

/// Bots without a row that are removed in one sweep; the next one goes on.
const ORPHANS_MAX: usize = 64;
/// Calls to the host at the same time: one that hangs doesn't delay the others.
const CALLS_AT_ONCE: usize = 8;
/// Bots at rest that are looked at in one sweep.
const RESTING_MAX: i64 = 64;
/// Bots that are made due in one sweep.
const DUE_MAX: i64 = 256;

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Things at the host that belong to no row.
    pub removed: usize,
    /// Bots that the fleet will look at.
    pub made_due: u64,
}

pub(crate) async fn sweep(shared: &Shared) -> Result<Swept, FleetError> {
    let mut swept = Swept::default();
    if shared.closing.load(Ordering::SeqCst) {
        return Ok(swept);
    }
    let mut system = shared.store.system().await?;
    let installation = system.installation().await?;
    swept.made_due += system.forgotten_bots_are_due(shared.clock.now(), DUE_MAX).await?;
    system.commit().await?;
    // Asked before the rows are: a row is there before its cell, so what has none now never will.
    let asked = shared.clock.now();
    let held = shared.host.list().await?;
    let mut system = shared.store.system().await?;
    shared.miss_spares(&mut system, &held, asked).await?;
    swept.made_due += system.bots_without_cell_are_due(&held, shared.clock.now(), DUE_MAX).await?;
    let known = system.bots_with_row(&held).await?;
    system.commit().await?;
    if is_ours(shared, installation).map_err(HostError::Unexpected)? {
        let orphans: Vec<BotId> = held.into_iter().filter(|bot| !known.contains(bot)).take(ORPHANS_MAX).collect();
        let removals = stream::iter(orphans).map(|orphan| async move { remove_orphan(shared, &orphan).await });
        let removed: Vec<bool> = removals.buffer_unordered(CALLS_AT_ONCE).collect().await;
        swept.removed = removed.into_iter().filter(|removed| *removed).count();
    }
    swept.made_due += look_at_resting(shared, &known).await?;
    if swept.made_due > 0 {
        shared.wake.notify_one();
    }
    Ok(swept)
}

async fn remove_orphan(shared: &Shared, orphan: &BotId) -> bool {
    let buried = async {
        let mut system = shared.store.system().await?;
        system.is_buried(orphan).await
    };
    let buried = buried.await.unwrap_or_default();
    match shared.host.stop(orphan, true).await {
        Ok(()) => {
            tracing::info!(bot.id = %orphan, deleted_before = buried, "removed what was left of a bot that has no row");
            true
        }
        Err(error) => {
            tracing::warn!(bot.id = %orphan, error = &error as &dyn std::error::Error,
                "what is left of a bot that is gone can't be removed yet; the next sweep tries again");
            false
        }
    }
}

/// A row may say that no cell runs while one does: after a crash in the middle, or when a call was answered long after
/// anybody waited for it.
async fn look_at_resting(shared: &Shared, held: &[BotId]) -> Result<u64, FleetError> {
    let after = shared.swept_to.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut system = shared.store.system().await?;
    let resting = system.held_bots_at_rest(held, &after, RESTING_MAX).await?;
    system.commit().await?;
    let full = i64::try_from(resting.len()).is_ok_and(|count| count == RESTING_MAX);
    let next = resting.last().filter(|_| full).map(|bot| bot.as_str().to_owned()).unwrap_or_default();
    *shared.swept_to.lock().unwrap_or_else(PoisonError::into_inner) = next;
    let mut made_due = 0;
    let looks = stream::iter(resting).map(|bot| async move {
        let report = shared.host.inspect(&bot).await;
        (bot, report)
    });
    let looks: Vec<_> = looks.buffer_unordered(CALLS_AT_ONCE).collect().await;
    for (bot, report) in looks {
        if matches!(report, Ok(Report::Present { .. })) {
            tracing::info!(bot.id = %bot, "a bot that rests has a cell; it is looked at");
            shared.ails(bot);
            made_due += 1;
        }
    }
    Ok(made_due)
}
