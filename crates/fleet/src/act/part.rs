//! How a bot rests and how it goes.
//! Never: a removed state whose row is not there to say so, or a row without its tombstone.

use molt_model::bot::{Left, Outcome};
use molt_model::{EventKind, Intent, Observed};
use molt_store::fleet::Seen;
use serde_json::json;

use super::Work;
use crate::error::FleetError;
use crate::plan::Stage;
use crate::rounds::Next;

impl Work<'_> {
    pub(super) async fn stop(&self) -> Result<Next, FleetError> {
        if self.bot.seen.observed != Observed::Stopping || !self.is_in(Stage::Stopping) {
            let Some(mut system) = self.seen(&self.resting(Observed::Stopping)).await? else { return Ok(Next::Gone) };
            self.turn_to(&mut system, Stage::Stopping).await?;
            system.commit().await?;
        }
        self.shared.end_cell(&self.bot).await?;
        let reason = self.bot.intent_reason.clone().filter(|_| self.bot.intent == Intent::Stopped);
        let observed = if reason.is_some() { Observed::Suspended } else { Observed::Stopped };
        let rests = Seen { reason, ..self.resting(observed) };
        let Some(mut system) = self.seen_after(Observed::Stopping, &rests).await? else { return Ok(Next::Gone) };
        self.end_step(&mut system, Outcome::Done).await?;
        system.commit().await?;
        tracing::info!(bot.id = %self.bot.id, "a bot was stopped");
        Ok(Next::Now)
    }

    fn resting(&self, observed: Observed) -> Seen {
        let mut seen = Seen { observed, reason: None, running_since: None, attempts: 0, ..self.bot.seen.clone() };
        seen.cell.address = None;
        seen
    }

    /// The row goes last: as long as anything of the bot is left, somebody knows of it. Each call may be repeated.
    pub(super) async fn remove(&self) -> Result<Next, FleetError> {
        if !matches!(self.bot.seen.observed, Observed::Deleting(_)) && !self.goes_on_with(Left::Cell).await? {
            return Ok(Next::Gone);
        }
        let left = match self.bot.seen.observed {
            Observed::Deleting(left) => left,
            _ => Left::Cell,
        };
        if left == Left::Cell {
            self.shared.end_cell(&self.bot).await?;
            if !self.goes_on_with(Left::Volume).await? {
                return Ok(Next::Gone);
            }
        }
        // Again even if it was done before: it costs nothing, and what came late goes, too.
        self.shared.host.stop(&self.bot.id, true).await?;
        let mut system = self.shared.store.system().await?;
        if system.delete_bot(self.lease).await? {
            let body = json!({ "bot_name": self.bot.settings.bot_name });
            system.announce_bot(self.bot.user, &self.bot.id, EventKind::BotDeleted, body, self.now).await?;
            system.commit().await?;
            tracing::info!(bot.id = %self.bot.id, "a bot was removed");
        }
        Ok(Next::Gone)
    }

    async fn goes_on_with(&self, left: Left) -> Result<bool, FleetError> {
        let seen = self.resting(Observed::Deleting(left));
        let Some(system) = self.seen(&seen).await? else { return Ok(false) };
        system.commit().await?;
        Ok(true)
    }
}
