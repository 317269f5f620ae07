//! The fleet with its rows on the host that is Fly, against the simulator of it: a bot's whole life, its kills, what the
//! sweeper finds, and where the time of a start goes. The cells are the tests' own; what a machine is given is what they answer to.
//! Never: a word about Fly itself. It was not asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::future::join_all;
use hyper::Method;
use molt_bot::{Applied, CellAddress, canonical_hash};
use molt_fleet::{BoxFuture, Config, Fleet, FlyHost, FlySettings, Host, Swept};
use molt_model::{BotId, Intent, Observed};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::fly_simulator::{Call, Fault, Guests, ORG, Rules, Simulator, TOKEN};
use crate::line::Commits;
use crate::points::{
    ACCEPTANCE, AHEAD, AHEAD_AGAIN, Given, Held, LAPSE, LATE_ACCEPTANCE, PREPARED_REMOVAL, PROVISION, REMOVAL, RESTART,
    SETTINGS, Scene, Story, Theatre, walk, walks,
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
    let theatres = join_all((0..SIDE_BY_SIDE).map(|_| async { Theatre::new(Fly::set().await).await })).await;
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

/// What Fly's calls are taken to need; nobody has measured Fly for this. What is held here is what lies between them.
fn latency(method: &Method, path: &str) -> Duration {
    Duration::from_millis(match (method.as_str(), path.rsplit('/').next().unwrap_or_default()) {
        ("GET", _) => 60,
        ("POST", "apps") => 400,
        ("POST", "ip_assignments") => 250,
        ("POST", "volumes") => 700,
        ("POST", "machines") => 1_000,
        _ => 300,
    })
}

/// From one state of a machine to the next, twice on its way up.
const LAG: Duration = Duration::from_millis(400);
/// Of the runtime.
const LONG_BOOT: Duration = Duration::from_secs(3);
/// What a start may take besides the runtime (the issue's own figure).
const BESIDES_MAX: Duration = Duration::from_secs(2);
/// What Fly's own calls may take of that where a place was made ahead.
const FLY_MAX: Duration = Duration::from_millis(1_600);
/// Of a machine that is there: one look finds the app and it, the secrets are given while the address is read and the lease
/// taken, and the lease is given back while the machine starts.
const ASIDE_OF_A_MACHINE: [&str; 4] = ["GET machines", "GET ip_assignments", "POST lease", "DELETE lease"];

/// Where the time of a start went.
struct Timed {
    /// From the acceptance of the plan until the bot ran, without the runtime's boot.
    besides: Duration,
    /// What of it were Fly's calls, by their latencies.
    at_fly: Duration,
    /// The rest.
    ours: Duration,
}

async fn timed_theatre(keep_ahead: TimeDelta) -> Theatre<Fly> {
    let fly = Fly::with(Rules { lag: LAG, latency, ..Rules::default() }, LONG_BOOT).await;
    Theatre::new(Fly { keep_ahead, ..fly }).await
}

#[tokio::test]
async fn where_a_place_was_made_ahead_a_plan_is_followed_by_the_runtimes_boot_and_less_than_two_seconds() {
    let theatre = timed_theatre(TimeDelta::hours(1)).await;
    let (stage, fleet) = (&theatre.stage, theatre.next_fleet().0);
    let bot = stage.bot(Intent::AwaitingPlan).await;
    stage.work(&fleet, &AHEAD.done.replace('$', bot.as_str())).await;
    stage.settle(&fleet).await;
    // The machine comes up in one move. What Fly takes counts.
    let first = time_a_start(&theatre, &fleet, &bot, &ASIDE_OF_A_MACHINE, 1).await;
    assert!(first.at_fly <= FLY_MAX, "{:?}", first.at_fly);
    // A clock on a busy machine can't be held to the tenths of a second that are left.
    let most = if std::env::var_os("MOLT_PROVE").is_some() { first.besides } else { first.ours };
    assert!(most < BESIDES_MAX, "{most:?}");
}

#[tokio::test]
async fn a_start_takes_what_fly_and_the_runtime_take_and_little_else() {
    let theatre = timed_theatre(TimeDelta::zero()).await;
    let stage = &theatre.stage;
    let fleet = theatre.next_fleet().0;
    let bot = stage.bot(Intent::AwaitingPlan).await;
    stage.settle(&fleet).await;
    assert!(theatre.scene.simulator.state().calls.iter().all(|call| call.method == "GET"), "nothing is made ahead");
    // The address is made while the volume is; a machine comes up in two moves.
    let first = time_a_start(&theatre, &fleet, &bot, &["GET machines", "POST ip_assignments"], 2).await;
    stage.ask(&bot, "intent = 'stopped'").await;
    stage.until(&fleet, &bot, Observed::Stopped).await;
    let again = time_a_start(&theatre, &fleet, &bot, &ASIDE_OF_A_MACHINE, 1).await;
    for start in [first, again] {
        assert!(start.ours < BESIDES_MAX, "{:?}", start.ours);
    }
}

/// A plan may come while the place is still being made: the start goes on with that, and nothing is made twice.
#[tokio::test]
async fn a_plan_that_comes_while_the_place_is_made_waits_for_the_rest_of_it_and_for_nothing_else() {
    // What Fly is asked for when the plan comes.
    join_all(["/v1/apps", "/volumes", "/machines"].map(async |made| {
        let theatre = timed_theatre(TimeDelta::hours(1)).await;
        let (stage, simulator, fleet) = (&theatre.stage, &theatre.scene.simulator, theatre.next_fleet().0);
        let created = Instant::now();
        let bot = stage.bot(Intent::AwaitingPlan).await;
        let asked = format!("select ahead = 'making' from molt.bots where id = '{bot}'");
        while simulator.calls("POST", made).is_empty() {
            stage.work(&fleet, &asked).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let early = created.elapsed();
        stage.ask(&bot, "intent = 'running'").await;
        let accepted = Instant::now();
        stage.until(&fleet, &bot, Observed::Running).await;
        let besides = accepted.elapsed() - LONG_BOOT;
        // Both looks for a machine are beside others, and so are the address and what the start has aside.
        let aside = [&ASIDE_OF_A_MACHINE[..], &["GET machines", "POST ip_assignments"]].concat();
        let all = account(&theatre, &bot, 0, created.elapsed(), &aside, 1).await;
        println!("accepted {early:?} after the bot was made, it ran {besides:?} later, besides the runtime's boot");
        for (end, times) in [("/v1/apps", 1), ("/ip_assignments", 1), ("/volumes", 1), ("/machines", 1), ("/start", 1)]
        {
            assert_eq!(simulator.calls("POST", end).len(), times, "{end}, accepted at {made}");
        }
        assert!(all.ours < BESIDES_MAX, "{:?}", all.ours);
    }))
    .await;
}

/// Has the bot start and says where the time went. `aside`: calls that are made while others are.
async fn time_a_start(theatre: &Theatre<Fly>, fleet: &Fleet, bot: &BotId, aside: &[&str], moves: u32) -> Timed {
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    let before = simulator.state().calls.len();
    stage.ask(bot, "intent = 'running'").await;
    let accepted = Instant::now();
    stage.until(fleet, bot, Observed::Running).await;
    account(theatre, bot, before, accepted.elapsed(), aside, moves).await
}

/// Where the time went that it took from the call after `before` on until the bot ran.
async fn account(
    theatre: &Theatre<Fly>,
    bot: &BotId,
    before: usize,
    took: Duration,
    aside: &[&str],
    moves: u32,
) -> Timed {
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    let calls = simulator.state().calls[before..].to_vec();
    let of = |call: &Call| latency(&call.method.parse().unwrap(), &call.path);
    let mut aside = aside.to_vec();
    let mut at_fly = LAG * moves;
    for call in &calls {
        let end = format!("{} {}", call.method, call.path.rsplit('/').next().unwrap_or_default());
        let beside = aside.iter().position(|name| *name == end).map(|at| aside.remove(at)).is_some();
        at_fly += if beside { Duration::ZERO } else { of(call) };
        let note = if beside { " beside others" } else { "" };
        println!("  {} {} {:?}{note}", call.method, call.path.replace(&Fly::app_of(bot), "…"), of(call));
    }
    assert!(aside.is_empty(), "not called: {aside:?}");
    let besides = took - LONG_BOOT;
    let ours = besides.checked_sub(at_fly).expect("less than Fly and the runtime take: the sum is wrong");
    let lines = "select string_agg(format('%s %s ms', name, round(extract(epoch from ended_at - started_at) * 1000)),
                   ', ' order by position) from molt.bot_steps";
    println!("the timeline: {}", stage.database.text(lines).await.unwrap());
    println!(
        "{took:?}: {} calls to Fly and its machine {at_fly:?}, the runtime {LONG_BOOT:?}, ours {ours:?}; all but the runtime {besides:?}",
        calls.len()
    );
    Timed { besides, at_fly, ours }
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
