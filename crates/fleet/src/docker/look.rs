//! What a Docker engine can enforce, for those who want to know before they trust it.
//! Never: change anything on the engine.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::engine::Engine;
use crate::host::HostError;
use crate::room;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineFound {
    /// Its version.
    pub version: String,
    /// Whether it has the image that was asked for.
    pub has_image: bool,
    /// Where it keeps images and volumes.
    pub root: PathBuf,
    /// Bytes that are free there; `None` where this account can't look.
    pub free_bytes: Option<u64>,
    /// What it does not enforce, in sentences without a full stop.
    pub missing: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(default)]
    server_version: String,
    #[serde(default)]
    docker_root_dir: PathBuf,
    #[serde(default)]
    memory_limit: bool,
    #[serde(default)]
    swap_limit: bool,
    #[serde(default)]
    pids_limit: bool,
    #[serde(default)]
    cpu_cfs_quota: bool,
    #[serde(default)]
    security_options: Vec<String>,
    #[serde(default)]
    live_restore_enabled: bool,
}

/// Where the engine keeps images and volumes; empty if it doesn't say.
pub(super) async fn root_of(engine: &Engine) -> Result<PathBuf, HostError> {
    Ok(info(engine).await?.docker_root_dir)
}

async fn info(engine: &Engine) -> Result<Info, HostError> {
    engine.get("/info").await?.expect("ask the engine about itself")?.read()
}

/// Asks the engine at this socket. An error says in a sentence what is in the way.
pub async fn look_at_engine(socket: &Path, image: &str) -> Result<EngineFound, HostError> {
    let engine = Engine::new(socket);
    let info = info(&engine).await?;
    let has_image = engine.get(&format!("/images/{image}/json")).await?.status.is_success();
    let has = |word: &str| info.security_options.iter().any(|option| option.contains(word));
    let missing = [
        (!info.memory_limit, "memory is not limited (the kernel has no memory control group)"),
        (!info.swap_limit, "swap is not limited, so a bot can use more than its memory"),
        (!info.pids_limit, "the number of processes is not limited"),
        (!info.cpu_cfs_quota, "processors are not limited"),
        (!has("seccomp"), "system calls are not filtered"),
        (
            !has("userns") && !has("rootless"),
            "user namespaces are not used: a bot's user 65532 is that user of this machine",
        ),
        (
            !info.live_restore_enabled,
            "bots end when the engine is restarted (live-restore is off), and are started again",
        ),
    ];
    let missing = missing.into_iter().filter(|(is, _)| *is).map(|(_, sentence)| sentence.to_owned()).collect();
    let free_bytes = room::free(&info.docker_root_dir).ok();
    Ok(EngineFound { version: info.server_version, has_image, root: info.docker_root_dir, free_bytes, missing })
}
