//! Which running cells are asked how they are, and when: evenly over the period, so that ten thousand cost a steady trickle.
//! Never: a row for a cell that is well, or an opened gateway token that is kept.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use molt_bot::{CellAddress, Client, Phase};
use molt_model::{BotId, Time};
use molt_store::fleet::{FleetBot, Restarts, gateway_token_binding};
use tokio::task::JoinSet;

use crate::act::restarts;
use crate::reconcile::Shared;

/// Running cells asked at the same time; an answer takes a millisecond, and one that doesn't come five seconds.
const ASKS_AT_ONCE: usize = 512;
/// How often the next turns are looked for.
const ASK_TICK: Duration = Duration::from_millis(100);
/// No cell is asked more often. Its death is noticed at once, by other means; this finds the hanging.
const PERIOD_MIN: TimeDelta = TimeDelta::seconds(5);
/// No cell waits longer for its turn, however many there are.
const PERIOD_MAX: TimeDelta = TimeDelta::seconds(60);
/// Between two questions, on the average, until the longest period is reached: 166 a second cost a sixtieth of a core.
const GAP: TimeDelta = TimeDelta::milliseconds(6);

/// A cell that runs as wanted: what it takes to ask it.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) address: CellAddress,
    /// As it rests in the database; opened for each question, for as long as the question takes.
    pub(crate) sealed_token: Vec<u8>,
    /// What was noted of its runtime's starts: one more means that it ended and is back already.
    pub(crate) noted: Restarts,
}

/// The running cells, in the order of their turns.
#[derive(Default)]
pub(crate) struct Rota {
    cells: HashMap<BotId, (Time, Running)>,
    turns: BTreeSet<(Time, BotId)>,
}

impl Rota {
    /// Takes a cell in. Its first turn is anywhere within the period: many may come in at once.
    pub(crate) fn insert(&mut self, bot: &BotId, running: Running, now: Time) {
        self.remove(bot);
        let at = now + share(self.period(), 0, 100);
        self.turns.insert((at, bot.clone()));
        self.cells.insert(bot.clone(), (at, running));
    }

    pub(crate) fn remove(&mut self, bot: &BotId) {
        if let Some((at, _)) = self.cells.remove(bot) {
            self.turns.remove(&(at, bot.clone()));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.cells.clear();
        self.turns.clear();
    }

    /// The cells whose turn it is, at most `limit`; the next turn of each is about a period away.
    pub(crate) fn take_due(&mut self, now: Time, limit: usize) -> Vec<(BotId, Running)> {
        let mut due = Vec::new();
        while due.len() < limit
            && let Some((at, _)) = self.turns.first()
            && *at <= now
            && let Some((_, bot)) = self.turns.pop_first()
        {
            let next = now + share(self.period(), 90, 110);
            if let Some((at, running)) = self.cells.get_mut(&bot) {
                *at = next;
                due.push((bot.clone(), running.clone()));
                self.turns.insert((next, bot));
            }
        }
        due
    }

    fn period(&self) -> TimeDelta {
        let cells = i32::try_from(self.cells.len()).unwrap_or(i32::MAX);
        GAP.checked_mul(cells).unwrap_or(PERIOD_MAX).clamp(PERIOD_MIN, PERIOD_MAX)
    }
}

/// Questions to running cells that are under way; a cell that hangs delays nobody else.
#[derive(Default)]
pub(crate) struct Asks {
    tasks: Mutex<JoinSet<()>>,
    /// Since the last round.
    asked: AtomicUsize,
}

impl Asks {
    /// Asks the running cells whose turn it is. Only one that isn't well costs a row.
    pub(crate) fn ask(&self, shared: &Arc<Shared>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let free = ASKS_AT_ONCE.saturating_sub(tasks.len());
        let due = shared.running().take_due(shared.clock.now(), free);
        self.asked.fetch_add(due.len(), Ordering::SeqCst);
        for (bot, running) in due {
            tasks.spawn(shared.clone().ask(bot, running));
        }
    }

    /// How many were asked since this was called last.
    pub(crate) fn take_count(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn abort(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

pub(crate) async fn ask_in_turn(shared: Arc<Shared>, asks: Arc<Asks>) {
    loop {
        tokio::time::sleep(ASK_TICK).await;
        asks.ask(&shared);
    }
}

impl Shared {
    pub(crate) fn running(&self) -> MutexGuard<'_, Rota> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This bot's cell runs as wanted: from now on it is asked how it is, without touching a row.
    pub(crate) fn watch_health(&self, bot: &FleetBot, address: &CellAddress, noted: Restarts) {
        if let Some(sealed_token) = bot.gateway_token.clone() {
            let running = Running { address: address.clone(), sealed_token, noted };
            self.running().insert(&bot.id, running, self.clock.now());
        }
    }

    pub(crate) fn forget_health(&self, bot: &BotId) {
        self.running().remove(bot);
    }

    async fn ask(self: Arc<Self>, bot: BotId, running: Running) {
        // A token that is sealed anew meanwhile can't be opened: the next look at the bot takes it in again.
        let token = self.store.seal().open(&gateway_token_binding(&bot), &running.sealed_token);
        let well = match token {
            Ok(token) => {
                let health = Client::new(running.address, token).health().await;
                health.is_ok_and(|health| health.phase == Phase::Ready && restarts(&health) == running.noted)
            }
            Err(_) => false,
        };
        if !well {
            self.forget_health(&bot);
            self.ails(bot);
        }
    }
}

/// Anywhere between so many per cent of the period.
fn share(period: TimeDelta, from: i32, to: i32) -> TimeDelta {
    let mut byte = [0u8];
    // Without randomness the turns are still right, only closer together.
    let _ = getrandom::fill(&mut byte);
    period * from / 100 + period * (to - from) / 100 * i32::from(byte[0]) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Running {
        Running {
            address: CellAddress::Tcp("127.0.0.1:9".to_owned()),
            sealed_token: Vec::new(),
            noted: Restarts { boot: uuid::Uuid::nil(), count: 0 },
        }
    }

    #[test]
    fn every_cell_has_its_turn_once_a_period_and_all_are_spread_over_it() {
        let (mut rota, start) = (Rota::default(), Time::default());
        for _ in 0..10_000 {
            rota.insert(&BotId::random(), running(), start);
        }
        let mut asked = HashMap::<BotId, u32>::new();
        let mut most = 0;
        for tick in 0..=1_200 {
            let due = rota.take_due(start + TimeDelta::milliseconds(100) * tick, 10_000);
            most = most.max(due.len());
            due.into_iter().for_each(|(bot, _)| *asked.entry(bot).or_default() += 1);
        }
        assert_eq!(asked.len(), 10_000);
        assert!(asked.values().all(|times| (1..=3).contains(times)), "within two minutes");
        assert!(most < 200, "{most} at once, of 17 on the average");
    }

    #[test]
    fn few_cells_are_asked_more_often_and_the_forgotten_not_at_all() {
        let (mut rota, start, bot) = (Rota::default(), Time::default(), BotId::random());
        rota.insert(&bot, running(), start);
        assert_eq!(rota.take_due(start + PERIOD_MIN, 9).len(), 1);
        assert_eq!(rota.take_due(start + PERIOD_MIN, 9).len(), 0);
        assert_eq!(rota.take_due(start + PERIOD_MIN * 3, 9).len(), 1);
        rota.insert(&bot, running(), start);
        rota.insert(&bot, running(), start);
        assert_eq!(rota.take_due(start + PERIOD_MAX, 9).len(), 1, "in the list once");
        rota.remove(&bot);
        assert_eq!(rota.take_due(start + PERIOD_MAX * 3, 9).len(), 0);
        rota.insert(&bot, running(), start);
        rota.clear();
        assert_eq!(rota.take_due(start + PERIOD_MAX * 3, 9).len(), 0);
    }
}
