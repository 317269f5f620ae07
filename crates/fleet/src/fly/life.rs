//! The machine in a bot's app: found, made, changed as a whole, started, stopped, each under a lease.
//! Never: a second machine, one that isn't the bot's, or an end of waiting that isn't named.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use molt_bot::CellAddress;
use serde_json::{Value, json};

use super::api::{Call, Failure, Kind};
use super::app::{Place, no_room};
use super::machine::{self, Making, NAME, Purpose, START_MARK, mark};
use super::pace::Action;
use super::wire::{Lease, Machine, Stand, Volume};
use super::{LOST_PAUSE, TRIES};
use crate::host::{CellSpec, Ensured, HostError};

/// Fly waits with us for so long at most.
const ROUND: Duration = Duration::from_secs(60);
/// Fetching a big image into a new region takes minutes now and then.
const START_MAX: Duration = Duration::from_secs(120);
/// The cell's own grace and Fly's, and some more.
const STOP_MAX: Duration = Duration::from_secs(100);
/// A change under a lease is sent at once. A lease whose answer was lost is in our own way until it ends by itself.
const LEASE_SECONDS: u64 = 12;
const LEASE_PAUSE: Duration = Duration::from_secs(2);
/// Versions are of this length; others are not sent where they would be refused.
const VERSION_CHARS: usize = 26;

/// What a machine needs before it is made.
pub(super) struct ReadyVolume {
    volume: Volume,
    /// A machine was given it before.
    used: bool,
    /// The version of the secrets.
    secrets: Option<i64>,
}

impl Place<'_> {
    /// The bot's machine, if there is one that isn't gone.
    pub(super) async fn machine(&self) -> Result<Option<Machine>, HostError> {
        let machines = self.machines().await?;
        let ours = machines.into_iter().find(|machine| machine.name == NAME);
        match ours {
            Some(machine) if !machine::is_of(&machine.config, self.bot) => Err(HostError::Unusable(format!(
                "a machine in the app {} says that it is another bot's; it is left alone",
                self.app
            ))),
            ours => Ok(ours),
        }
    }

    /// All machines in the app that aren't gone.
    pub(super) async fn machines(&self) -> Result<Vec<Machine>, HostError> {
        match self.api.read::<Vec<Machine>>(Action::ListMachines, &self.app, &self.path("/machines")).await {
            Ok(machines) => {
                let mut machines = machines.unwrap_or_default();
                machines.retain(|machine| machine.stand() != Stand::Gone);
                Ok(machines)
            }
            // An app of this name is somebody else's, so nothing in it is ours.
            Err(failure) if failure.is_status(StatusCode::FORBIDDEN) => Ok(Vec::new()),
            Err(failure) => Err(failure.into()),
        }
    }

    pub(super) async fn read_machine(&self, id: &str) -> Result<Option<Machine>, HostError> {
        let machine = self.api.read::<Machine>(Action::ReadMachine, id, &self.path(&format!("/machines/{id}"))).await?;
        Ok(machine.filter(|machine| machine.stand() != Stand::Gone))
    }

    /// The machine once it has come to rest, so that what is done next is done to something that holds still.
    pub(super) async fn settled_machine(&self) -> Result<Option<Machine>, HostError> {
        let until = Instant::now() + START_MAX;
        loop {
            let Some(machine) = self.machine().await? else { return Ok(None) };
            let wanted = match machine.stand() {
                Stand::Moving => "settled",
                Stand::Leaving => "destroyed",
                Stand::Stranded => return Err(self.stranded()),
                Stand::Up | Stand::Down | Stand::Gone => return Ok(Some(machine)),
            };
            if Instant::now() > until {
                return Err(Failure::Unknown("a machine does not come to rest").into());
            }
            self.wait_round(&machine, wanted, until).await?;
        }
    }

    fn stranded(&self) -> HostError {
        HostError::Unusable(format!(
            "the computer at Fly that holds {}'s volume can't be reached; its bot comes back with it. If Fly gives it up, \
             restore the volume from a snapshot",
            self.app
        ))
    }

    /// The bot's volume, and the app's secrets for a machine that is launched on it: one that isn't writes nothing, and its
    /// volume is not a used one. `full`: regions that turned out to have no room.
    pub(super) async fn ready_volume(
        &self,
        purpose: Purpose<'_>,
        fresh: bool,
        full: &mut Vec<String>,
    ) -> Result<ReadyVolume, HostError> {
        let (volume, used) = self.ensure_volume(fresh, full).await?;
        let secrets = match purpose {
            Purpose::Start(spec) => self.set_secrets(spec, &volume.id).await?,
            Purpose::Ahead => None,
        };
        Ok(ReadyVolume { volume, used, secrets })
    }

    /// A new machine on the bot's volume. Where the volume was never used and its region is full, the next region gets both.
    pub(super) async fn create(
        &self,
        purpose: Purpose<'_>,
        mut ready: Option<ReadyVolume>,
        full: &mut Vec<String>,
        address: &str,
    ) -> Result<Ensured, HostError> {
        let start = uuid::Uuid::new_v4().to_string();
        let ahead = matches!(purpose, Purpose::Ahead);
        for _ in 0..=self.settings.regions.len() {
            let ReadyVolume { volume, used, secrets } = match ready.take() {
                Some(ready) => ready,
                None => self.ready_volume(purpose, false, full).await?,
            };
            let (settings, bot, volume_id) = (self.settings, self.bot, volume.id.as_str());
            let making = Making { settings, bot, purpose, ahead, volume: volume_id, address, start: &start };
            let mut body = json!({ "name": NAME, "region": volume.region, "config": making.config() });
            if ahead {
                body["skip_launch"] = json!(true);
            }
            match self.create_machine(&with_secrets(body, secrets), &start).await {
                Ok(Some(_)) if ahead => return Ok(Ensured::Started),
                Ok(Some(machine)) => return self.bring_up(machine).await.map(|()| Ensured::Started),
                Ok(None) => return Ok(Ensured::AlreadyThere),
                Err(failure) if !failure.is_kind(Kind::InsufficientCapacity) => return Err(failure.into()),
                Err(_) if used => {
                    return Err(HostError::Unusable(format!(
                        "Fly's region {} has no room for a machine just now, and the bot's volume is there; it is tried again",
                        volume.region
                    )));
                }
                Err(_) => {
                    tracing::warn!(
                        fly.region = volume.region,
                        "a region at Fly has no room for a machine; the next one is tried"
                    );
                    if !ahead {
                        self.clear_used(&volume.id).await?;
                    }
                    full.push(volume.region);
                }
            }
        }
        Err(no_room(&self.settings.regions))
    }

    /// There is no key that makes a repeat the same machine, but two machines of an app can't have one name. `None`: there
    /// is one that we did not make just now.
    async fn create_machine(&self, body: &Value, start: &str) -> Result<Option<Machine>, Failure> {
        for _ in 0..TRIES {
            let call = Call::post(Action::Create, &self.app, self.path("/machines"), body.clone());
            let failure = match self.api.change::<Machine>(call).await {
                Ok(machine) => return Ok(Some(machine)),
                Err(failure) => failure,
            };
            if failure.is_kind(Kind::InsufficientCapacity) {
                return Err(failure);
            }
            // Two programs at once: one of them is told that the name is taken, or the volume.
            tokio::time::sleep(LOST_PAUSE).await;
            let known = self.api.read::<Vec<Machine>>(Action::ListMachines, &self.app, &self.path("/machines")).await?;
            let known = known.unwrap_or_default();
            if let Some(machine) = known.into_iter().find(|m| m.name == NAME && m.stand() != Stand::Gone) {
                let made_by_us = mark(&machine.config, START_MARK) == Some(start);
                return Ok(made_by_us.then_some(machine));
            }
            if !failure.is_unknown() && !is_taken(&failure) {
                return Err(failure);
            }
        }
        Err(Failure::Unknown("a machine was not made"))
    }

    /// Starts a machine that is down with everything that is new. And where its cell answers.
    pub(super) async fn renew(&self, machine: &Machine, spec: &CellSpec) -> Result<(Ensured, CellAddress), HostError> {
        let Some(volume) = machine.volume() else {
            return Err(HostError::Unusable(format!("the machine of {} has no volume; it is left alone", self.app)));
        };
        let start = uuid::Uuid::new_v4().to_string();
        let what = async {
            let (secrets, cell) = tokio::join!(self.set_secrets(spec, volume), self.ensure_address(false));
            Ok::<_, HostError>((secrets?, cell?))
        };
        // None needs another. All come to their end, so that no call is left half heard, and no lease in the way.
        let (what, nonce) = tokio::join!(what, self.lease(&machine.id));
        let nonce = nonce?;
        let renewed = async {
            let (secrets, cell) = what?;
            let (settings, bot, ahead) = (self.settings, self.bot, machine.was_never_launched());
            let address = network_address(&cell)?;
            let making = Making { settings, bot, purpose: Purpose::Start(spec), ahead, volume, address, start: &start };
            let mut body = json!({ "name": NAME, "config": making.config() });
            if let Some(version) = machine.version() {
                body["current_version"] = json!(version);
            }
            let renewed = self.update_and_start(machine, &with_secrets(body, secrets), &nonce, &start).await?;
            Ok::<_, HostError>((renewed, cell))
        };
        let renewed = renewed.await;
        let release = self.release(&machine.id, &nonce);
        match renewed {
            // Nobody needs the lease any more: it is given back while the machine starts.
            Ok((Some((machine, true)), cell)) => {
                let (started, ()) = tokio::join!(self.await_start(machine), release);
                started.map(|()| (Ensured::Started, cell))
            }
            renewed => {
                release.await;
                match renewed? {
                    (Some((machine, _)), cell) => self.bring_up(machine).await.map(|()| (Ensured::Started, cell)),
                    (None, cell) => Ok((Ensured::AlreadyThere, cell)),
                }
            }
        }
    }

    /// Both under one lease. The machine as it was changed, and whether the start was heard. `None`: somebody else changed
    /// it meanwhile.
    async fn update_and_start(
        &self,
        machine: &Machine,
        body: &Value,
        nonce: &str,
        start: &str,
    ) -> Result<Option<(Machine, bool)>, HostError> {
        let Some(machine) = self.update(machine, body, nonce, start).await? else { return Ok(None) };
        let heard = machine.stand() == Stand::Down && self.tell_to_start(&machine, nonce).await?;
        Ok(Some((machine, heard)))
    }

    /// The version that it is based on makes a repeat harmless. `None`: somebody else changed it meanwhile.
    async fn update(
        &self,
        machine: &Machine,
        body: &Value,
        nonce: &str,
        start: &str,
    ) -> Result<Option<Machine>, HostError> {
        let path = self.path(&format!("/machines/{}", machine.id));
        let mut attempt = 1;
        loop {
            let call = Call::post(Action::Update, &machine.id, path.clone(), body.clone()).under(nonce);
            let failure = match self.api.change::<Machine>(call).await {
                Ok(machine) => return Ok(Some(machine)),
                Err(failure) => failure,
            };
            if !failure.is_unknown() && !is_busy(&failure) {
                return Err(failure.into());
            }
            tokio::time::sleep(LOST_PAUSE).await;
            match self.read_machine(&machine.id).await? {
                Some(now) if mark(&now.config, START_MARK) == Some(start) => return Ok(Some(now)),
                Some(now) if now.version() != machine.version() => return Ok(None),
                Some(_) if attempt < TRIES => attempt += 1,
                _ => return Err(failure.into()),
            }
        }
    }

    /// Waits until the machine has started, and starts it if nobody has.
    async fn bring_up(&self, machine: Machine) -> Result<(), HostError> {
        self.started(machine, 0, Instant::now() + START_MAX).await
    }

    /// The same for a machine that was told to start since it was seen.
    async fn await_start(&self, mut machine: Machine) -> Result<(), HostError> {
        let until = Instant::now() + START_MAX;
        if self.wait_round(&machine, "started", until).await? {
            return Ok(());
        }
        machine = self.read_machine(&machine.id).await?.ok_or_else(vanished)?;
        self.started(machine, TRIES, until).await
    }

    /// `tries`: how often it was told to start already.
    async fn started(&self, mut machine: Machine, mut tries: u32, until: Instant) -> Result<(), HostError> {
        loop {
            match machine.stand() {
                Stand::Up if machine.state == "started" => return Ok(()),
                Stand::Down if tries == TRIES => {
                    return Err(HostError::Unusable(format!(
                        "the machine of {} does not start; Fly's log of the app says why",
                        self.app
                    )));
                }
                Stand::Down if self.start(&machine).await? => tries = TRIES,
                Stand::Down => {
                    // Whether it was heard, only the machine can say; nobody waits for a start that wasn't.
                    tries += 1;
                    tokio::time::sleep(LOST_PAUSE).await;
                    machine = self.read_machine(&machine.id).await?.ok_or_else(vanished)?;
                    continue;
                }
                Stand::Stranded => return Err(self.stranded()),
                Stand::Up | Stand::Moving | Stand::Leaving | Stand::Gone => {}
            }
            if Instant::now() > until {
                return Err(Failure::Unknown("a machine takes too long to start").into());
            }
            if self.wait_round(&machine, "started", until).await? {
                return Ok(());
            }
            machine = self.read_machine(&machine.id).await?.ok_or_else(vanished)?;
        }
    }

    /// `false`: nobody knows whether it was heard.
    async fn start(&self, machine: &Machine) -> Result<bool, HostError> {
        let nonce = self.lease(&machine.id).await?;
        let heard = self.tell_to_start(machine, &nonce).await;
        self.release(&machine.id, &nonce).await;
        heard
    }

    /// The same under a lease that is held.
    async fn tell_to_start(&self, machine: &Machine, nonce: &str) -> Result<bool, HostError> {
        let path = self.path(&format!("/machines/{}/start", machine.id));
        let call = Call::new(Action::Start, &machine.id, Method::POST, path).under(nonce);
        match self.api.tell(call).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_unknown() || is_busy(&failure) => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Ends the machine; it and its volume stay.
    pub(super) async fn stop(&self) -> Result<(), HostError> {
        let until = Instant::now() + STOP_MAX;
        loop {
            let Some(machine) = self.machine().await? else { return Ok(()) };
            let wanted = match machine.stand() {
                Stand::Down | Stand::Gone => return Ok(()),
                Stand::Stranded => return Err(self.stranded()),
                Stand::Leaving => "destroyed",
                Stand::Up | Stand::Moving if self.ask_to_stop(&machine).await? => "stopped",
                // It is in the middle of something, or the question was lost.
                Stand::Up | Stand::Moving => "settled",
            };
            if Instant::now() > until {
                return Err(HostError::WontEnd { bot: self.bot.clone() });
            }
            if self.wait_round(&machine, wanted, until).await? && wanted != "settled" {
                return Ok(());
            }
        }
    }

    /// `false`: it can't be stopped just now, or nobody knows whether this was heard.
    async fn ask_to_stop(&self, machine: &Machine) -> Result<bool, HostError> {
        let nonce = self.lease(&machine.id).await?;
        let path = self.path(&format!("/machines/{}/stop", machine.id));
        let stopped = self.api.tell(Call::post(Action::Stop, &machine.id, path, json!({})).under(&nonce)).await;
        self.release(&machine.id, &nonce).await;
        match stopped {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_unknown() || is_busy(&failure) => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The right to change the machine, for some seconds. Another holder is waited out: it may be we, from before a crash.
    pub(super) async fn lease(&self, machine: &str) -> Result<String, HostError> {
        let until = Instant::now() + Duration::from_secs(LEASE_SECONDS) + 2 * LEASE_PAUSE;
        let path = self.path(&format!("/machines/{machine}/lease?ttl={LEASE_SECONDS}"));
        loop {
            // Fly's own client says the time in the query, and sends no body.
            let call = Call::new(Action::Lease, machine, Method::POST, path.clone());
            let failure = match self.api.change::<Lease>(call).await {
                Ok(lease) => return Ok(lease.data.nonce),
                Err(failure) => failure,
            };
            if !(failure.is_unknown() || failure.is_status(StatusCode::CONFLICT)) || Instant::now() > until {
                return Err(failure.into());
            }
            tokio::time::sleep(LEASE_PAUSE).await;
        }
    }

    /// One that isn't given back ends by itself.
    pub(super) async fn release(&self, machine: &str, nonce: &str) {
        for _ in 0..2 {
            let path = self.path(&format!("/machines/{machine}/lease"));
            let call = Call::new(Action::Release, machine, Method::DELETE, path).under(nonce);
            match self.api.tell(call).await {
                Err(failure) if failure.is_unknown() => {}
                _ => return,
            }
        }
    }

    /// One round of waiting. `false`: not yet, or nobody knows; look again.
    async fn wait_round(&self, machine: &Machine, wanted: &str, until: Instant) -> Result<bool, HostError> {
        let left = until.saturating_duration_since(Instant::now()).clamp(Duration::from_secs(1), ROUND);
        let mut path = self.path(&format!("/machines/{}/wait?state={wanted}&timeout={}", machine.id, left.as_secs()));
        if let Some(version) = machine.version().filter(|version| version.len() == VERSION_CHARS && wanted == "stopped")
        {
            path.push_str(&format!("&version={version}"));
        }
        let call = Call { waits: left, ..Call::get(Action::Wait, &machine.id, path) };
        match self.api.tell(call).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_unknown() => {
                tokio::time::sleep(LOST_PAUSE).await;
                Ok(false)
            }
            Err(failure) if failure.is_status(StatusCode::REQUEST_TIMEOUT) => Ok(false),
            Err(failure) if failure.is_status(StatusCode::NOT_FOUND) || is_busy(&failure) => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Of a cell at Fly, such as `[fdaa::1]:18789`.
pub(super) fn network_address(cell: &CellAddress) -> Result<&str, Failure> {
    match cell {
        CellAddress::Tcp(address) => Ok(address),
        _ => Err(Failure::Unknown("no address of a network")),
    }
}

fn vanished() -> Failure {
    Failure::Unknown("a new machine vanished")
}

fn with_secrets(mut body: Value, version: Option<i64>) -> Value {
    if let Some(version) = version {
        body["min_secrets_version"] = json!(version);
    }
    body
}

/// A name that another machine of the app has.
fn is_taken(failure: &Failure) -> bool {
    failure.is_kind(Kind::NameTaken) || failure.is_status(StatusCode::CONFLICT)
}

/// The machine is in the middle of something.
pub(super) fn is_busy(failure: &Failure) -> bool {
    failure.is_status(StatusCode::CONFLICT) || failure.is_status(StatusCode::PRECONDITION_FAILED)
}
