//! Keeps the catalogue of a running process at the prices in force: the operator's newest list, or the program's own.
//! Never: a catalogue in force whose price book isn't in the database, or a broken list that takes the place of a good one.

pub mod command;
pub mod list;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use molt_model::{Catalog, CatalogInForce, Clock};
use molt_store::prices::StoredBook;
use molt_store::{Channel, Store, SystemTx};
use serde_json::json;

use crate::config::Offer;
use crate::tasks::{Schedule, Tasks};
use list::PriceList;

/// The net under the wake-up; an imported list is in force within a second as long as the database's wake-ups arrive.
const PERIOD: Duration = Duration::from_secs(30);

/// What a catalogue was made of, so that nothing is made anew for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Basis {
    /// None: the program's own list.
    list_number: Option<i64>,
    keyed: BTreeSet<String>,
}

/// The loop that makes the catalogue anew when a list was imported or keys came and went.
#[derive(Clone)]
pub struct Prices(Arc<Inner>);

struct Inner {
    offer: Offer,
    holds_keys: bool,
    store: Store,
    clock: Arc<dyn Clock>,
    in_force: CatalogInForce,
    basis: Mutex<Basis>,
}

impl Prices {
    /// The first catalogue, with its book kept. A proxy says which providers it has keys for.
    /// Idempotent; an error is one of the settings, or of the database.
    pub async fn open(offer: &Offer, holds_keys: bool, store: Store, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let mut tx = store.system().await?;
        if holds_keys {
            tx.say_keyed_providers(&offer.keyed(), clock.now()).await?;
        }
        let basis = basis(&mut tx, offer, holds_keys).await?;
        let catalog = catalog(&mut tx, offer, &basis, clock.as_ref()).await?;
        tx.commit().await?;
        let in_force = CatalogInForce::new(catalog);
        let basis = Mutex::new(basis);
        Ok(Self(Arc::new(Inner { offer: offer.clone(), holds_keys, store, clock, in_force, basis })))
    }

    /// The catalogue for everybody in this process.
    #[must_use]
    pub fn catalog(&self) -> CatalogInForce {
        self.0.in_force.clone()
    }

    /// Makes the catalogue anew if something changed; answers how many it made. What can't be made leaves the old one.
    pub async fn run_once(&self) -> anyhow::Result<u64> {
        let inner = &self.0;
        let mut tx = inner.store.system().await?;
        let basis = basis(&mut tx, &inner.offer, inner.holds_keys).await?;
        if basis == *inner.basis.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(0);
        }
        let made = catalog(&mut tx, &inner.offer, &basis, inner.clock.as_ref()).await;
        let catalog =
            made.context("the list of prices in the database can't be used; the one before stays in force")?;
        tx.commit().await?;
        tracing::info!(version = catalog.version.0, "other prices or models are in force");
        inner.in_force.replace(catalog);
        *inner.basis.lock().unwrap_or_else(PoisonError::into_inner) = basis;
        Ok(1)
    }

    /// Runs beside the other loops.
    pub fn spawn(&self, tasks: &Tasks) {
        let schedule = Schedule { name: "prices", period: PERIOD, wakes: |channel| *channel == Channel::Prices };
        let prices = self.clone();
        tasks.spawn(schedule, move || {
            let prices = prices.clone();
            async move { prices.run_once().await }
        });
    }
}

async fn basis(tx: &mut SystemTx, offer: &Offer, holds_keys: bool) -> anyhow::Result<Basis> {
    let keyed = if holds_keys { offer.keyed() } else { tx.keyed_providers().await? };
    Ok(Basis { list_number: tx.price_list_number().await?, keyed })
}

/// The list in force: the newest imported one, or the program's own.
pub async fn list_in_force(tx: &mut SystemTx) -> anyhow::Result<PriceList> {
    match tx.price_list().await? {
        Some(stored) => PriceList::stored(stored.list),
        None => Ok(PriceList::built_in()),
    }
}

/// The catalogue of the list in force. Its book is kept first, so that a usage row can name it.
async fn catalog(tx: &mut SystemTx, offer: &Offer, basis: &Basis, clock: &dyn Clock) -> anyhow::Result<Catalog> {
    let list = list_in_force(tx).await?;
    let catalog = offer.catalog(&list, &basis.keyed)?;
    tx.keep_book(&book(&catalog, &list, clock)).await?;
    Ok(catalog)
}

fn book(catalog: &Catalog, list: &PriceList, clock: &dyn Clock) -> StoredBook {
    StoredBook {
        version: catalog.version.0.clone(),
        prices: json!(catalog.prices()),
        list_version: Some(list.version()),
        dated: Some(list.date),
        source: Some(list.source.clone()),
        created_at: clock.now(),
    }
}
