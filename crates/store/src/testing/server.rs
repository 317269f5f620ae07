//! The server behind the tests: the one that is named, else a private cluster that many test processes share.
//! Never: left running for good. A watchdog ends it when no test has asked for a database for a while.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::local::{Binaries, Cluster, Purpose};

/// Names a server whose user may create databases and roles.
const VARIABLE: &str = "MOLT_TEST_DATABASE_URL";
/// A folder with `postgres` and `initdb`, for machines that have none in the usual places.
const BINARIES_VARIABLE: &str = "MOLT_POSTGRES_BIN";
/// Ends the server ($2) when nobody has touched the lease ($1) for ten minutes; no test is quiet for longer.
const WATCHDOG: &str = r#"while sleep 20 && kill -0 "$2"; do
  [ -n "$(find "$1" -mmin -10)" ] || { kill -INT "$2"; exit; }
done"#;

/// The server as its owner, in the database that always exists.
pub(super) async fn options() -> anyhow::Result<PgConnectOptions> {
    let url = match std::env::var(VARIABLE) {
        Ok(url) => url.into(),
        Err(_) => shared().await?,
    };
    named(&url)
}

/// The server at this address.
pub(super) fn named(url: &SecretString) -> anyhow::Result<PgConnectOptions> {
    let options: PgConnectOptions = url.expose_secret().parse().context("that is no Postgres address")?;
    Ok(options.database("postgres").application_name("molt-test").disable_statement_logging())
}

async fn shared() -> anyhow::Result<SecretString> {
    let also: Vec<PathBuf> = std::env::var_os(BINARIES_VARIABLE).map(PathBuf::from).into_iter().collect();
    let near = target_folder().join("test-postgres");
    let start = |folder: PathBuf| {
        let also = also.clone();
        async move { start(&folder, &also).await.with_context(|| format!("set {VARIABLE}, or install Postgres")) }
    };
    match start(near).await {
        Ok(url) => Ok(url),
        // A checkout under a closed home: the account that runs the server for root can't get there.
        Err(_) if rustix::process::geteuid().is_root() => start(std::env::temp_dir().join("molt-test-postgres")).await,
        Err(error) => Err(error),
    }
}

/// Starts or adopts the cluster under a lock between processes, and renews the lease.
async fn start(folder: &Path, also: &[PathBuf]) -> anyhow::Result<SecretString> {
    let lease = folder.with_extension("lease");
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Two of one thread: the lock between processes would have it wait for itself.
    static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _starting = STARTING.lock().await;
    let lock = File::options().create(true).truncate(true).write(true).open(&lease)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    lock.set_modified(std::time::SystemTime::now())?;
    if let Some(cluster) = Cluster::running(folder).await {
        return Ok(cluster.maintenance_url());
    }
    let cluster =
        Cluster::start(&Binaries::find(also, &std::env::var("PATH").unwrap_or_default()), folder, Purpose::Test)
            .await?;
    Command::new("sh")
        .args(["-c", WATCHDOG, "sh"])
        .arg(&lease)
        .arg(cluster.pid().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    Ok(cluster.maintenance_url())
}

fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from)
}
