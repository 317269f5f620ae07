//! A fleet whose cells are containers of a real Docker engine, with the stand-in for the runtime.
//! Never: a container or a volume left behind, even by a test that failed.

use std::path::PathBuf;
use std::sync::Arc;

use molt_fleet::{Config, DockerConfig, DockerHost, Host, RuntimeState};
use molt_model::BotId;
use sha2::{Digest, Sha256};

use crate::engine::Engine;
use crate::programs::programs;
use crate::stage::Stage;

const MIB: u64 = 1024 * 1024;
/// In a continuous integration nothing may be left out.
const CI_VARIABLE: &str = "CI";

pub(crate) struct Contained {
    pub(crate) engine: Engine,
    pub(crate) docker: DockerConfig,
}

/// What this machine has, or `None`, which is said and never passes in a continuous integration.
pub(crate) async fn found<T: Send + 'static>(find: impl FnOnce() -> Result<T, String> + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(find).await.unwrap() {
        Ok(found) => Some(found),
        Err(why) => {
            println!("skipped: {why}");
            assert!(std::env::var_os(CI_VARIABLE).is_none(), "nothing may be skipped here: {why}");
            None
        }
    }
}

impl Contained {
    pub(crate) async fn new(engine: Engine, stage: &Stage) -> Self {
        let [cell, runtime] = programs();
        let image = engine.image(&[(&cell, "/molt/molt-cell"), (&runtime, "/molt/runtime")]);
        let command = ["/molt/runtime", "gateway"].map(str::to_owned).to_vec();
        stage.runtime.send_replace(RuntimeState::Ready { command });
        let docker = DockerConfig {
            data_dir: stage.folder.canonicalize().unwrap(),
            installation: stage.database.store.system().await.unwrap().installation().await.unwrap(),
            image,
            socket: engine.socket.clone(),
            gates: None,
            image_gone: None,
            memory_bytes: 256 * MIB,
            processes: 64,
            nano_cpus: 1_000_000_000,
        };
        Self { engine, docker }
    }

    /// By this way to the engine.
    pub(crate) fn host(&self, socket: PathBuf) -> Arc<dyn Host> {
        Arc::new(DockerHost::new(DockerConfig { socket, ..self.docker.clone() }).unwrap())
    }

    pub(crate) fn config(&self, stage: &Stage) -> Config {
        Config {
            cell_binary: PathBuf::from(&self.docker.image),
            proxy_url: "unix:/run/molt/out/proxy.sock".to_owned(),
            ..stage.config()
        }
    }

    /// Bots of this installation in one of the engine's lists.
    pub(crate) fn listed(&self, list: &[&str]) -> Vec<BotId> {
        let names = self.engine.docker(&[list, &["--filter", &format!("label={}", self.label())]].concat());
        let mut bots: Vec<BotId> = names.lines().map(|name| name.parse().unwrap()).collect();
        bots.sort();
        bots
    }

    /// What everything of this test has on the engine. Not the installation's id: the tests' databases are copies of one.
    pub(crate) fn label(&self) -> String {
        let digest = Sha256::digest(self.docker.data_dir.join("bots").as_os_str().as_encoded_bytes());
        format!("molt.folder={}", hex::encode(&digest[..6]))
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        self.engine.remove_all(&format!("label={}", self.label()));
    }
}
