//! Log-ins: refresh tokens, magic links, invitations, and the keys that sign session tokens.
//! Never: a token in the clear; callers hand in hashes.

use serde_json::Value;

use crate::{Result, SystemTx};

/// A key that signs session tokens.
#[derive(Clone, sqlx::FromRow)]
pub struct SigningKeyRow {
    pub kid: String,
    /// Sealed with the binding `signing_keys.private:<kid>`.
    pub private_sealed: Vec<u8>,
    pub public_jwk: Value,
}

impl SystemTx {
    /// Keys that aren't retired, newest first.
    pub async fn signing_keys(&mut self) -> Result<Vec<SigningKeyRow>> {
        let sql = "select kid, private_sealed, public_jwk from molt.signing_keys
                   where retired_at is null order by created_at desc, kid";
        Ok(sqlx::query_as(sql).fetch_all(&mut *self.tx).await?)
    }

    /// Keeps `made`, unless somebody was faster; returns the key that holds. Later ones wait until this one has committed.
    pub async fn insert_first_signing_key(&mut self, made: &SigningKeyRow) -> Result<SigningKeyRow> {
        sqlx::query("select pg_advisory_xact_lock(hashtext('molt.signing_keys'))").execute(&mut *self.tx).await?;
        if let Some(row) = self.signing_keys().await?.into_iter().next() {
            return Ok(row);
        }
        sqlx::query("insert into molt.signing_keys (kid, private_sealed, public_jwk) values ($1, $2, $3)")
            .bind(&made.kid)
            .bind(&made.private_sealed)
            .bind(&made.public_jwk)
            .execute(&mut *self.tx)
            .await?;
        Ok(made.clone())
    }
}
