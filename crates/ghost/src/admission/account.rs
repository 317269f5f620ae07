//! All purses of one person, and the one task that leases for them: at most one exchange with the database at a time, and
//! the same one again until it is answered.
//! Never: an exchange forgotten while its outcome is unknown, or a call that waits without a bound.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use molt_model::{BotId, HolderId, KeyId, Nanos, UserId};
use molt_store::budget::{LeaseWish, Leased, Scope};
use molt_store::{Channel, Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::limits::Meter;
use super::purse::{Demand, Purse};
use super::tally::LeaseTally;

/// After an exchange that wasn't answered.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// For one exchange; a connection that hangs is as good as none.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);
/// Other proxies are asked for money at most so often.
const ASK_OTHERS_EVERY: Duration = Duration::from_millis(100);
/// A purse that wasn't used for so many ticks (a minute) gives back what it has.
const IDLE_TICKS: u64 = 12;
/// How long others are left alone after they said that they lack money.
const MODEST_TICKS: u64 = 3;

/// What an account needs of the process.
#[derive(Debug)]
pub(crate) struct Bank {
    pub(crate) holder: HolderId,
    pub(crate) tick: AtomicU64,
    /// The database released this holder: it may spend nothing any more.
    pub(crate) lost: AtomicBool,
    pub(crate) runtime: Handle,
    pub(crate) leases: Arc<LeaseTally>,
}

/// One person's purses and meters.
pub(crate) struct Account {
    user: UserId,
    bank: Arc<Bank>,
    store: Store,
    state: Mutex<State>,
    /// Whether the task runs, and whether it must look again before it ends.
    running: AtomicUsize,
    /// Counts exchanges that ended, and whether the newest was answered.
    rounds: watch::Sender<Round>,
    /// Counts whatever may let a waiting call go.
    freed: watch::Sender<u64>,
    waiting: AtomicUsize,
    pub(crate) meter: Arc<Meter>,
}

#[derive(Default)]
struct State {
    purses: HashMap<Scope, Arc<Purse>>,
    /// Purses of caps that were lowered meanwhile, until all of their money went back.
    closed: Vec<Arc<Purse>>,
    meters: HashMap<String, Arc<Meter>>,
    waiters: HashMap<u64, Waiter>,
    next_waiter: u64,
    open: Option<Exchange>,
    begun: u64,
    asked_others: Option<Instant>,
}

struct Waiter {
    purses: Vec<Arc<Purse>>,
    worst: i64,
    least: i64,
    /// It wants the next exchange to ask for it; once per `asked`.
    asks: bool,
}

/// One operation on the database, kept until its answer is known.
#[derive(Clone)]
struct Exchange {
    op: Uuid,
    wishes: Vec<(Arc<Purse>, LeaseWish)>,
}

struct Begun {
    number: u64,
    /// It asks for everybody who waits.
    covers: bool,
    /// None: nothing is wished for.
    exchange: Option<Exchange>,
}

enum Tried {
    Answered(Vec<Leased>),
    /// A definite no, by the name of a constraint.
    Refused(String),
    Unknown,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Round {
    number: u64,
    pub(crate) answered: bool,
}

const IDLE: usize = 0;
const RUNNING: usize = 1;
const LOOK_AGAIN: usize = 2;

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Account {
    pub(crate) fn new(user: UserId, bank: Arc<Bank>, store: Store) -> Self {
        Self {
            user,
            bank,
            store,
            state: Mutex::default(),
            running: AtomicUsize::new(IDLE),
            rounds: watch::Sender::default(),
            freed: watch::Sender::default(),
            waiting: AtomicUsize::new(0),
            meter: Arc::default(),
        }
    }

    pub(crate) fn user(&self) -> UserId {
        self.user
    }

    /// The purse of a scope, the same one for everybody, with the cap as it is now. Under a lower cap it is another one, so
    /// that whatever was leased under the higher goes back, also what calls under way have reserved of it.
    pub(crate) fn purse(self: &Arc<Self>, scope: Scope, cap: Nanos) -> Arc<Purse> {
        let mut state = self.state();
        let known = state.purses.get(&scope).cloned();
        if let Some(purse) = &known
            && purse.cap() <= cap
        {
            if purse.cap() < cap {
                purse.raise_cap(cap);
            }
            return Arc::clone(purse);
        }
        let purse = Arc::new(Purse::new(scope.clone(), self.user, cap));
        state.purses.insert(scope, Arc::clone(&purse));
        if let Some(richer) = known {
            richer.close();
            state.closed.push(richer);
            drop(state);
            self.wake();
        }
        purse
    }

    /// What a bot has under way, or a program's key.
    pub(crate) fn meter_of(&self, bot: Option<&BotId>, key: KeyId) -> Arc<Meter> {
        let name = bot.map_or_else(|| key.to_string(), ToString::to_string);
        Arc::clone(self.state().meters.entry(name).or_default())
    }

    /// Lets the task look, which starts it if need be.
    pub(crate) fn wake(self: &Arc<Self>) {
        if self.running.swap(LOOK_AGAIN, Ordering::AcqRel) == IDLE {
            let account = Arc::clone(self);
            self.bank.runtime.spawn(async move { account.run().await });
        }
    }

    /// A call ended, or another process gave something back.
    pub(crate) fn money_came_back(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.freed.send_modify(|count| *count += 1);
        }
    }

    /// Another process lacks money of this person's.
    pub(crate) fn others_ask(self: &Arc<Self>) {
        let (purses, tick) = (self.purses(), self.tick());
        for purse in &purses {
            purse.be_modest(tick + MODEST_TICKS);
            purse.give_back_all();
        }
        if purses.iter().any(|purse| purse.free() > 0) {
            self.wake();
        }
    }

    /// Gives back what isn't used, and forgets purses of periods that are over. `false`: nothing is left here.
    pub(crate) fn sweep(self: &Arc<Self>) -> bool {
        let (tick, mut wake) = (self.tick(), false);
        let mut state = self.state();
        for purse in state.purses.values() {
            let unused = purse.unused_ticks(tick) >= IDLE_TICKS || Arc::strong_count(purse) == 1;
            if unused && purse.free() > 0 {
                purse.give_back_all();
                wake = true;
            }
        }
        if state.open.is_none() {
            state.closed.retain(|purse| Arc::strong_count(purse) > 1 || !purse.is_empty());
            state.purses.retain(|_, purse| Arc::strong_count(purse) > 1 || !purse.is_empty());
            state.meters.retain(|_, meter| Arc::strong_count(meter) > 1);
        }
        let left = !state.purses.is_empty() || !state.closed.is_empty() || state.open.is_some();
        drop(state);
        if wake {
            self.wake();
        }
        left
    }

    /// Gives everything back that no call has reserved. Returns when the database took it; the caller bounds the wait.
    pub(crate) async fn drain(self: &Arc<Self>) {
        loop {
            let joined = self.state().begun;
            self.purses().iter().for_each(|purse| purse.give_back_all());
            self.wake();
            self.round_after(joined).await;
            let state = self.state();
            let mut purses = state.purses.values().chain(&state.closed);
            if state.open.is_none() && purses.all(|purse| purse.free() == 0) {
                return;
            }
        }
    }

    /// A call that lacks money waits from here until the value is dropped.
    pub(crate) fn join(self: &Arc<Self>, purses: &[Arc<Purse>], worst: i64, least: i64) -> Waiting {
        let mut state = self.state();
        state.next_waiter += 1;
        let number = state.next_waiter;
        state.waiters.insert(number, Waiter { purses: purses.to_vec(), worst, least, asks: false });
        drop(state);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting { account: Arc::clone(self), number, freed: self.freed.subscribe() }
    }

    fn tick(&self) -> u64 {
        self.bank.tick.load(Ordering::Relaxed)
    }

    fn purses(&self) -> Vec<Arc<Purse>> {
        let state = self.state();
        state.purses.values().chain(&state.closed).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn round_after(&self, joined: u64) -> Round {
        let mut rounds = self.rounds.subscribe();
        // The sender lives in `self`.
        rounds.wait_for(|round| round.number > joined).await.map(|round| *round).unwrap_or_default()
    }

    async fn run(self: Arc<Self>) {
        let mut pause = RETRY_FIRST;
        loop {
            self.running.store(RUNNING, Ordering::Release);
            let begun = self.begin();
            let Some(exchange) = begun.exchange else {
                self.end_round(begun.number, true);
                let done = self.running.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
                if done.is_ok() {
                    return;
                }
                continue;
            };
            match self.tried(&exchange).await {
                // An earlier exchange, or one that only gives back: who waits is asked for in the next round.
                Tried::Answered(answers) => {
                    self.bank.leases.answered(&answers);
                    self.answered(&exchange, &answers);
                    if begun.covers {
                        self.end_round(begun.number, true);
                    }
                    pause = RETRY_FIRST;
                }
                Tried::Refused(constraint) => {
                    self.bank.leases.refused();
                    self.refused(&exchange, &constraint);
                    self.end_round(begun.number, false);
                }
                Tried::Unknown => {
                    self.bank.leases.unanswered();
                    self.end_round(begun.number, false);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// The exchange whose answer isn't known yet, or a new one of all that is wished for now.
    fn begin(&self) -> Begun {
        let tick = self.tick();
        let mut state = self.state();
        state.begun += 1;
        let mut covers = false;
        if state.open.is_none() {
            let mut wishes = state.returns(tick);
            covers = wishes.is_empty();
            if covers {
                wishes = state.wishes(tick);
                state.waiters.values_mut().for_each(|waiter| waiter.asks = false);
            }
            if !wishes.is_empty() {
                state.open = Some(Exchange { op: Uuid::new_v4(), wishes });
            }
        }
        Begun { number: state.begun, covers, exchange: state.open.clone() }
    }

    async fn tried(&self, exchange: &Exchange) -> Tried {
        match tokio::time::timeout(EXCHANGE_MAX, self.exchange(exchange)).await {
            Ok(Ok(answers)) => Tried::Answered(answers),
            Ok(Err(StoreError::Constraint { constraint })) => Tried::Refused(constraint),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    user.id = %self.user,
                    "no money can be leased just now; calls go on with what is leased already"
                );
                Tried::Unknown
            }
            Err(_) => {
                tracing::warn!(user.id = %self.user, "the database takes too long to lease; asking again");
                Tried::Unknown
            }
        }
    }

    async fn exchange(&self, exchange: &Exchange) -> Result<Vec<Leased>, StoreError> {
        let mut tx = self.store.system().await?;
        let wishes: Vec<LeaseWish> = exchange.wishes.iter().map(|(_, wish)| wish.clone()).collect();
        let answers = tx.lease(self.bank.holder, exchange.op, &wishes).await?;
        if wishes.iter().any(|wish| wish.want < Nanos::ZERO) {
            tx.notify(&Channel::BudgetFreed(self.user)).await?;
        }
        tx.commit().await?;
        Ok(answers)
    }

    fn answered(&self, exchange: &Exchange, answers: &[Leased]) {
        let tick = self.tick();
        for ((purse, wish), answer) in exchange.wishes.iter().zip(answers) {
            purse.answered(wish, *answer, tick);
        }
        self.state().open = None;
    }

    /// A definite no: nothing of it was done.
    fn refused(&self, exchange: &Exchange, constraint: &str) {
        let mut state = self.state();
        state.open = None;
        if constraint == "holders_released" {
            self.bank.lost.store(true, Ordering::Release);
            state.purses.values().for_each(|purse| purse.forfeit());
            tracing::error!("this proxy was declared lost and leases nothing any more; restart it");
            return;
        }
        for (purse, wish) in &exchange.wishes {
            purse.answered(wish, Leased::default(), self.tick());
        }
        tracing::warn!(user.id = %self.user, constraint, "the database refused to lease");
    }

    fn end_round(&self, number: u64, answered: bool) {
        self.rounds.send_replace(Round { number, answered });
    }
}

impl State {
    /// The newest round, which doesn't ask for this waiter yet.
    fn ask(&mut self, waiter: u64) -> u64 {
        if let Some(waiter) = self.waiters.get_mut(&waiter) {
            waiter.asks = true;
        }
        self.begun
    }

    /// What closed purses have to give back; first, so that it can be leased under the lower cap. One wish for each scope.
    fn returns(&mut self, tick: u64) -> Vec<(Arc<Purse>, LeaseWish)> {
        self.closed.retain(|purse| Arc::strong_count(purse) > 1 || !purse.is_empty());
        let mut wishes: Vec<(Arc<Purse>, LeaseWish)> = Vec::new();
        for purse in &self.closed {
            if wishes.iter().all(|(_, wish)| wish.scope != purse.scope) {
                wishes.extend(purse.wish(Demand::default(), tick).map(|wish| (Arc::clone(purse), wish)));
            }
        }
        wishes
    }

    fn wishes(&self, tick: u64) -> Vec<(Arc<Purse>, LeaseWish)> {
        let wish = |purse: &Arc<Purse>| Some((Arc::clone(purse), purse.wish(self.demand(purse), tick)?));
        self.purses.values().filter_map(wish).collect()
    }

    fn demand(&self, purse: &Arc<Purse>) -> Demand {
        let mut demand = Demand::default();
        let asks = |waiter: &&Waiter| waiter.asks && waiter.purses.iter().any(|own| Arc::ptr_eq(own, purse));
        for waiter in self.waiters.values().filter(asks) {
            demand.all = demand.all.saturating_add(waiter.worst);
            demand.one = if demand.one == 0 { waiter.least } else { demand.one.min(waiter.least) };
            demand.largest = demand.largest.max(waiter.worst);
        }
        demand
    }
}

/// One call that waits for money.
pub(crate) struct Waiting {
    account: Arc<Account>,
    number: u64,
    freed: watch::Receiver<u64>,
}

impl Waiting {
    /// Lets the task ask for what is lacking and waits for the answer, whatever it is.
    pub(crate) async fn asked(&mut self) -> Round {
        self.freed.mark_unchanged();
        let joined = self.account.state().ask(self.number);
        self.account.wake();
        self.account.round_after(joined).await
    }

    /// Asks the other processes for money that they don't need.
    pub(crate) async fn ask_others(&self) {
        let now = Instant::now();
        {
            let mut state = self.account.state();
            if state.asked_others.is_some_and(|before| now < before + ASK_OTHERS_EVERY) {
                return;
            }
            state.asked_others = Some(now);
        }
        let told = async {
            let mut tx = self.account.store.system().await?;
            tx.notify(&Channel::BudgetWanted(self.account.user)).await?;
            tx.commit().await
        };
        // Untold, nobody gives anything back, and the wait ends by itself.
        let _ = told.await;
    }

    /// Waits until money may have come back.
    pub(crate) async fn freed(&mut self) {
        // The sender lives in the account.
        let _ = self.freed.changed().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.account.state().waiters.remove(&self.number);
        self.account.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
