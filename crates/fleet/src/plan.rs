//! What to do next about one bot: all the decisions of the fleet in one pure function.
//! Never: I/O, a clock, or a second place that decides.

use molt_bot::Phase;
use molt_model::bot::{Ahead, Boot, Place};
use molt_model::{Intent, Observed, Rung, Time};

/// Failures in a row before a bot counts as failed and a person is asked.
pub const ATTEMPTS_MAX: i32 = 5;
/// So many ends of a cell or its runtime within `ENDS_WINDOW_MINUTES` are a crash loop, even if the bot ran in between.
pub const ENDS_MAX: usize = 5;
pub(crate) const ENDS_WINDOW_MINUTES: i64 = 15;

/// Everything that the next step depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub intent: Intent,
    /// It is stopped because somebody else wants it so.
    pub suspended: bool,
    /// Grows when a person asks for a restart.
    pub generation: i64,
    /// The generation for which every older cell is known to be gone.
    pub observed_generation: i64,
    /// Settings wanted.
    pub revision: i64,
    /// Settings that the runtime confirmed.
    pub applied_revision: i64,
    /// Settings that the runtime refused for good.
    pub refused_revision: Option<i64>,
    /// There are other settings, which worked.
    pub undoable: bool,
    pub observed: Observed,
    /// The bot has its gateway token and, where cells have users of their own, its user.
    pub reserved: bool,
    /// What was made of its place before it ever was to run. None at a host that makes nothing ahead.
    pub ahead: Option<Ahead>,
    /// Until when a place waits for a plan. `None`: none is made here, or none any more.
    pub ahead_until: Option<Time>,
    pub cell: CellFact,
    pub runtime: RuntimeFact,
    /// The open step of the timeline, and its deadline.
    pub step: Option<(Stage, Time)>,
    /// Failures since the bot last ran for a while.
    pub attempts: i32,
    /// Ends of the cell or its runtime within the window of a crash loop.
    pub ends: usize,
    pub now: Time,
}

/// What the host and the cell itself say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellFact {
    Absent,
    /// It lives and does not answer.
    Silent,
    Says {
        phase: Phase,
        /// Revision of the settings that the runtime has taken over.
        applied: Option<i64>,
        /// It was started with another proxy, program or runtime than a cell would be now.
        outdated: bool,
        /// The runtime says that its settings are why it doesn't start.
        blames_settings: bool,
        /// How often its runtime ended since somebody noted it.
        ended: usize,
    },
}

/// Whether there is a runtime on this machine to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeFact {
    Ready,
    Installing,
    Failed,
}

/// The steps that a bot's timeline shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Reserved,
    Runtime,
    Cell,
    Booting,
    Settings,
    Ready,
    Stopping,
    Reconnect,
    RestartRuntime,
    RestartCell,
    ReplaceCell,
    /// A change of the settings was undone.
    Undone,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Note that no older cell lives, make what a cell needs to be known by, count failures from zero.
    Reserve,
    /// Wait until the runtime is installed.
    AwaitRuntime,
    StartCell,
    /// Wait until the cell's runtime is ready.
    AwaitBoot,
    /// See to it that the runtime has the newest settings.
    ApplySettings,
    DeclareRunning,
    /// It ran and doesn't answer: say so, and reach for it again.
    Reconnect,
    /// The runtime is to start anew while the cell lives. `ask`: the cell doesn't do it by itself.
    RestartRuntime {
        ask: bool,
    },
    /// Give the rung that it is on its time.
    AwaitRepair,
    /// End what is left, and start again after a pause, on this rung of the ladder.
    Retry(Rung, Why),
    /// The newest settings keep it from coming up: the last ones that worked take their place.
    UndoSettings(Why),
    /// The runtime ended and is back already: count it.
    NoteEnds,
    /// End what is left, and ask a person.
    GiveUp(Why),
    /// End the cell and what belongs to it; its state stays.
    Stop,
    /// End the cell, remove its state, then the row.
    Remove,
    /// Make what takes long, before anybody wants it running.
    Prepare,
    /// Take away what was made, because nobody came for it.
    Withdraw,
}

/// Why it did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The runtime can't be installed.
    NoRuntime,
    /// A step took longer than its deadline.
    TooSlow,
    /// The cell lives and does not answer.
    Silent,
    /// The cell ended by itself.
    Died,
    /// The cell says that its runtime doesn't come up.
    RuntimeFails,
    /// The host couldn't start the cell.
    NotStarted,
    /// The runtime didn't confirm the settings.
    SettingsStuck,
    /// It comes up and ends, again and again.
    CrashLoop,
}

/// The next step towards what is wanted. `None`: everything is as wanted, or only a person can change it.
#[must_use]
pub fn plan(facts: &Facts) -> Option<Step> {
    match facts.intent {
        // What has begun to go goes, whatever anybody wants.
        _ if matches!(facts.observed, Observed::Deleting(_) | Observed::Gone) => Some(Step::Remove),
        Intent::Deleted => Some(Step::Remove),
        // Half of it may be gone, so it goes on going; whatever is wanted now is made anew.
        _ if facts.ahead == Some(Ahead::Leaving) && never_ran(facts) => Some(Step::Withdraw),
        Intent::AwaitingPlan | Intent::Stopped => plan_rest(facts),
        Intent::Running if facts.cell == CellFact::Absent => plan_start(facts),
        Intent::Running => plan_cell(facts),
    }
}

fn plan_rest(facts: &Facts) -> Option<Step> {
    let rests = match facts.observed {
        Observed::Reserved(_) => true,
        Observed::Stopped => !facts.suspended,
        Observed::Suspended => facts.suspended,
        _ => false,
    };
    if !rests || facts.cell != CellFact::Absent {
        return Some(Step::Stop);
    }
    if never_ran(facts) { plan_ahead(facts) } else { None }
}

/// Nothing of it can be lost: no cell was ever started.
const fn never_ran(facts: &Facts) -> bool {
    matches!(facts.observed, Observed::Reserved(_)) && !facts.reserved
}

fn plan_ahead(facts: &Facts) -> Option<Step> {
    let worth = facts.intent == Intent::AwaitingPlan && facts.ahead_until.is_some_and(|until| facts.now < until);
    match facts.ahead {
        None | Some(Ahead::Making | Ahead::Lapsed) if worth => Some(Step::Prepare),
        Some(Ahead::Making | Ahead::Made) if !worth => Some(Step::Withdraw),
        _ => None,
    }
}

/// Wanted, and there is no cell.
fn plan_start(facts: &Facts) -> Option<Step> {
    if facts.generation != facts.observed_generation || !facts.reserved {
        return Some(Step::Reserve);
    }
    match facts.observed {
        Observed::Reserved(_) | Observed::Stopped | Observed::Suspended | Observed::Stopping => Some(Step::Reserve),
        Observed::Degraded(Rung::NoRuntime) if facts.runtime != RuntimeFact::Failed => Some(Step::Reserve),
        Observed::Degraded(Rung::NoRuntime | Rung::GivenUp) => None,
        Observed::Running | Observed::Booting(_) | Observed::Degraded(Rung::Reconnect | Rung::RestartRuntime) => {
            Some(failure(facts, Why::Died))
        }
        Observed::Infrastructure(_) | Observed::Degraded(Rung::RestartCell | Rung::ReplaceCell) => {
            Some(match facts.runtime {
                RuntimeFact::Ready => Step::StartCell,
                RuntimeFact::Failed => Step::GiveUp(Why::NoRuntime),
                RuntimeFact::Installing if fetches_for_too_long(facts) => Step::GiveUp(Why::NoRuntime),
                RuntimeFact::Installing => Step::AwaitRuntime,
            })
        }
        Observed::Deleting(_) | Observed::Gone => None,
    }
}

fn fetches_for_too_long(facts: &Facts) -> bool {
    facts.observed == Observed::Infrastructure(Place::Runtime) && overdue(facts)
}

/// Wanted, and there is a cell.
fn plan_cell(facts: &Facts) -> Option<Step> {
    let expected = match facts.observed {
        Observed::Infrastructure(_) | Observed::Booting(_) | Observed::Running => true,
        Observed::Degraded(rung) => !matches!(rung, Rung::NoRuntime | Rung::GivenUp),
        _ => false,
    };
    if !expected || facts.generation != facts.observed_generation || !facts.reserved {
        return Some(Step::Stop);
    }
    let CellFact::Says { phase, applied, outdated, blames_settings, ended } = facts.cell else {
        return Some(plan_unready(facts, None));
    };
    if outdated {
        return Some(Step::Stop);
    }
    match phase {
        Phase::Ready => plan_ready(facts, applied, ended),
        _ if blames_settings && facts.undoable => Some(Step::UndoSettings(Why::RuntimeFails)),
        Phase::Failed => Some(failure(facts, Why::RuntimeFails)),
        phase => Some(plan_unready(facts, Some(phase))),
    }
}

/// `phase`: what the cell says, if it answers.
fn plan_unready(facts: &Facts, phase: Option<Phase>) -> Step {
    let restarts = matches!(phase, Some(Phase::Starting | Phase::Booting | Phase::Restarting));
    match facts.observed {
        Observed::Running | Observed::Degraded(Rung::Reconnect) if restarts => Step::RestartRuntime { ask: false },
        Observed::Running => Step::Reconnect,
        Observed::Degraded(Rung::Reconnect | Rung::RestartRuntime) if !overdue(facts) => Step::AwaitRepair,
        Observed::Degraded(Rung::Reconnect) if phase.is_some() => Step::RestartRuntime { ask: true },
        Observed::Degraded(Rung::Reconnect) => failure(facts, Why::Silent),
        Observed::Degraded(Rung::RestartRuntime) => failure(facts, Why::TooSlow),
        Observed::Booting(_) if overdue(facts) => failure(facts, Why::TooSlow),
        _ => Step::AwaitBoot,
    }
}

fn plan_ready(facts: &Facts, applied: Option<i64>, ended: usize) -> Option<Step> {
    if matches!(facts.observed, Observed::Infrastructure(_) | Observed::Degraded(Rung::RestartCell | Rung::ReplaceCell))
    {
        return Some(Step::AwaitBoot);
    }
    if ended > 0 {
        let loops = facts.ends + ended >= ENDS_MAX;
        return Some(if loops { Step::GiveUp(Why::CrashLoop) } else { Step::NoteEnds });
    }
    let known = facts.applied_revision == facts.revision && applied.is_none_or(|revision| revision == facts.revision);
    let refused = facts.refused_revision == Some(facts.revision);
    if !known && !refused {
        let settings = matches!(facts.step, Some((Stage::Settings, _)));
        return Some(if settings && overdue(facts) { failure(facts, Why::SettingsStuck) } else { Step::ApplySettings });
    }
    (facts.observed != Observed::Running).then_some(Step::DeclareRunning)
}

fn overdue(facts: &Facts) -> bool {
    facts.step.is_some_and(|(_, deadline)| deadline <= facts.now)
}

/// The next rung of the ladder, unless the settings are to blame or nothing more can be tried.
fn failure(facts: &Facts, why: Why) -> Step {
    if facts.undoable && settings_are_to_blame(facts, why) {
        return Step::UndoSettings(why);
    }
    if facts.ends + 1 >= ENDS_MAX {
        return Step::GiveUp(Why::CrashLoop);
    }
    match rung(facts.attempts) {
        Some(rung) => Step::Retry(rung, why),
        None => Step::GiveUp(why),
    }
}

/// What to try after so many failures: each rung twice. `None`: everything was tried.
pub(crate) const fn rung(attempts: i32) -> Option<Rung> {
    match attempts {
        ..2 => Some(Rung::RestartCell),
        2..4 => Some(Rung::ReplaceCell),
        _ => None,
    }
}

/// The cell tried a runtime that ends several times before it says so. What is slow or dies once may have been chance.
const fn settings_are_to_blame(facts: &Facts, why: Why) -> bool {
    let comes_up = matches!(facts.observed, Observed::Booting(Boot::Waking | Boot::Settings));
    match why {
        Why::RuntimeFails => true,
        Why::TooSlow | Why::Silent | Why::Died | Why::SettingsStuck => comes_up && facts.attempts > 0,
        Why::NoRuntime | Why::NotStarted | Why::CrashLoop => false,
    }
}

impl Stage {
    pub(crate) const ALL: [Self; 12] = [
        Self::Reserved,
        Self::Runtime,
        Self::Cell,
        Self::Booting,
        Self::Settings,
        Self::Ready,
        Self::Stopping,
        Self::Reconnect,
        Self::RestartRuntime,
        Self::RestartCell,
        Self::ReplaceCell,
        Self::Undone,
    ];

    /// The word in the database and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Runtime => "runtime",
            Self::Cell => "cell",
            Self::Booting => "booting",
            Self::Settings => "settings",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Reconnect => "reconnect",
            Self::RestartRuntime => "restart_runtime",
            Self::RestartCell => "restart_cell",
            Self::ReplaceCell => "replace_cell",
            Self::Undone => "undone",
        }
    }

    /// The stage of this name; `None` for a name that an earlier version used.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }

    /// The state that a bot is in while the line is open. `None`: the line tells of a moment.
    #[must_use]
    pub const fn state(self) -> Option<Observed> {
        Some(match self {
            Self::Reserved => Observed::Infrastructure(Place::Name),
            Self::Runtime => Observed::Infrastructure(Place::Runtime),
            Self::Cell => Observed::Infrastructure(Place::Cell),
            Self::Booting => Observed::Booting(Boot::Waking),
            Self::Settings => Observed::Booting(Boot::Settings),
            Self::Stopping => Observed::Stopping,
            Self::Reconnect => Observed::Degraded(Rung::Reconnect),
            Self::RestartRuntime => Observed::Degraded(Rung::RestartRuntime),
            Self::RestartCell => Observed::Degraded(Rung::RestartCell),
            Self::ReplaceCell => Observed::Degraded(Rung::ReplaceCell),
            Self::Ready | Self::Undone => return None,
        })
    }

    pub(crate) const fn of_rung(rung: Rung) -> Option<Self> {
        match rung {
            Rung::Reconnect => Some(Self::Reconnect),
            Rung::RestartRuntime => Some(Self::RestartRuntime),
            Rung::RestartCell => Some(Self::RestartCell),
            Rung::ReplaceCell => Some(Self::ReplaceCell),
            Rung::NoRuntime | Rung::GivenUp => None,
        }
    }
}

#[cfg(test)]
mod tests;
