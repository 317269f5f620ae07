//! The money of one cap in one period that this process has leased: taken and put back by calls without a lock.
//! Never: more in use than was leased, or a reservation out of one purse and not out of the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use molt_model::{Nanos, UserId};
use molt_store::budget::{LeaseWish, Leased, Scope};

use super::KeyEntry;

/// A slice is a sixteenth of the cap: three proxies hold little of it between them, and ten minutes without a database are
/// bridged by whoever spends a cap in a month.
const SLICE_PART: i64 = 16;
/// Smaller slices would be leased again every few calls: a cent.
const SLICE_MIN: i64 = 10_000_000;
/// What one idle process may keep from the others: five dollars.
const SLICE_MAX: i64 = 5_000_000_000;
/// Slices grow up to this part of the cap while they are used up quickly.
const SLICE_GROWN_PART: i64 = 4;
/// A slice that is used up within so many ticks is used up quickly.
const GROWS_WITHIN_TICKS: u64 = 12;

/// One cap in one period, as far as this process may spend it.
#[derive(Debug)]
pub(crate) struct Purse {
    pub(crate) scope: Scope,
    user: UserId,
    /// Leased, and neither reserved nor charged.
    free: AtomicI64,
    /// Set aside for calls under way.
    reserved: AtomicI64,
    cap: AtomicI64,
    slice: AtomicI64,
    /// The answer to the newest wish: left of the cap for anybody, and on lease to others.
    left: AtomicI64,
    others: AtomicI64,
    /// Ticks: when it was last used, when it was last filled, and before when it isn't filled ahead of need.
    used: AtomicU64,
    filled: AtomicU64,
    fill_from: AtomicU64,
    /// All that is free goes back with the next exchange.
    gives_back: AtomicBool,
    /// Its cap was lowered and another purse took its place: what comes back goes back.
    closed: AtomicBool,
    /// A call saw that it is low: it is filled with the next exchange.
    fills: AtomicBool,
}

/// What waiting calls lack of one purse.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    /// All worst cases together.
    pub(crate) all: i64,
    /// The smallest amount that lets one of them go.
    pub(crate) one: i64,
    /// The largest worst case.
    pub(crate) largest: i64,
}

impl Purse {
    pub(crate) fn new(scope: Scope, user: UserId, cap: Nanos) -> Self {
        let zero = || AtomicI64::new(0);
        let purse = Self {
            scope,
            user,
            free: zero(),
            reserved: zero(),
            cap: AtomicI64::new(cap.0),
            slice: zero(),
            left: zero(),
            others: zero(),
            used: AtomicU64::new(0),
            filled: AtomicU64::new(0),
            fill_from: AtomicU64::new(0),
            gives_back: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            fills: AtomicBool::new(false),
        };
        purse.slice.store(purse.first_slice(), Ordering::Release);
        purse
    }

    pub(crate) fn cap(&self) -> Nanos {
        Nanos(self.cap.load(Ordering::Acquire))
    }

    pub(crate) fn free(&self) -> i64 {
        self.free.load(Ordering::Acquire)
    }

    pub(crate) fn reserved(&self) -> i64 {
        self.reserved.load(Ordering::Acquire)
    }

    pub(crate) fn others(&self) -> i64 {
        self.others.load(Ordering::Acquire)
    }

    /// What the newest answer left of the cap for anybody.
    pub(crate) fn left(&self) -> i64 {
        self.left.load(Ordering::Acquire)
    }

    /// Nothing of the cap is left anywhere, not even with calls under way.
    pub(crate) fn is_used_up(&self) -> bool {
        self.free() + self.reserved() + self.left() + self.others() <= 0
    }

    /// The cap was raised: what stood in the way may be gone.
    pub(crate) fn raise_cap(&self, cap: Nanos) {
        self.cap.store(cap.0, Ordering::Release);
        self.slice.store(self.first_slice(), Ordering::Release);
        self.fill_from.store(0, Ordering::Release);
    }

    /// Nothing is taken out any more; all of it goes back.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.give_back_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn first_slice(&self) -> i64 {
        (self.cap().0 / SLICE_PART).clamp(SLICE_MIN, SLICE_MAX)
    }

    fn take(&self, amount: i64) -> bool {
        let less = |free: i64| (free >= amount && !self.is_closed()).then(|| free - amount);
        self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }

    fn take_up_to(&self, amount: i64) -> i64 {
        let less = |free: i64| (!self.is_closed()).then(|| free - amount.clamp(0, free.max(0)));
        let before = self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).unwrap_or(0);
        amount.clamp(0, before.max(0))
    }

    fn put(&self, amount: i64) {
        self.free.fetch_add(amount, Ordering::AcqRel);
    }

    /// A call uses it. Whether it should be filled before somebody has to wait for it.
    pub(crate) fn touch(&self, tick: u64) -> bool {
        self.used.store(tick, Ordering::Relaxed);
        let low = self.free() < self.slice.load(Ordering::Relaxed) / 2;
        let fills = low && self.fill_from.load(Ordering::Relaxed) <= tick;
        if fills {
            self.fills.store(true, Ordering::Relaxed);
        }
        fills
    }

    pub(crate) fn unused_ticks(&self, tick: u64) -> u64 {
        tick.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    pub(crate) fn give_back_all(&self) {
        self.gives_back.store(true, Ordering::Release);
    }

    /// Others lack money: for a while only what calls wait for is leased.
    pub(crate) fn be_modest(&self, until_tick: u64) {
        self.fill_from.store(until_tick, Ordering::Release);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free() == 0 && self.reserved() == 0
    }

    /// No lease stands behind it any more.
    pub(crate) fn forfeit(&self) {
        self.free.store(0, Ordering::Release);
    }

    /// What to ask of the database now. What is given back is out of the purse from here on, whatever becomes of the wish.
    pub(crate) fn wish(&self, demand: Demand, tick: u64) -> Option<LeaseWish> {
        let wish = |need: i64, want: i64| {
            Some(LeaseWish {
                scope: self.scope.clone(),
                user: self.user,
                cap: self.cap(),
                need: Nanos(need),
                want: Nanos(want),
            })
        };
        let fills = self.fills.swap(false, Ordering::AcqRel);
        if self.gives_back.swap(false, Ordering::AcqRel) {
            let back = self.free.swap(0, Ordering::AcqRel);
            if back > 0 {
                return wish(0, -back);
            }
        }
        let free = self.free();
        if demand.largest > 0 {
            self.slice.fetch_max(demand.largest.saturating_mul(2), Ordering::AcqRel);
        }
        let ahead = self.fill_from.load(Ordering::Acquire) <= tick;
        let slice = if ahead { self.slice.load(Ordering::Acquire) } else { 0 };
        if demand.all > free {
            wish((demand.one - free).max(1), demand.all.max(slice) - free)
        } else if fills && slice > free {
            wish(1, slice - free)
        } else {
            None
        }
    }

    pub(crate) fn answered(&self, wish: &LeaseWish, answer: Leased, tick: u64) {
        self.left.store(answer.free.0, Ordering::Release);
        self.others.store(answer.others.0, Ordering::Release);
        if wish.want.0 < 0 {
            return;
        }
        self.put(answer.granted.0.max(0));
        if self.is_closed() {
            return self.give_back_all();
        }
        if answer.granted < wish.want {
            self.be_modest(tick + 1);
            return;
        }
        let quickly = tick.saturating_sub(self.filled.swap(tick, Ordering::AcqRel)) < GROWS_WITHIN_TICKS;
        let most = (self.cap().0 / SLICE_GROWN_PART).max(self.first_slice());
        let slice = self.slice.load(Ordering::Acquire);
        if quickly && slice < most {
            self.slice.store(slice.saturating_mul(2).min(most), Ordering::Release);
        } else if !quickly {
            self.slice.store(self.first_slice(), Ordering::Release);
        }
    }
}

/// Takes the amount out of all purses or out of none.
pub(crate) fn take_all(purses: &[Arc<Purse>], amount: i64) -> bool {
    for (at, purse) in purses.iter().enumerate() {
        if !purse.take(amount) {
            purses[..at].iter().for_each(|taken| taken.put(amount));
            return false;
        }
    }
    purses.iter().for_each(|purse| {
        purse.reserved.fetch_add(amount, Ordering::AcqRel);
    });
    true
}

/// What could be taken out of all purses.
pub(crate) fn free_of_all(purses: &[Arc<Purse>]) -> i64 {
    purses.iter().map(|purse| purse.free()).min().unwrap_or(0).max(0)
}

/// What became of a call's cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    /// Counts against the caps.
    pub(crate) charged: Nanos,
    /// Above the reservation and above all that the purses still had: the operator's.
    pub(crate) operator: Nanos,
}

/// The worst case of one call, set aside in all of its purses. Dropped without a settlement, all of it goes back.
#[derive(Debug)]
pub(crate) struct Reservation {
    entry: Arc<KeyEntry>,
    amount: i64,
}

impl Reservation {
    /// The amount must be out of the entry's purses already.
    pub(super) fn new(entry: Arc<KeyEntry>, amount: i64) -> Self {
        Self { entry, amount }
    }

    pub(crate) fn amount(&self) -> Nanos {
        Nanos(self.amount)
    }

    /// What the call is paid from.
    pub(crate) fn entry(&self) -> &Arc<KeyEntry> {
        &self.entry
    }

    /// The call cost so much. What was set aside beyond it is free again.
    pub(crate) fn settle(mut self, cost: Nanos) -> Charge {
        let reserved = std::mem::take(&mut self.amount);
        let cost = cost.0.max(0);
        let extra = self.take_extra((cost - reserved).max(0));
        self.free(reserved, (reserved - cost).max(0));
        let charged = cost.min(reserved) + extra;
        Charge { charged: Nanos(charged), operator: Nanos(cost - charged) }
    }

    /// As much as all purses still have.
    fn take_extra(&self, wanted: i64) -> i64 {
        let purses = &self.entry.purses;
        let mut taken = wanted;
        for (at, purse) in purses.iter().enumerate() {
            let had = purse.take_up_to(taken);
            purses[..at].iter().for_each(|before| before.put(taken - had));
            taken = had;
            if taken == 0 {
                break;
            }
        }
        taken
    }

    fn free(&self, reserved: i64, back: i64) {
        for purse in &self.entry.purses {
            if back > 0 {
                purse.put(back);
            }
            purse.reserved.fetch_sub(reserved, Ordering::AcqRel);
            if purse.is_closed() {
                purse.give_back_all();
                self.entry.account.wake();
            }
        }
        self.entry.account.money_came_back();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let reserved = std::mem::take(&mut self.amount);
        if reserved > 0 {
            self.free(reserved, reserved);
        }
    }
}
