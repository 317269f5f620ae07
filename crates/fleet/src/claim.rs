//! Whether a bot may touch what is in its place, where that was there before it. In a database that was restored from a backup
//! the id of a bot that is gone from it may be a spare once more, and the next bot gets it, with a place that isn't its own.
//! Never: a look at, an end of, or a start on what another bot's claim is on.

use molt_store::fleet::FleetBot;
use uuid::Uuid;

use crate::host::HostError;
use crate::reconcile::Shared;

/// The claim under which nothing was started yet, as far as the rows know.
pub(crate) fn unproved(bot: &FleetBot) -> Option<Uuid> {
    bot.claim.filter(|_| !bot.seen.cell.proved)
}

impl Shared {
    /// Whether what runs in the bot's place is the bot's own cell, if anything does. Nearly always known without a question.
    pub(crate) async fn owns_cell(&self, bot: &FleetBot) -> Result<bool, HostError> {
        let (Some(claim), Some(host)) = (unproved(bot), self.host.prepares()) else { return Ok(true) };
        // Nothing was ever started for a bot without a token.
        Ok(bot.gateway_token.is_some() && host.used(&bot.id).await?.is_by(claim))
    }

    /// Ends the bot's cell; what is another's is left alone.
    pub(crate) async fn end_cell(&self, bot: &FleetBot) -> Result<(), HostError> {
        if self.owns_cell(bot).await? { self.host.stop(&bot.id, false).await } else { Ok(()) }
    }
}
