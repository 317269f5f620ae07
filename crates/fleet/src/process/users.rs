//! A system user per cell, where this program runs as root; and what has to hold so that such a user can work.
//! Never: a user that a person or a service of this machine has.

use std::fs::{self, Permissions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::folder::Folder;

/// Above everything that systemd hands out (its containers end at 1 879 048 191), below 2³¹, which some programs take for
/// a negative number. Nobody has to make these users: a number is enough for the kernel.
const USERS: RangeInclusive<u32> = 1_900_000_000..=1_900_099_999;
/// Inside a container that maps only the first 65 536 users: between people and systemd's dynamic users.
const USERS_IN_A_CONTAINER: RangeInclusive<u32> = 30_000..=59_999;
/// Where programs leave files outside their folders; everybody may write there.
const SHARED_FOLDERS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// The users that cells can have on this machine. `None`: this program isn't root, so all cells run as its own user, and
/// nothing but good manners keeps them apart.
#[must_use]
pub fn cell_users() -> Option<RangeInclusive<u32>> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let maps = ["/proc/self/uid_map", "/proc/self/gid_map"].map(fs::read_to_string);
    [USERS, USERS_IN_A_CONTAINER]
        .into_iter()
        .find(|range| maps.iter().all(|map| map.as_ref().is_ok_and(|map| maps_all(map, range))))
}

/// Whether one line of the map (first number inside, outside, count) covers the range.
fn maps_all(map: &str, range: &RangeInclusive<u32>) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return false;
        };
        first <= u64::from(*range.start()) && u64::from(*range.end()) < first + count
    })
}

/// Cells pass through the folder of all bots without being able to read it.
pub(super) fn allow_passing_through(bots: &Path) -> io::Result<()> {
    fs::set_permissions(bots, Permissions::from_mode(0o711))
}

/// Whether every user can reach the path; otherwise a sentence that says what to do.
pub(super) fn check_reachable(path: &Path) -> Result<(), String> {
    for place in path.ancestors() {
        let open = fs::metadata(place).is_ok_and(|facts| facts.mode() & 0o001 != 0);
        if !open {
            return Err(format!(
                "cells run as users of their own and can't reach {}: allow passing through it (chmod o+x), or choose \
                 another data folder (--data-dir)",
                place.display()
            ));
        }
    }
    Ok(())
}

/// What the cell's own user left in the folders that everybody shares.
pub(super) fn remove_strays(folder: &Folder) -> io::Result<()> {
    // An ordinary user's own number may lie in these ranges as well; what is in their shared folders is theirs.
    let own = rustix::process::geteuid().as_raw();
    let is_cells = |user: &u32| *user != own && (USERS.contains(user) || USERS_IN_A_CONTAINER.contains(user));
    let Some(user) = folder.owner().filter(is_cells) else { return Ok(()) };
    for shared in SHARED_FOLDERS {
        let Ok(entries) = fs::read_dir(shared) else { continue };
        for entry in entries.flatten() {
            let facts = fs::symlink_metadata(entry.path());
            match facts {
                Ok(facts) if facts.uid() != user => {}
                Ok(facts) if facts.is_dir() => fs::remove_dir_all(entry.path())?,
                Ok(_) => fs::remove_file(entry.path())?,
                Err(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_maps() {
        assert!(maps_all("         0          0 4294967295\n", &USERS));
        assert!(!maps_all("0 100000 65536", &USERS));
        assert!(maps_all("0 100000 65536", &USERS_IN_A_CONTAINER));
        assert!(!maps_all("0 1000 1", &USERS_IN_A_CONTAINER));
        assert!(!maps_all("nonsense", &USERS));
    }
}
