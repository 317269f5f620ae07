//! What a cell is as a container: sealed off, limited, named after its bot, and told everything by its standard input.
//! Never: a secret or a person's words in what `docker inspect` shows.

use molt_bot::leftovers;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{DockerConfig, seccomp};
use crate::docker::place::Place;
use crate::host::CellSpec;

/// The user of every cell. Nobody has it, here or outside; what keeps cells apart are their containers.
pub(super) const USER: u32 = 65532;
/// Whose container or volume it is: of which database, and of which data folder. A copy of a database has the same id.
const INSTALLATION_LABEL: &str = "molt.installation";
const FOLDER_LABEL: &str = "molt.folder";
const BOT_LABEL: &str = "molt.bot";
/// Where things are inside.
const STATE: &str = "/state";
const WAY_IN: &str = "/run/molt/in";
const WAY_OUT: &str = "/run/molt/out";
const PROGRAM: &str = "/molt/molt-cell";
/// More would only wait in memory; a bot's files belong into its state.
const TEMPORARY: &str = "rw,exec,nosuid,nodev,size=256m,mode=1777";
/// Open files and connections; OpenClaw needs a few hundred.
const FILES_MAX: u32 = 8192;
/// What the cell prints is for an operator's eyes; the engine keeps two files of it.
const LOG_SIZE: &str = "4m";
/// The cell ends its runtime and itself within this; then the engine kills all of it.
pub(super) const GRACE_SECONDS: u64 = 8;

/// A container or a volume, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Found {
    /// A volume's labels.
    #[serde(default)]
    labels: Option<Map<String, Value>>,
    #[serde(default)]
    config: Option<Config>,
    #[serde(default)]
    state: Option<State>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    /// "created", "running", "paused", "restarting", "removing", "exited" or "dead".
    status: String,
}

impl Found {
    /// Whether a process of it is there. One that is paused lives.
    pub(super) fn lives(&self) -> bool {
        let status = self.state.as_ref().map(|state| state.status.as_str());
        matches!(status, Some("running" | "paused" | "restarting"))
    }

    pub(super) fn is_of(&self, owner: &Owner) -> bool {
        let labels = self.config.as_ref().and_then(|config| config.labels.as_ref()).or(self.labels.as_ref());
        let has = |name: &str, value: &str| labels.and_then(|labels| labels.get(name)?.as_str()) == Some(value);
        has(INSTALLATION_LABEL, &owner.installation) && has(FOLDER_LABEL, &owner.folder)
    }
}

/// A line of the engine's lists, whose words differ from those of a closer look.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    #[serde(default)]
    labels: Option<Map<String, Value>>,
}

impl Listed {
    pub(super) fn bot(&self) -> Option<&str> {
        self.labels.as_ref()?.get(BOT_LABEL)?.as_str()
    }
}

/// Whose containers these are.
#[derive(Debug)]
pub(super) struct Owner {
    installation: String,
    folder: String,
}

impl Owner {
    /// `bots` is the folder of all bots, without links in its path.
    pub(super) fn new(config: &DockerConfig, bots: &std::path::Path) -> Self {
        let digest = Sha256::digest(bots.as_os_str().as_encoded_bytes());
        Self { installation: config.installation.to_string(), folder: hex::encode(&digest[..6]) }
    }

    pub(super) fn labels(&self, bot: &str) -> Value {
        json!({ INSTALLATION_LABEL: self.installation, FOLDER_LABEL: self.folder, BOT_LABEL: bot })
    }

    /// What the engine's lists are asked for.
    pub(super) fn filter(&self) -> String {
        let labels = [(INSTALLATION_LABEL, &self.installation), (FOLDER_LABEL, &self.folder)];
        let labels = labels.map(|(name, value)| format!("{name}={value}"));
        super::engine::escape(&json!({ "label": labels }).to_string())
    }
}

/// What the engine is to make. The engine doesn't start it again by itself: whoever does has to bring the settings, and it
/// is the fleet that counts failures.
pub(super) fn body(config: &DockerConfig, owner: &Owner, bot: &str, place: &Place) -> Value {
    let bind = |from: &std::path::Path, to: &str, writable: bool| {
        json!({ "Type": "bind", "Source": from, "Target": to, "ReadOnly": !writable,
                "BindOptions": { "Propagation": "rprivate" } })
    };
    json!({
        "Image": config.image,
        "Hostname": "cell",
        "User": format!("{USER}:{USER}"),
        "Entrypoint": [PROGRAM],
        "Cmd": [],
        "WorkingDir": STATE,
        "Env": ["HOME=/state", "LANG=C.UTF-8", "MOLT_SETTINGS=stdin",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Labels": owner.labels(bot),
        "OpenStdin": true,
        "StdinOnce": true,
        "AttachStdin": true,
        "AttachStdout": false,
        "AttachStderr": false,
        "NetworkDisabled": true,
        "StopSignal": "SIGTERM",
        "StopTimeout": GRACE_SECONDS,
        "HostConfig": {
            // The cell is process 1 itself: it reaps what is orphaned, and its memory and places are closed to its tools.
            "Init": false,
            "NetworkMode": "none",
            "IpcMode": "private",
            "ReadonlyRootfs": true,
            "Privileged": false,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true", format!("seccomp={}", seccomp::profile())],
            "Tmpfs": { "/tmp": TEMPORARY },
            "Memory": config.memory_bytes,
            "MemorySwap": config.memory_bytes,
            "NanoCpus": config.nano_cpus,
            "PidsLimit": config.processes,
            "Ulimits": [{ "Name": "nofile", "Soft": FILES_MAX, "Hard": FILES_MAX },
                        { "Name": "core", "Soft": 0, "Hard": 0 }],
            "RestartPolicy": { "Name": "no" },
            "LogConfig": { "Type": "json-file", "Config": { "max-size": LOG_SIZE, "max-file": "2" } },
            "Mounts": [
                { "Type": "volume", "Source": bot, "Target": STATE },
                bind(&place.way_in(), WAY_IN, true),
                bind(&place.way_out(), WAY_OUT, false),
            ],
        },
    })
}

/// What the cell reads from its standard input: one line.
pub(super) fn settings(spec: &CellSpec) -> SecretString {
    let state = std::path::Path::new(STATE);
    let line = json!({
        "MOLT_BOT_ID": spec.bot.as_str(),
        "MOLT_STATE_DIR": STATE,
        "MOLT_LISTEN": format!("unix:{WAY_IN}/cell.sock"),
        "MOLT_GATEWAY_TOKEN": spec.gateway_token.expose_secret(),
        // The way out is the bot's own: no key opens anything there, and none is needed.
        "MOLT_GHOST_KEY": "none",
        "MOLT_PROXY_URL": format!("unix:{WAY_OUT}/proxy.sock"),
        "MOLT_CONFIG_REVISION": spec.revision.to_string(),
        "CLAWDBOT_CONFIG": spec.config.to_string(),
        "MOLT_RUNTIME_COMMAND": json!(spec.runtime_command).to_string(),
        leftovers::MARK_VARIABLE: leftovers::mark(spec.bot.as_str(), state),
    });
    format!("{line}\n").into()
}
