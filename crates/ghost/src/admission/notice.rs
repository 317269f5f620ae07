//! Why a call gets an answer of the proxy's own instead of a model's, in words for the person who reads it.
//! Never: the words that make a runtime lock the whole provider out (credit, balance, billing, …), or a link to nowhere.

use molt_model::{BotId, Nanos, Time};
use url::Url;

use crate::answer::Refusal;

/// Where a notice can't be given (embeddings): as often as the user may have mended it.
pub(crate) const NOTICE_RETRY_SECONDS: u64 = 60;

/// Whose cap it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capped {
    /// The lower of the person's own cap and the installation's.
    User,
    Bot,
    Key,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    PlanNotInForce,
    /// By an operator, in words of theirs that are left out: a runtime could find some among them that lock the provider.
    Suspended,
    /// The key was paused; the sentence says why.
    Paused(String),
    /// Nothing of the cap is left.
    CapReached {
        whose: Capped,
        cap: Nanos,
    },
    /// Something is left, or held by calls under way, and it doesn't cover this call.
    TooLittleLeft {
        whose: Capped,
        cap: Nanos,
    },
}

/// Whom it concerns and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) reason: Reason,
    pub(crate) bot: Option<BotId>,
    pub(crate) period_end: Time,
}

impl Notice {
    /// What the bot says in the user's chat: what happened, and where to mend it.
    pub(crate) fn text(&self, public_url: &Url) -> String {
        let page = |path: &str| format!("{}{path}", public_url.as_str().trim_end_matches('/'));
        let again = self.period_end.format("%-d %B");
        match &self.reason {
            Reason::PlanNotInForce => format!(
                "I can't think just now: no plan is in force for this account. You can choose or renew it here, and I \
                 answer again at once: {}",
                page(&self.home())
            ),
            Reason::Suspended => format!(
                "I can't think just now: whoever runs this installation has suspended me. Why, and what mends it, stands \
                 here: {}",
                page(&self.home())
            ),
            Reason::Paused(why) => format!(
                "I was paused to be on the safe side. {} You can look at it and let me go on here: {}",
                if why.is_empty() { "Something looked unusual." } else { why },
                page(&self.home())
            ),
            Reason::CapReached { whose, cap } => format!(
                "I stopped here because {} of {} is reached. You can raise the limit here, and I answer again at once: \
                 {} Otherwise I'm back on {again}.",
                whose.words(),
                dollars(*cap),
                page(&self.mend(*whose))
            ),
            Reason::TooLittleLeft { whose, cap } => format!(
                "I stopped here because what is left of {} of {} doesn't cover this call for certain. A shorter \
                 conversation may still fit, or you can raise the limit here, and I answer again at once: {} Otherwise \
                 I'm back on {again}.",
                whose.words(),
                dollars(*cap),
                page(&self.mend(*whose))
            ),
        }
    }

    /// The same where no message can be given.
    pub(crate) fn refusal(&self) -> Refusal {
        let (code, message) = match self.reason {
            Reason::PlanNotInForce => ("not_available", "Not available for this account just now."),
            Reason::Suspended => ("suspended", "Suspended by whoever runs this installation."),
            Reason::Paused(_) => ("paused", "Paused; the owner of this key can resume it."),
            Reason::CapReached { .. } => ("monthly_allowance_reached", "Monthly allowance reached."),
            Reason::TooLittleLeft { .. } => {
                ("monthly_allowance_reached", "What is left of the monthly allowance doesn't cover this call.")
            }
        };
        Refusal::later(code, message, NOTICE_RETRY_SECONDS)
    }

    /// The bot's own page, which offers the plan where one is missing.
    fn home(&self) -> String {
        self.bot.as_ref().map_or("/app/account".to_owned(), |bot| format!("/app/bots/{bot}"))
    }

    fn mend(&self, whose: Capped) -> String {
        match (whose, &self.bot) {
            (Capped::Bot, Some(bot)) => format!("/app/bots/{bot}/settings"),
            _ => "/app/usage".to_owned(),
        }
    }
}

impl Capped {
    const fn words(self) -> &'static str {
        match self {
            Self::User => "this month's spending limit",
            Self::Bot => "my own spending limit for this month",
            Self::Key => "this key's own spending limit",
        }
    }
}

/// With cents, as people write it; smaller amounts in full.
fn dollars(amount: Nanos) -> String {
    let text = amount.to_string();
    let short =
        text.strip_suffix("0000").filter(|rest| rest.split_once('.').is_some_and(|(_, cents)| cents.len() == 2));
    format!("${}", short.unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_link_and_avoid_the_words_that_lock_a_provider() {
        let url: Url = "https://molt.example/base/".parse().unwrap();
        let cap = Nanos::dollars(5);
        let mut texts = Vec::new();
        for whose in [Capped::User, Capped::Bot, Capped::Key] {
            texts.extend([Reason::CapReached { whose, cap }, Reason::TooLittleLeft { whose, cap }]);
        }
        texts.extend([
            Reason::PlanNotInForce,
            Reason::Suspended,
            Reason::Paused(String::new()),
            Reason::Paused("It ran in circles.".into()),
        ]);
        for reason in texts {
            for bot in [None, Some(BotId::random())] {
                let notice = Notice { reason: reason.clone(), bot, period_end: Time::UNIX_EPOCH };
                let text = format!("{} {}", notice.text(&url), notice.refusal().message);
                assert!(text.contains("https://molt.example/base/app/"), "{text}");
                for word in ["credit", "billing", "balance", "payment", "quota", "insufficient"] {
                    assert!(!text.to_lowercase().contains(word), "{word}: {text}");
                }
            }
        }
        assert_eq!(dollars(Nanos::dollars(5)), "$5.00");
        assert_eq!(dollars(Nanos(123_000)), "$0.000123");
    }
}
