//! The one machine of a bot's states: what each is called, what it says to the bot's owner, how long it may last, what may
//! follow it, and what its owner may ask for in it.
//! Never: I/O, or a second list of states anywhere else; the API's four words and the database's columns are views of this.

use chrono::TimeDelta;

use super::{Intent, UnknownWord};

/// What was last seen of a bot. Written only by `fleet::reconcile`; `bots.observed` holds the state's word and `bots.phase`
/// the finer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Observed {
    /// It has its name and its row, and nothing was made for it.
    Reserved(Reserved),
    /// What a cell needs is being made.
    Infrastructure(Place),
    /// A cell exists; its runtime isn't ready.
    Booting(Boot),
    Running,
    /// It is not as wanted, and this is what is being done about it.
    Degraded(Rung),
    Stopping,
    /// No cell runs, as its owner wants; its state is kept.
    Stopped,
    /// No cell runs, as somebody else wants: `bots.reason` says why and `bots.phase_since` since when. Its state is kept.
    Suspended,
    /// It is being removed; this is the next thing to go.
    Deleting(Left),
    /// Nothing is left of it but its tombstone.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reserved {
    AwaitingPlan,
    Queued,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Its token, and its own user where cells have one.
    Name,
    /// The runtime is being fetched for this machine.
    Runtime,
    Cell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Boot {
    Waking,
    /// The runtime is ready and takes the newest settings over.
    Settings,
}

/// The ladder of repair, gentlest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// It doesn't answer: it is asked again.
    Reconnect,
    /// The cell lives and starts its runtime anew.
    RestartRuntime,
    /// The cell is ended and started again.
    RestartCell,
    /// The same with new credentials: nothing of the old cell is left but the volume with its state.
    ReplaceCell,
    /// There is no runtime to start on this machine; the bot starts by itself once there is one.
    NoRuntime,
    /// A person is asked.
    GivenUp,
}

/// What is still to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Left {
    Cell,
    /// The state. The row goes right after it, and leaves the tombstone.
    Volume,
}

/// What a bot's owner can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Restart,
    Stop,
    Settings,
    Delete,
    Resume,
}

/// A step that the machine doesn't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} can't become {}: {why}", from.word(), to.word())]
pub struct Impossible {
    pub from: Observed,
    pub to: Observed,
    pub why: &'static str,
}

impl Observed {
    pub const ALL: [Self; 20] = [
        Self::Reserved(Reserved::AwaitingPlan),
        Self::Reserved(Reserved::Queued),
        Self::Infrastructure(Place::Name),
        Self::Infrastructure(Place::Runtime),
        Self::Infrastructure(Place::Cell),
        Self::Booting(Boot::Waking),
        Self::Booting(Boot::Settings),
        Self::Running,
        Self::Degraded(Rung::Reconnect),
        Self::Degraded(Rung::RestartRuntime),
        Self::Degraded(Rung::RestartCell),
        Self::Degraded(Rung::ReplaceCell),
        Self::Degraded(Rung::NoRuntime),
        Self::Degraded(Rung::GivenUp),
        Self::Stopping,
        Self::Stopped,
        Self::Suspended,
        Self::Deleting(Left::Cell),
        Self::Deleting(Left::Volume),
        Self::Gone,
    ];

    /// The word in `bots.observed`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Reserved(_) => "reserved",
            Self::Infrastructure(_) => "infrastructure",
            Self::Booting(_) => "booting",
            Self::Running => "running",
            Self::Degraded(_) => "degraded",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Suspended => "suspended",
            Self::Deleting(_) => "deleting",
            Self::Gone => "gone",
        }
    }

    /// The finer word, in `bots.phase` and in the API.
    #[must_use]
    pub const fn phase(self) -> &'static str {
        match self {
            Self::Reserved(Reserved::AwaitingPlan) => "awaiting_plan",
            Self::Reserved(Reserved::Queued) => "queued",
            Self::Infrastructure(Place::Name) => "reserved",
            Self::Infrastructure(Place::Runtime) => "runtime",
            Self::Infrastructure(Place::Cell) => "cell",
            Self::Booting(Boot::Waking) => "booting",
            Self::Booting(Boot::Settings) => "settings",
            Self::Running => "running",
            Self::Degraded(Rung::Reconnect) => "reconnecting",
            Self::Degraded(Rung::RestartRuntime) => "restarting_runtime",
            Self::Degraded(Rung::RestartCell) => "restarting_cell",
            Self::Degraded(Rung::ReplaceCell) => "replacing_cell",
            Self::Degraded(Rung::NoRuntime) => "no_runtime",
            Self::Degraded(Rung::GivenUp) => "failed",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Suspended => "suspended",
            Self::Deleting(Left::Cell) => "removing_cell",
            Self::Deleting(Left::Volume) => "removing_state",
            Self::Gone => "gone",
        }
    }

    /// Reads both columns. A phase that this version doesn't know gives way to the state's first one.
    pub fn read(word: &str, phase: &str) -> Result<Self, UnknownWord> {
        let of_word = || Self::ALL.into_iter().filter(|state| state.word() == word);
        of_word().find(|state| state.phase() == phase).or_else(|| of_word().next()).ok_or(UnknownWord)
    }

    /// How long it may last before somebody should know. `None`: for ever.
    #[must_use]
    pub const fn limit(self) -> Option<TimeDelta> {
        let seconds = match self {
            Self::Infrastructure(Place::Name) => 10,
            // Half a gigabyte on a slow line.
            Self::Infrastructure(Place::Runtime) => 20 * 60,
            // As long as the fleet waits for a host: a process takes milliseconds, a container on a busy disk many seconds, a
            // machine elsewhere minutes.
            Self::Infrastructure(Place::Cell) => 3 * 60,
            // The runtime needs 12 to 25 s on two quiet cores and up to 50 s on busy ones.
            Self::Booting(Boot::Waking) | Self::Degraded(Rung::RestartRuntime) => 3 * 60,
            // A change may restart the runtime.
            Self::Booting(Boot::Settings) => 150,
            // The cell itself tries for five seconds to join a runtime that it lost.
            Self::Degraded(Rung::Reconnect) => 15,
            // With the longest pause before a try.
            Self::Degraded(Rung::RestartCell | Rung::ReplaceCell) => 60,
            // Eight seconds of grace, then force.
            Self::Stopping | Self::Deleting(Left::Cell) => 20,
            // A volume may be large.
            Self::Deleting(Left::Volume) => 120,
            // Whoever waits for the fleet is found by the queue's own time.
            Self::Reserved(_)
            | Self::Running
            | Self::Degraded(Rung::NoRuntime | Rung::GivenUp)
            | Self::Stopped
            | Self::Suspended
            | Self::Gone => return None,
        };
        Some(TimeDelta::seconds(seconds))
    }

    /// Nothing goes on: it stays so until somebody wants something or the world changes.
    #[must_use]
    pub const fn rests(self) -> bool {
        self.limit().is_none()
    }

    /// What its owner reads about it.
    #[must_use]
    pub fn sentence(self, bot_name: &str) -> String {
        match self {
            Self::Reserved(Reserved::AwaitingPlan) => format!("{bot_name} starts as soon as a plan is in force"),
            Self::Reserved(Reserved::Queued) => format!("{bot_name} is about to be started"),
            Self::Infrastructure(Place::Name) => format!("Reserving a place for {bot_name}"),
            Self::Infrastructure(Place::Runtime) => "Fetching OpenClaw, once for this machine".to_owned(),
            Self::Infrastructure(Place::Cell) => format!("Starting {bot_name}'s cell"),
            Self::Booting(Boot::Waking) => "Waking up the assistant's runtime".to_owned(),
            Self::Booting(Boot::Settings) => "Applying your settings".to_owned(),
            Self::Running => format!("{bot_name} is ready"),
            Self::Degraded(Rung::Reconnect) => format!("{bot_name} does not answer; reaching for it again"),
            Self::Degraded(Rung::RestartRuntime) => format!("Restarting {bot_name}'s runtime"),
            Self::Degraded(Rung::RestartCell) => format!("Restarting {bot_name}'s cell"),
            Self::Degraded(Rung::ReplaceCell) => {
                format!("Replacing {bot_name}'s cell; its memory and its files stay")
            }
            Self::Degraded(Rung::NoRuntime) => format!("{bot_name} waits until OpenClaw can be fetched"),
            Self::Degraded(Rung::GivenUp) => format!("{bot_name} does not come up and needs you"),
            Self::Stopping => format!("Stopping {bot_name}"),
            Self::Stopped => format!("{bot_name} is stopped; its memory and its files are kept"),
            Self::Suspended => format!("{bot_name} is suspended; its memory and its files are kept"),
            Self::Deleting(Left::Cell) => format!("Ending {bot_name}"),
            Self::Deleting(Left::Volume) => format!("Removing {bot_name}'s memory and files"),
            Self::Gone => format!("{bot_name} is gone"),
        }
    }

    /// Whether it may be followed by `to`: the drawing in ARCHITECTURE.md, as a table of states.
    pub fn become_state(self, to: Self) -> Result<Self, Impossible> {
        use Observed as O;
        let why = match (self, to) {
            (O::Gone, _) => "what is gone never comes back",
            (O::Deleting(_), O::Deleting(_) | O::Gone) => return Ok(to),
            (O::Deleting(_), _) => "what is being deleted can only go",
            (_, O::Deleting(_)) => return Ok(to),
            (_, O::Gone) => "nothing goes before its cell, its state and its row are removed",
            (O::Reserved(_), O::Reserved(_)) => return Ok(to),
            (_, O::Reserved(_)) => "only a bot for which nothing was made is reserved",
            (_, O::Stopping) => return Ok(to),
            (O::Reserved(_), O::Stopped | O::Suspended) => "what never was started is not stopped",
            (_, O::Stopped) => return Ok(to),
            (O::Stopping | O::Stopped | O::Suspended, O::Suspended) => return Ok(to),
            (_, O::Suspended) => "it is stopped first",
            (_, O::Infrastructure(_)) => return Ok(to),
            (O::Infrastructure(_) | O::Booting(_) | O::Degraded(_), O::Booting(_)) => return Ok(to),
            (_, O::Booting(_)) => "only a cell that was started boots",
            (O::Running | O::Booting(_) | O::Degraded(_), O::Running) => return Ok(to),
            (_, O::Running) => "only what booted runs",
            (O::Infrastructure(_) | O::Booting(_) | O::Running | O::Degraded(_), O::Degraded(_)) => return Ok(to),
            (_, O::Degraded(_)) => "what isn't meant to run needs no repair",
        };
        Err(Impossible { from: self, to, why })
    }

    /// What its owner should see when what is wanted has changed and nobody has acted on it yet.
    #[must_use]
    pub const fn under(self, intent: Intent, suspended: bool) -> Self {
        match (intent, suspended, self) {
            (Intent::Deleted, _, Self::Deleting(_) | Self::Gone) => self,
            (Intent::Deleted, _, _) => Self::Deleting(Left::Cell),
            (Intent::AwaitingPlan, _, _) => Self::Reserved(Reserved::AwaitingPlan),
            (Intent::Stopped, true, _) => Self::Suspended,
            (Intent::Stopped, false, _) => Self::Stopped,
            (Intent::Running, _, Self::Reserved(_) | Self::Stopping | Self::Stopped | Self::Suspended) => {
                Self::Reserved(Reserved::Queued)
            }
            (Intent::Running, ..) => self,
        }
    }

    /// Whether its owner may ask for this now; the refusal is a sentence for them.
    pub const fn allows(self, verb: Verb) -> Result<(), &'static str> {
        match (self, verb) {
            (Self::Deleting(_) | Self::Gone, _) => Err("The assistant is being removed."),
            (_, Verb::Settings | Verb::Delete) => Ok(()),
            (Self::Reserved(Reserved::AwaitingPlan), _) => {
                Err("The assistant waits for a plan; start one at POST /api/billing/checkout.")
            }
            (Self::Suspended, _) => Err("The assistant is suspended; its `reason` says why."),
            (Self::Stopped, Verb::Restart) => Err("The assistant is stopped on purpose; resume it instead."),
            // Asked twice, or lifted a pause of its use: there is nothing to refuse.
            (_, Verb::Restart | Verb::Stop | Verb::Resume) => Ok(()),
        }
    }
}
