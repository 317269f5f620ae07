//! What the host tells the cell, read once at start; the same names on every host.
//! Never: read the environment anywhere else, or show a secret.

use std::path::PathBuf;

use molt_bot::{CellAddress, Revision, leftovers};
use molt_model::id::BotId;
use secrecy::SecretString;
use serde_json::Value;

use crate::settings;

/// Where the settings come from.
const SETTINGS_VARIABLE: &str = "MOLT_SETTINGS";
const BY_STDIN: &str = "stdin";

/// Everything the cell has to know.
#[derive(Debug)]
pub struct Environment {
    pub bot_id: BotId,
    /// Writable, and all that survives the cell.
    pub state_dir: PathBuf,
    pub listen: CellAddress,
    pub gateway_token: SecretString,
    pub ghost_key: SecretString,
    /// For ways out where the proxy is no socket away; without it there are none then.
    pub egress_key: Option<SecretString>,
    pub proxy: ProxyAddress,
    /// The runtime's configuration to start with.
    pub config: Value,
    pub revision: Revision,
    /// The runtime's program and its arguments; the cell appends `--port N`.
    pub runtime_command: Vec<String>,
    /// What every process of this bot carries, so that the host finds it again; made from the folder if the host gave none.
    pub mark: String,
    /// The cell ends with the process that started it: where the host keeps one for nothing else.
    pub dies_with_parent: bool,
    /// `MOLT_ISOLATE=netns`: nobody else keeps the runtime from the network, so the cell does, and gives up root.
    pub isolate: bool,
}

/// Where model calls go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyAddress {
    /// `http://host:port/prefix`
    Tcp { authority: String, prefix: String },
    /// `https://host:port/prefix`, where the way to the proxy is not private.
    Tls { authority: String, name: String, prefix: String },
    /// `unix:/path`, where the platform gives each bot a socket of its own; the prefix is `/v1`.
    Unix { path: PathBuf },
}

/// All faults of the environment in one message.
#[derive(Debug, thiserror::Error)]
#[error("the cell can't start: {}", .0.join("; "))]
pub struct InvalidEnvironment(Vec<String>);

impl Environment {
    /// Reads this process's own variables, or what comes by its standard input if they say so.
    pub fn of_this_process() -> Result<Self, InvalidEnvironment> {
        if std::env::var(SETTINGS_VARIABLE).as_deref() != Ok(BY_STDIN) {
            return Self::read(|name| std::env::var(name).ok());
        }
        let settings = settings::read(std::io::stdin()).map_err(|error| InvalidEnvironment(vec![error.to_string()]))?;
        Self::read(|name| settings.get(name).cloned())
    }

    /// Reads every variable through `get` and reports all faults at once.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidEnvironment> {
        let mut faults = Vec::new();
        let bot_id = parsed(&get, &mut faults, "MOLT_BOT_ID", |text| text.parse::<BotId>().ok());
        let state_dir = parsed(&get, &mut faults, "MOLT_STATE_DIR", |text| {
            Some(PathBuf::from(text)).filter(|path| path.is_absolute())
        });
        let listen = parsed(&get, &mut faults, "MOLT_LISTEN", |text| text.parse().ok());
        let gateway_token = parsed(&get, &mut faults, "MOLT_GATEWAY_TOKEN", secret);
        let ghost_key = parsed(&get, &mut faults, "MOLT_GHOST_KEY", secret);
        let egress_key = get("MOLT_EGRESS_KEY").and_then(|text| secret(&text));
        let proxy = parsed(&get, &mut faults, "MOLT_PROXY_URL", ProxyAddress::parse);
        let config = parsed(&get, &mut faults, "CLAWDBOT_CONFIG", |text| {
            serde_json::from_str::<Value>(text).ok().filter(Value::is_object)
        });
        let revision = parsed(&get, &mut faults, "MOLT_CONFIG_REVISION", |text| text.parse().ok());
        let runtime_command = parsed(&get, &mut faults, "MOLT_RUNTIME_COMMAND", |text| {
            serde_json::from_str::<Vec<String>>(text).ok().filter(|command| !command.is_empty())
        });
        let made = || Some(leftovers::mark(bot_id.as_ref()?.as_str(), state_dir.as_ref()?));
        let mark = get(leftovers::MARK_VARIABLE).or_else(made);
        let isolate = match get("MOLT_ISOLATE").as_deref() {
            None => false,
            Some("netns") => {
                // The door must stand before the network is left.
                if !matches!(listen, None | Some(CellAddress::Tcp(_))) {
                    faults.push("MOLT_ISOLATE needs a MOLT_LISTEN that begins with tcp:".to_owned());
                }
                true
            }
            Some(_) => {
                faults.push("MOLT_ISOLATE is not valid".to_owned());
                false
            }
        };
        if !faults.is_empty() {
            return Err(InvalidEnvironment(faults));
        }
        let all = (|| {
            Some(Self {
                bot_id: bot_id?,
                state_dir: state_dir?,
                mark: mark?,
                dies_with_parent: get("MOLT_DIES_WITH_PARENT").is_some(),
                listen: listen?,
                gateway_token: gateway_token?,
                ghost_key: ghost_key?,
                egress_key,
                proxy: proxy?,
                config: config?,
                revision: revision?,
                runtime_command: runtime_command?,
                isolate,
            })
        })();
        all.ok_or(InvalidEnvironment(faults))
    }
}

impl ProxyAddress {
    fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Some(Self::Unix { path: path.into() }).filter(|_| path.starts_with('/'));
        }
        let (rest, port) = match text.strip_prefix("https://") {
            Some(rest) => (rest, 443),
            None => (text.strip_prefix("http://")?, 80),
        };
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        let authority = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:{port}") };
        let name = authority.rsplit_once(':')?.0.to_owned();
        if name.is_empty() {
            return None;
        }
        Some(if port == 443 { Self::Tls { authority, name, prefix } } else { Self::Tcp { authority, prefix } })
    }
}

fn secret(text: &str) -> Option<SecretString> {
    (!text.is_empty() && text.is_ascii()).then(|| SecretString::from(text.to_owned()))
}

fn parsed<T>(
    get: &impl Fn(&str) -> Option<String>,
    faults: &mut Vec<String>,
    name: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let Some(text) = get(name) else {
        faults.push(format!("{name} is missing"));
        return None;
    };
    let value = parse(&text);
    if value.is_none() {
        faults.push(format!("{name} is not valid"));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies() {
        let tcp = |authority: &str, prefix: &str| {
            Some(ProxyAddress::Tcp { authority: authority.into(), prefix: prefix.into() })
        };
        assert_eq!(ProxyAddress::parse("http://127.0.0.1:8787/v1"), tcp("127.0.0.1:8787", "/v1"));
        assert_eq!(ProxyAddress::parse("http://proxy.internal/v1/"), tcp("proxy.internal:80", "/v1"));
        assert_eq!(ProxyAddress::parse("unix:/out/p"), Some(ProxyAddress::Unix { path: "/out/p".into() }));
        let tls = |authority: &str, prefix: &str| {
            let name = authority.split(':').next().unwrap().to_owned();
            Some(ProxyAddress::Tls { authority: authority.into(), name, prefix: prefix.into() })
        };
        assert_eq!(ProxyAddress::parse("https://proxy.example/v1"), tls("proxy.example:443", "/v1"));
        assert_eq!(ProxyAddress::parse("https://proxy.example:8443"), tls("proxy.example:8443", ""));
        for wrong in ["", "ftp://x/v1", "unix:relative", "http://:80/v1", "https://"] {
            assert_eq!(ProxyAddress::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn all_faults_come_in_one_message_without_the_values() {
        let error = Environment::read(|name| (name == "MOLT_BOT_ID").then(|| "hunter2".to_owned())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("MOLT_BOT_ID is not valid") && text.contains("MOLT_GHOST_KEY is missing"), "{text}");
        assert!(!text.contains("hunter2"));
    }
}
