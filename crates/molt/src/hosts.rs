//! Which kind of host keeps the bots of an installation: what the settings say, held against what is there already.
//! Never: a second cell of a bot because somebody changed a setting.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use chrono::TimeDelta;
use molt_fleet::{
    DockerConfig, DockerHost, FlyHost, FlySettings, Host, Pace, Paced, ProcessHost, RuntimeState, Sealing, cell_users,
};
use molt_model::{BotId, CatalogInForce};
use molt_store::Store;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::config::Config;
use crate::data::DataDir;
use crate::image::{Image, keep_making};
use crate::install;

/// Says which kind of host the bots of this data folder have.
const KIND_FILE: &str = "bots/.host";
/// Whose they are; the fleet writes it.
const OWNER_FILE: &str = "bots/.installation";
/// Where a cell in a container finds its gate.
const GATE_INSIDE: &str = "unix:/run/molt/out/proxy.sock";
const MIB: u64 = 1024 * 1024;
const NANOS_PER_CPU: f64 = 1_000_000_000.0;

/// Where bots live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// Processes of this machine.
    #[default]
    Process,
    /// Containers of the Docker engine of this machine.
    Docker,
    /// Machines at Fly, an app for each.
    Fly,
}

impl HostKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Fly => "fly",
        }
    }
}

/// What the fleet needs besides the settings.
pub struct Parts {
    pub data_dir: PathBuf,
    /// What cells are made of: a program or the name of an image.
    pub cell: PathBuf,
    pub runtime: watch::Receiver<RuntimeState>,
    docker: Option<DockerConfig>,
    fly: Option<FlySettings>,
    keep_ahead: TimeDelta,
    keep_spare: u32,
}

/// The settings of Fly for this very database, after which everything there is named.
pub async fn fly_of(config: &Config, store: &Store) -> anyhow::Result<Option<FlySettings>> {
    let Some(fly) = config.fly.clone() else { return Ok(None) };
    Ok(Some(FlySettings { installation: installation(store).await?, ..fly }))
}

async fn installation(store: &Store) -> anyhow::Result<Uuid> {
    let mut system = store.system().await?;
    let installation = system.installation().await?;
    system.commit().await?;
    Ok(installation)
}

impl Parts {
    /// Claims the data folder for this kind of host, and begins to fetch or make what the bots need.
    pub async fn prepare(config: &Config, data: &DataDir, store: &Store) -> anyhow::Result<(Self, AbortHandle)> {
        let (kind, keep_ahead, keep_spare) = (config.fleet.host, config.fleet.keep_ahead(), config.fleet.keep_spare);
        claim_kind(data.root(), kind)?;
        let fly = fly_of(config, store).await?;
        if let Some(fly) = &fly {
            // The image brings its runtime along, unless the settings name one in it.
            let (sender, runtime) = watch::channel(RuntimeState::Ready { command: config.runtime.command.clone() });
            let task = tokio::spawn(async move { sender.closed().await }).abort_handle();
            let (data_dir, cell) = (data.root().to_owned(), PathBuf::from(&fly.image));
            let (docker, fly) = (None, Some(fly.clone()));
            return Ok((Self { data_dir, cell, runtime, docker, fly, keep_ahead, keep_spare }, task));
        }
        let program = install::cell_binary(&config.runtime.cell, &data.programs())?;
        let docker = match kind {
            HostKind::Process | HostKind::Fly => None,
            HostKind::Docker => Some(docker_config(config, data.root(), installation(store).await?, &program)?),
        };
        let image_gone = docker.as_ref().and_then(|docker| docker.image_gone.clone());
        let (runtime, task) = prepare_runtime(config, data, &program, image_gone)?;
        let cell = docker.as_ref().map_or(program, |docker| PathBuf::from(&docker.image));
        Ok((Self { data_dir: data.root().to_owned(), cell, runtime, docker, fly, keep_ahead, keep_spare }, task))
    }

    /// Whether the cells end with this program. Those elsewhere go on, and the next start finds them.
    #[must_use]
    pub fn are_here(&self) -> bool {
        self.fly.is_none()
    }

    /// The host, and what its fleet is told. `proxy_url` is where processes send their calls.
    pub fn open(self, proxy_url: String, sealing: &Sealing, catalog: CatalogInForce) -> anyhow::Result<Opened> {
        let sealed = self.docker.is_some();
        let mut settings = molt_fleet::Config {
            data_dir: self.data_dir,
            cell_binary: self.cell,
            proxy_url: if sealed { GATE_INSIDE.to_owned() } else { proxy_url },
            catalog,
            uid_range: if sealed || self.fly.is_some() { None } else { cell_users() },
            keep_ahead: self.keep_ahead,
            keep_spare: self.keep_spare,
        };
        let host: Arc<dyn Host> = match (self.docker, self.fly) {
            (_, Some(fly)) => Arc::new(FlyHost::new(fly).context("cells can't run at Fly")?),
            (Some(docker), None) => {
                let docker = DockerConfig { gates: sealing.gates.clone(), ..docker };
                Arc::new(DockerHost::new(docker).context("cells can't run here")?)
            }
            (None, None) => {
                let host = ProcessHost::new(&settings, sealing).context("cells can't run here")?;
                settings.proxy_url = host.way_out().unwrap_or(settings.proxy_url);
                Arc::new(Paced::new(host, Pace::PROCESSES))
            }
        };
        Ok(Opened { settings, host, runtime: self.runtime })
    }
}

/// A host that a fleet can work with.
pub struct Opened {
    pub settings: molt_fleet::Config,
    pub host: Arc<dyn Host>,
    pub runtime: watch::Receiver<RuntimeState>,
}

/// The host of a data folder as it is, for those who only look or tidy up. `None`: nothing of a bot is kept there.
pub fn existing(config: &Config, root: &Path) -> anyhow::Result<Option<Box<dyn Host>>> {
    if !root.join("bots").is_dir() {
        return Ok(None);
    }
    let installation = fs::read_to_string(root.join(OWNER_FILE)).unwrap_or_default().trim().parse::<Uuid>();
    let host: Box<dyn Host> = match (kind_of(root), installation) {
        (Some(HostKind::Docker), Ok(installation)) => {
            Box::new(DockerHost::new(docker_config(config, root, installation, Path::new(""))?)?)
        }
        (Some(HostKind::Docker), Err(_)) | (Some(HostKind::Fly), _) => return Ok(None),
        _ => {
            let settings = molt_fleet::Config {
                data_dir: root.to_owned(),
                cell_binary: PathBuf::new(),
                proxy_url: String::new(),
                catalog: config.own_catalog()?.into(),
                uid_range: None,
                keep_ahead: TimeDelta::zero(),
                keep_spare: 0,
            };
            Box::new(ProcessHost::new(&settings, &Sealing::off())?)
        }
    };
    Ok(Some(host))
}

/// Without a program, for those who start nothing, there is no name of an image.
fn docker_config(config: &Config, root: &Path, installation: Uuid, program: &Path) -> anyhow::Result<DockerConfig> {
    let fleet = &config.fleet;
    let image = match (fleet.image.as_str(), program.as_os_str().is_empty()) {
        ("", true) => String::new(),
        ("", false) => Image::of(program, &fleet.docker_socket)?.name,
        (named, _) => named.to_owned(),
    };
    Ok(DockerConfig {
        data_dir: root.to_owned(),
        installation,
        image,
        socket: fleet.docker_socket.clone(),
        gates: None,
        // One that the settings name is the operator's.
        image_gone: fleet.image.is_empty().then(Arc::default),
        memory_bytes: fleet.memory_mib * MIB,
        processes: fleet.processes,
        nano_cpus: (fleet.cpus * NANOS_PER_CPU) as u64,
    })
}

/// The runtime of the bots: one of the operator's own, or OpenClaw, fetched in the background if need be; in containers it
/// comes with the image.
fn prepare_runtime(
    config: &Config,
    data: &DataDir,
    program: &Path,
    image_gone: Option<Arc<Notify>>,
) -> anyhow::Result<(watch::Receiver<RuntimeState>, AbortHandle)> {
    let own = config.runtime.command.clone();
    let docker = config.fleet.host == HostKind::Docker;
    let image = match image_gone {
        Some(gone) => Some((Image::of(program, &config.fleet.docker_socket)?, gone)),
        None => None,
    };
    let command = if docker && own.is_empty() { Image::command() } else { own };
    let ready = image.is_none() && !command.is_empty();
    let state = if ready { RuntimeState::Ready { command: command.clone() } } else { install::before() };
    let (sender, receiver) = watch::channel(state);
    let folder = data.packages();
    let task = tokio::spawn(async move {
        match image {
            _ if ready => {}
            Some((image, gone)) => keep_making(image, command, folder, &gone, &sender).await,
            None => install::runtime(folder, &sender).await,
        }
        // The fleet listens as long as it lives.
        sender.closed().await;
    });
    Ok((receiver, task.abort_handle()))
}

/// Notes the kind, unless bots of another one are there.
fn claim_kind(root: &Path, kind: HostKind) -> anyhow::Result<()> {
    let bots = root.join("bots");
    if let Some(other) = kind_of(root).filter(|other| *other != kind && has_bots(&bots)) {
        bail!(
            "the bots in {} live on the host \"{}\": start with --host {}, or give this one a folder of its own with --data-dir",
            root.display(),
            other.as_str(),
            other.as_str()
        );
    }
    fs::create_dir_all(&bots).context("make the folder for bots")?;
    fs::write(root.join(KIND_FILE), kind.as_str()).context("note where bots live")
}

/// What is noted; before there was a choice, nothing was, and bots were processes.
fn kind_of(root: &Path) -> Option<HostKind> {
    match fs::read_to_string(root.join(KIND_FILE)).as_deref().map(str::trim) {
        Ok("docker") => Some(HostKind::Docker),
        Ok("fly") => Some(HostKind::Fly),
        Ok(_) => Some(HostKind::Process),
        Err(_) => root.join("bots").is_dir().then_some(HostKind::Process),
    }
}

fn has_bots(bots: &Path) -> bool {
    let entries = fs::read_dir(bots).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<BotId>().ok()).next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bots_of_one_kind_are_not_started_on_another() {
        let root = std::env::temp_dir().join(format!("molt-hosts-{}", Uuid::new_v4().simple()));
        claim_kind(&root, HostKind::Process).unwrap();
        claim_kind(&root, HostKind::Docker).unwrap();
        fs::create_dir(root.join("bots").join(BotId::random().as_str())).unwrap();
        let error = claim_kind(&root, HostKind::Process).unwrap_err().to_string();
        assert!(error.contains("--host docker") && error.contains("--data-dir"), "{error}");
        claim_kind(&root, HostKind::Docker).unwrap();
        // An installation from before there was a choice.
        fs::remove_file(root.join(KIND_FILE)).unwrap();
        assert!(claim_kind(&root, HostKind::Docker).unwrap_err().to_string().contains("--host process"));
        claim_kind(&root, HostKind::Process).unwrap();
        fs::remove_dir_all(&root).unwrap();
    }
}
