//! What every handler can reach: the database, the clock, the catalogue and the few outside systems.
//! Never: a secret, or anything that changes while the program runs except through the database.

use std::sync::Arc;

use molt_billing::Payments;
use molt_identity::{Local, Verifier};
use molt_model::{CatalogInForce, Clock, Time};
use molt_store::Store;

use crate::chat::Relays;
use crate::config::Config;

/// Says what isn't ready yet, one sentence each; empty: ready. `GET /readyz` asks, besides the database.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Shared by all requests; cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub catalog: CatalogInForce,
    /// Checks session tokens, whoever signed them.
    pub verifier: Arc<Verifier>,
    /// The built-in identity, if it is the one in force.
    pub local_identity: Option<Arc<Local>>,
    pub payments: Arc<dyn Payments>,
    pub config: Arc<Config>,
    pub readiness: Readiness,
    /// The chats of this process; `relays.start()` delivers what waits even without a browser.
    pub relays: Relays,
}

impl ApiState {
    /// An installation with built-in identity and the given payments; always ready as soon as the database answers.
    pub fn local(
        store: Store,
        clock: Arc<dyn Clock>,
        catalog: CatalogInForce,
        identity: Arc<Local>,
        payments: Arc<dyn Payments>,
        config: Config,
    ) -> Self {
        Self {
            relays: Relays::new(store.clone(), clock.clone()),
            store,
            clock,
            catalog,
            verifier: Arc::new(Verifier::new(identity.clone())),
            local_identity: Some(identity),
            payments,
            config: Arc::new(config),
            readiness: Arc::new(Vec::new),
        }
    }

    #[must_use]
    pub fn with_readiness(self, readiness: Readiness) -> Self {
        Self { readiness, ..self }
    }

    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }
}
