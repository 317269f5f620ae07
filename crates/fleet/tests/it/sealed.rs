//! The real host with real sealed cells: they live, are found again and end as open ones do, also for an ordinary user.
//! What a cell can't do from inside is tried by the whole stack's tests.
//! Never: passed over in silence where bubblewrap is missing; whoever means that sets MOLT_TEST_WITHOUT_SEAL.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use molt_bot::leftovers::{living, mark, parent, program_name, user};
use molt_bot::{CellHealth, Client, Phase};
use molt_fleet::{CellSpec, Config, Ensured, Host, ProcessHost, Report, SealMode, Sealing, cell_users, look_at_seal};
use molt_model::BotId;
use rustix::process::{Pid, Signal, kill_process};

use crate::process::spec;
use crate::programs::programs;

const WITHOUT: &str = "MOLT_TEST_WITHOUT_SEAL";
/// What the second program of these tests is told.
const CHILD_VARIABLE: &str = "MOLT_FLEET_TEST_ORDINARY";
/// Some user that nobody has; its number is one that a cell of a root in a container could have.
const ORDINARY_USER: u32 = 54_321;
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn sealing() -> Sealing {
    Sealing { mode: SealMode::Auto, memory_bytes: 512 << 20, processes: 128, gates: Some(Arc::default()) }
}

fn passed_over() -> bool {
    let over = std::env::var_os(WITHOUT).is_some();
    if over {
        eprintln!("passed over: {WITHOUT} is set");
    }
    over
}

/// A data folder with the programs in it.
struct Den {
    config: Config,
    bot: BotId,
}

impl Den {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("ms-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
        let bin = folder.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        for folder in [&folder, &bin] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let [cell, runtime] = programs();
        std::fs::copy(cell, bin.join("molt-cell")).unwrap();
        std::fs::copy(runtime, bin.join("runtime")).unwrap();
        Self { config: config(&folder), bot: BotId::random() }
    }

    fn folder(&self) -> &Path {
        &self.config.data_dir
    }

    fn host(&self) -> ProcessHost {
        let found = look_at_seal(&sealing(), self.config.uid_range.as_ref());
        assert!(
            found.sealed,
            "cells can't be sealed off here: {:?}; {WITHOUT}=1 passes these tests over",
            found.missing
        );
        ProcessHost::new(&self.config, &sealing()).unwrap()
    }

    fn spec(&self) -> CellSpec {
        spec(&self.config, self.bot.clone())
    }

    fn state(&self) -> PathBuf {
        self.folder().canonicalize().unwrap().join("bots").join(self.bot.as_str()).join("state")
    }

    /// Keeper and cell, seen from outside.
    fn keeper_and_cell(&self) -> Option<(u32, u32)> {
        let entry = format!("MOLT_CELL_MARK={}", mark(self.bot.as_str(), &self.state()));
        let living = living();
        let marked = |pid: u32| molt_bot::leftovers::environment(pid).contains(&entry);
        let is = |pid: u32, name: &str| program_name(pid).is_some_and(|known| known == name);
        let keeper = living.iter().copied().find(|&pid| is(pid, "bwrap") && marked(pid))?;
        let cell = living.iter().copied().find(|&pid| parent(pid) == Some(keeper) && is(pid, "molt-cell"))?;
        Some((keeper, cell))
    }

    /// Everything that descends from the keeper, itself too.
    fn all(&self, keeper: u32) -> Vec<u32> {
        let living = living();
        let mut all = vec![keeper];
        while let Some(next) =
            living.iter().find(|pid| !all.contains(pid) && parent(**pid).is_some_and(|parent| all.contains(&parent)))
        {
            all.push(*next);
        }
        all
    }

    async fn ready(&self, host: &ProcessHost) -> CellHealth {
        let Report::Present { address } = host.inspect(&self.bot).await.unwrap() else { panic!("no cell") };
        let client = Client::new(address, "gateway".to_owned().into());
        let began = Instant::now();
        loop {
            match client.health().await {
                Ok(health) if health.phase == Phase::Ready => return health,
                other if began.elapsed() > PATIENCE => {
                    let log = self.state().parent().unwrap().join("log/cell.log");
                    panic!("not ready: {other:?}\n{}", std::fs::read_to_string(log).unwrap_or_default());
                }
                _ => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn gone(&self, pids: &[u32]) {
        let began = Instant::now();
        while living().iter().any(|pid| pids.contains(pid)) {
            assert!(began.elapsed() < PATIENCE, "some of {pids:?} are left");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        println!("{} processes were gone within {:?}", pids.len(), began.elapsed());
    }
}

impl Drop for Den {
    fn drop(&mut self) {
        if let Some((keeper, _)) = self.keeper_and_cell() {
            signal(keeper, Signal::KILL);
        }
        std::fs::remove_dir_all(self.folder()).ok();
    }
}

fn config(folder: &Path) -> Config {
    Config {
        data_dir: folder.to_owned(),
        cell_binary: folder.join("bin/molt-cell"),
        proxy_url: "http://127.0.0.1:9/v1".into(),
        catalog: crate::simulated::catalog().into(),
        uid_range: cell_users(),
        keep_ahead: chrono::TimeDelta::zero(),
        keep_spare: 0,
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// The control groups that were made for a bot.
fn groups(bot: &BotId) -> Vec<PathBuf> {
    let trees = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
    let groups = trees.iter().map(|tree| Path::new(tree).join("molt-cells").join(bot.as_str()));
    groups.filter(|group| group.is_dir()).collect()
}

#[tokio::test]
async fn a_sealed_cell_lives_is_found_again_and_ends_like_any_other() {
    if passed_over() {
        return;
    }
    let den = Den::new();
    let host = den.host();
    lives_and_ends(&den, host).await;
}

async fn lives_and_ends(den: &Den, host: ProcessHost) {
    let (bot, began) = (&den.bot, Instant::now());
    assert_eq!(host.ensure(&den.spec()).await.unwrap(), Ensured::Started);
    let health = den.ready(&host).await;
    println!("ready after {:?}, of which the runtime's boot: {:?} ms", began.elapsed(), health.runtime_boot_ms);
    assert!(health.runtime_pid.unwrap() < 100, "it counts processes for itself: {health:?}");
    assert_eq!(host.ensure(&den.spec()).await.unwrap(), Ensured::AlreadyThere);
    let (keeper, cell) = den.keeper_and_cell().unwrap();
    assert!(!rustix::process::geteuid().is_root() || user(cell) == den.spec().uid, "its own user outside as well");

    // The next platform finds it by its lock, and the keeper's end is the end of all.
    drop(host);
    let host = den.host();
    assert!(matches!(host.inspect(bot).await.unwrap(), Report::Present { .. }));
    assert_eq!(host.list().await.unwrap(), std::slice::from_ref(bot));
    let all = den.all(keeper);
    assert!(all.len() >= 3, "{all:?}");
    let ended = host.gone(bot);
    signal(keeper, Signal::KILL);
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    den.gone(&all).await;
    assert_eq!(host.inspect(bot).await.unwrap(), Report::Absent);

    // The cell's end is the end of all as well.
    assert_eq!(host.ensure(&den.spec()).await.unwrap(), Ensured::Started);
    den.ready(&host).await;
    let (keeper, cell) = den.keeper_and_cell().unwrap();
    let (all, ended) = (den.all(keeper), host.gone(bot));
    signal(cell, Signal::KILL);
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    den.gone(&all).await;

    // Asked to end, it does, and leaves nothing.
    assert_eq!(host.ensure(&den.spec()).await.unwrap(), Ensured::Started);
    den.ready(&host).await;
    let (keeper, _) = den.keeper_and_cell().unwrap();
    let all = den.all(keeper);
    let limited = groups(bot);
    if rustix::process::geteuid().is_root() {
        assert!(!limited.is_empty(), "as root a cell is limited");
    }
    let began = Instant::now();
    host.stop(bot, true).await.unwrap();
    println!("stopped within {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(7), "it wasn't killed");
    assert!(living().iter().all(|pid| !all.contains(pid)), "nothing is left");
    assert_eq!((groups(bot), host.list().await.unwrap()), (Vec::new(), Vec::new()));

    // Stopped before it could do anything.
    assert_eq!(host.ensure(&den.spec()).await.unwrap(), Ensured::Started);
    host.stop(bot, true).await.unwrap();
    assert_eq!((host.inspect(bot).await.unwrap(), groups(bot)), (Report::Absent, Vec::new()));
}

/// As root this starts itself again as an ordinary user.
#[tokio::test]
async fn an_ordinary_user_seals_cells_as_well() {
    if passed_over() || !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("ms-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
    let test = folder.join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    let [cell, runtime] = programs();
    std::fs::create_dir(folder.join("bin")).unwrap();
    std::fs::copy(cell, folder.join("bin/molt-cell")).unwrap();
    std::fs::copy(runtime, folder.join("bin/runtime")).unwrap();
    let mut command = Command::new(&test);
    command.args(["--exact", "sealed::what_an_ordinary_user_does", "--nocapture"]);
    command.env(CHILD_VARIABLE, &folder).uid(ORDINARY_USER).gid(ORDINARY_USER).current_dir("/");
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    println!("{said}");
    assert!(ended.status.success() && said.contains("as an ordinary user"), "{said}");
    std::fs::remove_dir_all(&folder).ok();
}

/// The other program of the test above; without being told where there is nothing to it.
#[tokio::test]
async fn what_an_ordinary_user_does() {
    let Ok(folder) = std::env::var(CHILD_VARIABLE) else { return };
    assert_eq!(cell_users(), None);
    println!("as an ordinary user, what is missing: {:?}", look_at_seal(&sealing(), None).missing);
    let den = Den { config: config(Path::new(&folder)), bot: BotId::random() };
    let host = den.host();
    lives_and_ends(&den, host).await;
}

#[tokio::test]
async fn what_can_not_be_sealed_is_said() {
    let users = cell_users();
    let look = |sealing: Sealing| look_at_seal(&sealing, users.as_ref());
    let off = look(Sealing::off());
    assert!(!off.sealed && off.missing[0].contains("switched off"), "{off:?}");
    let elsewhere = look(Sealing { gates: None, ..sealing() });
    assert!(!elsewhere.sealed && elsewhere.missing[0].contains("one process"), "{elsewhere:?}");
    let den = Den::new();
    let demanded = Sealing { mode: SealMode::Require, gates: None, ..sealing() };
    let refused = ProcessHost::new(&den.config, &demanded).err().unwrap().to_string();
    assert!(refused.contains("require") && refused.contains("molt serve --all"), "{refused}");
}
