//! Which Postgres programs this machine has, and which of them fit.
//! Never: a version older than the SQL of this crate needs, or one that can't read the cluster that is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::LocalError;

/// The oldest Postgres whose SQL this crate speaks: `security_invoker` views and `merge` came with it.
pub const MAJOR_MIN: u32 = 15;

/// A folder with `postgres` and `initdb` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    pub major: u32,
}

impl Binaries {
    /// The programs in this folder, if both are there and run.
    #[must_use]
    pub fn at(folder: &Path) -> Option<Self> {
        let folder = folder.canonicalize().ok()?;
        if !folder.join("initdb").is_file() {
            return None;
        }
        let out = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let major = major_of(&String::from_utf8_lossy(&out.stdout))?;
        Some(Self { folder, major })
    }

    /// Everything usual on this machine, newest first; `also` and the folders of `path` are looked into as well.
    #[must_use]
    pub fn find(also: &[PathBuf], path: &str) -> Vec<Self> {
        let mut folders: Vec<PathBuf> = also.to_vec();
        folders.extend(std::env::split_paths(path));
        for (parent, inner) in [
            ("/usr/lib/postgresql", "bin"),
            ("/usr/local/lib/postgresql", "bin"),
            ("/opt/homebrew/opt", "bin"),
            ("/usr/local/opt", "bin"),
            ("/Library/PostgreSQL", "bin"),
        ] {
            let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
            folders.extend(entries.map(|entry| entry.path().join(inner)));
        }
        folders.push(PathBuf::from("/usr/local/pgsql/bin"));
        let mut found: Vec<Self> = Vec::new();
        for binaries in folders.iter().filter(|folder| folder.join("postgres").is_file()).filter_map(|at| Self::at(at))
        {
            if !found.contains(&binaries) {
                found.push(binaries);
            }
        }
        found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
        found
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }
}

/// The newest that fits: of the cluster's own version where there is a cluster, else at least the oldest we speak.
pub(super) fn choose<'a>(candidates: &'a [Binaries], data: &Path) -> Result<&'a Binaries, LocalError> {
    let need: Option<u32> =
        std::fs::read_to_string(data.join("PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
    let fits = |binaries: &&Binaries| match need {
        Some(major) => binaries.major == major,
        None => binaries.major >= MAJOR_MIN,
    };
    candidates
        .iter()
        .filter(fits)
        .max_by_key(|binaries| binaries.major)
        .ok_or_else(|| LocalError::Missing { need, found: candidates.iter().map(|binaries| binaries.major).collect() })
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` → 15; also `18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL)")?.1.trim_start();
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_programs_own_words() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18.4\n", Some(18)),
            ("postgres (PostgreSQL) 19beta1\n", Some(19)),
            ("something else", None),
            ("", None),
        ] {
            assert_eq!(major_of(text), major, "{text}");
        }
    }

    #[test]
    fn a_cluster_is_only_opened_by_its_own_version() {
        let at = |major| Binaries { folder: PathBuf::from(format!("/{major}")), major };
        let folder = std::env::temp_dir().join(format!("molt-choose-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(choose(&[at(15), at(17)], &folder).unwrap().major, 17);
        let too_old = choose(&[at(14)], &folder).unwrap_err().to_string();
        assert_eq!(too_old, "Postgres 15 or newer is needed, and only 14 was found");
        std::fs::write(folder.join("PG_VERSION"), "16\n").unwrap();
        let other = choose(&[at(15), at(17)], &folder).unwrap_err().to_string();
        assert_eq!(other, "the database here was made by Postgres 16, and only 15, 17 was found");
        assert_eq!(choose(&[at(16), at(17)], &folder).unwrap().major, 16);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
