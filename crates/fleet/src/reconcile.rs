//! The loop that makes cells match rows: claims due bots, lets each take its steps, watches those that run.
//! Never: input from outside, unbounded work in one round, or a lasting effect of a lost wake-up.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use molt_bot::{Client, Phase};
use molt_model::{BotId, CatalogInForce, Clock, Time};
use molt_store::fleet::{Lease, Restarts};
use molt_store::{Channel, Store};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::act::restarts;
use crate::error::FleetError;
use crate::host::Host;
use crate::patience::{Patient, Setbacks};
use crate::rounds::Driven;
use crate::runtime::RuntimeState;
use crate::start;
use crate::sweep::{self, Swept};

/// Bots worked on at the same time. A step is mostly waiting; a start costs a core for seconds, in the cell.
const BOTS_AT_ONCE: usize = 16;
/// Longer than the longest that one worker may take, so that a lease only ends early when its worker is dead.
const LEASE: TimeDelta = TimeDelta::seconds(240);
/// Running cells asked in one round; an answer takes a millisecond.
const ASKS_AT_ONCE: usize = 256;
/// How long a round waits for the bots that it claimed; slow ones go on beside the next round.
const ROUND_WAIT: Duration = Duration::from_millis(250);
/// How often a running cell is asked how it is. Its death is noticed at once, by other means; this finds the hanging.
const HEALTH_PERIOD: TimeDelta = TimeDelta::seconds(5);
/// The net under all wake-ups.
const PERIOD: Duration = Duration::from_secs(5);
/// What a shutdown may take in all.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);
/// How much of it goes to steps that are under way.
const SHUTDOWN_SETTLE: Duration = Duration::from_secs(1);

/// What the fleet of this installation works with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Absolute; the caller holds its lock, so that there is one fleet per folder.
    pub data_dir: PathBuf,
    /// The program of a cell, where every user can execute it.
    pub cell_binary: PathBuf,
    /// Where cells send model calls, such as `http://127.0.0.1:8787/v1`.
    pub proxy_url: String,
    pub catalog: CatalogInForce,
    /// A system user per cell out of these; see `cell_users`.
    pub uid_range: Option<RangeInclusive<u32>>,
}

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bots taken from the queue.
    pub claimed: usize,
    /// Steps done by the bots that finished in this round.
    pub steps: usize,
    /// Bots whose work broke off with an error.
    pub errors: usize,
    /// Running cells that were asked how they are.
    pub asked: usize,
}

/// The fleet of one installation. Dropped, it leaves the cells as they are; the next one finds them.
pub struct Fleet {
    shared: Arc<Shared>,
    workers: tokio::sync::Mutex<JoinSet<Driven>>,
    /// Questions to running cells; a cell that hangs delays nobody else.
    asks: Mutex<JoinSet<()>>,
    listener: AbortHandle,
    /// Wakes the loop when the next bot is due.
    timer: Mutex<Option<AbortHandle>>,
}

/// What the workers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) runtime: watch::Receiver<RuntimeState>,
    pub(crate) wake: Arc<Notify>,
    started: AtomicBool,
    pub(crate) closing: AtomicBool,
    /// A round is waiting for workers: what they finish needs no wake-up.
    in_round: AtomicBool,
    running: Mutex<HashMap<BotId, Running>>,
    guards: Mutex<HashMap<BotId, AbortHandle>>,
    /// Bots whose work broke off.
    pub(crate) setbacks: Setbacks,
    /// How far the sweeper has come with the bots that rest.
    pub(crate) swept_to: Mutex<String>,
    /// Leases that could not be given back when the database was away.
    unreleased: Mutex<Vec<(Lease, Option<Time>)>>,
}

/// A cell that runs as wanted.
struct Running {
    client: Client,
    ask_at: Time,
    /// What was noted of its runtime's starts: one more means that it ended and is back already.
    noted: Restarts,
}

impl Fleet {
    #[must_use]
    pub fn new(
        config: Config,
        store: Store,
        clock: Arc<dyn Clock>,
        host: Arc<dyn Host>,
        runtime: watch::Receiver<RuntimeState>,
    ) -> Self {
        let shared = Arc::new(Shared {
            config,
            store,
            clock,
            host: Arc::new(Patient(host)),
            runtime,
            wake: Arc::default(),
            started: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            in_round: AtomicBool::new(false),
            running: Mutex::default(),
            guards: Mutex::default(),
            setbacks: Setbacks::default(),
            swept_to: Mutex::default(),
            unreleased: Mutex::default(),
        });
        let listener = tokio::spawn(listen(shared.clone())).abort_handle();
        Self {
            shared,
            workers: tokio::sync::Mutex::default(),
            asks: Mutex::default(),
            listener,
            timer: Mutex::default(),
        }
    }

    /// One round. The first one takes over what an earlier fleet left: its leases and its cells.
    pub async fn run_once(&self) -> Result<Counts, FleetError> {
        let shared = &self.shared;
        if shared.closing.load(Ordering::SeqCst) {
            return Ok(Counts::default());
        }
        if !shared.started.load(Ordering::SeqCst) {
            start::take_over(shared).await?;
            shared.started.store(true, Ordering::SeqCst);
        }
        shared.release_late().await?;
        shared.erase_people().await?;
        let mut workers = self.workers.lock().await;
        // A round that waited here while everything was stopped would start the cells again.
        if shared.closing.load(Ordering::SeqCst) {
            return Ok(Counts::default());
        }
        let mut counts = Counts::default();
        while let Some(done) = workers.try_join_next() {
            counts.add(done);
        }
        let leases = shared.claim(BOTS_AT_ONCE - workers.len().min(BOTS_AT_ONCE)).await?;
        counts.claimed = leases.len();
        for lease in leases {
            workers.spawn(shared.clone().drive(lease));
        }
        counts.asked = self.ask_running();
        let in_round = InRound::enter(&shared.in_round);
        let round = tokio::time::sleep(ROUND_WAIT);
        tokio::pin!(round);
        loop {
            tokio::select! {
                done = workers.join_next() => match done {
                    Some(done) => counts.add(done),
                    None => break,
                },
                () = &mut round => break,
            }
        }
        drop(workers);
        // What workers finish from here on wakes the loop, so that the timer can't miss it.
        drop(in_round);
        self.set_timer().await;
        Ok(counts)
    }

    /// One look at what no wake-up tells of: what the host holds against what the rows say. Apart from the rounds, so that a
    /// host that takes its time with a list delays no bot.
    pub async fn sweep_once(&self) -> Result<Swept, FleetError> {
        sweep::sweep(&self.shared).await
    }

    /// Notified when there may be something to do: somebody asked, a cell died, the runtime changed, a bot is due.
    #[must_use]
    pub fn nudge(&self) -> Arc<Notify> {
        self.shared.wake.clone()
    }

    async fn set_timer(&self) {
        let (pause, wake) = (self.shared.pause().await, self.shared.wake.clone());
        let timer = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            wake.notify_one();
        });
        let mut current = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = current.replace(timer.abort_handle()) {
            earlier.abort();
        }
    }

    /// Asks the running cells whose turn it is. Only one that isn't well costs a row.
    fn ask_running(&self) -> usize {
        let now = self.shared.clock.now();
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        while asks.try_join_next().is_some() {}
        let mut running = self.shared.running();
        let due = running.iter_mut().filter(|(_, cell)| cell.ask_at <= now).take(ASKS_AT_ONCE);
        let mut asked = 0;
        for (bot, cell) in due {
            cell.ask_at = now + HEALTH_PERIOD;
            asks.spawn(self.shared.clone().ask(bot.clone(), cell.client.clone(), cell.noted));
            asked += 1;
        }
        asked
    }

    /// Ends all cells, gently and together, without changing what anybody wants: the next start brings them back.
    pub async fn shutdown(&self) -> Result<(), FleetError> {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.running().clear();
        let work = async {
            let mut workers = self.workers.lock().await;
            let settle = async { while workers.join_next().await.is_some() {} };
            if tokio::time::timeout(SHUTDOWN_SETTLE, settle).await.is_err() {
                workers.shutdown().await;
            }
            let bots = self.shared.host.list().await?;
            let stops = bots.iter().map(|bot| self.shared.host.stop(bot, false));
            for (bot, stopped) in bots.iter().zip(futures_util::future::join_all(stops).await) {
                if let Err(error) = stopped {
                    tracing::warn!(bot.id = %bot, error = &error as &dyn std::error::Error, "a cell was not ended");
                }
            }
            Ok::<(), FleetError>(())
        };
        match tokio::time::timeout(SHUTDOWN_LIMIT, work).await {
            Ok(done) => done?,
            Err(_) => tracing::warn!("not all cells ended in time; the next start takes them over"),
        }
        let mut system = self.shared.store.system().await?;
        system.all_bots_rest(self.shared.clock.now()).await?;
        Ok(system.commit().await?)
    }
}

/// Says that a round waits, until dropped.
struct InRound<'a>(&'a AtomicBool);

impl<'a> InRound<'a> {
    fn enter(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        Self(flag)
    }
}

impl Drop for InRound<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.listener.abort();
        if let Some(timer) = self.timer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            timer.abort();
        }
        for (_, guard) in self.shared.guards().drain() {
            guard.abort();
        }
    }
}

impl Counts {
    fn add(&mut self, done: Result<Driven, tokio::task::JoinError>) {
        match done {
            Ok(driven) => {
                self.steps += driven.steps;
                self.errors += usize::from(driven.broke_off);
            }
            Err(error) => {
                self.errors += 1;
                tracing::error!(error = &error as &dyn std::error::Error, "work on a bot panicked");
            }
        }
    }
}

/// Turns wake-ups of the database and of the installer into wake-ups of the loop.
async fn listen(shared: Arc<Shared>) {
    use tokio::sync::broadcast::error::RecvError;

    let (mut wakeups, mut runtime) = (shared.store.wakeups().subscribe(), shared.runtime.clone());
    let (wake, store, clock) = (shared.wake.clone(), shared.store.clone(), shared.clock.clone());
    let mut installing = true;
    let fails = |runtime: &mut watch::Receiver<RuntimeState>| {
        matches!(*runtime.borrow_and_update(), RuntimeState::Failed { .. })
    };
    let mut failed = fails(&mut runtime);
    // A task of the fleet must not keep the fleet alive.
    drop(shared);
    loop {
        tokio::select! {
            wakeup = wakeups.recv() => match wakeup {
                Ok(Channel::Fleet | Channel::All) | Err(RecvError::Lagged(_)) => wake.notify_one(),
                Ok(_) => {}
                Err(RecvError::Closed) => return,
            },
            changed = runtime.changed(), if installing => {
                // When whoever installs the runtime is gone, its last word stands.
                installing = changed.is_ok();
                let failed_before = std::mem::replace(&mut failed, fails(&mut runtime));
                if failed_before && !failed && let Err(error) = call_those_who_wait(&store, clock.now()).await {
                    tracing::warn!(error = &error as &dyn std::error::Error,
                        "bots that wait for OpenClaw could not be called; they look by themselves");
                }
                wake.notify_one();
            }
        }
    }
}

async fn call_those_who_wait(store: &Store, now: Time) -> Result<(), FleetError> {
    let mut system = store.system().await?;
    system.bots_without_runtime_are_due(now).await?;
    Ok(system.commit().await?)
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<BotId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guards(&self) -> MutexGuard<'_, HashMap<BotId, AbortHandle>> {
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(&self, limit: usize) -> Result<Vec<Lease>, FleetError> {
        let now = self.clock.now();
        let limit = i64::try_from(limit).unwrap_or(0);
        let mut system = self.store.system().await?;
        let leases = system.claim_due_bots(now, now + LEASE, limit).await?;
        system.commit().await?;
        Ok(leases)
    }

    async fn erase_people(&self) -> Result<(), FleetError> {
        let mut system = self.store.system().await?;
        if system.erase_people_without_bots().await? > 0 {
            system.commit().await?;
            tracing::info!("people who asked for it were erased");
        }
        Ok(())
    }

    /// Gives the bot back to the queue; a lease that can't be given back now is given back later.
    pub(crate) async fn release(&self, lease: Lease, next: Option<Time>) {
        if self.try_release(&lease, next).await.is_err() {
            self.unreleased.lock().unwrap_or_else(PoisonError::into_inner).push((lease, next));
        }
        if !self.in_round.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    async fn release_late(&self) -> Result<(), FleetError> {
        let late = std::mem::take(&mut *self.unreleased.lock().unwrap_or_else(PoisonError::into_inner));
        for (index, (lease, next)) in late.iter().enumerate() {
            if let Err(error) = self.try_release(lease, *next).await {
                let mut unreleased = self.unreleased.lock().unwrap_or_else(PoisonError::into_inner);
                unreleased.extend_from_slice(&late[index..]);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn try_release(&self, lease: &Lease, next: Option<Time>) -> Result<(), FleetError> {
        let mut system = self.store.system().await?;
        system.release_bot(lease, next).await?;
        Ok(system.commit().await?)
    }

    pub(crate) async fn make_due(&self, bot: &BotId) -> Result<(), FleetError> {
        let mut system = self.store.system().await?;
        system.bot_is_due(bot, self.clock.now()).await?;
        Ok(system.commit().await?)
    }

    /// This bot's cell runs as wanted: from now on it is asked how it is, without touching a row.
    pub(crate) fn watch_health(&self, bot: &BotId, client: Client, noted: Restarts) {
        let ask_at = self.clock.now() + HEALTH_PERIOD;
        self.running().insert(bot.clone(), Running { client, ask_at, noted });
    }

    pub(crate) fn forget_health(&self, bot: &BotId) {
        self.running().remove(bot);
    }

    /// Makes the bot due at the moment its cell dies.
    pub(crate) fn guard(self: &Arc<Self>, bot: &BotId) {
        let mut guards = self.guards();
        if guards.get(bot).is_some_and(|guard| !guard.is_finished()) || self.closing.load(Ordering::SeqCst) {
            return;
        }
        let (shared, watched) = (self.clone(), bot.clone());
        let task = tokio::spawn(async move {
            shared.host.gone(&watched).await;
            shared.guards().remove(&watched);
            if let Err(error) = shared.make_due(&watched).await {
                tracing::warn!(bot.id = %watched, error = &error as &dyn std::error::Error,
                    "a cell ended and the database is away; the next look at the bot finds it");
            }
            shared.wake.notify_one();
        });
        guards.insert(bot.clone(), task.abort_handle());
    }

    async fn ask(self: Arc<Self>, bot: BotId, client: Client, noted: Restarts) {
        let health = client.health().await;
        let well = health.is_ok_and(|health| health.phase == Phase::Ready && restarts(&health) == noted);
        // When the database is away the cell is asked again a period later.
        if !well && self.make_due(&bot).await.is_ok() {
            self.forget_health(&bot);
            self.wake.notify_one();
        }
    }

    /// How long nothing is due.
    async fn pause(&self) -> Duration {
        let row = async {
            let mut system = self.store.system().await?;
            system.next_bot_due().await
        };
        let row = row.await.ok().flatten();
        let ask = self.running().values().map(|cell| cell.ask_at).min();
        let next = [row, ask].into_iter().flatten().min();
        let pause = next.map_or(PERIOD, |next| (next - self.clock.now()).to_std().unwrap_or_default());
        pause.min(PERIOD)
    }
}
