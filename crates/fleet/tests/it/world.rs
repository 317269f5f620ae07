//! A host in memory that survives the death of the fleet, with cells that really answer; and the fleet's death itself.
//! Never: forgiving. A second cell of a bot, or a cell without the newest key, fails the test.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use chrono::Utc;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use molt_bot::{Applied, CellAddress, CellHealth, Fault, Phase, REVISION_HEADER, canonical_hash};
use molt_fleet::{BoxFuture, CellSpec, Ensured, Host, HostError, Report};
use molt_model::BotId;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What happens to every cell that is started from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Its runtime doesn't come up.
    Sick,
    /// It ends while it boots.
    Dies,
    /// It takes every question and answers none.
    Hangs,
    /// It refuses the second configuration.
    Picky,
    /// Its runtime comes up with the first settings only.
    Loyal,
    /// It answers, and has lost its runtime without noticing.
    Adrift,
}

/// What a host doesn't answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hangs {
    Everything,
    Starts,
}

#[derive(Default)]
pub(crate) struct World {
    cells: Mutex<BTreeMap<BotId, Cell>>,
    /// State folders, which outlive cells.
    states: Mutex<BTreeMap<BotId, u32>>,
    mood: Mutex<Mood>,
    started: AtomicI64,
    runtime_restarts: AtomicI64,
    /// Calls about this bot hang, all of them or only a start's.
    hung: Mutex<Option<(BotId, Hangs)>>,
    unhung: Notify,
    /// Calls until the fleet dies; negative: it lives on.
    fuse: AtomicI64,
    crashed: Notify,
    gone: Notify,
}

struct Cell {
    address: CellAddress,
    ghost_key: SecretString,
    brain: Arc<Mutex<Brain>>,
    server: AbortHandle,
}

struct Brain {
    health: CellHealth,
    token: SecretString,
    mood: Mood,
    asked: u32,
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        let world = Self::default();
        world.fuse.store(-1, Ordering::SeqCst);
        Arc::new(world)
    }

    fn cells(&self) -> MutexGuard<'_, BTreeMap<BotId, Cell>> {
        self.cells.lock().unwrap()
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The fleet dies at its nth call from now, before or after the call does its work.
    pub(crate) fn light_fuse(&self, calls: i64) {
        self.fuse.store(calls, Ordering::SeqCst);
    }

    /// Whether the fleet got away.
    pub(crate) fn put_out_fuse(&self) -> bool {
        self.fuse.swap(-1, Ordering::SeqCst) > 0
    }

    pub(crate) async fn crashed(&self) {
        self.crashed.notified().await;
    }

    /// A point at which the fleet may die: from then on none of its calls comes back.
    async fn point(&self) {
        let fuse = self.fuse.load(Ordering::SeqCst);
        if fuse < 0 {
            return;
        }
        let left = if fuse == 0 { 0 } else { self.fuse.fetch_sub(1, Ordering::SeqCst) };
        if left == 1 {
            self.crashed.notify_one();
        }
        if left <= 1 {
            std::future::pending::<()>().await;
        }
    }

    /// The host doesn't answer about this bot any more.
    pub(crate) fn hang(&self, bot: &BotId, what: Hangs) {
        *self.hung.lock().unwrap() = Some((bot.clone(), what));
    }

    /// It answers everything, also what it was asked meanwhile.
    pub(crate) fn unhang(&self) {
        *self.hung.lock().unwrap() = None;
        self.unhung.notify_waiters();
    }

    async fn hangs(&self, bot: &BotId, starts: bool) {
        loop {
            let unhung = self.unhung.notified();
            let hung = self.hung.lock().unwrap().clone();
            if hung.is_none_or(|(hung, what)| hung != *bot || (what == Hangs::Starts && !starts)) {
                return;
            }
            unhung.await;
        }
    }

    /// The cell and its state are gone, and nobody was told.
    pub(crate) fn vanish(&self, bot: &BotId) {
        self.cells().remove(bot).unwrap().server.abort();
        self.states.lock().unwrap().remove(bot);
    }

    /// The mood of the bot's cell from now on.
    pub(crate) fn set_mood_of(&self, bot: &BotId, mood: Mood) {
        self.cells()[bot].brain.lock().unwrap().mood = mood;
    }

    /// The runtime of a cell ends, and the cell brings it back before anybody asks.
    pub(crate) fn end_runtime(&self, bot: &BotId) {
        self.cells()[bot].brain.lock().unwrap().health.runtime_restarts += 1;
    }

    /// How often cells were asked to start their runtime anew.
    pub(crate) fn runtime_restarts(&self) -> i64 {
        self.runtime_restarts.load(Ordering::SeqCst)
    }

    pub(crate) fn started(&self) -> i64 {
        self.started.load(Ordering::SeqCst)
    }

    pub(crate) fn has_cell(&self, bot: &BotId) -> bool {
        self.cells().contains_key(bot)
    }

    pub(crate) fn has_state(&self, bot: &BotId) -> bool {
        self.states.lock().unwrap().contains_key(bot)
    }

    pub(crate) fn ghost_key(&self, bot: &BotId) -> Option<SecretString> {
        self.cells().get(bot).map(|cell| cell.ghost_key.clone())
    }

    pub(crate) fn applied_revision(&self, bot: &BotId) -> Option<i64> {
        let brain = self.cells().get(bot)?.brain.clone();
        let applied = brain.lock().unwrap().health.applied.clone();
        applied.map(|applied| applied.revision)
    }

    /// Kills a cell from outside.
    pub(crate) fn kill(&self, bot: &BotId) -> bool {
        let cell = self.cells().remove(bot);
        self.gone.notify_waiters();
        cell.map(|cell| cell.server.abort()).is_some()
    }

    /// Something that belongs to no row.
    pub(crate) fn leave_state(&self, bot: &BotId) {
        self.states.lock().unwrap().insert(bot.clone(), 1);
    }
}

/// One fleet's view of the world.
pub(crate) struct WorldHost(pub(crate) Arc<World>);

impl Host for WorldHost {
    fn kind(&self) -> &'static str {
        "world"
    }

    fn ensure<'a>(&'a self, spec: &'a CellSpec) -> BoxFuture<'a, Result<Ensured, HostError>> {
        Box::pin(async move {
            self.0.point().await;
            self.0.hangs(&spec.bot, true).await;
            if self.0.has_cell(&spec.bot) {
                return Ok(Ensured::AlreadyThere);
            }
            let mood = *self.0.mood.lock().unwrap();
            let cell = start_cell(self.0.clone(), spec, mood).await;
            assert!(self.0.cells().insert(spec.bot.clone(), cell).is_none(), "a second cell of {}", spec.bot);
            *self.0.states.lock().unwrap().entry(spec.bot.clone()).or_default() += 1;
            self.0.started.fetch_add(1, Ordering::SeqCst);
            self.0.point().await;
            Ok(Ensured::Started)
        })
    }

    fn inspect<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Report, HostError>> {
        Box::pin(async move {
            self.0.point().await;
            self.0.hangs(bot, false).await;
            let dying = self.0.cells().get(bot).is_some_and(|cell| {
                let mut brain = cell.brain.lock().unwrap();
                brain.asked += 1;
                brain.mood == Mood::Dies && brain.asked > 1
            });
            if dying {
                self.0.kill(bot);
            }
            let cells = self.0.cells();
            Ok(cells.get(bot).map_or(Report::Absent, |cell| Report::Present { address: cell.address.clone() }))
        })
    }

    fn stop<'a>(&'a self, bot: &'a BotId, remove: bool) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            self.0.point().await;
            self.0.hangs(bot, false).await;
            self.0.kill(bot);
            if remove {
                self.0.point().await;
                self.0.states.lock().unwrap().remove(bot);
            }
            self.0.point().await;
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BotId>, HostError>> {
        Box::pin(async move { Ok(self.0.states.lock().unwrap().keys().cloned().collect()) })
    }

    fn gone<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            loop {
                let gone = self.0.gone.notified();
                if !self.0.has_cell(bot) {
                    return;
                }
                gone.await;
            }
        })
    }
}

async fn start_cell(world: Arc<World>, spec: &CellSpec, mood: Mood) -> Cell {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: CellAddress = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    let applied = Applied { revision: spec.revision, hash: canonical_hash(&spec.config) };
    let health = CellHealth {
        bot_id: spec.bot.clone(),
        boot_id: uuid::Uuid::new_v4(),
        phase: Phase::Starting,
        since: Utc::now(),
        detail: "The cell is up.".into(),
        error: None,
        runtime_pid: None,
        runtime_restarts: 0,
        runtime_boot_ms: None,
        applied: Some(applied),
        runtime_version: None,
        active_runs: 0,
    };
    let brain = Arc::new(Mutex::new(Brain { health, token: spec.gateway_token.clone(), mood, asked: 0 }));
    let served = brain.clone();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (brain, world) = (served.clone(), world.clone());
            let service = service_fn(move |request| answer(brain.clone(), world.clone(), request));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Cell { address, ghost_key: spec.ghost_key.clone(), brain, server: server.abort_handle() }
}

async fn answer(
    brain: Arc<Mutex<Brain>>,
    world: Arc<World>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let expected = format!("Bearer {}", brain.lock().unwrap().token.expose_secret());
    assert_eq!(request.headers()["authorization"], expected.as_str(), "the wrong gateway token");
    let mood = brain.lock().unwrap().mood;
    if mood == Mood::Hangs {
        std::future::pending::<()>().await;
    }
    let (status, body) = match request.uri().path() {
        "/api/health" => (StatusCode::OK, json!(next_health(&mut brain.lock().unwrap()))),
        "/api/config" if mood == Mood::Picky && request.headers()[REVISION_HEADER] == "2" => {
            let fault = Fault { code: "config_invalid".into(), message: "No.".into() };
            (StatusCode::UNPROCESSABLE_ENTITY, json!(fault))
        }
        "/api/config" => {
            world.point().await;
            let revision = request.headers()[REVISION_HEADER].to_str().unwrap().parse().unwrap();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let config: Value = serde_json::from_slice(&body).unwrap();
            let applied = Applied { revision, hash: canonical_hash(&config) };
            brain.lock().unwrap().health.applied = Some(applied.clone());
            world.point().await;
            (StatusCode::OK, json!(applied))
        }
        "/api/restart" => {
            world.runtime_restarts.fetch_add(1, Ordering::SeqCst);
            let mut brain = brain.lock().unwrap();
            (brain.mood, brain.health.phase) = (Mood::Well, Phase::Restarting);
            brain.health.runtime_restarts += 1;
            (StatusCode::ACCEPTED, json!(brain.health))
        }
        other => panic!("nobody serves {other}"),
    };
    Ok(Response::builder().status(status).body(Full::from(body.to_string())).unwrap())
}

/// A runtime comes up one phase per question.
fn next_health(brain: &mut Brain) -> CellHealth {
    let health = &mut brain.health;
    (health.phase, health.detail) = match (brain.mood, health.phase) {
        (Mood::Sick, _) => (Phase::Failed, "The assistant's program ends by itself.".into()),
        (Mood::Loyal, _) if health.applied.as_ref().is_some_and(|applied| applied.revision == 2) => {
            (Phase::Failed, "The assistant's program ends by itself.".into())
        }
        (Mood::Adrift, _) => (Phase::Connecting, "Almost there.".into()),
        (_, Phase::Starting | Phase::Restarting) => (Phase::Booting, "Waking up.".into()),
        (_, Phase::Booting) => (Phase::Connecting, "Almost there.".into()),
        _ => (Phase::Ready, "Ready.".into()),
    };
    health.clone()
}
