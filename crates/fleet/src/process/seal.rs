//! Sealing a cell off with bubblewrap: a read-only view of the system, a user that is nobody, no capabilities, no network
//! but a loopback of its own, and limits on what it may use.
//! Never: bubblewrap as root (the cell would be root for the host), a secret in an argument or an environment that others
//! can read, or a cell that is less sealed than the settings demand.

mod arguments;
mod filter;
mod limits;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use molt_bot::leftovers;
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit};
use tokio::sync::Notify;

use super::folder::Folder;
use crate::host::{CellSpec, HostError};
use arguments::GATE;
pub(super) use arguments::{STATE, WAY_IN};
#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use filter::says;
use limits::Limits;
pub(super) use limits::{members, remove};

/// How the keeper of a sealed cell is called, which lives outside of the seal for as long as the cell.
pub(super) const KEEPER: &str = "bwrap";
const KEEPERS: [&str; 3] = ["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"];
/// Open files of one process. The runtime watches a workspace and holds some dozens of connections.
const FILES_MAX: u64 = 4096;
/// What the check starts inside; it is everywhere.
const CHECK_PROGRAM: &str = "/usr/bin/true";

/// How much sealing the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SealMode {
    Off,
    /// As much as this machine can do; what it can't do is said.
    #[default]
    Auto,
    /// All of it, or no cells.
    Require,
}

/// What the operator says about sealing.
#[derive(Clone, Debug)]
pub struct Sealing {
    pub mode: SealMode,
    /// Of one cell, with its files in memory.
    pub memory_bytes: u64,
    /// Processes and threads of one cell.
    pub processes: u32,
    /// Wakes the proxy that opens a gate for each bot of this data folder; called when a cell is about to need a new one.
    /// None: no proxy does, and a cell without a network would not reach its models.
    pub gates: Option<Arc<Notify>>,
}

impl Sealing {
    /// For whoever only looks at cells or ends them.
    #[must_use]
    pub const fn off() -> Self {
        Self { mode: SealMode::Off, memory_bytes: 0, processes: 0, gates: None }
    }
}

/// How far cells are sealed off on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealFound {
    /// Files, processes and network are the cell's own.
    pub sealed: bool,
    /// What is not as it should be, a sentence each, with what to do about it.
    pub missing: Vec<String>,
}

/// Looks what can be sealed here, by trying it. `users`: those that cells run as, if they have their own.
#[must_use]
pub fn look_at_seal(sealing: &Sealing, users: Option<&RangeInclusive<u32>>) -> SealFound {
    let (seal, missing) = Seal::find(sealing, users);
    SealFound { sealed: seal.is_some(), missing }
}

/// The means of this machine.
pub(super) struct Seal {
    keeper: PathBuf,
    filter: Vec<u8>,
    /// None: this account can't make control groups.
    limits: Option<Limits>,
    gates: Arc<Notify>,
}

impl Seal {
    /// What the settings demand, if this machine can do it.
    pub(super) fn new(sealing: &Sealing, users: Option<&RangeInclusive<u32>>) -> Result<Option<Self>, HostError> {
        let (seal, missing) = Self::find(sealing, users);
        if sealing.mode == SealMode::Require && !missing.is_empty() {
            return Err(HostError::Unusable(format!(
                "cells must be sealed off here (fleet.seal is \"require\"), and can't be: {}",
                missing.join("; ")
            )));
        }
        if sealing.mode == SealMode::Auto {
            missing.iter().for_each(|missing| tracing::info!(sealed = seal.is_some(), "cells: {missing}"));
        }
        Ok(seal)
    }

    fn find(sealing: &Sealing, users: Option<&RangeInclusive<u32>>) -> (Option<Self>, Vec<String>) {
        if sealing.mode == SealMode::Off {
            return (None, vec!["sealing is switched off (fleet.seal)".to_owned()]);
        }
        let Some(gates) = &sealing.gates else {
            let text = "the proxy runs elsewhere, so a cell without a network would not reach its models; \
                        run both in one process (`molt serve --all`)";
            return (None, vec![text.to_owned()]);
        };
        let Some(keeper) = KEEPERS.iter().map(Path::new).find(|path| path.is_file()) else {
            return (None, vec!["bubblewrap isn't installed (Debian: apt install bubblewrap)".to_owned()]);
        };
        let Some(filter) = filter::program() else {
            return (None, vec!["there is no filter of system calls for this kind of processor".to_owned()]);
        };
        let mut missing = Vec::new();
        let gates = Arc::clone(gates);
        let limits = Limits::find(sealing.memory_bytes, sealing.processes)
            .map_err(|why| missing.push(format!("a cell's memory and processes aren't limited: {why}")))
            .ok();
        let seal = Self { keeper: keeper.to_owned(), filter, limits, gates };
        match seal.check(users) {
            Ok(()) => (Some(seal), missing),
            Err(why) => (None, vec![format!("bubblewrap can't seal anything off here: {why}")]),
        }
    }

    /// Seals a program off that does nothing.
    fn check(&self, users: Option<&RangeInclusive<u32>>) -> Result<(), String> {
        let inside = arguments::system();
        let mut command = self.command(inside, Vec::new(), Path::new(CHECK_PROGRAM)).map_err(|e| format!("{e:#}"))?;
        if let Some(user) = users.map(|users| *users.start()) {
            command.uid(user).gid(user);
        }
        command.stdin(Stdio::null());
        let ended = command.output().map_err(|error| error.to_string())?;
        if ended.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        let said = said.lines().next().unwrap_or("it ended without a word").trim().to_owned();
        Err(format!(
            "{said} (may ordinary users make user namespaces? See kernel.unprivileged_userns_clone, \
             user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns)"
        ))
    }

    /// The keeper, ready to start the cell in its seal. Its user and its standard files are the caller's.
    pub(super) fn cell(
        &self,
        folder: &Folder,
        binary: &Path,
        spec: &CellSpec,
        environment: Vec<(&'static str, String)>,
    ) -> anyhow::Result<Command> {
        self.gates.notify_one();
        let mut arguments = arguments::system();
        arguments::cell(&mut arguments, folder, binary, &spec.runtime_command);
        for (name, value) in environment {
            arguments.extend(["--setenv".into(), name.into(), OsString::from(value)]);
        }
        let groups = match &self.limits {
            Some(limits) => limits.open(&spec.bot).context("limit the cell")?,
            None => Vec::new(),
        };
        let mut command = self.command(arguments, groups, Path::new(arguments::CELL))?;
        // Nothing of the cell's own: by these the host finds it again.
        let state = folder.state();
        command.env(leftovers::MARK_VARIABLE, leftovers::mark(spec.bot.as_str(), &state));
        command.env("MOLT_STATE_DIR", state);
        Ok(command)
    }

    /// `groups`: the control groups' lists of processes, open for writing.
    fn command(&self, arguments: Vec<OsString>, groups: Vec<File>, program: &Path) -> anyhow::Result<Command> {
        let mut inherited = Vec::new();
        let mut arguments = arguments;
        for (place, text) in arguments::files() {
            let number = hand_over(&mut inherited, text.as_bytes())?;
            arguments.extend(["--perms".into(), "0444".into(), "--ro-bind-data".into(), number.into(), place.into()]);
        }
        arguments.extend(["--seccomp".into(), hand_over(&mut inherited, &self.filter)?.into()]);
        // The root stays writable until everything has its place.
        arguments.extend(["--remount-ro".into(), "/".into()]);
        let mut text = Vec::new();
        for argument in &arguments {
            text.extend(argument.as_encoded_bytes());
            text.push(0);
        }
        let mut command = Command::new(&self.keeper);
        command.arg("--args").arg(hand_over(&mut inherited, &text)?).arg("--").arg(program);
        command.env_clear().current_dir("/");
        enter(&mut command, inherited, groups);
        Ok(command)
    }
}

/// The gate, as the cell finds it.
pub(super) fn way_out() -> String {
    format!("unix:{GATE}")
}

/// A file in memory that the next process finds under the returned number.
fn hand_over(inherited: &mut Vec<OwnedFd>, content: &[u8]) -> anyhow::Result<String> {
    use std::os::fd::AsRawFd;

    let memory = rustix::fs::memfd_create("molt-seal", MemfdFlags::CLOEXEC).context("make a file in memory")?;
    let mut file = File::from(memory);
    file.write_all(content).context("write a file in memory")?;
    file.rewind().context("rewind a file in memory")?;
    let number = file.as_raw_fd().to_string();
    inherited.push(file.into());
    Ok(number)
}

/// What the process does between fork and exec: joins its groups before it can use anything, and keeps its files.
#[expect(unsafe_code, reason = "std can't join groups or keep files; all of it is plain system calls, safe after fork")]
fn enter(command: &mut Command, inherited: Vec<OwnedFd>, groups: Vec<File>) {
    // SAFETY: the closure runs between fork and exec; it allocates nothing, takes no lock and makes system calls only.
    unsafe {
        command.pre_exec(move || {
            for group in &groups {
                // "0" is whoever writes it.
                rustix::io::write(group, b"0")?;
            }
            for file in &inherited {
                rustix::io::fcntl_setfd(file, FdFlags::empty())?;
            }
            // Nobody may raise what somebody set lower.
            let most =
                rustix::process::getrlimit(Resource::Nofile).maximum.map_or(FILES_MAX, |most| most.min(FILES_MAX));
            rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) })?;
            rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            rustix::thread::set_no_new_privs(true)?;
            Ok(())
        });
    }
}
