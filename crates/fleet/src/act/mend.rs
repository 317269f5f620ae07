//! The ladder of repair, and what is done when the settings are to blame.
//! Never: a rung without a line on the timeline, or an end of the runtime's state: repair takes the cell, never the volume.

use chrono::TimeDelta;
use molt_bot::Fault;
use molt_model::bot::Outcome;
use molt_model::{EventKind, Observed, Rung, Settings, Time};
use molt_store::SystemTx;
use molt_store::fleet::{FleetBot, Seen, Undone, gateway_token_binding};
use serde_json::json;

use super::{Work, random_token, restarts};
use crate::configuration::configuration;
use crate::error::FleetError;
use crate::plan::{ENDS_MAX, ENDS_WINDOW_MINUTES, Stage, Why};
use crate::reconcile::Shared;
use crate::rounds::{CellSight, Next, failures};
use crate::words;

/// Pauses before the second, third, … attempt. The first failure may be chance: no pause.
const RETRY_PAUSES: [TimeDelta; 4] =
    [TimeDelta::zero(), TimeDelta::seconds(2), TimeDelta::seconds(10), TimeDelta::seconds(30)];

/// What a cell says when it tried settings with a start, and went back to the ones before.
const BREAKS: &str = "config_breaks";

/// When the bot ended by itself within the window of a crash loop.
pub(crate) fn recent_ends(seen: &Seen, now: Time) -> impl Iterator<Item = Time> {
    let first = now - TimeDelta::minutes(ENDS_WINDOW_MINUTES);
    seen.cell.ends.iter().copied().filter(move |end| *end > first)
}

impl Shared {
    /// The settings that worked and would make another runtime configuration than the newest: those in force, if the newest
    /// never were, or else the last ones that a runtime came up with.
    pub(crate) fn undo_target<'a>(&self, bot: &'a FleetBot) -> Option<&'a Settings> {
        let seen = &bot.seen;
        let in_force = seen.applied_settings.as_ref().filter(|_| seen.applied_revision < bot.revision);
        let good = seen.good.as_ref().filter(|good| good.revision < bot.revision).map(|good| &good.settings);
        let catalog = self.config.catalog.current();
        let rendered = |settings: &Settings| configuration(settings, bot.vertical, &catalog);
        let differs =
            |settings: &&Settings| **settings != bot.settings && rendered(settings) != rendered(&bot.settings);
        in_force.filter(differs).or(good.filter(differs))
    }
}

impl Work<'_> {
    /// The bot as it is on a rung, counted.
    fn on(&self, rung: Rung, reason: String) -> Seen {
        let mut seen = Seen {
            observed: Observed::Degraded(rung),
            reason: Some(reason),
            running_since: None,
            attempts: failures(&self.bot.seen, self.now),
            ..self.bot.seen.clone()
        };
        seen.cell.ends = recent_ends(&self.bot.seen, self.now).collect();
        seen
    }

    /// Ends the open line badly and begins the rung's.
    async fn climb(&self, system: &mut SystemTx, rung: Rung) -> Result<(), FleetError> {
        self.end_step(system, Outcome::Failed).await?;
        if let Some(stage) = Stage::of_rung(rung) {
            self.turn_to(system, stage).await?;
        }
        Ok(())
    }

    pub(super) async fn reconnect(&self) -> Result<Next, FleetError> {
        let seen = self.on(Rung::Reconnect, words::recovering(&self.bot.settings.bot_name));
        let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        self.climb(&mut system, Rung::Reconnect).await?;
        system.commit().await?;
        tracing::warn!(bot.id = %self.bot.id, "a running bot does not answer; it is asked again");
        Ok(Next::Now)
    }

    /// Written before it is asked for: whoever takes over in between waits for the rung's deadline and climbs on.
    pub(super) async fn restart_runtime(&self, cell: &CellSight, ask: bool) -> Result<Next, FleetError> {
        let CellSight::Says(_, client) = cell else { return Ok(Next::Now) };
        let seen = self.on(Rung::RestartRuntime, words::recovering(&self.bot.settings.bot_name));
        let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        self.climb(&mut system, Rung::RestartRuntime).await?;
        system.commit().await?;
        tracing::warn!(bot.id = %self.bot.id, asked = ask, "a bot's runtime starts anew");
        if ask && let Err(error) = client.restart_runtime().await {
            tracing::warn!(bot.id = %self.bot.id, error = &error as &dyn std::error::Error,
                "a cell did not restart its runtime; the next rung follows after its deadline");
        }
        Ok(Next::Now)
    }

    pub(super) async fn retry(&self, rung: Rung, why: Why, told: Option<String>) -> Result<Next, FleetError> {
        self.shared.end_cell(&self.bot).await?;
        let attempts = failures(&self.bot.seen, self.now) + 1;
        let reason = words::trying_again(why, &self.bot.settings.bot_name);
        let seen = self.failed(Observed::Degraded(rung), reason, why, told);
        let Some(mut system) = self.seen(&Seen { attempts, ..seen }).await? else { return Ok(Next::Gone) };
        self.climb(&mut system, rung).await?;
        if rung == Rung::ReplaceCell {
            let sealed = self.shared.store.seal().seal(&gateway_token_binding(&self.bot.id), &random_token());
            system.renew_gateway_token(self.lease, &sealed).await?;
        }
        system.commit().await?;
        tracing::warn!(bot.id = %self.bot.id, why = ?why, rung = ?rung, attempts, "a bot did not come up; it is tried again");
        let pause = usize::try_from(attempts - 1).ok().and_then(|index| RETRY_PAUSES.get(index));
        Ok(Next::At(self.shared.clock.now() + *pause.unwrap_or(&RETRY_PAUSES[RETRY_PAUSES.len() - 1])))
    }

    pub(super) async fn give_up(&self, why: Why, told: Option<String>) -> Result<Next, FleetError> {
        self.shared.end_cell(&self.bot).await?;
        let reason = words::given_up(why, &self.bot.settings.bot_name, told.as_deref());
        let rung = if why == Why::NoRuntime { Rung::NoRuntime } else { Rung::GivenUp };
        let seen = self.failed(Observed::Degraded(rung), reason, why, told);
        let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        self.end_step(&mut system, Outcome::Failed).await?;
        system.commit().await?;
        if why == Why::NoRuntime {
            tracing::warn!(bot.id = %self.bot.id, "a bot waits until OpenClaw can be fetched");
        } else {
            tracing::error!(bot.id = %self.bot.id, why = ?why, "a bot does not come up; its owner is asked to restart it");
        }
        Ok(Next::Now)
    }

    fn failed(&self, observed: Observed, reason: String, why: Why, told: Option<String>) -> Seen {
        let mut seen = Seen {
            observed,
            reason: Some(reason),
            running_since: None,
            last_error: Some(told.map_or_else(|| format!("{why:?}"), |told| format!("{why:?}: {told}"))),
            ..self.bot.seen.clone()
        };
        seen.cell.address = None;
        seen.cell.ends = recent_ends(&self.bot.seen, self.now).collect();
        // What never came up did not end.
        let ran = [Observed::Running, Observed::Degraded(Rung::Reconnect), Observed::Degraded(Rung::RestartRuntime)];
        if ran.contains(&self.bot.seen.observed) {
            seen.cell.ends.push(self.now);
        }
        seen
    }

    /// The runtime ended and the cell brought it back, sooner than anybody could ask.
    pub(super) async fn note_ends(&self, cell: &CellSight) -> Result<Next, FleetError> {
        let CellSight::Says(health, _) = cell else { return Ok(Next::Now) };
        let now = restarts(health);
        let before = self.bot.seen.cell.noted.filter(|noted| noted.boot == now.boot).map_or(0, |noted| noted.count);
        let mut seen = self.bot.seen.clone();
        seen.cell.ends = recent_ends(&self.bot.seen, self.now).collect();
        for _ in before..now.count.min(before.saturating_add(u32::try_from(ENDS_MAX).unwrap_or(u32::MAX))) {
            seen.cell.ends.push(self.now);
        }
        seen.cell.noted = Some(now);
        // It came up again with what it has taken over.
        if health.applied.as_ref().is_some_and(|applied| applied.revision == self.bot.revision) {
            seen.good = Some(self.in_force());
        }
        let Some(system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        system.commit().await?;
        tracing::warn!(bot.id = %self.bot.id, ends = seen.cell.ends.len(), "a bot's runtime ended and came back");
        Ok(Next::Now)
    }

    /// The runtime said no to new settings, or the cell tried them and went back.
    pub(super) async fn refused(&self, fault: &Fault) -> Result<Next, FleetError> {
        if self.shared.undo_target(&self.bot).is_some() {
            return self.undo(self.bot.seen.clone(), &fault.code, fault.code != BREAKS).await;
        }
        // There are none to go back to: these are never tried again, and what the cell runs stays.
        let mut seen = Seen {
            reason: Some(words::settings_refused(&self.bot.settings.bot_name)),
            last_error: Some(fault.code.clone()),
            ..self.bot.seen.clone()
        };
        seen.cell.refused_revision = Some(self.bot.revision);
        let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        self.end_step(&mut system, Outcome::Failed).await?;
        system.commit().await?;
        Ok(Next::Now)
    }

    /// Nothing comes up with the newest settings: the cell goes, its state stays, the settings before come back.
    pub(super) async fn undo_settings(&self, why: Why, told: Option<String>) -> Result<Next, FleetError> {
        self.shared.end_cell(&self.bot).await?;
        let reason = words::trying_again(why, &self.bot.settings.bot_name);
        let seen = self.failed(Observed::Degraded(Rung::RestartCell), reason, why, told);
        let error = seen.last_error.clone().unwrap_or_default();
        self.undo(seen, &error, false).await
    }

    /// Intent is written here, by nobody's request: only back to what the owner wanted before, in one transaction with what
    /// they are told, and only if they did not want something newer meanwhile.
    async fn undo(&self, mut seen: Seen, error: &str, refused: bool) -> Result<Next, FleetError> {
        let Some(target) = self.shared.undo_target(&self.bot) else { return Ok(Next::Now) };
        let changes = target.changes(&self.bot.settings);
        let sentence = words::settings_undone(&target.bot_name, &changes, refused);
        let bad = self.bot.revision;
        let revision = bad + 1;
        seen.cell.undone = Some(Undone { revision, sentence: sentence.clone() });
        seen.cell.refused_revision = Some(bad);
        seen.reason = Some(sentence.clone());
        seen.last_error = Some(error.to_owned());
        let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        if system.undo_settings(self.lease, bad, target).await? != Some(revision) {
            // Newer settings are there; they get their own chance.
            return Ok(Next::Now);
        }
        self.end_step(&mut system, Outcome::Failed).await?;
        self.turn_to(&mut system, Stage::Undone).await?;
        system.retell_step(&self.bot.id, &sentence).await?;
        match seen.observed {
            Observed::Degraded(rung) => {
                self.end_step(&mut system, Outcome::Done).await?;
                if let Some(stage) = Stage::of_rung(rung) {
                    self.turn_to(&mut system, stage).await?;
                }
            }
            _ => self.end_step(&mut system, Outcome::Done).await?,
        }
        let body = json!({ "undone_revision": bad, "revision": revision, "changes": changes, "sentence": sentence });
        system.announce_bot(self.bot.user, &self.bot.id, EventKind::BotSettingsUndone, body, self.now).await?;
        system.commit().await?;
        tracing::warn!(bot.id = %self.bot.id, revision = bad, error, "settings that did not work were undone");
        Ok(Next::Now)
    }
}
