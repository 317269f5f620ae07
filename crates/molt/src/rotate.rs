//! `molt keys rotate`: a new key seals everything from now on, everything is sealed anew, and the old key goes. Beside the
//! running platform, and in steps that may be cut anywhere: to run it again is to go on.
//! Never: a key dropped while a value or a process still needs it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use molt_model::{Clock, SystemClock};
use molt_store::{KeyFile, SealKeyId, Store};
use serde_json::json;

use crate::commands::{self, ACTOR};
use crate::config::Config;
use crate::data::DataDir;

/// A process reads its keys within milliseconds of being told.
const HEARD_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub async fn rotate(config: &Config) -> anyhow::Result<()> {
    match DataDir::look(&config.data_dir).seal_key_file(config) {
        Some(file) => in_file(config, &file).await,
        None => by_hand(config).await,
    }
}

/// The keys are in a file of ours: a new one is written first, the old one is taken out last.
async fn in_file(config: &Config, path: &Path) -> anyhow::Result<()> {
    if path.is_symlink() {
        // What a container's secret mount looks like: the next change of the secret would undo ours.
        return by_hand(config).await;
    }
    let (store, _) = commands::open(config).await?;
    let ours = KeyFile::lock(path).with_context(|| read_only(path))?;
    let file = ours.context("another `molt keys rotate` works on these keys just now; wait until it has ended")?;
    if file.begin().with_context(|| read_only(path))? {
        println!("A new key is in {}, before the old one.", path.display());
    } else {
        println!("{} holds several keys: going on with a rotation that didn't end.", path.display());
    }
    store.seal().reload()?;
    reseal(&store).await?;
    file.finish().with_context(|| read_only(path))?;
    store.announce_seal_keys().await?;
    println!(
        "Done. The old key is out of {} and opens nothing that is in the database now. Backups of the database from before \
         still need it: keep it beside them, or destroy both.",
        path.display()
    );
    store.close().await;
    Ok(())
}

/// The keys come from the environment or a mounted secret, which only the operator can change.
async fn by_hand(config: &Config) -> anyhow::Result<()> {
    let (store, _) = commands::open(config).await?;
    if store.seal().ids().len() < 2 {
        bail!(
            "the seal key comes from MOLT_SEAL_KEY or a mounted secret, which molt can't change. Make a new key \
             (`openssl rand -hex 32`), put it before the old one with a comma between (MOLT_SEAL_KEY=<new>,<old>; in a file, a \
             line each), restart every process of the installation with it, and run this again"
        );
    }
    reseal(&store).await?;
    println!(
        "Done. Everything is sealed under the first key. Now take the old one out of MOLT_SEAL_KEY or the secret and restart \
         the processes; keep it only beside backups of the database from before."
    );
    store.close().await;
    Ok(())
}

/// Everything under the newest key, and nothing else in force any more.
async fn reseal(store: &Store) -> anyhow::Result<()> {
    let ids = store.seal().ids();
    let (newest, older) = (ids[0], &ids[1..]);
    if store.system().await?.seal_key_is_retired(newest).await? {
        bail!("the first of the keys was retired by an earlier rotation; put the key that came after it first");
    }
    store.announce_seal_keys().await?;
    wait_for_all(store, newest).await?;
    let now = SystemClock.now();
    let mut tx = store.system().await?;
    tx.retire_seal_keys(older, now).await?;
    let names: Vec<String> = older.iter().map(ToString::to_string).collect();
    tx.audit(ACTOR, "seal.rotate", &newest.to_string(), &json!({ "retired": names }), now).await?;
    tx.commit().await?;
    for column in store.reseal().await? {
        println!("{}: {} sealed anew", column.column, column.done);
        if column.lost > 0 {
            eprintln!(
                "{}: {} can't be opened with any of the keys, and stay as they are; they were lost before",
                column.column, column.lost
            );
        }
    }
    Ok(())
}

/// Whoever still seals with the old key would be refused by the database once it is retired.
async fn wait_for_all(store: &Store, newest: SealKeyId) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let behind = store.processes_without_seal_key(newest).await?;
        if behind.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > HEARD_MAX {
            bail!(
                "{} of the installation's processes don't have the new key ({}): give them the same key file, or restart \
                 them with the same MOLT_SEAL_KEY, and run this again. Nothing is lost: the old key is still in force",
                behind.len(),
                behind.join(", ")
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn read_only(path: &Path) -> String {
    format!(
        "molt can't replace {}; run this as the account that it belongs to, or, if it is mounted read-only, put a new key on a \
         line before the old one yourself, restart every process and run this again",
        path.display()
    )
}
