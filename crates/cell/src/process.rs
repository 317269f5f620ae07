//! The runtime's processes: started so that they can't outlive the cell, found again when they did.
//! Never: end a process that doesn't carry this bot's mark or descend from this cell.

use std::collections::{HashMap, HashSet};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use molt_bot::leftovers::{MARK_VARIABLE, environment, living, parent};
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::sync::{mpsc as async_mpsc, oneshot};

/// The argument that turns this program into the stub which `Keeper` starts.
pub const HOLD_ARGUMENT: &str = "hold";

/// A killed process is gone within milliseconds unless it hangs in the kernel.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(3);
const SWEEP_PAUSE: Duration = Duration::from_millis(10);
/// This very program, also when its file was replaced since it started.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Between 0, which the cell has, and 1000: as if half of the memory more were in use.
const FIRST_TO_END: &str = "500";
/// How long the reaper rests when there is nothing to wait for.
const REAPER_PAUSE: Duration = Duration::from_millis(50);

/// Asks the process to end.
pub fn terminate(pid: u32) {
    signal(pid, Signal::TERM);
}

/// Ends everything that carries the mark or descends from this process, and waits until it is gone.
pub fn sweep(mark: &str) -> usize {
    let deadline = Instant::now() + SWEEP_TIMEOUT;
    let mut ended = HashSet::new();
    loop {
        let leftovers = leftovers(mark);
        if leftovers.is_empty() || Instant::now() > deadline {
            return ended.len();
        }
        for pid in leftovers {
            signal(pid, Signal::KILL);
            ended.insert(pid);
        }
        std::thread::sleep(SWEEP_PAUSE);
    }
}

fn signal(pid: u32, signal: Signal) {
    // A process that is already gone is what we wanted.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        rustix::process::kill_process(pid, signal).ok();
    }
}

/// Living processes that belong to a runtime of this bot.
fn leftovers(mark: &str) -> Vec<u32> {
    let wanted = format!("{MARK_VARIABLE}={mark}");
    let own = std::process::id();
    let pids = living();
    let parents: HashMap<u32, u32> = pids.iter().filter_map(|&pid| Some((pid, parent(pid)?))).collect();
    pids.into_iter().filter(|&pid| descends(pid, own, &parents) || environment(pid).contains(&wanted)).collect()
}

fn descends(mut pid: u32, ancestor: u32, parents: &HashMap<u32, u32>) -> bool {
    // Process trees are shallow; the bound only guards against a table that changed while it was read.
    for _ in 0..64 {
        match parents.get(&pid) {
            Some(&parent) if parent == ancestor => return true,
            Some(&parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// What to start.
#[derive(Debug)]
pub struct Spawn {
    pub command: Vec<String>,
    /// The whole environment of the process.
    pub environment: Vec<(String, String)>,
    pub folder: std::path::PathBuf,
    /// Receives what the process prints.
    pub log: std::fs::File,
}

/// A process that ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    pub pid: u32,
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

/// Starts processes from one thread that lives as long as the cell (the kernel's parent-death signal follows the
/// thread), and reaps every child, adopted ones too: the cell is process 1 in a container.
#[derive(Clone, Debug)]
pub struct Keeper {
    requests: mpsc::Sender<(Spawn, oneshot::Sender<std::io::Result<u32>>)>,
}

impl Keeper {
    /// Starts the two threads; exits of children arrive in the receiver.
    pub fn start() -> anyhow::Result<(Self, async_mpsc::UnboundedReceiver<Exit>)> {
        // Orphans of the runtime come to us instead of to the host's process 1, so that sweep() finds them.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become subreaper")?;
        let (requests, inbox) = mpsc::channel::<(Spawn, oneshot::Sender<std::io::Result<u32>>)>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (spawn, reply) in inbox {
                    reply.send(start_process(spawn)).ok();
                }
            })
            .context("start the spawner")?;
        let (exits, outbox) = async_mpsc::unbounded_channel();
        std::thread::Builder::new().name("reaper".into()).spawn(move || reap(&exits)).context("start the reaper")?;
        Ok((Self { requests }, outbox))
    }

    /// Starts a process in a group of its own.
    pub async fn spawn(&self, spawn: Spawn) -> std::io::Result<u32> {
        let (reply, answer) = oneshot::channel();
        let gone = || std::io::Error::other("the spawner is gone");
        self.requests.send((spawn, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn start_process(spawn: Spawn) -> std::io::Result<u32> {
    let stderr = spawn.log.try_clone()?;
    let child = Command::new(OWN_PROGRAM)
        .arg(HOLD_ARGUMENT)
        .arg(std::process::id().to_string())
        .args(&spawn.command)
        .env_clear()
        .envs(spawn.environment)
        .current_dir(spawn.folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(spawn.log)
        .stderr(stderr)
        .spawn()?;
    // The reaper waits for it; dropping the handle neither waits nor kills.
    Ok(child.id())
}

fn reap(exits: &async_mpsc::UnboundedSender<Exit>) {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let status = ExitStatus::from_raw(status.as_raw());
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                if exits.send(Exit { pid, code: status.code(), signal: status.signal() }).is_err() {
                    return;
                }
            }
            Ok(None) | Err(_) => std::thread::sleep(REAPER_PAUSE),
        }
    }
}

/// The stub between the cell and the runtime: asks the kernel to die with the cell, then becomes the command.
/// Returns only when that failed.
#[must_use]
pub fn hold(parent: &str, command: &[String]) -> anyhow::Error {
    let Some((program, arguments)) = command.split_first() else { return anyhow::anyhow!("no command") };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return anyhow::Error::new(error).context("set the parent-death signal");
    }
    let actual = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
    if actual.as_deref() != Some(parent) {
        return anyhow::anyhow!("the cell is already gone");
    }
    // Where memory is limited, the runtime and its tools end before the cell does, which starts them again.
    std::fs::write("/proc/self/oom_score_adj", FIRST_TO_END).ok();
    let error = Command::new(program).args(arguments).exec();
    anyhow::Error::new(error).context("start the runtime")
}
