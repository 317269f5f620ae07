//! Ghost Keys, and what the proxy must know before it lets a call through.
//! Never: a key in clear. It leaves here once, when it is made; the row holds its hash.

use std::fmt::Write as _;

use molt_model::{BotId, KeyId, Nanos, Time, UserId};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::usage::period_sql;
use crate::{Result, SystemTx, TenantTx};

/// Leads every key, so that a person and a secret scanner can tell what it is.
const KEY_PREFIX: &str = "mgk_";
/// The same for the keys of ways out.
const EGRESS_KEY_PREFIX: &str = "mek_";
const KEY_RANDOM_BYTES: usize = 32;
/// What a bot's own key is called.
const BOT_KEY_LABEL: &str = "bot";

/// What decides about a key's calls, apart from what was spent: that is the budgets'.
#[derive(Clone, Debug)]
pub struct Admission {
    pub key: KeyId,
    pub user: UserId,
    /// What the books call this person after they are erased.
    pub book_key: Uuid,
    pub bot: Option<BotId>,
    /// Revoked itself, or of a bot or a person about to be removed.
    pub revoked: bool,
    /// Why it opens nothing until its owner resumes it, in a sentence.
    pub paused: Option<String>,
    /// An operator suspended its bot.
    pub suspended: bool,
    /// Its calls go out at a walking pace.
    pub slowed: bool,
    /// When the bot's owner last said that all is well.
    pub resumed_at: Option<Time>,
    /// The subscription's status allows calls.
    pub plan_in_force: bool,
    /// The period that spending counts in: start included, end excluded.
    pub period_start: Time,
    pub period_end: Time,
    pub user_cap: Option<Nanos>,
    pub bot_cap: Option<Nanos>,
    pub key_cap: Option<Nanos>,
}

/// A key as its owner sees it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct KeyRow {
    pub id: Uuid,
    pub label: String,
    /// None: a key for a program.
    pub bot_id: Option<String>,
    cap_nanos: Option<i64>,
    spent_nanos: i64,
    pub created_at: Time,
    pub revoked_at: Option<Time>,
    pub paused_at: Option<Time>,
    pub paused_reason: Option<String>,
}

impl KeyRow {
    #[must_use]
    pub fn cap(&self) -> Option<Nanos> {
        self.cap_nanos.map(Nanos)
    }

    /// In the period in force.
    #[must_use]
    pub const fn spent(&self) -> Nanos {
        Nanos(self.spent_nanos)
    }
}

/// What a cell shows to the proxy where no socket says whose it is.
#[derive(Debug)]
pub struct BotKeys {
    /// Opens model calls of the bot.
    pub ghost: SecretString,
    /// Opens the bot's ways out, together with the other one; alone it opens nothing.
    pub egress: SecretString,
}

/// What became of a new cap for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCapSet {
    Done,
    /// A bot's own key is made anew at each start; the bot has a cap instead.
    BotsOwn,
    NotFound,
}

#[derive(sqlx::FromRow)]
struct AdmissionRow {
    key_id: Uuid,
    user_id: Uuid,
    book_key: Uuid,
    bot_id: Option<String>,
    revoked: bool,
    paused: Option<String>,
    suspended: bool,
    slowed: bool,
    resumed_at: Option<Time>,
    plan_in_force: bool,
    period_start: Time,
    period_end: Time,
    user_cap: Option<i64>,
    bot_cap: Option<i64>,
    key_cap: Option<i64>,
}

impl From<AdmissionRow> for Admission {
    fn from(row: AdmissionRow) -> Self {
        Self {
            key: KeyId(row.key_id),
            user: UserId(row.user_id),
            book_key: row.book_key,
            bot: row.bot_id.and_then(|id| id.parse().ok()),
            revoked: row.revoked,
            paused: row.paused,
            suspended: row.suspended,
            slowed: row.slowed,
            resumed_at: row.resumed_at,
            plan_in_force: row.plan_in_force,
            period_start: row.period_start,
            period_end: row.period_end,
            user_cap: row.user_cap.map(Nanos),
            bot_cap: row.bot_cap.map(Nanos),
            key_cap: row.key_cap.map(Nanos),
        }
    }
}

/// The question about one key, up to what says which.
macro_rules! admission_sql {
    ($which:literal) => {
        concat!(
    "select k.id as key_id, k.user_id, u.book_key, k.bot_id,
            k.revoked_at is not null or u.erase_requested_at is not null or coalesce(t.intent = 'deleted', false) as revoked,
            case when k.paused_at is not null then coalesce(k.paused_reason, '')
                 when w.caution = 'paused' then w.reason end as paused,
            exists (select from molt.suspensions s where s.bot_id = k.bot_id and s.cause = 'operator') as suspended,
            coalesce(w.caution = 'slowed', false) as slowed, w.resumed_at,
            coalesce(b.subscription_status in ('active', 'trialing', 'past_due'), false) as plan_in_force,
            p.period_start, p.period_end, u.cap_nanos as user_cap, t.cap_nanos as bot_cap, k.cap_nanos as key_cap
     from molt.ghost_keys k
     join molt.users u on u.id = k.user_id
     left join molt.bots t on t.id = k.bot_id
     left join molt.watches w on w.bot_id = k.bot_id
     left join molt.billing b on b.user_id = k.user_id
     cross join lateral (",
    period_sql!("$2"),
    ") p ",
    $which
        )
    };
}

const ADMISSION: &str = admission_sql!("where k.key_hash = $1");
/// The key in force of a bot: each start makes a new one and revokes those before it.
const ADMISSION_OF_BOT: &str =
    admission_sql!("where k.bot_id = $1 and k.revoked_at is null order by k.created_at desc, k.id limit 1");

/// The form in which a key rests in the database.
#[must_use]
pub fn key_hash(key: &SecretString) -> [u8; 32] {
    Sha256::digest(key.expose_secret().as_bytes()).into()
}

/// Whether it has the shape of our keys. What hasn't isn't worth a look.
#[must_use]
pub fn looks_like_a_key(text: &[u8]) -> bool {
    has_shape(KEY_PREFIX, text)
}

/// The same for a key of ways out.
#[must_use]
pub fn looks_like_an_egress_key(text: &[u8]) -> bool {
    has_shape(EGRESS_KEY_PREFIX, text)
}

fn has_shape(prefix: &str, text: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let random = text.strip_prefix(prefix.as_bytes());
    random.is_some_and(|random| random.len() == 2 * KEY_RANDOM_BYTES && random.iter().all(digit))
}

fn new_key(prefix: &str) -> SecretString {
    let mut bytes = [0u8; KEY_RANDOM_BYTES];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    let mut text = String::with_capacity(prefix.len() + 2 * KEY_RANDOM_BYTES);
    text.push_str(prefix);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing into a string can't fail");
    }
    text.into()
}

impl TenantTx {
    /// This person's keys, newest first, at most `limit`: all in force, and those revoked in the period in force. What was
    /// spent is of that period.
    pub async fn ghost_keys(&mut self, now: Time, limit: i64) -> Result<Vec<KeyRow>> {
        let (start, end) = self.usage_period(now).await?;
        let sql =
            "select k.id, k.label, k.bot_id, k.cap_nanos, k.created_at, k.revoked_at, k.paused_at, k.paused_reason,
                     coalesce(s.spent, 0)::bigint as spent_nanos
                   from molt.ghost_keys k
                   left join (select key_id, sum(cost_nanos) as spent from molt.usage_logs
                              where user_id = $1 and at >= $2 and at < $3 group by key_id) s on s.key_id = k.id
                   where k.user_id = $1 and (k.revoked_at is null or k.revoked_at >= $2)
                   order by k.created_at desc, k.id limit $4";
        let query = sqlx::query_as(sql).bind(self.user.0).bind(start).bind(end).bind(limit);
        Ok(query.fetch_all(&mut *self.tx).await?)
    }

    /// What this bot spent in the period in force.
    pub async fn bot_spent(&mut self, bot: &BotId, now: Time) -> Result<Nanos> {
        let (start, end) = self.usage_period(now).await?;
        let sql = "select coalesce(sum(cost_nanos), 0)::bigint from molt.usage_logs
                   where user_id = $1 and bot_id = $2 and at >= $3 and at < $4";
        let query = sqlx::query_scalar(sql).bind(self.user.0).bind(bot.as_str()).bind(start).bind(end);
        Ok(Nanos(query.fetch_one(&mut *self.tx).await?))
    }

    /// Sets where the use of a program's key stops in a period; none: only the person's own cap holds.
    pub async fn set_key_cap(&mut self, key: KeyId, cap: Option<Nanos>) -> Result<KeyCapSet> {
        set_key_cap(&mut self.tx, key, cap).await
    }

    /// Whether it is or was this person's.
    pub async fn has_key(&mut self, key: KeyId) -> Result<bool> {
        let sql = "select exists (select from molt.ghost_keys where id = $1 and user_id = $2)";
        Ok(sqlx::query_scalar(sql).bind(key.0).bind(self.user.0).fetch_one(&mut *self.tx).await?)
    }

    /// Revokes a key; the next call with it is refused. A bot whose own key it was is started afresh with a new one.
    /// `false`: it isn't there. Safe to repeat.
    pub async fn revoke_own_key(&mut self, key: KeyId, now: Time) -> Result<bool> {
        let sql = "update molt.ghost_keys set revoked_at = $3 where id = $1 and user_id = $2 and revoked_at is null
                   returning bot_id";
        let query = sqlx::query_scalar(sql).bind(key.0).bind(self.user.0).bind(now);
        let revoked: Option<Option<String>> = query.fetch_optional(&mut *self.tx).await?;
        let Some(bot) = revoked else { return self.has_key(key).await };
        if let Some(bot) = bot.and_then(|id| id.parse().ok()) {
            self.restart_bot(&bot, now).await?;
        }
        Ok(true)
    }
}

/// Under row-level security another person's key isn't there.
async fn set_key_cap(connection: &mut PgConnection, key: KeyId, cap: Option<Nanos>) -> Result<KeyCapSet> {
    let sql = "update molt.ghost_keys set cap_nanos = case when bot_id is null then $2 else cap_nanos end
               where id = $1 and revoked_at is null returning bot_id is null";
    let query = sqlx::query_scalar(sql).bind(key.0).bind(cap.map(|cap| cap.0));
    Ok(match query.fetch_optional(connection).await? {
        None => KeyCapSet::NotFound,
        Some(false) => KeyCapSet::BotsOwn,
        Some(true) => KeyCapSet::Done,
    })
}

impl SystemTx {
    /// Everything that decides about a key's calls, in one query. `None`: there is no such key.
    pub async fn admission(&mut self, hash: &[u8; 32], now: Time) -> Result<Option<Admission>> {
        let row: Option<AdmissionRow> =
            sqlx::query_as(ADMISSION).bind(hash.as_slice()).bind(now).fetch_optional(&mut *self.tx).await?;
        Ok(row.map(Admission::from))
    }

    /// The same for the key in force of a bot that is known without it. `None`: it has none, or there is no such bot.
    pub async fn admission_of_bot(&mut self, bot: &BotId, now: Time) -> Result<Option<Admission>> {
        let row: Option<AdmissionRow> =
            sqlx::query_as(ADMISSION_OF_BOT).bind(bot.as_str()).bind(now).fetch_optional(&mut *self.tx).await?;
        Ok(row.map(Admission::from))
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
        let (id, key) = (KeyId::random(), new_key(KEY_PREFIX));
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

    /// Gives the bot new keys and revokes its older ones; used right before its cell is started. A pause goes over to the
    /// new key: a restart is no way around it. `None`: no such bot.
    pub async fn rotate_bot_key(&mut self, bot: &BotId, now: Time) -> Result<Option<BotKeys>> {
        let owner: Option<Uuid> = sqlx::query_scalar("select user_id from molt.bots where id = $1 for no key update")
            .bind(bot.as_str())
            .fetch_optional(&mut *self.tx)
            .await?;
        let Some(owner) = owner else { return Ok(None) };
        let (id, ghost) = self.create_ghost_key(UserId(owner), Some(bot), BOT_KEY_LABEL, None, now).await?;
        let egress = new_key(EGRESS_KEY_PREFIX);
        sqlx::query(
            "with old as (
               update molt.ghost_keys set revoked_at = $3
               where bot_id = $1 and label = $4 and revoked_at is null and id <> $2
               returning paused_at, paused_reason),
             pause as (select paused_at, paused_reason from old where paused_at is not null limit 1)
             update molt.ghost_keys k
             set egress_hash = $5, paused_at = (select paused_at from pause), paused_reason = (select paused_reason from pause)
             where k.id = $2",
        )
        .bind(bot.as_str())
        .bind(id.0)
        .bind(now)
        .bind(BOT_KEY_LABEL)
        .bind(key_hash(&egress).as_slice())
        .execute(&mut *self.tx)
        .await?;
        Ok(Some(BotKeys { ghost, egress }))
    }

    /// As `TenantTx::set_key_cap`, for a key of anybody's.
    pub async fn set_key_cap(&mut self, key: KeyId, cap: Option<Nanos>) -> Result<KeyCapSet> {
        set_key_cap(&mut self.tx, key, cap).await
    }

    /// Revokes one key; the next call with it is refused. `false`: no such key, or it was revoked already.
    pub async fn revoke_ghost_key(&mut self, key: KeyId, now: Time) -> Result<bool> {
        let sql = "update molt.ghost_keys set revoked_at = $2 where id = $1 and revoked_at is null";
        let done = sqlx::query(sql).bind(key.0).bind(now).execute(&mut *self.tx).await?;
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
        assert_eq!((found.key, found.user, found.key_cap, found.user_cap), (id, user, Some(Nanos(5)), None));
        assert!(!found.revoked && !found.plan_in_force && found.bot.is_none() && found.paused.is_none());
        assert_eq!(
            (found.period_start.to_rfc3339(), found.period_end.to_rfc3339()),
            ("2026-11-01T00:00:00+00:00".to_owned(), "2026-12-01T00:00:00+00:00".to_owned())
        );
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
