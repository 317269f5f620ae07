//! Settings → the runtime's configuration. Pure: the same inputs give the same bytes.
//! Never: a secret. Keys and addresses are `${NAMES}` that the cell puts into the runtime's environment.

use molt_model::bot::Vertical;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The top-level section that is for the cell and not for the runtime; the cell strips it.
pub const MOLT_SECTION: &str = "molt";

/// The one provider of the runtime: our proxy, through the cell.
const PROVIDER: &str = "molt";

/// What the assistant may do. An allow-list, so that a new version of the runtime brings no new powers by itself. Left
/// out on purpose: the runtime's own configuration and plug-ins, channels, paired devices, sub-agents and schedules,
/// which either don't work in a cell or spend money while nobody is there.
const TOOLS: [&str; 14] = [
    "read",
    "write",
    "edit",
    "apply_patch",
    "ls",
    "exec",
    "process",
    "memory_search",
    "memory_get",
    "web_fetch",
    "web_search",
    "sessions_list",
    "sessions_history",
    "sessions_search",
];

/// All that a runtime's configuration depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderInputs {
    pub bot_name: String,
    /// A paragraph that says how the assistant speaks.
    pub personality_text: String,
    /// An IANA name.
    pub timezone: String,
    /// `provider/model`, one of `models`.
    pub default_model: String,
    pub fallback_model: Option<String>,
    pub vertical: Vertical,
    pub models: Vec<ModelFacts>,
    /// `provider/model` of an embedding model behind the proxy.
    pub embedding_model: String,
}

/// What the runtime has to know of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// `provider/model`, as the proxy names it.
    pub id: String,
    pub name: String,
    /// Tokens.
    pub context_window: u32,
    /// Tokens.
    pub max_output: u32,
    pub reasoning: bool,
    pub vision: bool,
}

/// How the runtime names a model of ours: its one provider, then our whole `provider/model`. The runtime splits at the
/// first slash only.
#[must_use]
pub fn runtime_model(id: &str) -> String {
    format!("{PROVIDER}/{id}")
}

/// SHA-256 (hex) of the value with sorted keys and no spaces: the same configuration has the same hash, however its
/// text was written.
#[must_use]
pub fn canonical_hash(value: &Value) -> String {
    hex::encode(Sha256::digest(sorted(value).to_string()))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(Map::from_iter(entries))
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// The runtime's configuration, plus the section for the cell.
#[must_use]
pub fn render(inputs: &RenderInputs) -> Value {
    json!({
        "gateway": {
            "mode": "local",
            "bind": "loopback",
            "auth": { "mode": "token", "token": "${OPENCLAW_GATEWAY_TOKEN}" },
            "controlUi": { "enabled": false },
        },
        "plugins": {
            "allow": ["memory-core"],
            "entries": { "memory-core": { "config": { "dreaming": { "enabled": false } } } },
        },
        "browser": { "enabled": false },
        "update": { "checkOnStart": false },
        "cron": { "enabled": false },
        // Chat of the platform isn't covered by this; the cell asks for plain text with every message.
        "commands": { "text": false, "native": false, "restart": false },
        // Not in /tmp, where several runtimes of one machine would share a file.
        "logging": { "file": "${OPENCLAW_STATE_DIR}/logs/gateway.log", "level": "warn", "maxFileBytes": 4_194_304 },
        "skills": { "allowBundled": ["molt-none"], "workshop": { "autonomous": { "mode": "off" } } },
        "tools": { "allow": TOOLS, "web": { "fetch": { "useTrustedEnvProxy": true } } },
        "memory": { "search": {
            "provider": "openai-compatible",
            "model": inputs.embedding_model,
            "remote": { "baseUrl": "${MOLT_MODEL_URL}", "apiKey": "${MOLT_MODEL_KEY}" },
        } },
        "models": {
            "mode": "replace",
            "catalogRefresh": { "enabled": false },
            "providers": { PROVIDER: {
                "baseUrl": "${MOLT_MODEL_URL}",
                "apiKey": "${MOLT_MODEL_KEY}",
                "api": "openai-completions",
                "models": inputs.models.iter().map(model).collect::<Vec<_>>(),
            } },
        },
        "agents": {
            "defaults": {
                "model": {
                    "primary": runtime_model(&inputs.default_model),
                    "fallbacks": inputs.fallback_model.iter().map(|id| runtime_model(id)).collect::<Vec<_>>(),
                },
                "workspace": "${MOLT_WORKSPACE}",
                "skipBootstrap": true,
                "userTimezone": inputs.timezone,
                "heartbeat": { "every": "0m" },
            },
            "entries": { "main": { "identity": { "name": literal(&inputs.bot_name) } } },
        },
        MOLT_SECTION: { "workspace_files": {
            "SOUL.md": soul(inputs),
            "IDENTITY.md": format!("# Identity\n\nYour name is {}.\n", inputs.bot_name),
        } },
    })
}

/// The runtime puts values of its environment into whatever text names them; somebody who calls their assistant `${HOME}`
/// means just that. One `$` more says so.
fn literal(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for (at, letter) in text.char_indices() {
        if letter == '$' && names_a_variable(&text[at + 1..]) {
            written.push('$');
        }
        written.push(letter);
    }
    written
}

/// `{NAME}`, as the runtime reads it.
fn names_a_variable(text: &str) -> bool {
    let name = text.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(name, _)| name);
    let is_letter = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    name.starts_with(is_letter) && name.chars().all(|letter| is_letter(letter) || letter.is_ascii_digit())
}

fn model(facts: &ModelFacts) -> Value {
    let input: &[&str] = if facts.vision { &["text", "image"] } else { &["text"] };
    json!({
        "id": facts.id,
        "name": literal(&facts.name),
        "reasoning": facts.reasoning,
        "input": input,
        "contextWindow": facts.context_window,
        "maxTokens": facts.max_output,
    })
}

fn soul(inputs: &RenderInputs) -> String {
    let focus = match inputs.vertical {
        Vertical::Executive => {
            "You help somebody who leads people: prepare decisions, keep track of what was promised, protect their time."
        }
        Vertical::Developer => {
            "You help somebody who builds software: read code before you judge it, run what you can run, say what you did not check."
        }
        Vertical::Researcher => {
            "You help somebody who studies things: name your sources, keep findings apart from guesses, point out what speaks against."
        }
        Vertical::Creator => {
            "You help somebody who makes things for an audience: offer variants, keep their voice, ask who it is for."
        }
    };
    format!(
        "# Who you are\n\nYou are {}, a personal assistant.\n\n{}\n\n{focus}\n\n\
         # How you work\n\n\
         - Do what was asked, then say briefly what you did.\n\
         - Write what should last into `MEMORY.md` or `memory/`, and look there before you say that you don't know.\n\
         - You answer when you are spoken to. You can't set alarms or start by yourself later; say so when asked.\n",
        inputs.bot_name, inputs.personality_text
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> RenderInputs {
        RenderInputs {
            bot_name: "Pip".into(),
            personality_text: "Warm, plain, never pushy.".into(),
            timezone: "Europe/Berlin".into(),
            default_model: "practice/practice-1".into(),
            fallback_model: Some("practice/practice-2".into()),
            vertical: Vertical::Developer,
            models: ["practice/practice-1", "practice/practice-2"]
                .map(|id| ModelFacts {
                    id: id.into(),
                    name: "Practice".into(),
                    context_window: 128_000,
                    max_output: 8192,
                    reasoning: false,
                    vision: false,
                })
                .into(),
            embedding_model: "practice/embed-1".into(),
        }
    }

    #[test]
    fn the_rendered_configuration() {
        insta::assert_json_snapshot!(render(&inputs()));
    }

    #[test]
    fn a_name_never_becomes_a_value_of_the_environment() {
        let cases = [
            ("Pip", "Pip"),
            ("${HOME}", "$${HOME}"),
            ("$${A_1}x${B}", "$$${A_1}x$${B}"),
            ("${home} ${} ${1} $HOME ${A", "${home} ${} ${1} $HOME ${A"),
        ];
        for (name, written) in cases {
            let config = render(&RenderInputs { bot_name: name.into(), ..inputs() });
            assert_eq!(config["agents"]["entries"]["main"]["identity"]["name"], written);
        }
    }

    #[test]
    fn the_hash_follows_the_meaning() {
        let one: Value = serde_json::from_str(r#"{"a": {"x": 1, "y": [1, 2]}, "b": null}"#).unwrap();
        let same: Value = serde_json::from_str(r#"{"b":null,"a":{"y":[1,2],"x":1}}"#).unwrap();
        let other: Value = serde_json::from_str(r#"{"a": {"x": 1, "y": [2, 1]}, "b": null}"#).unwrap();
        assert_eq!(canonical_hash(&one), canonical_hash(&same));
        assert_ne!(canonical_hash(&one), canonical_hash(&other));
        let mut renamed = inputs();
        renamed.bot_name = "Pop".into();
        assert_ne!(canonical_hash(&render(&inputs())), canonical_hash(&render(&renamed)));
    }
}
