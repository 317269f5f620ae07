//! Which programs belong to one stack, seen from outside: by the data folder in their command line or environment, or in that
//! of what started them. A sealed cell knows nothing of the folder; its keeper does.
//! Never: a process ended that this stack's folder doesn't name.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A process that has been told to end is gone after this.
const GONE_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) command: String,
}

impl Process {
    pub(crate) fn is_cell(&self) -> bool {
        self.program().starts_with("molt-cell")
    }

    /// The stand-in, or OpenClaw under its Node.
    pub(crate) fn is_runtime(&self) -> bool {
        self.program().starts_with("molt-stand-in-runtime") || self.command.contains("openclaw")
    }

    fn program(&self) -> &str {
        let first = self.command.split(' ').next().unwrap_or_default();
        first.rsplit('/').next().unwrap_or_default()
    }

    /// Kill -9.
    pub(crate) fn kill(&self) {
        let _ = kill_process(Pid::from_raw(self.pid).expect("a process id"), Signal::KILL);
    }
}

/// Every process of the stack in this folder, this one and zombies left out.
pub(crate) fn below(folder: &Path) -> Vec<Process> {
    let mark = folder.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").expect("processes can be listed").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = std::process::id().cast_signed();
    let read = |pid: i32, what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let all: Vec<(Process, bool)> = pids
        .filter(|pid| *pid != own)
        .map(|pid| {
            let command = String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ").trim().to_owned();
            let named = command.contains(&mark) || String::from_utf8_lossy(&read(pid, "environ")).contains(&mark);
            (Process { pid, command }, named)
        })
        .collect();
    let mut known: BTreeSet<i32> = all.iter().filter(|(_, named)| *named).map(|(process, _)| process.pid).collect();
    let parents: Vec<(i32, i32)> =
        all.iter().filter_map(|(process, _)| Some((process.pid, parent(process.pid)?))).collect();
    while let Some((pid, _)) = parents.iter().find(|(pid, parent)| known.contains(parent) && !known.contains(pid)) {
        known.insert(*pid);
    }
    let mut found: Vec<Process> = all.into_iter().map(|(process, _)| process).collect();
    found.retain(|process| known.contains(&process.pid) && !process.command.is_empty());
    found.sort_by_key(|process| process.pid);
    found
}

fn parent(pid: i32) -> Option<i32> {
    i32::try_from(molt_bot::leftovers::parent(u32::try_from(pid).ok()?)?).ok()
}

/// Ends them all, and again what they started meanwhile.
pub(crate) fn end_below(folder: &Path) {
    let began = Instant::now();
    loop {
        let left = below(folder);
        if left.is_empty() || began.elapsed() > GONE_PATIENCE {
            return;
        }
        left.iter().for_each(Process::kill);
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl super::Stack {
    /// The runtimes that run now; one per running bot, or something is wrong.
    pub(crate) fn runtimes(&self) -> Vec<Process> {
        below(&self.data()).into_iter().filter(Process::is_runtime).collect()
    }

    pub(crate) fn cells(&self) -> Vec<Process> {
        below(&self.data()).into_iter().filter(Process::is_cell).collect()
    }

    /// Whether some file of the bot's state holds these words.
    pub(crate) fn files_say(&self, bot: &str, words: &str) -> bool {
        let mut folders = vec![self.data().join("bots").join(bot).join("state")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let (path, kind) = (entry.path(), entry.file_type());
                if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "md")
                    && std::fs::read_to_string(&path).is_ok_and(|text| text.contains(words))
                {
                    return true;
                }
            }
        }
        false
    }

    /// Resident memory of the program itself, in MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the program runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1024
    }
}
