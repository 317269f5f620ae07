//! The one table that every live stream reads.
//! Never: an event outside the transaction whose change it announces.

use chrono::{DateTime, Utc};
use molt_model::{BotId, Event, EventKind, Time, UserId};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Channel, Result, StoreError, SystemTx, TenantTx};

/// A row of `events`. `id` counts per user, `seq` per bot for finished chat frames.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EventRow {
    pub id: i64,
    pub kind: String,
    pub bot_id: Option<String>,
    pub seq: Option<i64>,
    pub conversation: Option<String>,
    pub run_id: Option<Uuid>,
    pub body: Value,
    pub at: DateTime<Utc>,
}

/// Writes the event with the user's next id; a chat frame also gets the bot's next `seq`, which is returned.
/// Locks the user's row (and the bot's) until the transaction ends, so that ids and seqs commit in order.
/// `None`: the bot or the user is gone.
pub(crate) async fn append(
    connection: &mut PgConnection,
    user: UserId,
    event: &Event,
    cell_seq: Option<i64>,
    now: Time,
) -> Result<Option<EventRow>> {
    let seq: Option<i64> = match (&event.bot, event.kind) {
        (Some(bot), EventKind::Chat) => {
            let next = "update molt.bots set chat_seq = chat_seq + 1 where id = $1 returning chat_seq";
            let row = sqlx::query_scalar(next).bind(bot.as_str()).fetch_optional(&mut *connection).await?;
            let Some(seq) = row else { return Ok(None) };
            Some(seq)
        }
        _ => None,
    };
    let row: Option<EventRow> = sqlx::query_as(
        "with next as (update molt.users set event_id = event_id + 1 where id = $1 returning event_id)
         insert into molt.events (user_id, id, kind, bot_id, seq, cell_seq, conversation, run_id, body, at)
         select $1, next.event_id, $2, $3, $4, $5, $6, $7, $8, $9 from next
         returning id, kind, bot_id, seq, conversation, run_id, body, at",
    )
    .bind(user.0)
    .bind(event.kind.as_str())
    .bind(event.bot.as_ref().map(BotId::as_str))
    .bind(seq)
    .bind(cell_seq)
    .bind(event.conversation.as_ref().map(molt_model::ConversationId::as_str))
    .bind(event.run.map(|run| run.0))
    .bind(&event.body)
    .bind(now)
    .fetch_optional(&mut *connection)
    .await?;
    if row.is_some() {
        notify(connection, &Channel::Events(user.to_string())).await?;
        if let (Some(bot), Some(_)) = (&event.bot, seq) {
            notify(connection, &Channel::Chat(bot.to_string())).await?;
        }
    }
    Ok(row)
}

/// Sends a wake-up when the transaction commits.
pub(crate) async fn notify(connection: &mut PgConnection, channel: &Channel) -> Result<(), StoreError> {
    sqlx::query("select pg_notify('molt', $1)").bind(channel.payload()).execute(connection).await?;
    Ok(())
}

impl TenantTx {
    /// Announces a change of this person's own.
    pub async fn append_event(&mut self, event: &Event, now: Time) -> Result<Option<EventRow>> {
        append(&mut self.tx, self.user, event, None, now).await
    }

    /// Wakes a loop when this transaction commits.
    pub async fn notify(&mut self, channel: &Channel) -> Result<()> {
        notify(&mut self.tx, channel).await
    }

    /// This person's events after `after`, oldest first, at most `limit`.
    pub async fn events_after(&mut self, after: i64, limit: i64) -> Result<Vec<EventRow>> {
        let sql = "select id, kind, bot_id, seq, conversation, run_id, body, at from molt.events
                   where user_id = $1 and id > $2 order by id limit $3";
        Ok(sqlx::query_as(sql).bind(self.user.0).bind(after).bind(limit).fetch_all(&mut *self.tx).await?)
    }
}

impl SystemTx {
    /// Announces a change to one person.
    pub async fn append_event(&mut self, user: UserId, event: &Event, now: Time) -> Result<Option<EventRow>> {
        append(&mut self.tx, user, event, None, now).await
    }

    /// Wakes a loop when this transaction commits.
    pub async fn notify(&mut self, channel: &Channel) -> Result<()> {
        notify(&mut self.tx, channel).await
    }
}
