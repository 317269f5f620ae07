//! The folder where an installation keeps everything, and the lock that makes sure one process works in it.
//! Never: a secret that others on this machine can read, or two processes that both think the folder is theirs.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use molt_store::{NoKeys, SealKey, SealRing};
use rustix::fs::FlockOperation;
use secrecy::ExposeSecret;

use crate::config::Config;

/// A process that is just ending, or a child that has not become its program yet, holds the lock a moment longer.
const HELD_MAX: Duration = Duration::from_millis(600);
const HELD_POLL: Duration = Duration::from_millis(20);

/// The folder's layout. Cells, runtime and Postgres run as accounts of their own, which may pass but not look around.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: Option<File>,
}

impl DataDir {
    /// The folder as it is, without a claim on it: for commands that only look.
    #[must_use]
    pub fn look(root: &Path) -> Self {
        Self { root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()), _lock: None }
    }

    /// Makes the folder and claims it until this value goes. A sentence says who has it otherwise.
    pub fn claim(root: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(root)?;
        let fresh = !root.exists();
        fs::create_dir_all(&root).with_context(|| cannot("make", &root))?;
        if fresh {
            let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
            fs::set_permissions(&root, fs::Permissions::from_mode(mode))?;
        }
        let path = root.join("lock");
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let mut file = opened.with_context(|| cannot("write into", &root))?;
        let begun = Instant::now();
        let held = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
        while held() && begun.elapsed() < HELD_MAX {
            std::thread::sleep(HELD_POLL);
        }
        if held() {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            bail!(
                "another molt (process {}) works in {}; stop it first, or give this one a folder of its own with --data-dir",
                holder.trim(),
                root.display()
            );
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { root, _lock: Some(file) })
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn postgres(&self) -> PathBuf {
        self.root.join("postgres")
    }

    /// Below it, a folder for each pinned set of npm packages.
    #[must_use]
    pub fn packages(&self) -> PathBuf {
        self.root.join("runtime")
    }

    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.root.join("bin")
    }

    fn seal_key_path(&self) -> PathBuf {
        self.root.join("seal.key")
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("molt.log")
    }

    /// The file that the keys come from: the one of the settings, else the one of this folder. `None`: they come from the
    /// environment.
    #[must_use]
    pub fn seal_key_file(&self, config: &Config) -> Option<PathBuf> {
        let file = || config.seal_key_file.clone().unwrap_or_else(|| self.seal_key_path());
        config.seal_key.is_none().then(file)
    }

    /// The keys from the settings, else those of this folder.
    pub fn seal_key(&self, config: &Config) -> anyhow::Result<SealRing> {
        if let Some(keys) = &config.seal_key {
            return Ok(SealRing::parse(keys)?);
        }
        let path = config.seal_key_file.clone().unwrap_or_else(|| self.seal_key_path());
        match SealRing::read(&path) {
            Ok(ring) => Ok(ring),
            Err(NoKeys::Unreadable(error)) if error.kind() == ErrorKind::NotFound => bail!(
                "the key that seals secrets is missing: set MOLT_SEAL_KEY or seal_key_file to the installation's one key, \
                 the same for all its processes ({} is not there)",
                path.display()
            ),
            Err(NoKeys::Unreadable(error)) => Err(error).with_context(|| cannot("read", &path)),
            Err(NoKeys::Malformed) => {
                bail!("{} must hold 64 hexadecimal digits; restore it from your backup", path.display())
            }
        }
    }

    /// The same, for an installation of one process: its key is made on the first start.
    pub fn seal_key_or_new(&self, config: &Config) -> anyhow::Result<SealRing> {
        let path = self.seal_key_path();
        if config.seal_key.is_none() && config.seal_key_file.is_none() && !path.exists() {
            write_secret(&path, SealKey::generate_hex().expose_secret()).with_context(|| cannot("write", &path))?;
        }
        self.seal_key(config)
    }

    /// Forgets everything of this installation but what was downloaded. The caller asked, and stopped what ran.
    pub fn clear(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let keep = ["lock", "runtime", "bin", "postgres"].iter().any(|name| entry.file_name() == *name);
            if keep {
                continue;
            }
            let path = entry.path();
            let removed = if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| cannot("remove", &path))?;
        }
        Ok(())
    }
}

fn cannot(verb: &str, path: &Path) -> String {
    format!("molt can't {verb} {}; choose another folder with --data-dir, or change its permissions", path.display())
}

/// Whole or not there, and for this account only.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use molt_store::Place;

    use super::*;
    use crate::config::Overrides;

    #[test]
    fn one_process_claims_a_folder_and_its_key_stays() {
        let root = std::env::temp_dir().join(format!("molt-data-{}", std::process::id()));
        let config = Config::read(&Overrides::default(), &|_| None).unwrap();
        let data = DataDir::claim(&root).unwrap();
        let second = DataDir::claim(&root).unwrap_err().to_string();
        assert!(second.contains(&std::process::id().to_string()) && second.contains("--data-dir"), "{second}");

        assert!(data.seal_key(&config).is_err());
        let here = Place::SigningKey("here".to_owned());
        let sealed = data.seal_key_or_new(&config).unwrap().seal(&here, &"secret".to_owned().into());
        assert!(data.seal_key(&config).unwrap().open(&here, &sealed).is_ok());
        assert_eq!(fs::metadata(root.join("seal.key")).unwrap().permissions().mode() & 0o777, 0o600);

        fs::create_dir_all(data.packages()).unwrap();
        data.clear().unwrap();
        assert!(data.packages().exists() && !root.join("seal.key").exists());
        drop(data);
        DataDir::claim(&root).unwrap();
        fs::write(root.join("seal.key"), "short").unwrap();
        assert!(DataDir::look(&root).seal_key(&config).is_err());
        fs::remove_dir_all(&root).unwrap();
    }
}
