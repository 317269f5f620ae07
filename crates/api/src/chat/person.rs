//! What one person does in the chat of one bot, as rows: messages, aborts, reading back.
//! Never: a row of another person; every transaction is this person's own.

use std::sync::Arc;

use molt_model::{BotId, ConversationId, RunId, UserId};
use molt_store::StoreError;
use molt_store::chat::{NewMessage, Sent};
use molt_store::event::EventRow;
use serde_json::{Value, json};

use crate::chat::Relays;
use crate::chat::frames::{self, Refusal};
use crate::chat::hub::{Hub, Look};

/// Messages of a bot without an answer. The cell works them off one after the other.
const RUNS_OPEN_MAX: i64 = 50;
/// Rows read at a time.
pub(crate) const ROWS_MAX: i64 = 50;
/// A page of history ends early when it grows beyond this.
const HISTORY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One person and one of their bots.
pub(crate) struct Person {
    pub(crate) relays: Relays,
    pub(crate) user: UserId,
    pub(crate) bot: BotId,
    pub(crate) hub: Arc<Hub>,
}

/// The bot is gone, so there is nothing to chat with.
pub(crate) struct BotGone;

impl Person {
    /// Writes a message; the run that answers it. The same `id` again is the same message.
    pub(crate) async fn send(
        &self,
        id: &str,
        conversation: &ConversationId,
        text: &str,
    ) -> Result<Result<RunId, Refusal>, BotGone> {
        let refusal = match self.write_message(id, conversation, text).await {
            Ok(Sent::Run(run)) => {
                self.hub.signal(Look::ROWS.with(Look::WORK));
                return Ok(Ok(run));
            }
            Ok(Sent::UnknownBot) => return Err(BotGone),
            Ok(Sent::UnknownConversation) => unknown_conversation(),
            Ok(Sent::TooManyOpen) => {
                let message =
                    format!("{RUNS_OPEN_MAX} messages are waiting for an answer; wait for some of them first.");
                Refusal::new("too_many_waiting", message)
            }
            Ok(Sent::Suspended(suspension)) => Refusal::new("bot_suspended", suspension.sentence("This assistant")),
            Err(error) => trouble(&error),
        };
        Ok(Err(refusal.of(id)))
    }

    async fn write_message(&self, id: &str, conversation: &ConversationId, text: &str) -> Result<Sent, StoreError> {
        let run = RunId::random();
        let message = NewMessage {
            bot: &self.bot,
            conversation,
            client_id: id,
            text,
            title: &frames::title_of(text),
            run,
            body: frames::user_message(id, run, conversation, text),
            open_max: RUNS_OPEN_MAX,
        };
        let mut tx = self.relays.store().tenant(self.user).await?;
        let sent = tx.send_message(&message, self.relays.now()).await?;
        tx.commit().await?;
        Ok(sent)
    }

    /// Asks for a run's end.
    pub(crate) async fn abort(&self, run: RunId) -> Result<Result<(), Refusal>, StoreError> {
        let mut tx = self.relays.store().tenant(self.user).await?;
        let known = tx.request_abort(&self.bot, run, self.relays.now()).await?;
        tx.commit().await?;
        if known {
            self.hub.signal(Look::WORK);
            return Ok(Ok(()));
        }
        Ok(Err(Refusal::new("unknown_run", "This assistant has no such run; the ack of a message names its run.")))
    }

    /// A page of a conversation, as the frame that answers `history`.
    pub(crate) async fn history(
        &self,
        conversation: &ConversationId,
        limit: i64,
        before: i64,
    ) -> Result<Result<Value, Refusal>, StoreError> {
        let (mut items, mut before, mut bytes, mut more) = (Vec::new(), before, 0, true);
        let mut tx = self.relays.store().tenant(self.user).await?;
        'pages: while more && bytes <= HISTORY_BYTES_MAX {
            let missing = limit - items.len() as i64;
            // One row beyond the limit tells whether there is more.
            let page = tx.history(&self.bot, conversation, before, (missing + 1).min(ROWS_MAX)).await?;
            let Some(rows) = page else { return Ok(Err(unknown_conversation())) };
            more = rows.len() as i64 == (missing + 1).min(ROWS_MAX);
            for row in rows {
                if items.len() as i64 == limit || bytes > HISTORY_BYTES_MAX {
                    more = true;
                    break 'pages;
                }
                before = row.seq.unwrap_or(before);
                let item = frames::of_row(row);
                bytes += item.to_string().len();
                items.push(item);
            }
        }
        tx.commit().await?;
        items.reverse();
        Ok(Ok(json!({ "type": "history", "conversation": conversation, "items": items, "more": more })))
    }

    /// Finished frames with `after < seq <= upto`, oldest first, at most `ROWS_MAX`.
    pub(crate) async fn rows(&self, after: i64, upto: i64) -> Result<Vec<EventRow>, StoreError> {
        let mut tx = self.relays.store().tenant(self.user).await?;
        let rows = tx.frames_between(&self.bot, after, upto, ROWS_MAX).await?;
        tx.commit().await?;
        Ok(rows)
    }
}

fn unknown_conversation() -> Refusal {
    Refusal::new("unknown_conversation", "There is no such conversation; it may have been deleted.")
}

/// Logged here, once; the browser gets a neutral sentence.
pub(crate) fn trouble(error: &StoreError) -> Refusal {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, "a frame of a chat could not be served");
    Refusal::new("unavailable", "That did not work just now. Please try again in a moment.")
}
