//! Chat between people and their bots: browsers on one side, cells on the other, rows in between.
//! Never: a message or a finished frame that is only in memory. A relay may die between any two lines; the rows and the
//! cell's journal know where to go on.

mod frames;
mod hub;
mod link;
mod open;
mod parked;
pub(crate) mod person;
mod relay;
pub(crate) mod socket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use molt_model::{BotId, Clock, Intent, Time, UserId};
use molt_store::sessions::LogIn;
use molt_store::{Channel, Result, Store};
use tokio::sync::{broadcast, mpsc, watch};

use hub::{Hub, Look, Place};
use relay::Relay;

use crate::lines::{Kind, Line, Lines};
use crate::problem::Problem;

/// The net under lost wake-ups, and how often used tickets are swept.
const LOOK_PERIOD: Duration = Duration::from_secs(15);
/// Bots that get a relay in one look; the next look takes the others.
const BOTS_MAX: i64 = 1000;

/// The relays of this process, one for each bot that needs one. Cheap to clone.
#[derive(Clone)]
pub struct Relays(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    hubs: Mutex<HashMap<BotId, Arc<Hub>>>,
    lines: Lines,
    started: AtomicBool,
    closing: watch::Sender<bool>,
}

impl Relays {
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        let hubs = Mutex::new(HashMap::new());
        let closing = watch::Sender::new(false);
        let (lines, started) = (Lines::default(), AtomicBool::new(false));
        Self(Arc::new(Inner { store, clock, hubs, lines, started, closing }))
    }

    /// Looks for messages that wait for their bot, now and whenever one is written, and makes sure that a relay takes
    /// them: what was accepted before a crash is delivered without any browser. Looks for ended log-ins too. The first
    /// call starts it.
    pub fn start(&self) {
        if !self.0.started.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.0.lines.clone().watch(self.0.store.clone(), self.closing()));
            tokio::spawn(self.clone().supervise());
        }
    }

    /// Ends all relays and live streams of this process; nothing is lost by it.
    pub fn close(&self) {
        self.0.closing.send_replace(true);
    }

    /// Resolves when the program closes.
    pub(crate) fn closing(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut closing = self.0.closing.subscribe();
        async move {
            // The sender can't be gone before the program is.
            let _ = closing.wait_for(|closing| *closing).await;
        }
    }

    /// Opens a line of this process for a person, if they may have one more and are still logged in.
    pub(crate) async fn begin_line(&self, kind: Kind, log_in: LogIn) -> Result<Line, Problem> {
        self.start();
        self.0.lines.begin(&self.0.store, kind, log_in).await
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn now(&self) -> Time {
        self.0.clock.now()
    }

    /// The bot's hub and a place in its stream; `None`: the bot is gone.
    pub(crate) async fn attach(&self, bot: &BotId) -> Result<Option<(Arc<Hub>, Place)>> {
        self.start();
        if let Some(hub) = self.hubs().get(bot).cloned() {
            // Under the lock, so that the relay can't retire in between.
            let place = hub.place();
            return Ok(Some((hub, place)));
        }
        let Some(facts) = self.0.store.relay_facts(bot).await? else { return Ok(None) };
        if facts.intent == Intent::Deleted {
            return Ok(None);
        }
        let mut hubs = self.hubs();
        let hub = self.hub(&mut hubs, bot, facts.user, facts.chat_seq);
        let place = hub.place();
        drop(hubs);
        Ok(Some((hub, place)))
    }

    fn hub(&self, hubs: &mut HashMap<BotId, Arc<Hub>>, bot: &BotId, user: UserId, cursor: i64) -> Arc<Hub> {
        if let Some(hub) = hubs.get(bot) {
            return hub.clone();
        }
        let (hub, decisions) = Hub::new(bot.clone(), user, cursor);
        let hub = Arc::new(hub);
        hubs.insert(bot.clone(), hub.clone());
        self.spawn(hub.clone(), decisions);
        hub
    }

    fn spawn(&self, hub: Arc<Hub>, decisions: mpsc::Receiver<molt_bot::Op>) {
        let registered = Registered { relays: self.clone(), hub: hub.clone() };
        let relay = Relay::new(self.clone(), hub, decisions);
        tokio::spawn(async move {
            let _registered = registered;
            relay.run().await;
        });
    }

    /// Takes the hub out if nobody needs it. False: somebody came in the last moment.
    pub(crate) fn retire(&self, hub: &Arc<Hub>) -> bool {
        let mut hubs = self.hubs();
        if hub.sockets() > 0 || hub.has_signals() {
            return false;
        }
        hubs.remove(&hub.bot);
        true
    }

    fn hubs(&self) -> MutexGuard<'_, HashMap<BotId, Arc<Hub>>> {
        self.0.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn supervise(self) {
        let mut wakeups = self.0.store.wakeups().subscribe();
        let closing = self.closing();
        tokio::pin!(closing);
        let mut period = tokio::time::interval(LOOK_PERIOD);
        loop {
            let mut look = tokio::select! {
                () = &mut closing => return,
                channel = wakeups.recv() => match channel {
                    Ok(channel) => self.route(&channel),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.route(&Channel::All),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                _ = period.tick() => {
                    self.sweep().await;
                    self.route(&Channel::All)
                }
            };
            // A burst of wake-ups costs one look.
            while let Ok(channel) = wakeups.try_recv() {
                look |= self.route(&channel);
            }
            if look && let Err(error) = self.look_for_work().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "looking for waiting messages failed; again soon"
                );
            }
        }
    }

    /// Passes a wake-up to the hubs that it concerns. True: there may be work for bots without one.
    fn route(&self, channel: &Channel) -> bool {
        match channel {
            Channel::Chat(bot) => {
                let hub = bot.parse::<BotId>().ok().and_then(|bot| self.hubs().get(&bot).cloned());
                hub.iter().for_each(|hub| hub.signal(Look::ROWS));
                false
            }
            Channel::Events(user) => {
                let Ok(user) = user.parse::<UserId>() else { return false };
                let waiting = |hub: &&Arc<Hub>| hub.user == user && !hub.is_linked();
                self.hubs().values().filter(waiting).for_each(|hub| hub.signal(Look::BOT));
                false
            }
            Channel::Fleet => {
                self.hubs().values().for_each(|hub| hub.signal(Look::BOT));
                true
            }
            Channel::Runs => true,
            Channel::All => {
                self.hubs().values().for_each(|hub| hub.signal(Look::ALL));
                true
            }
            Channel::Outbox
            | Channel::Inbox
            | Channel::Admission(_)
            | Channel::BudgetWanted(_)
            | Channel::BudgetFreed(_)
            | Channel::Sessions(_)
            | Channel::Egress(_)
            | Channel::Prices
            | Channel::SealKeys => false,
        }
    }

    async fn look_for_work(&self) -> Result<()> {
        let mut tx = self.0.store.system().await?;
        let bots = tx.bots_with_chat_work(BOTS_MAX).await?;
        tx.commit().await?;
        for (bot, user) in bots {
            let known = self.hubs().get(&bot).cloned();
            if let Some(hub) = known {
                hub.signal(Look::WORK);
                continue;
            }
            let Some(facts) = self.0.store.relay_facts(&bot).await? else { continue };
            let mut hubs = self.hubs();
            self.hub(&mut hubs, &bot, user, facts.chat_seq);
        }
        Ok(())
    }

    async fn sweep(&self) {
        let swept = async {
            let mut tx = self.0.store.system().await?;
            tx.sweep_chat_tickets(self.now()).await?;
            tx.commit().await
        };
        if let Err(error) = swept.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "old chat tickets stay for now");
        }
    }
}

/// Keeps a hub in the list exactly as long as its relay runs, whatever ends it.
struct Registered {
    relays: Relays,
    hub: Arc<Hub>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut hubs = self.relays.hubs();
        if hubs.get(&self.hub.bot).is_some_and(|hub| Arc::ptr_eq(hub, &self.hub)) {
            hubs.remove(&self.hub.bot);
        }
        drop(hubs);
        self.hub.say_stopped();
    }
}
