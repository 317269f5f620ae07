//! The loop that makes cells match rows: claims due bots, lets each take its steps, watches those that run.
//! Never: input from outside, unbounded work in one round, or a lasting effect of a lost wake-up.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use molt_model::{BotId, CatalogInForce, Clock, Time};
use molt_store::Store;
use molt_store::fleet::Lease;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::error::FleetError;
use crate::health::{Asks, Rota, ask_in_turn};
use crate::host::Host;
use crate::listen::listen;
use crate::patience::{Patient, Setbacks};
use crate::rounds::Driven;
use crate::runtime::RuntimeState;
use crate::spares::Making;
use crate::start;
use crate::sweep::{self, Swept};

/// Bots worked on at the same time. A step is mostly waiting, for a host or the database.
const BOTS_AT_ONCE: usize = 48;
/// A worker that takes longer waits for something sick, and its place goes to the next bot.
const SLOW: Duration = Duration::from_secs(3);
/// All workers, the slow ones too: what a host that hangs may hold of memory and leases.
const WORKERS_MAX: usize = 512;
/// So many turns in a row that broke off are no chance: the host or the database is away, and until a turn ends well a few
/// bots at a time find out whether it is back.
const TROUBLE: usize = 32;
const BOTS_IN_TROUBLE: usize = 2;
/// Bots are claimed by at least so many at a time while there are more than fit.
const CLAIM_MIN: usize = 8;
/// Longer than the longest that one worker may take, so that a lease only ends early when its worker is dead.
const LEASE: TimeDelta = TimeDelta::seconds(240);
/// A bot that wants to be looked at again sooner than this waits for its runtime.
const LOOKS_SOON: TimeDelta = TimeDelta::milliseconds(1_200);
/// Between two such looks at any bots: a few are looked at as often as they want, thousands take turns.
const LOOK_GAP: TimeDelta = TimeDelta::milliseconds(4);
/// How long a round waits for the bots that it claimed; slow ones go on beside the next round.
const ROUND_WAIT: Duration = Duration::from_millis(250);
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
    /// How long after a bot was made its place waits for a plan, where one is made ahead. Zero: none is made.
    pub keep_ahead: TimeDelta,
    /// Places that are kept made for the next bots, where any is made ahead.
    pub keep_spare: u32,
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
    making: tokio::sync::Mutex<Making>,
    asks: Arc<Asks>,
    listener: AbortHandle,
    /// Asks the running cells between rounds, which cost queries.
    asker: AbortHandle,
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
    pub(crate) running: Mutex<Rota>,
    guards: Mutex<HashMap<BotId, AbortHandle>>,
    /// Bots whose cell ended or isn't well: the next round calls them all with one statement.
    ailing: Mutex<HashSet<BotId>>,
    /// Bots that are looked at again and again until their runtime is up.
    waiting: Mutex<HashSet<BotId>>,
    /// Workers that aren't slow.
    brisk: AtomicUsize,
    /// Turns that broke off since one ended well.
    broken_off: AtomicUsize,
    /// Bots whose work broke off.
    pub(crate) setbacks: Setbacks,
    /// How far the sweeper has come with the bots that rest.
    pub(crate) swept_to: Mutex<String>,
    /// Leases that could not be given back when the database was away.
    unreleased: Mutex<Vec<(Lease, Option<Time>)>>,
}

/// A worker's place among those that aren't slow.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
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
            ailing: Mutex::default(),
            waiting: Mutex::default(),
            brisk: AtomicUsize::new(0),
            broken_off: AtomicUsize::new(0),
            setbacks: Setbacks::default(),
            swept_to: Mutex::default(),
            unreleased: Mutex::default(),
        });
        let listener = tokio::spawn(listen(shared.clone())).abort_handle();
        let asks = Arc::<Asks>::default();
        let asker = tokio::spawn(ask_in_turn(shared.clone(), asks.clone())).abort_handle();
        let (workers, making) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Self { shared, workers, making, asks, listener, asker, timer: Mutex::default() }
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
        shared.call_ailing().await?;
        shared.call_waiting().await?;
        self.making.lock().await.keep_up(shared).await?;
        shared.erase_people().await?;
        let mut workers = self.workers.lock().await;
        // A round that waited here while everything was stopped would start the cells again.
        if shared.closing.load(Ordering::SeqCst) {
            return Ok(Counts::default());
        }
        let mut counts = Counts::default();
        self.asks.ask(shared);
        let in_round = InRound::enter(&shared.in_round);
        let round = tokio::time::sleep(ROUND_WAIT);
        tokio::pin!(round);
        let mut more = true;
        loop {
            while let Some(done) = workers.try_join_next() {
                counts.add(done);
            }
            more = more && self.fill(&mut workers, &mut counts).await?;
            tokio::select! {
                done = workers.join_next() => match done {
                    Some(done) => counts.add(done),
                    None => break,
                },
                () = &mut round => break,
            }
        }
        counts.asked = self.asks.take_count();
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

    /// Gives free places to due bots. `false`: there are no more of them.
    async fn fill(&self, workers: &mut JoinSet<Driven>, counts: &mut Counts) -> Result<bool, FleetError> {
        let trouble = self.shared.broken_off.load(Ordering::SeqCst) >= TROUBLE;
        let places = if trouble { BOTS_IN_TROUBLE } else { BOTS_AT_ONCE };
        let free = places.saturating_sub(self.shared.brisk.load(Ordering::SeqCst));
        let free = free.min(WORKERS_MAX.saturating_sub(workers.len()));
        if free < CLAIM_MIN.min(places) {
            return Ok(true);
        }
        let leases = self.shared.claim(free).await?;
        counts.claimed += leases.len();
        let more = leases.len() == free;
        for lease in leases {
            self.shared.brisk.fetch_add(1, Ordering::SeqCst);
            workers.spawn(self.shared.clone().work(lease));
        }
        Ok(more)
    }

    /// Ends all cells, gently and together, without changing what anybody wants: the next start brings them back.
    pub async fn shutdown(&self) -> Result<(), FleetError> {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.running().clear();
        let work = async {
            self.making.lock().await.end().await;
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
        self.asker.abort();
        self.asks.abort();
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

impl Shared {
    fn guards(&self) -> MutexGuard<'_, HashMap<BotId, AbortHandle>> {
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One bot's turn; a worker that turns out to be slow gives its place away.
    async fn work(self: Arc<Self>, lease: Lease) -> Driven {
        let mut place = Some(Place(&self.brisk));
        let drive = self.clone().drive(lease);
        tokio::pin!(drive);
        let driven = tokio::select! {
            driven = &mut drive => driven,
            () = tokio::time::sleep(SLOW) => {
                place.take();
                self.wake.notify_one();
                drive.await
            }
        };
        match driven.broke_off {
            true => self.broken_off.fetch_add(1, Ordering::SeqCst),
            false => self.broken_off.swap(0, Ordering::SeqCst),
        };
        driven
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
        let next = self.take_turns(&lease.bot, next);
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

    /// The more bots wait for their runtimes, the later each is looked at again: all of them together cost the same.
    fn take_turns(&self, bot: &BotId, next: Option<Time>) -> Option<Time> {
        let now = self.clock.now();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = next.filter(|next| *next > now && *next < now + LOOKS_SOON) else {
            waiting.remove(bot);
            return next;
        };
        waiting.insert(bot.clone());
        Some(next.max(now + LOOK_GAP * i32::try_from(waiting.len()).unwrap_or(i32::MAX)))
    }

    /// The next round looks at this bot.
    pub(crate) fn ails(&self, bot: BotId) {
        self.ailing.lock().unwrap_or_else(PoisonError::into_inner).insert(bot);
        self.wake.notify_one();
    }

    /// Makes all bots due that something was seen of: after an outage thousands at once.
    async fn call_ailing(&self) -> Result<(), FleetError> {
        let ailing = std::mem::take(&mut *self.ailing.lock().unwrap_or_else(PoisonError::into_inner));
        if ailing.is_empty() {
            return Ok(());
        }
        let bots: Vec<BotId> = ailing.into_iter().collect();
        let called = async {
            let mut system = self.store.system().await?;
            system.bots_are_due(&bots, self.clock.now()).await?;
            Ok(system.commit().await?)
        };
        let called: Result<(), FleetError> = called.await;
        if called.is_err() {
            // The database is away; they are called as soon as it is back.
            self.ailing.lock().unwrap_or_else(PoisonError::into_inner).extend(bots);
        }
        called
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
            shared.ails(watched);
        });
        guards.insert(bot.clone(), task.abort_handle());
    }

    /// How long nothing is due.
    async fn pause(&self) -> Duration {
        let row = async {
            let mut system = self.store.system().await?;
            system.next_bot_due().await
        };
        let pause =
            row.await.ok().flatten().map_or(PERIOD, |next| (next - self.clock.now()).to_std().unwrap_or_default());
        pause.min(PERIOD)
    }
}
