//! Log-ins: refresh tokens, magic links, invitations, and the keys that sign session tokens.
//! Never: a token in the clear; callers hand in hashes.

use chrono::{DateTime, TimeDelta, Utc};
use molt_model::{Time, UserId};
use serde_json::Value;
use uuid::Uuid;

use crate::{Channel, Result, SystemTx, TenantTx};

/// A key that signs session tokens.
#[derive(Clone, sqlx::FromRow)]
pub struct SigningKeyRow {
    pub kid: String,
    /// Sealed for `Place::SigningKey`.
    pub private_sealed: Vec<u8>,
    pub public_jwk: Value,
}

/// A refresh token about to be kept. `family` is the log-in that it belongs to.
#[derive(Clone, Debug)]
pub struct NewSession {
    pub family: Uuid,
    pub user: UserId,
    pub refresh_hash: Vec<u8>,
    pub expires_at: Time,
}

/// Whoever is logged in. `family` is the log-in, if it is one of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIn {
    pub user: UserId,
    pub family: Option<Uuid>,
}

/// What became of a refresh token that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It was good; a new one may be given in its family.
    Good { family: Uuid, user: UserId },
    /// Unknown, expired, or its log-in was ended before.
    Ended,
    /// It had been used before, longer ago than two racing tabs explain: its log-in has been ended. Commit.
    Reused { family: Uuid },
}

#[derive(sqlx::FromRow)]
struct SessionRow {
    family: Uuid,
    user_id: Uuid,
    expires_at: DateTime<Utc>,
    rotated_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
}

impl SystemTx {
    /// Keys that aren't retired, newest first.
    pub async fn signing_keys(&mut self) -> Result<Vec<SigningKeyRow>> {
        let sql = "select kid, private_sealed, public_jwk from molt.signing_keys
                   where retired_at is null order by created_at desc, kid";
        Ok(sqlx::query_as(sql).fetch_all(&mut *self.tx).await?)
    }

    /// Keeps `made`, unless somebody was faster; returns the key that holds. Later ones wait until this one has
    /// committed.
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

    pub async fn insert_session(&mut self, session: &NewSession, now: Time) -> Result<()> {
        let sql = "insert into molt.sessions (id, family, user_id, refresh_hash, created_at, expires_at)
                   values ($1, $2, $3, $4, $5, $6)";
        sqlx::query(sql)
            .bind(Uuid::new_v4())
            .bind(session.family)
            .bind(session.user.0)
            .bind(&session.refresh_hash)
            .bind(now)
            .bind(session.expires_at)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Takes a refresh token out of use. Within `grace` after its first use it still counts as good, so that two tabs
    /// that refresh at once both stay logged in.
    pub async fn use_refresh_token(&mut self, hash: &[u8], now: Time, grace: TimeDelta) -> Result<Rotation> {
        let sql = "select family, user_id, expires_at, rotated_at, revoked_at from molt.sessions
                   where refresh_hash = $1 for update";
        let row: Option<SessionRow> = sqlx::query_as(sql).bind(hash).fetch_optional(&mut *self.tx).await?;
        let Some(row) = row else { return Ok(Rotation::Ended) };
        if row.revoked_at.is_some() || row.expires_at <= now {
            return Ok(Rotation::Ended);
        }
        match row.rotated_at {
            Some(at) if now - at > grace => {
                self.end_family(row.family, now).await?;
                Ok(Rotation::Reused { family: row.family })
            }
            Some(_) => Ok(Rotation::Good { family: row.family, user: UserId(row.user_id) }),
            None => {
                let sql = "update molt.sessions set rotated_at = $2 where refresh_hash = $1";
                sqlx::query(sql).bind(hash).bind(now).execute(&mut *self.tx).await?;
                Ok(Rotation::Good { family: row.family, user: UserId(row.user_id) })
            }
        }
    }

    /// Refresh tokens of a log-in made since `since`.
    pub async fn sessions_of_family_since(&mut self, family: Uuid, since: Time) -> Result<i64> {
        let sql = "select count(*) from molt.sessions where family = $1 and created_at >= $2";
        Ok(sqlx::query_scalar(sql).bind(family).bind(since).fetch_one(&mut *self.tx).await?)
    }

    /// Ends a log-in: none of its refresh tokens and none of its session tokens works any more, and what is open under it
    /// is told.
    pub async fn end_family(&mut self, family: Uuid, now: Time) -> Result<()> {
        let sql = "update molt.sessions set revoked_at = $2 where family = $1 and revoked_at is null returning user_id";
        let ended: Vec<Uuid> = sqlx::query_scalar(sql).bind(family).bind(now).fetch_all(&mut *self.tx).await?;
        match ended.first() {
            Some(user) => self.notify(&Channel::Sessions(user.to_string())).await,
            None => Ok(()),
        }
    }

    /// Which of these may not go on: the log-in has ended, or the person is gone or going. Answers positions in `asked`.
    pub async fn ended_log_ins(&mut self, asked: &[LogIn]) -> Result<Vec<usize>> {
        let users: Vec<Uuid> = asked.iter().map(|one| one.user.0).collect();
        let families: Vec<Option<Uuid>> = asked.iter().map(|one| one.family).collect();
        let sql = "select asked.position - 1
                   from unnest($1::uuid[], $2::uuid[]) with ordinality as asked (user_id, family, position)
                   where not exists (
                     select from molt.users u where u.id = asked.user_id and u.erase_requested_at is null
                       and (asked.family is null or exists (
                         select from molt.sessions s
                         where s.family = asked.family and s.user_id = u.id and s.revoked_at is null)))";
        let ended: Vec<i64> = sqlx::query_scalar(sql).bind(users).bind(families).fetch_all(&mut *self.tx).await?;
        Ok(ended.into_iter().filter_map(|position| usize::try_from(position).ok()).collect())
    }

    /// The log-in of a refresh token, whatever its state.
    pub async fn family_of(&mut self, hash: &[u8]) -> Result<Option<Uuid>> {
        let sql = "select family from molt.sessions where refresh_hash = $1";
        Ok(sqlx::query_scalar(sql).bind(hash).fetch_optional(&mut *self.tx).await?)
    }

    /// Keeps a magic link for the person of this address. `None`: nobody has it.
    pub async fn insert_magic_link(&mut self, email: &str, hash: &[u8], expires_at: Time) -> Result<Option<UserId>> {
        let sql = "insert into molt.magic_links (token_hash, user_id, expires_at)
                   select $2, id, $3 from molt.users where lower(email) = lower($1) and erase_requested_at is null
                   returning user_id";
        let row: Option<Uuid> =
            sqlx::query_scalar(sql).bind(email).bind(hash).bind(expires_at).fetch_optional(&mut *self.tx).await?;
        Ok(row.map(UserId))
    }

    /// Uses up a magic link. `None`: unknown, used, or expired.
    pub async fn use_magic_link(&mut self, hash: &[u8], now: Time) -> Result<Option<UserId>> {
        let sql = "update molt.magic_links m set used_at = $2 from molt.users u
                   where m.token_hash = $1 and m.used_at is null and m.expires_at > $2
                     and u.id = m.user_id and u.erase_requested_at is null
                   returning m.user_id";
        let row: Option<Uuid> = sqlx::query_scalar(sql).bind(hash).bind(now).fetch_optional(&mut *self.tx).await?;
        Ok(row.map(UserId))
    }

    /// Keeps an invitation; with an address it is for that address only.
    pub async fn insert_invite(&mut self, hash: &[u8], email: Option<&str>, now: Time, expires_at: Time) -> Result<()> {
        let sql = "insert into molt.invites (code_hash, email, created_at, expires_at) values ($1, $2, $3, $4)";
        let query = sqlx::query(sql).bind(hash).bind(email).bind(now).bind(expires_at);
        query.execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Uses up an invitation. `false`: unknown, used, expired, or for another address.
    pub async fn use_invite(&mut self, hash: &[u8], email: &str, now: Time) -> Result<bool> {
        let sql = "update molt.invites set used_at = $3 where code_hash = $1 and used_at is null and expires_at > $3
                     and (email is null or lower(email) = lower($2))";
        let done = sqlx::query(sql).bind(hash).bind(email).bind(now).execute(&mut *self.tx).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Removes tokens, links and invitations that ended before `before`. Returns how many rows went.
    pub async fn sweep_sessions(&mut self, before: Time) -> Result<u64> {
        let mut gone = 0;
        for sql in [
            "delete from molt.sessions where expires_at < $1",
            "delete from molt.magic_links where expires_at < $1",
            "delete from molt.invites where expires_at < $1",
        ] {
            gone += sqlx::query(sql).bind(before).execute(&mut *self.tx).await?.rows_affected();
        }
        Ok(gone)
    }
}

impl TenantTx {
    /// Ends all log-ins of this person, and tells what is open under them.
    pub async fn end_all_sessions(&mut self, now: Time) -> Result<()> {
        let sql = "update molt.sessions set revoked_at = $2 where user_id = $1 and revoked_at is null";
        sqlx::query(sql).bind(self.user.0).bind(now).execute(&mut *self.tx).await?;
        self.notify(&Channel::Sessions(self.user.to_string())).await
    }
}
