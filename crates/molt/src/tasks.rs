//! Drives the loops: each runs when something woke it, and after its period in any case.
//! Never: let a loop that fails or panics end, spin, or go unnoticed.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use molt_model::{Clock, Time};
use molt_store::{Channel, Wakeups};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A loop that always finds work still lets others run, and a fault that makes work for itself can't burn a core.
const ROUNDS_AT_ONCE_MAX: u32 = 50;
const BREATH: Duration = Duration::from_millis(50);
/// After a failure: soon, then slower, never slower than this.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_LAST: Duration = Duration::from_secs(15);
/// Out of a hundred: so that the loops of several processes drift apart.
const JITTER_PERCENT: u64 = 20;

/// What a loop is called, when it runs and what wakes it.
#[derive(Clone, Copy)]
pub struct Schedule {
    pub name: &'static str,
    /// The net: even with every wake-up lost, work waits no longer.
    pub period: Duration,
    pub wakes: fn(&Channel) -> bool,
}

/// Resolves when a loop may have something to do.
pub type Woken = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a loop is doing; `/metrics` and `doctor` show it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub runs: u64,
    pub failures: u64,
    pub panics: u64,
    /// Rows or things that the runs handled.
    pub handled: u64,
    pub last_run_at: Option<Time>,
    pub last_duration_ms: u64,
    /// Of the last run; empty when it went well.
    pub last_error: Option<String>,
}

/// All loops of one process.
#[derive(Clone)]
pub struct Tasks {
    clock: Arc<dyn Clock>,
    wakeups: Wakeups,
    statuses: Arc<Mutex<BTreeMap<&'static str, Status>>>,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, wakeups: Wakeups) -> Self {
        let (statuses, tracker, stopping) = <(Arc<Mutex<_>>, TaskTracker, CancellationToken)>::default();
        Self { clock, wakeups, statuses, tracker, stopping }
    }

    /// Runs `round` for ever. It answers how many things it handled: more than none, and it runs again at once.
    pub fn spawn<F, R>(&self, schedule: Schedule, round: F)
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = anyhow::Result<u64>> + Send + 'static,
    {
        self.spawn_woken(schedule, || Box::pin(std::future::pending()), round);
    }

    /// As `spawn`, for a loop that knows better than the database when to run: it runs when `woken` resolves, too.
    pub fn spawn_woken<W, F, R>(&self, schedule: Schedule, woken: W, round: F)
    where
        W: Fn() -> Woken + Send + Sync + 'static,
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = anyhow::Result<u64>> + Send + 'static,
    {
        self.status(schedule.name, |_| {});
        let (tasks, wakeups) = (self.clone(), self.wakeups.subscribe());
        let driver = Driver { schedule, wakeups, woken };
        self.tracker.spawn(async move { driver.run(&tasks, round).await });
    }

    /// Asks every loop to end after the round it is in, and waits for that at most so long. False: some did not.
    pub async fn stop(&self, within: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait()).await.is_ok()
    }

    #[must_use]
    pub fn statuses(&self) -> BTreeMap<&'static str, Status> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn status(&self, name: &'static str, change: impl FnOnce(&mut Status)) {
        change(self.statuses.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default());
    }

    /// One round, contained: a panic ends it and nothing else.
    async fn round<R>(&self, name: &'static str, round: R) -> Option<u64>
    where
        R: Future<Output = anyhow::Result<u64>> + Send + 'static,
    {
        let (begun, at) = (Instant::now(), self.clock.now());
        let outcome = tokio::spawn(round).await;
        let (handled, error, panicked) = match outcome {
            Ok(Ok(handled)) => (Some(handled), None, false),
            Ok(Err(error)) => {
                tracing::warn!(
                    task = name,
                    error = &*error as &dyn std::error::Error,
                    "a loop's round failed; it runs again"
                );
                (None, Some(error.to_string()), false)
            }
            Err(error) => {
                tracing::error!(
                    task = name,
                    error = &error as &dyn std::error::Error,
                    "a loop's round panicked; it runs again"
                );
                (None, Some("it panicked".to_owned()), true)
            }
        };
        self.status(name, |status| {
            status.runs += 1;
            status.failures += u64::from(error.is_some());
            status.panics += u64::from(panicked);
            status.handled += handled.unwrap_or_default();
            status.last_run_at = Some(at);
            status.last_duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            status.last_error = error;
        });
        handled
    }
}

struct Driver<W> {
    schedule: Schedule,
    wakeups: broadcast::Receiver<Channel>,
    woken: W,
}

impl<W: Fn() -> Woken + Send + Sync> Driver<W> {
    async fn run<F, R>(mut self, tasks: &Tasks, round: F)
    where
        F: Fn() -> R + Send + Sync,
        R: Future<Output = anyhow::Result<u64>> + Send + 'static,
    {
        let mut backoff = BACKOFF_FIRST;
        let mut rounds = 0;
        while !tasks.stopping.is_cancelled() {
            let wait = match tasks.round(self.schedule.name, round()).await {
                Some(0) => {
                    (backoff, rounds) = (BACKOFF_FIRST, 0);
                    None
                }
                Some(_) if rounds < ROUNDS_AT_ONCE_MAX => {
                    rounds += 1;
                    continue;
                }
                Some(_) => {
                    rounds = 0;
                    Some(BREATH)
                }
                None => {
                    let pause = backoff;
                    backoff = (backoff * 2).min(BACKOFF_LAST);
                    Some(pause)
                }
            };
            tokio::select! {
                () = tasks.stopping.cancelled() => return,
                () = async {
                    match wait {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => self.idle().await,
                    }
                } => {}
            }
        }
    }

    /// Until something wakes the loop, or its period is over.
    async fn idle(&mut self) {
        let deadline = Instant::now() + jittered(self.schedule.period);
        let mut inside = (self.woken)();
        let woken = async {
            loop {
                tokio::select! {
                    () = &mut inside => return,
                    wakeup = self.wakeups.recv() => match wakeup {
                        Ok(channel) if channel != Channel::All && !(self.schedule.wakes)(&channel) => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => return,
                        // The store is closing; the period and the stop signal are left.
                        Err(RecvError::Closed) => std::future::pending().await,
                    },
                }
            }
        };
        let _ = timeout_at(deadline, woken).await;
    }
}

fn jittered(period: Duration) -> Duration {
    let mut byte = [0u8];
    // Without randomness the period is still right.
    let _ = getrandom::fill(&mut byte);
    let percent = 100 - JITTER_PERCENT / 2 + u64::from(byte[0]) * JITTER_PERCENT / 255;
    Duration::from_millis(u64::try_from(period.as_millis()).unwrap_or(u64::MAX).saturating_mul(percent) / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    use molt_model::SystemClock;
    use tokio::sync::Notify;

    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_loop_goes_on_after_failures_and_panics_and_runs_again_while_there_is_work() {
        let database = molt_store::testing::database().await;
        let tasks = Tasks::new(Arc::new(SystemClock), database.store.wakeups().clone());
        let (count, nudge) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let (counter, schedule) =
            (count.clone(), Schedule { name: "test", period: NEVER, wakes: |c| *c == Channel::Fleet });
        let reached = Arc::new(Notify::new());
        let signal = reached.clone();
        let woken = nudge.clone();
        let inside = move || -> Woken {
            let woken = woken.clone();
            Box::pin(async move { woken.notified().await })
        };
        tasks.spawn_woken(schedule, inside, move || {
            let n = counter.fetch_add(1, Ordering::SeqCst);
            let signal = signal.clone();
            async move {
                match n {
                    0 => anyhow::bail!("not yet"),
                    1 => panic!("on purpose"),
                    2 | 3 => Ok(1),
                    _ => {
                        signal.notify_one();
                        Ok(0)
                    }
                }
            }
        });
        tokio::time::timeout(Duration::from_secs(10), reached.notified()).await.unwrap();
        nudge.notify_one();
        tokio::time::timeout(Duration::from_secs(10), reached.notified()).await.unwrap();
        let status = tasks.statuses()["test"].clone();
        assert_eq!((status.failures, status.panics, status.handled), (2, 1, 2));
        assert!(status.last_error.is_none() && status.runs >= 5);
        assert!(tasks.stop(Duration::from_secs(5)).await);
        let after = count.load(Ordering::SeqCst);
        nudge.notify_one();
        tokio::task::yield_now().await;
        assert_eq!(count.load(Ordering::SeqCst), after);
    }

    #[test]
    fn jitter_stays_near_the_period() {
        for _ in 0..100 {
            let period = jittered(Duration::from_secs(10));
            assert!(period >= Duration::from_secs(9) && period <= Duration::from_secs(11));
        }
    }
}
