//! What a tool's call and result mean to a person: shortened for the wire, and what of the assistant's memory they
//! touched.
//! Never: claim a memory access that failed.

use molt_bot::{Event, MemoryAction};
use serde_json::Value;

use crate::translate::cut;

/// The runtime's envelope for tools whose description the model hasn't loaded.
pub const ENVELOPE: &str = "tool_call";
/// More of a result than a person reads in a chat.
pub const RESULT_BYTES_MAX: usize = 16 * 1024;
/// The same for one text inside the arguments (a file that is written, for instance).
const ARGUMENT_BYTES_MAX: usize = 16 * 1024;
/// How many found files a search names.
const SEARCH_FILES_MAX: usize = 5;
/// Stands for the memory as a whole when a search found nothing.
const MEMORY_FOLDER: &str = "memory/";

/// The arguments with long texts cut.
#[must_use]
pub fn shown_args(args: Value) -> Value {
    match args {
        Value::String(text) => Value::String(cut(text, ARGUMENT_BYTES_MAX)),
        Value::Array(items) => items.into_iter().map(shown_args).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, shown_args(value))).collect(),
        other => other,
    }
}

/// The text of a result.
#[must_use]
pub fn result_text(result: &Value) -> String {
    match result {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        _ => match result["content"].as_array() {
            Some(blocks) => {
                let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
                texts.join("\n")
            }
            None => result.to_string(),
        },
    }
}

/// What a successful call did to the assistant's memory.
#[must_use]
pub fn memory_access(tool: &str, args: &Value, result: &str) -> Vec<Event> {
    let path = args["path"].as_str().or(args["file_path"].as_str()).unwrap_or_default();
    match tool {
        "memory_search" => found_files(result).into_iter().map(|file| access(MemoryAction::Search, file)).collect(),
        "memory_get" => vec![access(MemoryAction::Read, path.to_owned())],
        "read" => memory_file(path).map(|file| access(MemoryAction::Read, file)).into_iter().collect(),
        "write" | "edit" => memory_file(path).map(|file| access(MemoryAction::Write, file)).into_iter().collect(),
        "apply_patch" => patched_files(args["input"].as_str().unwrap_or_default()),
        _ => Vec::new(),
    }
}

const fn access(action: MemoryAction, file: String) -> Event {
    Event::MemoryAccess { action, file }
}

/// The path inside the workspace when it is a file of the assistant's memory.
fn memory_file(path: &str) -> Option<String> {
    let inside = path.rsplit_once("/workspace/").map_or(path, |(_, inside)| inside);
    let inside = inside.trim_start_matches("./");
    let is_memory = matches!(inside, "MEMORY.md" | "USER.md") || inside.starts_with(MEMORY_FOLDER);
    is_memory.then(|| inside.to_owned())
}

fn found_files(result: &str) -> Vec<String> {
    let parsed: Value = serde_json::from_str(result).unwrap_or_default();
    let mut files: Vec<String> = Vec::new();
    for hit in parsed["results"].as_array().into_iter().flatten() {
        match hit["path"].as_str() {
            Some(path) if files.len() < SEARCH_FILES_MAX && !files.iter().any(|file| file == path) => {
                files.push(path.to_owned());
            }
            _ => {}
        }
    }
    if files.is_empty() {
        files.push(MEMORY_FOLDER.to_owned());
    }
    files
}

fn patched_files(patch: &str) -> Vec<Event> {
    const MARKS: [&str; 3] = ["*** Add File: ", "*** Update File: ", "*** Delete File: "];
    patch
        .lines()
        .filter_map(|line| MARKS.iter().find_map(|mark| line.strip_prefix(mark)))
        .filter_map(|path| memory_file(path.trim()))
        .map(|file| access(MemoryAction::Write, file))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn memory_is_recognised_by_tool_and_path() {
        use MemoryAction::{Read, Search, Write};
        let hits =
            json!({"results": [{"path": "memory/a.md"}, {"path": "memory/a.md"}, {"path": "MEMORY.md"}]}).to_string();
        let cases = [
            ("read", json!({"path": "MEMORY.md"}), "", vec![(Read, "MEMORY.md")]),
            ("write", json!({"path": "/state/workspace/memory/x.md"}), "", vec![(Write, "memory/x.md")]),
            ("edit", json!({"path": "./USER.md"}), "", vec![(Write, "USER.md")]),
            ("write", json!({"path": "notes.md"}), "", vec![]),
            ("exec", json!({"command": "cat MEMORY.md"}), "", vec![]),
            ("memory_search", json!({"query": "tea"}), &hits, vec![(Search, "memory/a.md"), (Search, "MEMORY.md")]),
            ("memory_search", json!({"query": "tea"}), "{}", vec![(Search, "memory/")]),
            (
                "apply_patch",
                json!({"input": "*** Begin Patch\n*** Add File: memory/n.md\n+x\n"}),
                "",
                vec![(Write, "memory/n.md")],
            ),
        ];
        for (tool, args, result, expected) in cases {
            let expected: Vec<Event> =
                expected.into_iter().map(|(action, file)| access(action, file.to_owned())).collect();
            assert_eq!(memory_access(tool, &args, result), expected, "{tool} {args}");
        }
    }
}
