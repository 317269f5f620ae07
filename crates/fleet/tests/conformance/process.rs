//! Processes of this machine under test. As root every cell has a user of its own, as in production.
//! Never: a process left running, even by a story that failed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use molt_bot::leftovers::{MARK_VARIABLE, environment, living, mark};
use molt_fleet::{CellSpec, Config, Host, ProcessHost, Sealing, cell_users};
use molt_model::BotId;
use rustix::process::{Pid, Signal, kill_process};

use crate::programs::programs;
use crate::suite::{Fault, Found, HostUnderTest, Story};

/// Room for the cells of one story, and easily filled.
const DISK_BYTES: u64 = 64 * 1024 * 1024;

pub(crate) struct Processes {
    folder: PathBuf,
    config: Config,
    /// The data folder is a small disk of its own.
    mounted: AtomicBool,
}

impl HostUnderTest for Processes {
    const NAME: &'static str = "processes";

    async fn set_up() -> Result<Self, String> {
        let name = format!("mc-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let folder = std::env::temp_dir().canonicalize().unwrap().join(name);
        let (bin, data) = (folder.join("bin"), folder.join("data"));
        for path in [&folder, &bin, &data] {
            std::fs::create_dir(path).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (program, name) in programs().iter().zip(["molt-cell", "runtime"]) {
            std::fs::copy(program, bin.join(name)).unwrap();
        }
        let config = Config {
            data_dir: data,
            cell_binary: bin.join("molt-cell"),
            proxy_url: "http://127.0.0.1:9/v1".into(),
            catalog: crate::suite::catalog(),
            uid_range: cell_users(),
            keep_ahead: chrono::TimeDelta::zero(),
            keep_spare: 0,
        };
        Ok(Self { folder, config, mounted: AtomicBool::new(false) })
    }

    fn cannot(story: Story) -> Option<&'static str> {
        match story {
            Story::LostAnswer => Some("a process is started by a system call, whose answer can't be lost"),
            Story::HostAway => Some("the host is this very machine"),
            Story::Ahead => Some("nothing takes long enough to be made ahead of a plan"),
            Story::FullDisk if cell_users().is_none() => Some("filling a disk of its own takes root"),
            _ => None,
        }
    }

    fn open(&self) -> Arc<dyn Host> {
        Arc::new(ProcessHost::new(&self.config, &Sealing::off()).unwrap())
    }

    fn spec(&self, bot: &BotId, revision: i64) -> CellSpec {
        let runtime = self.folder.join("bin/runtime").to_str().unwrap().to_owned();
        self.cell(bot, revision, vec![runtime, "gateway".to_owned()])
    }

    fn slow_spec(&self, bot: &BotId) -> CellSpec {
        self.cell(bot, 1, ["/bin/sh", "-c", "sleep 600", "runtime"].map(str::to_owned).to_vec())
    }

    async fn fault(&self, fault: Fault, bot: &BotId) {
        match fault {
            Fault::Crash => self.signal_cell(Signal::KILL),
            Fault::Hang => self.signal_cell(Signal::STOP),
            Fault::GoneMachine => {
                self.processes(bot).into_iter().for_each(|pid| signal(pid, Signal::KILL));
                std::fs::remove_dir_all(self.bot_folder(bot).join("run")).unwrap();
            }
            Fault::FullDisk => self.fill_the_disk(),
            Fault::HostAway => panic!("said to be impossible"),
        }
    }

    async fn mend(&self, fault: Fault) {
        assert_eq!(fault, Fault::FullDisk);
        std::fs::remove_file(self.config.data_dir.join("filling")).unwrap();
    }

    async fn found(&self, bot: &BotId) -> Found {
        let (folder, cells) = (self.bot_folder(bot), self.cells());
        let cells_of_bot: Vec<u32> = cells.into_iter().filter(|&pid| is_in(pid, &folder)).collect();
        let rest = self.processes(bot).into_iter().filter(|pid| !cells_of_bot.contains(pid));
        let mut rest: Vec<String> = match cells_of_bot.is_empty() {
            true => rest.map(|pid| format!("process {pid}")).collect(),
            false => Vec::new(),
        };
        let state = folder.join("state");
        let states = state.exists().then(|| state.display().to_string()).into_iter().collect::<Vec<_>>();
        let trash = self.config.data_dir.join("bots").join(format!(".trash-{bot}"));
        rest.extend(trash.exists().then(|| trash.display().to_string()));
        rest.extend((states.is_empty() && folder.exists()).then(|| folder.display().to_string()));
        let cells = cells_of_bot.into_iter().map(|pid| format!("process {pid} in {}", folder.display())).collect();
        Found { cells, states, rest }
    }

    async fn write_note(&self, bot: &BotId, text: &str) {
        std::fs::write(self.bot_folder(bot).join("state/note"), text).unwrap();
    }

    async fn note(&self, bot: &BotId) -> Option<String> {
        std::fs::read_to_string(self.bot_folder(bot).join("state/note")).ok()
    }
}

impl Processes {
    fn cell(&self, bot: &BotId, revision: i64, runtime_command: Vec<String>) -> CellSpec {
        // A user of its own for each bot; the letters of its id are as good as chance.
        let spread = bot.as_str().bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let uid = self.config.uid_range.clone().map(|range| range.start() + spread % (range.end() - range.start()));
        CellSpec { uid, ..crate::suite::cell_spec(bot, revision, &self.config.proxy_url, runtime_command) }
    }

    fn bot_folder(&self, bot: &BotId) -> PathBuf {
        self.config.data_dir.join("bots").join(bot.as_str())
    }

    /// Living cells of this story, whichever bot's.
    fn cells(&self) -> Vec<u32> {
        let program = self.config.cell_binary.to_str().unwrap();
        let is_cell = |pid: &u32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.trim_end_matches('\0') == program
        };
        living().into_iter().filter(is_cell).collect()
    }

    fn signal_cell(&self, what: Signal) {
        let cells = self.cells();
        assert_eq!(cells.len(), 1);
        signal(cells[0], what);
    }

    /// Everything that carries the bot's mark.
    fn processes(&self, bot: &BotId) -> Vec<u32> {
        let entry = format!("{MARK_VARIABLE}={}", mark(bot.as_str(), &self.bot_folder(bot).join("state")));
        living().into_iter().filter(|&pid| environment(pid).contains(&entry)).collect()
    }

    /// A disk of its own, full to the last block.
    fn fill_the_disk(&self) {
        let data = &self.config.data_dir;
        let size = format!("size={DISK_BYTES},mode=0755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(data).status().unwrap();
        assert!(mounted.success());
        self.mounted.store(true, Ordering::SeqCst);
        std::fs::create_dir(data.join("bots")).unwrap();
        std::fs::set_permissions(data.join("bots"), std::fs::Permissions::from_mode(0o711)).unwrap();
        let filling = std::fs::File::create(data.join("filling")).unwrap();
        let facts = rustix::fs::statvfs(data).unwrap();
        let free = facts.f_bavail * facts.f_frsize;
        rustix::fs::fallocate(&filling, rustix::fs::FallocateFlags::empty(), 0, free).unwrap();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let data = format!("MOLT_STATE_DIR={}/", self.config.data_dir.display());
        let ours = |pid: &u32| environment(*pid).iter().any(|entry| entry.starts_with(&data));
        let left = living().into_iter().filter(ours).chain(self.cells());
        left.for_each(|pid| signal(pid, Signal::KILL));
        if self.mounted.load(Ordering::SeqCst) {
            Command::new("umount").arg("--lazy").arg(&self.config.data_dir).status().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// Whether the process works in a folder of this bot. A cell hides from everybody but root; then there is only one bot.
fn is_in(pid: u32, folder: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).map_or(true, |place| place.starts_with(folder))
}

fn signal(pid: u32, signal: Signal) {
    // One that is already gone is fine.
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).ok();
}
