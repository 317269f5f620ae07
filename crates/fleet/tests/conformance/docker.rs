//! Containers of a real Docker engine under test, behind a relay that can lose answers and go away.
//! Never: a container, a volume or a folder left behind, even by a story that failed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use molt_fleet::{CellSpec, DockerConfig, DockerHost, Host};
use molt_model::BotId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::engine::Engine;
use crate::programs::programs;
use crate::suite::{Fault, Found, HostUnderTest, Losing, Story, cell_spec};

const MIB: u64 = 1024 * 1024;
pub(crate) struct Containers {
    engine: Engine,
    folder: PathBuf,
    config: DockerConfig,
    relay: std::sync::Mutex<AbortHandle>,
    mounted: AtomicBool,
}

impl HostUnderTest for Containers {
    const NAME: &'static str = "docker";

    async fn set_up() -> Result<Self, String> {
        tokio::task::spawn_blocking(Engine::find).await.unwrap().map(Self::on)
    }

    fn cannot(story: Story) -> Option<&'static str> {
        match story {
            Story::FullDisk if !rustix::process::geteuid().is_root() => Some("filling a disk of its own takes root"),
            Story::Ahead => Some("nothing takes long enough to be made ahead of a plan"),
            _ => None,
        }
    }

    fn open(&self) -> Arc<dyn Host> {
        Arc::new(DockerHost::new(self.config.clone()).unwrap())
    }

    fn spec(&self, bot: &BotId, revision: i64) -> CellSpec {
        cell_spec(bot, revision, "", ["/molt/runtime", "gateway"].map(str::to_owned).to_vec())
    }

    fn slow_spec(&self, bot: &BotId) -> CellSpec {
        cell_spec(bot, 1, "", ["/bin/sh", "-c", "sleep 600", "runtime"].map(str::to_owned).to_vec())
    }

    async fn fault(&self, fault: Fault, bot: &BotId) {
        let bot = bot.as_str();
        match fault {
            Fault::Crash => drop(self.engine.docker(&["kill", "--signal", "KILL", bot])),
            Fault::Hang => drop(self.engine.docker(&["kill", "--signal", "STOP", bot])),
            Fault::GoneMachine => drop(self.engine.docker(&["rm", "--force", bot])),
            Fault::FullDisk => self.fill_the_disk(),
            Fault::HostAway => {
                self.relay.lock().unwrap().abort();
                std::fs::remove_file(&self.config.socket).unwrap();
            }
        }
    }

    async fn mend(&self, fault: Fault) {
        match fault {
            Fault::FullDisk => std::fs::remove_file(self.config.data_dir.join("filling")).unwrap(),
            Fault::HostAway => *self.relay.lock().unwrap() = relay(&self.config.socket, &self.engine.socket, None),
            other => panic!("{other:?} does not last"),
        }
    }

    async fn open_losing(&self, nth: u32) -> Losing {
        let (lost, socket) = (Arc::new(AtomicBool::new(false)), self.folder.join(format!("lose-{nth}.sock")));
        std::fs::remove_file(&socket).ok();
        relay(&socket, &self.engine.socket, Some((nth, lost.clone())));
        let host = DockerHost::new(DockerConfig { socket, ..self.config.clone() }).unwrap();
        Losing { host: Arc::new(host), lost }
    }

    async fn found(&self, bot: &BotId) -> Found {
        let label = format!("label=molt.bot={bot}");
        let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let cells = lines(self.engine.docker(&["ps", "--filter", &label, "--format", "{{.Names}}"]));
        let all = lines(self.engine.docker(&["ps", "--all", "--filter", &label, "--format", "{{.Names}}"]));
        let states = lines(self.engine.docker(&["volume", "ls", "--quiet", "--filter", &label]));
        let mut rest: Vec<String> = all.into_iter().filter(|name| !cells.contains(name)).collect();
        let bots = self.config.data_dir.join("bots");
        if states.is_empty() {
            let left = [bots.join(bot.as_str()), bots.join(format!(".lock-{bot}"))];
            rest.extend(left.into_iter().filter(|path| path.is_dir()).map(|path| path.display().to_string()));
        }
        Found { cells, states, rest }
    }

    async fn write_note(&self, bot: &BotId, text: &str) {
        self.in_state(bot, &format!("echo {text} > /state/note"));
    }

    async fn note(&self, bot: &BotId) -> Option<String> {
        Some(self.in_state(bot, "[ -e /state/note ] && read -r note < /state/note && echo $note || true"))
            .filter(|text| !text.is_empty())
    }
}

impl Containers {
    /// An installation with nothing on this engine yet.
    pub(crate) fn on(engine: Engine) -> Self {
        let [cell, runtime] = programs();
        let image = engine.image(&[(&cell, "/molt/molt-cell"), (&runtime, "/molt/runtime")]);
        let name = format!("mc-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let folder = std::env::temp_dir().canonicalize().unwrap().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::create_dir(folder.join("data")).unwrap();
        let relay = relay(&folder.join("relay.sock"), &engine.socket, None);
        let config = DockerConfig {
            data_dir: folder.join("data"),
            installation: uuid::Uuid::new_v4(),
            image,
            socket: folder.join("relay.sock"),
            gates: None,
            image_gone: None,
            memory_bytes: 256 * MIB,
            processes: 64,
            nano_cpus: 1_000_000_000,
        };
        Self { engine, folder, config, relay: relay.into(), mounted: AtomicBool::new(false) }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn image(&self) -> String {
        self.config.image.clone()
    }

    /// Cells are made from this one from now on; `gone` is told when it isn't there.
    pub(crate) fn use_image(&mut self, image: &str, gone: Option<Arc<Notify>>) {
        image.clone_into(&mut self.config.image);
        self.config.image_gone = gone;
    }

    /// By a container of its own, so that it works with and without a cell.
    fn in_state(&self, bot: &BotId, script: &str) -> String {
        let volume = format!("{bot}:/state");
        let how = ["run", "--rm", "--network", "none", "--user", "65532:65532", "--volume", &volume];
        self.engine.docker(&[&how[..], &["--entrypoint", "/bin/sh", &self.config.image, "-c", script]].concat())
    }

    /// A disk of its own for the platform's folder, full to the last block.
    fn fill_the_disk(&self) {
        let data = &self.config.data_dir;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(data).status().unwrap();
        assert!(mounted.success());
        self.mounted.store(true, Ordering::SeqCst);
        std::fs::create_dir(data.join("bots")).unwrap();
        let filling = std::fs::File::create(data.join("filling")).unwrap();
        let facts = rustix::fs::statvfs(data).unwrap();
        let free = facts.f_bavail * facts.f_frsize;
        rustix::fs::fallocate(&filling, rustix::fs::FallocateFlags::empty(), 0, free).unwrap();
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.engine.remove_all(&format!("label=molt.installation={}", self.config.installation));
        if self.mounted.load(Ordering::SeqCst) {
            Command::new("umount").arg("--lazy").arg(&self.config.data_dir).status().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// Passes every connection on to the engine. The answer of the nth one is lost, when the engine has given it.
fn relay(socket: &Path, engine: &Path, lose: Option<(u32, Arc<AtomicBool>)>) -> AbortHandle {
    let (listener, engine) = (UnixListener::bind(socket).unwrap(), engine.to_owned());
    let count = AtomicU32::new(0);
    let task = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            let lost = lose.as_ref().filter(|(nth, _)| *nth == number).map(|(_, lost)| lost.clone());
            tokio::spawn(pass(client, engine.clone(), lost));
        }
    });
    task.abort_handle()
}

async fn pass(mut client: UnixStream, engine: PathBuf, lost: Option<Arc<AtomicBool>>) -> io::Result<()> {
    let mut server = UnixStream::connect(engine).await?;
    let Some(lost) = lost else {
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    };
    let (mut question, mut answer) = ([0; 64 * 1024], [0; 16]);
    loop {
        tokio::select! {
            asked = client.read(&mut question) => match asked? {
                0 => return Ok(()),
                count => server.write_all(&question[..count]).await?,
            },
            answered = server.read(&mut answer) => {
                answered?;
                lost.store(true, Ordering::SeqCst);
                return Ok(());
            }
        }
    }
}
