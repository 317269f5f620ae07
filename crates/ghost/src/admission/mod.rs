//! Whether a call may go out: the key, the plan, the limits and the money, all decided in memory.
//! Never: a call without its worst case set aside, a revoked key that opens anything a second later while the database
//! answers, or a wait without a bound.

pub(crate) mod account;
pub(crate) mod limits;
pub(crate) mod notice;
pub(crate) mod purse;
mod table;
pub(crate) mod tally;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::StatusCode;
use molt_model::{BotId, Clock, HolderId, KeyId, Nanos, Time, UserId};
use molt_store::budget::{Scope, ScopeKind};
use molt_store::{Channel, Store, ghost};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::answer::Refusal;
use crate::watch::NextLook;
use account::{Account, Bank};
use limits::{Limits, Meter, Place};
use notice::{Capped, Notice, Reason};
use purse::{Purse, Reservation, free_of_all, take_all};
use table::{Known, Loaded, Loading, Table, TooManyStrangers};
use tally::LeaseTally;

/// Keys are looked up so many at a time; the rest of the connections are for the books.
const LOADS_AT_ONCE_MAX: usize = 4;
/// For a key that was never seen.
const FIRST_LOAD_MAX: Duration = Duration::from_secs(5);
/// For a key that is known and whose entry is old: then the old one serves.
const RELOAD_MAX: Duration = Duration::from_secs(1);
/// For the database's answer when more money is needed than is leased.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// For money that other calls or other processes may give back.
const SHORTAGE_MAX: Duration = Duration::from_millis(500);
/// The net below all wake-ups, and the unit in which idle things are counted.
const TICK: Duration = Duration::from_secs(5);
/// Far from zero, which means "never".
const FIRST_TICK: u64 = 1_000;
/// When the database is away. It is back within seconds or an operator is looking.
const DATABASE_RETRY_SECONDS: u64 = 5;
const STRANGERS_RETRY_SECONDS: u64 = 1;

/// The one place that decides. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    bank: Arc<Bank>,
    table: Table,
    accounts: Mutex<HashMap<UserId, Arc<Account>>>,
    loads: Semaphore,
    installation_cap: Nanos,
    limits: Limits,
    started: Instant,
}

/// What a key opens. A snapshot: a change makes another one.
#[derive(Debug)]
pub(crate) struct KeyEntry {
    pub(crate) key: KeyId,
    pub(crate) user: UserId,
    /// What the books call this person after they are erased.
    pub(crate) book_key: Uuid,
    pub(crate) bot: Option<BotId>,
    pub(crate) plan_in_force: bool,
    /// Why it is paused.
    pub(crate) paused: Option<String>,
    /// An operator suspended its bot.
    pub(crate) suspended: bool,
    /// Its calls go out at a walking pace.
    pub(crate) slowed: bool,
    /// When its bot's owner last said that all is well.
    pub(crate) resumed_at: Option<Time>,
    pub(crate) period_start: Time,
    pub(crate) period_end: Time,
    /// The person's, the bot's if there is one, the key's.
    pub(crate) purses: Vec<Arc<Purse>>,
    pub(crate) account: Arc<Account>,
    known_as: Known,
    meter: Arc<Meter>,
    pub(crate) next_look: NextLook,
    /// A change was announced since it was read.
    stale: AtomicBool,
    /// Ticks.
    read_at: u64,
    used: AtomicU64,
}

/// Why a call may not go out.
#[derive(Debug)]
pub(crate) enum Declined {
    /// Said to the person as an ordinary answer.
    Notice(Notice),
    /// Said to the program.
    Refusal(Refusal),
}

impl KeyEntry {
    /// Why no call may go out at all, whatever it costs.
    pub(crate) fn closed(&self) -> Option<Notice> {
        if self.suspended {
            return Some(self.notice(Reason::Suspended));
        }
        if let Some(why) = &self.paused {
            return Some(self.notice(Reason::Paused(why.clone())));
        }
        (!self.plan_in_force).then(|| self.notice(Reason::PlanNotInForce))
    }

    /// The time at which a call counts: within the period whose money it spends, also when that ended a moment ago.
    pub(crate) fn at(&self, now: Time) -> Time {
        let last = self.period_end - chrono::TimeDelta::microseconds(1);
        now.clamp(self.period_start, last.max(self.period_start))
    }

    fn notice(&self, reason: Reason) -> Notice {
        Notice { reason, bot: self.bot.clone(), period_end: self.period_end }
    }

    /// Which cap stands in the way of an amount: the widest that does.
    fn capped(&self, amount: i64) -> Notice {
        let short = self.purses.iter().find(|purse| purse.free() < amount).or(self.purses.first());
        let Some(purse) = short else { return self.notice(Reason::PlanNotInForce) };
        let whose = match purse.scope.kind {
            ScopeKind::User => Capped::User,
            ScopeKind::Bot => Capped::Bot,
            ScopeKind::Key => Capped::Key,
        };
        let cap = purse.cap();
        self.notice(if purse.is_used_up() {
            Reason::CapReached { whose, cap }
        } else {
            Reason::TooLittleLeft { whose, cap }
        })
    }
}

impl Admission {
    /// Needs a tokio runtime, on which all look-ups and leases run from now on.
    pub(crate) fn start(
        store: Store,
        clock: Arc<dyn Clock>,
        holder: HolderId,
        installation_cap: Nanos,
        limits: Limits,
    ) -> Self {
        let runtime = Handle::current();
        let wakeups = store.wakeups().subscribe();
        let (tick, lost) = (AtomicU64::new(FIRST_TICK), AtomicBool::new(false));
        let bank = Bank { holder, tick, lost, runtime: runtime.clone(), leases: Arc::default() };
        let inner = Arc::new(Inner {
            store,
            clock,
            bank: Arc::new(bank),
            table: Table::default(),
            accounts: Mutex::default(),
            loads: Semaphore::new(LOADS_AT_ONCE_MAX),
            installation_cap,
            limits,
            started: Instant::now(),
        });
        runtime.spawn(follow(Arc::downgrade(&inner), wakeups));
        Self(inner)
    }

    /// What was leased so far.
    pub(crate) fn leases(&self) -> Arc<LeaseTally> {
        Arc::clone(&self.0.bank.leases)
    }

    /// What the key opens.
    pub(crate) async fn entry(&self, key: &[u8]) -> Result<Arc<KeyEntry>, Refusal> {
        if !ghost::looks_like_a_key(key) {
            return Err(unknown_key());
        }
        self.entry_of(Known::Key(Sha256::digest(key).into())).await
    }

    /// What the key in force of the bot behind a gate opens.
    pub(crate) async fn entry_of_bot(&self, bot: &BotId) -> Result<Arc<KeyEntry>, Refusal> {
        self.entry_of(Known::Bot(bot.clone())).await
    }

    /// In the steady state no more than a look into a table.
    async fn entry_of(&self, caller: Known) -> Result<Arc<KeyEntry>, Refusal> {
        let known = self.0.table.get(&caller);
        if let Some(entry) = &known {
            entry.used.store(self.0.bank.tick.load(Ordering::Relaxed), Ordering::Relaxed);
            if entry.is_current(self.0.clock.now()) {
                return Ok(Arc::clone(entry));
            }
        }
        self.look_up(caller, known).await
    }

    /// A place among the calls under way, or when to come back. `tokens`: what the call will likely use.
    pub(crate) fn place(&self, entry: &KeyEntry, tokens: i64) -> Result<Place, Refusal> {
        let limits = if entry.slowed { self.0.limits.slowed() } else { self.0.limits };
        Place::take(&entry.meter, &entry.account.meter, limits, self.since_start(), tokens)
    }

    /// What the call of this place really used; once, when it is settled.
    pub(crate) fn correct(&self, place: &mut Place, used: i64) {
        place.correct(self.since_start(), used);
    }

    /// Sets the worst case aside in every purse that the call is paid from: all of it, or as much as there is but not less
    /// than `least`. The reservation's own entry is the one that counts: a cap lowered meanwhile makes another.
    pub(crate) async fn reserve(
        &self,
        entry: &Arc<KeyEntry>,
        worst: Nanos,
        least: Nanos,
    ) -> Result<Reservation, Declined> {
        let worst = worst.0.max(0);
        let least = least.0.clamp(0, worst);
        if let Some(reservation) = self.reserve_at_once(entry, worst)? {
            return Ok(reservation);
        }
        if !entry.purses.iter().any(|purse| purse.is_closed()) {
            return reserve_short(entry, worst, least).await;
        }
        let known = Some(Arc::clone(entry));
        let entry = &self.look_up(entry.known_as.clone(), known).await.map_err(Declined::Refusal)?;
        match self.reserve_at_once(entry, worst)? {
            Some(reservation) => Ok(reservation),
            None => reserve_short(entry, worst, least).await,
        }
    }

    fn reserve_at_once(&self, entry: &Arc<KeyEntry>, worst: i64) -> Result<Option<Reservation>, Declined> {
        if let Some(notice) = entry.closed() {
            return Err(Declined::Notice(notice));
        }
        if self.0.bank.lost.load(Ordering::Acquire) {
            return Err(Declined::Refusal(not_available()));
        }
        let tick = self.0.bank.tick.load(Ordering::Relaxed);
        let taken = take_all(&entry.purses, worst);
        let mut low = false;
        for purse in &entry.purses {
            low |= purse.touch(tick) && worst > 0;
        }
        if taken && low {
            entry.account.wake();
        }
        Ok(taken.then(|| Reservation::new(Arc::clone(entry), worst)))
    }

    /// Gives back what is leased and not reserved. After the last call; the caller bounds the wait.
    pub(crate) async fn drain(&self) {
        let accounts: Vec<_> = self.0.accounts().values().cloned().collect();
        for account in accounts {
            account.drain().await;
        }
    }

    async fn look_up(&self, caller: Known, known: Option<Arc<KeyEntry>>) -> Result<Arc<KeyEntry>, Refusal> {
        let Some(known) = known else { return self.first_look_up(caller).await };
        let was_away = self.0.table.away.load(Ordering::Acquire);
        let loading = self.0.load(caller, false);
        if was_away {
            return Ok(known);
        }
        match outcome(loading, RELOAD_MAX).await {
            Loaded::Entry(entry) => Ok(entry),
            Loaded::Unknown => Err(unknown_key()),
            Loaded::Away => Ok(known),
        }
    }

    async fn first_look_up(&self, caller: Known) -> Result<Arc<KeyEntry>, Refusal> {
        match self.0.table.may_look_up(&caller, Instant::now()) {
            Ok(true) => {}
            Ok(false) => return Err(unknown_key()),
            Err(TooManyStrangers) => {
                return Err(Refusal::later("busy", "Busy; please try again in a moment.", STRANGERS_RETRY_SECONDS));
            }
        }
        match outcome(self.0.load(caller, true), FIRST_LOAD_MAX).await {
            Loaded::Entry(entry) => Ok(entry),
            Loaded::Unknown => Err(unknown_key()),
            Loaded::Away => Err(not_available()),
        }
    }

    fn since_start(&self) -> Duration {
        self.0.started.elapsed()
    }
}

/// More is needed than this process has leased.
async fn reserve_short(entry: &Arc<KeyEntry>, worst: i64, least: i64) -> Result<Reservation, Declined> {
    let mut waiting = entry.account.join(&entry.purses, worst, least);
    let give_up = Instant::now() + SHORTAGE_MAX;
    let reserved = |amount| Ok(Reservation::new(Arc::clone(entry), amount));
    loop {
        let round = tokio::time::timeout(ANSWER_MAX, waiting.asked()).await.unwrap_or_default();
        if take_all(&entry.purses, worst) {
            return reserved(worst);
        }
        let time_left = Instant::now() < give_up;
        let all = |enough: &dyn Fn(&Purse) -> i64, amount: i64| entry.purses.iter().all(|p| enough(p) >= amount);
        let here = |purse: &Purse| purse.free() + purse.left();
        let anywhere = |purse: &Purse| here(purse) + purse.others();
        let soon = |purse: &Purse| anywhere(purse) + purse.reserved();
        let wait_for_all = round.answered && time_left && all(&anywhere, worst);
        let part = free_of_all(&entry.purses).min(worst);
        if !wait_for_all && part >= least && take_all(&entry.purses, part) {
            return reserved(part);
        }
        if !round.answered {
            return Err(Declined::Refusal(not_available()));
        }
        if !time_left || !(wait_for_all || all(&soon, least)) {
            return Err(Declined::Notice(entry.capped(least.max(1))));
        }
        if all(&here, if wait_for_all { worst } else { least }) {
            continue; // Another call was faster; the database has more.
        }
        if entry.purses.iter().any(|purse| purse.others() > 0) {
            waiting.ask_others().await;
        }
        let _ = tokio::time::timeout_at(give_up, waiting.freed()).await;
    }
}

impl Inner {
    /// Looks a key up, on a task of its own: a caller that hangs up takes nobody's answer along.
    fn load(self: &Arc<Self>, caller: Known, is_first: bool) -> Loading {
        self.table.join(caller.clone(), |sender| {
            let inner = Arc::clone(self);
            self.bank.runtime.spawn(async move { inner.load_now(caller, is_first, sender).await });
        })
    }

    async fn load_now(self: Arc<Self>, caller: Known, is_first: bool, sender: watch::Sender<Option<Loaded>>) {
        let permit = self.loads.acquire().await;
        let changes = self.table.changes();
        let loaded = self.read(&caller).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a key can't be looked up just now");
            Loaded::Away
        });
        drop(permit);
        self.table.put(caller.clone(), &loaded, changes);
        if is_first {
            self.table.looked_up(caller.clone(), &loaded, Instant::now());
        }
        self.table.ended(&caller);
        sender.send_replace(Some(loaded));
    }

    async fn read(&self, caller: &Known) -> Result<Loaded, molt_store::StoreError> {
        let mut tx = self.store.system().await?;
        let row = match caller {
            Known::Key(hash) => tx.admission(hash, self.clock.now()).await?,
            Known::Bot(bot) => tx.admission_of_bot(bot, self.clock.now()).await?,
        };
        tx.commit().await?;
        Ok(match row {
            Some(row) if !row.revoked => Loaded::Entry(Arc::new(self.entry(caller.clone(), row))),
            _ => Loaded::Unknown,
        })
    }

    fn entry(&self, known_as: Known, row: ghost::Admission) -> KeyEntry {
        let account = self.account(row.user);
        let tick = self.bank.tick.load(Ordering::Relaxed);
        let user_cap = row.user_cap.map_or(self.installation_cap, |cap| cap.min(self.installation_cap));
        let purse = |kind, id: String, cap: Option<Nanos>| {
            let scope = Scope { kind, id, period_start: row.period_start };
            account.purse(scope, cap.map_or(user_cap, |cap| cap.min(user_cap)))
        };
        let mut purses = vec![purse(ScopeKind::User, row.user.to_string(), None)];
        if let Some(bot) = &row.bot {
            purses.push(purse(ScopeKind::Bot, bot.to_string(), row.bot_cap));
        }
        purses.push(purse(ScopeKind::Key, row.key.to_string(), row.key_cap));
        KeyEntry {
            known_as,
            meter: account.meter_of(row.bot.as_ref(), row.key),
            key: row.key,
            user: row.user,
            book_key: row.book_key,
            bot: row.bot,
            plan_in_force: row.plan_in_force,
            suspended: row.suspended,
            paused: row.paused,
            slowed: row.slowed,
            resumed_at: row.resumed_at,
            period_start: row.period_start,
            period_end: row.period_end,
            purses,
            account,
            next_look: NextLook::default(),
            stale: AtomicBool::new(false),
            read_at: tick,
            used: AtomicU64::new(tick),
        }
    }

    fn account(&self, user: UserId) -> Arc<Account> {
        let made = || Arc::new(Account::new(user, Arc::clone(&self.bank), self.store.clone()));
        Arc::clone(self.accounts().entry(user).or_insert_with(made))
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<UserId, Arc<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn woken(&self, channel: &Channel) {
        match channel {
            Channel::Admission(user) => self.table.invalidate(Some(*user)),
            Channel::BudgetWanted(user) | Channel::BudgetFreed(user) => {
                let account = self.accounts().get(user).cloned();
                match (account, channel) {
                    (Some(account), Channel::BudgetWanted(_)) => account.others_ask(),
                    (Some(account), _) => account.money_came_back(),
                    (None, _) => {}
                }
            }
            Channel::All => {
                self.table.away.store(false, Ordering::Release);
                self.table.invalidate(None);
            }
            _ => {}
        }
    }

    fn tick(self: &Arc<Self>) {
        let tick = self.bank.tick.fetch_add(1, Ordering::AcqRel) + 1;
        for caller in self.table.sweep(tick) {
            self.load(caller, false);
        }
        let accounts: Vec<_> = self.accounts().values().cloned().collect();
        let empty: Vec<UserId> =
            accounts.iter().filter(|account| !account.sweep()).map(|account| account.user()).collect();
        drop(accounts);
        let mut accounts = self.accounts();
        for user in empty {
            if accounts.get(&user).is_some_and(|account| Arc::strong_count(account) == 1) {
                accounts.remove(&user);
            }
        }
    }
}

/// Follows what the database announces, and looks after everything by a period as well.
async fn follow(inner: Weak<Inner>, mut wakeups: Receiver<Channel>) {
    let mut period = tokio::time::interval(TICK);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let woken = tokio::select! {
            woken = wakeups.recv() => Some(woken),
            _ = period.tick() => None,
        };
        let Some(inner) = inner.upgrade() else { return };
        match woken {
            None => inner.tick(),
            Some(Ok(channel)) => inner.woken(&channel),
            Some(Err(RecvError::Lagged(_))) => inner.woken(&Channel::All),
            Some(Err(RecvError::Closed)) => return,
        }
    }
}

async fn outcome(mut loading: Loading, within: Duration) -> Loaded {
    let loaded = tokio::time::timeout(within, loading.wait_for(Option::is_some)).await;
    loaded.ok().and_then(Result::ok).and_then(|loaded| loaded.clone()).unwrap_or(Loaded::Away)
}

fn unknown_key() -> Refusal {
    let message = "This Ghost Key is unknown or was revoked. Use the bot's current key.";
    Refusal::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
}

fn not_available() -> Refusal {
    Refusal::later("not_available", "Not available just now; please try again.", DATABASE_RETRY_SECONDS)
}

#[cfg(test)]
mod tests;
