//! Places that are made while their bots wait for a plan, and taken away when none comes.
//! Never: a word to anybody but the operator, a failure that counts against the bot, or a place that is touched once a bot has
//! its gateway token.

use chrono::TimeDelta;
use molt_model::Time;
use molt_model::bot::Ahead;
use molt_store::fleet::FleetBot;

use super::Work;
use crate::error::FleetError;
use crate::patience::PAUSE_LAST_SECONDS;
use crate::reconcile::Shared;
use crate::rounds::Next;

/// Places that are being made at the same time: those of bots that somebody waits for come first.
const AT_ONCE: i64 = 16;
/// Before a place is tried again; later as long as it has been wanted, so that a host that is away or full is asked ever more
/// rarely, about ten times in an hour.
const PAUSE_MIN: TimeDelta = TimeDelta::seconds(10);
/// What is left of such a pause is cut short by who comes back, but never what a turn that broke off is put off by.
const PAUSE_LONG: TimeDelta = TimeDelta::seconds(PAUSE_LAST_SECONDS);

impl Shared {
    /// Until when this bot's place waits for a plan. `None`: nothing is made ahead here.
    pub(crate) fn ahead_until(&self, bot: &FleetBot) -> Option<Time> {
        self.makes_ahead().then(|| bot.wanted_at + self.config.keep_ahead)
    }

    fn makes_ahead(&self) -> bool {
        self.host.prepares().is_some() && self.config.keep_ahead > TimeDelta::zero()
    }

    /// Has the fleet look at bots that wait for their first plan and have no place, not yet or not any more. Nothing is asked
    /// where none is made.
    pub(crate) async fn call_waiting(&self) -> Result<(), FleetError> {
        if !self.makes_ahead() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut system = self.store.system().await?;
        system.bots_without_place_are_due(now, now - self.config.keep_ahead, AT_ONCE).await?;
        system.bots_wanted_again_are_due(now, PAUSE_LONG).await?;
        Ok(system.commit().await?)
    }
}

impl Work<'_> {
    /// Noted before anything is made, so that whoever comes after a crash knows that something may be there.
    pub(super) async fn prepare(&self) -> Result<Next, FleetError> {
        let Some(host) = self.shared.host.prepares() else { return Ok(Next::Gone) };
        if !self.notes(Ahead::Making).await? {
            return Ok(Next::Gone);
        }
        if let Err(error) = host.prepare(&self.bot.id).await {
            tracing::warn!(bot.id = %self.bot.id, error = &error as &dyn std::error::Error,
                "a place was not made ahead; it is tried again, and without it the bot's start takes longer");
            let now = self.shared.clock.now();
            return Ok(Next::At(now + PAUSE_MIN.max(now - self.bot.wanted_at)));
        }
        if !self.notes(Ahead::Made).await? {
            return Ok(Next::Gone);
        }
        tracing::info!(bot.id = %self.bot.id, "a place was made ahead");
        Ok(Next::Now)
    }

    /// Noted first, and the database refuses that for a bot that ran: nothing of one is ever withdrawn. Once it is noted, no
    /// start uses what is left.
    pub(super) async fn withdraw(&self) -> Result<Next, FleetError> {
        let Some(host) = self.shared.host.prepares() else { return Ok(Next::Gone) };
        if !self.notes(Ahead::Leaving).await? {
            return Ok(Next::Gone);
        }
        host.withdraw(&self.bot.id).await?;
        if !self.notes(Ahead::Lapsed).await? {
            return Ok(Next::Gone);
        }
        tracing::info!(bot.id = %self.bot.id, "a place that nobody came for was taken away");
        Ok(Next::Now)
    }

    /// `false`: the lease is gone.
    async fn notes(&self, ahead: Ahead) -> Result<bool, FleetError> {
        if self.bot.ahead == Some(ahead) {
            return Ok(true);
        }
        let mut system = self.shared.store.system().await?;
        let noted = system.note_ahead(self.lease, ahead).await?;
        system.commit().await?;
        Ok(noted)
    }
}
