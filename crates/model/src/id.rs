//! Identifiers as types, so that a bot's id can never be passed where a user's is meant.
//! Never: parse an id in two places; what enters from outside goes through `FromStr` here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random id (UUID v4, from the operating system's generator).
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text).map(Self).map_err(|_| InvalidId)
            }
        }
    };
}

uuid_id!(
    /// A person. `sub` in our own claims.
    UserId
);
uuid_id!(
    /// One chat turn. Equals the runtime's idempotency key and the trace id of every model call of the turn.
    RunId
);
uuid_id!(
    /// One model call, fixed at admission; the primary key of its usage row.
    RequestId
);
uuid_id!(
    /// A Ghost Key's row (not the key itself).
    KeyId
);
uuid_id!(
    /// One attempt to buy a plan.
    CheckoutId
);
uuid_id!(
    /// One start of one proxy process: whoever holds leases of budgets.
    HolderId
);

/// The text isn't an id of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id")]
pub struct InvalidId;

/// A bot: `molt-` and twelve characters of Crockford's base 32 (60 random bits), fit for host and folder names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BotId(String);

const BOT_PREFIX: &str = "molt-";
const BOT_LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BOT_LETTER_COUNT: usize = 12;

impl BotId {
    /// A new random id. Collisions are caught by the primary key, not by chance.
    #[must_use]
    pub fn random() -> Self {
        let mut bits = Uuid::new_v4().as_u128();
        // The version and variant nibbles of a UUID are constant; fold the halves over each other to drown them.
        bits ^= bits >> 64;
        let mut text = String::from(BOT_PREFIX);
        for _ in 0..BOT_LETTER_COUNT {
            text.push(char::from(BOT_LETTERS[(bits & 31) as usize]));
            bits >>= 5;
        }
        Self(text)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BotId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let letters = text.strip_prefix(BOT_PREFIX).ok_or(InvalidId)?;
        if letters.len() == BOT_LETTER_COUNT && letters.bytes().all(|b| BOT_LETTERS.contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId)
        }
    }
}

impl TryFrom<String> for BotId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<BotId> for String {
    fn from(id: BotId) -> Self {
        id.0
    }
}

/// A conversation of one bot: `main`, or up to 40 characters of `a-z 0-9 -`. A part of the runtime's session key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConversationId(String);

const CONVERSATION_LENGTH_MAX: usize = 40;

impl ConversationId {
    /// The conversation that every bot has from the start.
    #[must_use]
    pub fn main() -> Self {
        Self("main".to_owned())
    }

    #[must_use]
    pub fn random() -> Self {
        Self(format!("c-{}", &Uuid::new_v4().simple().to_string()[..16]))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ConversationId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=CONVERSATION_LENGTH_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidId) }
    }
}

impl TryFrom<String> for ConversationId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ConversationId> for String {
    fn from(id: ConversationId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_a_round_trip_and_refuse_what_they_are_not() {
        let bot = BotId::random();
        assert_eq!(bot.to_string().parse::<BotId>(), Ok(bot.clone()));
        for wrong in ["", "molt-", "molt-short", "../../etc/passwd", "molt-0123456789aB", "molt-0123456789ab0"] {
            assert_eq!(wrong.parse::<BotId>(), Err(InvalidId), "{wrong}");
        }
        for wrong in ["", "Main", "a b", "a:b", &"x".repeat(41)] {
            assert_eq!(wrong.parse::<ConversationId>(), Err(InvalidId), "{wrong}");
        }
        assert!(ConversationId::random().to_string().parse::<ConversationId>().is_ok());
    }
}
