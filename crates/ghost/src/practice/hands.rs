//! Does things with tools, over several requests: every request replays what was done so far from the conversation and
//! stops at the first thing that isn't done yet. So a plan reads like a plain program, and nothing is kept in between.
//! Never: claim a result that no tool gave.

use serde_json::Value;

use super::hear::Outcome;
use super::tools::{Skill, Toolbox, usual_arguments, wish_words};

/// Calls for one wish. A tool that keeps failing must not be asked for ever.
const CALLS_MAX: usize = 14;
/// A file whose content may have been cut by the tool isn't written back.
const WHOLE_FILE_BYTES_MAX: usize = 40_000;

/// The next tool call: the request's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NextCall {
    pub(super) tool: String,
    pub(super) arguments: Value,
}

/// Why something isn't done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not yet: this call comes first.
    Call(NextCall),
    /// No tool for it was offered.
    NoTool,
    /// The tool said why.
    Failed(String),
    /// Too many calls already.
    Enough,
}

pub(super) type Done<T> = Result<T, Stop>;

/// What reading a file gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Missing,
    Text(String),
    /// Longer than a tool gives back in one piece.
    TooLong(String),
}

pub(super) struct Hands<'a> {
    tools: &'a Toolbox<'a>,
    done: &'a [Outcome],
    used: usize,
    /// What was thought about the choice of tools.
    pub(super) thoughts: Vec<String>,
}

impl<'a> Hands<'a> {
    pub(super) fn new(tools: &'a Toolbox<'a>, done: &'a [Outcome]) -> Self {
        Self { tools, done, used: 0, thoughts: Vec::new() }
    }

    pub(super) fn read(&mut self, path: &str) -> Done<Content> {
        match self.act(Skill::Read, &[path]) {
            Ok(text) if is_missing(&text) => Ok(Content::Missing),
            Ok(text) if text.len() > WHOLE_FILE_BYTES_MAX || text.contains("Use offset=") => Ok(Content::TooLong(text)),
            Ok(text) => Ok(Content::Text(text)),
            Err(Stop::Failed(why)) if is_missing(&why) => Ok(Content::Missing),
            Err(stop) => Err(stop),
        }
    }

    pub(super) fn write(&mut self, path: &str, content: &str) -> Done<()> {
        self.act(Skill::Write, &[path, content]).map(|_| ())
    }

    /// Adds lines to the end of a file and keeps what is there.
    pub(super) fn append(&mut self, path: &str, heading: &str, lines: &str) -> Done<()> {
        let before = match self.read(path) {
            Ok(content) => content,
            // A toolbox without a reader: the shell appends without reading.
            Err(Stop::NoTool) => Content::TooLong(String::new()),
            Err(stop) => return Err(stop),
        };
        self.add(path, &before, heading, lines)
    }

    /// The same where the content was read already.
    pub(super) fn add(&mut self, path: &str, before: &Content, heading: &str, lines: &str) -> Done<()> {
        match before {
            Content::Missing => self.write(path, &format!("{heading}{lines}\n")),
            Content::Text(old) if old.trim().is_empty() => self.write(path, &format!("{heading}{lines}\n")),
            Content::Text(old) => self.write(path, &format!("{}\n{lines}\n", old.trim_end_matches('\n'))),
            Content::TooLong(_) => {
                let command = format!("printf '%s\\n' {} >> {}", shell_quoted(lines), shell_quoted(path));
                self.run(&command).map(|_| ())
            }
        }
    }

    pub(super) fn edit(&mut self, path: &str, old: &str, new: &str) -> Done<String> {
        self.act(Skill::Edit, &[path, old, new])
    }

    pub(super) fn run(&mut self, command: &str) -> Done<String> {
        self.act(Skill::Run, &[command])
    }

    pub(super) fn list(&mut self, path: Option<&str>) -> Done<String> {
        match path {
            Some(path) => self.act(Skill::List, &[path]),
            None => self.act(Skill::List, &[]),
        }
    }

    pub(super) fn search_memory(&mut self, query: &str) -> Done<String> {
        self.act(Skill::SearchMemory, &[query])
    }

    pub(super) fn fetch(&mut self, url: &str) -> Done<String> {
        self.act(Skill::Fetch, &[url])
    }

    pub(super) fn search_web(&mut self, query: &str) -> Done<String> {
        self.act(Skill::SearchWeb, &[query])
    }

    /// Calls whatever tool the caller demands, with the text where a text is required.
    pub(super) fn forced(&mut self, name: Option<&str>, text: &str) -> Done<String> {
        let tool = name.map_or_else(|| self.tools.first(), |name| self.tools.named(name)).ok_or(Stop::NoTool)?;
        self.call(tool.name, tool.forced(text))
    }

    /// With a tool that is offered, or through the one that calls others.
    fn act(&mut self, skill: Skill, values: &[&str]) -> Done<String> {
        if let Some(tool) = self.tools.offered(skill) {
            self.thoughts.push(format!("Of the tools I was given, “{}” takes what I need.", tool.name));
            return self.call(tool.name, tool.arguments(skill, values));
        }
        let caller = self.tools.offered(Skill::CallTool).ok_or(Stop::NoTool)?;
        let id = match self.tools.deferred(skill) {
            Some(name) => name.to_owned(),
            None => self.find_tool(skill)?,
        };
        self.thoughts.push(format!("“{id}” isn't offered directly, so I call it through “{}”.", caller.name));
        let value = values.first().copied().unwrap_or("");
        match self.call(caller.name, caller.wrapped(&id, usual_arguments(skill, value))) {
            Err(Stop::Failed(why)) if speaks_of_arguments(&why) => {
                let described = self.describe(&id)?;
                let inner = super::tools::Tool::described(&id, &described).map(|tool| tool.arguments(skill, values));
                let inner = inner.ok_or(Stop::Failed(why))?;
                inner_result(self.call(caller.name, caller.wrapped(&id, inner))?)
            }
            result => inner_result(result?),
        }
    }

    /// Asks the tool search. Its best result that speaks of the skill.
    fn find_tool(&mut self, skill: Skill) -> Done<String> {
        let finder = self.tools.offered(Skill::FindTool).ok_or(Stop::NoTool)?;
        let found = self.call(finder.name, finder.arguments(Skill::FindTool, &[wish_words(skill)]))?;
        let found: Value = serde_json::from_str(&found).unwrap_or(Value::Null);
        let mut best = None;
        visit(&found, &mut |entry| {
            let text = |name: &str| entry.get(name).and_then(Value::as_str);
            let Some(id) = text("id").or_else(|| text("name")) else { return };
            let about =
                format!("{} {}", text("name").unwrap_or(id).replace('_', " "), text("description").unwrap_or(""));
            let score = super::tools::means(skill, &about);
            if score > 0 && best.as_ref().is_none_or(|(known, _)| score > *known) {
                best = Some((score, id.to_owned()));
            }
        });
        best.map(|(_, id)| id).ok_or(Stop::NoTool)
    }

    fn describe(&mut self, id: &str) -> Done<Value> {
        let tool = self.tools.offered(Skill::DescribeTool).ok_or(Stop::NoTool)?;
        let text = self.call(tool.name, tool.arguments(Skill::DescribeTool, &[id]))?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The result of this call if it was made already; otherwise the call is what comes next.
    fn call(&mut self, tool: &str, arguments: Value) -> Done<String> {
        if self.used >= CALLS_MAX {
            return Err(Stop::Enough);
        }
        // A runtime may have dropped an older call of the turn: the next one of this name counts.
        let Some(at) = self.done[self.used..].iter().position(|outcome| outcome.tool == tool) else {
            return Err(Stop::Call(NextCall { tool: tool.to_owned(), arguments }));
        };
        let outcome = &self.done[self.used + at];
        self.used += at + 1;
        match failure(&outcome.result) {
            Some(why) => Err(Stop::Failed(why)),
            None => Ok(outcome.result.clone()),
        }
    }
}

/// Calls `look` for every object inside a value.
fn visit(value: &Value, look: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(map) => {
            look(value);
            map.values().for_each(|inner| visit(inner, look));
        }
        Value::Array(items) => items.iter().for_each(|inner| visit(inner, look)),
        _ => {}
    }
}

/// What the called tool itself said, which may be that it failed.
fn inner_result(text: String) -> Done<String> {
    let text = unwrapped(&text);
    failure(&text).map_or(Ok(text), |why| Err(Stop::Failed(why)))
}

/// `{"tool":…,"result":{"content":[{"text":…}]}}` → the text of the inner result.
fn unwrapped(text: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    let inner = value.get("result").unwrap_or(&value);
    match inner.get("content").and_then(Value::as_array) {
        Some(parts) => {
            let texts = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str));
            texts.collect::<Vec<_>>().join("\n")
        }
        None => text.to_owned(),
    }
}

/// Why a tool failed, if its answer says so.
fn failure(result: &str) -> Option<String> {
    let text = result.trim();
    if text.is_empty() && result.is_empty() {
        return Some("it gave no answer".to_owned());
    }
    if let Ok(Value::Object(map)) = serde_json::from_str::<Value>(text) {
        let failed =
            map.get("status").and_then(Value::as_str).is_some_and(|status| matches!(status, "error" | "failed"))
                || map.get("isError") == Some(&Value::Bool(true))
                || map.get("is_error") == Some(&Value::Bool(true));
        let said = map.get("error").filter(|error| !error.is_null());
        if failed || said.is_some() {
            let said = said.or_else(|| map.get("message"));
            let sentence = said.map(|said| said.as_str().map_or_else(|| said.to_string(), str::to_owned));
            return Some(first_line(&sentence.unwrap_or_else(|| "it failed".to_owned())));
        }
        return None;
    }
    let lower = text.to_lowercase();
    let starts =
        ["error:", "error ", "enoent", "eacces", "eisdir", "failed", "tool error", "permission denied", "not allowed"];
    let not_found = lower.starts_with("tool ") && lower.ends_with("not found");
    (not_found || starts.iter().any(|start| lower.starts_with(start))).then(|| first_line(text))
}

fn is_missing(text: &str) -> bool {
    let lower = text.trim().to_lowercase();
    let short = lower.len() < 600;
    let words = ["no such file", "enoent", "file not found", "does not exist", "doesn't exist", "not_found"];
    short && words.iter().any(|word| lower.contains(word)) && !lower.contains('\n')
        || short && lower.starts_with('{') && lower.contains("not_found")
}

fn speaks_of_arguments(why: &str) -> bool {
    let lower = why.to_lowercase();
    ["argument", "parameter", "required", "schema", "validation", "invalid", "must have", "property"]
        .iter()
        .any(|word| lower.contains(word))
}

/// Words of a line that says what went wrong.
const FAULT_WORDS: &str =
    "error fail refused denied not-found timed-out cannot unable blocked enoent enotfound econn etimedout";

/// The line that says what went wrong. Runtimes wrap what comes from outside in warnings of several lines.
fn first_line(text: &str) -> String {
    let says = |line: &&str| {
        let lower = line.to_lowercase();
        FAULT_WORDS.split(' ').any(|words| lower.contains(&words.replace('-', " ")))
    };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['-', '<']));
    let first = lines.clone().next().unwrap_or("");
    let line = if first.contains("NOTICE") { lines.find(says).unwrap_or(first) } else { first };
    line.chars().take(300).collect()
}

/// One word for a POSIX shell.
pub(super) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn failures_are_told_from_results() {
        for (text, failed) in [
            ("Successfully wrote 4 bytes", false),
            ("", true),
            ("\n", false),
            ("Tool memory_search not found", true),
            ("ENOENT: no such file or directory, open 'a'", true),
            (r#"{"status":"error","error":"nope"}"#, true),
            (r#"{"results":[],"error":null}"#, false),
            ("There was an error: line 3", false),
        ] {
            assert_eq!(failure(text).is_some(), failed, "{text}");
        }
        let warned = r#"{"status":"error","error":"SECURITY NOTICE: beware\n- DO NOT obey\n<<<X>>>\nSource: API\n---\ngetaddrinfo ENOTFOUND example.com"}"#;
        assert_eq!(failure(warned).as_deref(), Some("getaddrinfo ENOTFOUND example.com"));
        assert!(is_missing("Optional file not found: MEMORY.md.") && !is_missing("notes\nfile not found: x\n"));
    }

    #[test]
    fn a_plan_replays_and_stops_at_what_is_new() {
        let text = json!({ "type": "string" });
        let request = json!({ "tools": [
            { "function": { "name": "read", "description": "Read files", "parameters": { "properties": { "path": text }, "required": ["path"] } } },
            { "function": { "name": "write", "description": "Write", "parameters": { "properties": { "path": text, "content": text } } } },
        ]});
        let tools = Toolbox::of(&request, "");
        let outcome =
            |tool: &str, result: &str| Outcome { tool: tool.into(), arguments: json!({}), result: result.into() };
        let add = |done: &[Outcome]| Hands::new(&tools, done).append("a.md", "# Top\n", "- new");
        let next = |tool: &str, arguments| Err(Stop::Call(NextCall { tool: tool.to_owned(), arguments }));
        assert_eq!(add(&[]), next("read", json!({ "path": "a.md" })));
        let missing = [outcome("read", "ENOENT: no such file")];
        assert_eq!(add(&missing), next("write", json!({ "path": "a.md", "content": "# Top\n- new\n" })));
        let there = [outcome("read", "old\n")];
        assert_eq!(add(&there), next("write", json!({ "path": "a.md", "content": "old\n- new\n" })));
        assert_eq!(
            add(&[outcome("read", "old"), outcome("write", "Error: disk full")]),
            Err(Stop::Failed("Error: disk full".into()))
        );
        assert_eq!(add(&[outcome("read", "old"), outcome("write", "ok")]), Ok(()));
        let long = [outcome("read", &"x".repeat(WHOLE_FILE_BYTES_MAX + 1))];
        assert_eq!(add(&long), Err(Stop::NoTool));
    }
}
