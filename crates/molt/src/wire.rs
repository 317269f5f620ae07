//! Puts the parts together: the only place that picks between a real outside system and the built-in one.
//! Never: a decision of the product.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use molt_api::{ApiState, Relays};
use molt_billing::{Inbox, LocalPayments, Renew};
use molt_fleet::{Fleet, RuntimeState, Sealing};
use molt_ghost::{Gates, Ghost, Rounds};
use molt_identity::Local;
use molt_model::{CatalogInForce, Clock, SystemClock};
use molt_notify::{Deliver, LocalMailer};
use molt_store::{Channel, Store};
use tokio::sync::{Notify, watch};

use crate::config::{Config, KeySource, ProviderKind};
use crate::hosts::Parts;
use crate::prices::Prices;
use crate::tasks::{Schedule, Tasks, Woken};

/// The nets under the wake-ups. Work that a lost wake-up forgot waits no longer than this.
const QUEUE_PERIOD: Duration = Duration::from_secs(15);
/// Lists everything that the host holds; what it finds has no other way to be noticed, and is not urgent.
const FLEET_SWEEP_PERIOD: Duration = Duration::from_secs(120);
const FLEET_PERIOD: Duration = Duration::from_secs(5);
/// A month that began is noticed within a minute.
const RENEW_PERIOD: Duration = Duration::from_secs(60);
/// What a bot uses is looked at this often; what it does with money that it doesn't have, the caps stop at once.
const WATCH_PERIOD: Duration = Duration::from_secs(30);
/// The net under the fleet's own call: a cell that lives already waits for a lost gate no longer.
const GATES_PERIOD: Duration = Duration::from_secs(1);
/// Ended log-ins, used tickets and old messages do no harm while they wait for this.
const SWEEP_PERIOD: Duration = Duration::from_secs(60 * 60);

/// Which parts run in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// API, app, and the loops that only need the database.
    pub serve: bool,
    /// Ghost Key.
    pub proxy: bool,
    /// Cells.
    pub fleet: bool,
}

impl Roles {
    pub const ALL: Self = Self { serve: true, proxy: true, fleet: true };
}

/// The running parts of one process.
pub struct Platform {
    pub tasks: Tasks,
    pub router: Router,
    pub fleet: Option<Arc<Fleet>>,
    /// Cells that end with this program. Those elsewhere go on, and the next start finds them.
    cells_are_here: bool,
    pub ghost: Option<Ghost>,
    gates: Option<Arc<Gates>>,
    relays: Option<Relays>,
    pub ready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    pub store: Store,
}

impl Platform {
    /// Starts the parts. `bound` is the address that people and cells reach.
    pub fn start(
        config: &Config,
        roles: Roles,
        bound: SocketAddr,
        store: Store,
        prices: &Prices,
        data_dir: PathBuf,
        fleet: Option<Parts>,
    ) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tasks = Tasks::new(clock.clone(), store.wakeups().clone());
        prices.spawn(&tasks);
        let catalog = prices.catalog();
        let ready = readiness(fleet.as_ref().map(|parts| parts.runtime.clone()));
        let (mut router, mut relays) = (Router::new(), None);
        let ghost = match roles.proxy {
            true => Some(start_ghost(config, bound, store.clone(), catalog.clone(), clock.clone(), data_dir.clone())?),
            false => None,
        };
        if roles.proxy && config.watch {
            start_rounds(&store, &clock, &tasks);
        }
        let wanted = Arc::new(Notify::new());
        let gates = ghost.as_ref().map(|ghost| start_gates(ghost, &data_dir, &tasks, wanted.clone()));
        if let Some(ghost) = &ghost {
            router = router.merge(molt_ghost::router(ghost.clone()));
        }
        if roles.serve {
            let (api, chats) = start_api(config, bound, &store, &clock, &tasks, catalog.clone(), ready.clone());
            router = router.merge(api);
            relays = Some(chats);
        }
        let cells_are_here = fleet.as_ref().is_some_and(Parts::are_here);
        let fleet = match fleet.filter(|_| roles.fleet) {
            Some(parts) => {
                let sealing = config.fleet.sealing(gates.as_ref().map(|_| wanted));
                Some(start_fleet(config, &sealing, bound, store.clone(), catalog, clock, &tasks, parts)?)
            }
            None => None,
        };
        Ok(Self { tasks, router, fleet, cells_are_here, ghost, gates, relays, ready, store })
    }

    /// Ends everything in the order that loses nothing: cells first, whose last calls still settle; then the loops, the
    /// books, the listeners (which `unlisten` ends), and the database, which nobody asks any more by then. Each part has a
    /// bound of its own.
    pub async fn stop(self, unlisten: impl Future<Output = ()>) {
        if let Some(fleet) = self.fleet.as_ref().filter(|_| self.cells_are_here)
            && let Err(error) = fleet.shutdown().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the cells were not all noted as stopped");
        }
        if let Some(relays) = &self.relays {
            relays.close();
        }
        if !self.tasks.stop(Duration::from_secs(3)).await {
            tracing::warn!("a loop was cut in its round; the next start takes its work up again");
        }
        if let Some(gates) = &self.gates {
            gates.close();
        }
        if let Some(ghost) = &self.ghost {
            ghost.drain().await;
        }
        unlisten.await;
        self.store.close().await;
    }
}

/// Sentences about what is not ready yet, besides the database.
fn readiness(runtime: Option<watch::Receiver<RuntimeState>>) -> Arc<dyn Fn() -> Vec<String> + Send + Sync> {
    Arc::new(move || match runtime.as_ref().map(|state| state.borrow().clone()) {
        Some(RuntimeState::Installing { percent, sentence }) => vec![format!("{sentence}: {percent} %.")],
        Some(RuntimeState::Failed { sentence }) => vec![format!("{sentence}.")],
        Some(RuntimeState::Ready { .. }) | None => Vec::new(),
    })
}

fn start_ghost(
    config: &Config,
    bound: SocketAddr,
    store: Store,
    catalog: CatalogInForce,
    clock: Arc<dyn Clock>,
    data_dir: PathBuf,
) -> anyhow::Result<Ghost> {
    let providers = config.offer.providers().map(|provider| molt_ghost::ProviderConfig {
        name: provider.name.clone(),
        kind: match provider.kind {
            ProviderKind::Openai => molt_ghost::ProviderKind::OpenAi,
            ProviderKind::Anthropic => molt_ghost::ProviderKind::Anthropic,
            ProviderKind::Practice => molt_ghost::ProviderKind::Practice,
        },
        base_url: provider.base_url.clone(),
        // A file is read by the proxy itself, which also sees when it changes.
        api_keys: match &provider.key_source {
            KeySource::File(_) => Vec::new(),
            KeySource::None | KeySource::Environment(_) => provider.keys.clone(),
        },
        key_file: match &provider.key_source {
            KeySource::File(path) => Some(path.clone()),
            KeySource::None | KeySource::Environment(_) => None,
        },
    });
    let ghost = molt_ghost::Config {
        providers: providers.collect(),
        catalog,
        data_dir,
        public_url: config.public_url(bound),
        monthly_cap_nanos: config.monthly_cap,
        limits: config.limits,
        watch: config.watch,
        egress: molt_ghost::EgressConfig { rules: config.egress.clone(), skills: molt_skills::domains() },
        otlp_endpoint: config.otlp_endpoint.clone(),
        practice_pace: config.practice_pace,
    };
    Ok(Ghost::start(ghost, store, clock)?)
}

/// `wanted`: told by the fleet of this process when a cell is about to need its gate.
fn start_gates(ghost: &Ghost, data_dir: &Path, tasks: &Tasks, wanted: Arc<Notify>) -> Arc<Gates> {
    let gates = Arc::new(Gates::new(ghost, data_dir));
    let schedule = Schedule { name: "gates", period: GATES_PERIOD, wakes: |channel| *channel == Channel::Fleet };
    let held = gates.clone();
    let woken = move || -> Woken {
        let wanted = wanted.clone();
        Box::pin(async move { wanted.notified().await })
    };
    tasks.spawn_woken(schedule, woken, move || {
        let gates = held.clone();
        async move { Ok(gates.run_once().map(|held| (held.opened + held.closed) as u64)?) }
    });
    gates
}

fn start_rounds(store: &Store, clock: &Arc<dyn Clock>, tasks: &Tasks) {
    let rounds = Arc::new(Rounds::new(store.clone(), clock.clone()));
    let schedule = Schedule { name: "watch", period: WATCH_PERIOD, wakes: |_| false };
    tasks.spawn(schedule, move || {
        let rounds = rounds.clone();
        // Bots that are at work have something new each time; only a round that was full is followed at once.
        async move { Ok(rounds.run_once().await.map(|looked| if looked.more { looked.bots } else { 0 })?) }
    });
}

fn start_api(
    config: &Config,
    bound: SocketAddr,
    store: &Store,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
    catalog: CatalogInForce,
    ready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
) -> (Router, Relays) {
    let public_url = config.public_url(bound).as_str().trim_end_matches('/').to_owned();
    let identity = Arc::new(Local::new(config.identity(bound), store.clone(), clock.clone()));
    let payments = Arc::new(LocalPayments::new(public_url.clone()));
    let state = ApiState::local(store.clone(), clock.clone(), catalog, identity, payments, config.api(bound));

    let inbox = Arc::new(Inbox::new(store.clone(), clock.clone()));
    let schedule = Schedule { name: "inbox", period: QUEUE_PERIOD, wakes: |channel| *channel == Channel::Inbox };
    tasks.spawn(schedule, move || {
        let inbox = inbox.clone();
        async move { Ok(inbox.run_once().await.map(|counts| u64::from(counts.processed))?) }
    });

    let mailer = Arc::new(LocalMailer::new(store.clone(), clock.clone()));
    let deliver = Arc::new(Deliver::new(store.clone(), clock.clone(), mailer, public_url));
    let schedule = Schedule { name: "deliver", period: QUEUE_PERIOD, wakes: |channel| *channel == Channel::Outbox };
    tasks.spawn(schedule, move || {
        let deliver = deliver.clone();
        async move { Ok(deliver.run_once().await.map(|counts| u64::from(counts.sent))?) }
    });

    let renew = Arc::new(Renew::new(store.clone(), clock.clone()));
    let schedule = Schedule { name: "renew", period: RENEW_PERIOD, wakes: |_| false };
    tasks.spawn(schedule, move || {
        let renew = renew.clone();
        async move { Ok(renew.run_once().await?) }
    });

    let (swept, time) = (store.clone(), clock.clone());
    let schedule = Schedule { name: "sweep", period: SWEEP_PERIOD, wakes: |_| false };
    tasks.spawn(schedule, move || {
        let (swept, time) = (swept.clone(), time.clone());
        async move { Ok(swept.sweep(time.now()).await?) }
    });
    let relays = state.relays.clone();
    relays.start();
    (molt_api::router(state.with_readiness(ready)), relays)
}

#[expect(clippy::too_many_arguments, reason = "the place where everything comes together")]
fn start_fleet(
    config: &Config,
    sealing: &Sealing,
    bound: SocketAddr,
    store: Store,
    catalog: CatalogInForce,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
    parts: Parts,
) -> anyhow::Result<Arc<Fleet>> {
    let proxy_url = match &config.proxy_url {
        Some(url) => url.as_str().trim_end_matches('/').to_owned(),
        None => format!("http://{}/v1", loopback(bound)),
    };
    let opened = parts.open(proxy_url, sealing, catalog)?;
    let fleet = Arc::new(Fleet::new(opened.settings, store, clock, opened.host, opened.runtime));
    let schedule = Schedule { name: "fleet", period: FLEET_PERIOD, wakes: |channel| *channel == Channel::Fleet };
    let (waiting, working) = (fleet.clone(), fleet.clone());
    tasks.spawn_woken(
        schedule,
        move || {
            let fleet = waiting.clone();
            Box::pin(async move { fleet.nudge().notified().await })
        },
        move || {
            let fleet = working.clone();
            async move { Ok(fleet.run_once().await.map(|counts| (counts.claimed + counts.steps) as u64)?) }
        },
    );
    let sweeping = fleet.clone();
    let schedule = Schedule { name: "fleet_sweep", period: FLEET_SWEEP_PERIOD, wakes: |_| false };
    tasks.spawn(schedule, move || {
        let fleet = sweeping.clone();
        // What was found is worked on by the fleet; looking again at once would find the same.
        async move { fleet.sweep_once().await.map(|_| 0).map_err(Into::into) }
    });
    Ok(fleet)
}

/// Cells of this machine reach a listener on all addresses by the loopback one.
fn loopback(bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), bound.port()),
        _ => bound,
    }
}
