//! Once a second: idle connections that grew old are closed, and files of keys are read again when they changed.
//! Never: a key lost because a file was broken for a moment, or anything of a file's content in a log.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{fs, io};

use tokio::time::MissedTickBehavior;

use super::Inner;
use super::keyring::{self, MasterKey};
use super::provider::Provider;

const PERIOD: Duration = Duration::from_secs(1);
/// A hundred long keys with their comments.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a file of keys can't be used. The words hold nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileFault {
    #[error("it can't be read")]
    Unreadable(#[source] io::Error),
    #[error("{0}")]
    Wrong(&'static str),
}

/// The keys of a file, possibly none: one a line, its weight behind it where they aren't equal; `#` begins a comment.
pub fn read_key_file(path: &Path) -> Result<Vec<MasterKey>, KeyFileFault> {
    if fs::metadata(path).map_err(KeyFileFault::Unreadable)?.len() > FILE_BYTES_MAX {
        return Err(KeyFileFault::Wrong("it is too long for a file of keys"));
    }
    let text = fs::read_to_string(path).map_err(KeyFileFault::Unreadable)?;
    keyring::parse(&text).map_err(KeyFileFault::Wrong)
}

/// A file with keys of one provider.
pub(super) struct KeyFile {
    path: PathBuf,
    /// Those that stand in the configuration itself are used beside the file's.
    configured: Vec<MasterKey>,
    /// As it was when it was last looked at.
    stamp: Mutex<Option<Stamp>>,
}

/// What changes when a file does, also when it is replaced by another of the same age and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl KeyFile {
    pub(super) fn new(path: PathBuf, configured: Vec<MasterKey>) -> Self {
        Self { path, configured, stamp: Mutex::default() }
    }

    /// All keys of the provider. An error says what is wrong, without a word of the content.
    pub(super) fn read(&self) -> Result<Vec<MasterKey>, &'static str> {
        let stamp = Stamp::of(&self.path).map_err(|_| "its key file can't be read")?;
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
        let held = read_key_file(&self.path).map_err(|fault| match fault {
            KeyFileFault::Unreadable(_) => "its key file can't be read",
            KeyFileFault::Wrong(what) => what,
        })?;
        if held.is_empty() {
            return Err("its key file holds no key");
        }
        let keys = [self.configured.clone(), held].concat();
        keyring::check(&keys)?;
        Ok(keys)
    }

    fn has_changed(&self) -> bool {
        let stamp = Stamp::of(&self.path).ok();
        // A file that is away for a moment is about to be replaced: the keys that it held are good until then.
        stamp.is_some() && stamp != *self.stamp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether the keys were replaced. A broken file leaves them as they are.
    fn reload(&self, provider: &Provider) -> bool {
        if !self.has_changed() {
            return false;
        }
        match self.read() {
            Ok(keys) => {
                tracing::info!(provider = provider.name, keys = keys.len(), "a provider's keys were read again");
                provider.keys.set(keys);
                true
            }
            Err(problem) => {
                let text = "a provider's key file changed and can't be used; the keys from before stay in use";
                tracing::error!(provider = provider.name, problem, "{text}");
                false
            }
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let data = fs::metadata(path)?;
        Ok(Self {
            inode: data.ino(),
            bytes: data.len(),
            changed: (data.ctime(), data.ctime_nsec()),
            modified: (data.mtime(), data.mtime_nsec()),
        })
    }
}

/// Until the proxy is gone.
pub(super) async fn run(upstreams: Weak<Inner>) {
    let mut every = tokio::time::interval(PERIOD);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(inner) = upstreams.upgrade() else { return };
        inner.run_once(Instant::now()).await;
    }
}

impl Inner {
    /// So many files were read again. Also what a test calls instead of waiting.
    pub(super) async fn run_once(self: std::sync::Arc<Self>, now: Instant) -> usize {
        for provider in self.wired() {
            provider.pool.sweep(now);
        }
        if self.key_files.is_empty() {
            return 0;
        }
        // Secrets may lie on a mount that answers slowly.
        let reload = move || {
            let read =
                |(name, file): &&(String, KeyFile)| self.wire(name).is_some_and(|provider| file.reload(provider));
            self.key_files.iter().filter(read).count()
        };
        tokio::task::spawn_blocking(reload).await.unwrap_or(0)
    }
}
