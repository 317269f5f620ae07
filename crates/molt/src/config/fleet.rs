//! Where assistants run, as `molt.toml` writes it.
//! Never: the token of a host in a process that keeps no cells.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::TimeDelta;
use molt_fleet::{FlySettings, SealMode, Sealing, WATCH_PERIOD};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::sync::Notify;
use url::Url;
use uuid::Uuid;

use crate::hosts::HostKind;

const MIB: u64 = 1024 * 1024;
/// Enough for the smallest runtime that somebody may write; OpenClaw wants far more.
const MEMORY_MIB_MIN: u64 = 64;
const PROCESSES_MIN: u32 = 32;
const CPUS_MIN: f64 = 0.1;
const CPUS_MAX: f64 = 1024.0;
/// A host is paid for what waits there.
const KEEP_AHEAD_MINUTES_MAX: u32 = 7 * 24 * 60;
/// The same; more sign-ups than this in the seconds that a place takes are no matter of spares.
const KEEP_SPARE_MAX: u32 = 100;

/// How cells are kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cells {
    pub host: HostKind,
    /// Whether processes are sealed off from the machine; containers always are.
    pub seal: Seal,
    /// Of one cell.
    pub memory_mib: u64,
    pub processes: u32,
    pub cpus: f64,
    pub docker_socket: PathBuf,
    /// Empty: one that is made here.
    pub image: String,
    keep_ahead_minutes: u32,
    /// Places that are kept for the next bots.
    pub keep_spare: u32,
    fly: FlyTable,
}

/// The words for `SealMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seal {
    #[default]
    Auto,
    Require,
    Off,
}

impl Cells {
    /// `gates`: wakes the proxy of this process, if there is one, which opens the cells' gates.
    #[must_use]
    pub fn sealing(&self, gates: Option<Arc<Notify>>) -> Sealing {
        let mode = match self.seal {
            Seal::Auto => SealMode::Auto,
            Seal::Require => SealMode::Require,
            Seal::Off => SealMode::Off,
        };
        Sealing { mode, memory_bytes: self.memory_mib * MIB, processes: self.processes, gates }
    }

    /// How long a place that was made ahead waits for a plan.
    #[must_use]
    pub fn keep_ahead(&self) -> TimeDelta {
        TimeDelta::minutes(self.keep_ahead_minutes.into())
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let small = |name: &str, least: u64| format!("fleet.{name}: a bot needs at least {least}");
        let mut faults = Vec::new();
        if self.memory_mib < MEMORY_MIB_MIN || self.memory_mib > u64::MAX / MIB {
            faults.push(small("memory_mib", MEMORY_MIB_MIN));
        }
        if self.processes < PROCESSES_MIN {
            faults.push(small("processes", PROCESSES_MIN.into()));
        }
        if !(CPUS_MIN..=CPUS_MAX).contains(&self.cpus) {
            faults.push(format!("fleet.cpus: between {CPUS_MIN} and {CPUS_MAX}"));
        }
        if self.keep_ahead_minutes > KEEP_AHEAD_MINUTES_MAX {
            faults.push(format!(
                "fleet.keep_ahead_minutes: {KEEP_AHEAD_MINUTES_MAX} (a week) at most; 0 makes nothing ahead"
            ));
        }
        if self.keep_spare > KEEP_SPARE_MAX {
            faults.push(format!(
                "fleet.keep_spare: {KEEP_SPARE_MAX} at most; 0 keeps no place for a bot that isn't there"
            ));
        }
        if !self.docker_socket.is_absolute() {
            faults.push("fleet.docker_socket: the full path of the engine's socket on this machine".to_owned());
        }
        faults
    }

    /// What a process needs to keep bots at Fly; whatever is missing is among the faults.
    pub(super) fn fly(
        &self,
        proxy_url: Option<&Url>,
        environment: &dyn Fn(&str) -> Option<String>,
        faults: &mut Vec<String>,
    ) -> FlySettings {
        if proxy_url.is_none_or(|url| url.scheme() != "https") {
            faults.push("proxy_url: assistants at Fly call their models over TLS; name an address such as https://proxy.example/v1".to_owned());
        }
        let token = self.fly.token(environment).unwrap_or_else(|fault| {
            faults.push(fault);
            SecretString::default()
        });
        let fly = self.fly.clone();
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
        settings
    }
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
