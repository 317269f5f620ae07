//! The loop that ends a built-in plan's month: the next one begins, or the plan ends because it was cancelled, and its bots
//! are suspended. An outside provider says so itself, by its events.
//! Never: a gap between two periods, a period that begins early, or a plan that ends before its date.

use std::sync::Arc;

use molt_model::Clock;
use molt_store::{Store, StoreError};

/// Months that a run catches up at most, after a long rest of the installation.
const MONTHS_MAX: u32 = 120;
/// Plans that a run ends at most, a transaction each; the next run comes at once when there are more.
const ENDS_MAX: u32 = 100;

/// The loop and what it needs.
pub struct Renew {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl Renew {
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Renews or ends what is over. Returns how many periods began and plans ended. Safe in several processes.
    pub async fn run_once(&self) -> Result<u64, StoreError> {
        Ok(self.renew().await? + self.end().await?)
    }

    async fn renew(&self) -> Result<u64, StoreError> {
        let mut begun = 0;
        for _ in 0..MONTHS_MAX {
            let mut tx = self.store.system().await?;
            let count = tx.renew_local_plans(self.clock.now()).await?;
            tx.commit().await?;
            if count == 0 {
                break;
            }
            begun += count;
        }
        Ok(begun)
    }

    async fn end(&self) -> Result<u64, StoreError> {
        let mut ended = 0;
        for _ in 0..ENDS_MAX {
            let mut tx = self.store.system().await?;
            let Some((user, bots)) = tx.end_cancelled_plan(self.clock.now()).await? else { break };
            tx.commit().await?;
            tracing::info!(user.id = %user, bots.count = bots.len(), "a plan has ended; its bots are suspended");
            ended += 1;
        }
        Ok(ended)
    }
}
