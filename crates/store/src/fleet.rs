//! The rows of `fleet::reconcile`: which bots are due, what was seen of them, their timeline, and where a cell answers.
//! Never: write intent, generation or settings (those are requests'), or write for a bot whose lease was lost.

use std::ops::RangeInclusive;

use molt_model::bot::{Ahead, Outcome};
use molt_model::{BotId, Event, EventKind, Intent, Observed, Settings, Status, Time, UserId, Vertical};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::{Channel, Place, Result, Store, StoreError, SystemTx};

/// Lines of a bot's timeline that are kept: several restarts with every step, and short enough to send whole.
const STEPS_KEPT: i64 = 60;

/// The right to work on one bot until `until`. Every write checks it, so that a worker that slept too long changes
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub bot: BotId,
    pub until: Time,
}

/// What the fleet remembers of a bot's cell (`bots.cell`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CellNote {
    /// `unix:/path` or `tcp:host:port`; there only while a cell is meant to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The system user that is this cell's alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Digest of what the cell was started with, apart from the bot's own settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_of: Option<String>,
    /// The owner was told once that the bot is ready.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub announced: bool,
    /// The runtime refused this revision of the settings; it isn't tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_revision: Option<i64>,
    /// A change of the settings that was undone; told as long as nobody makes another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undone: Option<Undone>,
    /// When the cell or its runtime ended by itself lately, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<Time>,
    /// A cell was started under the bot's claim: the place that it came to is its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub proved: bool,
    /// Of which process of the cell so many starts of the runtime are in `ends` already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noted: Option<Restarts>,
}

/// What was undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// The revision that brought the earlier settings back.
    pub revision: i64,
    /// For the owner: which change it was.
    pub sentence: String,
}

/// How often one process of a cell had to start its runtime anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    pub boot: Uuid,
    pub count: u32,
}

/// Settings with which a runtime is known to have come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Good {
    pub revision: i64,
    pub settings: Settings,
}

/// What was seen of a bot. The fleet alone writes these columns, always all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub observed: Observed,
    pub observed_generation: i64,
    /// A sentence for the owner when something isn't as wanted.
    pub reason: Option<String>,
    pub cell: CellNote,
    pub running_since: Option<Time>,
    pub attempts: i32,
    pub last_error: Option<String>,
    pub applied_revision: i64,
    pub applied_hash: Option<String>,
    /// The settings of `applied_revision`; none where an older version didn't keep them.
    pub applied_settings: Option<Settings>,
    pub good: Option<Good>,
}

/// The step of the timeline that hasn't ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenStep {
    pub name: String,
    pub sentence: String,
    pub deadline_at: Time,
}

/// A bot as the fleet sees it: what is wanted, and what was seen last.
#[derive(Clone, Debug)]
pub struct FleetBot {
    pub id: BotId,
    pub user: UserId,
    pub vertical: Vertical,
    pub settings: Settings,
    pub revision: i64,
    pub intent: Intent,
    pub intent_reason: Option<String>,
    pub generation: i64,
    pub seen: Seen,
    /// Sealed for `gateway_token_binding`.
    pub gateway_token: Option<Vec<u8>>,
    pub step: Option<OpenStep>,
    /// When somebody last showed that they want the plan that it waits for, if it does.
    pub wanted_at: Time,
    /// None as soon as the bot was to run.
    pub ahead: Option<Ahead>,
    /// There if its place was there before it: what its host is told at each start.
    pub claim: Option<Uuid>,
}

/// What the gateway token of a bot is sealed for.
#[must_use]
pub fn gateway_token_binding(bot: &BotId) -> Place {
    Place::GatewayToken(bot.clone())
}

impl Store {
    /// Where the bot's cell answers, and the gateway token it asks for. `None`: it has no cell just now.
    pub async fn cell_address(&self, bot: &BotId) -> Result<Option<(String, SecretString)>> {
        let mut system = self.system().await?;
        let sql =
            "select cell ->> 'address', gateway_token from molt.bots where id = $1 and cell ->> 'address' is not null
                   and gateway_token is not null";
        let row: Option<(String, Vec<u8>)> =
            sqlx::query_as(sql).bind(bot.as_str()).fetch_optional(&mut *system.tx).await?;
        let Some((address, sealed)) = row else { return Ok(None) };
        let token = self.seal().open(&gateway_token_binding(bot), &sealed).map_err(unexpected)?;
        Ok(Some((address, token)))
    }
}

impl SystemTx {
    /// The id of this database, made with its schema.
    pub async fn installation(&mut self) -> Result<Uuid> {
        Ok(sqlx::query_scalar("select id from molt.installation").fetch_one(&mut *self.tx).await?)
    }

    /// Takes up to `limit` due bots, oldest first. A wake-up that comes while a bot is leased sets `due_at` again.
    pub async fn claim_due_bots(&mut self, now: Time, until: Time, limit: i64) -> Result<Vec<Lease>> {
        let sql = "update molt.bots set leased_until = $2, due_at = null where id in (
                     select id from molt.bots where coalesce(leased_until, due_at) <= $1
                     order by coalesce(leased_until, due_at) limit $3 for update skip locked)
                   returning id, leased_until";
        let rows = sqlx::query(sql).bind(now).bind(until).bind(limit).fetch_all(&mut *self.tx).await?;
        rows.iter().map(|row| Ok(Lease { bot: bot_id(row, "id")?, until: row.try_get("leased_until")? })).collect()
    }

    /// The bot under this lease. `None`: the lease or the bot is gone.
    pub async fn leased_bot(&mut self, lease: &Lease) -> Result<Option<FleetBot>> {
        let sql = "select b.*, s.name as step_name, s.sentence as step_sentence, s.deadline_at as step_deadline
                   from molt.bots b left join lateral (
                     select name, sentence, deadline_at from molt.bot_steps
                     where bot_id = b.id and ended_at is null order by position desc limit 1) s on true
                   where b.id = $1 and b.leased_until = $2";
        let row = sqlx::query(sql).bind(lease.bot.as_str()).bind(lease.until).fetch_optional(&mut *self.tx).await?;
        row.as_ref().map(fleet_bot).transpose()
    }

    /// Writes what was seen. `false`: the lease was lost; roll back.
    pub async fn record_seen(&mut self, lease: &Lease, seen: &Seen, now: Time) -> Result<bool> {
        let cell = serde_json::to_value(&seen.cell).map_err(unexpected)?;
        let json = |settings: &Settings| serde_json::to_value(settings).map_err(unexpected);
        let sql = "update molt.bots set observed = $3, observed_generation = $4, phase = $5, reason = $6, cell = $7,
                     gateway_url = $7 ->> 'address', running_since = $8, attempts = $9, last_error = $10,
                     applied_revision = $11, applied_hash = $12, updated_at = $13, applied_settings = $16,
                     good_revision = $17, good_settings = $18,
                     moves = case when $15 then 0 when observed = $3 and phase = $5 then moves else moves + 1 end,
                     phase_since = case when observed = $3 and phase = $5 then phase_since else $13 end,
                     phase_deadline_at = case when observed = $3 and phase = $5 then phase_deadline_at else $14 end
                   where id = $1 and leased_until = $2";
        let done = sqlx::query(sql)
            .bind(lease.bot.as_str())
            .bind(lease.until)
            .bind(seen.observed.word())
            .bind(seen.observed_generation)
            .bind(seen.observed.phase())
            .bind(&seen.reason)
            .bind(cell)
            .bind(seen.running_since)
            .bind(seen.attempts)
            .bind(&seen.last_error)
            .bind(seen.applied_revision)
            .bind(&seen.applied_hash)
            .bind(now)
            .bind(seen.observed.limit().map(|limit| now + limit))
            .bind(seen.observed.rests())
            .bind(seen.applied_settings.as_ref().map(json).transpose()?)
            .bind(seen.good.as_ref().map_or(0, |good| good.revision))
            .bind(seen.good.as_ref().map(|good| json(&good.settings)).transpose()?)
            .execute(&mut *self.tx)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives the bot its gateway token, once: an earlier one stays. A place that was made ahead is the bot's own from now on.
    pub async fn keep_gateway_token(&mut self, lease: &Lease, host: &str, sealed: &[u8]) -> Result<()> {
        let sql = "update molt.bots set gateway_token = coalesce(gateway_token, $3), host = $4, ahead = null
                   where id = $1 and leased_until = $2";
        let bot = lease.bot.as_str();
        sqlx::query(sql).bind(bot).bind(lease.until).bind(sealed).bind(host).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Gives the bot another gateway token; whatever knows the old one is shut out.
    pub async fn renew_gateway_token(&mut self, lease: &Lease, sealed: &[u8]) -> Result<()> {
        let sql = "update molt.bots set gateway_token = $3 where id = $1 and leased_until = $2";
        sqlx::query(sql).bind(lease.bot.as_str()).bind(lease.until).bind(sealed).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// A system user that no other bot has: one above the highest from `first` on, or the lowest free one. `None`: all are
    /// taken.
    pub async fn free_cell_uid(&mut self, range: &RangeInclusive<u32>, first: u32) -> Result<Option<u32>> {
        let sql = "with taken as (select (cell ->> 'uid')::bigint as uid from molt.bots where cell ? 'uid')
                   select uid from (
                     select coalesce(max(uid) + 1, $3) as uid, 0 as choice from taken where uid between $3 and $2
                     union all
                     select min(n), 1 from generate_series($1, $2) n where not exists (select from taken where uid = n)
                   ) c where uid between $1 and $2 order by choice limit 1";
        let uid: Option<i64> = sqlx::query_scalar(sql)
            .bind(i64::from(*range.start()))
            .bind(i64::from(*range.end()))
            .bind(i64::from(first))
            .fetch_optional(&mut *self.tx)
            .await?;
        Ok(uid.and_then(|uid| u32::try_from(uid).ok()))
    }

    /// Adds a line to the timeline. Ended lines beyond the kept number go.
    pub async fn begin_step(
        &mut self,
        bot: &FleetBot,
        name: &str,
        sentence: &str,
        now: Time,
        deadline: Time,
    ) -> Result<()> {
        let sql = "insert into molt.bot_steps (bot_id, user_id, position, name, sentence, started_at, deadline_at)
                   select $1, $2, coalesce(max(position), 0) + 1, $3, $4, $5, $6 from molt.bot_steps where bot_id = $1
                   returning position";
        let position: i64 = sqlx::query_scalar(sql)
            .bind(bot.id.as_str())
            .bind(bot.user.0)
            .bind(name)
            .bind(sentence)
            .bind(now)
            .bind(deadline)
            .fetch_one(&mut *self.tx)
            .await?;
        sqlx::query("delete from molt.bot_steps where bot_id = $1 and position <= $2")
            .bind(bot.id.as_str())
            .bind(position - STEPS_KEPT)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Ends whatever line of the timeline is open.
    pub async fn end_step(&mut self, bot: &BotId, outcome: Outcome, now: Time) -> Result<()> {
        let sql = "update molt.bot_steps set ended_at = $2, outcome = $3 where bot_id = $1 and ended_at is null";
        sqlx::query(sql).bind(bot.as_str()).bind(now).bind(outcome.as_str()).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Says more about the open line.
    pub async fn retell_step(&mut self, bot: &BotId, sentence: &str) -> Result<()> {
        let sql = "update molt.bot_steps set sentence = $2 where bot_id = $1 and ended_at is null";
        sqlx::query(sql).bind(bot.as_str()).bind(sentence).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Gives the bot back to the queue; `next` is when to look again, a wake-up since the claim comes first.
    pub async fn release_bot(&mut self, lease: &Lease, next: Option<Time>) -> Result<()> {
        let sql = "update molt.bots set leased_until = null, due_at = least(due_at, $3)
                   where id = $1 and leased_until = $2";
        let bot = lease.bot.as_str();
        sqlx::query(sql).bind(bot).bind(lease.until).bind(next).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// The fleet looks at these bots as soon as it can.
    pub async fn bots_are_due(&mut self, bots: &[BotId], now: Time) -> Result<()> {
        let ids: Vec<&str> = bots.iter().map(BotId::as_str).collect();
        let sql = "update molt.bots set due_at = least(due_at, $2) where id = any($1)";
        sqlx::query(sql).bind(ids).bind(now).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// At the start of the one fleet of this installation: leases of a killed predecessor end, every bot is looked at.
    pub async fn all_bots_are_due(&mut self, now: Time) -> Result<u64> {
        let sql = "update molt.bots set leased_until = null, due_at = least(due_at, $1)";
        Ok(sqlx::query(sql).bind(now).execute(&mut *self.tx).await?.rows_affected())
    }

    /// Bots that failed because there was nothing to run them with look again now.
    pub async fn bots_without_runtime_are_due(&mut self, now: Time) -> Result<u64> {
        let sql = "update molt.bots set due_at = least(due_at, $1)
                   where intent = 'running' and observed = 'degraded' and phase = 'no_runtime'";
        Ok(sqlx::query(sql).bind(now).execute(&mut *self.tx).await?.rows_affected())
    }

    /// When the next bot is due, if any is.
    pub async fn next_bot_due(&mut self) -> Result<Option<Time>> {
        let sql = "select min(coalesce(leased_until, due_at)) from molt.bots where coalesce(leased_until, due_at) is not null";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut *self.tx).await?)
    }

    /// Which of these bots have a row, those whose place waits for them with the others: one statement, since a bot that takes
    /// one has the id in two tables one after the other.
    pub async fn bots_with_row(&mut self, bots: &[BotId]) -> Result<Vec<BotId>> {
        let ids: Vec<&str> = bots.iter().map(BotId::as_str).collect();
        let sql = "select id from molt.bots where id = any($1) union all select id from molt.spares where id = any($1)";
        let rows = sqlx::query(sql).bind(ids).fetch_all(&mut *self.tx).await?;
        rows.iter().map(|row| bot_id(row, "id")).collect()
    }

    /// Tells the owner by mail that the bot is ready, if they want mail.
    pub async fn mail_bot_is_ready(&mut self, bot: &FleetBot) -> Result<()> {
        let sql = "insert into molt.outbox (user_id, template, to_address, data)
                   select id, 'your-bot-is-ready', email, $2 from molt.users where id = $1";
        let data = json!({ "bot_id": bot.id, "bot_name": bot.settings.bot_name });
        sqlx::query(sql).bind(bot.user.0).bind(data).execute(&mut *self.tx).await?;
        self.notify(&Channel::Outbox).await
    }

    /// Removes the bot and everything of it in the database, its chats too; a tombstone stays. `false`: the lease was lost.
    pub async fn delete_bot(&mut self, lease: &Lease) -> Result<bool> {
        let id = lease.bot.as_str();
        let sql = "delete from molt.bots where id = $1 and leased_until = $2";
        let done = sqlx::query(sql).bind(id).bind(lease.until).execute(&mut *self.tx).await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("delete from molt.events where bot_id = $1").bind(id).execute(&mut *self.tx).await?;
        Ok(true)
    }

    /// Removes the people who asked to be erased and have no bot left, with the mails that built-in mail kept for them; the
    /// books keep their anonymous key.
    pub async fn erase_people_without_bots(&mut self) -> Result<u64> {
        // Asked every few seconds, and nearly always answered with no: without a look at anybody's mail.
        let anybody = "select exists (select from molt.users u where u.erase_requested_at is not null
                         and not exists (select from molt.bots b where b.user_id = u.id))";
        if !sqlx::query_scalar::<_, bool>(anybody).fetch_one(&mut *self.tx).await? {
            return Ok(0);
        }
        let sql = "with gone as (delete from molt.users u where u.erase_requested_at is not null
                     and not exists (select from molt.bots b where b.user_id = u.id) returning id),
                   letters as (delete from molt.mails m using molt.outbox o, gone g
                     where m.outbox_id = o.id and o.user_id = g.id)
                   select count(*) from gone";
        let people: i64 = sqlx::query_scalar(sql).fetch_one(&mut *self.tx).await?;
        Ok(people.unsigned_abs())
    }

    /// All cells were stopped for a pause of the installation: what is wanted stays, the next start brings them back.
    pub async fn all_bots_rest(&mut self, now: Time) -> Result<u64> {
        let sql = "update molt.bots set observed = 'stopped', phase = 'stopped', reason = null, running_since = null,
                     cell = cell - 'address', gateway_url = null, leased_until = null, due_at = $1, updated_at = $1,
                     phase_since = $1, phase_deadline_at = null, moves = 0
                   where intent <> 'deleted' and (observed in ('infrastructure', 'booting', 'running', 'stopping')
                     or observed = 'degraded' and phase not in ('failed', 'no_runtime'))
                   returning id, user_id, intent";
        let rows = sqlx::query(sql).bind(now).fetch_all(&mut *self.tx).await?;
        for row in &rows {
            let bot = bot_id(row, "id")?;
            self.end_step(&bot, Outcome::Done, now).await?;
            let status = Status::of(word(row, "intent")?, Observed::Stopped);
            let body = json!({ "status": status, "phase": Observed::Stopped.phase() });
            self.announce_bot(UserId(row.try_get("user_id")?), &bot, EventKind::BotChanged, body, now).await?;
        }
        Ok(rows.len() as u64)
    }

    /// One event about a bot, for its owner.
    pub async fn announce_bot(
        &mut self,
        user: UserId,
        bot: &BotId,
        kind: EventKind,
        body: Value,
        now: Time,
    ) -> Result<()> {
        let event = Event { kind, bot: Some(bot.clone()), conversation: None, run: None, body };
        self.append_event(user, &event, now).await?;
        Ok(())
    }
}

fn fleet_bot(row: &PgRow) -> Result<FleetBot> {
    let cell: Option<Value> = row.try_get("cell")?;
    let cell = cell.map(serde_json::from_value).transpose().map_err(unexpected)?.unwrap_or_default();
    let step_name: Option<String> = row.try_get("step_name")?;
    let step = match step_name {
        Some(name) => {
            Some(OpenStep { name, sentence: row.try_get("step_sentence")?, deadline_at: row.try_get("step_deadline")? })
        }
        None => None,
    };
    Ok(FleetBot {
        id: bot_id(row, "id")?,
        user: UserId(row.try_get("user_id")?),
        vertical: word(row, "vertical")?,
        settings: serde_json::from_value(row.try_get("settings")?).map_err(unexpected)?,
        revision: row.try_get("revision")?,
        intent: word(row, "intent")?,
        intent_reason: row.try_get("intent_reason")?,
        generation: row.try_get("generation")?,
        seen: Seen {
            observed: observed(row)?,
            observed_generation: row.try_get("observed_generation")?,
            reason: row.try_get("reason")?,
            cell,
            running_since: row.try_get("running_since")?,
            attempts: row.try_get("attempts")?,
            last_error: row.try_get("last_error")?,
            applied_revision: row.try_get("applied_revision")?,
            applied_hash: row.try_get("applied_hash")?,
            applied_settings: kept(row.try_get("applied_settings")?),
            good: match kept(row.try_get("good_settings")?) {
                Some(settings) => Some(Good { revision: row.try_get("good_revision")?, settings }),
                None => None,
            },
        },
        gateway_token: row.try_get("gateway_token")?,
        step,
        wanted_at: row.try_get("wanted_at")?,
        ahead: row.try_get::<Option<String>, _>("ahead")?.map(|text| text.parse()).transpose().map_err(unexpected)?,
        claim: row.try_get("claim")?,
    })
}

/// Settings that an older version wrote and this one can't read are as good as none.
fn kept(settings: Option<Value>) -> Option<Settings> {
    settings.and_then(|settings| serde_json::from_value(settings).ok())
}

pub(crate) fn observed(row: &PgRow) -> Result<Observed> {
    Observed::read(row.try_get("observed")?, row.try_get("phase")?).map_err(unexpected)
}

pub(crate) fn bot_id(row: &PgRow, column: &str) -> Result<BotId> {
    row.try_get::<String, _>(column)?.parse().map_err(unexpected)
}

fn word<T: std::str::FromStr<Err = molt_model::bot::UnknownWord>>(row: &PgRow, column: &str) -> Result<T> {
    row.try_get::<String, _>(column)?.parse().map_err(unexpected)
}

fn unexpected(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unexpected(error.into())
}
