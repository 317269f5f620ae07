//! Machines move from state to state in their own time, and may hold a real program.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::Inner;
use super::state::Machine;

impl Inner {
    /// Moves the machine on after a while, unless something else happened to it meanwhile.
    pub(super) fn later(self: &Arc<Self>, app: &str, id: &str, from: &'static str, to: &'static str) {
        let (inner, app, id) = (self.clone(), app.to_owned(), id.to_owned());
        let version = inner.state().machine(&app, &id).map(|machine| machine.version.clone());
        tokio::spawn(async move {
            tokio::time::sleep(inner.rules.lag).await;
            {
                let mut state = inner.state();
                let Some(machine) = state.machine(&app, &id) else { return };
                if machine.state != from || Some(&machine.version) != version.as_ref() {
                    return;
                }
                to.clone_into(&mut machine.state);
                if to == "destroyed" {
                    state.let_go(&app, &id);
                }
            }
            match to {
                "starting" => inner.later(&app, &id, "starting", "started"),
                "started" => inner.boot(&app, &id),
                _ => {}
            }
            inner.changed.notify_waiters();
        });
    }

    /// The machine takes over the app's secrets and starts its program.
    fn boot(self: &Arc<Self>, app: &str, id: &str) {
        let (secrets, config, address) = {
            let mut state = self.state();
            let Some(known) = state.apps.get(app) else { return };
            let (secrets, address) = (known.secrets.clone(), known.ips.first().map(|(ip, _)| ip.clone()));
            let Some(machine) = state.machine(app, id) else { return };
            machine.secrets.clone_from(&secrets);
            machine.starts += 1;
            let config = machine.config.clone();
            let volumes = state.apps.get_mut(app).into_iter().flat_map(|app| &mut app.volumes);
            volumes.filter(|volume| volume.attached.as_deref() == Some(id)).for_each(|volume| volume.used = true);
            (secrets, config, address)
        };
        if let (Some(guests), Some(address)) = (&self.rules.guests, &address) {
            let settings = config["env"].as_object().unwrap().iter();
            let mut environment: BTreeMap<String, String> =
                settings.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
            environment.extend(secrets.clone());
            guests.start(address, &environment);
        }
        let (Some(program), Some(address)) = (&self.rules.program, address) else { return };
        let folder = program.volumes.join(config["mounts"][0]["volume"].as_str().unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(folder.with_extension("log")).unwrap();
        let settings = config["env"].as_object().unwrap().iter();
        let mut child = tokio::process::Command::new(&program.command)
            .env_clear()
            .envs(settings.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())))
            .envs(&secrets)
            .env("MOLT_STATE_DIR", &folder)
            .env("MOLT_LISTEN", format!("tcp:{address}:18789"))
            .envs(program.environment.iter().cloned())
            // Only Fly has a network for it alone; here it would cut the cell off from the test.
            .env_remove("MOLT_ISOLATE")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        if let Some(machine) = self.state().machine(app, id) {
            machine.process = Some(pid);
        }
        let (inner, app, id) = (self.clone(), app.to_owned(), id.to_owned());
        tokio::spawn(async move {
            let status = child.wait().await.unwrap();
            inner.exited(&app, &id, pid, status.success());
        });
    }

    /// A program that ended by itself is started again some times if it failed.
    fn exited(self: &Arc<Self>, app: &str, id: &str, pid: u32, well: bool) {
        let again = {
            let mut state = self.state();
            let Some(machine) = state.machine(app, id).filter(|machine| machine.process == Some(pid)) else { return };
            machine.process = None;
            let retries = machine.config["restart"]["max_retries"].as_u64().unwrap_or(0);
            let again = machine.state == "started" && !well && u64::from(machine.starts) <= retries;
            match machine.state.as_str() {
                "started" if again => "starting".clone_into(&mut machine.state),
                "started" | "stopping" => "stopped".clone_into(&mut machine.state),
                _ => {}
            }
            again
        };
        if again {
            self.later(app, id, "starting", "started");
        }
        self.changed.notify_waiters();
    }

    /// Asks the program to end, and the state follows.
    pub(super) fn halt(self: &Arc<Self>, app: &str, id: &str) {
        let process = self.state().machine(app, id).and_then(|machine| machine.process);
        let Some(pid) = process else {
            if let Some(machine) = self.state().machine(app, id) {
                self.see_off(machine);
            }
            return self.later(app, id, "stopping", "stopped");
        };
        signal(pid, Signal::TERM);
        let (inner, app, id) = (self.clone(), app.to_owned(), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(inner.rules.grace).await;
            let process = inner.state().machine(&app, &id).and_then(|machine| machine.process);
            if process == Some(pid) {
                kill_all(pid);
            }
        });
    }

    /// The machine is gone, whoever did it. Its volume stays.
    pub(super) fn destroy(&self, app: &str) {
        let mut state = self.state();
        let Some(app) = state.apps.get_mut(app) else { return };
        for machine in &mut app.machines {
            if machine.state != "destroyed" {
                self.see_off(machine);
            }
            "destroyed".clone_into(&mut machine.state);
            if let Some(pid) = machine.process.take() {
                kill_all(pid);
            }
        }
        for volume in &mut app.volumes {
            volume.attached = None;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn see_off(&self, machine: &Machine) {
        if let (Some(guests), Some(bot)) = (&self.rules.guests, machine.config["env"]["MOLT_BOT_ID"].as_str()) {
            guests.end(bot);
        }
    }

    pub(crate) fn end_all(&self) {
        let names: Vec<String> = self.state().apps.keys().cloned().collect();
        for name in names {
            self.destroy(&name);
        }
    }
}

pub(super) fn signal(pid: u32, signal: Signal) {
    kill_process(number(pid), signal).ok();
}

/// A machine ends with everything in it.
fn kill_all(pid: u32) {
    kill_process_group(number(pid), Signal::KILL).ok();
}

fn number(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}
