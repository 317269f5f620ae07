//! What Fly knows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::{Value, json};

use super::Asked;
use super::faults::Planned;

pub(crate) struct State {
    /// By name: one space for all of Fly.
    pub(crate) apps: BTreeMap<String, App>,
    pub(crate) calls: Vec<Call>,
    pub(crate) full_for_volumes: HashSet<String>,
    pub(crate) full_for_machines: HashSet<String>,
    /// Volumes that went although a machine had been launched on them, their app being there still.
    pub(crate) lost: Vec<String>,
    /// Calls that came too fast.
    pub(crate) refused_for_pace: u32,
    /// Things on a page of a list.
    pub(crate) page: usize,
    /// Whether an update of a stopped machine starts it; the documentation leaves it open.
    pub(crate) update_starts: bool,
    /// Nobody gets an answer.
    pub(crate) away: bool,
    /// The answer to the nth call from now is lost; the flag says that it was.
    pub(crate) lose: Option<(u32, Arc<AtomicBool>)>,
    pub(super) faults: Vec<Planned>,
    pub(super) limits: HashMap<String, Instant>,
    pub(super) count: u64,
    network: [u8; 2],
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) org: String,
    pub(crate) network: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) secrets: BTreeMap<String, String>,
    pub(crate) secrets_version: i64,
    pub(crate) ips: Vec<(String, Value)>,
    pub(crate) deleting: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) state: String,
    pub(crate) version: String,
    pub(crate) config: Value,
    pub(crate) host_status: String,
    /// The secrets that it was started with.
    pub(crate) secrets: BTreeMap<String, String>,
    pub(crate) lease: Option<(String, Instant)>,
    pub(crate) process: Option<u32>,
    pub(crate) starts: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) region: String,
    pub(crate) name: String,
    pub(crate) attached: Option<String>,
    pub(crate) used: bool,
    pub(crate) made: u64,
}

impl State {
    pub(super) fn new() -> Self {
        let network = uuid::Uuid::new_v4().into_bytes();
        Self {
            apps: BTreeMap::new(),
            calls: Vec::new(),
            full_for_volumes: HashSet::new(),
            full_for_machines: HashSet::new(),
            lost: Vec::new(),
            refused_for_pace: 0,
            page: 500,
            update_starts: false,
            away: false,
            lose: None,
            faults: Vec::new(),
            limits: HashMap::new(),
            count: 0,
            // Tests that run side by side must not meet: each has a corner of 127.0.0.0/8.
            network: [network[0].clamp(1, 250), network[1]],
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// As long and as written as Fly's are.
    pub(super) fn version(&mut self) -> String {
        format!("01{:024}", self.next())
    }

    /// An address that this computer really has, in the place of a private one of Fly's.
    pub(super) fn private_address(&mut self) -> String {
        let n = self.next();
        format!("127.{}.{}.{}", self.network[0], self.network[1], n % 250 + 1)
    }

    pub(super) fn note(&mut self, asked: &Asked) {
        self.calls.push(Call { method: asked.method.to_string(), path: asked.path.clone(), body: asked.body.clone() });
    }

    /// An app that somebody else has.
    pub(crate) fn add_app(&mut self, name: &str, org: &str, network: &str) {
        self.apps.insert(name.to_owned(), App::new(name, org, network, None));
    }

    /// A machine that is gone has no volume.
    pub(super) fn let_go(&mut self, app: &str, id: &str) {
        let volumes = self.apps.get_mut(app).into_iter().flat_map(|app| &mut app.volumes);
        volumes.filter(|volume| volume.attached.as_deref() == Some(id)).for_each(|volume| volume.attached = None);
    }

    pub(crate) fn machine(&mut self, app: &str, id: &str) -> Option<&mut Machine> {
        self.apps.get_mut(app)?.machines.iter_mut().find(|machine| machine.id == id)
    }
}

impl App {
    pub(super) fn new(name: &str, org: &str, network: &str, idempotency_key: Option<String>) -> Self {
        Self {
            name: name.to_owned(),
            org: org.to_owned(),
            network: network.to_owned(),
            idempotency_key,
            machines: Vec::new(),
            volumes: Vec::new(),
            secrets: BTreeMap::new(),
            secrets_version: 0,
            ips: Vec::new(),
            deleting: false,
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "id": format!("id-{}", self.name), "name": self.name, "network": self.network,
            "status": if self.machines.is_empty() { "pending" } else { "deployed" },
            "machine_count": self.living().count(), "volume_count": self.volumes.len(),
            "organization": { "name": self.org, "slug": self.org },
        })
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.state != "destroyed")
    }
}

impl Machine {
    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id, "name": self.name, "state": self.state, "region": self.region, "version": self.version,
            "instance_id": self.version, "private_ip": "fdaa:0:1::2", "config": self.config,
            "host_status": self.host_status, "events": [], "created_at": "2026-11-01T00:00:00Z",
            "updated_at": "2026-11-01T00:00:00Z",
        })
    }

    pub(super) fn is_leased(&self, nonce: Option<&str>) -> bool {
        self.lease.as_ref().is_some_and(|(held, until)| *until > Instant::now() && Some(held.as_str()) != nonce)
    }

    pub(crate) fn mount(&self) -> Option<&str> {
        self.config["mounts"][0]["volume"].as_str()
    }
}

impl Volume {
    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id, "name": self.name, "region": self.region, "state": "created", "size_gb": 3,
            "encrypted": true, "attached_machine_id": self.attached,
            "created_at": format!("2026-11-01T00:00:{:02}.{:06}Z", self.made / 1_000_000 % 60, self.made % 1_000_000),
        })
    }
}
