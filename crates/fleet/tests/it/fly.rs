//! The fleet with its rows on the host that is Fly, against the simulator of it: a bot's whole life, its kills, what the
//! sweeper finds, and where the time of a start goes. The cells are the tests' own; what a machine is given is what they answer to.
//! Never: a word about Fly itself. It was not asked.

mod time;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use molt_bot::{Applied, CellAddress, canonical_hash};
use molt_fleet::{BoxFuture, Config, FlyHost, FlySettings, Host, Swept};
use molt_model::{BotId, Intent, Observed};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::fly_simulator::{Fault, Guests, ORG, Rules, Simulator, TOKEN};
use crate::line::Commits;
use crate::points::{
    ACCEPTANCE, AHEAD, AHEAD_AGAIN, Given, Held, LAPSE, LATE_ACCEPTANCE, PREPARED_REMOVAL, PROVISION, REMOVAL, RESTART,
    SETTINGS, SPARE, SPARE_REMOVAL, SPARE_TAKEN, Scene, Story, Theatre, walk, walks,
};
use crate::simulated::{Blow, Fuse, Rules as CellRules, Simulated, serve_cells};
use crate::stage::Stage;

/// One point of so many is tried in every test run; what Fly asks for in time makes each of them long.
const EVERY: u32 = 13;
/// New settings are a short story.
const EVERY_OF_FEW: u32 = 4;
const EVERY_CALL: u32 = 29;
/// A plan that is accepted while a place goes is a long story, and so is a place that is made anew.
const EVERY_OF_MANY: u32 = 61;
/// Simulators on which a story's points are tried side by side: nearly all of the time is Fly's and the limits on asking it.
const SIDE_BY_SIDE: usize = 2;
const INSTALLATION: Uuid = Uuid::from_u128(0xfee_d000 << 96);
const PORT: u16 = 18789;
/// From a cell's start until its runtime is ready.
const BOOT: Duration = Duration::from_millis(30);

pub(crate) struct Fly {
    pub(crate) simulator: Simulator,
    pub(crate) cells: Arc<Simulated>,
    watch_period: Duration,
    /// How long a place waits for a plan.
    pub(crate) keep_ahead: TimeDelta,
}

/// The cells of the simulator's machines.
struct Cells {
    cells: Arc<Simulated>,
    doors: Mutex<HashMap<String, AbortHandle>>,
}

impl Guests for Cells {
    fn start(&self, address: &str, environment: &BTreeMap<String, String>) {
        let bot: BotId = environment["MOLT_BOT_ID"].parse().unwrap();
        let config: Value = serde_json::from_str(&environment["CLAWDBOT_CONFIG"]).unwrap();
        let revision = environment["MOLT_CONFIG_REVISION"].parse().unwrap();
        let applied = Applied { revision, hash: canonical_hash(&config) };
        assert!(environment["MOLT_EGRESS_KEY"].starts_with("mek_"), "a cell has no way out");
        self.cells.begin(
            &bot,
            &environment["MOLT_GATEWAY_TOKEN"],
            environment["MOLT_GHOST_KEY"].clone().into(),
            applied,
        );
        let listener = std::net::TcpListener::bind((address, PORT)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let door = tokio::spawn(serve_cells(listener, self.cells.clone())).abort_handle();
        self.doors.lock().unwrap().insert(bot.as_str().to_owned(), door);
    }

    fn end(&self, bot: &str) {
        self.cells.end(&bot.parse().unwrap());
        if let Some(door) = self.doors.lock().unwrap().remove(bot) {
            door.abort();
        }
    }

    fn point(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.cells.fuse.point())
    }

    fn suffers(&self) -> Option<Fault> {
        self.cells.fuse.blow_here().map(|blow| match blow {
            Blow::Refuse => Fault::Broken,
            Blow::LoseAnswer | Blow::Kill => Fault::LoseAnswer,
        })
    }
}

impl Fly {
    pub(crate) async fn set() -> Self {
        let lease_max = Duration::from_secs(1);
        Self::with(Rules { lag: Duration::from_millis(5), lease_max, ..Rules::default() }, BOOT).await
    }

    /// With these rules, and cells that take so long to boot.
    pub(crate) async fn with(rules: Rules, boot: Duration) -> Self {
        let nowhere = CellAddress::Tcp("127.0.0.1:9".to_owned());
        let cells = Simulated::new(CellRules { boot, ..CellRules::default() }, nowhere);
        let guests = Arc::new(Cells { cells: cells.clone(), doors: Mutex::default() });
        let simulator = Simulator::with(Rules { guests: Some(guests), ..rules }).await;
        // Its listing is a call that comes by itself, at any point of a story.
        Self { simulator, cells, watch_period: Duration::from_secs(3600), keep_ahead: TimeDelta::hours(1) }
    }

    pub(crate) fn app_of(bot: &BotId) -> String {
        format!("molt-0feed000-{}", bot.as_str().trim_start_matches("molt-"))
    }
}

impl Scene for Fly {
    /// The simulator and the cells ask the fuse themselves.
    type Way = ();
    const LOOK: Duration = Duration::from_millis(60);

    fn fuse(&self) -> &Arc<Fuse> {
        &self.cells.fuse
    }

    fn open(&self, stage: &Stage) -> (Arc<dyn Host>, Config, ()) {
        let settings = FlySettings {
            api_url: self.simulator.url(),
            token: TOKEN.to_owned().into(),
            org: ORG.into(),
            network: "platform".into(),
            app_prefix: "molt".into(),
            regions: vec!["fra".into(), "ams".into()],
            image: "registry.fly.io/molt-bot:1".into(),
            cpu_kind: "shared".into(),
            cpus: 2,
            memory_mib: 2048,
            volume_gib: 3,
            watch_period: self.watch_period,
            installation: INSTALLATION,
        };
        let config = Config { keep_ahead: self.keep_ahead, ..stage.config() };
        (Arc::new(FlyHost::new(settings).unwrap()), config, ())
    }

    /// An app is there as long as anything of it is, so an app with two volumes is odd; one with none is what is left of a
    /// place that was taken away.
    async fn holds(&self) -> Held {
        let state = self.simulator.state();
        let mut held = Held::default();
        for (name, app) in &state.apps {
            let bot: BotId = name.replace("molt-0feed000-", "molt-").parse().unwrap();
            held.cells.extend(app.living().filter(|machine| machine.state == "started").map(|_| bot.clone()));
            match (app.volumes.len(), app.living().count(), app.ips.len()) {
                (1, 1, 1) => held.volumes.push(bot),
                (0, 0, 0..=1) => held.empty.push(bot),
                odd => held.rest.push(format!("{bot} with {odd:?} volumes, machines and addresses")),
            }
        }
        held.rest.extend(state.lost.iter().map(|volume| format!("{volume}, which was used, is gone")));
        held
    }

    async fn volume(&self, bot: &BotId) -> Option<String> {
        let state = self.simulator.state();
        Some(state.apps.get(&Self::app_of(bot))?.volumes.first()?.id.clone())
    }

    async fn given(&self, _stage: &Stage, bot: &BotId) -> Option<Given> {
        Some(Given { key: Some(self.cells.ghost_key(bot)?), revision: self.cells.applied_revision(bot) })
    }
}

async fn walk_all(story: &Story, blow: Blow, every: u32) {
    let theatre = async || Theatre { keep_spare: story.spares(), ..Theatre::new(Fly::set().await).await };
    let theatres = join_all((0..SIDE_BY_SIDE).map(|_| theatre())).await;
    walk(&theatres, story, blow, Commits::Done, every).await;
}

#[tokio::test]
async fn a_bot_comes_changes_rests_and_goes_and_leaves_nothing() {
    let theatre = Theatre::new(Fly::set().await).await;
    let (stage, fly) = (&theatre.stage, &theatre.scene);
    let fleet = theatre.next_fleet().0;
    let bot = stage.bot(Intent::Running).await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.settle(&fleet).await;
    let volume = fly.volume(&bot).await;
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);
    assert_eq!(stage.timeline(&bot).await, "reserved done, cell done, booting done, settings done, ready done");
    assert_eq!(stage.events(&bot, "bot.running").await, 1);
    let address = format!("tcp:{}:{PORT}", fly.simulator.app().ips[0].0);
    assert_eq!(stage.column(&bot, "cell ->> 'address'").await, Some(address));

    // New settings reach the cell that runs; the machine isn't touched.
    let machine = fly.simulator.app().living().next().unwrap().id.clone();
    let starts = fly.simulator.calls("POST", "/start").len();
    stage.ask(&bot, "revision = revision + 1").await;
    stage.work(&fleet, &SETTINGS.done.replace('$', bot.as_str())).await;
    stage.settle(&fleet).await;
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);
    assert_eq!(fly.simulator.calls("POST", "/start").len(), starts);

    stage.ask(&bot, "intent = 'stopped'").await;
    stage.until(&fleet, &bot, Observed::Stopped).await;
    assert_eq!(fly.simulator.app().living().next().unwrap().state, "stopped");
    assert_eq!(fly.cells.holds().0, [], "its cell answers nobody");

    assert_eq!(fly.simulator.state().refused_for_pace, 0, "the limits were kept");

    // Another platform takes over, which knows of no calls before its own, and starts the same machine on the same volume with another key.
    drop(fleet);
    let fleet = theatre.next_fleet().0;
    stage.ask(&bot, "intent = 'running'").await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.settle(&fleet).await;
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);
    assert_eq!(fly.simulator.app().living().next().unwrap().id, machine);

    stage.ask(&bot, "intent = 'deleted'").await;
    stage.work(&fleet, "select not exists (select from molt.bots)").await;
    assert!(fly.simulator.state().apps.is_empty());
    for table in ["ghost_keys", "bot_steps", "egress_allowed"] {
        assert_eq!(stage.database.count(&format!("select count(*) from molt.{table}")).await, 0, "{table}");
    }
    let tomb = format!("select count(*) from molt.tombstones where bot_id = '{bot}' and host = 'fly'");
    assert_eq!(stage.database.count(&tomb).await, 1);
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept::default());
}

#[tokio::test]
async fn the_sweeper_removes_what_has_no_row_and_mends_what_has() {
    let theatre = Theatre::new(Fly::set().await).await;
    let (stage, fly) = (&theatre.stage, &theatre.scene);
    let fleet = theatre.next_fleet().0;
    let bot = stage.bot(Intent::Running).await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.settle(&fleet).await;
    let volume = fly.volume(&bot).await;
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept::default(), "all is well");

    // A row that says that nothing runs, and nobody is going to look: what runs is found and ended.
    let rests = "intent = 'stopped', observed = 'stopped', phase = 'stopped', due_at = null, leased_until = null";
    stage.database.execute(&format!("update molt.bots set {rests}")).await;
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 0, made_due: 1 });
    stage.settle(&fleet).await;
    assert_eq!(fly.simulator.app().living().next().unwrap().state, "stopped");

    // A machine that is gone while nobody looked comes back on its volume.
    stage.ask(&bot, "intent = 'running'").await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.settle(&fleet).await;
    fly.simulator.destroy_machine(&Fly::app_of(&bot));
    drop(fleet);
    let fleet = theatre.next_fleet().0;
    stage.work(&fleet, "select observed = 'running' and attempts = 0 from molt.bots").await;
    stage.work(&fleet, "select count(*) > 0 from molt.bots where cell ->> 'address' is not null").await;
    stage.settle(&fleet).await;
    assert_eq!(theatre.faults(&bot, volume).await, None);

    // Apps of a bot that has no row, whole and half made; and others, which are nobody's business.
    let half = BotId::random();
    {
        let mut state = fly.simulator.state();
        state.add_app(&Fly::app_of(&half), ORG, &Fly::app_of(&half));
        state.add_app("molt-00000000-0123456789abcdef", ORG, "molt-00000000-0123456789abcdef");
        state.add_app("shop", ORG, "shop");
    }
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 1, made_due: 0 });
    stage.database.execute("delete from molt.bots").await;
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 1, made_due: 0 });
    let left: Vec<String> = fly.simulator.state().apps.keys().cloned().collect();
    assert_eq!(left, ["molt-00000000-0123456789abcdef", "shop"]);
}

#[tokio::test]
async fn provisioning_at_fly_survives_a_kill_at_every_point() {
    walk_all(&PROVISION, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn new_settings_at_fly_survive_a_kill_at_every_point() {
    walk_all(&SETTINGS, Blow::Kill, EVERY_OF_FEW).await;
}

#[tokio::test]
async fn a_restart_at_fly_survives_a_kill_at_every_point() {
    walk_all(&RESTART, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_removal_at_fly_survives_a_kill_at_every_point() {
    walk_all(&REMOVAL, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_place_made_ahead_at_fly_survives_a_kill_at_every_point() {
    walks([&AHEAD, &LAPSE, &PREPARED_REMOVAL].map(|story| walk_all(story, Blow::Kill, EVERY))).await;
}

#[tokio::test]
async fn a_plan_accepted_for_a_place_at_fly_survives_a_kill_at_every_point() {
    let stories = [(&ACCEPTANCE, EVERY), (&LATE_ACCEPTANCE, EVERY_CALL), (&AHEAD_AGAIN, EVERY_CALL)];
    walks(stories.map(|(story, every)| walk_all(story, Blow::Kill, every))).await;
}

#[tokio::test]
async fn a_spare_place_at_fly_survives_a_kill_at_every_point() {
    let stories = [(&SPARE, EVERY), (&SPARE_REMOVAL, EVERY), (&SPARE_TAKEN, EVERY_CALL)];
    walks(stories.map(|(story, every)| walk_all(story, Blow::Kill, every))).await;
}

#[tokio::test]
async fn any_call_about_a_spare_place_at_fly_may_break_or_lose_its_answer() {
    let stories = [(&SPARE, EVERY_CALL), (&SPARE_TAKEN, EVERY_OF_MANY)];
    let both = |(story, every)| [Blow::Refuse, Blow::LoseAnswer].map(|blow| walk_all(story, blow, every));
    walks(stories.into_iter().flat_map(both)).await;
}

#[tokio::test]
async fn any_call_about_a_place_at_fly_may_break() {
    walk_places(Blow::Refuse).await;
}

#[tokio::test]
async fn any_call_about_a_place_at_fly_may_lose_its_answer() {
    walk_places(Blow::LoseAnswer).await;
}

async fn walk_places(blow: Blow) {
    let stories = [
        (&LATE_ACCEPTANCE, EVERY_OF_MANY),
        (&AHEAD_AGAIN, EVERY_OF_MANY),
        (&ACCEPTANCE, EVERY_CALL),
        (&LAPSE, EVERY_CALL),
        (&PREPARED_REMOVAL, EVERY_CALL),
        (&AHEAD, EVERY),
    ];
    walks(stories.map(|(story, every)| walk_all(story, blow, every))).await;
}

#[tokio::test]
async fn any_call_to_fly_may_break() {
    walks([&PROVISION, &RESTART, &REMOVAL].map(|story| walk_all(story, Blow::Refuse, EVERY_CALL))).await;
}

#[tokio::test]
async fn any_call_to_fly_may_lose_its_answer() {
    walks([&PROVISION, &RESTART, &REMOVAL].map(|story| walk_all(story, Blow::LoseAnswer, EVERY_CALL))).await;
}
