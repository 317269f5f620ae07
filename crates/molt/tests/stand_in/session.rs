//! Sessions on disk, one JSON file each, written whole at every step so that they survive a kill.
//! Never: keep in memory what the real runtime keeps on disk.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One conversation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) key: String,
    /// As `chat.history` shows them.
    pub(crate) messages: Vec<Value>,
    /// The run that was at work when this was written.
    pub(crate) running: Option<String>,
}

impl Session {
    pub(crate) fn load(state: &Path, key: &str) -> Self {
        let text = std::fs::read(file(state, key)).ok();
        let session = text.and_then(|text| serde_json::from_slice(&text).ok());
        session.unwrap_or_else(|| Self { key: key.to_owned(), ..Self::default() })
    }

    pub(crate) fn all(state: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(folder(state)).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
            .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
            .collect()
    }

    pub(crate) fn save(&self, state: &Path) {
        let path = file(state, &self.key);
        let draft = path.with_extension("draft");
        let text = serde_json::to_vec(self).expect("a session is JSON");
        std::fs::create_dir_all(folder(state)).expect("the state folder can be written");
        std::fs::write(&draft, text).expect("the state folder can be written");
        std::fs::rename(&draft, path).expect("the state folder can be written");
    }

    pub(crate) fn delete(state: &Path, key: &str) -> bool {
        std::fs::remove_file(file(state, key)).is_ok()
    }

    pub(crate) fn push_user(&mut self, run: &str, text: &str) {
        self.messages.push(json!({"role": "user", "content": text, "idempotencyKey": format!("{run}:user")}));
    }

    pub(crate) fn push_assistant(&mut self, run: &str, blocks: Vec<Value>, stop: &str) {
        self.messages.push(json!({
            "role": "assistant", "content": blocks, "stopReason": stop, "provider": "molt", "__openclaw": {"runId": run},
        }));
    }

    pub(crate) fn push_result(&mut self, run: &str, call: &str, name: &str, text: &str, error: bool) {
        self.messages.push(json!({
            "role": "toolResult", "toolCallId": call, "toolName": name, "isError": error,
            "content": [{"type": "text", "text": text}], "__openclaw": {"runId": run},
        }));
    }

    /// The conversation as the model reads it.
    pub(crate) fn for_model(&self) -> Vec<Value> {
        self.messages.iter().filter_map(model_message).collect()
    }
}

fn model_message(message: &Value) -> Option<Value> {
    let blocks = || message["content"].as_array().into_iter().flatten();
    let text: String = blocks().filter_map(|block| block["text"].as_str()).collect();
    match message["role"].as_str()? {
        "user" => Some(json!({"role": "user", "content": message["content"]})),
        "assistant" => {
            let calls: Vec<Value> = blocks()
                .filter(|block| block["type"] == "toolCall")
                .map(|block| {
                    let function = json!({"name": block["name"], "arguments": block["arguments"].to_string()});
                    json!({"id": block["id"], "type": "function", "function": function})
                })
                .collect();
            if calls.is_empty() {
                return Some(json!({"role": "assistant", "content": text}));
            }
            Some(json!({"role": "assistant", "content": text, "tool_calls": calls}))
        }
        "toolResult" => Some(json!({"role": "tool", "tool_call_id": message["toolCallId"], "content": text})),
        _ => None,
    }
}

fn folder(state: &Path) -> PathBuf {
    state.join("stand-in-sessions")
}

fn file(state: &Path, key: &str) -> PathBuf {
    folder(state).join(format!("{}.json", key.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_")))
}
