//! The fleet with thousands of bots: one process, a real Postgres that waits for its disk, and a simulated host whose calls take
//! 20 ms and fail one time in a hundred. Prints a row of Markdown for each figure; `bench/fleet.mjs` puts them on the page.
//! Never: a figure that the cells' own work is part of; they have a thread of their own, whose time isn't counted.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on says so by ending")]

#[path = "../simulated/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod simulated;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use molt_bot::CellAddress;
use molt_fleet::{Config, Fleet, Pace, Paced, RuntimeState};
use molt_model::{BotId, CatalogInForce, Personality, Settings, SystemClock, UserId};
use molt_store::local::{Binaries, Cluster, Purpose};
use molt_store::testing::{TestDatabase, database_on};
use simulated::{Rules, Simulated, SimulatedHost, catalog, serve_cells};
use tokio::sync::watch;

const BOTS: usize = 10_000;
const LATENCY: Duration = Duration::from_millis(20);
/// In ten thousand calls: half fail before they do anything, half lose their answer.
const FAULTS: u64 = 50;
/// What the host allows in a second, and the pace that the fleet is given for it.
const CALLS_PER_SECOND: usize = 1_200;
const PACE: Pace = Pace { calls_per_second: 1_000, burst: 100 };
const BOOT: Duration = Duration::from_secs(3);
/// What the cold start left to do is done.
const SETTLES: Duration = Duration::from_secs(5);
/// Nothing here takes longer; whoever waits in vain should hear of it.
const PATIENCE: Duration = Duration::from_secs(400);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const INSERTED_AT_ONCE: usize = 500;

fn main() {
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let seconds = |name, default| Duration::from_secs(number(name, default) as u64);
    let (bots, steady, away) = (number("BOTS", BOTS), seconds("STEADY_S", 60), seconds("AWAY_S", 10));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("fleet")
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(bots, steady, away));
}

async fn run(bots: usize, steady: Duration, away: Duration) {
    let folder = Folder::new();
    let path = std::env::var("PATH").unwrap_or_default();
    let cluster = Cluster::start(&Binaries::find(&[], &path), &folder.0.join("postgres"), Purpose::Keep).await.unwrap();
    let database = database_on(&cluster.maintenance_url()).await;
    make_bots(&database, bots).await;
    let host = start_host();
    let fleet = Arc::new(start_fleet(&folder.0, &database, &host));
    let driver = tokio::spawn(drive(fleet.clone()));

    let begun = Instant::now();
    until_all_run(&database, &now(&database).await).await;
    row("cold start until all run, s", format!("{:.1}", begun.elapsed().as_secs_f64()));
    let cold = host.counted();
    row("host calls for it, a bot", format!("{:.1}", cold.calls as f64 / bots as f64));

    if !steady.is_zero() {
        tokio::time::sleep(SETTLES).await;
        let before = Meter::read(&database, &cluster).await;
        tokio::time::sleep(steady).await;
        let after = Meter::read(&database, &cluster).await;
        after.report(&before, steady);
    }
    if !away.is_zero() {
        outage(&database, &host, bots, away).await;
    }
    driver.abort();
    drop(fleet);
    database.store.close().await;
    drop(database);
    cluster.stop().await;
}

/// Every machine goes at once, and the host with them for a while.
async fn outage(database: &TestDatabase, host: &Simulated, bots: usize, away: Duration) {
    let (calls, began) = (host.counted().calls, now(database).await);
    host.go_away();
    tokio::time::sleep(away).await;
    let calls = host.counted().calls - calls;
    row("host calls while it is away, a second", format!("{:.0}", calls as f64 / away.as_secs_f64()));
    let begun = Instant::now();
    host.come_back();
    until_all_run(database, &began).await;
    row("mass restart after an outage until all run, s", format!("{:.1}", begun.elapsed().as_secs_f64()));
    let counted = host.counted();
    row("most host calls in any second (1,200 are allowed)", counted.most.to_string());
    row("calls beyond the host's limit", counted.hammering.to_string());
    row("calls that failed or lost their answer", counted.failed.to_string());
    let (machines, volumes) = host.holds();
    assert_eq!((machines.len(), volumes.len()), (bots, bots), "one cell and one volume a bot");
}

async fn now(database: &TestDatabase) -> String {
    database.text("select clock_timestamp()").await.unwrap()
}

fn row(what: &str, figure: String) {
    println!("| {what} | {figure} |");
}

/// As the loop driver of the platform does.
async fn drive(fleet: Arc<Fleet>) {
    loop {
        match fleet.run_once().await {
            Ok(counts) if counts.claimed + counts.steps > 0 => {}
            Ok(_) => drop(tokio::time::timeout(Duration::from_secs(5), fleet.nudge().notified()).await),
            Err(error) => {
                eprintln!("a round failed: {error}");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// Until every bot was declared running after `since` (a moment of the database's clock).
async fn until_all_run(database: &TestDatabase, since: &str) {
    let begun = Instant::now();
    let question = format!("select count(*) from molt.bots where observed <> 'running' or running_since < '{since}'");
    let mut told = Instant::now();
    loop {
        let left = database.count(&question).await;
        if left == 0 {
            return;
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("{:.0} s: {left} don't run", begun.elapsed().as_secs_f64());
        }
        assert!(begun.elapsed() < PATIENCE, "{left} bots don't run");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A person for each bot, as in life: a person's events queue up behind each other.
async fn make_bots(database: &TestDatabase, bots: usize) {
    let settings = Settings::new("Pip".into(), Personality::Friendly, "UTC".into(), &catalog());
    let settings = serde_json::to_string(&settings).unwrap();
    for first in (0..bots).step_by(INSERTED_AT_ONCE) {
        let (mut people, mut rows) = (Vec::new(), Vec::new());
        for number in first..bots.min(first + INSERTED_AT_ONCE) {
            let (user, bot) = (UserId::random(), BotId::random());
            people.push(format!("('{user}', 'bench', '{number}', '{number}@example.test')"));
            rows.push(format!("('{bot}', '{user}', 'Pip', 'developer', '{settings}', 'running', now())"));
        }
        let sql = format!(
            "insert into molt.users (id, issuer, subject, email) values {};
             insert into molt.bots (id, user_id, bot_name, vertical, settings, intent, due_at) values {}",
            people.join(","),
            rows.join(",")
        );
        database.execute(&sql).await;
    }
    database.execute("analyze").await;
}

/// The cells answer on a thread of their own, so that their work isn't taken for the fleet's.
fn start_host() -> Arc<Simulated> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = CellAddress::Tcp(listener.local_addr().unwrap().to_string());
    let rules =
        Rules { latency: LATENCY, faults: FAULTS, calls_per_second: CALLS_PER_SECOND, boot: BOOT, ahead: false };
    let host = Simulated::new(rules, address);
    let served = host.clone();
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { serve_cells(tokio::net::TcpListener::from_std(listener).unwrap(), served).await });
    };
    std::thread::Builder::new().name("cells".to_owned()).spawn(serve).unwrap();
    host
}

fn start_fleet(folder: &Path, database: &TestDatabase, host: &Arc<Simulated>) -> Fleet {
    let config = Config {
        data_dir: folder.join("data"),
        cell_binary: "/bin/false".into(),
        proxy_url: "http://127.0.0.1:9/v1".into(),
        catalog: CatalogInForce::from(catalog()),
        uid_range: None,
        keep_ahead: chrono::TimeDelta::zero(),
        keep_spare: 0,
    };
    let (sender, runtime) = watch::channel(RuntimeState::Ready { command: vec!["/bin/false".into()] });
    // Its last word stands.
    drop(sender);
    let paced = Arc::new(Paced::new(SimulatedHost(host.clone()), PACE));
    Fleet::new(config, database.store.clone(), Arc::new(SystemClock), paced, runtime)
}

/// What was used so far.
struct Meter {
    fleet: Duration,
    postgres: Duration,
    resident_kib: u64,
    commits: i64,
    rows: i64,
}

impl Meter {
    async fn read(database: &TestDatabase, cluster: &Cluster) -> Self {
        let figure = |column: &'static str| {
            let sql = format!("select {column} from pg_stat_database where datname = current_database()");
            async move { database.count(&sql).await }
        };
        // Sessions say what they did when they are idle; the fleet's are, most of the time.
        let (commits, rows) = (figure("xact_commit").await, figure("tup_returned").await);
        Self { fleet: threads("fleet"), postgres: family(cluster), resident_kib: resident_kib(), commits, rows }
    }

    fn report(&self, before: &Self, over: Duration) {
        let share =
            |now: Duration, then: Duration| format!("{:.2}", (now - then).as_secs_f64() / over.as_secs_f64() * 100.0);
        let a_second = |now: i64, then: i64| format!("{:.1}", (now - then) as f64 / over.as_secs_f64());
        row("steady: the fleet's share of a core, %", share(self.fleet, before.fleet));
        row("steady: Postgres's share of a core, %", share(self.postgres, before.postgres));
        row("steady: transactions a second", a_second(self.commits, before.commits));
        row("steady: rows read a second, the catalogue's too", a_second(self.rows, before.rows));
        row("memory, simulated host and cells included, MiB", format!("{:.0}", self.resident_kib as f64 / 1024.0));
    }
}

/// Time on a processor of this process's threads of this name.
fn threads(name: &str) -> Duration {
    let of = |folder: PathBuf| {
        let comm = std::fs::read_to_string(folder.join("comm")).ok()?;
        let nanos = std::fs::read_to_string(folder.join("schedstat")).ok()?;
        let nanos: u64 = nanos.split(' ').next()?.parse().ok()?;
        comm.trim().starts_with(name).then_some(nanos)
    };
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    Duration::from_nanos(tasks.filter_map(|task| of(task.path())).sum())
}

/// The same of Postgres: its first process and the children that live.
fn family(cluster: &Cluster) -> Duration {
    let first = cluster.pid().to_string();
    let of = |folder: PathBuf| {
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.to_owned();
        let ours = parent == first || folder.file_name()?.to_str()? == first;
        let nanos: u64 = std::fs::read_to_string(folder.join("schedstat")).ok()?.split(' ').next()?.parse().ok()?;
        ours.then_some(nanos)
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    Duration::from_nanos(processes.filter_map(|process| of(process.path())).sum())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

/// A folder that Postgres's own account can reach.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("mf-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711)).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
