//! Where the log goes: a file beside the data for `molt dev`, whose terminal belongs to the person; standard error otherwise.
//! Never: two destinations for one line, or a log that grows without end.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, stderr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// A log that is larger at the start is put aside as `.1`, so there are never more than two.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Into `file`; errors, about which a person must do something, on the terminal as well.
pub fn to_file(filter: &str, file: &Path) -> anyhow::Result<()> {
    let file = open(file).with_context(|| format!("the log {} can't be written", file.display()))?;
    let all =
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Mutex::new(file)).with_filter(levels(filter)?);
    let errors = tracing_subscriber::fmt::layer().without_time().with_target(false).with_writer(stderr);
    let errors = errors.with_ansi(stderr().is_terminal()).with_filter(LevelFilter::ERROR);
    tracing_subscriber::registry().with(all).with(errors).init();
    Ok(())
}

/// To standard error: JSON for machines, plain where a person looks.
pub fn to_stderr(filter: &str) -> anyhow::Result<()> {
    let levels = levels(filter)?;
    if stderr().is_terminal() {
        tracing_subscriber::fmt().with_writer(stderr).with_env_filter(levels).init();
    } else {
        tracing_subscriber::fmt().json().with_writer(stderr).with_env_filter(levels).init();
    }
    Ok(())
}

/// Statements of the database are for those who look for them.
fn levels(filter: &str) -> anyhow::Result<EnvFilter> {
    let text = format!("sqlx=warn,hyper=warn,{filter}");
    EnvFilter::try_new(text).with_context(|| format!("log: \"{filter}\" isn't a level such as info, or a list of them"))
}

fn open(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|facts| facts.len() > FILE_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
