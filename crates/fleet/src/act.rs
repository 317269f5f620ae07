//! Doing one step: what is asked of the host or the cell, between what is written before and after.
//! Never: decide what comes next, or call out while a transaction is open.

mod ahead;
mod mend;
mod part;

pub(crate) use mend::recent_ends;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use chrono::TimeDelta;
use http::StatusCode;
use molt_bot::{Applied, CellHealth, Client, ClientError, Phase};
use molt_model::bot::{Boot, Outcome, Place};
use molt_model::{EventKind, Observed, Rung, Status, Time};
use molt_store::SystemTx;
use molt_store::fleet::{FleetBot, Good, Lease, Restarts, Seen, gateway_token_binding};
use secrecy::SecretString;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::configuration::configuration;
use crate::error::FleetError;
use crate::host::{CellSpec, Ensured, HostError};
use crate::plan::{Stage, Step, Why, rung};
use crate::reconcile::Shared;
use crate::rounds::{CellSight, Next, Sight};
use crate::runtime::RuntimeState;
use crate::words;

/// How often a booting cell is asked: what this adds to a start is half of it.
const BOOT_POLL: TimeDelta = TimeDelta::milliseconds(100);
/// How often the progress of an installation is looked at; its end is noticed at once.
const RUNTIME_POLL: TimeDelta = TimeDelta::seconds(1);
/// How often a cell on its way back is asked.
const REPAIR_POLL: TimeDelta = TimeDelta::milliseconds(500);
/// After a cell could not take settings just now.
const APPLY_PAUSE: TimeDelta = TimeDelta::seconds(1);
const TOKEN_BYTES: usize = 32;
/// What an operator reads about a bot that waits for room.
const NO_ROOM: &str = "the host's disk is full";

impl Shared {
    pub(crate) async fn act(
        self: &Arc<Self>,
        lease: &Lease,
        bot: FleetBot,
        sight: &Sight,
        step: Step,
    ) -> Result<Next, FleetError> {
        let work = Work { shared: self, lease, bot, now: sight.now };
        match step {
            Step::Reserve => work.reserve().await,
            Step::AwaitRuntime => work.await_runtime(&sight.runtime).await,
            Step::StartCell => work.start_cell(sight).await,
            Step::AwaitBoot => work.await_boot(&sight.cell).await,
            Step::ApplySettings => work.apply_settings(&sight.cell).await,
            Step::DeclareRunning => work.declare_running(&sight.cell).await,
            Step::Reconnect => work.reconnect().await,
            Step::RestartRuntime { ask } => work.restart_runtime(&sight.cell, ask).await,
            Step::AwaitRepair => Ok(Next::At(work.now + REPAIR_POLL)),
            Step::Retry(rung, why) => work.retry(rung, why, told(sight)).await,
            Step::UndoSettings(why) => work.undo_settings(why, told(sight)).await,
            Step::NoteEnds => work.note_ends(&sight.cell).await,
            Step::GiveUp(why) => work.give_up(why, told(sight)).await,
            Step::Stop => work.stop().await,
            Step::Remove => work.remove().await,
            Step::Prepare => work.prepare().await,
            Step::Withdraw => work.withdraw().await,
        }
    }

    /// Digest of what cells are started with, apart from the bot's own things: a cell made of something else is replaced.
    pub(crate) fn made_of(&self, command: &[String]) -> String {
        let made_of = json!([self.config.proxy_url, self.config.cell_binary, command]);
        hex::encode(&Sha256::digest(made_of.to_string())[..8])
    }
}

/// What the failing part itself says, fit for a stranger's eyes.
fn told(sight: &Sight) -> Option<String> {
    match (&sight.cell, &sight.runtime) {
        (CellSight::Says(health, _), _) => {
            Some(health.error.as_ref().map_or_else(|| health.detail.clone(), |error| error.message.clone()))
        }
        (_, RuntimeState::Failed { sentence }) => Some(sentence.clone()),
        _ => None,
    }
}

/// One step of one bot.
struct Work<'a> {
    shared: &'a Arc<Shared>,
    lease: &'a Lease,
    bot: FleetBot,
    now: Time,
}

impl Work<'_> {
    /// Opens a transaction with what was seen and its event in it. `None`: the lease is gone.
    async fn seen(&self, seen: &Seen) -> Result<Option<SystemTx>, FleetError> {
        self.seen_after(self.bot.seen.observed, seen).await
    }

    /// The same where a step writes twice: `before` is what it wrote first.
    async fn seen_after(&self, before: Observed, seen: &Seen) -> Result<Option<SystemTx>, FleetError> {
        before.become_state(seen.observed)?;
        let mut system = self.shared.store.system().await?;
        if !system.record_seen(self.lease, seen, self.now).await? {
            return Ok(None);
        }
        let status = Status::of(self.bot.intent, seen.observed);
        let body = json!({ "status": status, "phase": seen.observed.phase(), "reason": seen.reason });
        system.announce_bot(self.bot.user, &self.bot.id, EventKind::BotChanged, body, self.now).await?;
        Ok(Some(system))
    }

    /// Ends the open line of the timeline well and begins the next one.
    async fn turn_to(&self, system: &mut SystemTx, stage: Stage) -> Result<(), FleetError> {
        let sentence = words::sentence(stage, &self.bot.settings.bot_name);
        let now = self.shared.clock.now();
        system.end_step(&self.bot.id, Outcome::Done, now).await?;
        let deadline = now + words::deadline(stage);
        Ok(system.begin_step(&self.bot, stage.as_str(), &sentence, now, deadline).await?)
    }

    /// A line of the timeline that is over as soon as it is written.
    async fn note(&self, system: &mut SystemTx, stage: Stage) -> Result<(), FleetError> {
        self.turn_to(system, stage).await?;
        self.end_step(system, Outcome::Done).await
    }

    async fn end_step(&self, system: &mut SystemTx, outcome: Outcome) -> Result<(), FleetError> {
        Ok(system.end_step(&self.bot.id, outcome, self.shared.clock.now()).await?)
    }

    fn is_in(&self, stage: Stage) -> bool {
        self.bot.step.as_ref().is_some_and(|step| step.name == stage.as_str())
    }

    async fn reserve(&self) -> Result<Next, FleetError> {
        let mut seen = Seen {
            observed: Observed::Infrastructure(Place::Name),
            observed_generation: self.bot.generation,
            reason: None,
            running_since: None,
            attempts: 0,
            last_error: None,
            ..self.bot.seen.clone()
        };
        seen.cell.address = None;
        seen.cell.ends.clear();
        if let (Some(range), None) = (&self.shared.config.uid_range, seen.cell.uid) {
            let mut system = self.shared.store.system().await?;
            // Two bots that choose the same one at the same time: the second is refused by the index and comes again.
            let first = first_user(range, &self.shared.config.data_dir);
            seen.cell.uid = system.free_cell_uid(range, first).await?;
            system.commit().await?;
        }
        let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        let sealed = self.shared.store.seal().seal(&gateway_token_binding(&self.bot.id), &random_token());
        system.keep_gateway_token(self.lease, self.shared.host.kind(), &sealed).await?;
        self.note(&mut system, Stage::Reserved).await?;
        system.commit().await?;
        Ok(Next::Now)
    }

    async fn await_runtime(&self, runtime: &RuntimeState) -> Result<Next, FleetError> {
        let RuntimeState::Installing { percent, sentence } = runtime else { return Ok(Next::Now) };
        let sentence = words::installing(sentence, *percent);
        let told = self.bot.step.as_ref().is_some_and(|step| step.sentence == sentence);
        if !told || !self.is_in(Stage::Runtime) {
            let seen = Seen { observed: Observed::Infrastructure(Place::Runtime), ..self.bot.seen.clone() };
            let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
            if !self.is_in(Stage::Runtime) {
                self.turn_to(&mut system, Stage::Runtime).await?;
            }
            system.retell_step(&self.bot.id, &sentence).await?;
            system.commit().await?;
        }
        Ok(Next::At(self.now + RUNTIME_POLL))
    }

    /// The key is made before the cell and belongs to it alone: whatever runs later has a newer one.
    async fn start_cell(&self, sight: &Sight) -> Result<Next, FleetError> {
        let RuntimeState::Ready { command } = &sight.runtime else { return Ok(Next::Now) };
        let Some(gateway_token) = self.shared.gateway_token(&self.bot) else {
            return self.give_up(Why::NotStarted, None).await;
        };
        let cell = Observed::Infrastructure(Place::Cell);
        let mut seen = Seen { observed: cell, running_since: None, ..self.bot.seen.clone() };
        seen.cell.address = None;
        seen.cell.noted = None;
        seen.cell.made_of.clone_from(&sight.made_of);
        let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        // It may have waited for room before: then the line is there.
        if !self.is_in(Stage::Cell) {
            self.turn_to(&mut system, Stage::Cell).await?;
        }
        let Some(keys) = system.rotate_bot_key(&self.bot.id, self.now).await? else { return Ok(Next::Gone) };
        system.commit().await?;

        let spec = CellSpec {
            bot: self.bot.id.clone(),
            uid: seen.cell.uid,
            gateway_token,
            ghost_key: keys.ghost,
            egress_key: keys.egress,
            proxy_url: self.shared.config.proxy_url.clone(),
            config: configuration(&self.bot.settings, self.bot.vertical, &self.shared.config.catalog.current()),
            revision: self.bot.revision,
            runtime_command: command.clone(),
            claim: self.bot.claim,
        };
        match self.shared.host.ensure(&spec).await {
            Ok(Ensured::Started) => {
                seen.observed = Observed::Booting(Boot::Waking);
                seen.cell.proved = self.bot.claim.is_some();
                if seen.last_error.as_deref() == Some(NO_ROOM) {
                    (seen.reason, seen.last_error) = (None, None);
                }
                let Some(mut system) = self.seen_after(cell, &seen).await? else { return Ok(Next::Gone) };
                self.turn_to(&mut system, Stage::Booting).await?;
                system.commit().await?;
                Ok(Next::Now)
            }
            Ok(Ensured::AlreadyThere) => {
                // It does not have the key that was just made; the next look starts one that does.
                self.shared.host.stop(&self.bot.id, false).await?;
                Ok(Next::Now)
            }
            Err(HostError::DiskFull) => self.wait_for_room(seen).await,
            Err(error) => {
                tracing::warn!(bot.id = %self.bot.id, error = &error as &dyn std::error::Error, "a cell was not started");
                self.fail_to_start(&seen).await
            }
        }
    }

    /// Nothing is wrong with the bot: it stays where it is, says why, and is tried again until there is room.
    async fn wait_for_room(&self, mut seen: Seen) -> Result<Next, FleetError> {
        let sentence = words::no_room(&self.bot.settings.bot_name);
        (seen.reason, seen.last_error) = (Some(sentence.clone()), Some(NO_ROOM.to_owned()));
        let Some(mut system) = self.seen_after(seen.observed, &seen).await? else { return Ok(Next::Gone) };
        system.retell_step(&self.bot.id, &sentence).await?;
        system.commit().await?;
        // The turn breaks off: others at this host will hardly do better, and each comes back ever later.
        Err(HostError::DiskFull.into())
    }

    /// A host that can't start the cell is asked again after a pause, until the attempts are used up.
    async fn fail_to_start(&self, seen: &Seen) -> Result<Next, FleetError> {
        match rung(seen.attempts) {
            Some(rung) => self.retry(rung, Why::NotStarted, None).await,
            None => self.give_up(Why::NotStarted, None).await,
        }
    }

    async fn await_boot(&self, cell: &CellSight) -> Result<Next, FleetError> {
        let (detail, address) = match cell {
            CellSight::Says(health, client) => (Some(health.detail.as_str()), Some(client.address().to_string())),
            CellSight::Silent | CellSight::Absent => (None, self.bot.seen.cell.address.clone()),
        };
        let news = detail.filter(|detail| self.bot.step.as_ref().is_none_or(|step| step.sentence != *detail));
        let boots = self.bot.seen.observed == Observed::Booting(Boot::Waking);
        if news.is_some() || !boots || !self.is_in(Stage::Booting) {
            let mut seen = Seen { observed: Observed::Booting(Boot::Waking), ..self.bot.seen.clone() };
            seen.cell.address = address;
            let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
            if !self.is_in(Stage::Booting) {
                self.turn_to(&mut system, Stage::Booting).await?;
            }
            if let Some(detail) = news {
                system.retell_step(&self.bot.id, detail).await?;
            }
            system.commit().await?;
        }
        let ready = matches!(cell, CellSight::Says(health, _) if health.phase == Phase::Ready);
        Ok(if ready { Next::Now } else { Next::At(self.now + BOOT_POLL) })
    }

    async fn apply_settings(&self, cell: &CellSight) -> Result<Next, FleetError> {
        let CellSight::Says(health, client) = cell else { return Ok(Next::Now) };
        if let Some(applied) = health.applied.as_ref().filter(|applied| applied.revision == self.bot.revision) {
            // The cell started its runtime with these: they work for a start, too.
            return self.applied(applied, self.bot.seen.observed == Observed::Booting(Boot::Waking)).await;
        }
        if !self.is_in(Stage::Settings) {
            let mut seen = self.bot.seen.clone();
            if seen.observed != Observed::Running {
                seen.observed = Observed::Booting(Boot::Settings);
            }
            let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
            self.turn_to(&mut system, Stage::Settings).await?;
            system.commit().await?;
        }
        self.push_settings(client).await
    }

    async fn push_settings(&self, client: &Client) -> Result<Next, FleetError> {
        let config = configuration(&self.bot.settings, self.bot.vertical, &self.shared.config.catalog.current());
        match client.apply(self.bot.revision, &config).await {
            Ok(applied) => self.applied(&applied, false).await,
            Err(ClientError::Refused { status, fault }) if is_final(status) => {
                tracing::warn!(bot.id = %self.bot.id, code = fault.code, "the runtime refused settings");
                self.refused(&fault).await
            }
            Err(error) => {
                tracing::warn!(bot.id = %self.bot.id, error = &error as &dyn std::error::Error,
                    "settings were not taken; they are sent again");
                Ok(Next::At(self.shared.clock.now() + APPLY_PAUSE))
            }
        }
    }

    /// `booted`: the runtime came up with them.
    async fn applied(&self, applied: &Applied, booted: bool) -> Result<Next, FleetError> {
        let mut seen = Seen {
            applied_revision: applied.revision,
            applied_hash: Some(applied.hash.clone()),
            applied_settings: Some(self.bot.settings.clone()),
            ..self.bot.seen.clone()
        };
        if booted {
            seen.good = Some(self.in_force());
        }
        seen.cell.refused_revision = None;
        if seen.observed == Observed::Running {
            seen.reason = self.reason_while_running(&seen);
        }
        let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        if self.is_in(Stage::Settings) {
            self.end_step(&mut system, Outcome::Done).await?;
        } else {
            self.note(&mut system, Stage::Settings).await?;
        }
        let body = json!({ "revision": applied.revision });
        system.announce_bot(self.bot.user, &self.bot.id, EventKind::BotApplied, body, self.now).await?;
        system.commit().await?;
        Ok(Next::Now)
    }

    async fn declare_running(&self, cell: &CellSight) -> Result<Next, FleetError> {
        let CellSight::Says(health, client) = cell else { return Ok(Next::Now) };
        let mut seen = Seen {
            observed: Observed::Running,
            reason: self.reason_while_running(&self.bot.seen),
            running_since: Some(self.now),
            last_error: None,
            ..self.bot.seen.clone()
        };
        seen.cell.noted = Some(restarts(health));
        let started = [Observed::Booting(Boot::Waking), Observed::Degraded(Rung::RestartRuntime)];
        let has_newest = health.applied.as_ref().is_some_and(|applied| applied.revision == self.bot.revision);
        if has_newest && started.contains(&self.bot.seen.observed) {
            seen.good = Some(self.in_force());
        }
        seen.cell.address = Some(client.address().to_string());
        seen.cell.announced = true;
        let Some(mut system) = self.seen(&seen).await? else { return Ok(Next::Gone) };
        self.note(&mut system, Stage::Ready).await?;
        let body = json!({ "running_since": self.now });
        system.announce_bot(self.bot.user, &self.bot.id, EventKind::BotRunning, body, self.now).await?;
        if !self.bot.seen.cell.announced && self.bot.settings.notifications.email {
            system.mail_bot_is_ready(&self.bot).await?;
        }
        system.commit().await?;
        tracing::info!(bot.id = %self.bot.id, "a bot is running");
        Ok(Next::Now)
    }

    fn in_force(&self) -> Good {
        Good { revision: self.bot.revision, settings: self.bot.settings.clone() }
    }

    /// What the owner should know about the settings while all is well otherwise.
    fn reason_while_running(&self, seen: &Seen) -> Option<String> {
        let undone = seen.cell.undone.as_ref().filter(|undone| undone.revision == self.bot.revision);
        let refused = seen.cell.refused_revision == Some(self.bot.revision);
        let refused = refused.then(|| words::settings_refused(&self.bot.settings.bot_name));
        undone.map(|undone| undone.sentence.clone()).or(refused)
    }
}

/// How often this process of the cell started its runtime anew.
pub(crate) fn restarts(health: &CellHealth) -> Restarts {
    Restarts { boot: health.boot_id, count: health.runtime_restarts }
}

/// Whether trying the same settings again can't help.
fn is_final(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE)
}

/// Where this folder's cells begin to take users. Two installations on one machine know nothing of each other's cells, and
/// a user that both gave away would open the doors between them.
fn first_user(range: &RangeInclusive<u32>, data_dir: &Path) -> u32 {
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let number = digest[..4].iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte));
    range.start() + number % (range.end() - range.start() + 1)
}

fn random_token() -> SecretString {
    let mut bytes = [0u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    hex::encode(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_folders_begin_at_different_users_of_the_range() {
        let range = 30_000..=59_999;
        let first = |folder: &str| first_user(&range, Path::new(folder));
        assert_ne!(first("/var/lib/molt"), first("/srv/molt"));
        assert_eq!(first("/srv/molt"), first("/srv/molt"));
        assert!((0..500).all(|n| range.contains(&first(&n.to_string()))));
    }
}
