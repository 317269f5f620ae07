//! Calls to a host, no faster than it allows: what a limit leaves waiting waits here, in the order in which it came, and isn't
//! refused there.
//! Never: a call more than the host allows, also after an outage when ten thousand bots want one at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use molt_model::BotId;
use tokio::time::{Instant, sleep_until};

use crate::host::{BoxFuture, CellSpec, Ensured, Host, HostError, Report};

/// What a host allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub calls_per_second: u32,
    /// Calls that may come together after a quiet moment, on top of the rate.
    pub burst: u32,
}

impl Pace {
    /// A machine's own processes: a start takes a core for milliseconds.
    pub const PROCESSES: Self = Self { calls_per_second: 500, burst: 100 };

    fn gap(&self) -> Duration {
        Duration::from_secs(1) / self.calls_per_second.max(1)
    }
}

/// Another host, called at a pace.
pub struct Paced<H> {
    host: H,
    pace: Pace,
    /// When the next call would come if all came evenly.
    even: Mutex<Instant>,
}

impl<H: Host> Paced<H> {
    #[must_use]
    pub fn new(host: H, pace: Pace) -> Self {
        Self { host, pace, even: Mutex::new(Instant::now()) }
    }

    async fn call<T>(&self, call: BoxFuture<'_, Result<T, HostError>>) -> Result<T, HostError> {
        sleep_until(self.turn(Instant::now())).await;
        call.await
    }

    /// When the call that is asked for now may go out.
    fn turn(&self, now: Instant) -> Instant {
        let mut even = self.even.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = (*even).max(now);
        *even = mine + self.pace.gap();
        mine.checked_sub(self.pace.gap() * self.pace.burst).map_or(now, |early| early.max(now))
    }
}

impl<H: Host> Host for Paced<H> {
    fn kind(&self) -> &'static str {
        self.host.kind()
    }

    fn ensure<'a>(&'a self, spec: &'a CellSpec) -> BoxFuture<'a, Result<Ensured, HostError>> {
        Box::pin(self.call(self.host.ensure(spec)))
    }

    fn inspect<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Report, HostError>> {
        Box::pin(self.call(self.host.inspect(bot)))
    }

    fn stop<'a>(&'a self, bot: &'a BotId, remove: bool) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(self.call(self.host.stop(bot, remove)))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BotId>, HostError>> {
        Box::pin(self.call(self.host.list()))
    }

    fn gone<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, ()> {
        self.host.gone(bot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Host for Nothing {
        fn kind(&self) -> &'static str {
            "nothing"
        }

        fn ensure<'a>(&'a self, _: &'a CellSpec) -> BoxFuture<'a, Result<Ensured, HostError>> {
            Box::pin(std::future::ready(Err(HostError::Unusable("nothing".to_owned()))))
        }

        fn inspect<'a>(&'a self, _: &'a BotId) -> BoxFuture<'a, Result<Report, HostError>> {
            Box::pin(std::future::ready(Ok(Report::Absent)))
        }

        fn stop<'a>(&'a self, _: &'a BotId, _: bool) -> BoxFuture<'a, Result<(), HostError>> {
            Box::pin(std::future::ready(Err(HostError::Unusable("nothing".to_owned()))))
        }

        fn list(&self) -> BoxFuture<'_, Result<Vec<BotId>, HostError>> {
            Box::pin(std::future::ready(Ok(Vec::new())))
        }

        fn gone<'a>(&'a self, _: &'a BotId) -> BoxFuture<'a, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn calls_keep_the_pace_in_the_order_in_which_they_came() {
        let pace = Pace { calls_per_second: 100, burst: 10 };
        let (paced, now) = (Paced::new(Nothing, pace), Instant::now());
        let waits: Vec<u128> = (0..1_000).map(|_| (paced.turn(now) - now).as_millis()).collect();
        assert!(waits.is_sorted());
        // In no second more than the rate, plus the burst in the first.
        for second in 0..9_u128 {
            let calls = waits.iter().filter(|wait| **wait / 1_000 == second).count();
            assert!(calls <= if second == 0 { 111 } else { 100 }, "{calls} calls in second {second}");
        }
        let later = now + Duration::from_secs(60);
        assert_eq!(paced.turn(later), later, "a quiet minute is no credit for more than a burst");
        let after: Vec<u128> = (0..20).map(|_| (paced.turn(later) - later).as_millis()).collect();
        assert!(after[9] == 0 && after[19] >= 90, "{after:?}");
    }
}
