//! One process of the runtime: what it is started with, and when it answers.
//! Never: a secret of the platform in its environment; its tools read all of it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use molt_bot::leftovers::MARK_VARIABLE;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::layout::Layout;
use crate::process::Spawn;

/// The runtime's model key means nothing: the forwarder puts the real one in its place.
const PLACEHOLDER_KEY: &str = "placeholder";
/// Programs that the assistant's tools may find, behind the runtime's own folder.
const PROGRAM_FOLDERS: &str = "/usr/local/bin:/usr/bin:/bin";
/// The runtime's one thread is busy while it boots; an answer may take a while.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// What the runtime prints is for an operator's eyes; more than this is noise.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where the runtime runs.
#[derive(Debug)]
pub struct Place {
    pub port: u16,
    /// The runtime's own token, new for every process.
    pub token: SecretString,
}

impl Place {
    /// A free loopback port and a fresh token.
    pub async fn find() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.context("find a free port")?;
        let port = listener.local_addr().context("ask for the port")?.port();
        let token = SecretString::from(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()));
        Ok(Self { port, token })
    }

    /// The runtime says that it is ready.
    pub async fn is_ready(&self) -> bool {
        let probe = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            let request = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await?;
            let mut status = [0; 12];
            stream.read_exact(&mut status).await?;
            Ok::<bool, std::io::Error>(&status == b"HTTP/1.1 200")
        };
        matches!(tokio::time::timeout(PROBE_TIMEOUT, probe).await, Ok(Ok(true)))
    }
}

/// The loopback ports behind which the runtime finds what lies outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub models: u16,
    /// A forward proxy. None: the cell isn't sealed off, and the runtime reaches the world by itself.
    pub world: Option<u16>,
}

impl Ports {
    pub(crate) fn world_url(self) -> Option<String> {
        self.world.map(|port| format!("http://127.0.0.1:{port}"))
    }
}

/// How to start the runtime.
pub fn spawn(command: &[String], layout: &Layout, place: &Place, ports: Ports, mark: &str) -> anyhow::Result<Spawn> {
    let mut command = command.to_vec();
    command.extend(["--port".to_owned(), place.port.to_string()]);
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let home = path(&layout.runtime_home());
    let program_folder = Path::new(&command[0]).parent().map(&path).filter(|folder| !folder.is_empty());
    let programs =
        program_folder.map_or_else(|| PROGRAM_FOLDERS.to_owned(), |folder| format!("{folder}:{PROGRAM_FOLDERS}"));
    // The runtime compares its repository before and after a turn; one around the data folder isn't the bot's, and can be large.
    let git_ceiling = layout.workspace().parent().map(&path).unwrap_or_default();
    let environment = [
        ("PATH", programs),
        ("GIT_CEILING_DIRECTORIES", git_ceiling),
        ("LANG", "C.UTF-8".to_owned()),
        ("HOME", home.clone()),
        ("OPENCLAW_STATE_DIR", home),
        ("OPENCLAW_CONFIG_PATH", path(&layout.runtime_config())),
        ("OPENCLAW_GATEWAY_TOKEN", place.token.expose_secret().to_owned()),
        ("OPENCLAW_DISABLE_BONJOUR", "1".to_owned()),
        ("OPENCLAW_NO_RESPAWN", "1".to_owned()),
        ("OPENCLAW_EXEC_SHELL_SNAPSHOT", "0".to_owned()),
        ("OPENCLAW_NO_AUTO_UPDATE", "1".to_owned()),
        ("OPENCLAW_OFFLINE", "1".to_owned()),
        ("OPENCLAW_SKIP_CHANNELS", "1".to_owned()),
        ("MOLT_WORKSPACE", path(&layout.workspace())),
        ("MOLT_MODEL_URL", format!("http://127.0.0.1:{}/v1", ports.models)),
        ("MOLT_MODEL_KEY", PLACEHOLDER_KEY.to_owned()),
        (MARK_VARIABLE, mark.to_owned()),
    ];
    // Node's own fetch asks nobody for a proxy unless it is told to; the runtime itself tells the tools which one.
    let proxied = ports.world.map(|_| ("NODE_USE_ENV_PROXY", "1".to_owned()));
    let environment = environment.into_iter().chain(proxied).map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(Spawn { command, environment, folder: layout.workspace(), log: open_log(layout)? })
}

/// The log of this start; the one before is kept beside it.
fn open_log(layout: &Layout) -> anyhow::Result<File> {
    let path = layout.runtime_log();
    std::fs::rename(&path, path.with_extension("log.1")).ok();
    File::options().create(true).append(true).open(&path).context("open the runtime's log")
}

/// Empties the log when it grew too long. The runtime appends, so it goes on at the new end.
pub fn bound_log(layout: &Layout) {
    let path = layout.runtime_log();
    if std::fs::metadata(&path).is_ok_and(|facts| facts.len() > LOG_BYTES_MAX) {
        File::options().write(true).open(&path).and_then(|file| file.set_len(0)).ok();
    }
}
