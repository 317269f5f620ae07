//! Sees to it that the price book of every call is in the database before the call goes out: its row will name it.
//! Never: a call at prices that nobody could look up later.

use std::sync::{Arc, PoisonError, RwLock};

use molt_model::{Catalog, Time};
use molt_store::{Store, StoreError};
use serde_json::json;

pub(crate) struct Book {
    store: Store,
    /// The catalogue whose prices are known to be there.
    kept: RwLock<Option<Arc<Catalog>>>,
}

impl Book {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, kept: RwLock::default() }
    }

    /// In the steady state no more than a look.
    pub(crate) async fn keep(&self, catalog: &Arc<Catalog>, now: Time) -> Result<(), StoreError> {
        if self.is_kept(catalog) {
            return Ok(());
        }
        let prices = json!(catalog.prices());
        let mut tx = self.store.system().await?;
        tx.keep_price_book(&catalog.version.0, &prices, now).await?;
        tx.commit().await?;
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(catalog));
        Ok(())
    }

    fn is_kept(&self, catalog: &Arc<Catalog>) -> bool {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, catalog))
    }
}
