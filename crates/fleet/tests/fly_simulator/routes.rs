//! Every route that a fleet uses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde_json::{Value, json};

use super::state::{App, Machine, Volume};
use super::{Answer, Asked, Inner, ORG, refuse, refuse_as};

const OK: StatusCode = StatusCode::OK;

impl Inner {
    pub(super) async fn route(self: &Arc<Self>, asked: &Asked) -> Answer {
        let parts: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        match (asked.method.as_str(), parts.as_slice()) {
            ("GET", ["v1", "apps"]) => self.list_apps(asked),
            ("POST", ["v1", "apps"]) => self.create_app(asked),
            ("GET", ["v1", "orgs", ORG, "machines"]) => self.list_organisation(asked),
            ("GET" | "POST" | "DELETE", ["v1", "apps", app, rest @ ..]) => match self.known(app) {
                Ok(()) => self.in_app(asked, app, rest).await,
                Err(answer) => answer,
            },
            _ => refuse(404, "no such route"),
        }
    }

    /// Nobody's: 404. Somebody else's: 403.
    fn known(&self, app: &str) -> Result<(), Answer> {
        match self.state().apps.get(app) {
            None => Err(refuse(404, "app not found")),
            Some(app) if app.org != ORG => Err(refuse(403, "unauthorized")),
            Some(_) => Ok(()),
        }
    }

    async fn in_app(self: &Arc<Self>, asked: &Asked, app: &str, rest: &[&str]) -> Answer {
        match (asked.method.as_str(), rest) {
            ("GET", []) => (OK, self.state().apps[app].json()),
            ("DELETE", []) => self.delete_app(app),
            ("GET", ["ip_assignments"]) => {
                let state = self.state();
                let ips: Vec<Value> = state.apps[app].ips.iter().map(|(ip, _)| json!({ "ip": ip })).collect();
                (OK, json!({ "ips": ips }))
            }
            ("POST", ["ip_assignments"]) => self.assign(asked, app),
            ("GET", ["secrets"]) => {
                let state = self.state();
                let names = state.apps[app].secrets.keys();
                let secrets: Vec<Value> = names.map(|name| json!({ "name": name, "digest": "d1gest" })).collect();
                (OK, json!({ "secrets": secrets }))
            }
            ("POST", ["secrets"]) => self.set_secrets(asked, app),
            ("GET", ["volumes"]) => {
                (OK, self.state().apps[app].volumes.iter().map(Volume::json).collect::<Vec<_>>().into())
            }
            ("POST", ["volumes"]) => self.create_volume(asked, app),
            ("DELETE", ["volumes", id]) => self.delete_volume(app, id),
            ("GET", ["machines"]) => {
                let state = self.state();
                let all = asked.query("include_deleted") == Some("true");
                let machines = state.apps[app].machines.iter().filter(|machine| all || machine.state != "destroyed");
                (OK, machines.map(Machine::json).collect::<Vec<_>>().into())
            }
            ("POST", ["machines"]) => self.create_machine(asked, app),
            (_, ["machines", id, rest @ ..]) => {
                if self.state().machine(app, id).is_none() {
                    return refuse(404, "machine not found");
                }
                self.on_machine(asked, app, id, rest).await
            }
            _ => refuse(404, "no such route"),
        }
    }

    async fn on_machine(self: &Arc<Self>, asked: &Asked, app: &str, id: &str, rest: &[&str]) -> Answer {
        let changes = asked.method == "POST" && matches!(rest, [] | ["start" | "stop"])
            || asked.method == "DELETE" && rest.is_empty();
        let (leased, host) = {
            let mut state = self.state();
            let machine = state.machine(app, id).unwrap();
            (machine.is_leased(asked.nonce.as_deref()), machine.host_status.clone())
        };
        if changes && leased {
            return refuse(409, "machine lease currently held by somebody");
        }
        if changes && host == "unreachable" {
            return refuse(408, "the machine's host does not answer");
        }
        match (asked.method.as_str(), rest) {
            ("GET", []) => (OK, self.state().machine(app, id).unwrap().json()),
            ("POST", []) => self.update(asked, app, id),
            ("DELETE", []) => self.destroy_down(app, id),
            ("POST", ["start"]) => self.start(app, id),
            ("POST", ["stop"]) => self.stop(app, id),
            ("GET", ["wait"]) => self.wait(asked, app, id).await,
            ("POST", ["lease"]) => self.lease(asked, app, id),
            ("DELETE", ["lease"]) => {
                if leased {
                    return refuse(409, "not the holder's nonce");
                }
                self.state().machine(app, id).unwrap().lease = None;
                (OK, Value::Null)
            }
            ("GET", ["metadata"]) => {
                let state = self.state();
                let machine = state.apps[app].machines.iter().find(|machine| machine.id == id).unwrap();
                (OK, machine.config["metadata"].clone())
            }
            _ => refuse(404, "no such route"),
        }
    }

    fn page(&self, asked: &Asked, all: Vec<Value>) -> (Vec<Value>, Option<String>) {
        let from: usize = asked.query("cursor").map_or(0, |cursor| cursor.parse().unwrap());
        let wanted: usize = asked.query("limit").map_or(100, |limit| limit.parse().unwrap());
        let size = wanted.min(self.state().page);
        let next = (from + size < all.len()).then(|| (from + size).to_string());
        (all.into_iter().skip(from).take(size).collect(), next)
    }

    fn list_apps(&self, asked: &Asked) -> Answer {
        if asked.query("org_slug") != Some(ORG) {
            return refuse(404, "organization not found");
        }
        let apps: Vec<Value> = self.state().apps.values().filter(|app| app.org == ORG).map(App::json).collect();
        let total = apps.len();
        let (apps, next) = self.page(asked, apps);
        let mut body = json!({ "total_apps": total, "apps": apps });
        if let Some(next) = next {
            body["next_cursor"] = json!(next);
        }
        (OK, body)
    }

    fn list_organisation(&self, asked: &Asked) -> Answer {
        let machines = {
            let state = self.state();
            let mut machines = Vec::new();
            for app in state.apps.values().filter(|app| app.org == ORG) {
                machines.extend(app.living().map(|machine| {
                    json!({ "id": machine.id, "name": machine.name, "state": machine.state, "app_name": app.name })
                }));
            }
            machines
        };
        let (machines, next) = self.page(asked, machines);
        (OK, json!({ "machines": machines, "next_cursor": next.unwrap_or_default(), "error_regions": null }))
    }

    fn create_app(&self, asked: &Asked) -> Answer {
        let Some(name) = asked.body["name"].as_str() else { return refuse(400, "name is missing") };
        if asked.body["org_slug"] != ORG {
            return refuse(403, "unauthorized");
        }
        let key = asked.body["idempotency_key"].as_str().map(str::to_owned);
        let mut state = self.state();
        if let Some(known) = state.apps.get(name) {
            return match known.org == ORG && key.is_some() && known.idempotency_key == key {
                true => (StatusCode::CREATED, known.json()),
                false => refuse_as(422, "Name has already been taken", "name_taken"),
            };
        }
        let network = asked.body["network"].as_str().unwrap_or("default");
        let app = App::new(name, ORG, network, key);
        let json = app.json();
        state.apps.insert(name.to_owned(), app);
        (StatusCode::CREATED, json)
    }

    /// Accepted at once, done a little later, with everything in it.
    fn delete_app(self: &Arc<Self>, app: &str) -> Answer {
        self.state().apps.get_mut(app).unwrap().deleting = true;
        let (inner, app) = (self.clone(), app.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(inner.rules.lag).await;
            inner.destroy(&app);
            let gone = inner.state().apps.remove(&app);
            if let (Some(program), Some(gone)) = (&inner.rules.program, gone) {
                for volume in gone.volumes {
                    std::fs::remove_dir_all(program.volumes.join(volume.id)).ok();
                }
            }
        });
        (StatusCode::ACCEPTED, Value::Null)
    }

    fn assign(&self, asked: &Asked, app: &str) -> Answer {
        if asked.body["type"] != "private_v6" {
            return refuse(422, "only private addresses here");
        }
        let mut state = self.state();
        let ip = state.private_address();
        state.apps.get_mut(app).unwrap().ips.push((ip.clone(), asked.body["network"].clone()));
        (OK, json!({ "ip": ip, "region": "global", "shared": false, "created_at": "2026-11-01T00:00:00Z" }))
    }

    fn set_secrets(&self, asked: &Asked, app: &str) -> Answer {
        let Some(values) = asked.body["values"].as_object() else { return refuse(400, "values are missing") };
        let mut state = self.state();
        let app = state.apps.get_mut(app).unwrap();
        for (name, value) in values {
            match value.as_str() {
                Some(value) => app.secrets.insert(name.clone(), value.to_owned()),
                None => app.secrets.remove(name),
            };
        }
        app.secrets_version += 1;
        (OK, json!({ "secrets": [], "version": app.secrets_version }))
    }

    fn create_volume(&self, asked: &Asked, app: &str) -> Answer {
        let region = asked.body["region"].as_str().unwrap_or("iad").to_owned();
        let mut state = self.state();
        if state.full_for_volumes.contains(&region) {
            return refuse_as(422, "no capacity for the volume", "insufficient_capacity");
        }
        let made = state.next();
        let name = asked.body["name"].as_str().unwrap_or_default().to_owned();
        let volume = Volume { id: format!("vol_{made:016}"), region, name, attached: None, used: false, made };
        let json = volume.json();
        state.apps.get_mut(app).unwrap().volumes.push(volume);
        (OK, json)
    }

    fn delete_volume(&self, app: &str, id: &str) -> Answer {
        let mut state = self.state();
        let volumes = &mut state.apps.get_mut(app).unwrap().volumes;
        let Some(at) = volumes.iter().position(|volume| volume.id == id) else {
            return refuse(404, "volume not found");
        };
        if volumes[at].attached.is_some() {
            return refuse(412, "volume is attached");
        }
        let volume = volumes.remove(at);
        state.lost.extend(volume.used.then(|| volume.id.clone()));
        (OK, volume.json())
    }

    fn create_machine(self: &Arc<Self>, asked: &Asked, app: &str) -> Answer {
        let id = {
            let mut state = self.state();
            let region = asked.body["region"].as_str().unwrap_or("iad").to_owned();
            let name = asked.body["name"].as_str().unwrap_or_default().to_owned();
            if state.apps[app].living().any(|machine| machine.name == name) {
                return refuse_as(422, "machine name is taken", "name_taken");
            }
            if asked.body["min_secrets_version"].as_i64().unwrap_or(0) > state.apps[app].secrets_version {
                return refuse(412, "no such secrets yet");
            }
            let mount = asked.body["config"]["mounts"][0]["volume"].as_str().map(str::to_owned);
            if let Some(wanted) = &mount {
                match state.apps[app].volumes.iter().find(|volume| volume.id == *wanted) {
                    None => return refuse(404, "volume not found"),
                    Some(volume) if volume.attached.is_some() => return refuse(412, "volume is attached elsewhere"),
                    Some(volume) if volume.region != region => return refuse(422, "the volume is in another region"),
                    Some(_) => {}
                }
            }
            if state.full_for_machines.contains(&region) {
                return refuse_as(422, "no capacity in this region", "insufficient_capacity");
            }
            let (id, version) = (format!("{:014x}", state.next()), state.version());
            let known = state.apps.get_mut(app).unwrap();
            if let Some(volume) = known.volumes.iter_mut().find(|volume| Some(&volume.id) == mount.as_ref()) {
                volume.attached = Some(id.clone());
            }
            known.machines.push(Machine {
                id: id.clone(),
                name,
                region,
                state: "created".into(),
                version,
                config: asked.body["config"].clone(),
                host_status: "ok".into(),
                secrets: Default::default(),
                lease: None,
                process: None,
                starts: 0,
            });
            id
        };
        // Without a launch it stays as it is.
        if asked.body["skip_launch"] != true {
            self.later(app, &id, "created", "starting");
        }
        (OK, self.state().machine(app, &id).unwrap().json())
    }

    fn update(self: &Arc<Self>, asked: &Asked, app: &str, id: &str) -> Answer {
        let starts = {
            let mut state = self.state();
            let (version, update_starts) = (state.version(), state.update_starts);
            let secrets_version = state.apps[app].secrets_version;
            let machine = state.machine(app, id).unwrap();
            if asked.body["current_version"].as_str().is_some_and(|current| current != machine.version) {
                return refuse(409, "current_version is not the machine's");
            }
            if asked.body["min_secrets_version"].as_i64().unwrap_or(0) > secrets_version {
                return refuse(412, "no such secrets yet");
            }
            let mount = machine.mount().map(str::to_owned);
            if asked.body["config"]["mounts"][0]["volume"].as_str() != mount.as_deref() {
                return refuse(422, "a machine can't change its volume");
            }
            // The whole of it: what isn't said is gone.
            machine.config = asked.body["config"].clone();
            machine.version = version;
            machine.starts = 0;
            let starts = update_starts && matches!(machine.state.as_str(), "stopped" | "created");
            if starts {
                "starting".clone_into(&mut machine.state);
            }
            starts
        };
        if starts {
            self.later(app, id, "starting", "started");
        }
        (OK, self.state().machine(app, id).unwrap().json())
    }

    fn start(self: &Arc<Self>, app: &str, id: &str) -> Answer {
        {
            let mut state = self.state();
            let full = state.full_for_machines.clone();
            let machine = state.machine(app, id).unwrap();
            match machine.state.as_str() {
                "started" | "starting" => return (OK, json!({ "ok": true })),
                _ if full.contains(&machine.region) => {
                    return refuse_as(422, "no capacity in this region", "insufficient_capacity");
                }
                "stopped" | "suspended" | "failed" | "created" => "starting".clone_into(&mut machine.state),
                _ => return refuse(412, "the machine is busy"),
            }
        }
        self.later(app, id, "starting", "started");
        (OK, json!({ "ok": true }))
    }

    /// Without force only one that doesn't run. It is gone a little later, and lets go of its volume then.
    fn destroy_down(self: &Arc<Self>, app: &str, id: &str) -> Answer {
        {
            let mut state = self.state();
            let machine = state.machine(app, id).unwrap();
            match machine.state.as_str() {
                "stopped" | "suspended" | "failed" | "created" => "destroying".clone_into(&mut machine.state),
                _ => return refuse(412, "the machine runs; it is destroyed by force only"),
            }
        }
        self.later(app, id, "destroying", "destroyed");
        (OK, json!({ "ok": true }))
    }

    fn stop(self: &Arc<Self>, app: &str, id: &str) -> Answer {
        {
            let mut state = self.state();
            let machine = state.machine(app, id).unwrap();
            match machine.state.as_str() {
                "stopped" | "stopping" => return (OK, json!({ "ok": true })),
                "started" => "stopping".clone_into(&mut machine.state),
                _ => return refuse(412, "the machine is busy"),
            }
        }
        self.halt(app, id);
        (OK, json!({ "ok": true }))
    }

    async fn wait(&self, asked: &Asked, app: &str, id: &str) -> Answer {
        let wanted = asked.query("state").unwrap_or("started").to_owned();
        let seconds: u64 = asked.query("timeout").map_or(60, |text| text.parse().unwrap());
        if !(1..=60).contains(&seconds) {
            return refuse(400, "timeout is from 1 to 60");
        }
        let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            let changed = self.changed.notified();
            let state = {
                let mut state = self.state();
                match state.machine(app, id) {
                    Some(machine) => machine.state.clone(),
                    None => return refuse(404, "machine not found"),
                }
            };
            let rests = matches!(state.as_str(), "started" | "stopped" | "suspended" | "failed" | "destroyed");
            if state == wanted || (wanted == "settled" && rests) {
                return (OK, json!({ "ok": true }));
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return refuse(408, "deadline exceeded");
            }
        }
    }

    fn lease(&self, asked: &Asked, app: &str, id: &str) -> Answer {
        let (mut state, lease_max) = (self.state(), self.rules.lease_max);
        let nonce = format!("{:012x}", state.next());
        let machine = state.machine(app, id).unwrap();
        if machine.is_leased(asked.nonce.as_deref()) {
            return refuse(409, "machine lease currently held by somebody");
        }
        let seconds = asked.query("ttl").map_or(60, |text| text.parse().unwrap());
        let held = Duration::from_secs(seconds).min(lease_max);
        machine.lease = Some((nonce.clone(), Instant::now() + held));
        (
            StatusCode::CREATED,
            json!({ "status": "success", "data": { "nonce": nonce, "expires_at": 2_000_000_000, "owner": "us" } }),
        )
    }
}
