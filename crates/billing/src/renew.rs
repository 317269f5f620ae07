//! The loop that begins the next month of built-in plans. An outside provider says so itself, by its events.
//! Never: a gap between two periods, or a period that begins early.

use std::sync::Arc;

use molt_model::Clock;
use molt_store::{Store, StoreError};

/// Months that a run catches up at most, after a long rest of the installation.
const MONTHS_MAX: u32 = 120;

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

    /// Renews what is over. Returns how many periods began.
    pub async fn run_once(&self) -> Result<u64, StoreError> {
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
}
