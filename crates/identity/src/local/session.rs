//! A log-in: a signed token for minutes, and a refresh token for weeks that changes at every use.
//! Never: a refresh token that works twice, except for two tabs that use it within seconds of each other.

use anyhow::Context;
use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, Header, encode};
use molt_model::{Time, UserId};
use molt_store::SystemTx;
use molt_store::sessions::{NewSession, Rotation};
use molt_store::users::UserRow;
use secrecy::SecretString;
use serde::Serialize;
use uuid::Uuid;

use super::{ISSUER, Local, token};
use crate::{IdentityError, Result};

/// A token that leaks is worth little for long; the app renews it unseen.
const TOKEN_LIFE: TimeDelta = TimeDelta::minutes(10);
/// Whoever comes back within a month is still logged in.
pub const REFRESH_LIFE: TimeDelta = TimeDelta::days(30);
/// Two tabs that wake up together refresh within this.
const ROTATION_GRACE: TimeDelta = TimeDelta::seconds(10);
/// Refreshes of one log-in within the grace; more than any person's tabs.
const ROTATIONS_IN_GRACE_MAX: i64 = 20;

/// A person who is logged in.
pub struct Session {
    pub token: SecretString,
    pub expires_at: Time,
    pub refresh: SecretString,
    pub refresh_expires_at: Time,
    pub user: UserRow,
}

#[derive(Serialize)]
struct TokenClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: String,
    sid: String,
    iat: i64,
    exp: i64,
}

impl Local {
    /// Changes a refresh token for a new one and a new session token.
    pub async fn refresh(&self, refresh: &SecretString) -> Result<Session> {
        let now = self.clock.now();
        let mut tx = self.store.system().await?;
        match tx.use_refresh_token(&token::hash(refresh), now, ROTATION_GRACE).await? {
            Rotation::Ended => Err(IdentityError::SessionEnded),
            Rotation::Reused { family } => {
                tx.commit().await?;
                tracing::warn!(session.family = %family, "a used refresh token came back; its log-in was ended");
                Err(IdentityError::SessionEnded)
            }
            Rotation::Good { family, user } => {
                if tx.sessions_of_family_since(family, now - ROTATION_GRACE).await? >= ROTATIONS_IN_GRACE_MAX {
                    let retry_after_s = ROTATION_GRACE.num_seconds().unsigned_abs();
                    return Err(IdentityError::TooManyTries { retry_after_s });
                }
                self.continue_session(tx, family, user, now).await
            }
        }
    }

    /// Ends the log-in of a refresh token, on every tab. An unknown one is fine: the person is logged out.
    pub async fn log_out(&self, refresh: &SecretString) -> Result<()> {
        let mut tx = self.store.system().await?;
        if let Some(family) = tx.family_of(&token::hash(refresh)).await? {
            tx.end_family(family, self.clock.now()).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    pub(super) async fn begin_session(&self, tx: SystemTx, user: UserId, now: Time) -> Result<Session> {
        self.continue_session(tx, Uuid::new_v4(), user, now).await
    }

    /// Keeps a new refresh token, commits, and signs a session token.
    async fn continue_session(&self, mut tx: SystemTx, family: Uuid, user: UserId, now: Time) -> Result<Session> {
        let refresh = token::make()?;
        let refresh_expires_at = now + REFRESH_LIFE;
        let kept = NewSession { family, user, refresh_hash: token::hash(&refresh), expires_at: refresh_expires_at };
        tx.insert_session(&kept, now).await?;
        let person = tx.user(user).await?.ok_or(IdentityError::SessionEnded)?;
        tx.commit().await?;
        let expires_at = now + TOKEN_LIFE;
        let token = self.sign(family, user, now, expires_at).await?;
        Ok(Session { token, expires_at, refresh, refresh_expires_at, user: person })
    }

    async fn sign(&self, family: Uuid, user: UserId, now: Time, expires_at: Time) -> Result<SecretString> {
        let signing = self.keys.current().await?;
        let claims = TokenClaims {
            iss: ISSUER,
            aud: ISSUER,
            sub: user.to_string(),
            sid: family.to_string(),
            iat: now.timestamp(),
            exp: expires_at.timestamp(),
        };
        let header = Header { kid: Some(signing.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        let token = encode(&header, &claims, &signing.key).context("the session token can't be signed")?;
        Ok(token.into())
    }
}
