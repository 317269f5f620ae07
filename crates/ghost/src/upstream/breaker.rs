//! Leaves a provider alone that has failed again and again, and finds out with one call at a time when it is back.
//! Never: a provider cut off for one fault, or for an answer that blames the caller.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Calls in a row that came to nothing, each with all its attempts. One or two are the weather.
const FAILURES_MAX: u32 = 5;
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Calls go out; so many in a row have failed.
    Closed { failures: u32 },
    /// No calls until then.
    Open { until: Instant, pause: Duration },
    /// One call is out to see whether the provider is back.
    Probing { pause: Duration },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// Leave to make one call. What came of it is told; a pass that is dropped tells nothing.
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
    told: bool,
}

impl Breaker {
    /// An error: how long to leave the provider alone.
    pub(super) fn pass(&self, now: Instant) -> Result<Pass<'_>, Duration> {
        let mut state = self.lock();
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until, .. } if until > now => return Err(until - now),
            State::Open { pause, .. } => {
                *state = State::Probing { pause };
                true
            }
            State::Probing { pause } => return Err(pause),
        };
        Ok(Pass { breaker: self, probe, told: false })
    }

    /// It is left alone, or one call is finding out.
    pub(super) fn is_open(&self) -> bool {
        !matches!(*self.lock(), State::Closed { .. })
    }

    /// A thread that panicked elsewhere leaves the state as it was.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The one call that finds out; it is not worth more than one attempt.
    pub(super) fn is_probe(&self) -> bool {
        self.probe
    }

    /// The provider answered, whatever it said.
    pub(super) fn succeeded(mut self) {
        self.told = true;
        let mut state = self.breaker.lock();
        // A late answer of a call from before says nothing about now.
        if self.probe || matches!(*state, State::Closed { .. }) {
            *state = State::default();
        }
    }

    /// It couldn't be reached, failed, or was silent. Says whether this closed the provider off.
    pub(super) fn failed(mut self, now: Instant) -> bool {
        self.told = true;
        let mut state = self.breaker.lock();
        match *state {
            State::Closed { failures } if failures + 1 < FAILURES_MAX => {
                *state = State::Closed { failures: failures + 1 };
                false
            }
            State::Closed { .. } => {
                *state = State::Open { until: now + PAUSE_FIRST, pause: PAUSE_FIRST };
                true
            }
            State::Probing { pause } if self.probe => {
                let pause = (pause * 2).min(PAUSE_MAX);
                *state = State::Open { until: now + pause, pause };
                false
            }
            State::Open { .. } | State::Probing { .. } => false,
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.probe || self.told {
            return;
        }
        let mut state = self.breaker.lock();
        if let State::Probing { pause } = *state {
            // The caller left before the provider answered: the next one may probe at once.
            *state = State::Open { until: Instant::now(), pause };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_five_failures_in_a_row_and_closes_after_one_good_probe() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        let fail = |now| breaker.pass(now).map(|pass| pass.failed(now));
        for _ in 0..4 {
            assert_eq!(fail(start), Ok(false));
        }
        breaker.pass(start).unwrap().succeeded();
        for _ in 0..4 {
            assert_eq!(fail(start), Ok(false));
        }
        let early = breaker.pass(start).unwrap();
        assert_eq!(fail(start), Ok(true));
        assert!(breaker.is_open());
        assert_eq!(breaker.pass(start).err(), Some(PAUSE_FIRST));
        early.succeeded();
        assert!(breaker.is_open(), "an answer to a call from before changes nothing");

        let mut now = start;
        for pause in [2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs) {
            assert_eq!(breaker.pass(now + pause - Duration::from_millis(1)).err(), Some(Duration::from_millis(1)));
            now += pause;
            let probe = breaker.pass(now).unwrap();
            assert!(probe.is_probe() && breaker.pass(now).is_err(), "one at a time");
            assert!(!probe.failed(now));
        }
        now += PAUSE_MAX;
        drop(breaker.pass(now).unwrap());
        let late = now.max(Instant::now());
        breaker.pass(late).unwrap().succeeded();
        assert!(!breaker.is_open() && !breaker.pass(late).unwrap().is_probe());
    }
}
