//! The real host with the real cell, and the stand-in for the runtime: kills from outside, doubles, leftovers, orphans.
//! As root every cell has a user of its own here, as in production.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use molt_bot::leftovers::{MARK_VARIABLE, living, mark, parent, start_time};
use molt_bot::{CellAddress, CellHealth, Client};
use molt_fleet::{CellSpec, Config, Ensured, Fleet, Host, ProcessHost, Report, RuntimeState, Sealing, cell_users};
use molt_model::{BotId, Intent, Observed};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::programs::programs;
use crate::stage::Stage;

/// What the second program of these tests is told.
const CHILD_VARIABLE: &str = "MOLT_FLEET_TEST_HOST";

/// The command of the real runtime as a JSON array, to try these stories with it.
const RUNTIME_VARIABLE: &str = "MOLT_TEST_RUNTIME";

/// Far longer than a look takes, unless it is paused in the middle.
const LOOK_TAKES: Duration = Duration::from_millis(50);

struct House {
    stage: Stage,
    config: Config,
}

impl House {
    async fn new() -> Self {
        let stage = Stage::new().await;
        std::fs::set_permissions(&stage.folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let bin = stage.folder.join("bin");
        std::fs::create_dir(&bin).unwrap();
        let [cell, runtime] = programs();
        std::fs::copy(cell, bin.join("molt-cell")).unwrap();
        std::fs::copy(runtime, bin.join("runtime")).unwrap();
        let stand_in = || vec![bin.join("runtime").to_str().unwrap().to_owned(), "gateway".to_owned()];
        let command =
            std::env::var(RUNTIME_VARIABLE).map_or_else(|_| stand_in(), |text| serde_json::from_str(&text).unwrap());
        stage.runtime.send_replace(RuntimeState::Ready { command });
        let config = Config { cell_binary: bin.join("molt-cell"), uid_range: cell_users(), ..stage.config() };
        Self { stage, config }
    }

    fn host(&self) -> Arc<ProcessHost> {
        Arc::new(ProcessHost::new(&self.config, &Sealing::off()).unwrap())
    }

    fn fleet(&self) -> Fleet {
        self.stage.fleet_with(self.config.clone(), self.host())
    }

    async fn running_bot(&self, fleet: &Fleet) -> BotId {
        let bot = self.stage.bot(Intent::Running).await;
        self.stage.until(fleet, &bot, Observed::Running).await;
        bot
    }

    fn state(&self, bot: &BotId) -> PathBuf {
        self.stage.folder.canonicalize().unwrap().join("bots").join(bot.as_str()).join("state")
    }

    /// The cell's number, as it wrote it down.
    fn cell(&self, bot: &BotId) -> u32 {
        let text = std::fs::read_to_string(self.state(bot).join("molt/cell.lock")).unwrap();
        let (pid, started) = text.trim().split_once(' ').unwrap();
        let pid = pid.parse().unwrap();
        assert_eq!(start_time(pid).map(|time| time.to_string()).as_deref(), Some(started));
        pid
    }

    async fn health(&self, bot: &BotId) -> CellHealth {
        let (address, token) = self.stage.database.store.cell_address(bot).await.unwrap().unwrap();
        Client::new(address.parse().unwrap(), token).health().await.unwrap()
    }

    /// Everything that carries the bot's mark, the cell itself too.
    fn processes(&self, bot: &BotId) -> Vec<u32> {
        let entry = format!("{MARK_VARIABLE}={}", mark(bot.as_str(), &self.state(bot)));
        living().into_iter().filter(|&pid| environment(pid).contains(&entry)).collect()
    }

    /// One cell and one runtime, which the cell knows; a runtime may have helpers of its own.
    async fn assert_one_of_each(&self, bot: &BotId) {
        let runtime = self.health(bot).await.runtime_pid.unwrap();
        let cell = self.cell(bot);
        let found = self.processes(bot);
        let children: Vec<u32> = found.iter().copied().filter(|&pid| parent(pid) == Some(cell)).collect();
        assert_eq!(children, [runtime], "{found:?}");
        let helpers = |pid: &u32| *pid == cell || *pid == runtime || parent(*pid).is_some_and(|pid| pid == runtime);
        assert!(found.iter().all(helpers), "{found:?}");
    }

    /// Ends what a test leaves.
    async fn clear(&self) {
        let host = self.host();
        for bot in host.list().await.unwrap() {
            host.stop(&bot, true).await.unwrap();
        }
    }
}

impl Drop for House {
    /// A test that failed leaves no cell behind; a cell takes its runtime with it.
    fn drop(&mut self) {
        let folder = format!("MOLT_STATE_DIR={}/", self.stage.folder.display());
        for pid in living() {
            if environment(pid).iter().any(|entry| entry.starts_with(&folder)) {
                signal(pid, Signal::KILL);
            }
        }
    }
}

fn environment(pid: u32) -> Vec<String> {
    molt_bot::leftovers::environment(pid)
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_bot_comes_up_in_its_own_place_and_goes_without_a_trace() {
    let house = House::new().await;
    let fleet = house.fleet();
    let bot = house.stage.bot(Intent::Running).await;
    let began = Instant::now();
    house.stage.until(&fleet, &bot, Observed::Running).await;
    let took = began.elapsed();
    let boot = Duration::from_millis(house.health(&bot).await.runtime_boot_ms.unwrap());
    println!("accepted to running: {took:?}, of which the runtime's boot: {boot:?}");
    assert!(took < boot + Duration::from_secs(2));
    house.assert_one_of_each(&bot).await;

    let state = house.state(&bot);
    assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    if let Some(users) = cell_users() {
        let user = std::fs::metadata(&state).unwrap().uid();
        assert!(users.contains(&user));
        assert_eq!(molt_bot::leftovers::user(house.cell(&bot)), Some(user));
        let neighbour = house.running_bot(&fleet).await;
        let peek = Command::new("/bin/ls").arg(house.state(&neighbour)).uid(user).gid(user).output().unwrap();
        assert!(!peek.status.success(), "a neighbour's folder is closed");
        house.stage.ask(&neighbour, "intent = 'deleted'").await;
    }
    // Nothing of the cell is told on its command line.
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", house.cell(&bot))).unwrap();
    assert_eq!(line.trim_end_matches('\0'), house.config.cell_binary.to_str().unwrap());

    // A tool of the bot that went its own way.
    let mut stray = stray(&house, &bot);
    house.stage.ask(&bot, "intent = 'deleted'").await;
    house.stage.work(&fleet, "select not exists (select from molt.bots)").await;
    assert!(!stray.wait().unwrap().success(), "killed");
    assert_eq!(house.processes(&bot), Vec::<u32>::new());
    let left: Vec<_> = std::fs::read_dir(house.stage.folder.join("bots")).unwrap().collect();
    assert_eq!(left.len(), 1, "only the note whose bots these are: {left:?}");
}

/// A process with the bot's mark, outside of its session; as root one of the cell's user without any mark.
fn stray(house: &House, bot: &BotId) -> Child {
    let mut command = Command::new("/bin/sleep");
    command.arg("600").env_clear().process_group(0).stdin(Stdio::null());
    if cell_users().is_some() {
        let user = std::fs::metadata(house.state(bot)).unwrap().uid();
        command.uid(user).gid(user);
    } else {
        command.env(MARK_VARIABLE, mark(bot.as_str(), &house.state(bot)));
    }
    command.spawn().unwrap()
}

#[tokio::test]
async fn a_cell_outlives_the_fleet_and_the_next_one_takes_it_over() {
    let house = House::new().await;
    let fleet = house.fleet();
    let bot = house.running_bot(&fleet).await;
    let (cell, boot) = (house.cell(&bot), house.health(&bot).await.boot_id);
    drop(fleet);
    let next = house.fleet();
    house.stage.settle(&next).await;
    assert_eq!((house.cell(&bot), house.health(&bot).await.boot_id), (cell, boot));
    assert_eq!(house.stage.observed(&bot).await, Some(Observed::Running));

    // Its death is noticed although it is nobody's child here, and it comes back once.
    signal(cell, Signal::KILL);
    let began = Instant::now();
    house.stage.work(&next, &format!("select observed <> 'running' from molt.bots where id = '{bot}'")).await;
    println!("the death of a cell was noticed after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2));
    house.stage.until(&next, &bot, Observed::Running).await;
    println!("and it was back after {:?}", began.elapsed());
    assert_ne!(house.cell(&bot), cell);
    house.assert_one_of_each(&bot).await;

    // The runtime's death is the cell's own business; the bot is running again by itself.
    signal(house.health(&bot).await.runtime_pid.unwrap(), Signal::KILL);
    house.stage.settle(&next).await;
    house.stage.until(&next, &bot, Observed::Running).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while house.health(&bot).await.phase != molt_bot::Phase::Ready {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    house.assert_one_of_each(&bot).await;

    next.shutdown().await.unwrap();
    assert_eq!(house.processes(&bot), Vec::<u32>::new());
    assert!(house.state(&bot).exists());
    house.clear().await;
}

#[tokio::test]
async fn a_second_start_finds_the_first() {
    let house = House::new().await;
    let (one, two) = (house.host(), house.host());
    let spec = spec(&house.config, BotId::random());
    let (first, second) = tokio::join!(one.ensure(&spec), two.ensure(&spec));
    let mut outcomes = [first.unwrap(), second.unwrap()];
    outcomes.sort_by_key(|outcome| *outcome == Ensured::AlreadyThere);
    assert_eq!(outcomes, [Ensured::Started, Ensured::AlreadyThere]);
    for _ in 0..20 {
        assert_eq!(two.ensure(&spec).await.unwrap(), Ensured::AlreadyThere);
        assert!(matches!(one.inspect(&spec.bot).await.unwrap(), Report::Present { address: CellAddress::Unix(_) }));
    }
    // Stopped before it could have noted its number, stopped again, stopped while nothing is there.
    one.stop(&spec.bot, false).await.unwrap();
    one.stop(&spec.bot, false).await.unwrap();
    assert_eq!(one.inspect(&spec.bot).await.unwrap(), Report::Absent);
    assert_eq!(one.ensure(&spec).await.unwrap(), Ensured::Started);
    let gone = one.gone(&spec.bot);
    two.stop(&spec.bot, true).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
    assert_eq!(one.list().await.unwrap(), []);
    assert_eq!(house.processes(&spec.bot), Vec::<u32>::new());
}

#[tokio::test]
async fn a_cell_that_does_not_listen_is_killed() {
    let house = House::new().await;
    let fleet = house.fleet();
    let bot = house.running_bot(&fleet).await;
    signal(house.cell(&bot), Signal::STOP);
    let began = Instant::now();
    house.stage.ask(&bot, "intent = 'stopped'").await;
    house.stage.until(&fleet, &bot, Observed::Stopped).await;
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
    assert_eq!(house.processes(&bot), Vec::<u32>::new());
    house.clear().await;
}

#[tokio::test]
async fn a_lock_file_that_lies_ends_nobody_else() {
    let house = House::new().await;
    let fleet = house.fleet();
    let bot = house.running_bot(&fleet).await;
    let cell = house.cell(&bot);
    let mut stranger = Command::new("/bin/sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    let lie = format!("{} {}\n", stranger.id(), start_time(stranger.id()).unwrap());
    std::fs::write(house.state(&bot).join("molt/cell.lock"), lie).unwrap();
    house.stage.ask(&bot, "intent = 'stopped'").await;
    if cell_users().is_some() {
        house.stage.until(&fleet, &bot, Observed::Stopped).await;
        assert_eq!(house.processes(&bot), Vec::<u32>::new());
    } else {
        // Without users of their own, nothing leads from the lie to the cell.
        fleet.run_once().await.unwrap();
        signal(cell, Signal::KILL);
    }
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    house.clear().await;
}

#[tokio::test]
async fn cells_and_folders_of_nobody_are_swept() {
    let house = House::new().await;
    let fleet = house.fleet();
    let bots = [house.running_bot(&fleet).await, house.running_bot(&fleet).await];
    drop(fleet);
    house.stage.database.execute(&format!("delete from molt.bots where id = '{}'", bots[0])).await;
    // Half removed by somebody who was killed.
    let half = BotId::random();
    std::fs::create_dir_all(house.stage.folder.join(format!("bots/.trash-{half}/state"))).unwrap();
    let next = house.fleet();
    house.stage.settle(&next).await;
    assert_eq!(next.sweep_once().await.unwrap().removed, 2);
    assert_eq!(house.processes(&bots[0]), Vec::<u32>::new());
    assert_eq!(house.host().list().await.unwrap(), std::slice::from_ref(&bots[1]));
    house.assert_one_of_each(&bots[1]).await;
    next.shutdown().await.unwrap();
    house.clear().await;
}

/// Kill -9 of the program that started the cell, at once and again: the cell lives, and only one ever does.
#[tokio::test]
async fn the_death_of_the_starter_is_not_the_cells() {
    let house = House::new().await;
    let bot = BotId::random();
    let mut cells = Vec::new();
    for _ in 0..3 {
        let host = house.host();
        let mut respite_ms = 0;
        // Killed between claiming the place and the fork, the program leaves nothing behind; then it may live a little longer.
        while !starter_is_killed(&house, &host, &bot, respite_ms).await {
            assert!(cells.is_empty() && respite_ms < 100, "a cell went with the program that started it");
            respite_ms += 1;
        }
        let spec = spec(&house.config, bot.clone());
        assert_eq!(host.ensure(&spec).await.unwrap(), Ensured::AlreadyThere);
        let noted = |text: std::io::Result<String>| text.is_ok_and(|text| text.ends_with('\n'));
        while !noted(std::fs::read_to_string(house.state(&bot).join("molt/cell.lock"))) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cells.push(house.cell(&bot));
    }
    cells.dedup();
    assert_eq!(cells.len(), 1, "one cell all the time");
    house.clear().await;
}

/// Starts the other program, kills it when a cell seems to be there, and says whether one is there after all.
async fn starter_is_killed(house: &House, host: &ProcessHost, bot: &BotId, respite_ms: u64) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::another_program_that_starts_a_cell", "--nocapture"])
        .env(CHILD_VARIABLE, format!("{} {bot}", house.stage.folder.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while host.inspect(bot).await.unwrap() == Report::Absent {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(respite_ms)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    host.inspect(bot).await.unwrap() != Report::Absent
}

/// The other program of the story above; without being told what to start there is nothing to it.
#[tokio::test]
async fn another_program_that_starts_a_cell() {
    let Ok(told) = std::env::var(CHILD_VARIABLE) else { return };
    let (folder, bot) = told.split_once(' ').unwrap();
    let config = Config {
        data_dir: folder.into(),
        cell_binary: Path::new(folder).join("bin/molt-cell"),
        proxy_url: "http://127.0.0.1:9/v1".into(),
        catalog: crate::simulated::catalog().into(),
        uid_range: cell_users(),
        keep_ahead: chrono::TimeDelta::zero(),
        keep_spare: 0,
    };
    let host = ProcessHost::new(&config, &Sealing::off()).unwrap();
    // Again and again, as the reconciler does: an inspection by somebody else can look like a claim for a moment.
    loop {
        host.ensure(&spec(&config, bot.parse().unwrap())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn spec(config: &Config, bot: BotId) -> CellSpec {
    let runtime = config.data_dir.join("bin/runtime");
    CellSpec {
        bot,
        uid: config.uid_range.as_ref().map(|range| *range.end()),
        gateway_token: "gateway".to_owned().into(),
        ghost_key: "ghost".to_owned().into(),
        egress_key: "egress".to_owned().into(),
        proxy_url: config.proxy_url.clone(),
        config: serde_json::json!({}),
        revision: 1,
        runtime_command: vec![runtime.to_str().unwrap().to_owned(), "gateway".to_owned()],
        claim: None,
    }
}

#[tokio::test]
async fn a_look_from_elsewhere_never_passes_for_a_living_cell() {
    let house = House::new().await;
    let (host, bot) = (house.host(), BotId::random());
    let spec = spec(&house.config, bot.clone());
    assert_eq!(host.ensure(&spec).await.unwrap(), Ensured::Started);
    host.stop(&bot, false).await.unwrap();

    // Somebody looks, as `molt doctor` does from a process of its own.
    let alive = std::fs::File::open(house.state(&bot).with_file_name("run").join("alive")).unwrap();
    flock(&alive, FlockOperation::NonBlockingLockShared).unwrap();
    assert_eq!(host.inspect(&bot).await.unwrap(), Report::Absent);
    let look = std::thread::spawn(move || {
        std::thread::sleep(LOOK_TAKES);
        drop(alive);
    });
    assert_eq!(host.ensure(&spec).await.unwrap(), Ensured::Started);
    look.join().unwrap();
    assert_eq!(host.ensure(&spec).await.unwrap(), Ensured::AlreadyThere);
    house.clear().await;
}

#[tokio::test]
async fn what_can_not_work_is_said_before_anybody_waits() {
    let stage = Stage::new().await;
    let deep = stage.folder.join("a-folder-with-a-very-long-name-that-no-socket-fits-into-because-it-goes-on-and-on");
    let error =
        ProcessHost::new(&Config { data_dir: deep, ..stage.config() }, &Sealing::off()).err().unwrap().to_string();
    assert!(error.contains("too long") && error.contains("at most"), "{error}");
    if let Some(users) = cell_users() {
        std::fs::set_permissions(&stage.folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        let closed = Config { uid_range: Some(users), ..stage.config() };
        let error = ProcessHost::new(&closed, &Sealing::off()).err().unwrap().to_string();
        assert!(error.contains("chmod o+x"), "{error}");
    }
}
