//! Whether a bot's cell lives, and how it ends: by the locks that it holds, by a handle that can't be mistaken, and by the
//! mark that everything it started carries.
//! Never: signal a number that a cell wrote down without making sure that it is a cell of the right user.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::Context;
use molt_bot::leftovers;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::folder::Folder;
use super::seal;
use crate::host::HostError;

/// The cell ends its runtime and itself within this; then it is forced.
const GRACE: Duration = Duration::from_secs(8);
/// A cell that was just started notes its number within milliseconds.
const NUMBER_WAIT: Duration = Duration::from_secs(2);
/// A killed process is gone within milliseconds unless it hangs in the kernel.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(10);
/// A look from another process (`molt doctor`) holds the lock for microseconds; on a busy machine it may be paused in it.
const LOOK_MAX: Duration = Duration::from_millis(300);
/// How often a cell is looked for that can't be waited for by a handle.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Two numbers.
const LOCK_TEXT_BYTES_MAX: u64 = 64;
/// How the program of a cell is called, wherever it lies.
const PROGRAM: &str = "molt-cell";

/// Takes the place of the bot's living cell, for a process that is about to be started with this file. `None`: there is
/// one. The caller makes sure that no other part of this process asks at the same time.
pub(super) fn claim(folder: &Folder) -> io::Result<Option<File>> {
    let file = open_alive(folder)?;
    let deadline = Instant::now() + LOOK_MAX;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if cell_lock_is_held(folder) => return Ok(None),
            Ok(()) => return Ok(Some(file)),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A look takes the lock too, since there is no other way to ask; but one that it shares with other looks, and not for
/// longer than `claim` waits.
pub(super) fn lives(folder: &Folder) -> io::Result<bool> {
    let file = match open_alive(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(true),
        Err(error) => return Err(error.into()),
    }
    let held = cell_lock_is_held(folder);
    // Given back by name: a process that is being forked right now may hold the same open file for a moment.
    rustix::fs::flock(&file, FlockOperation::Unlock)?;
    Ok(held)
}

fn open_alive(folder: &Folder) -> io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(folder.alive())
}

/// The net under the file above. Asked only while no cell that is starting holds that one, because asking takes the lock
/// for a moment.
fn cell_lock_is_held(folder: &Folder) -> bool {
    let Ok(file) = open_in_state(folder) else { return false };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            rustix::fs::flock(&file, FlockOperation::Unlock).ok();
            false
        }
        Err(error) => error == Errno::WOULDBLOCK,
    }
}

/// The state folder is the cell's: what lies there may be a link or a pipe.
fn open_in_state(folder: &Folder) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    File::options().read(true).custom_flags(flags.cast_signed()).open(folder.cell_lock())
}

/// The number of the living cell.
fn cell_number(folder: &Folder) -> Option<u32> {
    noted_number(folder).or_else(|| sealed_number(folder))
}

/// A sealed cell counts processes for itself and doesn't know its number out here: it is the child of the keeper that
/// carries its mark.
fn sealed_number(folder: &Folder) -> Option<u32> {
    let mark = leftovers::mark(folder.bot.as_str(), &folder.state());
    let living = leftovers::living();
    let is_keeper = |pid: u32| {
        leftovers::program_name(pid).is_some_and(|name| name == seal::KEEPER) && mark_of(pid).as_ref() == Some(&mark)
    };
    let keepers: Vec<u32> = living.iter().copied().filter(|&pid| is_keeper(pid)).collect();
    let is_cell = |pid: u32| {
        leftovers::parent(pid).is_some_and(|parent| keepers.contains(&parent))
            && leftovers::program_name(pid).is_some_and(|name| name.starts_with(PROGRAM))
            && leftovers::user(pid) == folder.owner()
    };
    living.into_iter().find(|&pid| is_cell(pid))
}

/// What the cell wrote down, if that is the same process and a cell of the right user.
fn noted_number(folder: &Folder) -> Option<u32> {
    let mut text = String::new();
    open_in_state(folder).ok()?.take(LOCK_TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
    let mut words = text.split_whitespace();
    let (pid, started): (u32, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let same = leftovers::start_time(pid).unwrap_or(0) == started;
    let is_cell = leftovers::program_name(pid).is_none_or(|name| name.starts_with(PROGRAM));
    let users = leftovers::user(pid).is_none_or(|user| Some(user) == folder.owner());
    (same && is_cell && users).then_some(pid)
}

/// Asks the cell to end, forces it after the grace, then ends whatever carries its mark. `Ok`: nothing is left.
pub(super) fn end(folder: &Folder) -> Result<(), HostError> {
    if lives(folder).context("look for the cell")?
        && let Some(cell) = handle(folder, Instant::now() + NUMBER_WAIT)
    {
        cell.signal(Signal::TERM);
        if !cell.ended_within(GRACE) {
            tracing::warn!(bot.id = %folder.bot, "a cell did not end when it was asked to; it is killed");
            cell.signal(Signal::KILL);
            cell.ended_within(SWEEP_TIMEOUT);
        }
    }
    let deadline = Instant::now() + SWEEP_TIMEOUT;
    loop {
        let rest = rest(folder);
        if rest.is_empty() && !lives(folder).context("look for the cell")? {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(HostError::WontEnd { bot: folder.bot.clone() });
        }
        rest.into_iter().for_each(kill);
        std::thread::sleep(PAUSE);
    }
}

fn handle(folder: &Folder, until: Instant) -> Option<Handle> {
    loop {
        // The handle first, then the check that its number still is the cell's: from then on it can't be another's.
        let handle = cell_number(folder).and_then(Handle::open);
        if let Some(handle) = handle
            && cell_number(folder) == Some(handle.number)
        {
            return Some(handle);
        }
        if Instant::now() > until || !lives(folder).unwrap_or(false) {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Living processes with the cell's mark, and those of the cell's own user that carry no mark: what a tool of the bot
/// started with an environment of its own. One with another mark belongs to another installation on this machine.
fn rest(folder: &Folder) -> Vec<u32> {
    let mark = leftovers::mark(folder.bot.as_str(), &folder.state());
    let own_user = rustix::process::getuid().as_raw();
    let user = folder.owner().filter(|&user| user != own_user && user != 0);
    let is_rest = |pid: u32| match mark_of(pid) {
        Some(found) => found == mark,
        None => user.is_some() && leftovers::user(pid) == user,
    };
    let mut rest: Vec<u32> = leftovers::living().into_iter().filter(|&pid| is_rest(pid)).collect();
    // What is in the cell's group is the cell's, whatever it did to its environment.
    rest.extend(seal::members(&folder.bot));
    rest
}

fn mark_of(pid: u32) -> Option<String> {
    let environment = leftovers::environment(pid);
    let name = leftovers::MARK_VARIABLE;
    environment.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // One that is already gone is what we want.
        rustix::process::kill_process(pid, Signal::KILL).ok();
    }
}

/// Resolves when no cell lives.
pub(super) async fn gone(folder: &Folder) {
    loop {
        let asked = folder.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let lives = lives(&asked).unwrap_or(true);
            (lives, if lives { handle(&asked, Instant::now()) } else { None })
        });
        match looked.await {
            Ok((false, _)) => return,
            Ok((true, Some(cell))) => cell.ended().await,
            Ok((true, None)) | Err(_) => {}
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// A process that can't be mistaken for a later one with the same number.
#[cfg(target_os = "linux")]
struct Handle {
    number: u32,
    descriptor: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Handle {
    fn open(number: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(number).ok()?)?;
        let descriptor = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        Some(Self { number, descriptor })
    }

    fn signal(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(&self.descriptor, signal).ok();
    }

    fn ended_within(&self, limit: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};

        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                ready => return ready.is_ok_and(|count| count > 0),
            }
        }
    }

    #[expect(
        unsafe_code,
        reason = "tokio can't see that an owned descriptor stays open; it is moved in and not closed"
    )]
    async fn ended(self) {
        // SAFETY: the descriptor is owned by the value that is registered, and lives exactly as long as it.
        if let Ok(descriptor) = unsafe { tokio::io::unix::AsyncFd::register(self.descriptor) } {
            descriptor.readable().await.ok();
        }
    }
}

/// Elsewhere (a developer's Mac) there are no such handles: numbers and looking again have to do.
#[cfg(not(target_os = "linux"))]
struct Handle {
    number: u32,
    pid: Pid,
}

#[cfg(not(target_os = "linux"))]
impl Handle {
    fn open(number: u32) -> Option<Self> {
        Some(Self { number, pid: Pid::from_raw(i32::try_from(number).ok()?)? })
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid, signal).ok();
    }

    fn ended_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while rustix::process::test_kill_process(self.pid).is_ok() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }

    async fn ended(self) {
        while rustix::process::test_kill_process(self.pid).is_ok() {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}
