//! A Postgres of the storm's own, which can be stopped under everybody's feet.
//! Never: another test's server, or one that outlives the storm.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use molt_store::local::{Binaries, Cluster, Purpose};
use molt_store::testing::{TestDatabase, database_on};
use rustix::process::{Pid, Signal, kill_process};

use crate::stack::LOOK_AGAIN;

/// An abrupt end takes no longer.
const END_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Postgres {
    folder: PathBuf,
    cluster: Option<Cluster>,
}

impl Postgres {
    pub(super) async fn start(folder: &Path) -> Self {
        let mut postgres = Self { folder: folder.join("postgres"), cluster: None };
        postgres.go_on().await;
        postgres
    }

    /// Also after a stop: the same server with all that it held.
    pub(super) async fn go_on(&mut self) {
        let also: Vec<PathBuf> = std::env::var_os("MOLT_POSTGRES_BIN").map(PathBuf::from).into_iter().collect();
        let binaries = Binaries::find(&also, &std::env::var("PATH").unwrap_or_default());
        let started = Cluster::start(&binaries, &self.folder, Purpose::Test).await;
        self.cluster = Some(started.unwrap_or_else(|error| panic!("no Postgres: {error}")));
    }

    pub(super) async fn stop(&mut self) {
        self.cluster.take().expect("it runs").stop().await;
    }

    pub(super) const fn is_away(&self) -> bool {
        self.cluster.is_none()
    }

    pub(super) async fn database(&self) -> TestDatabase {
        database_on(&self.cluster.as_ref().expect("it runs").maintenance_url()).await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(cluster) = self.cluster.take() else { return };
        let _ = Pid::from_raw(cluster.pid()).map(|pid| kill_process(pid, Signal::QUIT));
        // Its file goes at the end; then the folder may.
        let (began, note) = (Instant::now(), self.folder.join("cluster/postmaster.pid"));
        while note.exists() && began.elapsed() < END_PATIENCE {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
