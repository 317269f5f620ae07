//! The same on a real Docker engine: a kill after every call that changes something there, and one when the cell has its
//! settings; new settings, which are a matter between fleet and cell, at both sides of their commits. A call that only looks
//! is no point: the engine is then as the call before it left it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use molt_bot::Client;
use molt_fleet::{Config, Host};
use molt_model::{BotId, Observed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

use super::{Given, Held, PROVISION, REMOVAL, RESTART, SETTINGS, Scene, Theatre, walk};
use crate::contained::{self, Contained};
use crate::engine::Engine;
use crate::line::Commits;
use crate::simulated::{Blow, Fuse};
use crate::stage::Stage;

/// Commits are many where a runtime boots, and every one costs a container: one of so many is tried in a test run.
const EVERY_COMMIT: u32 = 7;
const EVERY_COMMIT_OF_SETTINGS: u32 = 3;
const EVERY_CALL: u32 = 1;

struct Struck {
    fuse: Arc<Fuse>,
    contained: Contained,
    ways: AtomicU32,
}

/// A relay to the engine. Dropped, whatever is open on it is cut off, as when the fleet's process is gone.
struct Way(AbortHandle);

impl Drop for Way {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `None`: this machine has no engine, which was said.
async fn theatre() -> Option<Theatre<Struck>> {
    let engine = contained::found(Engine::find).await?;
    let stage = Stage::new().await;
    let contained = Contained::new(engine, &stage).await;
    let scene = Struck { fuse: Arc::default(), contained, ways: AtomicU32::new(0) };
    Some(Theatre { stage, scene, keep_spare: 0 })
}

impl Scene for Struck {
    type Way = Way;
    const LOOK: Duration = Duration::from_secs(1);

    fn fuse(&self) -> &Arc<Fuse> {
        &self.fuse
    }

    fn open(&self, stage: &Stage) -> (Arc<dyn Host>, Config, Way) {
        let number = self.ways.fetch_add(1, Ordering::SeqCst);
        let socket = stage.folder.join(format!("way-{number}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let engine = self.contained.engine.socket.clone();
        let way = Way(tokio::spawn(relay(listener, engine, self.fuse.clone())).abort_handle());
        (self.contained.host(socket), self.contained.config(stage), way)
    }

    /// By the engine's own lists, and the folders of the ways in and out.
    async fn holds(&self) -> Held {
        let cells = self.contained.listed(&["ps", "--format", "{{.Names}}"]);
        let all = self.contained.listed(&["ps", "--all", "--format", "{{.Names}}"]);
        let volumes = self.contained.listed(&["volume", "ls", "--quiet"]);
        let ended = all.iter().filter(|bot| !cells.contains(bot)).map(|bot| format!("container {bot}, not running"));
        let mut rest: Vec<String> = ended.collect();
        for entry in std::fs::read_dir(self.contained.docker.data_dir.join("bots")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let bot = name.trim_start_matches(".lock-").parse::<BotId>();
            rest.extend(bot.ok().filter(|bot| !volumes.contains(bot)).map(|_| format!("bots/{name}")));
        }
        Held { cells, volumes, rest, ..Held::default() }
    }

    /// A mark in it, made when it is first asked for.
    async fn volume(&self, bot: &BotId) -> Option<String> {
        let mark = uuid::Uuid::new_v4();
        let script = format!("[ -e /state/mark ] || echo {mark} > /state/mark; read -r mark < /state/mark; echo $mark");
        let out = self.contained.engine.try_docker(&["exec", bot.as_str(), "/bin/sh", "-c", &script]).unwrap();
        out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
    }

    async fn given(&self, stage: &Stage, bot: &BotId) -> Option<Given> {
        let (address, token) = stage.database.store.cell_address(bot).await.unwrap()?;
        let health = Client::new(address.parse().unwrap(), token).health().await.ok()?;
        Some(Given { key: None, revision: health.applied.map(|applied| applied.revision) })
    }
}

async fn relay(listener: UnixListener, engine: PathBuf, fuse: Arc<Fuse>) {
    let mut calls = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        while calls.try_join_next().is_some() {}
        let (engine, fuse) = (engine.clone(), fuse.clone());
        calls.spawn(async move { pass(client, &engine, &fuse).await });
    }
}

/// One call, since the host opens a connection for each.
async fn pass(client: UnixStream, engine: &Path, fuse: &Fuse) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_engine, mut to_engine) = UnixStream::connect(engine).await?.into_split();
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let mut read = from_client.read(&mut up).await?;
    let line = String::from_utf8_lossy(&up[..read]).lines().next().unwrap_or_default().to_owned();
    let changes = (line.starts_with("POST ") || line.starts_with("DELETE ")) && !line.contains("/wait");
    let asking = async {
        while read > 0 {
            fuse.alive().await;
            to_engine.write_all(&up[..read]).await?;
            read = from_client.read(&mut up).await?;
        }
        fuse.alive().await;
        to_engine.shutdown().await?;
        if line.contains("/attach") {
            // The cell has its settings.
            fuse.point().await;
        }
        Ok::<_, io::Error>(())
    };
    let answering = async {
        let mut first = true;
        loop {
            let read = from_engine.read(&mut down).await?;
            if std::mem::take(&mut first) && changes {
                fuse.point().await;
            }
            fuse.alive().await;
            if read == 0 {
                return to_client.shutdown().await;
            }
            to_client.write_all(&down[..read]).await?;
        }
    };
    tokio::try_join!(asking, answering).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn provisioning_survives_a_kill_after_every_call_to_the_engine() {
    let Some(theatre) = theatre().await else { return };
    walk(&[theatre], &PROVISION, Blow::Kill, Commits::None, EVERY_CALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_survives_a_kill_after_every_call_to_the_engine() {
    let Some(theatre) = theatre().await else { return };
    walk(&[theatre], &RESTART, Blow::Kill, Commits::None, EVERY_CALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_survives_a_kill_after_every_call_to_the_engine() {
    let Some(theatre) = theatre().await else { return };
    walk(&[theatre], &REMOVAL, Blow::Kill, Commits::None, EVERY_CALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_settings_of_a_container_survive_a_kill_around_every_commit() {
    let Some(theatre) = theatre().await else { return };
    walk(&[theatre], &SETTINGS, Blow::Kill, Commits::Both, EVERY_COMMIT_OF_SETTINGS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_survives_a_kill_after_commits_as_well() {
    for story in [&PROVISION, &RESTART, &REMOVAL] {
        let Some(theatre) = theatre().await else { return };
        walk(&[theatre], story, Blow::Kill, Commits::Done, EVERY_COMMIT).await;
    }
}

/// The judge itself: each thing that must never be is seen when it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_must_never_be_on_an_engine_is_noticed() {
    let Some(theatre) = theatre().await else { return };
    let bot = theatre.running_bot().await;
    let Contained { engine, docker } = &theatre.scene.contained;
    let volume = theatre.scene.volume(&bot).await;
    assert!(volume.is_some());
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);
    let label = theatre.scene.contained.label();
    let stray = BotId::random();
    engine.docker(&["create", "--name", stray.as_str(), "--label", &label, &docker.image, "/bin/sleep", "600"]);
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("not running"), "half a cell");
    engine.docker(&["rm", stray.as_str()]);
    engine.docker(&["rm", "--force", bot.as_str()]);
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("cells: ;"), "none");
    engine.docker(&["volume", "rm", bot.as_str()]);
    theatre.stage.settle(&theatre.next_fleet().0).await;
    theatre.stage.until(&theatre.next_fleet().0, &bot, Observed::Running).await;
    assert!(theatre.faults(&bot, volume).await.unwrap().contains("another one"), "a lost volume");
    theatre.stage.database.execute("delete from molt.bots").await;
    assert!(theatre.faults(&bot, None).await.unwrap().starts_with("rows: ;"), "an orphan");
}
