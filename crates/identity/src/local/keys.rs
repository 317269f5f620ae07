//! The key that signs session tokens: made at first use, sealed in the database, the same for every process.
//! Never: a private key outside this module, the seal and the signature.

use std::sync::{Arc, RwLock};

use anyhow::{Context, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey};
use molt_store::sessions::SigningKeyRow;
use molt_store::{Place, Store};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::{IdentityError, Result};

/// What stands before the 32 bytes of an Ed25519 private key in PKCS #8 (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const SEED_BYTES: usize = 32;

/// The newest signing key, opened.
#[derive(Clone)]
pub(crate) struct SigningKey {
    pub(crate) kid: String,
    pub(crate) key: EncodingKey,
}

/// Keeps the opened key for as long as the process lives.
pub(crate) struct SigningKeys {
    store: Store,
    opened: RwLock<Option<Arc<SigningKey>>>,
}

impl SigningKeys {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, opened: RwLock::new(None) }
    }

    /// The key to sign with; makes the installation's first one. Two processes that start at once agree on one key.
    pub(crate) async fn current(&self) -> Result<Arc<SigningKey>> {
        let opened = self.opened.read().expect("no holder of this lock panics").clone();
        if let Some(key) = opened {
            return Ok(key);
        }
        let row = self.load_or_make().await?;
        let plain = self.store.seal().open(&Place::SigningKey(row.kid.clone()), &row.private_sealed);
        let plain = plain.context("the signing key was sealed under another seal key")?;
        let key = encoding_key(&plain)?;
        let key = Arc::new(SigningKey { kid: row.kid, key });
        *self.opened.write().expect("no holder of this lock panics") = Some(key.clone());
        Ok(key)
    }

    /// The public keys of all signing keys that aren't retired.
    pub(crate) async fn published(&self) -> Result<JwkSet> {
        self.current().await?;
        let mut tx = self.store.system().await?;
        let rows = tx.signing_keys().await?;
        let keys = rows.into_iter().map(|row| serde_json::from_value::<Jwk>(row.public_jwk));
        let keys = keys.collect::<Result<_, _>>().context("a published key in the database can't be read")?;
        Ok(JwkSet { keys })
    }

    async fn load_or_make(&self) -> Result<SigningKeyRow> {
        let mut tx = self.store.system().await?;
        if let Some(row) = tx.signing_keys().await?.into_iter().next() {
            return Ok(row);
        }
        let made = make(&self.store)?;
        let row = tx.insert_first_signing_key(&made).await?;
        tx.commit().await?;
        tracing::info!(key.id = %row.kid, "the key that signs session tokens is ready");
        Ok(row)
    }
}

fn make(store: &Store) -> Result<SigningKeyRow> {
    let mut seed = [0u8; SEED_BYTES];
    getrandom::fill(&mut seed).map_err(|error| anyhow!("the operating system gives no random bytes: {error}"))?;
    let plain = SecretString::from(STANDARD.encode([&PKCS8_PREFIX[..], &seed].concat()));
    let mut jwk = Jwk::from_encoding_key(&encoding_key(&plain)?, Algorithm::EdDSA)
        .map_err(|error| IdentityError::Unexpected(error.into()))?;
    let public = serde_json::to_string(&jwk.algorithm).context("a public key is always JSON")?;
    let kid = hex::encode(&Sha256::digest(public.as_bytes())[..8]);
    jwk.common.key_id = Some(kid.clone());
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    let private_sealed = store.seal().seal(&Place::SigningKey(kid.clone()), &plain);
    let public_jwk = serde_json::to_value(&jwk).context("a public key is always JSON")?;
    Ok(SigningKeyRow { kid, private_sealed, public_jwk })
}

fn encoding_key(plain: &SecretString) -> Result<EncodingKey> {
    let der = STANDARD.decode(plain.expose_secret()).context("the signing key is damaged")?;
    Ok(EncodingKey::from_ed_der(&der))
}
