//! A bot's life: what its owner wants, what was seen of it, and what the owner is told.
//! Never: I/O; `fleet::plan` decides the next step from these values.

macro_rules! text_enum {
    ($name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $name {
            /// The word used in the database and on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownWord;
            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err(UnknownWord) }
            }
        }
    };
}

mod state;
mod suspension;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Time;

pub use state::{Boot, Impossible, Left, Observed, Place, Reserved, Rung, Verb};
pub use suspension::{Cause, PLAN_ENDED, Suspension, operators_reason};

/// What kind of help the person wants; chosen in the wizard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Vertical {
    Executive,
    Developer,
    Researcher,
    Creator,
}

/// What should be true. Written by requests and webhooks, never by loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// The wizard is done, a plan isn't in force yet.
    AwaitingPlan,
    Running,
    /// Not running on purpose; `bots.intent_reason` says why.
    Stopped,
    /// To be removed with everything that belongs to it.
    Deleted,
}

/// The API's four words for a bot (technical spec).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Provisioning,
    Running,
    Stopped,
    Error,
}

impl Status {
    /// The four-word view of intent and observation.
    #[must_use]
    pub const fn of(intent: Intent, observed: Observed) -> Self {
        match (intent, observed) {
            (_, Observed::Degraded(Rung::GivenUp | Rung::NoRuntime)) => Self::Error,
            (Intent::AwaitingPlan, _) => Self::Provisioning,
            (Intent::Stopped | Intent::Deleted, _) => Self::Stopped,
            (Intent::Running, Observed::Running) => Self::Running,
            (Intent::Running, _) => Self::Provisioning,
        }
    }
}

/// How a step of the timeline ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    Failed,
}

/// How far the place stands that a host made ahead, for a bot that never ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Some of it may be there.
    Making,
    Made,
    /// It is being taken away, because its time was over: some of it may be there still.
    Leaving,
    /// It was taken away, and is made again for who comes back.
    Lapsed,
}

/// One line of a bot's timeline, in words that its owner understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    pub name: String,
    pub sentence: String,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Time,
    /// When the step counts as stuck.
    #[schema(value_type = String, format = DateTime)]
    pub deadline_at: Time,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Time>,
    pub outcome: Option<Outcome>,
}

/// A word outside the list, which the database's check constraints make impossible to read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown word")]
pub struct UnknownWord;

text_enum!(Vertical { Executive = "executive", Developer = "developer", Researcher = "researcher", Creator = "creator" });
text_enum!(Intent { AwaitingPlan = "awaiting_plan", Running = "running", Stopped = "stopped", Deleted = "deleted" });
text_enum!(Status { Provisioning = "provisioning", Running = "running", Stopped = "stopped", Error = "error" });
text_enum!(Outcome { Done = "done", Failed = "failed" });
text_enum!(Ahead { Making = "making", Made = "made", Leaving = "leaving", Lapsed = "lapsed" });

#[cfg(test)]
mod tests;
