//! How fast Fly may be asked: the documented limits kept on our side, and what its answers ask for on top.
//! Never: a call before its turn, or one bot's limit in the way of another bot.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Beyond this many keys, those that are at rest are forgotten.
const KEYS_KEPT: usize = 20_000;

/// A kind of call. Fly counts each kind by itself, per app or machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    ReadApp,
    CreateApp,
    DeleteApp,
    ListApps,
    ReadAddresses,
    Assign,
    ListVolumes,
    CreateVolume,
    DeleteVolume,
    ReadSecrets,
    SetSecrets,
    ListMachines,
    ReadMachine,
    ListOrganisation,
    Create,
    Update,
    Start,
    Stop,
    Wait,
    Destroy,
    Lease,
    Release,
}

impl Action {
    /// So often in the long run, and so many at once.
    const fn limit(self) -> (Duration, u32) {
        match self {
            // A hundred a minute for the whole organisation.
            Self::DeleteApp => (Duration::from_millis(600), 3),
            Self::ReadMachine => (Duration::from_millis(200), 10),
            _ => (Duration::from_secs(1), 3),
        }
    }

    /// Whether all bots share one limit.
    const fn is_shared(self) -> bool {
        matches!(self, Self::DeleteApp | Self::ListApps | Self::ListOrganisation)
    }
}

/// One key per action and app: when the next call would be exactly on time.
#[derive(Default)]
pub(super) struct Pace {
    due: Mutex<HashMap<(Action, String), Instant>>,
}

impl Pace {
    /// Waits for this call's turn. `false`: it is further away than `patience`; no place was taken.
    pub(super) async fn turn(&self, action: Action, id: &str, patience: Duration) -> bool {
        let Some(wait) = self.book(action, id, Instant::now(), patience) else { return false };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        true
    }

    /// Takes a place; how long until it is free.
    fn book(&self, action: Action, id: &str, now: Instant, patience: Duration) -> Option<Duration> {
        let (period, burst) = action.limit();
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.len() > KEYS_KEPT {
            due.retain(|_, due| *due > now);
        }
        let next = due.entry(key(action, id)).or_insert(now);
        *next = (*next).max(now);
        let place = (*next).checked_sub(period * (burst - 1)).unwrap_or(now);
        let wait = place.saturating_duration_since(now);
        if wait > patience {
            return None;
        }
        *next += period;
        Some(wait)
    }

    /// Fly asked to be left alone for so long.
    pub(super) fn hold(&self, action: Action, id: &str, rest: Duration) {
        let (period, burst) = action.limit();
        let free = Instant::now() + rest + period * (burst - 1);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let next = due.entry(key(action, id)).or_insert(free);
        *next = (*next).max(free);
    }
}

fn key(action: Action, id: &str) -> (Action, String) {
    (action, if action.is_shared() { String::new() } else { id.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn ms(duration: Option<Duration>) -> u128 {
        duration.unwrap().as_millis()
    }

    #[test]
    fn three_at_once_then_one_a_second_each_key_by_itself() {
        let (pace, now) = (Pace::default(), Instant::now());
        let waits: Vec<u128> = (0..5).map(|_| ms(pace.book(Action::Stop, "a", now, PATIENCE))).collect();
        assert_eq!(waits, [0, 0, 0, 1000, 2000]);
        assert_eq!(ms(pace.book(Action::Stop, "b", now, PATIENCE)), 0, "another bot waits for nobody");
        assert_eq!(ms(pace.book(Action::Start, "a", now, PATIENCE)), 0, "another action neither");
        let rested = now + Duration::from_secs(60);
        assert_eq!(ms(pace.book(Action::Stop, "a", rested, PATIENCE)), 0);
    }

    #[test]
    fn all_bots_share_the_limit_on_deletions() {
        let (pace, now) = (Pace::default(), Instant::now());
        let waits: Vec<u128> =
            (0..5).map(|n| ms(pace.book(Action::DeleteApp, &n.to_string(), now, PATIENCE))).collect();
        assert_eq!(waits, [0, 0, 0, 600, 1200]);
    }

    #[test]
    fn when_fly_asks_for_a_rest_the_next_call_waits_for_its_end() {
        let pace = Pace::default();
        pace.hold(Action::Stop, "a", Duration::from_secs(9));
        let wait = pace.book(Action::Stop, "a", Instant::now(), PATIENCE);
        assert!((8_900..=9_000).contains(&ms(wait)), "{wait:?}");
        pace.hold(Action::Stop, "a", Duration::from_secs(600));
        assert_eq!(pace.book(Action::Stop, "a", Instant::now(), PATIENCE), None, "nobody stands in line that long");
    }
}
