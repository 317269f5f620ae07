//! Conversations of a bot: each is a session of its own in the runtime; `main` is there from the start.
//! Never: a deleted conversation's frame. The row outlives its messages only until the cell has forgotten it too.

use molt_model::{BotId, ConversationId, Event, EventKind, RunId, Time, UserId};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::event::append;
use crate::{Channel, Result, SystemTx, TenantTx};

/// A conversation as its owner sees it. `title` is empty until something gives it one.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ConversationRow {
    pub id: String,
    pub title: String,
    pub archived: bool,
    pub created_at: Time,
    pub updated_at: Time,
}

/// What happened to a request for a new conversation.
#[derive(Clone, Debug)]
pub enum Created {
    Conversation(ConversationRow),
    UnknownBot,
    /// The bot has as many as it may have.
    TooMany,
}

/// What a person changes about a conversation; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct ConversationChange {
    pub title: Option<String>,
    pub archived: Option<bool>,
}

impl TenantTx {
    /// The bot's conversations, the one used last first; `None`: no bot of this person's has this id.
    /// `main` is among them even before its first message.
    pub async fn conversations(&mut self, bot: &BotId) -> Result<Option<Vec<ConversationRow>>> {
        let own = "select created_at from molt.bots where id = $1 and intent <> 'deleted'";
        let made: Option<Time> = sqlx::query_scalar(own).bind(bot.as_str()).fetch_optional(&mut *self.tx).await?;
        let Some(made) = made else { return Ok(None) };
        let sql = "select id, title, archived_at is not null as archived, created_at, updated_at
                   from molt.conversations where bot_id = $1 and deleted_at is null order by updated_at desc, id";
        let mut rows: Vec<ConversationRow> = sqlx::query_as(sql).bind(bot.as_str()).fetch_all(&mut *self.tx).await?;
        let main = ConversationId::main();
        if !rows.iter().any(|row| row.id == main.as_str()) {
            let (id, title) = (main.to_string(), String::new());
            rows.push(ConversationRow { id, title, archived: false, created_at: made, updated_at: made });
        }
        Ok(Some(rows))
    }

    /// Adds a conversation, unless the bot has `count_max` already.
    pub async fn create_conversation(
        &mut self,
        bot: &BotId,
        title: &str,
        count_max: i64,
        now: Time,
    ) -> Result<Created> {
        if lock_own_bot(&mut self.tx, bot).await?.is_none() {
            return Ok(Created::UnknownBot);
        }
        let sql = "insert into molt.conversations (bot_id, id, user_id, title, created_at, updated_at)
                   select $1, $2, $3, $4, $5, $5
                   where (select count(*) from molt.conversations where bot_id = $1 and deleted_at is null) < $6
                   returning id, title, archived_at is not null as archived, created_at, updated_at";
        let id = ConversationId::random();
        let row: Option<ConversationRow> = sqlx::query_as(sql)
            .bind(bot.as_str())
            .bind(id.as_str())
            .bind(self.user.0)
            .bind(title)
            .bind(now)
            .bind(count_max)
            .fetch_optional(&mut *self.tx)
            .await?;
        let Some(row) = row else { return Ok(Created::TooMany) };
        announce(&mut self.tx, self.user, bot, &id, "created", now).await?;
        Ok(Created::Conversation(row))
    }

    /// Renames, archives or brings back; `None`: no such conversation of this person's. `main` gets its row if need be.
    pub async fn change_conversation(
        &mut self,
        bot: &BotId,
        conversation: &ConversationId,
        change: &ConversationChange,
        now: Time,
    ) -> Result<Option<ConversationRow>> {
        if lock_own_bot(&mut self.tx, bot).await?.is_none() {
            return Ok(None);
        }
        ensure_main(&mut self.tx, self.user, bot, conversation, now).await?;
        let sql = "update molt.conversations set title = coalesce($3, title), updated_at = $5,
                     archived_at = case when $4 is null then archived_at when $4 then coalesce(archived_at, $5) end
                   where bot_id = $1 and id = $2 and deleted_at is null
                   returning id, title, archived_at is not null as archived, created_at, updated_at";
        let row: Option<ConversationRow> = sqlx::query_as(sql)
            .bind(bot.as_str())
            .bind(conversation.as_str())
            .bind(&change.title)
            .bind(change.archived)
            .bind(now)
            .fetch_optional(&mut *self.tx)
            .await?;
        if row.is_some() {
            announce(&mut self.tx, self.user, bot, conversation, "changed", now).await?;
        }
        Ok(row)
    }

    /// Deletes a conversation with its frames and runs, and asks the relay to make the cell forget it.
    /// False: no such conversation of this person's.
    pub async fn delete_conversation(&mut self, bot: &BotId, conversation: &ConversationId, now: Time) -> Result<bool> {
        if lock_own_bot(&mut self.tx, bot).await?.is_none() {
            return Ok(false);
        }
        let sql = "update molt.conversations set deleted_at = $3, title = '', updated_at = $3
                   where bot_id = $1 and id = $2 and deleted_at is null";
        let marked =
            sqlx::query(sql).bind(bot.as_str()).bind(conversation.as_str()).bind(now).execute(&mut *self.tx).await?;
        if marked.rows_affected() == 0 {
            return Ok(false);
        }
        for sql in [
            "delete from molt.events where bot_id = $1 and conversation = $2 and seq is not null",
            "delete from molt.runs where bot_id = $1 and conversation = $2",
        ] {
            sqlx::query(sql).bind(bot.as_str()).bind(conversation.as_str()).execute(&mut *self.tx).await?;
        }
        announce(&mut self.tx, self.user, bot, conversation, "deleted", now).await?;
        self.notify(&Channel::Runs).await?;
        Ok(true)
    }
}

impl SystemTx {
    /// Conversations whose owner deleted them and that the cell hasn't forgotten yet.
    pub async fn conversations_to_forget(&mut self, bot: &BotId, limit: i64) -> Result<Vec<ConversationId>> {
        let sql = "select id from molt.conversations where bot_id = $1 and deleted_at is not null
                   order by deleted_at limit $2";
        let ids: Vec<String> = sqlx::query_scalar(sql).bind(bot.as_str()).bind(limit).fetch_all(&mut *self.tx).await?;
        Ok(ids.into_iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// The cell has forgotten the conversation: nothing is left of it. Nothing to do for one that isn't deleted.
    pub async fn conversation_forgotten(&mut self, bot: &BotId, conversation: &ConversationId) -> Result<()> {
        let sql = "delete from molt.conversations where bot_id = $1 and id = $2 and deleted_at is not null";
        sqlx::query(sql).bind(bot.as_str()).bind(conversation.as_str()).execute(&mut *self.tx).await?;
        Ok(())
    }
}

/// Takes the bot's row for this transaction, so that what follows and a frame being stored come one after the other.
/// The owner, if the bot is there (in a `TenantTx`: if it is this person's).
pub(crate) async fn lock_own_bot(connection: &mut PgConnection, bot: &BotId) -> Result<Option<UserId>> {
    let sql = "select user_id from molt.bots where id = $1 and intent <> 'deleted' for no key update";
    let owner: Option<Uuid> = sqlx::query_scalar(sql).bind(bot.as_str()).fetch_optional(connection).await?;
    Ok(owner.map(UserId))
}

/// `main` exists from the start; its row is made when something needs it.
pub(crate) async fn ensure_main(
    connection: &mut PgConnection,
    user: UserId,
    bot: &BotId,
    conversation: &ConversationId,
    now: Time,
) -> Result<()> {
    if *conversation != ConversationId::main() {
        return Ok(());
    }
    let sql = "insert into molt.conversations (bot_id, id, user_id, title, created_at, updated_at)
               values ($1, $2, $3, '', $4, $4) on conflict do nothing";
    sqlx::query(sql).bind(bot.as_str()).bind(conversation.as_str()).bind(user.0).bind(now).execute(connection).await?;
    Ok(())
}

pub(crate) async fn announce(
    connection: &mut PgConnection,
    user: UserId,
    bot: &BotId,
    conversation: &ConversationId,
    change: &str,
    now: Time,
) -> Result<()> {
    let event = Event {
        kind: EventKind::ConversationChanged,
        bot: Some(bot.clone()),
        conversation: Some(conversation.clone()),
        run: None::<RunId>,
        body: json!({ "conversation": conversation, "change": change }),
    };
    append(connection, user, &event, None, now).await?;
    Ok(())
}
