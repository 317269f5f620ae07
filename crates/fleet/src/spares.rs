//! Places that are kept made for nobody, so that the next bot finds its own there: how many there are, and how they come to be.
//! Never: a bot or a round that waits for one, a call to the host about one that has no row, or one that anything ever ran in.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::TimeDelta;
use molt_model::{BotId, Time};
use molt_store::SystemTx;
use molt_store::spares::Spare;
use tokio::task::{Id, JoinSet};

use crate::error::FleetError;
use crate::host::Used;
use crate::reconcile::Shared;

/// Spares that are being made at the same time: whoever waits for a bot comes first.
const AT_ONCE: usize = 4;
/// After one could not be made. It doubles up to the last, so that a host that is away or full is asked ever more rarely, and
/// by one of them alone.
const PAUSE_FIRST: TimeDelta = TimeDelta::seconds(10);
const PAUSE_LAST: TimeDelta = TimeDelta::minutes(10);
const DOUBLINGS_MAX: u32 = 6;
/// A list of what a host holds may be older than it looks; what was made since so long before is expected in it.
const LISTING_LAG: TimeDelta = TimeDelta::minutes(1);

/// The spares that this fleet is making. Dropped, what is under way is cut off; the next fleet finds the row.
#[derive(Default)]
pub(crate) struct Making {
    tasks: JoinSet<Result<(), FleetError>>,
    ids: HashMap<Id, BotId>,
    trouble: Option<Trouble>,
}

/// The last one was not made.
struct Trouble {
    failures: u32,
    until: Time,
}

impl Making {
    pub(crate) async fn end(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Fills up what is missing: rows first, then what belongs to them, beside the rounds.
    pub(crate) async fn keep_up(&mut self, shared: &Arc<Shared>) -> Result<(), FleetError> {
        let wanted = shared.spares_wanted();
        if wanted == 0 {
            return Ok(());
        }
        self.reap(shared.clock.now());
        let spares = shared.spares(wanted).await?;
        self.begin(shared, spares.into_iter().filter(|spare| !spare.made).map(|spare| spare.id).collect());
        Ok(())
    }

    fn reap(&mut self, now: Time) {
        while let Some(done) = self.tasks.try_join_next_with_id() {
            match done {
                Ok((task, made)) => {
                    self.ids.remove(&task);
                    match made {
                        Ok(()) => self.trouble = None,
                        Err(error) => self.fail(&error, now),
                    }
                }
                Err(error) => {
                    self.ids.remove(&error.id());
                    self.fail(&error, now);
                }
            }
        }
    }

    /// Said once. What fails together is one failure.
    fn fail(&mut self, error: &(dyn std::error::Error + 'static), now: Time) {
        if self.trouble.as_ref().is_some_and(|trouble| now < trouble.until) {
            return;
        }
        let failures = self.trouble.as_ref().map_or(0, |trouble| trouble.failures);
        if failures == 0 {
            tracing::warn!(
                error,
                "a spare place was not made; it is tried again ever more rarely, and without one a new bot's start takes longer"
            );
        }
        let until = now + (PAUSE_FIRST * (1 << failures.min(DOUBLINGS_MAX))).min(PAUSE_LAST);
        self.trouble = Some(Trouble { failures: failures + 1, until });
    }

    fn begin(&mut self, shared: &Arc<Shared>, mut unmade: Vec<BotId>) {
        let (at_once, turn) = match &self.trouble {
            None => (AT_ONCE, 0),
            Some(trouble) if shared.clock.now() < trouble.until => return,
            // Each in its turn, so that one that can't be made is not in the way of the others.
            Some(trouble) => (1, trouble.failures as usize),
        };
        unmade.retain(|id| !self.ids.values().any(|busy| busy == id));
        if unmade.is_empty() {
            return;
        }
        let first = turn % unmade.len();
        unmade.rotate_left(first);
        for id in unmade.into_iter().take(at_once.saturating_sub(self.tasks.len())) {
            let (shared, spare) = (shared.clone(), id.clone());
            let task = self.tasks.spawn(async move {
                let made = shared.make_spare(&spare).await;
                // The next one takes its place, or it is tried again.
                shared.wake.notify_one();
                made
            });
            self.ids.insert(task.id(), id);
        }
    }
}

impl Shared {
    /// How many are kept. None at a host that makes nothing ahead.
    pub(crate) fn spares_wanted(&self) -> usize {
        if self.host.prepares().is_some() { self.config.keep_spare as usize } else { 0 }
    }

    /// What a fleet does first: nobody knows what became of a place since its row was written, if the row is from a backup.
    pub(crate) async fn take_over_spares(&self, system: &mut SystemTx) -> Result<(), FleetError> {
        match self.spares_wanted() {
            0 => system.level_spares(0, &[]).await?,
            _ => system.spares_are_unsure().await?,
        }
        Ok(())
    }

    /// All of them, as many as are wanted.
    async fn spares(&self, wanted: usize) -> Result<Vec<Spare>, FleetError> {
        let (count, more) = (rows(wanted), rows(wanted.saturating_add(1)));
        let mut system = self.store.system().await?;
        let spares = system.spares(more).await?;
        if spares.len() == wanted {
            return Ok(spares);
        }
        let drawn: Vec<BotId> = (spares.len()..wanted).map(|_| BotId::random()).collect();
        system.level_spares(count, &drawn).await?;
        let spares = system.spares(count).await?;
        system.commit().await?;
        Ok(spares)
    }

    /// Makes the place that a row speaks of, which may be there, in part or whole. One in which a cell was ever started may hold
    /// somebody's state: then a backup was restored, and the sweeper does with it as with all that has no row.
    async fn make_spare(&self, id: &BotId) -> Result<(), FleetError> {
        let Some(host) = self.host.prepares() else { return Ok(()) };
        let unused = host.used(id).await? == Used::Never;
        if unused {
            host.prepare(id).await?;
        }
        let mut system = self.store.system().await?;
        if unused {
            system.spare_is_made(id, self.clock.now()).await?;
        } else if system.drop_spare(id).await? {
            tracing::warn!(bot.id = %id, "a spare place was used before and is given to nobody: was a backup restored?");
        }
        Ok(system.commit().await?)
    }

    /// Has those made anew that the host doesn't hold any more. `asked`: when it was asked what it holds.
    pub(crate) async fn miss_spares(
        &self,
        system: &mut SystemTx,
        held: &[BotId],
        asked: Time,
    ) -> Result<(), FleetError> {
        if self.spares_wanted() > 0 && system.spares_are_missed(held, asked - LISTING_LAG).await? > 0 {
            tracing::info!("spare places are gone; they are made anew");
            self.wake.notify_one();
        }
        Ok(())
    }
}

fn rows(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
