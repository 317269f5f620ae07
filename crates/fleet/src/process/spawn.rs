//! Starting a cell's process so that it outlives this one.
//! Never: a secret in an argument, or anything of our own environment in the cell's.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use molt_bot::leftovers;
use rustix::fs::Mode;
use secrecy::ExposeSecret;

use super::folder::Folder;
use super::seal::{self, Seal};
use crate::host::CellSpec;

/// A sealed cell needs no key: the gate knows whose calls they are.
const PLACEHOLDER_KEY: &str = "placeholder";
/// Where the runtime's tools look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts the cell. `alive` is the locked file that says so for as long as the process lives, whoever else dies: the lock
/// goes with the open file, which becomes the cell's standard input.
pub(super) fn spawn(
    folder: &Folder,
    binary: &Path,
    spec: &CellSpec,
    seal: Option<&Seal>,
    alive: File,
) -> anyhow::Result<()> {
    let log = folder.open_log().context("open the log")?;
    let mut command = match seal {
        Some(seal) => seal.cell(folder, binary, spec, sealed_environment(folder, spec)?)?,
        None => {
            let mut command = Command::new(binary);
            command
                .env_clear()
                .envs(environment(folder, spec, &View::open(folder, spec)?)?)
                .current_dir(folder.state());
            command
        }
    };
    command.stdin(Stdio::from(alive)).stdout(log.try_clone().context("share the log")?).stderr(log);
    if let Some(uid) = spec.uid {
        // The standard library drops our supplementary groups as well when it changes the user.
        command.uid(uid).gid(uid);
    }
    detach(&mut command);
    let mut child = tokio::process::Command::from(command).spawn().context("start the program")?;
    let bot = spec.bot.clone();
    // Reaps the process while we live; afterwards process 1 does.
    tokio::spawn(async move {
        if let Ok(status) = child.wait().await {
            tracing::debug!(bot.id = %bot, status = %status, "a cell's process ended");
        }
    });
    Ok(())
}

/// How the cell sees its own place.
struct View {
    state: String,
    socket: String,
    proxy_url: String,
    ghost_key: String,
}

impl View {
    /// As everybody on this machine does.
    fn open(folder: &Folder, spec: &CellSpec) -> anyhow::Result<Self> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("the data folder's path is not UTF-8");
        Ok(Self {
            state: text(&folder.state())?,
            socket: text(&folder.socket())?,
            proxy_url: spec.proxy_url.clone(),
            ghost_key: spec.ghost_key.expose_secret().to_owned(),
        })
    }

    fn sealed() -> Self {
        Self {
            state: seal::STATE.to_owned(),
            socket: seal::WAY_IN.to_owned(),
            proxy_url: seal::way_out(),
            ghost_key: PLACEHOLDER_KEY.to_owned(),
        }
    }
}

fn sealed_environment(folder: &Folder, spec: &CellSpec) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut environment = environment(folder, spec, &View::sealed())?;
    // The keeper is there for nothing else, and outlives us as the cell does.
    environment.push(("MOLT_DIES_WITH_PARENT", "1".to_owned()));
    Ok(environment)
}

fn environment(folder: &Folder, spec: &CellSpec, view: &View) -> anyhow::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("PATH", PATH.to_owned()),
        ("HOME", view.state.clone()),
        ("LANG", "C.UTF-8".to_owned()),
        (leftovers::MARK_VARIABLE, leftovers::mark(spec.bot.as_str(), &folder.state())),
        ("MOLT_BOT_ID", spec.bot.to_string()),
        ("MOLT_STATE_DIR", view.state.clone()),
        ("MOLT_LISTEN", format!("unix:{}", view.socket)),
        ("MOLT_GATEWAY_TOKEN", spec.gateway_token.expose_secret().to_owned()),
        ("MOLT_GHOST_KEY", view.ghost_key.clone()),
        ("MOLT_PROXY_URL", view.proxy_url.clone()),
        ("MOLT_CONFIG_REVISION", spec.revision.to_string()),
        ("CLAWDBOT_CONFIG", spec.config.to_string()),
        ("MOLT_RUNTIME_COMMAND", serde_json::to_string(&spec.runtime_command).context("encode the command")?),
    ])
}

/// A session of its own: what a terminal sends to us does not reach the cell. Its files are its user's only.
#[expect(unsafe_code, reason = "std offers no setsid; both calls are plain system calls, safe after fork")]
fn detach(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec; it allocates nothing, takes no lock and makes two system calls.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::umask(Mode::RWXG | Mode::RWXO);
            Ok(())
        });
    }
}
