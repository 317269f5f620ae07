//! What was noticed about a bot's use, and what follows from it until its owner says that all is well.
//! Never: a second alarm for the same step of one episode, or a pause that ends by itself.

use molt_model::watch::Caution;
use molt_model::{BotId, Event, EventKind, Nanos, Time, UserId};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::outbox::NewMessage;
use crate::{Result, StoreError, SystemTx, TenantTx};

/// Something that was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    pub caution: Caution,
    /// What was noticed, in sentences for the bot's owner.
    pub reason: String,
    /// The oldest of what it is made of. If the owner resumed the bot after that, it is no sign.
    pub since: Time,
}

/// What a bot's owner is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusual {
    pub caution: Caution,
    pub reason: String,
    pub since: Time,
}

/// What a bot used in one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Hour {
    pub hour: Time,
    pub calls: i64,
    /// Of these, the ones that no message of a person's led to.
    pub unasked: i64,
    pub cost_nanos: i64,
    /// It changed since somebody looked.
    pub unseen: bool,
}

/// All that a judgement of a bot's use needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Hours with calls, oldest first.
    pub hours: Vec<Hour>,
    /// When somebody last wrote to the bot.
    pub asked_at: Option<Time>,
    /// When its owner last said that all is well.
    pub resumed_at: Option<Time>,
}

#[derive(sqlx::FromRow)]
struct Watched {
    user_id: Uuid,
    email: String,
    bot_name: String,
    wants_mail: bool,
    caution: Option<String>,
    resumed_at: Option<Time>,
}

impl SystemTx {
    /// Notes a sign: the bot goes up to its caution, if it is higher than the one in force, and its owner is told. The new
    /// caution; `None`: nothing changed but the time of the newest sign. Safe to repeat: a step is taken, and told, once.
    pub async fn note_sign(&mut self, bot: &BotId, sign: &Sign, now: Time) -> Result<Option<Caution>> {
        // The bot's row first, as whoever makes its key anew does, so that a pause can't miss the newest key; and in a
        // statement of its own, so that the next one sees what another process noted meanwhile.
        let sql = "select from molt.bots where id = $1 for no key update";
        sqlx::query(sql).bind(bot.as_str()).execute(&mut *self.tx).await?;
        let sql = "select b.user_id, u.email, b.bot_name, w.caution, w.resumed_at,
                     coalesce((b.settings -> 'notifications' ->> 'email')::boolean, true) as wants_mail
                   from molt.bots b join molt.users u on u.id = b.user_id left join molt.watches w on w.bot_id = b.id
                   where b.id = $1 and b.intent <> 'deleted'";
        let watched: Option<Watched> = sqlx::query_as(sql).bind(bot.as_str()).fetch_optional(&mut *self.tx).await?;
        let Some(watched) = watched else { return Ok(None) };
        if watched.resumed_at.is_some_and(|resumed| sign.since < resumed) || sign.caution == Caution::Calm {
            return Ok(None);
        }
        let before = caution(watched.caution.as_deref())?;
        if sign.caution <= before {
            let sql = "update molt.watches set seen_at = greatest(seen_at, $2) where bot_id = $1";
            sqlx::query(sql).bind(bot.as_str()).bind(now).execute(&mut *self.tx).await?;
            return Ok(None);
        }
        let user = UserId(watched.user_id);
        let sql = "insert into molt.watches (bot_id, user_id, caution, reason, since, seen_at)
                   values ($1, $2, $3, $4, $5, $6)
                   on conflict (bot_id) do update set caution = excluded.caution, reason = excluded.reason,
                     since = coalesce(molt.watches.since, excluded.since), seen_at = excluded.seen_at
                   returning since";
        let since: Time = sqlx::query_scalar(sql)
            .bind(bot.as_str())
            .bind(user.0)
            .bind(sign.caution.as_str())
            .bind(&sign.reason)
            .bind(sign.since)
            .bind(now)
            .fetch_one(&mut *self.tx)
            .await?;
        if sign.caution == Caution::Paused {
            let sql = "update molt.ghost_keys set paused_at = $2, paused_reason = $3
                       where bot_id = $1 and revoked_at is null and paused_at is null";
            sqlx::query(sql).bind(bot.as_str()).bind(now).bind(&sign.reason).execute(&mut *self.tx).await?;
        }
        self.tell(bot, user, &watched, sign, since, now).await?;
        Ok(Some(sign.caution))
    }

    async fn tell(
        &mut self,
        bot: &BotId,
        user: UserId,
        watched: &Watched,
        sign: &Sign,
        since: Time,
        now: Time,
    ) -> Result<()> {
        let spent = self.spent_since(bot, since).await?;
        let body = json!({ "caution": sign.caution, "reason": sign.reason, "since": since, "spent_usd": spent });
        let event = event_of(bot, EventKind::BotUsageUnusual, body);
        self.append_event(user, &event, now).await?;
        // A pause is told in any case: the bot doesn't answer from now on.
        if !watched.wants_mail && sign.caution < Caution::Paused {
            return Ok(());
        }
        let template = match sign.caution {
            Caution::Calm => return Ok(()),
            Caution::Warned => "unusual-use",
            Caution::Slowed => "bot-slowed",
            Caution::Paused => "bot-paused",
        };
        let data = json!({
            "bot_name": watched.bot_name, "bot_id": bot, "reason": sign.reason, "spent": dollars(spent),
            "since": since.format("%H:%M UTC on %-d %B").to_string(),
        });
        let message = NewMessage { id: Uuid::new_v4(), user: Some(user), template, to_address: &watched.email, data };
        self.enqueue(&message, now).await
    }

    /// In the hours from that one on, as far as it is booked.
    async fn spent_since(&mut self, bot: &BotId, since: Time) -> Result<Nanos> {
        let sql = "select coalesce(sum(cost_nanos), 0)::bigint from molt.bot_hours
                   where bot_id = $1 and hour >= date_trunc('hour', $2::timestamptz, 'UTC')";
        Ok(Nanos(sqlx::query_scalar(sql).bind(bot.as_str()).bind(since).fetch_one(&mut *self.tx).await?))
    }

    /// Bots with hours that nobody looked at, at most `limit`.
    pub async fn bots_to_look_at(&mut self, limit: i64) -> Result<Vec<BotId>> {
        let sql = "select distinct bot_id from molt.bot_hours where unseen order by bot_id limit $1";
        let bots: Vec<String> = sqlx::query_scalar(sql).bind(limit).fetch_all(&mut *self.tx).await?;
        bots.iter().map(|bot| bot.parse().map_err(unexpected)).collect()
    }

    /// What this bot used since then.
    pub async fn use_of(&mut self, bot: &BotId, since: Time) -> Result<Use> {
        let sql = "select hour, calls, unasked, cost_nanos, unseen from molt.bot_hours
                   where bot_id = $1 and hour >= $2 order by hour";
        let hours = sqlx::query_as(sql).bind(bot.as_str()).bind(since).fetch_all(&mut *self.tx).await?;
        let sql = "select (select max(created_at) from molt.runs where bot_id = $1),
                          (select resumed_at from molt.watches where bot_id = $1)";
        let (asked_at, resumed_at) = sqlx::query_as(sql).bind(bot.as_str()).fetch_one(&mut *self.tx).await?;
        Ok(Use { hours, asked_at, resumed_at })
    }

    /// These hours were looked at; one that grew meanwhile will be again.
    pub async fn hours_are_seen(&mut self, bot: &BotId, hours: &[Hour]) -> Result<()> {
        let sql = "update molt.bot_hours h set unseen = false
                   from unnest($2::timestamptz[], $3::bigint[]) as s (hour, calls)
                   where h.bot_id = $1 and h.unseen and h.hour = s.hour and h.calls = s.calls";
        sqlx::query(sql)
            .bind(bot.as_str())
            .bind(hours.iter().map(|hour| hour.hour).collect::<Vec<Time>>())
            .bind(hours.iter().map(|hour| hour.calls).collect::<Vec<i64>>())
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Bots whose newest sign is older than `quiet_since` go one step down, at most `limit` of them; a paused one stays. How
    /// many did. Safe to repeat: each step needs a quiet time of its own.
    pub async fn calm_down(&mut self, quiet_since: Time, limit: i64, now: Time) -> Result<u64> {
        let sql = "select b.id, b.user_id from molt.watches w join molt.bots b on b.id = w.bot_id
                   where w.caution in ('warned', 'slowed') and w.seen_at < $1
                   order by b.id limit $2 for no key update of b skip locked";
        let quiet: Vec<(String, Uuid)> =
            sqlx::query_as(sql).bind(quiet_since).bind(limit).fetch_all(&mut *self.tx).await?;
        let mut done = 0;
        for (id, user) in quiet {
            let sql = "update molt.watches set seen_at = $3,
                         caution = case caution when 'slowed' then 'warned' else 'calm' end,
                         reason = case caution when 'slowed' then reason end,
                         since = case caution when 'slowed' then since end
                       where bot_id = $1 and caution in ('warned', 'slowed') and seen_at < $2 returning caution";
            let query = sqlx::query_scalar(sql).bind(&id).bind(quiet_since).bind(now);
            let Some(caution): Option<String> = query.fetch_optional(&mut *self.tx).await? else { continue };
            let bot: BotId = id.parse().map_err(unexpected)?;
            let event = event_of(&bot, EventKind::BotUsageUnusual, json!({ "caution": caution }));
            self.append_event(UserId(user), &event, now).await?;
            done += 1;
        }
        Ok(done)
    }

    /// As `TenantTx::resume_bot`, for a bot of anybody's. `None`: there is no such bot.
    pub async fn resume_bot(&mut self, bot: &BotId, now: Time) -> Result<Option<bool>> {
        let Some((user, resumed)) = resume(&mut self.tx, bot, now).await? else { return Ok(None) };
        if resumed {
            let event = event_of(bot, EventKind::BotUsageUnusual, json!({ "caution": Caution::Calm }));
            self.append_event(user, &event, now).await?;
        }
        Ok(Some(resumed))
    }
}

impl TenantTx {
    /// Its owner says that all is well: the bot goes on at its usual pace, and what happened before counts no more. `false`:
    /// nothing was in its way, or it isn't there. Safe to repeat.
    pub async fn resume_bot(&mut self, bot: &BotId, now: Time) -> Result<bool> {
        let Some((_, resumed)) = resume(&mut self.tx, bot, now).await? else { return Ok(false) };
        if resumed {
            let event = event_of(bot, EventKind::BotUsageUnusual, json!({ "caution": Caution::Calm }));
            self.append_event(&event, now).await?;
        }
        Ok(resumed)
    }
}

/// Under row-level security another person's bot isn't there.
async fn resume(connection: &mut PgConnection, bot: &BotId, now: Time) -> Result<Option<(UserId, bool)>> {
    let sql = "select user_id from molt.bots where id = $1 and intent <> 'deleted' for no key update";
    let owner: Option<Uuid> = sqlx::query_scalar(sql).bind(bot.as_str()).fetch_optional(&mut *connection).await?;
    let Some(owner) = owner else { return Ok(None) };
    let sql = "update molt.watches set caution = 'calm', reason = null, since = null, resumed_at = $2
               where bot_id = $1 and caution <> 'calm'";
    let watch = sqlx::query(sql).bind(bot.as_str()).bind(now).execute(&mut *connection).await?;
    let sql = "update molt.ghost_keys set paused_at = null, paused_reason = null
               where bot_id = $1 and paused_at is not null";
    let keys = sqlx::query(sql).bind(bot.as_str()).execute(&mut *connection).await?;
    Ok(Some((UserId(owner), watch.rows_affected() + keys.rows_affected() > 0)))
}

/// As people write it; a part of a cent counts as one.
#[must_use]
pub fn dollars(amount: Nanos) -> String {
    const NANOS_PER_CENT: i64 = 10_000_000;
    let cents = amount.0.max(0).saturating_add(NANOS_PER_CENT - 1) / NANOS_PER_CENT;
    format!("${}.{:02}", cents / 100, cents % 100)
}

fn event_of(bot: &BotId, kind: EventKind, body: Value) -> Event {
    Event { kind, bot: Some(bot.clone()), conversation: None, run: None, body }
}

fn caution(text: Option<&str>) -> Result<Caution> {
    text.map_or(Ok(Caution::Calm), |text| text.parse().map_err(unexpected))
}

fn unexpected(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unexpected(error.into())
}
