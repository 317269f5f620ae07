//! Why a bot may be kept from running by somebody else than its owner, in words for the owner.
//! Never: a suspension without what mends it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::UnknownWord;
use crate::clock::Time;

/// Longer than this isn't a reason that anybody reads above a chat.
const REASON_CHARACTERS_MAX: usize = 300;
/// What is said of every bot whose plan has ended.
pub const PLAN_ENDED: &str = "The plan has ended.";

/// Who wants it so. Of several, the first one is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Whoever runs the installation.
    Operator,
    /// Its person's plan isn't in force any more.
    PlanEnded,
}

/// One reason, with its date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspension {
    pub cause: Cause,
    /// A sentence for the bot's owner.
    pub reason: String,
    pub since: Time,
}

impl Cause {
    /// What lifts it, for the bot's owner.
    #[must_use]
    pub const fn mend(self) -> &'static str {
        match self {
            Self::Operator => "Whoever runs this installation can lift this; ask them.",
            Self::PlanEnded => "Renew the plan, and it goes on by itself.",
        }
    }
}

impl Suspension {
    /// Why, since when and what mends it.
    #[must_use]
    pub fn sentence(&self, bot_name: &str) -> String {
        let since = self.since.format("%-d %B %Y");
        format!("{bot_name} is suspended since {since}. {} {}", self.reason, self.cause.mend())
    }
}

/// An operator's reason as its reader gets it: one line that ends like a sentence. The refusal is for the operator.
pub fn operators_reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    let fits = (1..=REASON_CHARACTERS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if !fits {
        let max = REASON_CHARACTERS_MAX;
        return Err(format!("say why in 1 to {max} characters, on one line; the assistant's owner reads it"));
    }
    let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    Ok(format!("{text}{stop}"))
}

text_enum!(Cause { Operator = "operator", PlanEnded = "plan_ended" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspension_says_why_since_when_and_what_mends_it() {
        let since = "2026-11-28T01:00:00Z".parse().unwrap();
        let reason = operators_reason(" Someone complained ").unwrap();
        let by_operator = Suspension { cause: Cause::Operator, reason, since };
        assert_eq!(
            by_operator.sentence("Pip"),
            "Pip is suspended since 28 November 2026. Someone complained. \
             Whoever runs this installation can lift this; ask them."
        );
        let ended = Suspension { cause: Cause::PlanEnded, reason: PLAN_ENDED.to_owned(), since };
        assert!(ended.sentence("Pip").ends_with("The plan has ended. Renew the plan, and it goes on by itself."));
        assert!(Cause::Operator < Cause::PlanEnded, "as the words in the database are ordered");
        for cause in [Cause::Operator, Cause::PlanEnded] {
            assert_eq!(cause.as_str().parse(), Ok(cause));
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        }
        assert_eq!("bored".parse::<Cause>(), Err(UnknownWord));
    }

    #[test]
    fn an_operators_reason_is_one_line_of_bounded_length() {
        for (text, taken) in [("Why?", "Why?"), ("Stop!", "Stop!"), ("No. ", "No."), ("Ü", "Ü.")] {
            assert_eq!(operators_reason(text).as_deref(), Ok(taken));
        }
        for wrong in ["", "  ", "two\nlines", "a\0b", &"x".repeat(301)] {
            assert!(operators_reason(wrong).unwrap_err().contains("1 to 300 characters"), "{wrong:?}");
        }
        assert_eq!(operators_reason(&"x".repeat(300)).unwrap().len(), 301);
    }
}
