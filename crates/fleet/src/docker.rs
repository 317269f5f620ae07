//! Cells as containers of a Docker engine on this machine: each with a volume for its state and no network, reached by two
//! sockets in folders that the platform keeps.
//! Never: a container or a volume of another installation on the same engine, or a second one beside a living cell.

mod container;
mod engine;
mod look;
mod place;
mod seccomp;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use http::StatusCode;
use molt_bot::CellAddress;
use molt_model::BotId;
use secrecy::ExposeSecret;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;
use uuid::Uuid;

use crate::host::{BoxFuture, CellSpec, Ensured, Host, HostError, Report};
use crate::room;
use container::{Found, Listed, Owner};
use engine::Engine;
pub use look::{EngineFound, look_at_engine};
use place::Place;
#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use seccomp::tests::says;

/// After it was told to, the engine removes a container within this.
const REMOVAL_MAX: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How soon an engine that went away is asked again by those who wait for a cell's end.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// A cell takes its settings at once.
const HAND_OVER_MAX: Duration = Duration::from_secs(10);

/// What the cells of one installation are made with.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// Absolute, and the same for the engine: the ways in and out lie below it.
    pub data_dir: PathBuf,
    /// Whose containers these are.
    pub installation: Uuid,
    /// Name of an image that the engine has.
    pub image: String,
    /// Where the engine listens.
    pub socket: PathBuf,
    /// Told when a cell is about to need its gate.
    pub gates: Option<Arc<Notify>>,
    /// Told when the engine has no such image any more. `None`: nobody here makes it.
    pub image_gone: Option<Arc<Notify>>,
    /// Of one cell.
    pub memory_bytes: u64,
    pub processes: u32,
    /// Billionths of a processor.
    pub nano_cpus: u64,
}

/// A Docker engine as a host.
#[derive(Debug)]
pub struct DockerHost {
    config: DockerConfig,
    bots: PathBuf,
    owner: Owner,
    engine: Engine,
    /// Where the engine keeps images and volumes.
    root: OnceCell<PathBuf>,
}

impl DockerHost {
    /// Makes the folder of all bots. The engine may be away: that is said when it is needed.
    pub fn new(config: DockerConfig) -> Result<Self, HostError> {
        let bots = config.data_dir.join("bots");
        std::fs::create_dir_all(&bots).context("make the folder for bots")?;
        let bots = bots.canonicalize().context("find the folder for bots")?;
        let (owner, engine) = (Owner::new(&config, &bots), Engine::new(&config.socket));
        Ok(Self { config, bots, owner, engine, root: OnceCell::new() })
    }

    fn place(&self, bot: &BotId) -> Place {
        Place::new(&self.bots, bot)
    }

    async fn alone(&self, bot: &BotId) -> Result<std::fs::File, HostError> {
        let lock = self.place(bot).alone().await.context("lock the bot's place")?;
        lock.ok_or_else(|| anyhow!("another program works on {bot}").into())
    }

    /// The bot's container, if there is one. Another installation's is an error.
    async fn container(&self, bot: &BotId) -> Result<Option<Found>, HostError> {
        self.ours(&format!("/containers/{bot}/json"), "look for the container").await
    }

    async fn volume(&self, bot: &BotId) -> Result<Option<Found>, HostError> {
        self.ours(&format!("/volumes/{bot}"), "look for the volume").await
    }

    async fn ours(&self, path: &str, what: &'static str) -> Result<Option<Found>, HostError> {
        let Some(answer) = self.engine.get(path).await?.found(what)? else { return Ok(None) };
        let found: Found = answer.read()?;
        if !found.is_of(&self.owner) {
            return Err(HostError::Unusable(
                "a container or volume with a bot's name belongs to another installation or data folder; it is left alone"
                    .to_owned(),
            ));
        }
        Ok(Some(found))
    }

    /// The engine makes a container even where its cell could write nothing; such a cell would end without a word.
    async fn check_room(&self) -> Result<(), HostError> {
        let root = self.root.get_or_try_init(|| look::root_of(&self.engine)).await?;
        // An engine may keep its things where this account can't look; then its own words have to do.
        if room::is_short(root) { Err(HostError::DiskFull) } else { Ok(()) }
    }

    /// An engine that can make no more files doesn't always say so: one step of it fails in silence, the next one in words of
    /// its own.
    fn for_want_of_room(&self, error: HostError) -> HostError {
        let short = self.root.get().is_some_and(|root| room::is_short(root));
        match error {
            HostError::Unexpected(error) if short => {
                tracing::warn!(error = format!("{error:#}"), "the engine's disk is full");
                HostError::DiskFull
            }
            error => error,
        }
    }

    async fn start(&self, spec: &CellSpec) -> Result<(), HostError> {
        let (bot, place) = (&spec.bot, self.place(&spec.bot));
        self.check_room().await?;
        place.create().context("make the cell's folder")?;
        if let Some(gates) = &self.config.gates {
            gates.notify_one();
        }
        if self.volume(bot).await?.is_none() {
            let volume = serde_json::json!({ "Name": bot, "Labels": self.owner.labels(bot.as_str()) });
            self.engine.post("/volumes/create", Some(&volume)).await?.expect("make the volume")?;
        }
        let body = container::body(&self.config, &self.owner, bot.as_str(), &place);
        let made = self.engine.post(&format!("/containers/create?name={bot}"), Some(&body)).await?;
        if made.status == StatusCode::NOT_FOUND && made.said().to_lowercase().contains("no such image") {
            return Err(self.without_image());
        }
        made.expect("make the container")?;
        // Before it starts: what it reads first is already waiting, and if this program dies here, the cell reads an end.
        let mut input = self.engine.attach(&format!("/containers/{bot}/attach?stream=1&stdin=1")).await?;
        self.engine.post(&format!("/containers/{bot}/start"), None).await?.expect("start the container")?;
        let settings = container::settings(spec);
        let hand_over = async {
            input.write_all(settings.expose_secret().as_bytes()).await?;
            input.shutdown().await
        };
        let handed = tokio::time::timeout(HAND_OVER_MAX, hand_over).await;
        Ok(handed.context("the cell did not take its settings")?.context("hand over the settings")?)
    }

    /// Somebody removed the image, as `docker image prune` does while no bot runs.
    fn without_image(&self) -> HostError {
        let image = &self.config.image;
        let what = match &self.config.image_gone {
            Some(gone) => {
                gone.notify_one();
                "it is made anew"
            }
            None => "pull it, or leave [fleet] image empty",
        };
        HostError::Unusable(format!("the Docker engine has no image {image}: {what}"))
    }

    /// Ends the container and removes it. What is not there is fine.
    async fn end(&self, bot: &BotId) -> Result<(), HostError> {
        let deadline = Instant::now() + REMOVAL_MAX;
        while let Some(found) = self.container(bot).await? {
            if found.lives() {
                let stop = format!("/containers/{bot}/stop?t={}", container::GRACE_SECONDS);
                let grace = Duration::from_secs(container::GRACE_SECONDS);
                self.engine.post_slow(&stop, grace).await?.found("stop the container")?;
            }
            let removed = self.engine.delete(&format!("/containers/{bot}?force=true&v=false")).await?;
            // Somebody's removal is under way already.
            if removed.status != StatusCode::CONFLICT {
                removed.found("remove the container")?;
            }
            if Instant::now() > deadline {
                return Err(HostError::WontEnd { bot: bot.clone() });
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }

    async fn forget(&self, bot: &BotId) -> Result<(), HostError> {
        if self.volume(bot).await?.is_some() {
            self.engine.delete(&format!("/volumes/{bot}")).await?.found("remove the volume")?;
        }
        self.place(bot).remove().context("remove the folder")?;
        Ok(())
    }

    /// Bots of which the engine holds something.
    async fn held(
        &self,
        path: &str,
        list: impl Fn(serde_json::Value) -> serde_json::Value,
    ) -> Result<Vec<BotId>, HostError> {
        let answer = self.engine.get(path).await?.expect("list what there is")?;
        let found: Option<Vec<Listed>> = serde_json::from_value(list(answer.read()?)).context("read the list")?;
        Ok(found.into_iter().flatten().filter_map(|found| found.bot()?.parse().ok()).collect())
    }
}

impl Host for DockerHost {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn ensure<'a>(&'a self, spec: &'a CellSpec) -> BoxFuture<'a, Result<Ensured, HostError>> {
        Box::pin(async move {
            let _alone = self.alone(&spec.bot).await?;
            if self.container(&spec.bot).await?.is_some_and(|found| found.lives()) {
                return Ok(Ensured::AlreadyThere);
            }
            // What ended, or was made and never started, had other settings.
            self.end(&spec.bot).await?;
            if let Err(error) = self.start(spec).await {
                // It may run without its settings; nobody must take it for a cell.
                if let Err(second) = self.end(&spec.bot).await {
                    let second = &second as &dyn std::error::Error;
                    tracing::warn!(bot.id = %spec.bot, error = second, "half a cell is removed by the next try");
                }
                return Err(self.for_want_of_room(error));
            }
            tracing::info!(bot.id = %spec.bot, "a cell was started");
            Ok(Ensured::Started)
        })
    }

    fn inspect<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Report, HostError>> {
        Box::pin(async move {
            let lives = self.container(bot).await?.is_some_and(|found| found.lives());
            let address = CellAddress::Unix(self.place(bot).socket());
            Ok(if lives { Report::Present { address } } else { Report::Absent })
        })
    }

    fn stop<'a>(&'a self, bot: &'a BotId, remove: bool) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let _alone = self.alone(bot).await?;
            self.end(bot).await?;
            if remove { self.forget(bot).await } else { Ok(()) }
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BotId>, HostError>> {
        Box::pin(async move {
            let filter = self.owner.filter();
            let mut found = place::on_disk(&self.bots).context("read the folder for bots")?;
            found.extend(self.held(&format!("/containers/json?all=true&filters={filter}"), |list| list).await?);
            let volumes = |mut list: serde_json::Value| list["Volumes"].take();
            found.extend(self.held(&format!("/volumes?filters={filter}"), volumes).await?);
            found.sort();
            found.dedup();
            Ok(found)
        })
    }

    fn gone<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            loop {
                match self.container(bot).await {
                    Ok(Some(found)) if found.lives() => {}
                    Ok(_) => return,
                    Err(_) => tokio::time::sleep(AWAY_PAUSE).await,
                }
                let waited = self.engine.wait(&format!("/containers/{bot}/wait?condition=not-running")).await;
                if waited.is_err() {
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
            }
        })
    }
}
