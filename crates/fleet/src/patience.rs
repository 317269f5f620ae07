//! How long the fleet waits for a host, and how soon it comes back to a bot whose work broke off.
//! Never: a host, or one bot at it, that holds a worker for ever and so delays the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use chrono::TimeDelta;
use molt_model::BotId;

use crate::host::{BoxFuture, CellSpec, Ensured, Host, HostError, Prepares, Report, Used};

/// A look costs milliseconds; over a network some seconds.
const INSPECT_MAX: Duration = Duration::from_secs(20);
/// A host may have to find room, make a volume and wait for a machine. Shorter than a lease.
const ENSURE_MAX: Duration = Duration::from_secs(180);
/// With the grace for a cell, and the removal of a large volume.
const STOP_MAX: Duration = Duration::from_secs(120);
const LIST_MAX: Duration = Duration::from_secs(60);
/// After the first error that isn't the bot's own (the database, the host's disk); it doubles up to the last.
const PAUSE_FIRST_SECONDS: i64 = 3;
pub(crate) const PAUSE_LAST_SECONDS: i64 = 60;
const DOUBLINGS_MAX: u32 = 5;

/// A host whose calls end.
pub(crate) struct Patient(pub(crate) Arc<dyn Host>);

async fn within<T>(
    limit: Duration,
    call: &'static str,
    work: impl Future<Output = Result<T, HostError>>,
) -> Result<T, HostError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(HostError::Unexpected(anyhow!("the host did not answer within {} s: {call}", limit.as_secs()))),
    }
}

impl Host for Patient {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn ensure<'a>(&'a self, spec: &'a CellSpec) -> BoxFuture<'a, Result<Ensured, HostError>> {
        Box::pin(within(ENSURE_MAX, "ensure", self.0.ensure(spec)))
    }

    fn inspect<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Report, HostError>> {
        Box::pin(within(INSPECT_MAX, "inspect", self.0.inspect(bot)))
    }

    fn stop<'a>(&'a self, bot: &'a BotId, remove: bool) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(within(STOP_MAX, "stop", self.0.stop(bot, remove)))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BotId>, HostError>> {
        Box::pin(within(LIST_MAX, "list", self.0.list()))
    }

    fn gone<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, ()> {
        self.0.gone(bot)
    }

    fn prepares(&self) -> Option<&dyn Prepares> {
        self.0.prepares().map(|_| self as &dyn Prepares)
    }
}

impl Patient {
    fn inner(&self) -> Result<&dyn Prepares, HostError> {
        self.0.prepares().ok_or_else(|| HostError::Unusable("this host makes nothing ahead".to_owned()))
    }
}

impl Prepares for Patient {
    fn prepare<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(within(ENSURE_MAX, "prepare", async move { self.inner()?.prepare(bot).await }))
    }

    fn withdraw<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(within(STOP_MAX, "withdraw", async move { self.inner()?.withdraw(bot).await }))
    }

    fn used<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Used, HostError>> {
        Box::pin(within(INSPECT_MAX, "used", async move { self.inner()?.used(bot).await }))
    }
}

/// Bots whose work broke off lately, with how often.
#[derive(Default)]
pub(crate) struct Setbacks(Mutex<HashMap<BotId, u32>>);

impl Setbacks {
    /// One more: how long to wait. A bot that breaks off again and again takes a worker ever more rarely.
    pub(crate) fn pause(&self, bot: &BotId) -> TimeDelta {
        let mut bots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = bots.entry(bot.clone()).or_default();
        let pause = TimeDelta::seconds((PAUSE_FIRST_SECONDS << *count).min(PAUSE_LAST_SECONDS));
        *count = (*count + 1).min(DOUBLINGS_MAX);
        pause
    }

    pub(crate) fn forget(&self, bot: &BotId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(bot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stop_growing() {
        let (setbacks, bot) = (Setbacks::default(), BotId::random());
        let pauses: Vec<i64> = (0..7).map(|_| setbacks.pause(&bot).num_seconds()).collect();
        assert_eq!(pauses, [3, 6, 12, 24, 48, 60, 60]);
        setbacks.forget(&bot);
        assert_eq!(setbacks.pause(&bot).num_seconds(), 3);
    }
}
