//! A bot's app at Fly and what is in it besides the machine: the address, the secrets, the volume. Every step reads first,
//! does what is missing, and reads again when the answer was lost.
//! Never: touch an app that isn't ours, give it a public address, or delete a volume that a machine was ever given.

use http::{Method, StatusCode};
use molt_bot::CellAddress;
use molt_model::BotId;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::api::{Api, Call, Failure, Kind};
use super::machine::{self, CONFIG, EGRESS_KEY, GATEWAY_TOKEN, GHOST_KEY, PORT, USED_PREFIX, claim_mark, used_mark};
use super::pace::Action;
use super::settings::FlySettings;
use super::wire::{Address, Addresses, App, Secrets, SecretsSet, Volume};
use super::{LOST_PAUSE, TRIES};
use crate::host::{CellSpec, HostError};

/// How long Fly keeps a volume's snapshots.
const SNAPSHOT_DAYS: u32 = 14;

/// A bot's place at Fly.
pub(super) struct Place<'a> {
    pub(super) api: &'a Api,
    pub(super) settings: &'a FlySettings,
    pub(super) bot: &'a BotId,
    pub(super) app: String,
}

/// Whose app it is that has our name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    Us,
    Another,
}

impl<'a> Place<'a> {
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v1/apps/{}{rest}", self.app)
    }

    fn post(&'a self, action: Action, rest: &str, body: Value) -> Call<'a> {
        Call::post(action, &self.app, self.path(rest), body)
    }

    pub(super) async fn owner(&self) -> Result<Owner, HostError> {
        let read = self.api.read::<App>(Action::ReadApp, &self.app, &self.path("")).await;
        match read {
            Ok(None) => Ok(Owner::Nobody),
            // Somebody else's network or organisation: whoever made it, it wasn't this program. An answer may leave a
            // network out; the name carries the installation as well.
            Ok(Some(app)) => {
                let networks = [self.app.as_str(), ""];
                let ours = app.organization.slug == self.settings.org && networks.contains(&app.network.as_str());
                Ok(if ours && app.name == self.app { Owner::Us } else { Owner::Another })
            }
            Err(failure) if failure.is_status(StatusCode::FORBIDDEN) => Ok(Owner::Another),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Sees to it that the app is there. `true`: it was made just now, so nothing is in it.
    pub(super) async fn ensure_app(&self) -> Result<bool, HostError> {
        for _ in 0..TRIES {
            match self.owner().await? {
                Owner::Us => return Ok(false),
                Owner::Another => break,
                Owner::Nobody => {}
            }
            // A network of its own: no other bot can reach it. Fly's key for repeats is not used: with it an app that another
            // program has just made would look new to us, and empty.
            let body = json!({ "name": self.app, "org_slug": self.settings.org, "network": self.app });
            match self.api.tell(Call::post(Action::CreateApp, &self.app, "/v1/apps".to_owned(), body)).await {
                Ok(()) => return Ok(true),
                Err(failure) if failure.is_unknown() || failure.is_kind(Kind::NameTaken) => {
                    tokio::time::sleep(LOST_PAUSE).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(HostError::Unusable(format!(
            "the name {} is taken at Fly by somebody else, or by an app that was not made here; \
             choose another fleet.fly.app_prefix",
            self.app
        )))
    }

    /// Sees to it that the platform's network has an address for the app. Where it answers.
    pub(super) async fn ensure_address(&self, fresh: bool) -> Result<CellAddress, HostError> {
        for attempt in 0..TRIES {
            if !fresh || attempt > 0 {
                let path = self.path("/ip_assignments");
                let known = self.api.read::<Addresses>(Action::ReadAddresses, &self.app, &path).await?;
                let known = known.map(|known| known.ips).unwrap_or_default();
                if known.iter().any(is_public) {
                    tracing::error!(fly.app = self.app, "a bot's app has a public address; remove it at Fly");
                }
                if let Some(address) = known.iter().find(|address| !is_public(address)).and_then(cell_address) {
                    return Ok(address);
                }
            }
            let mut body = json!({ "type": "private_v6" });
            if !self.settings.network.is_empty() {
                body["network"] = json!(self.settings.network);
            }
            match self.api.change::<Address>(self.post(Action::Assign, "/ip_assignments", body)).await {
                Ok(address) => {
                    if let Some(address) = cell_address(&address) {
                        return Ok(address);
                    }
                }
                Err(failure) if failure.is_unknown() => tokio::time::sleep(LOST_PAUSE).await,
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(Failure::Unknown("it gives the app no address").into())
    }

    /// Gives the app the secrets of a cell, and notes that the volume is used from now on, and under which claim. Their version.
    pub(super) async fn set_secrets(&self, spec: &CellSpec, volume: &str) -> Result<Option<i64>, HostError> {
        let mut values = json!({
            GATEWAY_TOKEN: spec.gateway_token.expose_secret(),
            GHOST_KEY: spec.ghost_key.expose_secret(),
            EGRESS_KEY: spec.egress_key.expose_secret(),
            CONFIG: spec.config.to_string(),
            used_mark(volume): "1",
        });
        if let Some(claim) = spec.claim {
            values[claim_mark(claim)] = json!("1");
        }
        self.change_secrets(values).await
    }

    /// The volume was given to no machine after all.
    pub(super) async fn clear_used(&self, volume: &str) -> Result<(), HostError> {
        self.change_secrets(json!({ used_mark(volume): null })).await.map(|_| ())
    }

    /// Saying it twice changes nothing, so a lost answer is asked for again.
    async fn change_secrets(&self, values: Value) -> Result<Option<i64>, HostError> {
        let mut attempt = 1;
        loop {
            let call = self.post(Action::SetSecrets, "/secrets", json!({ "values": values }));
            match self.api.change::<SecretsSet>(call).await {
                Ok(set) => return Ok(set.version),
                Err(failure) if failure.is_unknown() && attempt < TRIES => {
                    attempt += 1;
                    tokio::time::sleep(LOST_PAUSE).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    pub(super) async fn used_marks(&self) -> Result<Vec<String>, HostError> {
        Ok(self.secret_names().await?.into_iter().filter(|name| name.starts_with(USED_PREFIX)).collect())
    }

    pub(super) async fn secret_names(&self) -> Result<Vec<String>, HostError> {
        let secrets = self.api.read::<Secrets>(Action::ReadSecrets, &self.app, &self.path("/secrets")).await?;
        Ok(secrets.map(|secrets| secrets.secrets).unwrap_or_default().into_iter().map(|secret| secret.name).collect())
    }

    pub(super) async fn volumes(&self) -> Result<Vec<Volume>, HostError> {
        let volumes = self.api.read::<Vec<Volume>>(Action::ListVolumes, &self.app, &self.path("/volumes")).await?;
        let mut volumes = volumes.unwrap_or_default();
        volumes.retain(|volume| volume.name == machine::VOLUME && volume.is_there());
        volumes.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        Ok(volumes)
    }

    /// The bot's volume and whether a machine was ever given it; made in the first region with room if there is none. Of
    /// several that were never used (two programs, a lost answer) everybody keeps the oldest.
    /// `full`: regions that turned out to have no room for a machine.
    pub(super) async fn ensure_volume(&self, fresh: bool, full: &mut Vec<String>) -> Result<(Volume, bool), HostError> {
        let used = if fresh { Vec::new() } else { self.used_marks().await? };
        let mut known = if fresh && full.is_empty() { Vec::new() } else { self.volumes().await? };
        for _ in 0..TRIES {
            let is_used =
                |volume: &&Volume| volume.attached_machine_id.is_some() || used.contains(&used_mark(&volume.id));
            if let Some(volume) = known.iter().find(is_used) {
                return Ok((volume.clone(), true));
            }
            if !used.is_empty() {
                return Err(missing());
            }
            let keep = known.iter().find(|volume| !full.contains(&volume.region));
            for spare in known.iter().filter(|volume| keep.is_none_or(|keep| keep.id != volume.id)) {
                self.delete_unused(spare).await?;
            }
            if let Some(volume) = keep {
                return Ok((volume.clone(), false));
            }
            match self.create_volume(full).await {
                Ok(_) => {}
                Err(failure) if failure.is_unknown() => tokio::time::sleep(LOST_PAUSE).await,
                Err(failure) if failure.is_kind(Kind::InsufficientCapacity) => {
                    return Err(no_room(&self.settings.regions));
                }
                Err(failure) => return Err(failure.into()),
            }
            known = self.volumes().await?;
        }
        Err(Failure::Unknown("it gives the app no volume").into())
    }

    async fn create_volume(&self, full: &mut Vec<String>) -> Result<Volume, Failure> {
        let mut refused = Failure::Refused {
            status: StatusCode::CONFLICT,
            kind: Kind::InsufficientCapacity,
            detail: "no region is left".to_owned(),
        };
        for region in &self.settings.regions {
            if full.contains(region) {
                continue;
            }
            let body = json!({
                "name": machine::VOLUME,
                "region": region,
                "size_gb": self.settings.volume_gib,
                "encrypted": true,
                "snapshot_retention": SNAPSHOT_DAYS,
            });
            match self.api.change::<Volume>(self.post(Action::CreateVolume, "/volumes", body)).await {
                Err(failure) if failure.is_kind(Kind::InsufficientCapacity) => {
                    tracing::warn!(
                        fly.region = region,
                        "a region at Fly has no room for a volume; the next one is tried"
                    );
                    full.push(region.clone());
                    refused = failure;
                }
                answer => return answer,
            }
        }
        Err(refused)
    }

    /// Only for a volume that no machine was given: nothing can be in it.
    pub(super) async fn delete_unused(&self, volume: &Volume) -> Result<(), HostError> {
        let path = self.path(&format!("/volumes/{}", volume.id));
        let call = Call::new(Action::DeleteVolume, &self.app, Method::DELETE, path);
        match self.api.tell(call).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_unknown() || failure.is_status(StatusCode::NOT_FOUND) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

pub(super) fn no_room(regions: &[String]) -> HostError {
    HostError::Unusable(format!(
        "Fly has no room for a new bot in {}; name more regions in fleet.fly.regions, or wait",
        regions.join(", ")
    ))
}

fn missing() -> HostError {
    HostError::Unusable(format!(
        "the volume with this bot's state is not at Fly any more; restore it from a snapshot under the name `{}`, or remove \
         the app's secrets that begin with {USED_PREFIX} to let the bot start with nothing",
        machine::VOLUME
    ))
}

/// Fly's private addresses are unique local ones; all others can be reached from everywhere.
fn is_public(address: &Address) -> bool {
    match address.ip.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(ip)) => !ip.is_unique_local(),
        Ok(std::net::IpAddr::V4(ip)) => !(ip.is_private() || ip.is_loopback()),
        Err(_) => true,
    }
}

fn cell_address(address: &Address) -> Option<CellAddress> {
    let ip: std::net::IpAddr = address.ip.parse().ok()?;
    format!("tcp:{}", std::net::SocketAddr::new(ip, PORT)).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unique_local_addresses_are_private() {
        for (ip, public) in [
            ("fdaa:0:1::3", false),
            ("2a09:8280:1::1", true),
            ("137.66.1.1", true),
            ("nonsense", true),
            ("10.1.2.3", false),
        ] {
            assert_eq!(is_public(&Address { ip: ip.into() }), public, "{ip}");
        }
        let address = cell_address(&Address { ip: "fdaa:0:1::3".into() }).unwrap();
        assert_eq!(address.to_string(), "tcp:[fdaa:0:1::3]:18789");
    }
}
