//! A Docker engine of a test's own, to be spoiled: its images and volumes lie on a small disk in memory.
//! Never: the engine of all tests.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use crate::engine::{Engine, SCRIPT};

/// More than an engine with a few containers has.
pub(crate) const FILES_MAX: u64 = 100_000;

#[derive(Debug)]
pub(crate) struct SmallEngine {
    pub(crate) engine: Engine,
    folder: PathBuf,
}

impl SmallEngine {
    /// `Err`: says what is missing.
    pub(crate) fn start(mebibytes: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a disk of its own for an engine takes root".to_owned());
        }
        let name = format!("me-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let folder = std::env::temp_dir().canonicalize().unwrap().join(name);
        let disk = folder.join("data");
        std::fs::create_dir_all(&disk).unwrap();
        let size = format!("size={mebibytes}m,nr_inodes={FILES_MAX},mode=0711");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk).status().unwrap();
        assert!(mounted.success());
        let mut small = Self { engine: Engine { socket: PathBuf::new() }, folder };
        small.engine = Engine::of(&mut small.script())?;
        Ok(small)
    }

    fn script(&self) -> Command {
        let mut script = Command::new(SCRIPT);
        script.env("MOLT_TEST_DOCKER_FOLDER", &self.folder);
        script
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Leaves this much room, or more where there isn't so much, until `make_room`.
    pub(crate) fn fill(&self, free: u64) {
        let filling = File::create(self.disk().join("filling")).unwrap();
        let facts = rustix::fs::statvfs(self.disk()).unwrap();
        let length = (facts.f_bavail * facts.f_frsize).saturating_sub(free);
        if length > 0 {
            rustix::fs::fallocate(&filling, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
        }
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.disk().join("filling")).unwrap();
    }
}

impl Drop for SmallEngine {
    fn drop(&mut self) {
        self.script().arg("stop").status().ok();
        Command::new("umount").arg("--lazy").arg(self.disk()).status().ok();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
