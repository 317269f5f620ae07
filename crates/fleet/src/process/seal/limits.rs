//! What a cell may use of memory and processes: a control group per cell, of the older kind (a tree per resource) or the
//! newer one (one tree for all).
//! Never: a cell that runs before it is in its group, or a group that stays when its cell is gone.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use molt_bot::leftovers;
use molt_model::BotId;

/// Where systems show their control groups.
const ROOT: &str = "/sys/fs/cgroup";
/// All groups of cells lie in one with this name.
const OURS: &str = "molt-cells";
const LIST: &str = "cgroup.procs";
/// A group is busy until its last process is really gone.
const REMOVALS_MAX: u32 = 50;
const REMOVAL_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// The folders in which cells get their groups, and what is written into each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    trees: Vec<Tree>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    folder: PathBuf,
    /// File, value, and whether a kernel without the file is fine.
    values: Vec<(&'static str, String, bool)>,
}

impl Limits {
    /// Tries it out. The error says what is in the way.
    pub(super) fn find(memory_bytes: u64, processes: u32) -> Result<Self, String> {
        let mut why = "no control groups are mounted in /sys/fs/cgroup".to_owned();
        for trees in candidates(Path::new(ROOT), memory_bytes, processes) {
            let limits = Self { trees };
            let trial = format!("trial-{}", uuid::Uuid::new_v4().simple());
            let tried = limits.prepare().and_then(|()| limits.open_named(&trial).map(drop));
            limits.trees.iter().for_each(|tree| drop(fs::remove_dir(tree.folder.join(&trial))));
            match tried {
                Ok(()) => return Ok(limits),
                Err(error) => {
                    let folder = limits.trees.first().map(|tree| tree.folder.display().to_string()).unwrap_or_default();
                    why = format!("control groups can't be made in {folder} ({error}); start molt as root");
                }
            }
        }
        Err(why)
    }

    fn prepare(&self) -> io::Result<()> {
        for tree in &self.trees {
            make(&tree.folder)?;
            // In the one tree each level says what its groups may limit; the older trees have no such file.
            for level in [tree.folder.parent(), Some(&tree.folder)].into_iter().flatten() {
                let control = level.join("cgroup.subtree_control");
                if control.exists() {
                    fs::write(control, "+memory +pids")?;
                }
            }
        }
        Ok(())
    }

    /// The lists of processes of the bot's groups, for who is to join them.
    pub(super) fn open(&self, bot: &BotId) -> io::Result<Vec<File>> {
        self.prepare()?;
        // One that was left keeps values that may stand in the way of new ones.
        self.trees.iter().for_each(|tree| drop(fs::remove_dir(tree.folder.join(bot.as_str()))));
        self.open_named(bot.as_str())
    }

    fn open_named(&self, name: &str) -> io::Result<Vec<File>> {
        let open = |tree: &Tree| {
            let group = tree.folder.join(name);
            make(&group)?;
            for (file, value, may_be_absent) in &tree.values {
                match File::options().write(true).open(group.join(file)) {
                    Err(error) if *may_be_absent && error.kind() == ErrorKind::NotFound => {}
                    opened => io::Write::write_all(&mut opened?, value.as_bytes())?,
                }
            }
            File::options().write(true).open(group.join(LIST))
        };
        self.trees.iter().map(open).collect()
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The ways to limit a cell here, best first.
fn candidates(root: &Path, memory_bytes: u64, processes: u32) -> Vec<Vec<Tree>> {
    let memory = memory_bytes.to_string();
    let pids = ("pids.max", processes.to_string(), false);
    if root.join("cgroup.controllers").is_file() {
        let values =
            || vec![("memory.max", memory.clone(), false), ("memory.swap.max", "0".to_owned(), true), pids.clone()];
        return homes(root).map(|home| vec![Tree { folder: home.join(OURS), values: values() }]).collect();
    }
    if !root.join("memory").is_dir() {
        return Vec::new();
    }
    // Swap counts with memory where the kernel counts it at all; it can't be set below the other one, so it comes second.
    let counted = ("memory.memsw.limit_in_bytes", memory.clone(), true);
    let trees = [("memory", vec![("memory.limit_in_bytes", memory, false), counted]), ("pids", vec![pids])];
    vec![trees.map(|(tree, values)| Tree { folder: root.join(tree).join(OURS), values }).into()]
}

/// The folders below which an account may make groups of the newer kind: everywhere for root, else beside its own group, if
/// the system handed that part over to it.
fn homes(root: &Path) -> impl Iterator<Item = PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).map(str::to_owned);
    let beside = own.and_then(|path| Some(root.join(path).parent()?.to_owned())).filter(|home| home != root);
    [Some(root.to_owned()), beside].into_iter().flatten()
}

/// The bot's groups, wherever this account would have made them.
fn groups(bot: &BotId) -> Vec<PathBuf> {
    let trees = candidates(Path::new(ROOT), 0, 0).into_iter().flatten();
    trees.map(|tree| tree.folder.join(bot.as_str())).filter(|group| group.is_dir()).collect()
}

/// The living processes of the bot's groups.
pub(crate) fn members(bot: &BotId) -> Vec<u32> {
    let lists = groups(bot).into_iter().filter_map(|group| fs::read_to_string(group.join(LIST)).ok());
    let mut all: Vec<u32> = lists.flat_map(|list| list.lines().flat_map(str::parse).collect::<Vec<_>>()).collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        return all;
    }
    let living = leftovers::living();
    all.into_iter().filter(|pid| living.contains(pid)).collect()
}

/// Removes the bot's groups. One that isn't empty after a moment stays for the next time.
pub(crate) fn remove(bot: &BotId) {
    for group in groups(bot) {
        let mut tries = 0;
        while fs::remove_dir(&group).is_err() && group.is_dir() && tries < REMOVALS_MAX {
            tries += 1;
            std::thread::sleep(REMOVAL_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str, folders: &[&str], files: &[&str]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("molt-groups-{name}-{}", std::process::id()));
        folders.iter().for_each(|folder| fs::create_dir_all(root.join(folder)).unwrap());
        fs::create_dir_all(&root).unwrap();
        files.iter().for_each(|file| fs::write(root.join(file), "").unwrap());
        root
    }

    #[test]
    fn both_kinds_of_groups() {
        let older = root("older", &["memory", "pids"], &[]);
        let found = candidates(&older, 7, 3);
        let folders: Vec<_> = found[0].iter().map(|tree| tree.folder.strip_prefix(&older).unwrap()).collect();
        assert_eq!((found.len(), folders), (1, vec![Path::new("memory/molt-cells"), Path::new("pids/molt-cells")]));
        assert_eq!(found[0][0].values[0], ("memory.limit_in_bytes", "7".to_owned(), false));
        assert_eq!(found[0][1].values, [("pids.max", "3".to_owned(), false)]);

        let newer = root("newer", &[], &["cgroup.controllers", "cgroup.subtree_control"]);
        let found = candidates(&newer, 7, 3);
        assert_eq!(found[0][0].folder, newer.join("molt-cells"));
        let names: Vec<_> = found[0][0].values.iter().map(|value| (value.0, value.1.as_str())).collect();
        assert_eq!(names, [("memory.max", "7"), ("memory.swap.max", "0"), ("pids.max", "3")]);
        let limits = Limits { trees: found[0].clone() };
        limits.prepare().unwrap();
        assert_eq!(fs::read_to_string(newer.join("cgroup.subtree_control")).unwrap(), "+memory +pids");
        assert!(limits.open_named("bot").is_err(), "a kernel makes the files of a group; here nobody does");

        let none = root("none", &[], &[]);
        assert_eq!(candidates(&none, 7, 3), Vec::<Vec<Tree>>::new());
        [older, newer, none].iter().for_each(|root| fs::remove_dir_all(root).unwrap());
    }
}
