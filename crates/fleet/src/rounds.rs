//! One worker's time with one bot: look, plan, do one step, write it down, and again, until nothing is left to do now.
//! Never: two steps on one look, or a transaction that is open while the world is asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use molt_bot::{CellAddress, CellHealth, Client};
use molt_model::bot::Ahead;
use molt_model::{Intent, Observed, Rung, Time};
use molt_store::fleet::{FleetBot, Lease, Seen, gateway_token_binding};
use secrecy::SecretString;

use crate::act::{recent_ends, restarts};
use crate::error::FleetError;
use crate::host::Report;
use crate::plan::{CellFact, Facts, RuntimeFact, Stage, Step, plan};
use crate::reconcile::Shared;
use crate::runtime::RuntimeState;

/// Steps of one bot in one go: more than any plan needs, so that only a fault of ours ever meets it.
const STEPS_MAX: usize = 24;
/// A worker that has been busy for so long goes to the end of the queue after its step.
const TURN: Duration = Duration::from_secs(30);
/// A run this long ends the count of failures.
const STABLE_AFTER: TimeDelta = TimeDelta::minutes(2);
/// What a cell says when the runtime left because its configuration doesn't validate.
const CONFIG_INVALID: &str = "config_invalid";
/// How often a bot looks whether the runtime can be had again.
const RUNTIME_RETRY_PAUSE: TimeDelta = TimeDelta::seconds(5);

/// How a worker's turn went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Driven {
    pub(crate) steps: usize,
    pub(crate) broke_off: bool,
}

/// When to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Now,
    At(Time),
    /// The lease or the bot is gone.
    Gone,
}

/// What was found when the world was asked.
pub(crate) struct Sight {
    pub(crate) now: Time,
    pub(crate) cell: CellSight,
    pub(crate) runtime: RuntimeState,
    /// Digest of what a cell would be started with now; none while that isn't known.
    pub(crate) made_of: Option<String>,
}

pub(crate) enum CellSight {
    Absent,
    Silent,
    Says(Box<CellHealth>, Client),
}

impl Shared {
    /// Works on one bot until everything is as wanted or has to wait, and gives it back.
    pub(crate) async fn drive(self: Arc<Self>, lease: Lease) -> Driven {
        let mut driven = Driven::default();
        let next = match self.take_turn(&lease, &mut driven).await {
            Ok(next) => {
                self.setbacks.forget(&lease.bot);
                next
            }
            Err(error) => {
                driven.broke_off = true;
                tracing::warn!(bot.id = %lease.bot, error = &error as &dyn std::error::Error,
                    "work on a bot broke off; it goes on in a moment");
                Some(self.clock.now() + self.setbacks.pause(&lease.bot))
            }
        };
        self.release(lease, next).await;
        driven
    }

    async fn take_turn(self: &Arc<Self>, lease: &Lease, driven: &mut Driven) -> Result<Option<Time>, FleetError> {
        let began = Instant::now();
        self.forget_health(&lease.bot);
        let mut seen = None;
        while driven.steps < STEPS_MAX && began.elapsed() < TURN {
            let Some(mut bot) = self.load(lease).await? else { return Ok(None) };
            let sight = match seen.take() {
                Some(sight) => sight,
                None => self.look(&mut bot).await?,
            };
            let facts = self.facts(&bot, &sight);
            let Some(step) = plan(&facts) else { return Ok(self.rest(&bot, sight, &facts)) };
            driven.steps += 1;
            tracing::debug!(bot.id = %bot.id, step = ?step, "next step of a bot");
            // Neither a name nor a place is a cell. The host isn't asked again for nothing: some take their time, and count.
            let no_cell = matches!(step, Step::Reserve | Step::Prepare | Step::Withdraw);
            let stands = no_cell && matches!(sight.cell, CellSight::Absent);
            match self.act(lease, bot, &sight, step).await? {
                Next::Now => seen = stands.then(|| Sight { now: self.clock.now(), ..sight }),
                Next::At(time) => return Ok(Some(time)),
                Next::Gone => return Ok(None),
            }
        }
        Ok(Some(self.clock.now()))
    }

    async fn load(&self, lease: &Lease) -> Result<Option<FleetBot>, FleetError> {
        let mut system = self.store.system().await?;
        let bot = system.leased_bot(lease).await?;
        system.commit().await?;
        Ok(bot)
    }

    async fn look(self: &Arc<Self>, bot: &mut FleetBot) -> Result<Sight, FleetError> {
        let cell = self.look_at_cell(bot).await?;
        let runtime = self.runtime.borrow().clone();
        let made_of = match &runtime {
            RuntimeState::Ready { command } => Some(self.made_of(command)),
            RuntimeState::Installing { .. } | RuntimeState::Failed { .. } => None,
        };
        Ok(Sight { now: self.clock.now(), cell, runtime, made_of })
    }

    /// What another bot runs is no cell of this one's.
    async fn look_at_cell(self: &Arc<Self>, bot: &mut FleetBot) -> Result<CellSight, FleetError> {
        if !self.owns_cell(bot).await? {
            return Ok(CellSight::Absent);
        }
        // Whatever is written next says so, and nobody asks again.
        bot.seen.cell.proved = bot.claim.is_some();
        Ok(match self.host.inspect(&bot.id).await? {
            Report::Absent => CellSight::Absent,
            Report::Present { address } => {
                self.guard(&bot.id);
                self.ask_cell(bot, address).await
            }
        })
    }

    async fn ask_cell(&self, bot: &FleetBot, address: CellAddress) -> CellSight {
        let asked = matches!(bot.intent, Intent::Running);
        let Some(token) = self.gateway_token(bot).filter(|_| asked) else { return CellSight::Silent };
        let client = Client::new(address, token);
        match client.health().await {
            Ok(health) => CellSight::Says(Box::new(health), client),
            Err(error) => {
                tracing::debug!(bot.id = %bot.id, error = &error as &dyn std::error::Error, "a cell does not answer");
                CellSight::Silent
            }
        }
    }

    pub(crate) fn gateway_token(&self, bot: &FleetBot) -> Option<SecretString> {
        let sealed = bot.gateway_token.as_ref()?;
        let opened = self.store.seal().open(&gateway_token_binding(&bot.id), sealed);
        if opened.is_err() {
            tracing::error!(bot.id = %bot.id, "the gateway token of a bot can't be opened: is the seal key the right one?");
        }
        opened.ok()
    }

    /// Nothing to do: a running cell is asked now and then, a bot without a runtime looks again later, and one whose place
    /// waits for a plan when that has waited long enough.
    fn rest(&self, bot: &FleetBot, sight: Sight, facts: &Facts) -> Option<Time> {
        if let (Intent::Running, CellSight::Says(health, client)) = (bot.intent, sight.cell) {
            self.watch_health(bot, client.address(), restarts(&health));
        }
        let no_runtime = facts.observed == Observed::Degraded(Rung::NoRuntime);
        let waits = bot.intent == Intent::Running && no_runtime && facts.runtime == RuntimeFact::Failed;
        let kept = facts.ahead_until.filter(|_| facts.ahead == Some(Ahead::Made));
        if waits { Some(sight.now + RUNTIME_RETRY_PAUSE) } else { kept }
    }
}

/// Whether the bot runs for long enough that what happens next is a new story.
fn is_stable(seen: &Seen, now: Time) -> bool {
    seen.running_since.is_some_and(|since| since + STABLE_AFTER <= now)
}

/// Failures since the bot last ran for a while.
pub(crate) fn failures(seen: &Seen, now: Time) -> i32 {
    if is_stable(seen, now) { 0 } else { seen.attempts }
}

impl Shared {
    fn facts(&self, bot: &FleetBot, sight: &Sight) -> Facts {
        let seen = &bot.seen;
        let cell = match &sight.cell {
            CellSight::Absent => CellFact::Absent,
            CellSight::Silent => CellFact::Silent,
            CellSight::Says(health, _) => CellFact::Says {
                phase: health.phase,
                applied: health.applied.as_ref().map(|applied| applied.revision),
                outdated: sight.made_of.is_some() && sight.made_of != seen.cell.made_of,
                blames_settings: health.error.as_ref().is_some_and(|fault| fault.code == CONFIG_INVALID),
                ended: ended(seen, health),
            },
        };
        Facts {
            intent: bot.intent,
            suspended: bot.intent == Intent::Stopped && bot.intent_reason.is_some(),
            generation: bot.generation,
            observed_generation: seen.observed_generation,
            revision: bot.revision,
            applied_revision: seen.applied_revision,
            refused_revision: seen.cell.refused_revision,
            undoable: bot.intent == Intent::Running && self.undo_target(bot).is_some(),
            observed: seen.observed,
            reserved: bot.gateway_token.is_some(),
            // A host that makes nothing ahead can take nothing away.
            ahead: bot.ahead.filter(|_| self.host.prepares().is_some()),
            ahead_until: self.ahead_until(bot),
            cell,
            runtime: sight.runtime.fact(),
            step: bot.step.as_ref().and_then(|step| Some((Stage::parse(&step.name)?, step.deadline_at))),
            attempts: failures(seen, sight.now),
            ends: recent_ends(seen, sight.now).count(),
            now: sight.now,
        }
    }
}

/// How often the runtime ended since somebody noted it. Of a cell that nobody noted, only what this start shows counts.
fn ended(seen: &Seen, health: &CellHealth) -> usize {
    let before = match seen.cell.noted {
        Some(noted) if noted.boot == health.boot_id => noted.count,
        Some(_) => 0,
        None if seen.observed == Observed::Running => health.runtime_restarts,
        None => 0,
    };
    usize::try_from(health.runtime_restarts.saturating_sub(before)).unwrap_or(usize::MAX)
}
