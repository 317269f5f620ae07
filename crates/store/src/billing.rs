//! Plans, checkouts, and the inbox of payment events.
//! Never: a plan without the period that usage is counted in.

use chrono::{DateTime, Utc};
use molt_model::{BotId, CheckoutId, Event, EventKind, Intent, Time, UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::outbox::NewMessage;
use crate::{Channel, Result, StoreError, SystemTx, TenantTx};

/// A person's plan.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct BillingRow {
    pub provider: String,
    pub subscription_status: Option<String>,
    pub current_period_start: Option<DateTime<Utc>>,
    pub current_period_end: Option<DateTime<Utc>>,
    /// It isn't renewed at the period's end.
    pub cancel_at_period_end: bool,
}

impl BillingRow {
    /// Whether bots may run and models may be called. A late payment doesn't stop anybody at once.
    #[must_use]
    pub fn in_force(&self) -> bool {
        matches!(self.subscription_status.as_deref(), Some("active" | "trialing" | "past_due"))
    }

    /// When it ends, if somebody cancelled it, or has ended.
    #[must_use]
    pub fn ends_at(&self) -> Option<DateTime<Utc>> {
        self.current_period_end.filter(|_| self.cancel_at_period_end || !self.in_force())
    }
}

/// An attempt to buy a plan.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct CheckoutRow {
    pub bot_id: Option<String>,
    pub state: String,
    pub expires_at: DateTime<Utc>,
}

/// A verified event of a payment provider (or an identity provider) that isn't processed.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct InboxRow {
    pub provider: String,
    pub event_id: String,
    pub kind: String,
    pub body: Value,
    pub attempts: i32,
}

impl TenantTx {
    pub async fn billing(&mut self) -> Result<Option<BillingRow>> {
        let sql = "select provider, subscription_status, current_period_start, current_period_end, cancel_at_period_end
                   from molt.billing where user_id = $1";
        Ok(sqlx::query_as(sql).bind(self.user.0).fetch_optional(&mut *self.tx).await?)
    }

    /// Keeps an attempt to buy a plan, for the bot that made the person ask if there is one.
    pub async fn insert_checkout(
        &mut self,
        id: CheckoutId,
        bot: Option<&BotId>,
        provider: &str,
        now: Time,
        expires_at: Time,
    ) -> Result<()> {
        let sql = "insert into molt.checkouts (id, user_id, bot_id, provider, created_at, expires_at)
                   values ($1, $2, $3, $4, $5, $6)";
        sqlx::query(sql)
            .bind(id.0)
            .bind(self.user.0)
            .bind(bot.map(BotId::as_str))
            .bind(provider)
            .bind(now)
            .bind(expires_at)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// An attempt of this person's.
    pub async fn checkout(&mut self, id: CheckoutId) -> Result<Option<CheckoutRow>> {
        let sql = "select bot_id, state, expires_at from molt.checkouts where id = $1 and user_id = $2";
        Ok(sqlx::query_as(sql).bind(id.0).bind(self.user.0).fetch_optional(&mut *self.tx).await?)
    }
}

impl SystemTx {
    /// Keeps a verified event. `false`: it was known already, which is nothing.
    pub async fn insert_inbox(
        &mut self,
        provider: &str,
        event_id: &str,
        kind: &str,
        body: &Value,
        now: Time,
    ) -> Result<bool> {
        let sql = "insert into molt.inbox (provider, event_id, kind, body, received_at, due_at)
                   values ($1, $2, $3, $4, $5, $5) on conflict do nothing";
        let query = sqlx::query(sql).bind(provider).bind(event_id).bind(kind).bind(body).bind(now);
        let new = query.execute(&mut *self.tx).await?.rows_affected() == 1;
        self.notify(&Channel::Inbox).await?;
        Ok(new)
    }

    /// The oldest due event, locked until this transaction ends; others skip it.
    pub async fn lock_due_inbox(&mut self, now: Time) -> Result<Option<InboxRow>> {
        let sql = "select provider, event_id, kind, body, attempts from molt.inbox
                   where processed_at is null and due_at <= $1 order by due_at limit 1 for update skip locked";
        Ok(sqlx::query_as(sql).bind(now).fetch_optional(&mut *self.tx).await?)
    }

    pub async fn inbox_is_processed(&mut self, row: &InboxRow, now: Time) -> Result<()> {
        let sql = "update molt.inbox set processed_at = $3, due_at = null, last_error = null
                   where provider = $1 and event_id = $2";
        sqlx::query(sql).bind(&row.provider).bind(&row.event_id).bind(now).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// The event could not be processed; `next` is when to try again, none: never (a person must look).
    pub async fn inbox_has_failed(&mut self, row: &InboxRow, why: &str, next: Option<Time>) -> Result<()> {
        let sql = "update molt.inbox set attempts = attempts + 1, last_error = $3, due_at = $4
                   where provider = $1 and event_id = $2";
        let query = sqlx::query(sql).bind(&row.provider).bind(&row.event_id).bind(why).bind(next);
        query.execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Ends an attempt to buy a plan. `None`: it is unknown, because its person is gone.
    pub async fn complete_checkout(&mut self, id: CheckoutId) -> Result<Option<UserId>> {
        let sql = "update molt.checkouts set state = 'completed' where id = $1 returning user_id";
        let row: Option<Uuid> = sqlx::query_scalar(sql).bind(id.0).fetch_optional(&mut *self.tx).await?;
        Ok(row.map(UserId))
    }

    /// Puts a plan in force for a month from `now`, or takes its cancellation back: one that is in force keeps its period.
    /// Every bot that waits for it, or was suspended because it had ended, is wanted as before; their ids.
    pub async fn activate_plan(&mut self, user: UserId, provider: &str, now: Time) -> Result<Vec<BotId>> {
        let sql = "insert into molt.billing as b (user_id, provider, subscription_status, current_period_start,
                     current_period_end, created_at, updated_at)
                   values ($1, $2, 'active', $3, $3 + interval '1 month', $3, $3)
                   on conflict (user_id) do update set provider = $2, subscription_status = 'active',
                     current_period_start = case when b.current_period_end > $3 then b.current_period_start else $3 end,
                     current_period_end = case when b.current_period_end > $3 then b.current_period_end
                                               else $3 + interval '1 month' end,
                     cancel_at_period_end = false, updated_at = $3";
        sqlx::query(sql).bind(user.0).bind(provider).bind(now).execute(&mut *self.tx).await?;
        self.lock_bots_of(user).await?;
        self.tell_plan(user, json!({ "subscription_status": "active", "ends_at": null }), now).await?;
        let mut bots = self.start_waiting_bots(user, now).await?;
        bots.extend(self.lift_for_plan(user, now).await?);
        Ok(bots)
    }

    /// The plan stays in force until its period ends and isn't renewed then. When that is; `None`: none is in force. Twice
    /// is once.
    pub async fn cancel_plan(&mut self, user: UserId, now: Time) -> Result<Option<Time>> {
        let sql = "update molt.billing b set cancel_at_period_end = true, updated_at = $2
                   from (select user_id, cancel_at_period_end from molt.billing where user_id = $1 for update) old
                   where b.user_id = old.user_id and subscription_status in ('active', 'trialing', 'past_due')
                   returning b.current_period_end, old.cancel_at_period_end";
        let row: Option<(Option<Time>, bool)> =
            sqlx::query_as(sql).bind(user.0).bind(now).fetch_optional(&mut *self.tx).await?;
        let Some((ends_at, before)) = row else { return Ok(None) };
        if !before {
            self.tell_plan(user, json!({ "ends_at": ends_at }), now).await?;
        }
        Ok(ends_at)
    }

    /// Ends one built-in plan that was cancelled and whose period is over: the person's bots are suspended, and they are told.
    /// `None`: there is no more of them. Safe in several processes.
    pub async fn end_cancelled_plan(&mut self, now: Time) -> Result<Option<(UserId, Vec<BotId>)>> {
        let sql =
            "update molt.billing set subscription_status = 'canceled', cancel_at_period_end = false, updated_at = $1
                   where user_id = (select user_id from molt.billing
                     where cancel_at_period_end and provider = 'local' and current_period_end <= $1
                       and subscription_status in ('active', 'trialing', 'past_due')
                     order by current_period_end limit 1 for update skip locked)
                   returning user_id, current_period_end";
        let row: Option<(Uuid, Time)> = sqlx::query_as(sql).bind(now).fetch_optional(&mut *self.tx).await?;
        let Some((user, ended_at)) = row.map(|(user, at)| (UserId(user), at)) else { return Ok(None) };
        self.lock_bots_of(user).await?;
        self.tell_plan(user, json!({ "subscription_status": "canceled", "ends_at": ended_at }), now).await?;
        let bots = self.suspend_for_plan(user, now).await?;
        let sql = "select email from molt.users where id = $1 and erase_requested_at is null";
        let email: Option<String> = sqlx::query_scalar(sql).bind(user.0).fetch_optional(&mut *self.tx).await?;
        if let Some(to_address) = &email {
            let data = json!({ "ended": ended_at.format("%-d %B %Y").to_string() });
            let mail = NewMessage { id: Uuid::new_v4(), user: Some(user), template: "plan-ended", to_address, data };
            self.enqueue(&mail, now).await?;
        }
        Ok(Some((user, bots)))
    }

    /// Before the person's row, which the event locks: in the order in which the fleet takes them. A bot that is being made
    /// meanwhile holds the person's row, and is seen once that is given back.
    async fn lock_bots_of(&mut self, user: UserId) -> Result<()> {
        let sql = "select from molt.bots where user_id = $1 order by id for no key update";
        sqlx::query(sql).bind(user.0).execute(&mut *self.tx).await?;
        Ok(())
    }

    async fn tell_plan(&mut self, user: UserId, body: Value, now: Time) -> Result<()> {
        let event = Event { kind: EventKind::PlanChanged, bot: None, conversation: None, run: None, body };
        self.append_event(user, &event, now).await?;
        Ok(())
    }

    /// Wants every bot of the person running that waits for a plan.
    async fn start_waiting_bots(&mut self, user: UserId, now: Time) -> Result<Vec<BotId>> {
        let sql = "update molt.bots set intent = 'running', due_at = $2, attempts = 0,
                     phase = case when observed = 'reserved' then 'queued' else phase end, updated_at = $2
                   where user_id = $1 and intent = 'awaiting_plan' returning id";
        let ids: Vec<String> = sqlx::query_scalar(sql).bind(user.0).bind(now).fetch_all(&mut *self.tx).await?;
        let mut bots = Vec::new();
        for id in ids {
            let bot: BotId = id.parse().map_err(|error: molt_model::id::InvalidId| unexpected(error))?;
            let event = Event {
                kind: EventKind::BotChanged,
                bot: Some(bot.clone()),
                conversation: None,
                run: None,
                body: json!({ "intent": Intent::Running }),
            };
            self.append_event(user, &event, now).await?;
            bots.push(bot);
        }
        self.notify(&Channel::Fleet).await?;
        Ok(bots)
    }

    /// Begins the next period of every built-in plan whose period is over. Periods follow each other without a gap.
    pub async fn renew_local_plans(&mut self, now: Time) -> Result<u64> {
        let sql = "update molt.billing set current_period_start = current_period_end,
                     current_period_end = current_period_end + interval '1 month', updated_at = $1
                   where provider = 'local' and subscription_status = 'active' and current_period_end <= $1
                     and not cancel_at_period_end
                   returning user_id";
        let users: Vec<Uuid> = sqlx::query_scalar(sql).bind(now).fetch_all(&mut *self.tx).await?;
        Ok(users.len() as u64)
    }
}

fn unexpected(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unexpected(error.into())
}
