//! Where each bot may go besides the operator's list, in memory: read by a bot's first way out, read again when it changes.
//! Never: a list that may be old and is in doubt, or a bot that isn't known let out.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use molt_model::BotId;
use molt_model::egress::Entry;
use molt_store::{Channel, Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

/// What is known of one bot's ways out.
pub(super) type List = Arc<Ways>;

pub(super) struct Ways {
    /// Where it may go.
    pub(super) entries: Vec<Entry>,
    /// Of the key that its cell shows at the door. None: none is in force.
    key_hash: Option<KeyHash>,
}

/// The form in which a key is compared.
pub(super) type KeyHash = [u8; 32];

/// Ways of one bot that are open at the same time. A page with its pictures needs a dozen.
const OPEN_OF_BOT_MAX: usize = 64;
/// Connections of one bot at the door, as many as at a gate.
const DOORS_OF_BOT_MAX: usize = 128;
/// Lists are read so many at a time; the rest of the connections are for others.
const LOADS_AT_ONCE_MAX: usize = 2;
/// For the database's answer.
const LOAD_MAX: Duration = Duration::from_secs(2);
/// A list in use is read again after so long, in case a wake-up was lost.
const REREAD_AFTER: Duration = Duration::from_secs(60);
/// The net below the wake-ups.
const TICK: Duration = Duration::from_secs(15);
/// What nobody used for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10 * 60);

pub(super) struct Lists {
    store: Store,
    skills: BTreeMap<String, Vec<Entry>>,
    runtime: Handle,
    bots: Mutex<HashMap<BotId, Arc<Known>>>,
    loads: Semaphore,
}

/// What is kept of one bot.
pub(super) struct Known {
    /// None: not read yet, or there is no such bot.
    list: watch::Sender<Option<List>>,
    /// A change was announced since it was read.
    stale: AtomicBool,
    times: Mutex<Times>,
    loading: tokio::sync::Mutex<()>,
    pub(super) places: Arc<Semaphore>,
    pub(super) doors: Arc<Semaphore>,
}

#[derive(Clone, Copy)]
struct Times {
    read: Instant,
    used: Instant,
}

/// How a look into the database ended.
enum Loaded {
    /// As it was when the look began or later. None: there is no such bot.
    List(Option<List>),
    Away,
}

/// The list can't be read just now, or there is no such bot.
#[derive(Debug)]
pub(super) struct Unknown;

impl Lists {
    pub(super) fn start(store: Store, skills: BTreeMap<String, Vec<Entry>>) -> Arc<Self> {
        let runtime = Handle::current();
        let wakeups = store.wakeups().subscribe();
        let loads = Semaphore::new(LOADS_AT_ONCE_MAX);
        let lists = Arc::new(Self { store, skills, runtime: runtime.clone(), bots: Mutex::default(), loads });
        runtime.spawn(follow(Arc::downgrade(&lists), wakeups));
        lists
    }

    /// The bot's list as it is now. While the database is away one serves that nobody is known to have changed.
    pub(super) async fn of(self: &Arc<Self>, bot: &BotId) -> Result<(Arc<Known>, List), Unknown> {
        let known = Arc::clone(self.bots().entry(bot.clone()).or_insert_with(Known::new));
        known.times().used = Instant::now();
        if let Some(list) = known.current() {
            return Ok((known, list));
        }
        let list = match timeout(LOAD_MAX, self.load(bot, &known)).await {
            Ok(Ok(Loaded::List(list))) => list,
            Ok(Ok(Loaded::Away)) | Err(_) => known.unchanged(),
            Ok(Err(_panicked)) => None,
        };
        list.map(|list| (known, list)).ok_or(Unknown)
    }

    /// Reads the list on a task of its own, on the runtime that the database's connections belong to. Errors are said there.
    fn load(self: &Arc<Self>, bot: &BotId, known: &Arc<Known>) -> tokio::task::JoinHandle<Loaded> {
        let (lists, bot, known) = (Arc::clone(self), bot.clone(), Arc::clone(known));
        self.runtime.spawn(async move {
            let _one = known.loading.lock().await;
            if let Some(list) = known.current() {
                return Loaded::List(Some(list));
            }
            let Ok(_permit) = lists.loads.acquire().await else { return Loaded::Away };
            // What is announced from here on may not be in what is read.
            let was_stale = known.stale.swap(false, Ordering::AcqRel);
            match lists.read(&bot).await {
                Ok(list) => {
                    known.times().read = Instant::now();
                    known.list.send_replace(list.clone());
                    Loaded::List(list)
                }
                Err(error) => {
                    known.stale.fetch_or(was_stale, Ordering::AcqRel);
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(bot.id = %bot, error, "where a bot may go can't be looked up just now");
                    Loaded::Away
                }
            }
        })
    }

    async fn read(&self, bot: &BotId) -> Result<Option<List>, StoreError> {
        let mut tx = self.store.system().await?;
        let ways = tx.ways_of(bot).await?;
        tx.commit().await?;
        Ok(ways.map(|ways| {
            let own = ways.domains.into_iter().map(Entry::exactly);
            let of_skills = ways.skills.iter().filter_map(|skill| self.skills.get(skill)).flatten().cloned();
            let key_hash = ways.key_hash.and_then(|hash| hash.try_into().ok());
            Arc::new(Ways { entries: own.chain(of_skills).collect(), key_hash })
        }))
    }

    fn bots(&self) -> MutexGuard<'_, HashMap<BotId, Arc<Known>>> {
        self.bots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn woken(self: &Arc<Self>, channel: &Channel) {
        let changed: Vec<_> = match channel {
            Channel::Egress(bot) => self
                .bots()
                .get_key_value(bot)
                .map(|(bot, known)| (bot.clone(), Arc::clone(known)))
                .into_iter()
                .collect(),
            Channel::All => self.all(),
            _ => return,
        };
        for (bot, known) in changed {
            known.stale.store(true, Ordering::Release);
            // Ways that are open are judged again; the others wait until the list is asked for.
            if known.is_watched() {
                drop(self.load(&bot, &known));
            }
        }
    }

    fn tick(self: &Arc<Self>) {
        for (bot, known) in self.all() {
            if known.is_watched() && known.current().is_none() {
                drop(self.load(&bot, &known));
            }
        }
        self.bots().retain(|_, known| known.is_watched() || known.times().used.elapsed() < FORGOTTEN_AFTER);
    }

    fn all(&self) -> Vec<(BotId, Arc<Known>)> {
        self.bots().iter().map(|(bot, known)| (bot.clone(), Arc::clone(known))).collect()
    }
}

impl Ways {
    /// Whether somebody who came in by this key may be here; a gate needs none.
    pub(super) fn admits(&self, key: Option<&KeyHash>) -> bool {
        key.is_none_or(|key| self.key_hash.as_ref() == Some(key))
    }
}

impl Known {
    fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            list: watch::Sender::new(None),
            stale: AtomicBool::new(true),
            times: Mutex::new(Times { read: now, used: now }),
            loading: tokio::sync::Mutex::default(),
            places: Arc::new(Semaphore::new(OPEN_OF_BOT_MAX)),
            doors: Arc::new(Semaphore::new(DOORS_OF_BOT_MAX)),
        })
    }

    /// Follows the list.
    pub(super) fn watch(&self) -> watch::Receiver<Option<List>> {
        self.list.subscribe()
    }

    fn is_watched(&self) -> bool {
        self.list.receiver_count() > 0
    }

    /// The list, if nobody is known to have changed it and it was read a short while ago.
    fn current(&self) -> Option<List> {
        self.unchanged().filter(|_| self.times().read.elapsed() < REREAD_AFTER)
    }

    /// The list, if nobody is known to have changed it.
    fn unchanged(&self) -> Option<List> {
        if self.stale.load(Ordering::Acquire) { None } else { self.list.borrow().clone() }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows what the database announces, and looks after everything by a period as well.
async fn follow(lists: Weak<Lists>, mut wakeups: Receiver<Channel>) {
    let mut period = tokio::time::interval(TICK);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let woken = tokio::select! {
            woken = wakeups.recv() => Some(woken),
            _ = period.tick() => None,
        };
        let Some(lists) = lists.upgrade() else { return };
        match woken {
            None => lists.tick(),
            Some(Ok(channel)) => lists.woken(&channel),
            Some(Err(RecvError::Lagged(_))) => lists.woken(&Channel::All),
            Some(Err(RecvError::Closed)) => return,
        }
    }
}
