//! The built-in identity: e-mail and password, or a link by mail; short-lived signed tokens and a rotating refresh token.
//! Never: a different answer, or a different time to answer, for an e-mail address that is unknown.

mod keys;

use std::sync::Arc;

use jsonwebtoken::jwk::JwkSet;
use molt_model::Clock;
use molt_store::Store;

use crate::{Answer, Config, Identity, Result};

/// `iss` and `aud` of the built-in identity's tokens, and `users.issuer` of its people.
pub(crate) const ISSUER: &str = "molt";

/// The built-in identity of one installation.
pub struct Local {
    store: Store,
    clock: Arc<dyn Clock>,
    config: Config,
    keys: keys::SigningKeys,
}

impl Local {
    #[must_use]
    pub fn new(config: Config, store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { keys: keys::SigningKeys::new(store.clone()), store, clock, config }
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Identity for Local {
    fn issuer(&self) -> &str {
        ISSUER
    }

    fn audience(&self) -> Option<&str> {
        Some(ISSUER)
    }

    fn keys(&self) -> Answer<'_, Result<JwkSet>> {
        Box::pin(self.keys.published())
    }
}
