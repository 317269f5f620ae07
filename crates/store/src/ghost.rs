//! Ghost Keys, and what the proxy must know before it lets a call through.
//! Never: a key in clear. It leaves here once, when it is made; the row holds its hash.

use std::fmt::Write as _;

use molt_model::{BotId, KeyId, Nanos, Time, UserId};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::usage::period_sql;
use crate::{Channel, Result, SystemTx, event};

/// Leads every key, so that a person and a secret scanner can tell what it is.
const KEY_PREFIX: &str = "mgk_";
const KEY_RANDOM_BYTES: usize = 32;
/// What a bot's own key is called.
const BOT_KEY_LABEL: &str = "bot";

/// What a key opens, and how much of it is used up. Amounts are of the period in force.
#[derive(Clone, Debug)]
pub struct Admission {
    pub key: KeyId,
    pub user: UserId,
    /// What the books call this person after they are erased.
    pub book_key: Uuid,
    pub bot: Option<BotId>,
    pub revoked: bool,
    /// The subscription's status allows calls.
    pub plan_in_force: bool,
    /// When the spending starts to count again.
    pub period_end: Time,
    pub user_spent: Nanos,
    pub user_cap: Option<Nanos>,
    pub key_spent: Nanos,
    pub key_cap: Option<Nanos>,
}

#[derive(sqlx::FromRow)]
struct AdmissionRow {
    key_id: Uuid,
    user_id: Uuid,
    book_key: Uuid,
    bot_id: Option<String>,
    revoked: bool,
    plan_in_force: bool,
    period_end: Time,
    user_spent: i64,
    user_cap: Option<i64>,
    key_spent: i64,
    key_cap: Option<i64>,
}

const ADMISSION: &str = concat!(
    "select k.id as key_id, k.user_id, u.book_key, k.bot_id, k.revoked_at is not null as revoked,
            coalesce(b.subscription_status in ('active', 'trialing', 'past_due'), false) as plan_in_force,
            p.period_end, s.user_spent, u.cap_nanos as user_cap, s.key_spent, k.cap_nanos as key_cap
     from molt.ghost_keys k
     join molt.users u on u.id = k.user_id
     left join molt.billing b on b.user_id = k.user_id
     cross join lateral (",
    period_sql!("$2"),
    ") p
     cross join lateral (
       select coalesce(sum(l.cost_nanos), 0)::bigint as user_spent,
              coalesce(sum(l.cost_nanos) filter (where l.key_id = k.id), 0)::bigint as key_spent
       from molt.usage_logs l where l.user_id = k.user_id and l.at >= p.period_start) s
     where k.key_hash = $1"
);

/// The form in which a key rests in the database.
#[must_use]
pub fn key_hash(key: &SecretString) -> [u8; 32] {
    Sha256::digest(key.expose_secret().as_bytes()).into()
}

fn new_key() -> SecretString {
    let mut bytes = [0u8; KEY_RANDOM_BYTES];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    let mut text = String::with_capacity(KEY_PREFIX.len() + 2 * KEY_RANDOM_BYTES);
    text.push_str(KEY_PREFIX);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing into a string can't fail");
    }
    text.into()
}

impl SystemTx {
    /// Everything that decides about a call, in one query. `None`: there is no such key.
    pub async fn admission(&mut self, hash: &[u8; 32], now: Time) -> Result<Option<Admission>> {
        let row: Option<AdmissionRow> =
            sqlx::query_as(ADMISSION).bind(hash.as_slice()).bind(now).fetch_optional(&mut *self.tx).await?;
        Ok(row.map(|row| Admission {
            key: KeyId(row.key_id),
            user: UserId(row.user_id),
            book_key: row.book_key,
            bot: row.bot_id.and_then(|id| id.parse().ok()),
            revoked: row.revoked,
            plan_in_force: row.plan_in_force,
            period_end: row.period_end,
            user_spent: Nanos(row.user_spent),
            user_cap: row.user_cap.map(Nanos),
            key_spent: Nanos(row.key_spent),
            key_cap: row.key_cap.map(Nanos),
        }))
    }

    /// Makes a key for a program of this person's, or for one of their bots. The key is returned here and never again.
    pub async fn create_ghost_key(
        &mut self,
        user: UserId,
        bot: Option<&BotId>,
        label: &str,
        cap: Option<Nanos>,
        now: Time,
    ) -> Result<(KeyId, SecretString)> {
        let (id, key) = (KeyId::random(), new_key());
        sqlx::query(
            "insert into molt.ghost_keys (id, user_id, bot_id, key_hash, label, cap_nanos, created_at)
             values ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(id.0)
        .bind(user.0)
        .bind(bot.map(BotId::as_str))
        .bind(key_hash(&key).as_slice())
        .bind(label)
        .bind(cap.map(|nanos| nanos.0))
        .bind(now)
        .execute(&mut *self.tx)
        .await?;
        Ok((id, key))
    }

    /// Gives the bot a new key and revokes its older ones; used right before its cell is started. `None`: no such bot.
    pub async fn rotate_bot_key(&mut self, bot: &BotId, now: Time) -> Result<Option<SecretString>> {
        let owner: Option<Uuid> = sqlx::query_scalar("select user_id from molt.bots where id = $1 for no key update")
            .bind(bot.as_str())
            .fetch_optional(&mut *self.tx)
            .await?;
        let Some(owner) = owner else { return Ok(None) };
        sqlx::query(
            "update molt.ghost_keys set revoked_at = $2 where bot_id = $1 and label = $3 and revoked_at is null",
        )
        .bind(bot.as_str())
        .bind(now)
        .bind(BOT_KEY_LABEL)
        .execute(&mut *self.tx)
        .await?;
        let (_, key) = self.create_ghost_key(UserId(owner), Some(bot), BOT_KEY_LABEL, None, now).await?;
        event::notify(&mut self.tx, &Channel::Admission).await?;
        Ok(Some(key))
    }

    /// Revokes one key; the next call with it is refused. `false`: no such key, or it was revoked already.
    pub async fn revoke_ghost_key(&mut self, key: KeyId, now: Time) -> Result<bool> {
        let done = sqlx::query("update molt.ghost_keys set revoked_at = $2 where id = $1 and revoked_at is null")
            .bind(key.0)
            .bind(now)
            .execute(&mut *self.tx)
            .await?;
        event::notify(&mut self.tx, &Channel::Admission).await?;
        Ok(done.rows_affected() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::database;

    #[tokio::test]
    async fn a_key_opens_until_it_is_revoked_and_rests_only_as_a_hash() {
        let database = database().await;
        let (user, now) = (UserId::random(), "2026-11-22T10:00:00Z".parse().unwrap());
        let values = format!("('{user}', 'test', '{user}', 'a@example.com')");
        database.execute(&format!("insert into molt.users (id, issuer, subject, email) values {values}")).await;
        let mut tx = database.store.system().await.unwrap();
        let (id, key) = tx.create_ghost_key(user, None, "laptop", Some(Nanos(5)), now).await.unwrap();
        let found = tx.admission(&key_hash(&key), now).await.unwrap().unwrap();
        assert_eq!((found.key, found.user, found.key_cap, found.user_spent), (id, user, Some(Nanos(5)), Nanos::ZERO));
        assert!(!found.revoked && !found.plan_in_force && found.bot.is_none());
        assert!(tx.admission(&key_hash(&"mgk_other".to_owned().into()), now).await.unwrap().is_none());
        assert!(tx.revoke_ghost_key(id, now).await.unwrap());
        assert!(!tx.revoke_ghost_key(id, now).await.unwrap());
        assert!(tx.admission(&key_hash(&key), now).await.unwrap().unwrap().revoked);
        assert!(tx.rotate_bot_key(&BotId::random(), now).await.unwrap().is_none());
        tx.commit().await.unwrap();
        let row = database.text("select row_to_json(k) from molt.ghost_keys k").await.unwrap();
        assert!(!row.contains(&key.expose_secret()[KEY_PREFIX.len()..]), "{row}");
    }
}
