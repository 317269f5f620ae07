//! What to do next about one bot: all the decisions of the fleet in one pure function.
//! Never: I/O, a clock, or a second place that decides.

use molt_bot::Phase;
use molt_model::{Intent, Observed, Time};

/// Failures in a row before a bot counts as failed and a person is asked.
pub const ATTEMPTS_MAX: i32 = 5;

/// Everything that the next step depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub intent: Intent,
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
    pub observed: Observed,
    /// The bot has its gateway token and, where cells have users of their own, its user.
    pub reserved: bool,
    /// The bot failed because the runtime isn't installed.
    pub failed_on_runtime: bool,
    pub cell: CellFact,
    pub runtime: RuntimeFact,
    /// The open step of the timeline, and its deadline.
    pub step: Option<(Stage, Time)>,
    /// Failures since the bot last ran for a while.
    pub attempts: i32,
    /// The bot ran long enough that what happens now is not a part of earlier failures.
    pub stable: bool,
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
    /// It ran and does not answer or is gone: say so, and bring it back at once.
    Recover,
    /// End what is left, and start again after a pause.
    Retry(Why),
    /// End what is left, and ask a person.
    GiveUp(Why),
    /// End the cell and what belongs to it; its state stays.
    Stop,
    /// End the cell, remove its state, then the row.
    Remove,
}

/// Why it did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The runtime can't be installed.
    NoRuntime,
    /// A step took longer than its deadline.
    TooSlow,
    /// The cell ended by itself.
    Died,
    /// The cell says that its runtime doesn't come up.
    RuntimeFails,
    /// The host couldn't start the cell.
    NotStarted,
    /// The runtime didn't confirm the settings.
    SettingsStuck,
}

/// The next step towards what is wanted. `None`: everything is as wanted, or only a person can change it.
#[must_use]
pub fn plan(facts: &Facts) -> Option<Step> {
    match facts.intent {
        Intent::Deleted => Some(Step::Remove),
        Intent::AwaitingPlan | Intent::Stopped => plan_rest(facts),
        Intent::Running if facts.cell == CellFact::Absent => plan_start(facts),
        Intent::Running => plan_cell(facts),
    }
}

fn plan_rest(facts: &Facts) -> Option<Step> {
    let rests = matches!(facts.observed, Observed::Absent | Observed::Stopped);
    (!rests || facts.cell != CellFact::Absent).then_some(Step::Stop)
}

/// Wanted, and there is no cell.
fn plan_start(facts: &Facts) -> Option<Step> {
    if facts.generation != facts.observed_generation || !facts.reserved {
        return Some(Step::Reserve);
    }
    let stage = facts.step.map(|(stage, _)| stage);
    match facts.observed {
        Observed::Absent | Observed::Stopped | Observed::Stopping => Some(Step::Reserve),
        Observed::Failed if facts.failed_on_runtime && facts.runtime != RuntimeFact::Failed => Some(Step::Reserve),
        Observed::Failed => None,
        Observed::Running if facts.stable => Some(Step::Recover),
        Observed::Running => Some(failure(facts, Why::Died)),
        Observed::Starting if matches!(stage, Some(Stage::Booting | Stage::Settings)) => {
            Some(failure(facts, Why::Died))
        }
        Observed::Starting => Some(match facts.runtime {
            RuntimeFact::Ready => Step::StartCell,
            RuntimeFact::Failed => Step::GiveUp(Why::NoRuntime),
            RuntimeFact::Installing if overdue(facts) => Step::GiveUp(Why::NoRuntime),
            RuntimeFact::Installing => Step::AwaitRuntime,
        }),
    }
}

/// Wanted, and there is a cell.
fn plan_cell(facts: &Facts) -> Option<Step> {
    let expected = matches!(facts.observed, Observed::Starting | Observed::Running);
    if !expected || facts.generation != facts.observed_generation || !facts.reserved {
        return Some(Step::Stop);
    }
    let CellFact::Says { phase, applied, outdated } = facts.cell else { return Some(plan_unready(facts)) };
    if outdated {
        return Some(Step::Stop);
    }
    match phase {
        Phase::Ready => plan_ready(facts, applied),
        Phase::Failed => Some(failure(facts, Why::RuntimeFails)),
        Phase::Starting | Phase::Booting | Phase::Connecting | Phase::Restarting => Some(plan_unready(facts)),
    }
}

fn plan_unready(facts: &Facts) -> Step {
    if facts.observed == Observed::Running {
        Step::Recover
    } else if overdue(facts) {
        failure(facts, Why::TooSlow)
    } else {
        Step::AwaitBoot
    }
}

fn plan_ready(facts: &Facts, applied: Option<i64>) -> Option<Step> {
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

fn failure(facts: &Facts, why: Why) -> Step {
    if facts.attempts + 1 < ATTEMPTS_MAX { Step::Retry(why) } else { Step::GiveUp(why) }
}

impl Stage {
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
        }
    }

    /// The stage of this name; `None` for a name that an earlier version used.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let all =
            [Self::Reserved, Self::Runtime, Self::Cell, Self::Booting, Self::Settings, Self::Ready, Self::Stopping];
        all.into_iter().find(|stage| stage.as_str() == name)
    }
}

#[cfg(test)]
mod tests;
