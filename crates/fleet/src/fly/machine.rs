//! The machine of a cell as Fly is told about it, whole, each time: an update replaces everything.
//! Never: a secret in here; settings of machines can be read by everybody with a token for the organisation.

use molt_model::BotId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::settings::FlySettings;
use crate::host::CellSpec;

/// The one machine of an app.
pub(super) const NAME: &str = "cell";
/// The one volume of an app.
pub(super) const VOLUME: &str = "state";
/// Where the cell listens, and where Flycast passes what comes for it.
pub(super) const PORT: u16 = 18789;
/// Where the volume is mounted.
const STATE: &str = "/state";
/// Longer than the cell gives its runtime to end.
const STOP_TIMEOUT: &str = "20s";

/// The secrets of a cell: what its environment holds besides the machine's settings.
pub(super) const GATEWAY_TOKEN: &str = "MOLT_GATEWAY_TOKEN";
pub(super) const GHOST_KEY: &str = "MOLT_GHOST_KEY";
pub(super) const EGRESS_KEY: &str = "MOLT_EGRESS_KEY";
pub(super) const CONFIG: &str = "CLAWDBOT_CONFIG";

/// Marks of ours on a machine.
pub(super) const START_MARK: &str = "molt_start";
/// On a machine that was made without being launched, until it is.
pub(super) const AHEAD_MARK: &str = "molt_ahead";
const ADDRESS_MARK: &str = "molt_address";
const BOT_MARK: &str = "molt_bot";

/// What a machine is made for.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    Start(&'a CellSpec),
    /// To be there when somebody wants it started, with what is known then.
    Ahead,
}

/// What a machine is made of.
pub(super) struct Making<'a> {
    pub(super) settings: &'a FlySettings,
    pub(super) bot: &'a BotId,
    pub(super) purpose: Purpose<'a>,
    /// It was never launched.
    pub(super) ahead: bool,
    pub(super) volume: &'a str,
    /// Where Flycast answers for it, such as `[fdaa::1]:18789`.
    pub(super) address: &'a str,
    /// One try to start it. Whoever lost the answer finds out by this whether it was done.
    pub(super) start: &'a str,
}

impl Making<'_> {
    /// `config` of a create or an update.
    pub(super) fn config(&self) -> Value {
        let Self { settings, bot, volume, address, start, .. } = self;
        let mut metadata = json!({ BOT_MARK: bot.as_str(), ADDRESS_MARK: address, START_MARK: start });
        if self.ahead {
            metadata[AHEAD_MARK] = json!("1");
        }
        json!({
            "image": settings.image,
            "env": self.environment(),
            "guest": { "cpu_kind": settings.cpu_kind, "cpus": settings.cpus, "memory_mb": settings.memory_mib },
            "mounts": [{ "volume": volume, "path": STATE }],
            "services": [service()],
            // It only tells Fly's router and its dashboard: a failing check restarts nothing.
            "checks": { "cell": { "type": "tcp", "port": PORT, "interval": "30s", "timeout": "5s", "grace_period": "30s" } },
            // The platform brings it back, as on every host: it knows whether this is a loop, and gives it a new key.
            "restart": { "policy": "no" },
            "stop_config": { "signal": "SIGTERM", "timeout": STOP_TIMEOUT },
            "auto_destroy": false,
            "metadata": metadata,
        })
    }

    fn environment(&self) -> Value {
        let mut environment = json!({
            "MOLT_BOT_ID": self.bot.as_str(),
            "MOLT_STATE_DIR": STATE,
            "MOLT_LISTEN": format!("tcp:[::]:{PORT}"),
            "MOLT_ISOLATE": "netns",
        });
        let Purpose::Start(spec) = self.purpose else { return environment };
        environment["MOLT_PROXY_URL"] = json!(spec.proxy_url);
        environment["MOLT_CONFIG_REVISION"] = json!(spec.revision.to_string());
        if !spec.runtime_command.is_empty() {
            environment["MOLT_RUNTIME_COMMAND"] = json!(json!(spec.runtime_command).to_string());
        }
        environment
    }
}

/// The way in for Flycast. Without a public address of the app nobody else comes this way. A bot holds connections of its
/// own to the outside, which Fly's router does not see: it must never be put to sleep for want of visitors.
fn service() -> Value {
    json!({
        "protocol": "tcp",
        "internal_port": PORT,
        "autostop": "off",
        "autostart": false,
        "ports": [{ "port": PORT }],
    })
}

/// Where a machine's cell answers, as we noted when we made it.
pub(super) fn address(config: &Value) -> Option<&str> {
    mark(config, ADDRESS_MARK)
}

/// A mark on a machine.
pub(super) fn mark<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    config.get("metadata")?.get(name)?.as_str()
}

/// Whether a machine that has our name in our app says that it is this bot's.
pub(super) fn is_of(config: &Value, bot: &BotId) -> bool {
    mark(config, BOT_MARK).is_none_or(|text| text == bot.as_str())
}

/// The name of the secret that says: this volume was given to a machine, so it may hold somebody's state.
pub(super) fn used_mark(volume: &str) -> String {
    format!("{USED_PREFIX}{}", volume.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

/// What the names of all such secrets begin with.
pub(super) const USED_PREFIX: &str = "MOLT_USED_";

/// The name of the secret that says: under this claim a machine was started here. Set with the one above in one call.
pub(super) fn claim_mark(claim: Uuid) -> String {
    format!("{CLAIM_PREFIX}{:X}", claim.simple())
}

/// The claim that such a name says.
pub(super) fn claim_of(name: &str) -> Option<Uuid> {
    name.strip_prefix(CLAIM_PREFIX)?.parse().ok()
}

const CLAIM_PREFIX: &str = "MOLT_CLAIM_";
