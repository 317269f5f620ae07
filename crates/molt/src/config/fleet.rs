//! Where assistants run, as `molt.toml` writes it.
//! Never: the token of a host in a process that keeps no cells.

use std::path::PathBuf;

use molt_fleet::{FlySettings, WATCH_PERIOD};
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

/// `[fleet]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    host: Kind,
    fly: FlyTable,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Process,
    Fly,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlyTable {
    api_url: String,
    token_env: String,
    token_file: PathBuf,
    org: String,
    network: String,
    app_prefix: String,
    regions: Vec<String>,
    image: String,
    cpu_kind: String,
    cpus: u32,
    memory_mib: u32,
    volume_gib: u32,
}

impl Settings {
    /// What a process that keeps cells needs to keep them at Fly. `None`: they run here, or in another process's charge.
    pub(super) fn fly(
        self,
        keeps_cells: bool,
        proxy_url: Option<&Url>,
        environment: &dyn Fn(&str) -> Option<String>,
        faults: &mut Vec<String>,
    ) -> Option<FlySettings> {
        if self.host != Kind::Fly || !keeps_cells {
            return None;
        }
        if proxy_url.is_none_or(|url| url.scheme() != "https") {
            faults.push("proxy_url: assistants at Fly call their models over TLS; name an address such as https://proxy.example/v1".to_owned());
        }
        let token = self.fly.token(environment).unwrap_or_else(|fault| {
            faults.push(fault);
            SecretString::default()
        });
        let fly = self.fly;
        let settings = FlySettings {
            api_url: fly.api_url,
            token,
            org: fly.org,
            network: fly.network,
            app_prefix: fly.app_prefix,
            regions: fly.regions,
            image: fly.image,
            cpu_kind: fly.cpu_kind,
            cpus: fly.cpus,
            memory_mib: fly.memory_mib,
            volume_gib: fly.volume_gib,
            watch_period: WATCH_PERIOD,
            // Known once the database is open.
            installation: Uuid::nil(),
        };
        faults.extend(settings.faults());
        Some(settings)
    }
}

impl FlyTable {
    /// The file wins, so that `molt.toml` can name one where the defaults name a variable.
    fn token(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<SecretString, String> {
        let (text, place) = if self.token_file.as_os_str().is_empty() {
            (environment(&self.token_env), format!("fleet.fly.token_env: the variable {} is not set", self.token_env))
        } else {
            let place = format!("fleet.fly.token_file: {} can't be read, or is empty", self.token_file.display());
            (std::fs::read_to_string(&self.token_file).ok(), place)
        };
        let token = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        token.map(SecretString::from).ok_or(place)
    }
}
