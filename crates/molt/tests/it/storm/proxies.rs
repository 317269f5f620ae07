//! `molt proxy` as real processes on one database, killed and started again.
//! Never: a process that outlives the storm, or an end that nobody ordered.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use molt_store::SealKey;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};

use crate::stack::http::Client;
use crate::stack::{LOOK_AGAIN, PATIENCE, free_port, molt};

/// A polite end lets answers end and the books be written.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const LOG_LINES_SHOWN: usize = 60;

pub(crate) struct Proxies {
    folder: PathBuf,
    database: SecretString,
    /// One for all processes of an installation.
    seal: SecretString,
    slots: Vec<Slot>,
}

/// A place where one process after the other runs, with one data folder.
struct Slot {
    port: u16,
    child: Option<Child>,
    /// It was started while nothing was there to connect to, so it may end.
    started_in_the_dark: bool,
    kills: Vec<Instant>,
}

impl Proxies {
    /// In `folder`, with these settings; each is ready.
    pub(crate) async fn start(folder: &Path, count: usize, settings: &str, database: &SecretString) -> Self {
        std::fs::write(folder.join("molt.toml"), settings).expect("our own folder");
        let slot = |_| Slot { port: free_port(), child: None, started_in_the_dark: false, kills: Vec::new() };
        let slots = (0..count).map(slot).collect();
        let mut proxies =
            Self { folder: folder.to_owned(), database: database.clone(), seal: SealKey::generate_hex(), slots };
        for at in 0..count {
            proxies.spawn(at, false);
            proxies.ready(at).await;
        }
        proxies
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.slots.iter().map(|slot| slot.port).collect()
    }

    /// The most memory that this process ever had, in MiB.
    pub(crate) fn peak_mib(&self, at: usize) -> u64 {
        self.mib(at, "VmHWM:")
    }

    /// Its memory now, in MiB.
    pub(crate) fn now_mib(&self, at: usize) -> u64 {
        self.mib(at, "VmRSS:")
    }

    fn mib(&self, at: usize, field: &str) -> u64 {
        let id = self.slots[at].child.as_ref().expect("it runs").id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel tells");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1024
    }

    pub(crate) fn kills(&self) -> Vec<Vec<Instant>> {
        self.slots.iter().map(|slot| slot.kills.clone()).collect()
    }

    /// Pulls the plug; the next process starts at once.
    pub(crate) fn kill(&mut self, at: usize, database_is_away: bool) {
        let slot = &mut self.slots[at];
        slot.kills.push(Instant::now());
        let mut child = slot.child.take().expect("it runs");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        self.spawn(at, database_is_away);
    }

    /// Pulls the plug, and nothing comes after it.
    pub(crate) fn lose(&mut self, at: usize) {
        let mut child = self.slots[at].child.take().expect("it runs");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// A command line of the operator's, on the same database.
    pub(crate) fn operator(&self, arguments: &[&str]) -> Output {
        let mut command = molt();
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command.env("DATABASE_URL", self.database.expose_secret());
        command.env("MOLT_SEAL_KEY", self.seal.expose_secret());
        command.output().expect("the program was built")
    }

    /// Starts what ended because the database was away. Nothing else may end.
    pub(crate) fn tend(&mut self, database_is_away: bool) {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            let Some(status) = slot.child.as_mut().and_then(|child| child.try_wait().expect("our own child")) else {
                continue;
            };
            assert!(slot.started_in_the_dark, "a proxy ended by itself with {status}: {}", self.log(at));
            self.spawn(at, database_is_away);
        }
    }

    /// Waits until all answer.
    pub(crate) async fn all_ready(&mut self) {
        for at in 0..self.slots.len() {
            self.ready(at).await;
        }
    }

    /// Asks all to end, and waits until they have.
    pub(crate) async fn stop(&mut self) {
        for slot in &self.slots {
            let id = slot.child.as_ref().expect("it runs").id().cast_signed();
            kill_process(Pid::from_raw(id).expect("a process id"), Signal::INT).expect("our own child");
        }
        let began = Instant::now();
        for at in 0..self.slots.len() {
            let mut child = self.slots[at].child.take().expect("it runs");
            loop {
                if let Some(status) = child.try_wait().expect("our own child") {
                    assert!(status.success(), "a proxy ended with {status}: {}", self.log(at));
                    break;
                }
                if began.elapsed() > STOP_PATIENCE {
                    let _ = child.kill();
                    panic!("a proxy did not end within {STOP_PATIENCE:?}: {}", self.log(at));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// The end of what this process said.
    pub(crate) fn log(&self, at: usize) -> String {
        let text = std::fs::read_to_string(self.log_path(at)).unwrap_or_default();
        let own = std::fs::read_to_string(self.data(at).join("molt.log")).unwrap_or_default();
        let text = text + &own;
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    fn spawn(&mut self, at: usize, in_the_dark: bool) {
        let log = File::options().create(true).append(true).open(self.log_path(at)).expect("our own folder");
        let slot = &self.slots[at];
        let mut command = molt();
        command.args(["proxy", "--listen", &format!("127.0.0.1:{}", slot.port), "--data-dir"]).arg(self.data(at));
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.env("DATABASE_URL", self.database.expose_secret());
        command.env("MOLT_SEAL_KEY", self.seal.expose_secret());
        command.stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        let child = command.spawn().expect("the program was built");
        let slot = &mut self.slots[at];
        slot.child = Some(child);
        slot.started_in_the_dark = in_the_dark;
    }

    async fn ready(&mut self, at: usize) {
        let operator = Client::new(self.slots[at].port + 1);
        let began = Instant::now();
        while operator.try_get("/readyz").await.is_none_or(|answer| answer.status != 200) {
            self.tend(false);
            assert!(began.elapsed() < PATIENCE, "a proxy doesn't get ready: {}", self.log(at));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn data(&self, at: usize) -> PathBuf {
        self.folder.join(format!("proxy-{at}"))
    }

    fn log_path(&self, at: usize) -> PathBuf {
        self.folder.join(format!("proxy-{at}.log"))
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (0..self.slots.len()).for_each(|at| eprintln!("--- proxy {at}\n{}\n---", self.log(at)));
        }
        for slot in &mut self.slots {
            if let Some(mut child) = slot.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
