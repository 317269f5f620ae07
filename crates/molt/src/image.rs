//! The bots' image on a Docker engine of this machine: made once from what npm installed here, and again when the cell or
//! the runtime changes.
//! Never: another file than those that processes of this machine would run, or an image under its name that isn't whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use molt_fleet::RuntimeState;
use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::sync::{Notify, watch};

use crate::install;

const DOCKERFILE_RUNTIME: &str = include_str!("../../../infrastructure/docker/Dockerfile.runtime");
const DOCKERFILE_BOT: &str = include_str!("../../../infrastructure/docker/Dockerfile.bot");
/// Pulls the base or builds it.
const BASE_SCRIPT: &str = include_str!("../../../infrastructure/docker/base");
const BASE: &str = "molt-base:bookworm";
/// A slow line and a slow disk; longer than this nothing moves any more.
const STEP_MAX: Duration = Duration::from_secs(30 * 60);
/// What only developers of the packages read.
const LEFT_OUT: [&str; 7] = [
    "*.map",
    "*.d.ts",
    "*.d.mts",
    "*.d.cts",
    "./node_modules/node-linux-*/include",
    "./node_modules/node-linux-*/share",
    "./node_modules/node-linux-*/CHANGELOG.md",
];
/// After something failed that people have to mend.
const RETRY_PAUSE: Duration = Duration::from_secs(15);
/// Containers of the version before are replaced within seconds of a start; another installation's may be there for weeks.
const LOOK_FIRST: Duration = Duration::from_secs(20);
const LOOK_LAST: Duration = Duration::from_secs(60 * 60);

/// The image of this version's bots. Its name says what is in it, so another content is another image.
#[derive(Clone, Debug)]
pub struct Image {
    engine: String,
    cell: PathBuf,
    runtime: String,
    pub name: String,
}

impl Image {
    /// `cell` is the program that goes into it; `socket` is the engine's.
    pub fn of(cell: &Path, socket: &Path) -> anyhow::Result<Self> {
        let of = |parts: &[&[u8]]| {
            let mut digest = Sha256::new();
            parts.iter().for_each(|part| digest.update(part));
            hex::encode(&digest.finalize()[..6])
        };
        let shared = of(&[
            DOCKERFILE_RUNTIME.as_bytes(),
            install::RUNTIME.manifest.as_bytes(),
            install::RUNTIME.lock.as_bytes(),
        ]);
        let program = fs::read(cell).with_context(|| format!("{} can't be read", cell.display()))?;
        let own = of(&[shared.as_bytes(), DOCKERFILE_BOT.as_bytes(), &program]);
        Ok(Self {
            engine: format!("unix://{}", socket.display()),
            cell: cell.to_owned(),
            runtime: format!("molt-runtime:{shared}"),
            name: format!("molt-bot:{own}"),
        })
    }

    /// Removes images of other versions that no container has; how many are left. An installation of another version that
    /// shares the engine and has no bot at the moment makes its own again.
    pub async fn forget_others(&self) -> anyhow::Result<usize> {
        let mut left = 0;
        for kept in [&self.name, &self.runtime] {
            let repository = kept.split(':').next().unwrap_or(kept);
            let listed =
                self.docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository]).output().await?;
            for other in String::from_utf8_lossy(&listed.stdout).lines().filter(|name| name != kept) {
                // Without force the engine refuses what a container has, whether it runs or not.
                match self.docker(&["image", "rm", other]).output().await?.status.success() {
                    true => tracing::info!(image = other, "removed an outdated image"),
                    false => left += 1,
                }
            }
        }
        Ok(left)
    }

    /// The runtime's command in the image.
    #[must_use]
    pub fn command() -> Vec<String> {
        install::command_in(Path::new("/app"))
    }

    /// Whether the engine has it. An engine that doesn't answer has nothing.
    pub async fn is_there(&self) -> bool {
        self.has(&self.name).await
    }

    async fn has(&self, name: &str) -> bool {
        let mut command = self.docker(&["image", "inspect", "--format", "{{.Id}}", name]);
        command.output().await.is_ok_and(|out| out.status.success())
    }

    /// Sees to it that the engine has it; `progress` hears percents and what is being done.
    pub async fn make(&self, packages: &Path, progress: &(dyn Fn(u8, &str) + Sync)) -> anyhow::Result<()> {
        if self.is_there().await {
            return Ok(());
        }
        self.check_engine().await?;
        if !self.has(&self.runtime).await {
            if !self.has(BASE).await {
                progress(1, "Getting Debian for the assistants' containers, once");
                self.make_base().await?;
            }
            let fetched = |percent: u8| progress(percent.min(99) / 2 + 5, "Fetching OpenClaw, once for this machine");
            let app = install::RUNTIME.install(packages, &fetched).await?;
            progress(60, "Making the assistants' image, once");
            self.make_runtime(&app).await?;
        }
        progress(90, "Putting the cell into the assistants' image");
        self.make_bot().await
    }

    async fn check_engine(&self) -> anyhow::Result<()> {
        let asked = self.docker(&["version", "--format", "{{.Server.APIVersion}}"]).output().await;
        let out = asked.map_err(|_| anyhow::anyhow!("the program `docker` is missing; install Docker"))?;
        if !out.status.success() {
            bail!(
                "the Docker engine at {} doesn't answer ({}); start it, or name its socket in [fleet] docker_socket",
                self.engine.trim_start_matches("unix://"),
                last_line(&out.stderr)
            );
        }
        Ok(())
    }

    async fn make_base(&self) -> anyhow::Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", BASE_SCRIPT, "base", BASE]).env("DOCKER_HOST", &self.engine);
        finish(command).await.context("the base of the assistants' image can't be made")
    }

    /// The packages go from the folder straight to the engine.
    async fn make_runtime(&self, app: &Path) -> anyhow::Result<()> {
        let folder = Draft::new()?;
        fs::write(folder.0.join("Dockerfile"), DOCKERFILE_RUNTIME)?;
        let left_out: String = LEFT_OUT.iter().map(|pattern| format!(" --exclude='{pattern}'")).collect();
        let tar = format!(
            "tar --owner=0 --group=0 --numeric-owner -c -C \"$1\" Dockerfile -C \"$2\"{left_out} \
             --transform='flags=r;s,^\\.,app,' ."
        );
        self.build(&tar, &[&folder.0, app], &self.runtime, &format!("BASE={BASE}")).await
    }

    async fn make_bot(&self) -> anyhow::Result<()> {
        let folder = Draft::new()?;
        fs::write(folder.0.join("Dockerfile"), DOCKERFILE_BOT)?;
        let program = folder.0.join("molt-cell");
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug").arg("-o").arg(&program).arg(&self.cell).stderr(Stdio::null());
        // What debuggers want is most of it; without `strip` the image is a little larger.
        if !strip.status().await.is_ok_and(|status| status.success()) {
            fs::copy(&self.cell, &program)?;
        }
        let tar = "tar --owner=0 --group=0 --numeric-owner -c -C \"$1\" Dockerfile molt-cell";
        self.build(tar, &[&folder.0], &self.name, &format!("RUNTIME={}", self.runtime)).await
    }

    /// `tar` prints the context; its arguments begin with `$1`. Where it fails, what it printed must not pass for whole.
    async fn build(&self, tar: &str, arguments: &[&Path], name: &str, argument: &str) -> anyhow::Result<()> {
        let script = format!(
            "{{ {tar} || echo broken; }} | \
             docker build --quiet --network host --tag {name} --build-arg {argument} - >&2"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).args(arguments).env("DOCKER_HOST", &self.engine);
        finish(command).await.with_context(|| format!("the image {name} can't be made"))
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(&self.engine).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// Makes the image in the background of everything else, and tells how far it is; tries again until it is there, and makes it
/// anew whenever it is `gone`.
pub async fn keep_making(
    image: Image,
    command: Vec<String>,
    packages: PathBuf,
    gone: &Notify,
    state: &watch::Sender<RuntimeState>,
) {
    let progress = |percent: u8, sentence: &str| {
        state.send_replace(RuntimeState::Installing { percent, sentence: sentence.to_owned() });
    };
    loop {
        match image.make(&packages, &progress).await {
            Ok(()) => {
                state.send_replace(RuntimeState::Ready { command: command.clone() });
                tokio::select! {
                    () = gone.notified() => tracing::warn!(image = image.name, "the bots' image is gone; it is made anew"),
                    () = keep_forgetting(&image) => {}
                }
                continue;
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the bots' image can't be made; trying again");
                let sentence = format!("{error:#}. Molt tries again by itself");
                state.send_replace(RuntimeState::Failed { sentence });
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Removes the images of earlier versions as their containers go. Never ends.
async fn keep_forgetting(image: &Image) {
    let mut pause = LOOK_FIRST;
    loop {
        match image.forget_others().await {
            Ok(0) => std::future::pending().await,
            Ok(_) => {}
            Err(error) => tracing::debug!(error = format!("{error:#}"), "outdated images can't be looked at"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}

/// Runs it to its end; an error says its last words.
async fn finish(mut command: Command) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(STEP_MAX, command.output()).await;
    let out = ended.map_err(|_| anyhow::anyhow!("it took longer than {} minutes", STEP_MAX.as_secs() / 60))??;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    if said.contains("o space left on device") {
        bail!("the Docker engine's disk is full: make room (docker image prune), and it goes on");
    }
    bail!("{}", last_line(&out.stderr));
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it gave no reason").trim().to_owned()
}

/// A folder that goes when it is done with.
struct Draft(PathBuf);

impl Draft {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("molt-image-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).context("make a folder for the image")?;
        Ok(Self(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_is_another_image() {
        let folder = Draft::new().unwrap();
        let cell = folder.0.join("cell");
        let name = |content: &str| {
            fs::write(&cell, content).unwrap();
            Image::of(&cell, Path::new("/run/docker.sock")).unwrap()
        };
        let (one, two) = (name("one"), name("two"));
        assert_ne!(one.name, two.name);
        assert_eq!(one.runtime, two.runtime, "a new cell is a small layer on the same runtime");
        assert_eq!(name("one").name, one.name);
        assert_eq!(Image::command()[1], "/app/node_modules/openclaw/openclaw.mjs");
        assert!(Image::of(&folder.0.join("missing"), Path::new("/x")).is_err());
    }

    #[tokio::test]
    async fn without_an_engine_it_says_what_to_do() {
        let folder = Draft::new().unwrap();
        let cell = folder.0.join("cell");
        fs::write(&cell, "x").unwrap();
        let image = Image::of(&cell, Path::new("/nowhere/docker.sock")).unwrap();
        assert!(!image.is_there().await);
        let error = image.make(&folder.0, &|_, _| {}).await.unwrap_err().to_string();
        assert!(error.contains("docker_socket") || error.contains("install Docker"), "{error}");
    }

    /// An engine for tests, or `None`, which is said and never passes in a continuous integration.
    fn test_engine() -> Option<PathBuf> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../infrastructure/docker/engine");
        let out = std::process::Command::new(script).output().unwrap();
        if out.status.success() {
            return Some(String::from_utf8(out.stdout).unwrap().trim().into());
        }
        let why = String::from_utf8_lossy(&out.stderr);
        println!("skipped: {why}");
        assert!(std::env::var_os("CI").is_none(), "nothing may be skipped here: {why}");
        None
    }

    #[tokio::test]
    async fn outdated_images_go_when_no_container_has_them() {
        let Some(socket) = test_engine() else { return };
        let folder = Draft::new().unwrap();
        let cell = folder.0.join("cell");
        fs::write(&cell, "x").unwrap();
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let own = Image::of(&cell, &socket).unwrap();
        let image = Image { name: format!("molt-test-{mark}:new"), runtime: format!("molt-test-r-{mark}:new"), ..own };
        let docker = async |arguments: &[&str]| {
            let out = image.docker(arguments).output().await.unwrap();
            assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        let names = async || {
            let all = docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).await;
            let mut names: Vec<String> = all.lines().filter(|name| name.contains(&mark)).map(str::to_owned).collect();
            names.sort();
            names
        };
        let of = |repository: &str, tag: &str| format!("molt-test-{repository}{mark}:{tag}");
        for name in [of("", "new"), of("", "used"), of("", "idle"), of("r-", "new"), of("r-", "old"), of("not-", "x")] {
            let context = folder.0.join("context");
            fs::create_dir_all(&context).unwrap();
            fs::write(context.join("name"), &name).unwrap();
            let tar = folder.0.join("context.tar");
            let mut pack = std::process::Command::new("tar");
            assert!(pack.arg("-cf").arg(&tar).arg("-C").arg(&context).arg(".").status().unwrap().success());
            docker(&["import", tar.to_str().unwrap(), &name]).await;
        }
        // Not even one that runs: it may be started again.
        let container = docker(&["create", &of("", "used"), "/nothing"]).await;
        assert_eq!(image.forget_others().await.unwrap(), 1);
        assert_eq!(names().await, [of("", "new"), of("", "used"), of("not-", "x"), of("r-", "new")]);
        docker(&["rm", &container]).await;
        assert_eq!(image.forget_others().await.unwrap(), 0);
        assert_eq!(names().await, [of("", "new"), of("not-", "x"), of("r-", "new")]);
        docker(&["image", "rm", &of("", "new"), &of("not-", "x"), &of("r-", "new")]).await;
    }
}
