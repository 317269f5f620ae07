//! How carefully a bot's calls are looked at, and what that means for them.
//! Never: a word for the person; the reason that stands beside it is one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bot::UnknownWord;

/// Each step includes the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Caution {
    /// Nothing looks unusual.
    #[default]
    Calm,
    /// Its owner was told.
    Warned,
    /// Its calls go out at a walking pace.
    Slowed,
    /// No call goes out until its owner says so.
    Paused,
}

impl Caution {
    /// The word used in the database and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Warned => "warned",
            Self::Slowed => "slowed",
            Self::Paused => "paused",
        }
    }
}

impl std::str::FromStr for Caution {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        [Self::Calm, Self::Warned, Self::Slowed, Self::Paused]
            .into_iter()
            .find(|caution| caution.as_str() == text)
            .ok_or(UnknownWord)
    }
}
