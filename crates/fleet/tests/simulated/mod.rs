//! A simulated host: machines and volumes in memory that outlive a killed fleet, calls that take time, fail, lose their answers
//! and are counted against a limit, and cells that really answer over TCP. For tests of the fleet and for its benchmark.
//! Never: forgiving. What a fleet leaves behind stays, and what it asks for too fast is counted.

mod cells;
mod fuse;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use molt_bot::{Applied, CellAddress, canonical_hash};
use molt_fleet::{BoxFuture, CellSpec, Ensured, Host, HostError, Prepares, Report, Used};
use molt_model::{BotId, Catalog, ModelFacts, Price, PriceVersion};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use uuid::Uuid;

pub(crate) use cells::serve_cells;
pub(crate) use fuse::{Blow, Fuse};

/// A catalogue with one model, for fleets that start no real runtime.
pub(crate) fn catalog() -> Catalog {
    let models = vec![ModelFacts {
        id: "practice/practice-1".into(),
        name: "Practice".into(),
        price: Price::flat(100_000_000, 400_000_000),
        context_window: 128_000,
        output_max: 8192,
        reasoning: false,
        vision: false,
        strengths: "Practising.".into(),
        embedding: false,
        listed: true,
    }];
    Catalog::new(PriceVersion("simulated".into()), models, "practice/practice-1".into(), None)
}

/// How the host behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// Of every call.
    pub(crate) latency: Duration,
    /// Calls in ten thousand that fail before they do anything, and as many whose answer is lost after they did it.
    pub(crate) faults: u64,
    /// More calls in any second are hammering: refused, and counted. 0: no limit.
    pub(crate) calls_per_second: usize,
    /// From a cell's start until its runtime is ready.
    pub(crate) boot: Duration,
    /// Whether it makes places ahead: a volume.
    pub(crate) ahead: bool,
}

/// What the host counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    /// Calls beyond the limit.
    pub(crate) hammering: u64,
    /// The most calls in any second.
    pub(crate) most: usize,
}

pub(crate) struct Simulated {
    pub(crate) rules: Rules,
    pub(crate) fuse: Arc<Fuse>,
    address: CellAddress,
    machines: Mutex<HashMap<BotId, Machine>>,
    /// By gateway token: one listener answers for all cells, and a token is what tells them apart.
    by_token: Mutex<HashMap<String, BotId>>,
    volumes: Mutex<HashMap<BotId, Volume>>,
    /// Volumes that a machine was ever started on.
    used: Mutex<HashSet<Volume>>,
    /// Under which claims.
    claims: Mutex<HashMap<Volume, Vec<Uuid>>>,
    numbers: AtomicU64,
    counted: Mutex<Counted>,
    /// Times of the calls of the last second.
    recent: Mutex<VecDeque<Instant>>,
    away: AtomicBool,
}

struct Machine {
    ghost_key: SecretString,
    token: String,
    started: Instant,
    boot_id: Uuid,
    applied: Applied,
    hangs: bool,
    gone: Arc<Notify>,
}

/// A volume that was lost and made again has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Volume(u64);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Simulated {
    /// `address` is where `serve_cells` listens.
    pub(crate) fn new(rules: Rules, address: CellAddress) -> Arc<Self> {
        Arc::new(Self {
            rules,
            fuse: Arc::default(),
            address,
            machines: Mutex::default(),
            by_token: Mutex::default(),
            volumes: Mutex::default(),
            used: Mutex::default(),
            claims: Mutex::default(),
            numbers: AtomicU64::new(1),
            counted: Mutex::default(),
            recent: Mutex::default(),
            away: AtomicBool::new(false),
        })
    }

    pub(crate) fn counted(&self) -> Counted {
        *locked(&self.counted)
    }

    pub(crate) fn volume(&self, bot: &BotId) -> Option<Volume> {
        locked(&self.volumes).get(bot).copied()
    }

    /// What was ever started in the place.
    fn used_by(&self, bot: &BotId) -> Used {
        match self.volume(bot).filter(|volume| locked(&self.used).contains(volume)) {
            None => Used::Never,
            Some(volume) => Used::By(locked(&self.claims).get(&volume).cloned().unwrap_or_default()),
        }
    }

    /// Whether a cell with this claim may be started there; what is started from now on has it.
    fn admits(&self, spec: &CellSpec) -> bool {
        let Some(claim) = spec.claim else { return true };
        let used = self.used_by(&spec.bot);
        let admits = used == Used::Never || used.is_by(claim);
        if let Some(volume) = self.volume(&spec.bot).filter(|_| used == Used::Never) {
            locked(&self.claims).insert(volume, vec![claim]);
        }
        admits
    }

    pub(crate) fn ghost_key(&self, bot: &BotId) -> Option<SecretString> {
        locked(&self.machines).get(bot).map(|machine| machine.ghost_key.clone())
    }

    pub(crate) fn applied_revision(&self, bot: &BotId) -> Option<i64> {
        locked(&self.machines).get(bot).map(|machine| machine.applied.revision)
    }

    /// Bots that have a machine, and those that have a volume.
    pub(crate) fn holds(&self) -> (Vec<BotId>, Vec<BotId>) {
        let sorted = |mut bots: Vec<BotId>| {
            bots.sort();
            bots
        };
        let machines = locked(&self.machines).keys().cloned().collect();
        (sorted(machines), sorted(locked(&self.volumes).keys().cloned().collect()))
    }

    /// This cell takes every question and answers none, or answers again.
    pub(crate) fn hang(&self, bot: &BotId, hangs: bool) {
        if let Some(machine) = locked(&self.machines).get_mut(bot) {
            machine.hangs = hangs;
        }
    }

    /// The host goes away and takes every machine with it; volumes stay.
    pub(crate) fn go_away(&self) {
        self.away.store(true, Ordering::SeqCst);
        let machines: Vec<BotId> = locked(&self.machines).keys().cloned().collect();
        machines.iter().for_each(|bot| self.end(bot));
    }

    pub(crate) fn come_back(&self) {
        self.away.store(false, Ordering::SeqCst);
    }

    /// A machine comes up, whose cell answers from now on.
    pub(crate) fn begin(&self, bot: &BotId, token: &str, ghost_key: SecretString, applied: Applied) {
        locked(&self.by_token).insert(token.to_owned(), bot.clone());
        let machine = Machine {
            ghost_key,
            token: token.to_owned(),
            started: Instant::now(),
            boot_id: Uuid::new_v4(),
            applied,
            hangs: false,
            gone: Arc::default(),
        };
        locked(&self.used).extend(self.volume(bot));
        locked(&self.machines).insert(bot.clone(), machine);
    }

    pub(crate) fn end(&self, bot: &BotId) {
        if let Some(machine) = locked(&self.machines).remove(bot) {
            locked(&self.by_token).remove(&machine.token);
            machine.gone.notify_waiters();
        }
    }

    /// What every call goes through: a point to die at, the limit, time, and chance. `Ok(true)`: its answer will be lost.
    async fn call(&self) -> Result<bool, HostError> {
        self.fuse.point().await;
        self.count()?;
        if !self.rules.latency.is_zero() {
            tokio::time::sleep(self.rules.latency).await;
        }
        if self.away.load(Ordering::SeqCst) {
            return self.fail("the host is away");
        }
        match self.fuse.blow_here() {
            Some(Blow::Refuse) => return self.fail("refused"),
            Some(Blow::LoseAnswer) => return Ok(true),
            Some(Blow::Kill) | None => {}
        }
        let chance = self.chance();
        if chance < self.rules.faults {
            return self.fail("a fault");
        }
        Ok(chance < 2 * self.rules.faults)
    }

    async fn answer<T>(&self, lost: bool, answer: T) -> Result<T, HostError> {
        self.fuse.point().await;
        if lost { self.fail("the answer was lost") } else { Ok(answer) }
    }

    fn fail<T>(&self, why: &'static str) -> Result<T, HostError> {
        locked(&self.counted).failed += 1;
        Err(anyhow!(why).into())
    }

    fn count(&self) -> Result<(), HostError> {
        let (mut recent, mut counted, now) = (locked(&self.recent), locked(&self.counted), Instant::now());
        while recent.front().is_some_and(|at| now.duration_since(*at) >= Duration::from_secs(1)) {
            recent.pop_front();
        }
        recent.push_back(now);
        counted.calls += 1;
        counted.most = counted.most.max(recent.len());
        if self.rules.calls_per_second > 0 && recent.len() > self.rules.calls_per_second {
            counted.hammering += 1;
            return Err(anyhow!("too many requests").into());
        }
        Ok(())
    }

    /// Of ten thousand, the same every run: which calls fail is no matter, how many is.
    fn chance(&self) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % 10_000
    }
}

/// One fleet's view of the host.
pub(crate) struct SimulatedHost(pub(crate) Arc<Simulated>);

impl Host for SimulatedHost {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    fn ensure<'a>(&'a self, spec: &'a CellSpec) -> BoxFuture<'a, Result<Ensured, HostError>> {
        Box::pin(async move {
            let host = &self.0;
            let lost = host.call().await?;
            let number = host.numbers.fetch_add(1, Ordering::SeqCst);
            locked(&host.volumes).entry(spec.bot.clone()).or_insert(Volume(number));
            host.fuse.point().await;
            if !host.admits(spec) {
                return host.fail("another bot's");
            }
            if locked(&host.machines).contains_key(&spec.bot) {
                return host.answer(lost, Ensured::AlreadyThere).await;
            }
            let applied = Applied { revision: spec.revision, hash: canonical_hash(&spec.config) };
            host.begin(&spec.bot, spec.gateway_token.expose_secret(), spec.ghost_key.clone(), applied);
            host.answer(lost, Ensured::Started).await
        })
    }

    fn inspect<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Report, HostError>> {
        Box::pin(async move {
            let lost = self.0.call().await?;
            let there = locked(&self.0.machines).contains_key(bot);
            let present = Report::Present { address: self.0.address.clone() };
            self.0.answer(lost, if there { present } else { Report::Absent }).await
        })
    }

    fn stop<'a>(&'a self, bot: &'a BotId, remove: bool) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let lost = self.0.call().await?;
            self.0.end(bot);
            if remove {
                self.0.fuse.point().await;
                locked(&self.0.volumes).remove(bot);
            }
            self.0.answer(lost, ()).await
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BotId>, HostError>> {
        Box::pin(async move {
            let lost = self.0.call().await?;
            let (mut held, volumes) = self.0.holds();
            held.extend(volumes);
            held.sort();
            held.dedup();
            self.0.answer(lost, held).await
        })
    }

    fn gone<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let gone = locked(&self.0.machines).get(bot).map(|machine| machine.gone.clone());
            let Some(gone) = gone else { return };
            let notified = gone.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let there = locked(&self.0.machines).get(bot).is_some_and(|machine| Arc::ptr_eq(&machine.gone, &gone));
            if there {
                notified.await;
            }
        })
    }

    fn prepares(&self) -> Option<&dyn Prepares> {
        self.0.rules.ahead.then_some(self)
    }
}

impl Prepares for SimulatedHost {
    fn prepare<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let lost = self.0.call().await?;
            let number = self.0.numbers.fetch_add(1, Ordering::SeqCst);
            locked(&self.0.volumes).entry(bot.clone()).or_insert(Volume(number));
            self.0.answer(lost, ()).await
        })
    }

    fn withdraw<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let lost = self.0.call().await?;
            if self.0.volume(bot).is_some_and(|volume| locked(&self.0.used).contains(&volume)) {
                return self.0.fail("what was used is not taken away");
            }
            self.0.fuse.point().await;
            locked(&self.0.volumes).remove(bot);
            self.0.answer(lost, ()).await
        })
    }

    fn used<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Used, HostError>> {
        Box::pin(async move {
            let lost = self.0.call().await?;
            self.0.answer(lost, self.0.used_by(bot)).await
        })
    }
}
