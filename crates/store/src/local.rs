//! A private Postgres of this installation: made, started, adopted and stopped without asking anybody.
//! Never: a port, a superuser process, or a guess about a process id. What runs is asked through its own socket, and the
//! server outlives a killed `molt` on purpose, so that nothing is lost; the next one adopts it.

mod account;
mod binaries;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use crate::Store;
use account::Account;
pub use binaries::{Binaries, MAJOR_MIN};

/// Recovery after a power cut replays at most `max_wal_size`, seconds of work.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// For whoever only wants to know.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const READY_POLL: Duration = Duration::from_millis(15);
/// A fast shutdown ends sessions and writes one checkpoint.
const STOP_WITHIN: Duration = Duration::from_secs(8);
/// After an abrupt end the next start recovers; this long we wait for even that.
const ABORT_WITHIN: Duration = Duration::from_secs(3);
/// `sun_path` has 108 bytes with its closing zero, on Linux; macOS has 104.
const SOCKET_PATH_BYTES_MAX: usize = 103;
const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// The log is for a person who looks into it; it starts again when it is larger than this.
const LOG_BYTES_MAX: u64 = 1024 * 1024;
const OWNER: &str = "molt";
const DATABASE: &str = "molt";
const APPLICATION_ROLE: &str = "molt_app";

/// What stands in the way, as a sentence for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No binaries of a fitting version here: the caller may fetch some. `need` is set when a cluster is already there.
    #[error("{}", missing(*need, found))]
    Missing { need: Option<u32>, found: Vec<u32> },
    #[error("{0}")]
    Refused(String),
}

impl LocalError {
    fn io(what: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::Refused(format!("{what} {} failed: {error}", path.display()))
    }
}

fn missing(need: Option<u32>, found: &[u32]) -> String {
    let found = match found {
        [] => "none was found".to_owned(),
        found => format!("only {} was found", found.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    };
    match need {
        Some(major) => format!("the database here was made by Postgres {major}, and {found}"),
        None => format!("Postgres {MAJOR_MIN} or newer is needed, and {found}"),
    }
}

/// How careful the server is with what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody's data: nothing committed is ever lost.
    Keep,
    /// Tests: no waiting for the disk.
    Test,
}

/// A running private server.
#[derive(Debug)]
pub struct Cluster {
    data: PathBuf,
    sockets: PathBuf,
    pid: rustix::process::Pid,
    /// Set when this process started it.
    child: Option<Child>,
    /// Whether it ran before this process came.
    pub adopted: bool,
}

impl Cluster {
    /// Starts the cluster in `folder`, or adopts it if it runs; makes it on the first call. Two callers of one folder
    /// must hold a lock against each other.
    pub async fn start(candidates: &[Binaries], folder: &Path, purpose: Purpose) -> Result<Self, LocalError> {
        let account = Account::unprivileged(folder)?;
        account.own_folder(folder)?;
        let data = folder.join("cluster");
        if let Some(cluster) = Self::adopt(&data).await {
            return Ok(cluster);
        }
        let binaries = binaries::choose(candidates, &data)?;
        account.can_reach(binaries.folder())?;
        if !data.join("PG_VERSION").exists() {
            initialise(binaries, &account, folder, &data).await?;
        }
        let sockets = socket_folder(&account, folder)?;
        let log = folder.join("postgres.log");
        let child = spawn(binaries, &account, &data, &sockets, &log, purpose)?;
        let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        let pid = pid.ok_or_else(|| LocalError::Refused(format!("Postgres ended at once: {}", log_tail(&log))))?;
        let mut cluster = Self { data, sockets, pid, child: Some(child), adopted: false };
        cluster.wait_ready(&log, READY_WITHIN).await?;
        Ok(cluster)
    }

    /// The server of this folder if one runs and answers, whoever started it. Changes nothing.
    pub async fn running(folder: &Path) -> Option<Self> {
        let mut cluster = Self::find(&folder.join("cluster"))?;
        cluster.wait_ready(&folder.join("postgres.log"), ANSWER_WITHIN).await.is_ok().then_some(cluster)
    }

    /// The database and the application role exist and the schema is the newest; answers the application role's address.
    pub async fn migrate(&self) -> crate::Result<SecretString> {
        let mut connection = self.options("postgres").connect().await?;
        let exists = sqlx::query_scalar::<_, bool>("select exists (select from pg_database where datname = $1)");
        if !exists.bind(DATABASE).fetch_one(&mut connection).await? {
            connection.execute(sqlx::raw_sql("create database molt")).await?;
        }
        Store::migrate(&self.owner_url()).await?;
        let exists = sqlx::query_scalar::<_, bool>("select exists (select from pg_roles where rolname = $1)");
        if !exists.bind(APPLICATION_ROLE).fetch_one(&mut connection).await? {
            connection.execute(sqlx::raw_sql("create role molt_app login noinherit")).await?;
        }
        connection.execute(sqlx::raw_sql("grant molt_tenant, molt_system to molt_app")).await?;
        connection.close().await?;
        Ok(self.application_url())
    }

    /// The application role's address; good after `migrate`.
    #[must_use]
    pub fn application_url(&self) -> SecretString {
        url(self.options(DATABASE).username(APPLICATION_ROLE))
    }

    /// The owner's address of the application's database: migrations only.
    #[must_use]
    pub fn owner_url(&self) -> SecretString {
        url(self.options(DATABASE))
    }

    /// The owner's address of the database that always exists.
    #[must_use]
    pub fn maintenance_url(&self) -> SecretString {
        url(self.options("postgres"))
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Ends the server: fast first, abruptly when it doesn't listen. Nothing committed is lost either way.
    pub async fn stop(mut self) {
        use rustix::process::Signal;
        for (signal, patience) in
            [(Signal::INT, STOP_WITHIN), (Signal::QUIT, ABORT_WITHIN), (Signal::KILL, ABORT_WITHIN)]
        {
            let _ = rustix::process::kill_process(self.pid, signal);
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                if self.gone() {
                    return;
                }
                sleep(READY_POLL).await;
            }
            tracing::warn!(signal = ?signal, "the private Postgres did not stop when asked");
        }
    }

    /// The server that an earlier process started here, once it answers. One that doesn't is ended.
    async fn adopt(data: &Path) -> Option<Self> {
        let Some(mut cluster) = Self::find(data) else {
            // The id in the file was given to another process since, which would keep Postgres from starting.
            let _ = fs::remove_file(data.join("postmaster.pid"));
            return None;
        };
        let ready = cluster.wait_ready(&data.with_file_name("postgres.log"), READY_WITHIN).await;
        if let Err(error) = ready {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a Postgres that runs here does not answer; ending it"
            );
            cluster.stop().await;
            return None;
        }
        Some(cluster)
    }

    /// The server whose process works in this folder, whether it answers or not.
    fn find(data: &Path) -> Option<Self> {
        let note = PidFile::read(data).filter(|note| note.is_our_postgres(data))?;
        Some(Self { data: data.to_owned(), sockets: note.sockets?, pid: note.pid, child: None, adopted: true })
    }

    async fn wait_ready(&mut self, log: &Path, within: Duration) -> Result<(), LocalError> {
        let deadline = Instant::now() + within;
        loop {
            if let Ok(connection) = self.options("postgres").connect().await {
                let _ = connection.close().await;
                return Ok(());
            }
            if self.gone() {
                return Err(LocalError::Refused(format!("Postgres ended at its start: {}", log_tail(log))));
            }
            if Instant::now() > deadline {
                return Err(LocalError::Refused(format!(
                    "Postgres did not answer within {} seconds: {}",
                    within.as_secs(),
                    log_tail(log)
                )));
            }
            sleep(READY_POLL).await;
        }
    }

    fn gone(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            // Not our child: in a container without a reaping init it may stay a zombie, but its file goes at the end.
            None => {
                rustix::process::test_kill_process(self.pid).is_err()
                    || PidFile::read(&self.data).is_none_or(|note| note.pid != self.pid)
            }
        }
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.sockets).port(5432).username(OWNER).database(database)
    }
}

fn url(options: PgConnectOptions) -> SecretString {
    options.to_url_lossy().to_string().into()
}

/// What Postgres notes about itself in `postmaster.pid`.
struct PidFile {
    pid: rustix::process::Pid,
    sockets: Option<PathBuf>,
}

impl PidFile {
    fn read(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        let pid = rustix::process::Pid::from_raw(lines.first()?.trim().parse().ok()?)?;
        Some(Self { pid, sockets: lines.get(4).filter(|line| !line.is_empty()).map(PathBuf::from) })
    }

    /// Whether the process of that id is a Postgres that works in this folder.
    fn is_our_postgres(&self, data: &Path) -> bool {
        let process = PathBuf::from(format!("/proc/{}", self.pid.as_raw_nonzero()));
        if Path::new("/proc/self/cwd").exists() {
            let here = fs::canonicalize(data).ok();
            return here.is_some() && fs::read_link(process.join("cwd")).ok() == here;
        }
        let id = self.pid.as_raw_nonzero().to_string();
        let ps = std::process::Command::new("ps").args(["-o", "command=", "-p", &id]).output();
        ps.is_ok_and(|out| {
            let line = String::from_utf8_lossy(&out.stdout).into_owned();
            line.contains("postgres") && line.contains(&*data.to_string_lossy())
        })
    }
}

/// Makes the cluster beside its final place and moves it there when it is whole.
async fn initialise(binaries: &Binaries, account: &Account, folder: &Path, data: &Path) -> Result<(), LocalError> {
    let draft = folder.join("cluster.draft");
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(|error| LocalError::io("clearing", &draft, &error))?;
    }
    let mut command = account.command(&binaries.initdb());
    command.arg("-D").arg(&draft).args([
        "-U",
        OWNER,
        "--auth=trust",
        "--encoding=UTF8",
        "--no-sync",
        "--no-instructions",
    ]);
    command.args(match (binaries.major, cfg!(target_os = "linux")) {
        (17.., _) => ["--locale-provider=builtin", "--locale=C.UTF-8"].as_slice(),
        (_, true) => ["--locale=C.UTF-8"].as_slice(),
        (_, false) => ["--no-locale"].as_slice(),
    });
    let out = command.kill_on_drop(true).output().await;
    let out = out.map_err(|error| LocalError::io("running", &binaries.initdb(), &error))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        return Err(LocalError::Refused(format!("making the database failed: {}", in_short(&text))));
    }
    fs::rename(&draft, data).map_err(|error| LocalError::io("placing", data, &error))
}

fn spawn(
    binaries: &Binaries,
    account: &Account,
    data: &Path,
    sockets: &Path,
    log: &Path,
    purpose: Purpose,
) -> Result<Child, LocalError> {
    if fs::metadata(log).is_ok_and(|facts| facts.len() > LOG_BYTES_MAX) {
        let _ = fs::remove_file(log);
    }
    let open = || fs::OpenOptions::new().create(true).append(true).open(log);
    let file = open().map_err(|error| LocalError::io("opening", log, &error))?;
    let errors = open().map_err(|error| LocalError::io("opening", log, &error))?;
    let mut command = account.command(&binaries.postgres());
    command.arg("-D").arg(data).arg("-k").arg(sockets);
    for setting in ["listen_addresses=", "unix_socket_permissions=0700", "jit=off", "max_wal_size=256MB"] {
        command.arg("-c").arg(setting);
    }
    let tuning: &[&str] = match purpose {
        Purpose::Keep => &["shared_buffers=32MB", "max_connections=60"],
        Purpose::Test => &[
            "max_connections=400",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "shared_buffers=64MB",
        ],
    };
    for setting in tuning {
        command.arg("-c").arg(setting);
    }
    // A group of its own: Ctrl-C at the terminal must reach molt alone, which stops the server last.
    command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
    command.spawn().map_err(|error| LocalError::io("starting", &binaries.postgres(), &error))
}

/// Beside the data, unless the path is too long for a socket: then a short folder that only the account may enter.
fn socket_folder(account: &Account, folder: &Path) -> Result<PathBuf, LocalError> {
    let near = folder.join("run");
    if near.as_os_str().len() + 1 + SOCKET_NAME.len() <= SOCKET_PATH_BYTES_MAX {
        account.own_folder(&near)?;
        return Ok(near);
    }
    use sha2::Digest;
    let digest = sha2::Sha256::digest(folder.as_os_str().as_encoded_bytes());
    let short = PathBuf::from(format!("/tmp/molt-postgres-{}", hex::encode(&digest[..6])));
    account.own_folder(&short)?;
    Ok(short)
}

fn log_tail(log: &Path) -> String {
    in_short(&fs::read_to_string(log).unwrap_or_default())
}

/// The line of Postgres' own words that says most, with the way out where we know it.
fn in_short(text: &str) -> String {
    if text.contains("No space left on device") || text.contains("could not extend file") {
        return "the disk is full; make room and start again".to_owned();
    }
    let telling = |line: &&str| line.contains("FATAL") || line.contains("error") || line.contains("could not");
    let line = text.lines().rfind(telling).or_else(|| text.lines().last());
    line.unwrap_or("it said nothing").trim().to_owned()
}

/// Ends whatever still works in `folder`, whoever started it.
pub async fn stop(folder: &Path) {
    if let Some(cluster) = Cluster::find(&folder.join("cluster")) {
        cluster.stop().await;
    }
}

/// Ends whatever still works in `folder` and forgets its data. The caller has asked the person first.
pub async fn erase(folder: &Path) -> Result<(), LocalError> {
    stop(folder).await;
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(LocalError::io("removing", folder, &error)),
    }
}

/// The version of the server behind an address, for a sentence when it is too old.
pub async fn server_major(url: &SecretString) -> crate::Result<u32> {
    use secrecy::ExposeSecret;
    let options: PgConnectOptions = url.expose_secret().parse()?;
    let mut connection: PgConnection = options.connect().await?;
    let number: i32 =
        sqlx::query_scalar("select current_setting('server_version_num')::int").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(number.unsigned_abs() / 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_private_server_is_made_adopted_recovered_and_stopped() {
        let folder = std::env::temp_dir().join(format!("molt-cluster-{}", std::process::id()));
        let here = Binaries::find(&[], "");
        let first = Cluster::start(&here, &folder, Purpose::Test).await.unwrap();
        let url = first.migrate().await.unwrap();
        assert!(server_major(&url).await.unwrap() >= MAJOR_MIN);

        // What a killed molt leaves behind is adopted.
        let second = Cluster::start(&here, &folder, Purpose::Test).await.unwrap();
        assert!(second.adopted && second.pid() == first.pid());
        second.migrate().await.unwrap();

        // A killed server's file does not keep the next one from starting, even if its id lives on in another process.
        rustix::process::kill_process(first.pid, rustix::process::Signal::KILL).unwrap();
        drop(first);
        let note = folder.join("cluster/postmaster.pid");
        let text = fs::read_to_string(&note).unwrap().replacen(&second.pid().to_string(), "1", 1);
        fs::write(&note, text).unwrap();
        let third = Cluster::start(&here, &folder, Purpose::Test).await.unwrap();
        assert!(!third.adopted);
        assert!(server_major(&third.owner_url()).await.is_ok());
        third.stop().await;
        assert!(Cluster::running(&folder).await.is_none() && !note.exists());
        erase(&folder).await.unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn what_postgres_says_becomes_one_line() {
        for (text, line) in [
            ("LOG: a\nFATAL:  could not create lock file\nHINT: b", "FATAL:  could not create lock file"),
            ("initdb: error: could not write: No space left on device", "the disk is full; make room and start again"),
            ("", "it said nothing"),
        ] {
            assert_eq!(in_short(text), line);
        }
    }
}
