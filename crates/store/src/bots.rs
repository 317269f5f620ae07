//! Bots as their owner sees and wants them: rows of intent and settings.
//! Never: write what was seen of a cell; that is the fleet's (`fleet.rs`).

use chrono::{DateTime, Utc};
use molt_model::bot::{StepView, Suspension};
use molt_model::{BotId, Caution, Event, EventKind, Intent, Nanos, Observed, Settings, Time, Vertical};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::conversations::lock_own_bot;
use crate::suspend::SuspensionRow;
use crate::watch::Unusual;
use crate::{Channel, Result, StoreError, TenantTx};

/// A bot, whole.
#[derive(Clone, Debug)]
pub struct Bot {
    pub id: BotId,
    pub vertical: Vertical,
    pub settings: Settings,
    pub revision: i64,
    pub applied_revision: i64,
    pub intent: Intent,
    /// Somebody else than its owner keeps it from running.
    pub suspension: Option<Suspension>,
    /// The person's own cap for this bot in a period; none: only the cap for all of their use.
    pub cap: Option<Nanos>,
    pub observed: Observed,
    /// Since when it is as `observed` says.
    pub phase_since: Time,
    pub reason: Option<String>,
    /// Something about its use stands out, or it is paused.
    pub unusual: Option<Unusual>,
    /// The timeline, oldest line first.
    pub steps: Vec<StepView>,
    pub created_at: Time,
    pub running_since: Option<Time>,
}

/// A bot about to be made.
#[derive(Clone, Debug)]
pub struct NewBot {
    /// Its id, unless a spare place waits for a bot: then it gets that one's.
    pub id: BotId,
    pub vertical: Vertical,
    pub settings: Settings,
}

/// Makes a request that comes twice one request.
#[derive(Clone, Debug)]
pub struct RequestKey {
    /// The caller's own; unique among the bots of one person.
    pub key: String,
    /// Of everything that was asked for.
    pub hash: Vec<u8>,
}

/// What became of a request for a bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    New(BotId),
    /// The same request came before and made this one.
    Before(BotId),
    /// Another request came with the same key before.
    KeyOfAnother,
    /// The same request came before; its bot has been deleted.
    Deleted,
    TooMany,
}

/// What became of new settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Done {
        revision: i64,
    },
    /// Somebody wrote before; the newest revision is this one.
    Stale {
        revision: i64,
    },
    NotFound,
}

#[derive(sqlx::FromRow)]
struct BotRow {
    id: String,
    vertical: String,
    settings: Value,
    revision: i64,
    applied_revision: i64,
    intent: String,
    #[sqlx(flatten)]
    suspension: SuspensionRow,
    cap_nanos: Option<i64>,
    observed: String,
    phase: String,
    phase_since: DateTime<Utc>,
    reason: Option<String>,
    caution: Option<String>,
    noticed: Option<String>,
    noticed_since: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    running_since: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct StepRow {
    bot_id: String,
    name: String,
    sentence: String,
    started_at: DateTime<Utc>,
    deadline_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    outcome: Option<String>,
}

impl TenantTx {
    /// Makes a bot, wanted running if a plan is in force and waiting for one otherwise, unless the person has `count_max`
    /// already. Where a spare place waits, the bot gets that place with its id: the answer says which id it has. Safe to repeat
    /// with the same `request`. Their row is locked until the transaction ends, so that two requests can't pass the limit
    /// together, nor a plan slip by.
    pub async fn insert_bot(
        &mut self,
        bot: &NewBot,
        request: Option<&RequestKey>,
        count_max: i64,
        now: Time,
    ) -> Result<Made> {
        sqlx::query("select from molt.users where id = $1 for update").bind(self.user.0).execute(&mut *self.tx).await?;
        if let Some(made) = self.made_by(request).await? {
            return Ok(made);
        }
        let sql = "select count(*) from molt.bots where user_id = $1 and intent <> 'deleted'";
        let count: i64 = sqlx::query_scalar(sql).bind(self.user.0).fetch_one(&mut *self.tx).await?;
        if count >= count_max {
            return Ok(Made::TooMany);
        }
        let in_force = self.billing().await?.is_some_and(|billing| billing.in_force());
        let intent = if in_force { Intent::Running } else { Intent::AwaitingPlan };
        let spare = self.take_spare().await?;
        // Its place is there already: the fleet looks once, to know until when it waits for a plan.
        let is_due = in_force || spare.is_some();
        let claim = spare.as_ref().map(|_| Uuid::new_v4());
        let id = spare.as_ref().unwrap_or(&bot.id);
        let sql = "insert into molt.bots (id, user_id, bot_name, vertical, settings, intent, phase, due_at, created_at, updated_at,
                     wanted_at, request_key, request_hash, claim)
                   values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $9, $10, $11, $12)";
        sqlx::query(sql)
            .bind(id.as_str())
            .bind(self.user.0)
            .bind(&bot.settings.bot_name)
            .bind(bot.vertical.as_str())
            .bind(json_of(&bot.settings)?)
            .bind(intent.as_str())
            .bind(if in_force { "queued" } else { "awaiting_plan" })
            .bind(is_due.then_some(now))
            .bind(now)
            .bind(request.map(|request| &request.key))
            .bind(request.map(|request| &request.hash))
            .bind(claim)
            .execute(&mut *self.tx)
            .await?;
        let body = json!({ "bot_name": bot.settings.bot_name, "intent": intent });
        self.announce(id, EventKind::BotCreated, body, now).await?;
        self.notify(&Channel::Fleet).await?;
        Ok(Made::New(id.clone()))
    }

    async fn made_by(&mut self, request: Option<&RequestKey>) -> Result<Option<Made>> {
        let Some(request) = request else { return Ok(None) };
        let sql =
            "select id, request_hash = $3, intent = 'deleted' from molt.bots where user_id = $1 and request_key = $2";
        let row: Option<(String, bool, bool)> = sqlx::query_as(sql)
            .bind(self.user.0)
            .bind(&request.key)
            .bind(&request.hash)
            .fetch_optional(&mut *self.tx)
            .await?;
        let Some((id, same, deleted)) = row else { return Ok(None) };
        Ok(Some(match (same, deleted) {
            (false, _) => Made::KeyOfAnother,
            (true, true) => Made::Deleted,
            (true, false) => Made::Before(id.parse().map_err(unexpected)?),
        }))
    }

    /// One bot of this person's, with its timeline.
    pub async fn bot(&mut self, id: &BotId) -> Result<Option<Bot>> {
        Ok(self.bots_where(Some(id)).await?.pop())
    }

    /// All bots of this person, oldest first, each with its timeline.
    pub async fn bots(&mut self) -> Result<Vec<Bot>> {
        self.bots_where(None).await
    }

    async fn bots_where(&mut self, id: Option<&BotId>) -> Result<Vec<Bot>> {
        let sql = "select b.id, vertical, settings, revision, applied_revision, intent, cap_nanos, observed,
                     phase, phase_since, b.reason, b.created_at, running_since,
                     s.cause as suspended_cause, s.reason as suspended_reason, s.since as suspended_since,
                     case when k.paused_at is not null then 'paused' else w.caution end as caution,
                     coalesce(k.paused_reason, w.reason) as noticed, coalesce(w.since, k.paused_at) as noticed_since
                   from molt.bots b
                   left join molt.watches w on w.bot_id = b.id
                   left join lateral (select paused_at, paused_reason from molt.ghost_keys
                     where bot_id = b.id and revoked_at is null and paused_at is not null limit 1) k on true
                   left join lateral (select cause, reason, since from molt.suspensions
                     where bot_id = b.id order by cause limit 1) s on true
                   where b.user_id = $1 and intent <> 'deleted' and ($2::text is null or b.id = $2)
                   order by b.created_at, b.id";
        let id = id.map(BotId::as_str);
        let rows: Vec<BotRow> = sqlx::query_as(sql).bind(self.user.0).bind(id).fetch_all(&mut *self.tx).await?;
        let sql = "select bot_id, name, sentence, started_at, deadline_at, ended_at, outcome from molt.bot_steps
                   where user_id = $1 and ($2::text is null or bot_id = $2) order by bot_id, position";
        let steps: Vec<StepRow> = sqlx::query_as(sql).bind(self.user.0).bind(id).fetch_all(&mut *self.tx).await?;
        rows.into_iter().map(|row| bot_of(row, &steps)).collect()
    }

    /// Replaces the settings if `seen` is still the newest revision.
    pub async fn write_settings(&mut self, id: &BotId, seen: i64, settings: &Settings, now: Time) -> Result<Written> {
        let sql =
            "update molt.bots set settings = $4, bot_name = $5, revision = revision + 1, due_at = $6, attempts = 0,
                     updated_at = $6
                   where id = $1 and user_id = $2 and revision = $3 and intent <> 'deleted' returning revision";
        let written: Option<i64> = sqlx::query_scalar(sql)
            .bind(id.as_str())
            .bind(self.user.0)
            .bind(seen)
            .bind(json_of(settings)?)
            .bind(&settings.bot_name)
            .bind(now)
            .fetch_optional(&mut *self.tx)
            .await?;
        let Some(revision) = written else {
            let sql = "select revision from molt.bots where id = $1 and user_id = $2 and intent <> 'deleted'";
            let query = sqlx::query_scalar(sql).bind(id.as_str()).bind(self.user.0);
            let newest: Option<i64> = query.fetch_optional(&mut *self.tx).await?;
            return Ok(newest.map_or(Written::NotFound, |revision| Written::Stale { revision }));
        };
        self.announce(id, EventKind::BotChanged, json!({ "revision": revision }), now).await?;
        self.notify(&Channel::Fleet).await?;
        Ok(Written::Done { revision })
    }

    /// Asks for a fresh start of a bot that is meant to run. `false`: it isn't meant to run, or isn't there.
    pub async fn restart_bot(&mut self, id: &BotId, now: Time) -> Result<bool> {
        let sql = "update molt.bots set generation = generation + 1, due_at = $3, attempts = 0, updated_at = $3
                   where id = $1 and user_id = $2 and intent = 'running'";
        let done = sqlx::query(sql).bind(id.as_str()).bind(self.user.0).bind(now).execute(&mut *self.tx).await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        self.announce(id, EventKind::BotChanged, json!({ "restart": true }), now).await?;
        self.notify(&Channel::Fleet).await?;
        Ok(true)
    }

    /// Wants a running bot stopped, by its owner's own wish. `false`: it isn't meant to run, or isn't there.
    pub async fn stop_bot(&mut self, id: &BotId, now: Time) -> Result<bool> {
        let sql =
            "update molt.bots set intent = 'stopped', intent_reason = null, due_at = $3, attempts = 0, updated_at = $3
                   where id = $1 and user_id = $2 and intent = 'running'";
        self.intend(sql, id, Intent::Stopped, now).await
    }

    /// Wants a bot running again that its owner stopped, if a plan is in force; otherwise it waits for one. `false`: it
    /// isn't stopped, or somebody else stopped it, or it isn't there.
    pub async fn start_stopped_bot(&mut self, id: &BotId, now: Time) -> Result<bool> {
        // Whoever ends the plan has this row, too, so that the bot can't slip by.
        lock_own_bot(&mut self.tx, id).await?;
        let in_force = self.billing().await?.is_some_and(|billing| billing.in_force());
        let (sql, intent) = if in_force {
            let sql = "update molt.bots set intent = 'running', due_at = $3, attempts = 0, updated_at = $3
                       where id = $1 and user_id = $2 and intent = 'stopped' and intent_reason is null";
            (sql, Intent::Running)
        } else {
            let sql = "update molt.bots set intent = 'awaiting_plan', due_at = $3, attempts = 0, updated_at = $3
                       where id = $1 and user_id = $2 and intent = 'stopped' and intent_reason is null";
            (sql, Intent::AwaitingPlan)
        };
        self.intend(sql, id, intent, now).await
    }

    async fn intend(&mut self, sql: &'static str, id: &BotId, intent: Intent, now: Time) -> Result<bool> {
        let done = sqlx::query(sql).bind(id.as_str()).bind(self.user.0).bind(now).execute(&mut *self.tx).await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        self.announce(id, EventKind::BotChanged, json!({ "intent": intent }), now).await?;
        self.notify(&Channel::Fleet).await?;
        Ok(true)
    }

    /// Sets where this bot's use stops in a period; none: only the person's own cap holds. `false`: it isn't there.
    pub async fn set_bot_cap(&mut self, id: &BotId, cap: Option<Nanos>, now: Time) -> Result<bool> {
        let sql = "update molt.bots set cap_nanos = $3, updated_at = $4
                   where id = $1 and user_id = $2 and intent <> 'deleted'";
        let query = sqlx::query(sql).bind(id.as_str()).bind(self.user.0).bind(cap.map(|cap| cap.0)).bind(now);
        if query.execute(&mut *self.tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        self.announce(id, EventKind::BotChanged, json!({ "cap_usd": cap }), now).await?;
        Ok(true)
    }

    /// Wants the bot gone with everything that belongs to it; nobody sees it from now on. `false`: it isn't there.
    pub async fn delete_bot(&mut self, id: &BotId, now: Time) -> Result<bool> {
        let sql = "update molt.bots set intent = 'deleted', due_at = $3, attempts = 0, updated_at = $3
                   where id = $1 and user_id = $2 and intent <> 'deleted'";
        self.intend(sql, id, Intent::Deleted, now).await
    }

    async fn announce(&mut self, bot: &BotId, kind: EventKind, body: Value, now: Time) -> Result<()> {
        let event = Event { kind, bot: Some(bot.clone()), conversation: None, run: None, body };
        self.append_event(&event, now).await?;
        Ok(())
    }
}

fn bot_of(row: BotRow, steps: &[StepRow]) -> Result<Bot> {
    let steps = steps.iter().filter(|step| step.bot_id == row.id).map(step_of).collect::<Result<_>>()?;
    let caution: Caution = row.caution.as_deref().map_or(Ok(Caution::Calm), str::parse).map_err(unexpected)?;
    let unusual = row.noticed_since.filter(|_| caution > Caution::Calm).map(|since| Unusual {
        caution,
        reason: row.noticed.unwrap_or_default(),
        since,
    });
    Ok(Bot {
        unusual,
        id: row.id.parse().map_err(unexpected)?,
        vertical: row.vertical.parse().map_err(unexpected)?,
        settings: serde_json::from_value(row.settings).map_err(unexpected)?,
        revision: row.revision,
        applied_revision: row.applied_revision,
        intent: row.intent.parse().map_err(unexpected)?,
        suspension: row.suspension.read()?,
        cap: row.cap_nanos.map(Nanos),
        observed: Observed::read(&row.observed, &row.phase).map_err(unexpected)?,
        phase_since: row.phase_since,
        reason: row.reason,
        steps,
        created_at: row.created_at,
        running_since: row.running_since,
    })
}

fn step_of(row: &StepRow) -> Result<StepView> {
    Ok(StepView {
        name: row.name.clone(),
        sentence: row.sentence.clone(),
        started_at: row.started_at,
        deadline_at: row.deadline_at,
        ended_at: row.ended_at,
        outcome: row.outcome.as_deref().map(str::parse).transpose().map_err(unexpected)?,
    })
}

fn json_of(settings: &Settings) -> Result<Value> {
    serde_json::to_value(settings).map_err(unexpected)
}

fn unexpected(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unexpected(error.into())
}
