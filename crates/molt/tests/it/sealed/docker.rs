//! The same attempts from inside a real container, and two installations on one engine.
//! Never: passed over in a continuous integration; elsewhere it says why.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::engine::Engine;
use super::{World, show, through};
use crate::stack::Stack;

/// In a continuous integration nothing may be left out.
const CI_VARIABLE: &str = "CI";
const LIMITS: &str = "memory_mib = 512\nprocesses = 96\n";

/// The engine, and the image with the probe in it. `None`: there is no engine here, which was said.
fn engine() -> Option<(Engine, String)> {
    let root = rustix::process::geteuid().is_root();
    let found = if root { Engine::find() } else { Err("it takes root to look into volumes".to_owned()) };
    let engine = match found {
        Ok(engine) => engine,
        Err(why) => {
            println!("skipped: {why}");
            assert!(std::env::var_os(CI_VARIABLE).is_none(), "nothing may be skipped here: {why}");
            return None;
        }
    };
    let built = |name: &str| Path::new(env!("CARGO_BIN_EXE_molt")).with_file_name(name);
    let programs = ["molt-cell", "molt-seal-probe", "molt-stand-in-runtime"];
    let programs = programs.map(|name| (built(name), format!("/molt/{name}")));
    let programs: Vec<(&Path, &str)> = programs.iter().map(|(from, to)| (from.as_path(), to.as_str())).collect();
    let image = engine.image(&programs);
    Some((engine, image))
}

/// An installation whose bots live in containers, and which leaves none behind.
struct Contained {
    world: World,
    engine: Engine,
    _left: Left,
}

impl Contained {
    async fn new(engine: &Engine, image: &str) -> Self {
        let settings = format!(
            "[fleet]\nhost = \"docker\"\ndocker_socket = {:?}\nimage = \"{image}\"\n{LIMITS}\
             [runtime]\ncommand = [\"/molt/molt-seal-probe\", \"/molt/molt-stand-in-runtime\"]\n",
            engine.socket
        );
        let stack = Stack::start_in_its_own(&settings).await;
        let volumes = PathBuf::from(engine.docker(&["info", "--format", "{{.DockerRootDir}}"])).join("volumes");
        let digest = Sha256::digest(stack.data().canonicalize().unwrap().join("bots").as_os_str().as_encoded_bytes());
        let label = format!("label=molt.folder={}", hex::encode(&digest[..6]));
        let left = Left { engine: engine.clone(), label };
        Self { world: World::around(stack, Some(volumes)).await, engine: engine.clone(), _left: left }
    }

    /// Its bots: those with a folder.
    fn bots(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.world.stack.data().join("bots")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("molt-")).collect()
    }

    /// Those of them whose container runs.
    fn running(&self) -> Vec<String> {
        let all = self.engine.docker(&["ps", "--format", "{{.Names}}"]);
        let mut running: Vec<String> =
            self.bots().into_iter().filter(|bot| all.lines().any(|name| name == bot)).collect();
        running.sort();
        running
    }
}

/// What is left of an installation on the engine goes with this, after Molt has gone, which would start it again.
struct Left {
    engine: Engine,
    label: String,
}

impl Drop for Left {
    fn drop(&mut self) {
        self.engine.remove_all(&self.label);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_gets_out_of_a_container_and_the_neighbour_goes_on() {
    let Some((engine, image)) = engine() else { return };
    let contained = Contained::new(&engine, &image).await;
    let world = &contained.world;
    let mut attempts = world.ways_out(true);
    attempts.extend(world.secrets_and_places());
    let docker = json!({"name": "the engine", "do": "unix", "path": engine.socket});
    attempts.push(docker);
    let talk = async {
        for number in 0..4 {
            world.neighbour_answers(&format!("n-{number}")).await;
        }
    };
    let (answers, ()) = tokio::join!(world.attempt(1, &attempts), talk);
    show(&answers);
    assert_eq!(answers.len(), attempts.len());
    assert_eq!(through(&answers), Vec::<&str>::new());
    world.assert_nobody_came();

    // What whoever may look at containers sees: no secret, and nothing of the person's.
    for name in contained.running() {
        let shown = engine.docker(&["inspect", &name]);
        for word in ["MOLT_GATEWAY_TOKEN", "MOLT_GHOST_KEY", "CLAWDBOT_CONFIG", "personality", "Eve", "Ada"] {
            assert!(!shown.contains(word), "{name} shows {word}");
        }
        let told: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(told[0]["HostConfig"]["NetworkMode"], "none");
    }
    let (person, bot) = &world.attacker;
    let mut chat = world.stack.chat(person, bot).await;
    assert_eq!(chat.turn("e-1", "main", "Are you still there?").await.end(), "finished", "it harmed only itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installations_on_one_engine_do_not_touch_each_other() {
    let Some((engine, image)) = engine() else { return };
    let one = Contained::new(&engine, &image).await;
    let mut two = Contained::new(&engine, &image).await;
    // As bad as it gets: the tests' databases are copies, so that both have the same id.
    assert_eq!((one.running().len(), two.running().len()), (2, 2));
    let before = one.running();
    two.world.stack.interrupt().await;
    assert_eq!((one.running(), two.running().len()), (before, 0));
    one.world.neighbour_answers("still-here").await;
}
