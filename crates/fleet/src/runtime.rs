//! The runtime that all cells of this machine start, as far as the fleet has to know: is it there?
//! Never: how it is installed.

use crate::plan::RuntimeFact;

/// Published by whoever installs the runtime, through a `watch` channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeState {
    /// `sentence` says in plain words what is being done.
    Installing { percent: u8, sentence: String },
    /// The program and its arguments; a cell adds its port.
    Ready { command: Vec<String> },
    /// `sentence` says what is in the way and what to do about it, without the full stop.
    Failed { sentence: String },
}

impl RuntimeState {
    pub(crate) const fn fact(&self) -> RuntimeFact {
        match self {
            Self::Installing { .. } => RuntimeFact::Installing,
            Self::Ready { .. } => RuntimeFact::Ready,
            Self::Failed { .. } => RuntimeFact::Failed,
        }
    }
}
