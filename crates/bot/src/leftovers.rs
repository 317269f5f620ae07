//! Which processes belong to a bot's cell: the mark that they all inherit, and how to find it again.
//! Never: judge by a process number alone; numbers are used again.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

/// The variable that every process of a cell inherits.
pub const MARK_VARIABLE: &str = "MOLT_CELL_MARK";

/// Environments of processes are a few kilobytes; more is not one of ours.
const ENVIRON_BYTES_MAX: u64 = 1024 * 1024;

/// The mark of a bot's processes on this state folder.
#[must_use]
pub fn mark(bot: &str, state: &Path) -> String {
    let mut digest = Sha256::new();
    digest.update(bot.as_bytes());
    digest.update([0]);
    digest.update(state.as_os_str().as_encoded_bytes());
    hex::encode(&digest.finalize()[..16])
}

/// Every process on this machine except this one, zombies left out.
#[must_use]
pub fn living() -> Vec<u32> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != own && stat_field(pid, 3).is_some_and(|state| state != "Z" && state != "X"))
        .collect()
}

/// The process's environment, as far as this user may read it.
#[must_use]
pub fn environment(pid: u32) -> Vec<String> {
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/environ")) else { return Vec::new() };
    let mut environ = Vec::new();
    if file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ).is_err() {
        return Vec::new();
    }
    environ.split(|&byte| byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}

/// Clock ticks since boot at which the process started; tells a process from a later one with the same number.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// The process that it belongs to.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    stat_field(pid, 4)?.parse().ok()
}

/// The name of the process's program, cut to fifteen bytes by the kernel.
#[must_use]
pub fn program_name(pid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned())
}

/// The real user of the process.
#[must_use]
pub fn user(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A field of /proc/PID/stat by its number in proc(5). The second field may hold spaces and brackets.
fn stat_field(pid: u32, number: usize) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &text[text.rfind(')')? + 1..];
    after_name.split_whitespace().nth(number - 3).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_differ_by_bot_and_by_folder() {
        let own = mark("molt-a", Path::new("/state/a"));
        assert_ne!(own, mark("molt-a", Path::new("/state/b")));
        assert_ne!(own, mark("molt-b", Path::new("/state/a")));
        assert_eq!(own.len(), 32);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_found_by_what_it_inherited() {
        let mut child = std::process::Command::new("sleep").arg("30").env(MARK_VARIABLE, "a-mark").spawn().unwrap();
        let pid = child.id();
        let wanted = format!("{MARK_VARIABLE}=a-mark");
        while !environment(pid).contains(&wanted) {
            std::thread::yield_now();
        }
        assert!(living().contains(&pid));
        assert!(start_time(pid).is_some());
        assert_eq!(user(pid), Some(rustix::process::getuid().as_raw()));
        assert_eq!(program_name(pid).as_deref(), Some("sleep"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!living().contains(&pid));
    }
}
