//! Bots that somebody else than their owner keeps from running, each reason a row: what an operator decided, and what follows
//! from a plan that has ended.
//! Never: one reason lifted by whoever gave the other, or a bot's owner who isn't told.

use molt_model::bot::{Cause, PLAN_ENDED, Suspension};
use molt_model::{BotId, Event, EventKind, Intent, Time, UserId};
use serde_json::json;
use uuid::Uuid;

use crate::outbox::NewMessage;
use crate::{Channel, Result, StoreError, SystemTx};

/// A bot that an operator suspended, as operators see it.
#[derive(Clone, Debug)]
pub struct SuspendedBot {
    pub bot: BotId,
    pub user: UserId,
    pub suspension: Suspension,
}

/// What an operator's resumption came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Something was in its way that is so no more.
    pub resumed: bool,
    /// What keeps it from running all the same.
    pub left: Option<Suspension>,
}

/// A suspension as the columns of a query, each none if there is none.
#[derive(sqlx::FromRow)]
pub(crate) struct SuspensionRow {
    pub(crate) suspended_cause: Option<String>,
    pub(crate) suspended_reason: Option<String>,
    pub(crate) suspended_since: Option<Time>,
}

impl SuspensionRow {
    pub(crate) fn read(self) -> Result<Option<Suspension>> {
        let (Some(cause), Some(reason), Some(since)) =
            (self.suspended_cause, self.suspended_reason, self.suspended_since)
        else {
            return Ok(None);
        };
        Ok(Some(Suspension { cause: cause.parse().map_err(unexpected)?, reason, since }))
    }
}

#[derive(sqlx::FromRow)]
struct Told {
    id: String,
    user_id: Uuid,
    email: String,
    bot_name: String,
}

impl SystemTx {
    /// Keeps a bot from running until an operator resumes it, and tells its owner. `None`: no such bot. Suspended again it
    /// keeps its date and takes the newer reason, which is told as well.
    pub async fn suspend_bot(&mut self, bot: &BotId, reason: &str, now: Time) -> Result<Option<Suspension>> {
        // The bot's row first, as everybody does who writes about it; then the person's, with the event.
        let sql = "select b.id, b.user_id, u.email, b.bot_name from molt.bots b join molt.users u on u.id = b.user_id
                   where b.id = $1 and b.intent <> 'deleted' for no key update of b";
        let told: Option<Told> = sqlx::query_as(sql).bind(bot.as_str()).fetch_optional(&mut *self.tx).await?;
        let Some(told) = told else { return Ok(None) };
        let before = suspension(&mut self.tx, bot).await?.filter(|before| before.cause == Cause::Operator);
        self.add_cause(&[told.id], Cause::Operator, reason, now).await?;
        if before.is_none_or(|before| before.reason != reason) {
            let data = json!({ "bot_name": told.bot_name, "bot_id": bot, "reason": reason });
            let (user, to_address) = (Some(UserId(told.user_id)), told.email.as_str());
            let mail = NewMessage { id: Uuid::new_v4(), user, template: "bot-suspended", to_address, data };
            self.enqueue(&mail, now).await?;
        }
        suspension(&mut self.tx, bot).await
    }

    /// Lifts what an operator decided, and a pause because of unusual use; a plan that has ended still counts. `None`: no such
    /// bot. Safe to repeat.
    pub async fn resume_for_operator(&mut self, bot: &BotId, now: Time) -> Result<Option<Resumed>> {
        let Some(unpaused) = self.resume_bot(bot, now).await? else { return Ok(None) };
        let sql = "delete from molt.suspensions where bot_id = $1 and cause = 'operator' returning bot_id";
        let lifted: Option<String> = sqlx::query_scalar(sql).bind(bot.as_str()).fetch_optional(&mut *self.tx).await?;
        let resumed = unpaused || lifted.is_some();
        if let Some(id) = lifted {
            self.follow_suspensions(&[id], now).await?;
        }
        Ok(Some(Resumed { resumed, left: suspension(&mut self.tx, bot).await? }))
    }

    /// Suspends every bot of the person that is wanted running, because the plan has ended. The caller has locked them.
    pub(crate) async fn suspend_for_plan(&mut self, user: UserId, now: Time) -> Result<Vec<BotId>> {
        let sql = "select id from molt.bots where user_id = $1
                     and (intent = 'running' or intent = 'stopped' and intent_before = 'running')";
        let ids: Vec<String> = sqlx::query_scalar(sql).bind(user.0).fetch_all(&mut *self.tx).await?;
        self.add_cause(&ids, Cause::PlanEnded, PLAN_ENDED, now).await?;
        bot_ids(ids)
    }

    /// The plan is in force again: what its end led to is lifted; a bot that an operator suspended stays so. The caller has
    /// locked them.
    pub(crate) async fn lift_for_plan(&mut self, user: UserId, now: Time) -> Result<Vec<BotId>> {
        let sql = "delete from molt.suspensions where user_id = $1 and cause = 'plan_ended' returning bot_id";
        let ids: Vec<String> = sqlx::query_scalar(sql).bind(user.0).fetch_all(&mut *self.tx).await?;
        self.follow_suspensions(&ids, now).await?;
        bot_ids(ids)
    }

    /// Bots that an operator suspended, newest first.
    pub async fn suspended_bots(&mut self, limit: i64) -> Result<Vec<SuspendedBot>> {
        let sql = "select bot_id, user_id, reason, since from molt.suspensions
                   where cause = 'operator' order by since desc, bot_id limit $1";
        let rows: Vec<(String, Uuid, String, Time)> = sqlx::query_as(sql).bind(limit).fetch_all(&mut *self.tx).await?;
        let suspended = |(bot, user, reason, since): (String, Uuid, String, Time)| {
            let suspension = Suspension { cause: Cause::Operator, reason, since };
            Ok(SuspendedBot { bot: bot.parse().map_err(unexpected)?, user: UserId(user), suspension })
        };
        rows.into_iter().map(suspended).collect()
    }

    async fn add_cause(&mut self, bots: &[String], cause: Cause, reason: &str, now: Time) -> Result<()> {
        let sql = "insert into molt.suspensions (bot_id, user_id, cause, reason, since)
                   select id, user_id, $2, $3, $4 from molt.bots where id = any($1) and intent <> 'deleted'
                   on conflict (bot_id, cause) do update set reason = excluded.reason";
        let query = sqlx::query(sql).bind(bots).bind(cause.as_str()).bind(reason).bind(now);
        query.execute(&mut *self.tx).await?;
        self.follow_suspensions(bots, now).await
    }

    /// Makes what is wanted of these bots follow their suspensions: stopped as long as there is one; then what was wanted
    /// before, or a plan if that is missing.
    async fn follow_suspensions(&mut self, bots: &[String], now: Time) -> Result<()> {
        let sql = "with wanted as (
                     select b.id, s.reason,
                       case when s.reason is not null or b.intent_before = 'stopped' then 'stopped'
                            when p.subscription_status in ('active', 'trialing', 'past_due') then 'running'
                            else 'awaiting_plan' end as intent
                     from molt.bots b left join molt.billing p on p.user_id = b.user_id
                     left join lateral (select reason from molt.suspensions where bot_id = b.id order by cause limit 1) s on true
                     where b.id = any($1))
                   update molt.bots b set intent = w.intent, intent_reason = w.reason,
                     intent_before = case when w.reason is not null then coalesce(b.intent_before, b.intent) end,
                     phase = case when b.observed <> 'reserved' then b.phase
                                  when w.intent = 'running' then 'queued' else 'awaiting_plan' end,
                     due_at = $2, attempts = 0, updated_at = $2
                   from wanted w
                   where b.id = w.id and b.intent <> 'deleted' and (w.reason is not null or b.intent_before is not null)
                   returning b.id, b.user_id, b.intent";
        let rows: Vec<(String, Uuid, String)> =
            sqlx::query_as(sql).bind(bots).bind(now).fetch_all(&mut *self.tx).await?;
        for (id, user, intent) in rows {
            let (bot, intent): (BotId, Intent) = (id.parse().map_err(unexpected)?, intent.parse().map_err(unexpected)?);
            let body = json!({ "intent": intent });
            let event = Event { kind: EventKind::BotChanged, bot: Some(bot), conversation: None, run: None, body };
            self.append_event(UserId(user), &event, now).await?;
        }
        self.notify(&Channel::Fleet).await
    }
}

/// The reason that is told of this bot; none: it isn't suspended, or under row-level security isn't the caller's.
pub(crate) async fn suspension(connection: &mut sqlx::PgConnection, bot: &BotId) -> Result<Option<Suspension>> {
    let sql = "select cause as suspended_cause, reason as suspended_reason, since as suspended_since
               from molt.suspensions where bot_id = $1 order by cause limit 1";
    let row: Option<SuspensionRow> = sqlx::query_as(sql).bind(bot.as_str()).fetch_optional(connection).await?;
    row.map_or(Ok(None), SuspensionRow::read)
}

fn bot_ids(ids: Vec<String>) -> Result<Vec<BotId>> {
    ids.into_iter().map(|id| id.parse().map_err(unexpected)).collect()
}

fn unexpected(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unexpected(error.into())
}
