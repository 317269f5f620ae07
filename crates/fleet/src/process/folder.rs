//! Where a cell's things lie on this machine, who owns them, and how they go.
//! Never: a change inside `state/` or `run/in/` that follows a link; those belong to the cell.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use molt_model::BotId;

use crate::room;

/// A cell says little; this is months of it, or the last words of a noisy one.
const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;
const TRASH_PREFIX: &str = ".trash-";

/// `<data>/bots/<bot>/` with `state/` (the bot's memory), `run/` (who lives; the way in and the way out) and `log/`.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) bot: BotId,
    root: PathBuf,
    trash: PathBuf,
}

impl Folder {
    pub(super) fn new(bots: &Path, bot: &BotId) -> Self {
        let trash = bots.join(format!("{TRASH_PREFIX}{bot}"));
        Self { bot: bot.clone(), root: bots.join(bot.as_str()), trash }
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Where the proxy puts the bot's gate. The cell can reach what lies in it and put nothing there.
    pub(super) fn out(&self) -> PathBuf {
        self.run().join("out")
    }

    /// Where the cell puts the socket by which the platform reaches it.
    pub(super) fn way_in(&self) -> PathBuf {
        self.run().join("in")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.way_in().join("cell.sock")
    }

    /// Locked by the cell's process from before its first instruction: it is its standard input.
    pub(super) fn alive(&self) -> PathBuf {
        self.run().join("alive")
    }

    /// Locked by the cell itself, with its number and start time in it.
    pub(super) fn cell_lock(&self) -> PathBuf {
        self.state().join("molt/cell.lock")
    }

    /// The user that owns the state, which is the cell's.
    pub(super) fn owner(&self) -> Option<u32> {
        fs::symlink_metadata(self.state()).ok().map(|facts| facts.uid())
    }

    /// Makes what is missing. With a user of its own, the cell can pass through what is the platform's and own what is
    /// its; everybody else is kept out.
    pub(super) fn create(&self, uid: Option<u32>) -> io::Result<()> {
        let passing = if uid.is_some() { 0o710 } else { 0o700 };
        for (path, mode, cells) in [
            (self.root.clone(), passing, false),
            (self.run(), passing, false),
            (self.out(), passing, false),
            (self.root.join("log"), 0o700, false),
            (self.state(), 0o700, true),
            (self.way_in(), 0o700, true),
        ] {
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            if let Some(uid) = uid {
                lchown(&path, cells.then_some(uid), Some(uid))?;
            }
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    pub(super) fn check_room(&self) -> io::Result<()> {
        room::check(self.root.parent().unwrap_or(&self.root))
    }

    /// The folder is the cell's own, so anything may lie there.
    pub(super) fn remove_socket(&self) -> io::Result<()> {
        match fs::remove_file(self.socket()) {
            Err(error) if error.kind() == ErrorKind::IsADirectory => remove_all(&self.socket()),
            done => absent_is_fine(done),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.root.join("log/cell.log")
    }

    /// What the cell prints goes here.
    pub(super) fn open_log(&self) -> io::Result<File> {
        File::options().create(true).append(true).mode(0o600).open(self.log_path())
    }

    /// Puts a log that has grown too large aside, in the place of the one before. The cell goes on in the same file.
    pub(super) fn bound_log(&self) -> io::Result<()> {
        let path = self.log_path();
        if fs::metadata(&path).is_ok_and(|facts| facts.len() > LOG_BYTES_MAX) {
            fs::copy(&path, path.with_extension("log.1"))?;
            File::options().write(true).open(&path)?.set_len(0)?;
        }
        Ok(())
    }

    /// Removes everything. The folder leaves its place first, so that half a bot is never found there.
    pub(super) fn remove(&self) -> io::Result<()> {
        if self.root.exists() {
            remove_all(&self.trash)?;
            // Another process of ours may remove it at the same moment.
            absent_is_fine(fs::rename(&self.root, &self.trash))?;
        }
        remove_all(&self.trash)
    }
}

/// Bots that have a folder, or the rest of one.
pub(super) fn on_disk(bots: &Path) -> io::Result<Vec<BotId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(bots)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        found.extend(name.strip_prefix(TRASH_PREFIX).unwrap_or(name).parse::<BotId>());
    }
    Ok(found)
}

fn remove_all(path: &Path) -> io::Result<()> {
    match absent_is_fine(fs::remove_dir_all(path)) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            open_folders(path)?;
            absent_is_fine(fs::remove_dir_all(path))
        }
        done => done,
    }
}

/// A bot may take the right to write from folders of its own; to remove what is in them we need it back.
fn open_folders(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_twice_bounded_and_removed_in_two_goes() {
        let bots = std::env::temp_dir().join(format!("molt-folder-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&bots).unwrap();
        let folder = Folder::new(&bots, &BotId::random());
        folder.create(None).unwrap();
        folder.create(None).unwrap();
        assert_eq!(on_disk(&bots).unwrap(), std::slice::from_ref(&folder.bot));

        folder.open_log().unwrap().set_len(LOG_BYTES_MAX + 1).unwrap();
        folder.bound_log().unwrap();
        assert_eq!(folder.open_log().unwrap().metadata().unwrap().len(), 0);

        fs::create_dir_all(folder.socket().join("in its place")).unwrap();
        folder.remove_socket().unwrap();
        folder.remove_socket().unwrap();
        let locked = folder.state().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::write(locked.join("file"), "x").unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o500)).unwrap();
        fs::rename(&folder.root, &folder.trash).unwrap();
        assert_eq!(on_disk(&bots).unwrap(), std::slice::from_ref(&folder.bot));
        folder.remove().unwrap();
        folder.remove().unwrap();
        assert!(on_disk(&bots).unwrap().is_empty());
        fs::remove_dir(&bots).unwrap();
    }
}
