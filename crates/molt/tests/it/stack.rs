//! The whole of Molt as its own processes, for one test: the real binary, a fresh database, a data folder of its own, and
//! by default the stand-in runtime, which boots in milliseconds.
//! Never: a process or a folder that outlives the test, also when it panics.

pub(crate) mod chat;
pub(crate) mod http;
pub(crate) mod live;
pub(crate) mod openapi;
pub(crate) mod people;
pub(crate) mod processes;
pub(crate) mod upstream;

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use molt_store::SealKey;
use molt_store::testing::{TestDatabase, database};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};

use http::Client;

/// Far beyond what anything here takes on two busy cores, so that only a hang meets it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that has no way to tell.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// Longer than `molt dev` may take to put everything away.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// What a failing test shows of the program's own log.
const LOG_LINES_SHOWN: usize = 80;

/// One installation. Its programs end with it.
pub(crate) struct Stack {
    pub(crate) database: TestDatabase,
    pub(crate) http: Client,
    pub(crate) port: u16,
    /// The key that the program seals with.
    pub(crate) seal: SecretString,
    /// The key is in the data folder, as on most machines, and not in the environment.
    pub(crate) keeps_key: bool,
    private: bool,
    unreachable_npm: bool,
    folder: PathBuf,
    settings: String,
    molt: Option<Child>,
    starts: u32,
}

impl Stack {
    /// `molt dev`, ready to answer.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with more lines at the top of its `molt.toml`.
    pub(crate) async fn start_with(settings: &str) -> Self {
        let mut stack = Self::prepare(settings).await;
        stack.launch().await;
        stack
    }

    /// With a Postgres of its own in its data folder, as on a machine where nobody named another.
    pub(crate) async fn start_private() -> Self {
        let mut stack = Self::prepare("").await;
        stack.private = true;
        stack.launch().await;
        stack
    }

    /// With OpenClaw as the runtime, on a machine where npm is out of reach.
    pub(crate) async fn start_without_runtime() -> Self {
        let mut stack = Self::prepare_with("", false).await;
        stack.unreachable_npm = true;
        stack.launch_until("/healthz", &[]).await;
        stack
    }

    /// Cells whose runtime has a probe beside it, which tries to get out of them.
    pub(crate) async fn start_probed(settings: &str) -> Self {
        let mut stack = Self::prepare_with(settings, false).await;
        let command = [brought(&stack.folder, "molt-seal-probe"), stand_in(&stack.folder)];
        stack.settings = format!("{}[runtime]\ncommand = {command:?}\n", stack.settings);
        std::fs::write(stack.folder.join("molt.toml"), &stack.settings).expect("the test's folder can be written");
        stack.launch().await;
        stack
    }

    /// With a runtime that the settings name, where the cells live.
    pub(crate) async fn start_in_its_own(settings: &str) -> Self {
        let mut stack = Self::prepare_with(settings, false).await;
        stack.launch().await;
        stack
    }

    /// Everything but the program.
    pub(crate) async fn prepare(settings: &str) -> Self {
        Self::prepare_with(settings, true).await
    }

    async fn prepare_with(settings: &str, stands_in: bool) -> Self {
        let folder = fresh_folder();
        let port = free_port();
        let pace = if settings.contains("practice_pace_ms") { "" } else { "practice_pace_ms = 0\n" };
        let runtime =
            if stands_in { format!("[runtime]\ncommand = [{:?}]\n", stand_in(&folder)) } else { String::new() };
        let settings = format!("{pace}{settings}\n{runtime}");
        std::fs::write(folder.join("molt.toml"), &settings).expect("the test's folder can be written");
        let (database, http, seal) = (database().await, Client::new(port), SealKey::generate_hex());
        let (keeps_key, private, unreachable_npm) = (false, false, false);
        Self {
            database,
            http,
            port,
            seal,
            keeps_key,
            private,
            unreachable_npm,
            folder,
            settings,
            molt: None,
            starts: 0,
        }
    }

    /// Starts the program and waits until it is ready.
    pub(crate) async fn launch(&mut self) {
        self.launch_with(&[]).await;
    }

    pub(crate) async fn launch_with(&mut self, arguments: &[&str]) {
        self.launch_until("/readyz", arguments).await;
    }

    async fn launch_until(&mut self, good: &str, arguments: &[&str]) {
        assert!(self.molt.is_none(), "one program at a time");
        self.starts += 1;
        self.molt = Some(self.command().args(arguments).spawn().expect("the program was built"));
        let began = Instant::now();
        loop {
            if let Some(answer) = self.http.try_get(good).await
                && answer.status == 200
            {
                return;
            }
            if let Some(status) = self.molt.as_mut().and_then(|molt| molt.try_wait().expect("our own child")) {
                panic!("molt dev ended with {status} instead of getting ready");
            }
            assert!(began.elapsed() < PATIENCE, "molt dev did not get ready");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// `molt dev` as this installation runs it; its words go to the log.
    pub(crate) fn command(&self) -> Command {
        let log =
            File::options().create(true).append(true).open(self.screen_path()).expect("the folder can be written");
        let mut command = self.operator_command(&["dev"]);
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        command.stdout(log.try_clone().expect("a file can be cloned")).stderr(log).process_group(0);
        command
    }

    /// Any command line of whoever runs this installation.
    pub(crate) fn operator_command(&self, arguments: &[&str]) -> Command {
        let mut command = molt();
        command.args(arguments).arg("--data-dir").arg(self.data()).current_dir(&self.folder).stdin(Stdio::null());
        if !self.keeps_key {
            command.env("MOLT_SEAL_KEY", self.seal.expose_secret());
        }
        if !self.private {
            command.env("DATABASE_URL", self.database.owner_url.expose_secret());
        }
        if self.unreachable_npm {
            command.env("npm_config_registry", "http://127.0.0.1:1/").env("npm_config_cache", self.folder.join("npm"));
        }
        command
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("d")
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.molt.as_ref().expect("the program runs").id()).expect("a process id")
    }

    /// Pulls the plug: no chance to say goodbye. Cells go on.
    pub(crate) fn kill(&mut self) {
        let mut molt = self.molt.take().expect("the program runs");
        molt.kill().expect("our own child");
        molt.wait().expect("our own child");
    }

    /// Ctrl-C, and waits until the program has put everything away.
    pub(crate) async fn interrupt(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.pid()).expect("a process id");
        kill_process(pid, Signal::INT).expect("our own child");
        self.ended(STOP_PATIENCE).await
    }

    /// Waits for the program to end by itself.
    pub(crate) async fn ended(&mut self, patience: Duration) -> ExitStatus {
        let mut molt = self.molt.take().expect("the program runs");
        let began = Instant::now();
        loop {
            if let Some(status) = molt.try_wait().expect("our own child") {
                return status;
            }
            if began.elapsed() > patience {
                self.molt = Some(molt);
                panic!("the program did not end within {patience:?}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends the test in good order: Ctrl-C, no process left, nothing in the log that a person would have to act on.
    pub(crate) async fn finish(self) {
        let log = self.finish_quietly().await;
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(errors.is_empty(), "errors in the log:\n{}", errors.join("\n"));
    }

    /// The same where a person does have to act; what the log says.
    pub(crate) async fn finish_quietly(mut self) -> String {
        let status = self.interrupt().await;
        assert!(status.success(), "molt dev ended with {status}");
        assert_eq!(processes::below(&self.folder), Vec::new(), "no process is left after Ctrl-C");
        self.log()
    }

    /// What the program wrote down so far, all starts together.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.data().join("molt.log")).unwrap_or_default()
    }

    /// What the program showed to whoever started it.
    pub(crate) fn screen(&self) -> String {
        std::fs::read_to_string(self.screen_path()).unwrap_or_default()
    }

    fn screen_path(&self) -> PathBuf {
        self.folder.join("screen")
    }

    /// Waits until `look` finds something.
    pub(crate) async fn eventually<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log() + &self.screen();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- molt, start {} with\n{}\n{}\n---", self.starts, self.settings, shown.join("\n"));
        }
        if let Some(mut molt) = self.molt.take() {
            let _ = molt.kill();
            let _ = molt.wait();
        }
        processes::end_below(&self.folder);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The program, with nothing of the developer's own settings in its environment.
pub(crate) fn molt() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_molt"));
    command.env_clear();
    for name in ["PATH", "HOME", "USER", "LANG", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

fn stand_in(folder: &Path) -> PathBuf {
    brought(folder, "molt-stand-in-runtime")
}

/// Where the users that cells run as can start it: a checkout may be in a folder that is closed to them.
fn brought(folder: &Path, program: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_molt")).with_file_name(program);
    let here = folder.join(program);
    if std::fs::hard_link(&built, &here).is_err() {
        std::fs::copy(&built, &here).expect("the program was built");
    }
    here
}

/// Short, because a unix socket's path has 107 bytes at most, and open to the users that cells run as.
pub(crate) fn fresh_folder() -> PathBuf {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let folder = std::env::temp_dir().join(format!("molt-it-{}", &id[..8]));
    std::fs::create_dir(&folder).expect("a fresh folder");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).expect("our own folder");
    folder
}

/// Free a moment ago; the system gives the same one again only after all others.
pub(crate) fn free_port() -> u16 {
    loop {
        let probe = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = probe().expect("a free port").port();
        // the operator's listener is on the next one
        if TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

/// Whether a folder holds no other folders, or isn't there.
pub(crate) fn has_no_folders(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |entries| entries.flatten().all(|entry| !entry.path().is_dir()))
}
