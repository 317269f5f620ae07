//! The tools that the stand-in offers, under the real one's names, and what they really do in the workspace.
//! Never: a tool that the real runtime doesn't have.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

/// What the model is offered.
pub(crate) fn offered() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let tool = |name: &str, description: &str, required: &[&str], properties: Value| {
        json!({"type": "function", "function": {"name": name, "description": description,
            "parameters": {"type": "object", "required": required, "properties": properties}}})
    };
    json!([
        tool("read", "Read files", &["path"], json!({"path": text("File path; relative/absolute.")})),
        tool(
            "write",
            "Write files",
            &["path", "content"],
            json!({"path": text("File path; relative/absolute."), "content": text("File content.")})
        ),
        tool("exec", "Run shell", &["command"], json!({"command": text("Shell command.")})),
        tool(
            "tool_call",
            "Call a deferred tool",
            &["id"],
            json!({"id": text("Tool search result id or tool name."), "args": {"type": "object"}})
        ),
    ])
}

/// What a tool said, and whether it failed.
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) failed: bool,
}

pub(crate) async fn run(workspace: &Path, name: &str, args: &Value) -> Outcome {
    let done = match name {
        "read" => std::fs::read_to_string(resolve(workspace, &args["path"])).map_err(|error| error.to_string()),
        "write" => write(workspace, args),
        "exec" => exec(workspace, args["command"].as_str().unwrap_or_default()).await,
        "memory_search" => Ok(search(workspace, args["query"].as_str().unwrap_or_default())),
        "memory_get" => std::fs::read_to_string(resolve(workspace, &args["path"])).map_err(|error| error.to_string()),
        other => Err(format!("Tool {other} not found")),
    };
    match done {
        Ok(text) => Outcome { text, failed: false },
        Err(text) => Outcome { text, failed: true },
    }
}

fn resolve(workspace: &Path, path: &Value) -> PathBuf {
    workspace.join(path.as_str().unwrap_or_default())
}

fn write(workspace: &Path, args: &Value) -> Result<String, String> {
    let path = resolve(workspace, &args["path"]);
    let content = args["content"].as_str().unwrap_or_default();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    }
    std::fs::write(&path, content).map_err(|error| error.to_string())?;
    Ok(format!("Successfully wrote {} bytes to {}", content.len(), args["path"].as_str().unwrap_or_default()))
}

async fn exec(workspace: &Path, command: &str) -> Result<String, String> {
    let child = Command::new("/bin/sh")
        .args(["-c", command])
        .current_dir(workspace)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&[child.stdout, child.stderr].concat()).trim_end().to_owned();
    if child.status.success() { Ok(text) } else { Err(text) }
}

/// Files of the memory that hold a word of the query.
fn search(workspace: &Path, query: &str) -> String {
    let words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
    let mut files = vec![PathBuf::from("MEMORY.md"), PathBuf::from("USER.md")];
    let entries = std::fs::read_dir(workspace.join("memory")).into_iter().flatten().flatten();
    files.extend(entries.map(|entry| Path::new("memory").join(entry.file_name())));
    let hits: Vec<Value> = files
        .iter()
        .filter_map(|file| Some((file, std::fs::read_to_string(workspace.join(file)).ok()?)))
        .filter(|(_, text)| words.iter().any(|word| text.to_lowercase().contains(word.as_str())))
        .map(|(file, text)| json!({"path": file, "snippet": text, "source": "memory"}))
        .collect();
    json!({"results": hits, "provider": "openai-compatible"}).to_string()
}
