//! Installs a pinned set of npm packages into a folder of its own, once.
//! Never: an install script, a package that differs from the lockfile, or a folder under its final name that isn't whole.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

/// A slow line needs minutes; longer than this nothing moves any more.
const INSTALL_MAX: Duration = Duration::from_secs(20 * 60);
/// How often progress is looked at; people can't tell shorter.
const PROGRESS_PERIOD: Duration = Duration::from_millis(400);
/// Out of a hundred: what the bytes on the disk say; the rest is packages that are there.
const BYTES_WEIGHT: u64 = 70;

/// A manifest and its lockfile, built into the program.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// As a person calls it.
    pub title: &'static str,
    pub manifest: &'static str,
    pub lock: &'static str,
    /// What it takes on the disk, roughly: only for showing progress and for asking early whether there is room.
    pub bytes_about: u64,
    /// What must be in the folder in the end. npm leaves out an optional package that it can't fetch, and says nothing.
    pub needs: fn() -> Vec<PathBuf>,
    /// Runs on the whole folder before it gets its final name.
    pub finish: fn(&Path) -> std::io::Result<()>,
}

/// What stands in the way, in a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NpmError {
    #[error("npm is not on this machine; install Node 20 or newer, which brings it")]
    Missing,
    #[error("npm can't reach its registry, which {title} comes from; check the network (or npm's proxy settings)")]
    Unreachable { title: &'static str },
    #[error("npm could not fetch all of {title} ({missing} is missing); check the network")]
    Incomplete { title: &'static str, missing: String },
    #[error("the disk is full: {title} needs about {need_mib} MiB in {}; make room", folder.display())]
    DiskFull { title: &'static str, need_mib: u64, folder: PathBuf },
    #[error("what npm's registry sent for {title} is not what is pinned, so nothing was installed ({line})")]
    Altered { title: &'static str, line: String },
    #[error("installing {title} did not end within {} minutes; check the network", INSTALL_MAX.as_secs() / 60)]
    Stuck { title: &'static str },
    #[error("installing {title} failed: {line}")]
    Failed { title: &'static str, line: String },
}

impl Pinned {
    /// Where it is or will be, below `parent`: named by its content.
    #[must_use]
    pub fn folder(&self, parent: &Path) -> PathBuf {
        let mut digest = Sha256::new();
        digest.update(self.manifest);
        digest.update(self.lock);
        parent.join(hex::encode(&digest.finalize()[..6]))
    }

    #[must_use]
    pub fn installed(&self, parent: &Path) -> Option<PathBuf> {
        Some(self.folder(parent)).filter(|folder| folder.is_dir())
    }

    /// Installs it below `parent` unless it is there; `progress` hears percents that never fall, 0 until something has come.
    pub async fn install(&self, parent: &Path, progress: &(dyn Fn(u8) + Sync)) -> Result<PathBuf, NpmError> {
        let failed = |error: std::io::Error| self.failed(parent, &error);
        make_public_folder(parent).map_err(failed)?;
        let _lock = lock(&parent.join(".lock")).await.map_err(failed)?;
        if let Some(folder) = self.installed(parent) {
            return Ok(folder);
        }
        sweep(parent);
        self.check_room(parent)?;
        let draft = Draft(draft_path(parent));
        self.fill(&draft.0, progress).await?;
        let folder = self.folder(parent);
        fs::rename(&draft.0, &folder).map_err(failed)?;
        progress(100);
        Ok(folder)
    }

    async fn fill(&self, draft: &Path, progress: &(dyn Fn(u8) + Sync)) -> Result<(), NpmError> {
        let failed = |error: std::io::Error| self.failed(draft, &error);
        make_public_folder(draft).map_err(failed)?;
        fs::write(draft.join("package.json"), self.manifest).map_err(failed)?;
        fs::write(draft.join("package-lock.json"), self.lock).map_err(failed)?;
        let running = timeout(INSTALL_MAX, self.run_npm(draft));
        let mut meter = Meter::start(draft, self);
        tokio::pin!(running);
        let out = loop {
            tokio::select! {
                out = &mut running => break out.map_err(|_| NpmError::Stuck { title: self.title })??,
                () = sleep(PROGRESS_PERIOD) => progress(meter.percent()),
            }
        };
        if !out.status.success() {
            return Err(self.explain(&String::from_utf8_lossy(&out.stderr), draft));
        }
        if let Some(missing) = (self.needs)().iter().find(|path| !draft.join(path).exists()) {
            return Err(NpmError::Incomplete { title: self.title, missing: missing.display().to_string() });
        }
        (self.finish)(draft).map_err(failed)
    }

    /// The packages must be readable by the accounts that cells run as, whatever this process' umask is.
    async fn run_npm(&self, draft: &Path) -> Result<std::process::Output, NpmError> {
        let mut command = Command::new("sh");
        command.arg("-c").arg("command -v npm >/dev/null || exit 127; umask 022; exec npm \"$@\"").arg("npm");
        command.args(["ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier"]);
        command.args(["--no-progress", "--loglevel=error"]);
        // npm's own patience is over a minute before it says that there is no network; ours is shown to the person.
        command.args(["--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=3000"]);
        command.current_dir(draft).stdin(Stdio::null()).kill_on_drop(true);
        let out = match command.output().await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(NpmError::Missing),
            other => other.map_err(|error| self.failed(draft, &error))?,
        };
        if out.status.code() == Some(127) { Err(NpmError::Missing) } else { Ok(out) }
    }

    fn check_room(&self, parent: &Path) -> Result<(), NpmError> {
        match rustix::fs::statvfs(parent) {
            Ok(facts) if facts.f_bavail.saturating_mul(facts.f_frsize) < self.bytes_about => {
                Err(self.disk_full(parent))
            }
            _ => Ok(()),
        }
    }

    fn disk_full(&self, folder: &Path) -> NpmError {
        let folder = folder.to_owned();
        NpmError::DiskFull { title: self.title, need_mib: self.bytes_about / (1024 * 1024), folder }
    }

    fn failed(&self, folder: &Path, error: &std::io::Error) -> NpmError {
        match error.kind() {
            std::io::ErrorKind::StorageFull => self.disk_full(folder),
            _ => NpmError::Failed { title: self.title, line: format!("{}: {error}", folder.display()) },
        }
    }

    fn explain(&self, stderr: &str, draft: &Path) -> NpmError {
        const AWAY: [&str; 9] = [
            "ENOTFOUND",
            "EAI_AGAIN",
            "ECONNREFUSED",
            "ECONNRESET",
            "ETIMEDOUT",
            "ENETUNREACH",
            "EHOSTUNREACH",
            "ERR_SOCKET_TIMEOUT",
            "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
        ];
        let title = self.title;
        let telling = |line: &&str| line.contains("npm error") && !line.contains("A complete log");
        let line = stderr.lines().find(telling).unwrap_or("npm gave no reason");
        let line = line.trim_start_matches("npm error").trim().to_owned();
        if stderr.contains("ENOSPC") {
            self.disk_full(draft)
        } else if AWAY.iter().any(|code| stderr.contains(code)) {
            NpmError::Unreachable { title }
        } else if stderr.contains("EINTEGRITY") {
            NpmError::Altered { title, line }
        } else {
            NpmError::Failed { title, line }
        }
    }
}

/// How far an install is, from the room it took on the disk and the packages that are there. An indication, no more.
struct Meter<'a> {
    draft: &'a Path,
    packages: Vec<String>,
    total: usize,
    free_at_start: Option<u64>,
    bytes_about: u64,
    shown: u64,
}

impl<'a> Meter<'a> {
    fn start(draft: &'a Path, pinned: &Pinned) -> Self {
        let lock: serde_json::Value = serde_json::from_str(pinned.lock).unwrap_or_default();
        let names = lock["packages"].as_object().into_iter().flatten();
        let packages: Vec<String> = names
            .filter(|(name, facts)| !name.is_empty() && facts["optional"] != true)
            .map(|(n, _)| n.clone())
            .collect();
        let total = packages.len().max(1);
        Self { draft, packages, total, free_at_start: free(draft), bytes_about: pinned.bytes_about, shown: 0 }
    }

    fn percent(&mut self) -> u8 {
        self.packages.retain(|name| !self.draft.join(name).join("package.json").is_file());
        let here = (self.total - self.packages.len()) as u64;
        // Until then it may be another program that fills the disk.
        if here == 0 {
            return 0;
        }
        let taken = self.free_at_start.zip(free(self.draft)).map_or(0, |(before, now)| before.saturating_sub(now));
        let by_bytes = taken.min(self.bytes_about) * BYTES_WEIGHT / self.bytes_about.max(1);
        let by_count = here * (100 - BYTES_WEIGHT) / self.total as u64;
        self.shown = self.shown.max((by_bytes + by_count).clamp(1, 99));
        u8::try_from(self.shown).unwrap_or(99)
    }
}

fn free(folder: &Path) -> Option<u64> {
    rustix::fs::statvfs(folder).ok().map(|facts| facts.f_bavail.saturating_mul(facts.f_frsize))
}

fn make_public_folder(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Where what isn't whole lies until it gets its name, or goes.
pub fn draft_path(parent: &Path) -> PathBuf {
    parent.join(format!(".draft-{}", uuid::Uuid::new_v4().simple()))
}

/// Waits for another process that installs into the same place.
pub async fn lock(path: &Path) -> std::io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    let deadline = Instant::now() + INSTALL_MAX;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => sleep(PROGRESS_PERIOD).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Goes with its content unless it was given its final name, even when the install is given up in the middle.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what killed installs left; the caller holds the lock, so nobody else fills a draft. An npm that outlived its
/// molt may still try, and fails.
pub fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".draft-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Pinned = Pinned {
        title: "nothing",
        manifest: r#"{"name":"nothing","version":"1.0.0","private":true}"#,
        lock: r#"{"name":"nothing","version":"1.0.0","lockfileVersion":3,"requires":true,
                  "packages":{"":{"name":"nothing","version":"1.0.0"}}}"#,
        bytes_about: 1024,
        needs: Vec::new,
        finish: |folder| fs::write(folder.join("finished"), ""),
    };

    #[test]
    fn what_npm_says_becomes_a_sentence_that_helps() {
        let explain = |text: &str| EMPTY.explain(text, Path::new("/x")).to_string();
        for (text, part) in [
            ("npm error code ENOSPC\nnpm error nospc ENOSPC: no space left on device", "the disk is full"),
            ("npm error code EAI_AGAIN\nnpm error request to https://r failed", "check the network"),
            ("npm error code EINTEGRITY\nnpm error sha512-a wanted", "not what is pinned"),
            ("npm error code E404\nnpm error 404 Not Found", "failed: code E404"),
            ("", "npm gave no reason"),
        ] {
            assert!(explain(text).contains(part), "{text}: {}", explain(text));
        }
    }

    #[tokio::test]
    async fn an_install_is_whole_or_not_there() {
        let parent = std::env::temp_dir().join(format!("molt-npm-{}", std::process::id()));
        let folder = EMPTY.install(&parent, &|_| {}).await.unwrap();
        assert!(folder.join("finished").is_file());
        assert_eq!(EMPTY.install(&parent, &|_| {}).await.unwrap(), folder);
        let broken = Pinned { manifest: r#"{"name":"nothing","dependencies":{"left":"1"}}"#, ..EMPTY };
        assert!(broken.install(&parent, &|_| {}).await.is_err());
        let huge = Pinned { manifest: "{}", bytes_about: u64::MAX, ..EMPTY };
        assert!(matches!(huge.install(&parent, &|_| {}).await, Err(NpmError::DiskFull { .. })));
        let partly = Pinned { lock: "{\"lockfileVersion\":3}", manifest: "{}", needs: || vec!["here".into()], ..EMPTY };
        let partly = partly.install(&parent, &|_| {}).await.unwrap_err();
        assert!(partly.to_string().contains("here is missing"), "{partly}");
        let mut names: Vec<_> = fs::read_dir(&parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".lock".into(), folder.file_name().unwrap().to_owned()]);
        fs::remove_dir_all(&parent).unwrap();
    }
}
