//! Chat in the database: messages with their runs, finished frames, tickets, and what a relay has to know of a bot.
//! Never: a message or a frame twice. Whatever comes again from a client or a cell finds its row and changes nothing.

use molt_model::bot::Suspension;
use molt_model::{BotId, ConversationId, Event, EventKind, Intent, Observed, RunId, Time, UserId};
use secrecy::SecretString;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::conversations::{announce, ensure_main, lock_own_bot};
use crate::event::{EventRow, append};
use crate::fleet::gateway_token_binding;
use crate::sessions::LogIn;
use crate::suspend::suspension;
use crate::{Channel, Result, Store, StoreError, SystemTx, TenantTx};

/// A message as a client sends it.
#[derive(Clone, Debug)]
pub struct NewMessage<'a> {
    pub bot: &'a BotId,
    pub conversation: &'a ConversationId,
    /// The client's own id: the same one twice is one message and one run.
    pub client_id: &'a str,
    pub text: &'a str,
    /// What an untitled conversation is called from now on.
    pub title: &'a str,
    /// The run's id, if the message is new.
    pub run: RunId,
    /// The browser's frame of the message, without `seq` and `at`.
    pub body: Value,
    /// Messages of this bot that may wait for an answer at a time.
    pub open_max: i64,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Written down; now, or when the same id came first. The run is the first one's.
    Run(RunId),
    UnknownBot,
    UnknownConversation,
    TooManyOpen,
    /// Nobody would answer, for a time that nobody knows.
    Suspended(Suspension),
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    Finished,
    Failed,
    Aborted,
}

impl RunEnd {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// A finished frame of a cell's journal.
#[derive(Clone, Debug)]
pub struct CellFrame {
    pub cell_seq: i64,
    pub run: RunId,
    pub conversation: ConversationId,
    /// Set on the frame that ends the run.
    pub end: Option<RunEnd>,
    /// The browser's frame, without `seq` and `at`.
    pub body: Value,
    pub at: Time,
}

/// What became of a cell's frame.
#[derive(Clone, Debug)]
pub enum Stored {
    New(EventRow),
    /// It was here already.
    Known,
    /// The run has ended here; the frame was dropped.
    RunOver,
    /// The conversation was deleted, or never was; the frame was dropped.
    NoConversation,
    BotGone,
}

/// A run without an end, in the order of its message.
#[derive(Clone, Debug)]
pub struct OpenRun {
    pub run: RunId,
    pub conversation: ConversationId,
    pub text: String,
    /// The cell has confirmed it.
    pub accepted: bool,
    pub abort: bool,
}

/// What a relay has to know of a bot.
#[derive(Clone, Debug)]
pub struct RelayFacts {
    pub user: UserId,
    pub intent: Intent,
    pub observed: Observed,
    /// `unix:/path` or `tcp:host:port`; none: no cell.
    pub address: Option<String>,
    pub token: Option<SecretString>,
    /// Everything of the cell's journal up to here is stored.
    pub cell_seq: i64,
    /// The newest frame's `seq`.
    pub chat_seq: i64,
}

#[derive(sqlx::FromRow)]
struct FactsRow {
    user_id: Uuid,
    intent: String,
    observed: String,
    phase: String,
    address: Option<String>,
    gateway_token: Option<Vec<u8>>,
    cell_seq: i64,
    chat_seq: i64,
}

impl Store {
    /// Where the bot's cell is and how far it was read; `None`: the bot is gone.
    pub async fn relay_facts(&self, bot: &BotId) -> Result<Option<RelayFacts>> {
        let mut tx = self.system().await?;
        let sql =
            "select user_id, intent, observed, phase, cell ->> 'address' as address, gateway_token, cell_seq, chat_seq
                   from molt.bots where id = $1";
        let row: Option<FactsRow> = sqlx::query_as(sql).bind(bot.as_str()).fetch_optional(&mut *tx.tx).await?;
        tx.commit().await?;
        let Some(row) = row else { return Ok(None) };
        let open = |sealed: Vec<u8>| self.seal().open(&gateway_token_binding(bot), &sealed);
        let unreadable = |error: molt_model::bot::UnknownWord| StoreError::Unexpected(error.into());
        Ok(Some(RelayFacts {
            user: UserId(row.user_id),
            intent: row.intent.parse().map_err(unreadable)?,
            observed: Observed::read(&row.observed, &row.phase).map_err(unreadable)?,
            address: row.address,
            token: row.gateway_token.map(open).transpose().map_err(|error| StoreError::Unexpected(error.into()))?,
            cell_seq: row.cell_seq,
            chat_seq: row.chat_seq,
        }))
    }
}

impl TenantTx {
    /// Writes a message, its run and its frame, and wakes the relay. Safe to repeat with the same `client_id`.
    pub async fn send_message(&mut self, message: &NewMessage<'_>, now: Time) -> Result<Sent> {
        if lock_own_bot(&mut self.tx, message.bot).await?.is_none() {
            return Ok(Sent::UnknownBot);
        }
        let known = "select id from molt.runs where bot_id = $1 and client_id = $2";
        let known: Option<Uuid> = sqlx::query_scalar(known)
            .bind(message.bot.as_str())
            .bind(message.client_id)
            .fetch_optional(&mut *self.tx)
            .await?;
        if let Some(run) = known {
            return Ok(Sent::Run(RunId(run)));
        }
        if let Some(suspension) = suspension(&mut self.tx, message.bot).await? {
            return Ok(Sent::Suspended(suspension));
        }
        let Some(titled) = self.touch_conversation(message, now).await? else {
            return Ok(Sent::UnknownConversation);
        };
        let sql = "insert into molt.runs (id, bot_id, user_id, conversation, client_id, text, created_at)
                   select $1, $2, $3, $4, $5, $6, $7
                   where (select count(*) from molt.runs where bot_id = $2 and state in ('pending', 'accepted')) < $8";
        let inserted = sqlx::query(sql)
            .bind(message.run.0)
            .bind(message.bot.as_str())
            .bind(self.user.0)
            .bind(message.conversation.as_str())
            .bind(message.client_id)
            .bind(message.text)
            .bind(now)
            .bind(message.open_max)
            .execute(&mut *self.tx)
            .await?;
        if inserted.rows_affected() == 0 {
            return Ok(Sent::TooManyOpen);
        }
        let event = chat_event(message.bot, message.conversation, message.run, message.body.clone());
        append(&mut self.tx, self.user, &event, None, now).await?;
        if titled {
            announce(&mut self.tx, self.user, message.bot, message.conversation, "changed", now).await?;
        }
        self.notify(&Channel::Runs).await?;
        Ok(Sent::Run(message.run))
    }

    /// Brings the conversation to the top and names it if it has no name; whether it was named just now.
    /// `None`: it isn't there.
    async fn touch_conversation(&mut self, message: &NewMessage<'_>, now: Time) -> Result<Option<bool>> {
        ensure_main(&mut self.tx, self.user, message.bot, message.conversation, now).await?;
        let sql = "with old as (select title from molt.conversations where bot_id = $1 and id = $2)
                   update molt.conversations set updated_at = $4, archived_at = null,
                     title = case when title = '' then $3 else title end
                   where bot_id = $1 and id = $2 and deleted_at is null
                   returning (select title from old) = ''";
        Ok(sqlx::query_scalar(sql)
            .bind(message.bot.as_str())
            .bind(message.conversation.as_str())
            .bind(message.title)
            .bind(now)
            .fetch_optional(&mut *self.tx)
            .await?)
    }

    /// Asks for a run's end. False: no such run of this bot of this person's. An ended run stays as it is.
    pub async fn request_abort(&mut self, bot: &BotId, run: RunId, now: Time) -> Result<bool> {
        let found = "select state in ('pending', 'accepted') from molt.runs where id = $1 and bot_id = $2";
        let open: Option<bool> =
            sqlx::query_scalar(found).bind(run.0).bind(bot.as_str()).fetch_optional(&mut *self.tx).await?;
        if open == Some(true) {
            let sql = "update molt.runs set abort_requested_at = coalesce(abort_requested_at, $2) where id = $1";
            sqlx::query(sql).bind(run.0).bind(now).execute(&mut *self.tx).await?;
            self.notify(&Channel::Runs).await?;
        }
        Ok(open.is_some())
    }

    /// One page of a conversation, newest first: at most `limit` frames with a `seq` below `before`.
    /// `None`: no such conversation of this person's (`main` is always there).
    pub async fn history(
        &mut self,
        bot: &BotId,
        conversation: &ConversationId,
        before: i64,
        limit: i64,
    ) -> Result<Option<Vec<EventRow>>> {
        let known =
            "select exists (select from molt.bots where id = $1 and intent <> 'deleted') and ($2 = 'main' or exists
                       (select from molt.conversations where bot_id = $1 and id = $2 and deleted_at is null))";
        let known: bool =
            sqlx::query_scalar(known).bind(bot.as_str()).bind(conversation.as_str()).fetch_one(&mut *self.tx).await?;
        if !known {
            return Ok(None);
        }
        let sql = "select id, kind, bot_id, seq, conversation, run_id, body, at from molt.events
                   where bot_id = $1 and conversation = $2 and seq < $3 order by seq desc limit $4";
        let rows = sqlx::query_as(sql)
            .bind(bot.as_str())
            .bind(conversation.as_str())
            .bind(before)
            .bind(limit)
            .fetch_all(&mut *self.tx)
            .await?;
        Ok(Some(rows))
    }

    /// The bot's frames with `after < seq <= upto`, oldest first, at most `limit`.
    pub async fn frames_between(&mut self, bot: &BotId, after: i64, upto: i64, limit: i64) -> Result<Vec<EventRow>> {
        frames_between(&mut self.tx, bot, after, upto, limit).await
    }

    /// Whether this person has the bot.
    pub async fn has_bot(&mut self, bot: &BotId) -> Result<bool> {
        let sql = "select exists (select from molt.bots where id = $1 and intent <> 'deleted')";
        Ok(sqlx::query_scalar(sql).bind(bot.as_str()).fetch_one(&mut *self.tx).await?)
    }

    /// Keeps a ticket, by its hash, for this person, their log-in and this bot. False: no bot of this person's has this id.
    pub async fn insert_chat_ticket(
        &mut self,
        hash: &[u8],
        bot: &BotId,
        family: Option<Uuid>,
        expires_at: Time,
    ) -> Result<bool> {
        let sql = "insert into molt.chat_tickets (ticket_hash, user_id, bot_id, expires_at, family)
                   select $1, $2, id, $4, $5 from molt.bots where id = $3 and intent <> 'deleted'";
        let inserted = sqlx::query(sql)
            .bind(hash)
            .bind(self.user.0)
            .bind(bot.as_str())
            .bind(expires_at)
            .bind(family)
            .execute(&mut *self.tx)
            .await?;
        Ok(inserted.rows_affected() == 1)
    }

    /// The id of this person's newest event; `None`: the person is gone.
    pub async fn newest_event_id(&mut self) -> Result<Option<i64>> {
        let sql = "select event_id from molt.users where id = $1";
        Ok(sqlx::query_scalar(sql).bind(self.user.0).fetch_optional(&mut *self.tx).await?)
    }
}

impl SystemTx {
    /// Takes a ticket out of circulation. `None`: unknown, used, too old, or for another bot.
    pub async fn redeem_chat_ticket(&mut self, hash: &[u8], bot: &BotId, now: Time) -> Result<Option<LogIn>> {
        let sql = "update molt.chat_tickets set used_at = $3
                   where ticket_hash = $1 and bot_id = $2 and used_at is null and expires_at > $3
                   returning user_id, family";
        let row: Option<(Uuid, Option<Uuid>)> =
            sqlx::query_as(sql).bind(hash).bind(bot.as_str()).bind(now).fetch_optional(&mut *self.tx).await?;
        Ok(row.map(|(user, family)| LogIn { user: UserId(user), family }))
    }

    /// Deletes tickets that nobody can use any more.
    pub async fn sweep_chat_tickets(&mut self, now: Time) -> Result<u64> {
        let sql = "delete from molt.chat_tickets where expires_at < $1";
        Ok(sqlx::query(sql).bind(now).execute(&mut *self.tx).await?.rows_affected())
    }

    /// Stores a frame of a cell's journal. `upto`: with this frame, everything of the journal up to there is stored,
    /// so the cell need not send it again. Idempotent by `cell_seq`, also when two processes store at once.
    pub async fn store_frame(&mut self, bot: &BotId, frame: &CellFrame, upto: Option<i64>) -> Result<Stored> {
        let Some(user) = lock_own_bot(&mut self.tx, bot).await? else { return Ok(Stored::BotGone) };
        ensure_main(&mut self.tx, user, bot, &frame.conversation, frame.at).await?;
        let stored = self.store_frame_once(user, bot, frame).await?;
        if let Some(upto) = upto {
            let sql = "update molt.bots set cell_seq = greatest(cell_seq, $2) where id = $1";
            sqlx::query(sql).bind(bot.as_str()).bind(upto).execute(&mut *self.tx).await?;
        }
        Ok(stored)
    }

    async fn store_frame_once(&mut self, user: UserId, bot: &BotId, frame: &CellFrame) -> Result<Stored> {
        let sql = "select
            exists (select from molt.bots where id = $1 and cell_seq >= $2)
              or exists (select from molt.events where bot_id = $1 and cell_seq = $2),
            exists (select from molt.runs where id = $3 and bot_id = $1 and state not in ('pending', 'accepted')),
            exists (select from molt.conversations where bot_id = $1 and id = $4 and deleted_at is null)";
        let (known, over, conversation): (bool, bool, bool) = sqlx::query_as(sql)
            .bind(bot.as_str())
            .bind(frame.cell_seq)
            .bind(frame.run.0)
            .bind(frame.conversation.as_str())
            .fetch_one(&mut *self.tx)
            .await?;
        if known {
            return Ok(Stored::Known);
        }
        if over {
            return Ok(Stored::RunOver);
        }
        if !conversation {
            return Ok(Stored::NoConversation);
        }
        if let Some(end) = frame.end {
            end_run(&mut self.tx, bot, frame.run, end, frame.at).await?;
        }
        let event = chat_event(bot, &frame.conversation, frame.run, frame.body.clone());
        let row = append(&mut self.tx, user, &event, Some(frame.cell_seq), frame.at).await?;
        Ok(row.map_or(Stored::BotGone, Stored::New))
    }

    /// Ends an open run from this side, with the frame that says so. `None`: it is not open, nothing happened.
    pub async fn end_open_run(
        &mut self,
        bot: &BotId,
        run: RunId,
        end: RunEnd,
        body: impl FnOnce(&ConversationId) -> Value,
        now: Time,
    ) -> Result<Option<EventRow>> {
        let Some(user) = lock_own_bot(&mut self.tx, bot).await? else { return Ok(None) };
        let Some(conversation) = end_run(&mut self.tx, bot, run, end, now).await? else { return Ok(None) };
        let event = chat_event(bot, &conversation, run, body(&conversation));
        append(&mut self.tx, user, &event, None, now).await
    }

    /// The cell has the message for good.
    pub async fn run_accepted(&mut self, bot: &BotId, run: RunId) -> Result<()> {
        let sql = "update molt.runs set state = 'accepted' where id = $1 and bot_id = $2 and state = 'pending'";
        sqlx::query(sql).bind(run.0).bind(bot.as_str()).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// The bot's runs without an end, in the order of their messages.
    pub async fn open_runs(&mut self, bot: &BotId, limit: i64) -> Result<Vec<OpenRun>> {
        let sql = "select id, conversation, text, state = 'accepted', abort_requested_at is not null
                   from molt.runs where bot_id = $1 and state in ('pending', 'accepted')
                   order by created_at, id limit $2";
        let rows: Vec<(Uuid, String, String, bool, bool)> =
            sqlx::query_as(sql).bind(bot.as_str()).bind(limit).fetch_all(&mut *self.tx).await?;
        let run = |(id, conversation, text, accepted, abort): (Uuid, String, String, bool, bool)| {
            let conversation = conversation.parse().ok()?;
            Some(OpenRun { run: RunId(id), conversation, text, accepted, abort })
        };
        Ok(rows.into_iter().filter_map(run).collect())
    }

    /// Bots with work for a relay (a message, an abort or a conversation to forget) and a cell that may take it.
    pub async fn bots_with_chat_work(&mut self, limit: i64) -> Result<Vec<(BotId, UserId)>> {
        let sql = "select b.id, b.user_id from molt.bots b
                   where b.intent <> 'deleted' and b.cell ? 'address'
                     and (exists (select from molt.runs r where r.bot_id = b.id and r.state in ('pending', 'accepted'))
                       or exists (select from molt.conversations c where c.bot_id = b.id and c.deleted_at is not null))
                   limit $1";
        let rows: Vec<(String, Uuid)> = sqlx::query_as(sql).bind(limit).fetch_all(&mut *self.tx).await?;
        Ok(rows.into_iter().filter_map(|(bot, user)| Some((bot.parse().ok()?, UserId(user)))).collect())
    }

    /// The bot's frames with `after < seq <= upto`, oldest first, at most `limit`.
    pub async fn frames_between(&mut self, bot: &BotId, after: i64, upto: i64, limit: i64) -> Result<Vec<EventRow>> {
        frames_between(&mut self.tx, bot, after, upto, limit).await
    }
}

async fn frames_between(
    connection: &mut PgConnection,
    bot: &BotId,
    after: i64,
    upto: i64,
    limit: i64,
) -> Result<Vec<EventRow>> {
    let sql = "select id, kind, bot_id, seq, conversation, run_id, body, at from molt.events
               where bot_id = $1 and seq > $2 and seq <= $3 order by seq limit $4";
    Ok(sqlx::query_as(sql).bind(bot.as_str()).bind(after).bind(upto).bind(limit).fetch_all(connection).await?)
}

/// Marks an open run as ended and says in which conversation it was; `None`: it isn't an open run of this bot.
async fn end_run(
    connection: &mut PgConnection,
    bot: &BotId,
    run: RunId,
    end: RunEnd,
    now: Time,
) -> Result<Option<ConversationId>> {
    let sql = "update molt.runs set state = $3, ended_at = $4
               where id = $1 and bot_id = $2 and state in ('pending', 'accepted') returning conversation";
    let conversation: Option<String> = sqlx::query_scalar(sql)
        .bind(run.0)
        .bind(bot.as_str())
        .bind(end.as_str())
        .bind(now)
        .fetch_optional(connection)
        .await?;
    Ok(conversation.and_then(|conversation| conversation.parse().ok()))
}

fn chat_event(bot: &BotId, conversation: &ConversationId, run: RunId, body: Value) -> Event {
    Event {
        kind: EventKind::Chat,
        bot: Some(bot.clone()),
        conversation: Some(conversation.clone()),
        run: Some(run),
        body,
    }
}
