//! Checks a session token against the signer's published keys. The built-in identity's tokens take the same road as
//! those of an outside one.
//! Never: a symmetric algorithm, an algorithm that the token chooses against its key, or a token without an end.

use std::sync::{Arc, RwLock};

use chrono::{DateTime, TimeDelta};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use molt_model::Time;
use serde::Deserialize;
use uuid::Uuid;

use crate::{Identity, IdentityError};

/// Keys are asked for again after this long, so that a retired one stops to open doors.
const KEYS_AGE_MAX: TimeDelta = TimeDelta::minutes(10);
/// A token with an unknown key makes us ask again, but not more often than this, whatever strangers send.
const KEYS_AGE_MIN: TimeDelta = TimeDelta::seconds(2);
/// Clocks of two machines differ by a little.
const LEEWAY: TimeDelta = TimeDelta::seconds(5);
/// Longer tokens aren't ours; parsing them would only cost time.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What a checked token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub issuer: String,
    pub subject: String,
    /// The log-in that the token belongs to, when the built-in identity signed it.
    pub session: Option<Uuid>,
    pub expires_at: Time,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("the session token has expired")]
    Expired,
    #[error("the session token isn't valid")]
    Invalid,
    #[error("the signer's keys can't be had")]
    Unavailable(#[source] Box<IdentityError>),
}

#[derive(Deserialize)]
struct RawClaims {
    iss: String,
    sub: String,
    exp: i64,
    nbf: Option<i64>,
    sid: Option<String>,
}

/// The signer and a copy of its keys.
pub struct Verifier {
    identity: Arc<dyn Identity>,
    keys: RwLock<Option<Keys>>,
}

#[derive(Clone)]
struct Keys {
    set: Arc<JwkSet>,
    asked_at: Time,
}

impl Verifier {
    #[must_use]
    pub fn new(identity: Arc<dyn Identity>) -> Self {
        Self { identity, keys: RwLock::new(None) }
    }

    /// Checks signature, issuer, audience and times.
    pub async fn verify(&self, token: &str, now: Time) -> Result<Claims, VerifyError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(VerifyError::Invalid);
        }
        let header = decode_header(token).map_err(|_| VerifyError::Invalid)?;
        let kid = header.kid.ok_or(VerifyError::Invalid)?;
        let set = self.keys_with(&kid, now).await?;
        let key = set.find(&kid).ok_or(VerifyError::Invalid)?;
        if algorithm(key) != Some(header.alg) {
            return Err(VerifyError::Invalid);
        }
        let raw = self.decode(token, key, header.alg)?;
        let time = |seconds| DateTime::from_timestamp(seconds, 0).ok_or(VerifyError::Invalid);
        let expires_at = time(raw.exp)?;
        if now > expires_at + LEEWAY {
            return Err(VerifyError::Expired);
        }
        if raw.nbf.map(time).transpose()?.is_some_and(|start| now + LEEWAY < start) {
            return Err(VerifyError::Invalid);
        }
        let session = raw.sid.as_deref().and_then(|text| Uuid::parse_str(text).ok());
        Ok(Claims { issuer: raw.iss, subject: raw.sub, session, expires_at })
    }

    fn decode(&self, token: &str, key: &Jwk, algorithm: Algorithm) -> Result<RawClaims, VerifyError> {
        let key = DecodingKey::from_jwk(key).map_err(|_| VerifyError::Invalid)?;
        let mut rules = Validation::new(algorithm);
        rules.set_issuer(&[self.identity.issuer()]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        // The times are checked above, against the clock that we are given.
        rules.validate_exp = false;
        rules.validate_aud = false;
        if let Some(audience) = self.identity.audience() {
            rules.set_audience(&[audience]);
            rules.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
            rules.validate_aud = true;
        }
        let decoded = decode::<RawClaims>(token, &key, &rules).map_err(|_| VerifyError::Invalid)?;
        Ok(decoded.claims)
    }

    /// The keys; asked for again when they are old, or when they don't hold `kid` and aren't quite new.
    async fn keys_with(&self, kid: &str, now: Time) -> Result<Arc<JwkSet>, VerifyError> {
        let held = self.keys.read().expect("no holder of this lock panics").clone();
        if let Some(keys) = held {
            let age = now - keys.asked_at;
            let fits = age < KEYS_AGE_MAX && (keys.set.find(kid).is_some() || age < KEYS_AGE_MIN);
            if fits && age >= TimeDelta::zero() {
                return Ok(keys.set);
            }
        }
        let set = self.identity.keys().await.map_err(|error| VerifyError::Unavailable(Box::new(error)))?;
        let set = Arc::new(set);
        let keys = Keys { set: set.clone(), asked_at: now };
        *self.keys.write().expect("no holder of this lock panics") = Some(keys);
        Ok(set)
    }
}

/// The one algorithm that a key is for. Asymmetric ones only, whatever a published key claims.
fn algorithm(key: &Jwk) -> Option<Algorithm> {
    match &key.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Some(Algorithm::EdDSA),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        _ => None,
    }
}
