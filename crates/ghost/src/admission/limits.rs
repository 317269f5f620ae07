//! How fast and how much at once: requests and tokens a minute and calls under way, per bot and per person. Each process
//! counts for itself, so with three proxies a bot may reach three times its limit; money is what the purses guard.
//! Never: a lock or an allocation in a call's way, or a wait that is longer than told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;

use crate::answer::Refusal;

/// What a limit "per minute" is counted over, and how much of it may come at once.
const WINDOW_NANOS: u64 = 60 * 1_000_000_000;
/// Nobody knows when one of the calls under way will end; they take seconds.
const BUSY_RETRY_SECONDS: u64 = 2;

/// The limits of one bot (or one program's key) and of one person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub bot: Rates,
    pub user: Rates,
}

/// Zero: no limit. A full minute's worth may come at once; from then on it flows evenly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    pub requests_per_minute: u32,
    pub tokens_per_minute: u64,
    pub calls_at_once: u32,
}

impl Default for Limits {
    /// What a person's bots need at their busiest, with room; a loop that runs wild meets them within seconds.
    fn default() -> Self {
        Self {
            bot: Rates { requests_per_minute: 60, tokens_per_minute: 2_000_000, calls_at_once: 8 },
            user: Rates { requests_per_minute: 180, tokens_per_minute: 6_000_000, calls_at_once: 24 },
        }
    }
}

/// A walking pace: a person who talks with the bot meanwhile still gets their answers, a loop costs a tenth.
const SLOWED_REQUESTS_PER_MINUTE: u32 = 6;
const SLOWED_CALLS_AT_ONCE: u32 = 2;

impl Limits {
    /// For a bot whose use looks unusual.
    pub(crate) fn slowed(self) -> Self {
        let least = |limit: u32, slow: u32| if limit == 0 { slow } else { limit.min(slow) };
        let bot = Rates {
            requests_per_minute: least(self.bot.requests_per_minute, SLOWED_REQUESTS_PER_MINUTE),
            calls_at_once: least(self.bot.calls_at_once, SLOWED_CALLS_AT_ONCE),
            ..self.bot
        };
        Self { bot, ..self }
    }
}

/// Evenly flowing permits, as one number: the time at which all that was taken will have flown in.
#[derive(Debug, Default)]
struct Flow(AtomicU64);

impl Flow {
    /// Takes `cost` (in nanoseconds of the window); an error says how many nanoseconds to wait.
    fn take(&self, now: u64, cost: u64) -> Result<(), u64> {
        let mut wait = 0;
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |until| {
            let next = until.max(now).saturating_add(cost);
            wait = next.saturating_sub(now).saturating_sub(WINDOW_NANOS);
            (wait == 0).then_some(next)
        });
        taken.map(|_| ()).map_err(|_| wait)
    }

    fn give_back(&self, cost: u64) {
        let less = |until: u64| Some(until.saturating_sub(cost));
        // Always some, so it always succeeds.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Takes what was used beyond the estimate, as far as the window goes.
    fn take_late(&self, now: u64, cost: u64) {
        let more = |until: u64| Some(until.max(now).saturating_add(cost).min(now.saturating_add(2 * WINDOW_NANOS)));
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }
}

/// What one bot or one person has under way.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    requests: Flow,
    tokens: Flow,
    open: AtomicU32,
}

/// Which limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Requests { wait_nanos: u64 },
    Tokens { wait_nanos: u64 },
    AtOnce,
}

impl Rates {
    /// No limit at all.
    pub const NONE: Self = Self { requests_per_minute: 0, tokens_per_minute: 0, calls_at_once: 0 };

    fn request_cost(self) -> u64 {
        WINDOW_NANOS.checked_div(u64::from(self.requests_per_minute)).unwrap_or(0)
    }

    fn token_cost(self, tokens: i64) -> u64 {
        let tokens = u128::from(tokens.unsigned_abs()) * u128::from(WINDOW_NANOS);
        let cost = tokens.checked_div(u128::from(self.tokens_per_minute)).unwrap_or(0);
        u64::try_from(cost).unwrap_or(u64::MAX)
    }
}

impl Meter {
    fn enter(&self, rates: Rates, now: u64, tokens: i64) -> Result<(), Met> {
        let room = |open: u32| (rates.calls_at_once == 0 || open < rates.calls_at_once).then(|| open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).map_err(|_| Met::AtOnce)?;
        if let Err(wait_nanos) = self.requests.take(now, rates.request_cost()) {
            self.leave();
            return Err(Met::Requests { wait_nanos });
        }
        // A call larger than the whole window would never fit: it takes all of it.
        if let Err(wait_nanos) = self.tokens.take(now, rates.token_cost(tokens).min(WINDOW_NANOS)) {
            self.requests.give_back(rates.request_cost());
            self.leave();
            return Err(Met::Tokens { wait_nanos });
        }
        Ok(())
    }

    /// As if it had never been there.
    fn undo(&self, rates: Rates, tokens: i64) {
        self.requests.give_back(rates.request_cost());
        self.tokens.give_back(rates.token_cost(tokens).min(WINDOW_NANOS));
        self.leave();
    }

    fn correct(&self, rates: Rates, now: u64, estimated: i64, used: i64) {
        let (charged, due) = (rates.token_cost(estimated).min(WINDOW_NANOS), rates.token_cost(used));
        if due > charged {
            self.tokens.take_late(now, due - charged);
        } else {
            self.tokens.give_back(charged - due);
        }
    }

    fn leave(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The place of one call among those under way; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    bot: Arc<Meter>,
    user: Arc<Meter>,
    limits: Limits,
    tokens: i64,
}

impl Place {
    /// `since_start`: on any clock that only goes forward. `tokens`: what the call will likely use.
    pub(crate) fn take(
        bot: &Arc<Meter>,
        user: &Arc<Meter>,
        limits: Limits,
        since_start: Duration,
        tokens: i64,
    ) -> Result<Self, Refusal> {
        let (now, tokens) = (nanos(since_start), tokens.max(0));
        bot.enter(limits.bot, now, tokens).map_err(Met::refusal)?;
        if let Err(met) = user.enter(limits.user, now, tokens) {
            bot.undo(limits.bot, tokens);
            return Err(met.refusal());
        }
        Ok(Self { bot: Arc::clone(bot), user: Arc::clone(user), limits, tokens })
    }

    /// Says what the call really used; once, when it is settled.
    pub(crate) fn correct(&mut self, since_start: Duration, used: i64) {
        let used = used.max(0);
        let estimated = std::mem::replace(&mut self.tokens, used);
        self.bot.correct(self.limits.bot, nanos(since_start), estimated, used);
        self.user.correct(self.limits.user, nanos(since_start), estimated, used);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bot.leave();
        self.user.leave();
    }
}

impl Met {
    fn refusal(self) -> Refusal {
        let seconds = |wait: u64| wait.div_ceil(1_000_000_000).max(1);
        match self {
            Self::Requests { wait_nanos } => {
                Refusal::later("rate_limited", "Too many requests in a minute.", seconds(wait_nanos))
            }
            Self::Tokens { wait_nanos } => {
                Refusal::later("rate_limited", "Too many tokens in a minute.", seconds(wait_nanos))
            }
            Self::AtOnce => Refusal::later("rate_limited", "Too many calls at the same time.", BUSY_RETRY_SECONDS),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: Rates = Rates::NONE;

    fn place(limits: Limits, meters: &(Arc<Meter>, Arc<Meter>), at_ms: u64, tokens: i64) -> Result<Place, Refusal> {
        Place::take(&meters.0, &meters.1, limits, Duration::from_millis(at_ms), tokens)
    }

    fn wait(refused: Result<Place, Refusal>) -> u64 {
        let refusal = refused.unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.code), (429, "rate_limited"));
        refusal.retry_after_seconds.unwrap()
    }

    #[test]
    fn a_minutes_worth_at_once_then_evenly_and_the_wait_told_is_the_wait_needed() {
        let limits = Limits { bot: Rates { requests_per_minute: 6, ..NONE }, user: NONE };
        let meters = Default::default();
        for _ in 0..6 {
            place(limits, &meters, 0, 0).unwrap();
        }
        assert_eq!(wait(place(limits, &meters, 0, 0)), 10);
        assert_eq!(wait(place(limits, &meters, 2_500, 0)), 8);
        assert_eq!(wait(place(limits, &meters, 9_999, 0)), 1);
        place(limits, &meters, 10_000, 0).unwrap();
        assert_eq!(wait(place(limits, &meters, 10_000, 0)), 10);
    }

    #[test]
    fn tokens_are_guessed_first_and_corrected_by_what_was_used() {
        let limits = Limits { bot: Rates { tokens_per_minute: 1_000, ..NONE }, user: NONE };
        let meters = Default::default();
        let mut first = place(limits, &meters, 0, 900).unwrap();
        assert_eq!(wait(place(limits, &meters, 0, 200)), 6);
        first.correct(Duration::ZERO, 100);
        drop(first);
        let mut second = place(limits, &meters, 0, 900).unwrap();
        second.correct(Duration::ZERO, 1_400);
        assert_eq!(wait(place(limits, &meters, 0, 1)), 31);
        // Larger than the window: it waits until all of it is free, then it goes.
        let meters = Default::default();
        drop(place(limits, &meters, 0, 5_000).unwrap());
        assert_eq!(wait(place(limits, &meters, 30_000, 5_000)), 30);
        place(limits, &meters, 60_000, 5_000).unwrap();
    }

    #[test]
    fn a_place_comes_back_however_the_call_ends_and_what_the_person_lacks_the_bot_keeps() {
        let bot = Rates { requests_per_minute: 2, tokens_per_minute: 10, calls_at_once: 2 };
        let limits = Limits { bot, user: Rates { calls_at_once: 1, ..NONE } };
        let meters = Default::default();
        let first = place(limits, &meters, 0, 4).unwrap();
        for _ in 0..5 {
            assert_eq!(wait(place(limits, &meters, 0, 4)), BUSY_RETRY_SECONDS, "the person's one place is taken");
        }
        drop(first);
        assert_eq!(meters.0.open.load(Ordering::Acquire), 0);
        place(limits, &meters, 0, 4).unwrap();
        assert_eq!(wait(place(limits, &meters, 0, 0)), 30);
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_two_minutes_worth(gaps in proptest::collection::vec(0u64..4_000, 1..200)) {
            let limits = Limits { bot: Rates { requests_per_minute: 20, ..NONE }, user: NONE };
            let (meters, mut now, mut let_in) = (Default::default(), 0, Vec::new());
            for gap in gaps {
                now += gap;
                if place(limits, &meters, now, 0).is_ok() {
                    let_in.push(now);
                }
            }
            for start in &let_in {
                prop_assert!(let_in.iter().filter(|at| (*start..start + 60_000).contains(*at)).count() <= 40);
            }
        }
    }
}
