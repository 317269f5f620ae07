//! What a host brings along to be put through the stories, and what the stories are played with.
//! Never: knowledge of one kind of host.
//!
//! A host that is to be tested implements `HostUnderTest` in a file of its own here and gets a `conformance!` line in
//! main.rs. What it does not override works for every host that runs the real cell.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use molt_bot::{CellAddress, CellHealth, Client, ClientError, Phase};
use molt_fleet::{CellSpec, Ensured, Host, HostError, Report};
use molt_model::{BotId, Catalog, CatalogInForce, PriceVersion};
use serde_json::json;

use crate::stories;

/// No call of a host may take longer, whatever happened; the fleet waits for it.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(30);
/// Far more than a cell with the stand-in runtime needs on a busy machine.
const READY_MAX: Duration = Duration::from_secs(60);
/// How soon the end of a cell must be noticed.
const GONE_MAX: Duration = Duration::from_secs(5);
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// In a continuous integration nothing may be left out.
const CI_VARIABLE: &str = "CI";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    Create,
    CreateAgain,
    Start,
    Stop,
    Restart,
    Crash,
    Hang,
    SlowBoot,
    LostAnswer,
    GoneMachine,
    FullDisk,
    HostAway,
    Update,
    Delete,
    DeleteAgain,
    Ahead,
}

impl Story {
    const ALL: [Self; 16] = [
        Self::Create,
        Self::CreateAgain,
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Crash,
        Self::Hang,
        Self::SlowBoot,
        Self::LostAnswer,
        Self::GoneMachine,
        Self::FullDisk,
        Self::HostAway,
        Self::Update,
        Self::Delete,
        Self::DeleteAgain,
        Self::Ahead,
    ];
}

/// What happens to a cell or its host from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The cell's process dies: kill -9.
    Crash,
    /// The cell lives and does nothing any more.
    Hang,
    /// What the cell ran in is gone altogether, as if somebody had removed it; the state is not.
    GoneMachine,
    /// There is no room for anything new, until `mend`.
    FullDisk,
    /// The host can't be asked, until `mend`.
    HostAway,
}

/// What there is of a bot, seen by other means than the host's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// A name for each living cell.
    pub(crate) cells: Vec<String>,
    /// A name for each place where state is kept.
    pub(crate) states: Vec<String>,
    /// Everything else: processes, folders, networks, secrets.
    pub(crate) rest: Vec<String>,
}

/// A host whose nth call to the outside is done but not answered.
pub(crate) struct Losing {
    pub(crate) host: Arc<dyn Host>,
    /// Whether there was an nth call.
    pub(crate) lost: Arc<AtomicBool>,
}

pub(crate) trait HostUnderTest: Sized + Sync {
    const NAME: &'static str;

    /// A host with nothing on it. `Err`: this machine lacks what it needs; says what.
    async fn set_up() -> Result<Self, String>;

    /// Why a story can't be played here at all.
    fn cannot(_story: Story) -> Option<&'static str> {
        None
    }

    /// The host as a program that was just started finds it; every call is another program.
    fn open(&self) -> Arc<dyn Host>;

    /// A cell with the stand-in runtime. The revision is also in the configuration, so that it can be told apart.
    fn spec(&self, bot: &BotId, revision: i64) -> CellSpec;

    /// The same, with a runtime that does not come up.
    fn slow_spec(&self, bot: &BotId) -> CellSpec;

    async fn fault(&self, fault: Fault, bot: &BotId);

    /// Ends a fault that lasts.
    async fn mend(&self, fault: Fault);

    /// Another program again, whose nth call (from 1) is done, but its answer never arrives.
    async fn open_losing(&self, _nth: u32) -> Losing {
        panic!("{} neither loses answers nor says that it can't", Self::NAME)
    }

    /// Each answer is lost in turn, or only every so many: for a host that makes many calls, outside the long proofs.
    fn lost_answers_apart() -> usize {
        1
    }

    async fn found(&self, bot: &BotId) -> Found;

    /// Puts a note into the bot's state, or reads it.
    async fn write_note(&self, bot: &BotId, text: &str);
    async fn note(&self, bot: &BotId) -> Option<String>;

    /// Asks the cell.
    async fn health(&self, address: CellAddress, spec: &CellSpec) -> Result<CellHealth, ClientError> {
        Client::new(address, spec.gateway_token.clone()).health().await
    }

    /// Leaves nothing behind; a test that fails leaves it to `Drop`.
    async fn tear_down(self) {}
}

/// Plays one story on a host of its own.
pub(crate) async fn play<H: HostUnderTest>(story: Story) {
    if let Some(why) = H::cannot(story) {
        println!("{} on {}: not possible here: {why}", story, H::NAME);
        return;
    }
    let Some(under) = or_skipped(H::set_up().await) else { return };
    let began = Instant::now();
    let stage = Stage { host: under.open(), bot: BotId::random(), under: &under };
    stories::of(story, &stage).await;
    println!("{story} on {}: {:?}", H::NAME, began.elapsed());
    under.tear_down().await;
}

/// `None`: this machine lacks what it needs, which is said.
pub(crate) fn or_skipped<T>(found: Result<T, String>) -> Option<T> {
    if let Err(why) = &found {
        println!("skipped: {why}");
        assert!(std::env::var_os(CI_VARIABLE).is_none(), "nothing may be skipped here: {why}");
    }
    found.ok()
}

/// Sentences of this host that the page does not have.
pub(crate) fn unsaid<H: HostUnderTest>(page: &str) -> Vec<String> {
    let sentences = Story::ALL.into_iter().filter_map(|story| Some((story, H::cannot(story)?)));
    sentences.filter(|(_, why)| !page.contains(why)).map(|(story, why)| format!("{story}: {why}")).collect()
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One bot on the host, and what the stories look at.
pub(crate) struct Stage<'a, H> {
    pub(crate) under: &'a H,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) bot: BotId,
}

impl<H: HostUnderTest> Stage<'_, H> {
    pub(crate) fn spec(&self, revision: i64) -> CellSpec {
        self.under.spec(&self.bot, revision)
    }

    pub(crate) async fn ensure(&self, spec: &CellSpec) -> Result<Ensured, HostError> {
        within("ensure", self.host.ensure(spec)).await
    }

    pub(crate) async fn stop(&self, remove: bool) -> Result<(), HostError> {
        within("stop", self.host.stop(&self.bot, remove)).await
    }

    pub(crate) async fn prepare(&self, host: &dyn Host) {
        within("prepare", host.prepares().unwrap().prepare(&self.bot)).await.unwrap();
    }

    pub(crate) async fn withdraw(&self) -> Result<(), HostError> {
        within("withdraw", self.host.prepares().unwrap().withdraw(&self.bot)).await
    }

    pub(crate) async fn inspect(&self) -> Report {
        within("inspect", self.host.inspect(&self.bot)).await.unwrap()
    }

    pub(crate) async fn is_listed(&self) -> bool {
        within("list", self.host.list()).await.unwrap().contains(&self.bot)
    }

    /// Starts a cell that was not there, and waits until it is ready.
    pub(crate) async fn start(&self, revision: i64) -> CellHealth {
        let spec = self.spec(revision);
        assert_eq!(self.ensure(&spec).await.unwrap(), Ensured::Started);
        self.ready(&spec).await
    }

    /// The cell where the host says that it is, once it is ready.
    pub(crate) async fn ready(&self, spec: &CellSpec) -> CellHealth {
        let deadline = Instant::now() + READY_MAX;
        loop {
            let health = self.health(spec).await;
            if let Ok(health) = health
                && health.phase == Phase::Ready
            {
                assert_eq!(health.bot_id, self.bot, "the cell is this bot's");
                return health;
            }
            assert!(Instant::now() < deadline, "the cell is not ready: {:?}", self.under.found(&self.bot).await);
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    pub(crate) async fn health(&self, spec: &CellSpec) -> Result<CellHealth, String> {
        let Report::Present { address } = self.inspect().await else { return Err("there is no cell".into()) };
        self.under.health(address, spec).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn gone(&self) {
        let gone = tokio::time::timeout(GONE_MAX, self.host.gone(&self.bot)).await;
        assert!(gone.is_ok(), "the end of the cell was not noticed within {GONE_MAX:?}");
    }

    /// Exactly one, named after the bot, on one state.
    pub(crate) async fn assert_one_cell(&self) {
        let found = self.under.found(&self.bot).await;
        assert_eq!((found.cells.len(), found.states.len()), (1, 1), "{found:?}");
        let named = |name: &String| name.contains(self.bot.as_str());
        assert!(found.cells.iter().chain(&found.states).all(named), "{found:?}");
        assert!(self.is_listed().await);
    }

    /// No cell, nothing that it started, but the state.
    pub(crate) async fn assert_only_state(&self) {
        assert_eq!(self.inspect().await, Report::Absent);
        let found = self.under.found(&self.bot).await;
        assert_eq!((found.cells.len(), found.states.len()), (0, 1), "{found:?}");
        assert!(self.is_listed().await, "a state without a cell is still the host's");
    }

    pub(crate) async fn assert_nothing(&self) {
        assert_eq!(self.inspect().await, Report::Absent);
        assert_eq!(self.under.found(&self.bot).await, Found::default(), "left behind");
        assert!(!self.is_listed().await);
    }

    pub(crate) async fn assert_note(&self, text: &str) {
        assert_eq!(self.under.note(&self.bot).await.as_deref(), Some(text), "the state is kept");
    }
}

/// A call that hangs is a fault of the host, whatever it would have answered.
pub(crate) async fn within<T>(name: &str, call: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
    tokio::time::timeout(CALL_MAX, call).await.unwrap_or_else(|_| panic!("{name} took longer than {CALL_MAX:?}"))
}

/// A cell that is told apart by its revision alone.
pub(crate) fn cell_spec(bot: &BotId, revision: i64, proxy_url: &str, runtime_command: Vec<String>) -> CellSpec {
    let note = format!("revision {revision}");
    CellSpec {
        bot: bot.clone(),
        uid: None,
        gateway_token: "gateway-token-of-this-test".to_owned().into(),
        ghost_key: "ghost-key-of-this-test".to_owned().into(),
        egress_key: "egress-key-of-this-test".to_owned().into(),
        proxy_url: proxy_url.to_owned(),
        config: json!({ "gateway": { "mode": "local" }, "molt": { "workspace_files": { "NOTE.md": note } } }),
        revision,
        runtime_command,
        claim: None,
    }
}

pub(crate) fn catalog() -> CatalogInForce {
    Catalog::new(PriceVersion("test".into()), Vec::new(), "practice/practice-1".into(), None).into()
}

impl Losing {
    pub(crate) fn happened(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}
