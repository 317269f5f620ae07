//! What Fly says about apps, machines and the rest, as far as we read it.
//! Never: a field that nobody reads, or a closed list of states; Fly adds new ones.

use serde::Deserialize;
use serde_json::Value;

use super::machine::{AHEAD_MARK, mark};

#[derive(Debug, Deserialize)]
pub(super) struct App {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) network: String,
    #[serde(default)]
    pub(super) organization: Organization,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Organization {
    #[serde(default)]
    pub(super) slug: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Apps {
    #[serde(default)]
    pub(super) apps: Vec<ListedApp>,
    pub(super) next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ListedApp {
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Addresses {
    #[serde(default)]
    pub(super) ips: Vec<Address>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Address {
    #[serde(default)]
    pub(super) ip: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Volume {
    #[serde(default)]
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) region: String,
    #[serde(default)]
    pub(super) state: String,
    #[serde(default)]
    pub(super) created_at: String,
    pub(super) attached_machine_id: Option<String>,
}

impl Volume {
    /// It exists and will go on to.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self.state.as_str(), "destroying" | "destroyed" | "pending_destroy" | "scheduling_destroy")
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Secrets {
    #[serde(default)]
    pub(super) secrets: Vec<Secret>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Secret {
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct SecretsSet {
    /// Absent in an answer that says nothing: machines take the newest then.
    pub(super) version: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Machine {
    #[serde(default)]
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) state: String,
    pub(super) version: Option<String>,
    pub(super) instance_id: Option<String>,
    #[serde(default)]
    pub(super) config: Value,
    pub(super) host_status: Option<String>,
}

/// How a machine stands, out of the many words for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// It runs, or comes up.
    Up,
    /// On its way from one to another; also every state that we don't know.
    Moving,
    /// It exists and does not run.
    Down,
    /// It is being destroyed.
    Leaving,
    Gone,
    /// Fly can't reach the computer that it is on.
    Stranded,
}

/// What a state means to us.
pub(super) fn stand(state: &str) -> Stand {
    match state {
        "started" | "starting" | "restarting" => Stand::Up,
        "stopped" | "suspended" | "failed" | "launch_failed" => Stand::Down,
        "destroying" => Stand::Leaving,
        "destroyed" | "replaced" | "migrated" => Stand::Gone,
        _ => Stand::Moving,
    }
}

impl Machine {
    pub(super) fn stand(&self) -> Stand {
        match (stand(&self.state), self.host_status.as_deref()) {
            (Stand::Gone, _) => Stand::Gone,
            (_, Some("unreachable")) => Stand::Stranded,
            _ if self.was_never_launched() => Stand::Down,
            (stand, _) => stand,
        }
    }

    /// Made ahead, and nobody has started it since. Without the mark one that was just created is about to start.
    pub(super) fn was_never_launched(&self) -> bool {
        self.state == "created" && mark(&self.config, AHEAD_MARK).is_some()
    }

    /// What the next change is based on.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref().or(self.instance_id.as_deref()).filter(|version| !version.is_empty())
    }

    /// The volume that its settings mount.
    pub(super) fn volume(&self) -> Option<&str> {
        self.config.get("mounts")?.get(0)?.get("volume")?.as_str()
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Lease {
    pub(super) data: LeaseData,
}

#[derive(Debug, Deserialize)]
pub(super) struct LeaseData {
    pub(super) nonce: String,
}

/// A page of the machines of an organisation.
#[derive(Debug, Deserialize)]
pub(super) struct Organisation {
    #[serde(default)]
    pub(super) machines: Vec<ListedMachine>,
    pub(super) next_cursor: Option<String>,
    /// Regions that did not answer: their machines are missing in the list.
    #[serde(default)]
    pub(super) error_regions: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ListedMachine {
    #[serde(default)]
    pub(super) app_name: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) state: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_state_has_a_stand_and_unknown_ones_are_on_the_move() {
        let stand = |state: &str, host: Option<&str>| {
            let machine: Machine =
                serde_json::from_value(json!({ "id": "1", "state": state, "host_status": host })).unwrap();
            machine.stand()
        };
        for (state, expected) in [
            ("started", Stand::Up),
            ("starting", Stand::Up),
            ("created", Stand::Moving),
            ("stopping", Stand::Moving),
            ("updating", Stand::Moving),
            ("invented-next-year", Stand::Moving),
            ("stopped", Stand::Down),
            ("launch_failed", Stand::Down),
            ("destroying", Stand::Leaving),
            ("destroyed", Stand::Gone),
        ] {
            assert_eq!(stand(state, None), expected, "{state}");
        }
        assert_eq!(stand("started", Some("unreachable")), Stand::Stranded);
        assert_eq!(stand("stopped", Some("unreachable")), Stand::Stranded);
        assert_eq!(stand("destroyed", Some("unreachable")), Stand::Gone);
        assert_eq!(stand("started", Some("unknown")), Stand::Up);

        let ahead = |state: &str, host: Option<&str>| {
            let config = json!({ "metadata": { AHEAD_MARK: "1" } });
            let machine = json!({ "id": "1", "state": state, "host_status": host, "config": config });
            let machine: Machine = serde_json::from_value(machine).unwrap();
            (machine.stand(), machine.was_never_launched())
        };
        assert_eq!(ahead("created", None), (Stand::Down, true), "it waits");
        assert_eq!(ahead("created", Some("unreachable")), (Stand::Stranded, true));
        assert_eq!(ahead("starting", None), (Stand::Up, false));
        assert_eq!(ahead("stopped", None), (Stand::Down, false), "it ran");
    }
}
