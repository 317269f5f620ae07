//! Fly under test: our simulator of it, with a real cell in each of its machines.
//! Never: a word about Fly itself. It was not asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use molt_fleet::{CellSpec, FlyHost, Host};
use molt_model::BotId;
use rustix::process::Signal;

use crate::fly_faults::{app_of, settings};
use crate::fly_simulator::{Program, Rules, Simulator};
use crate::programs::programs;
use crate::suite::{Fault, Found, HostUnderTest, Losing, Story};

pub(crate) struct Fly {
    simulator: Simulator,
    folder: PathBuf,
    runtime: String,
}

impl HostUnderTest for Fly {
    const NAME: &'static str = "Fly, simulated";

    async fn set_up() -> Result<Self, String> {
        let name = format!("mfly-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let folder = std::env::temp_dir().canonicalize().unwrap().join(name);
        std::fs::create_dir(&folder).unwrap();
        let [cell, runtime] = programs();
        let program = Program { command: cell, environment: Vec::new(), volumes: folder.clone() };
        let lag = Duration::from_millis(10);
        let simulator = Simulator::with(Rules { program: Some(program), lag, ..Rules::default() }).await;
        Ok(Self { simulator, folder, runtime: runtime.to_str().unwrap().to_owned() })
    }

    fn cannot(story: Story) -> Option<&'static str> {
        match story {
            Story::FullDisk => Some("there is no disk to fill: a region without room is left for another one"),
            _ => None,
        }
    }

    fn open(&self) -> Arc<dyn Host> {
        Arc::new(FlyHost::new(settings(self.simulator.url())).unwrap())
    }

    fn spec(&self, bot: &BotId, revision: i64) -> CellSpec {
        let command = vec![self.runtime.clone(), "gateway".to_owned()];
        crate::suite::cell_spec(bot, revision, "http://127.0.0.1:9/v1", command)
    }

    fn slow_spec(&self, bot: &BotId) -> CellSpec {
        let command = ["/bin/sh", "-c", "sleep 600", "runtime"].map(str::to_owned).to_vec();
        crate::suite::cell_spec(bot, 1, "http://127.0.0.1:9/v1", command)
    }

    async fn fault(&self, fault: Fault, bot: &BotId) {
        match fault {
            Fault::Crash => self.simulator.signal(&app_of(bot), Signal::KILL),
            Fault::Hang => self.simulator.signal(&app_of(bot), Signal::STOP),
            Fault::GoneMachine => self.simulator.destroy_machine(&app_of(bot)),
            Fault::HostAway => self.simulator.state().away = true,
            Fault::FullDisk => panic!("said to be impossible"),
        }
    }

    async fn mend(&self, fault: Fault) {
        assert_eq!(fault, Fault::HostAway);
        self.simulator.state().away = false;
    }

    async fn open_losing(&self, nth: u32) -> Losing {
        let lost = Arc::new(AtomicBool::new(false));
        self.simulator.state().lose = Some((nth, lost.clone()));
        Losing { host: self.open(), lost }
    }

    /// All of them take a minute and a half.
    fn lost_answers_apart() -> usize {
        if std::env::var_os("MOLT_PROVE").is_some() { 1 } else { 10 }
    }

    async fn found(&self, bot: &BotId) -> Found {
        let state = self.simulator.state();
        let Some(app) = state.apps.get(&app_of(bot)) else { return Found::default() };
        let running = app.living().filter(|machine| machine.process.is_some());
        let volumes = app.volumes.iter();
        Found {
            cells: running.map(|machine| format!("machine {} of {bot}", machine.id)).collect(),
            states: volumes.map(|volume| format!("volume {} of {bot}", volume.id)).collect(),
            rest: vec![format!("app {}", app.name)],
        }
    }

    async fn write_note(&self, bot: &BotId, text: &str) {
        std::fs::write(self.volume(bot).unwrap().join("note"), text).unwrap();
    }

    async fn note(&self, bot: &BotId) -> Option<String> {
        std::fs::read_to_string(self.volume(bot)?.join("note")).ok()
    }
}

impl Fly {
    fn volume(&self, bot: &BotId) -> Option<PathBuf> {
        let state = self.simulator.state();
        Some(self.folder.join(&state.apps.get(&app_of(bot))?.volumes.first()?.id))
    }
}

impl Drop for Fly {
    fn drop(&mut self) {
        self.simulator.inner.end_all();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
