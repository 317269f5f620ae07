//! Chooses among the tools of a request by their schemas and descriptions, and fills in arguments that the schemas take.
//! Never: a tool that wasn't offered, or arguments that leave out what a schema requires.

use serde_json::{Map, Value, json};

/// How deep a schema is followed when required values are made up.
const SCHEMA_DEPTH_MAX: usize = 6;

/// What can be done with a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skill {
    Read,
    Write,
    Edit,
    List,
    Run,
    SearchMemory,
    Fetch,
    SearchWeb,
    /// Finds tools that aren't offered directly.
    FindTool,
    /// Tells the schema of such a tool.
    DescribeTool,
    /// Calls such a tool.
    CallTool,
}

/// One tool of the request.
#[derive(Clone, Debug)]
pub(super) struct Tool<'a> {
    pub(super) name: &'a str,
    description: String,
    pub(super) schema: &'a Value,
}

/// The tools of a request, and those that its instructions only name.
#[derive(Clone, Debug, Default)]
pub(super) struct Toolbox<'a> {
    tools: Vec<Tool<'a>>,
    deferred: Vec<(String, String)>,
}

const PATHS: &[&str] =
    &["path", "file", "file_path", "filepath", "filename", "file_name", "target_file", "absolute_path"];
const CONTENTS: &[&str] = &["content", "contents", "text", "file_text", "data", "body", "value", "file_content"];
const OLD: &[&str] =
    &["oldtext", "old_text", "old_string", "old_str", "oldstring", "search", "find", "old", "from", "target"];
const NEW: &[&str] =
    &["newtext", "new_text", "new_string", "new_str", "newstring", "replace", "replacement", "new", "to"];
const COMMANDS: &[&str] = &["command", "cmd", "commandline", "command_line", "script", "shell_command", "bash"];
const QUERIES: &[&str] = &["query", "q", "queries", "search", "question", "text", "keywords", "search_query", "term"];
const URLS: &[&str] = &["url", "uri", "link", "href", "address", "webpage"];
const IDS: &[&str] = &["id", "name", "tool", "tool_id", "tool_name"];
const ARGUMENTS: &[&str] = &["args", "arguments", "input", "parameters", "params"];

impl<'a> Toolbox<'a> {
    pub(super) fn of(request: &'a Value, system: &str) -> Self {
        let offered = request.get("tools").and_then(Value::as_array).into_iter().flatten();
        let tools = offered.filter_map(Tool::of).collect();
        Self { tools, deferred: deferred(system) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    pub(super) fn named(&self, name: &str) -> Option<&Tool<'a>> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    pub(super) fn first(&self) -> Option<&Tool<'a>> {
        self.tools.first()
    }

    /// The offered tool that fits best.
    pub(super) fn offered(&self, skill: Skill) -> Option<&Tool<'a>> {
        let scored = self.tools.iter().map(|tool| (tool.score(skill), tool)).filter(|(score, _)| *score > 0);
        // The first of equals, whatever the order of iteration.
        scored
            .fold(None, |best: Option<(i32, &Tool<'a>)>, next| best.filter(|best| best.0 >= next.0).or(Some(next)))
            .map(|(_, tool)| tool)
    }

    /// The name of a tool that is only named in the instructions, and can be called through another.
    pub(super) fn deferred(&self, skill: Skill) -> Option<&str> {
        let fits = |(name, about): &&(String, String)| means(skill, &format!("{} {about}", name.replace('_', " "))) > 0;
        self.deferred.iter().find(fits).map(|(name, _)| name.as_str())
    }
}

impl<'a> Tool<'a> {
    fn of(entry: &'a Value) -> Option<Self> {
        let function = entry.get("function").unwrap_or(entry);
        let name = function.get("name").and_then(Value::as_str).filter(|name| !name.is_empty())?;
        let description = function.get("description").and_then(Value::as_str).unwrap_or("").to_lowercase();
        let schema = function.get("parameters").or_else(|| function.get("input_schema")).unwrap_or(&Value::Null);
        Some(Self { name, description, schema })
    }

    /// A deferred tool, from what the runtime's description of it says.
    pub(super) fn described(id: &'a str, about: &'a Value) -> Option<Self> {
        let places =
            ["/parameters", "/inputSchema", "/input_schema", "/schema", "/tool/parameters", "/tool/inputSchema"];
        let schema =
            places.iter().find_map(|place| about.pointer(place)).filter(|schema| schema.get("properties").is_some())?;
        Some(Self { name: id, description: String::new(), schema })
    }

    /// Parameters first: they say what a tool does; words decide between tools that take the same.
    fn score(&self, skill: Skill) -> i32 {
        let words = format!("{} {}", self.name.to_lowercase().replace(['_', '-'], " "), self.description);
        let said = means(skill, &words);
        let has = |names: &[&str]| self.parameter(names, "string").is_some();
        let edits = has(OLD) && has(NEW) || self.edit_list().is_some();
        let path_only = || self.required().iter().all(|name| is_one(name, PATHS));
        let fits = match skill {
            Skill::Write => has(PATHS) && has(CONTENTS) && !edits,
            Skill::Read => has(PATHS) && path_only() && !edits && !has(CONTENTS) && !has(COMMANDS),
            Skill::Edit => has(PATHS) && edits,
            Skill::List => !has(CONTENTS) && !edits && path_only(),
            Skill::Run => has(COMMANDS),
            Skill::SearchMemory | Skill::SearchWeb => has(QUERIES),
            Skill::Fetch => has(URLS),
            Skill::FindTool => has(QUERIES) && words.contains("tool"),
            Skill::DescribeTool => has(IDS) && self.parameter(ARGUMENTS, "object").is_none() && words.contains("tool"),
            Skill::CallTool => has(IDS) && self.parameter(ARGUMENTS, "object").is_some() && words.contains("tool"),
        };
        // A shell takes a command whatever it is called; all others must also say what they do.
        let clear = matches!(skill, Skill::Write | Skill::Run | Skill::Edit);
        if fits && (clear || said > 0) { 10 + said } else { 0 }
    }

    /// The parameter that plays a role, by its name and by what it takes.
    fn parameter(&self, names: &[&str], kind: &str) -> Option<&'a str> {
        let known = self.schema.get("properties").and_then(Value::as_object)?;
        let fits = |wanted: &str| known.iter().find(|(name, schema)| same(name, wanted) && takes(schema, kind));
        names.iter().find_map(|wanted| fits(wanted)).map(|(name, _)| name.as_str())
    }

    fn required(&self) -> Vec<&'a str> {
        let names = self.schema.get("required").and_then(Value::as_array).into_iter().flatten();
        names.filter_map(Value::as_str).collect()
    }

    /// The parameter that takes a list of replacements, and the schema of one.
    fn edit_list(&self) -> Option<(&'a str, &'a Value)> {
        let known = self.schema.get("properties").and_then(Value::as_object)?;
        known.iter().find_map(|(name, schema)| {
            let item = schema.get("items")?;
            (property(item, OLD).is_some() && property(item, NEW).is_some()).then_some((name.as_str(), item))
        })
    }

    /// Arguments for a skill. `values` are given in the order that the skill needs: path, content; path, old, new; …
    pub(super) fn arguments(&self, skill: Skill, values: &[&str]) -> Value {
        let value = |at: usize| Value::from(values.get(at).copied().unwrap_or(""));
        let mut given = Map::new();
        let mut give = |names: &[&str], value: Value| {
            let kind = if value.is_boolean() { "boolean" } else { "string" };
            if let Some(name) = self.parameter(names, kind) {
                given.insert(name.to_owned(), value);
            }
        };
        match skill {
            Skill::Read => {
                give(PATHS, value(0));
                // Where the tool can say "not there" in plain words, that beats an error.
                give(&["optional"], Value::Bool(true));
            }
            Skill::Write => {
                give(PATHS, value(0));
                give(CONTENTS, value(1));
            }
            Skill::Edit => {
                give(PATHS, value(0));
                match self.edit_list() {
                    Some((list, item)) => {
                        let mut edit = Map::new();
                        edit.insert(property(item, OLD).unwrap_or("old").to_owned(), value(1));
                        edit.insert(property(item, NEW).unwrap_or("new").to_owned(), value(2));
                        given.insert(list.to_owned(), json!([complete(item, edit, SCHEMA_DEPTH_MAX)]));
                    }
                    None => {
                        give(OLD, value(1));
                        give(NEW, value(2));
                    }
                }
            }
            Skill::List if !values.is_empty() => give(PATHS, value(0)),
            Skill::List => {}
            Skill::Run => {
                give(COMMANDS, value(0));
                give(&["title", "description"], Value::from("A command that the user asked for"));
            }
            Skill::SearchMemory | Skill::SearchWeb | Skill::FindTool => give(QUERIES, value(0)),
            Skill::Fetch => give(URLS, value(0)),
            Skill::DescribeTool | Skill::CallTool => give(IDS, value(0)),
        }
        complete(self.schema, given, SCHEMA_DEPTH_MAX)
    }

    /// Arguments for a call of a deferred tool through this one.
    pub(super) fn wrapped(&self, id: &str, inner: Value) -> Value {
        let mut given = Map::new();
        for (names, kind, value) in [(IDS, "string", Value::from(id)), (ARGUMENTS, "object", inner)] {
            if let Some(name) = self.parameter(names, kind) {
                given.insert(name.to_owned(), value);
            }
        }
        complete(self.schema, given, SCHEMA_DEPTH_MAX)
    }

    /// Arguments where only the tool's name is known: every required text is `text`.
    pub(super) fn forced(&self, text: &str) -> Value {
        let mut given = Map::new();
        for name in self.required() {
            if property_schema(self.schema, name).and_then(type_of) == Some("string") {
                given.insert(name.to_owned(), pick(property_schema(self.schema, name), text));
            }
        }
        complete(self.schema, given, SCHEMA_DEPTH_MAX)
    }
}

/// Arguments for a deferred tool whose schema isn't known: the usual name of its one parameter.
pub(super) fn usual_arguments(skill: Skill, value: &str) -> Value {
    match skill {
        Skill::Fetch => json!({ "url": value }),
        Skill::Run => json!({ "command": value }),
        Skill::Read | Skill::List | Skill::Write | Skill::Edit => json!({ "path": value }),
        _ => json!({ "query": value }),
    }
}

/// What one asks a tool search for.
pub(super) fn wish_words(skill: Skill) -> &'static str {
    match skill {
        Skill::Read => "read file content",
        Skill::Write => "write file",
        Skill::Edit => "edit file replace text",
        Skill::List => "list directory files",
        Skill::Run => "run shell command",
        Skill::SearchMemory => "search memory notes",
        Skill::Fetch => "fetch url web page",
        Skill::SearchWeb => "search the web",
        Skill::FindTool | Skill::DescribeTool | Skill::CallTool => "tool",
    }
}

/// How clearly a name and a description speak of a skill; zero: not at all.
pub(super) fn means(skill: Skill, words: &str) -> i32 {
    let text = words.to_lowercase();
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
    let is = |word: &str, term: &str| {
        word.strip_prefix(term).is_some_and(|end| matches!(end, "" | "s" | "es" | "ed" | "ing"))
    };
    let said =
        |term: &str| if term.contains(' ') { text.contains(term) } else { words.iter().any(|word| is(word, term)) };
    let count = |list: &[&str]| list.iter().map(|term| i32::from(said(term))).sum::<i32>();
    let memory = count(&["memory", "memories", "remember", "recall"]);
    let web = count(&["web", "internet", "online", "url", "http"]);
    match skill {
        Skill::Read => {
            count(&["read", "view", "open", "get", "show", "content"])
                * i32::from(memory == 0 && web == 0 && count(&["session", "list dir"]) == 0)
        }
        Skill::Write => count(&["write", "create", "save", "overwrite"]),
        Skill::Edit => count(&["edit", "replace", "change", "modify"]),
        Skill::List => {
            count(&["list dir", "directory entries", "list files", "ls", "directory"])
                * i32::from(count(&["session", "agent", "background"]) == 0)
        }
        Skill::Run => count(&["shell", "command", "exec", "bash", "terminal", "run"]),
        Skill::SearchMemory => memory * i32::from(count(&["search", "recall", "query", "find", "look"]) > 0),
        Skill::Fetch => {
            web * i32::from(
                count(&["fetch", "download", "page", "read", "get"]) > 0
                    && count(&["search current", "web search"]) == 0,
            )
        }
        Skill::SearchWeb => web * i32::from(count(&["search"]) > 0 && memory == 0),
        Skill::FindTool => count(&["search", "find", "catalog"]),
        Skill::DescribeTool => count(&["describe", "schema", "metadata", "load"]),
        Skill::CallTool => count(&["call", "invoke", "execute", "run", "use"]),
    }
}

/// `- memory_search (memory-core): what it does`, in instructions that offer tools through another tool.
fn deferred(system: &str) -> Vec<(String, String)> {
    let Some(at) = system.to_lowercase().find("deferred") else { return Vec::new() };
    let Some(section) = system.get(at..) else { return Vec::new() };
    let entry = |line: &str| {
        let (head, about) = line.strip_prefix("- ")?.split_once(':')?;
        let name = head.split([' ', '(']).next()?.trim();
        let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte));
        fits.then(|| (name.to_owned(), about.trim().to_owned()))
    };
    section.lines().take_while(|line| !line.starts_with("## ")).filter_map(entry).collect()
}

/// Adds what the schema requires and nobody gave.
fn complete(schema: &Value, mut given: Map<String, Value>, depth: usize) -> Value {
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !given.contains_key(name) {
            let value = property_schema(schema, name).map_or_else(|| Value::from(""), |schema| made_up(schema, depth));
            given.insert(name.to_owned(), value);
        }
    }
    Value::Object(given)
}

/// The smallest value that a schema takes.
fn made_up(schema: &Value, depth: usize) -> Value {
    if let Some(value) = schema.get("const").or_else(|| schema.get("default")) {
        return value.clone();
    }
    if let Some(first) = schema.get("enum").and_then(Value::as_array).and_then(|choices| choices.first()) {
        return first.clone();
    }
    if depth == 0 {
        return Value::Null;
    }
    let choices = ["anyOf", "oneOf", "allOf"].iter().find_map(|name| schema.get(*name).and_then(Value::as_array));
    if let Some(first) = choices.and_then(|choices| choices.first()) {
        return made_up(first, depth - 1);
    }
    match type_of(schema) {
        Some("boolean") => Value::Bool(false),
        Some("integer") => schema.get("minimum").and_then(Value::as_i64).unwrap_or(0).max(0).into(),
        Some("number") => schema.get("minimum").cloned().unwrap_or_else(|| 0.into()),
        Some("array") => {
            let count = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0).min(8);
            let item = schema.get("items").unwrap_or(&Value::Null);
            (0..count).map(|_| made_up(item, depth - 1)).collect()
        }
        Some("object") => complete(schema, Map::new(), depth - 1),
        Some("null") => Value::Null,
        _ => Value::from("-".repeat(usize::from(schema.get("minLength").and_then(Value::as_u64).unwrap_or(0) > 0))),
    }
}

/// The choice of an enumeration that the text names, or the text itself.
fn pick(schema: Option<&Value>, text: &str) -> Value {
    let Some(choices) = schema.and_then(|schema| schema.get("enum")).and_then(Value::as_array) else {
        return text.into();
    };
    let lower = text.to_lowercase();
    let named =
        choices.iter().find(|choice| choice.as_str().is_some_and(|choice| lower.contains(&choice.to_lowercase())));
    named.or_else(|| choices.first()).cloned().unwrap_or_else(|| text.into())
}

fn type_of(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::String(name) => Some(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

/// A schema that names no type takes anything.
fn takes(schema: &Value, kind: &str) -> bool {
    type_of(schema).is_none_or(|known| known == kind)
}

fn property_schema<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get("properties")?.get(name)
}

fn property<'a>(schema: &'a Value, names: &[&str]) -> Option<&'a str> {
    let known = schema.get("properties").and_then(Value::as_object)?;
    known.iter().find(|(name, schema)| is_one(name, names) && takes(schema, "string")).map(|(name, _)| name.as_str())
}

fn is_one(name: &str, names: &[&str]) -> bool {
    names.iter().any(|wanted| same(name, wanted))
}

/// `filePath`, `file_path` and `file-path` are one name.
fn same(name: &str, wanted: &str) -> bool {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    plain(name) == plain(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schema_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!({ "type": "string" })),
            Just(json!({ "type": "integer", "minimum": 3 })),
            Just(json!({ "type": ["null", "boolean"] })),
            Just(json!({ "enum": ["a", "b"] })),
            Just(json!({ "const": true })),
            Just(json!({ "anyOf": [{ "type": "string" }, { "type": "null" }] })),
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let names =
                prop_oneof![Just("path"), Just("content"), Just("query"), Just("edits"), Just("oldText"), Just("x")];
            let object = proptest::collection::vec((names, inner.clone(), any::<bool>()), 0..5).prop_map(|fields| {
                let required: Vec<_> = fields.iter().filter(|field| field.2).map(|field| field.0).collect();
                let properties: Map<_, _> =
                    fields.into_iter().map(|(name, schema, _)| (name.to_owned(), schema)).collect();
                json!({ "type": "object", "properties": properties, "required": required })
            });
            prop_oneof![object, inner.prop_map(|items| json!({ "type": "array", "items": items, "minItems": 2 }))]
        })
    }

    /// Everything required is there, all the way down.
    fn satisfied(schema: &Value, value: &Value) -> bool {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        if !required.clone().all(|name| value.get(name).is_some()) {
            return false;
        }
        value.as_object().into_iter().flatten().all(|(name, inner)| {
            property_schema(schema, name)
                .is_none_or(|schema| type_of(schema) != Some("object") || satisfied(schema, inner))
        })
    }

    proptest! {
        #[test]
        fn arguments_always_hold_what_the_schema_requires(schema in schema_value(), text in ".{0,10}") {
            let request = json!({ "tools": [{ "function": { "name": "t", "description": "tool", "parameters": schema } }] });
            let tools = Toolbox::of(&request, "");
            let tool = tools.first().unwrap();
            let skills = [Skill::Read, Skill::Write, Skill::Edit, Skill::List, Skill::Run, Skill::SearchMemory, Skill::CallTool];
            for skill in skills {
                prop_assert!(satisfied(tool.schema, &tool.arguments(skill, &[&text, "b", "c"])));
                let _ = tools.offered(skill);
            }
            prop_assert!(satisfied(tool.schema, &tool.forced(&text)));
            let wrapped = tool.wrapped("a", Value::Object(Map::new()));
            prop_assert!(satisfied(tool.schema, &wrapped));
        }
    }

    #[test]
    fn foreign_tools_are_told_by_their_schemas() {
        let tool = |name: &str, about: &str, properties: Value, required: Value| {
            json!({ "type": "function", "function": { "name": name, "description": about,
                "parameters": { "type": "object", "properties": properties, "required": required } } })
        };
        let text = json!({ "type": "string" });
        let request = json!({ "tools": [
            tool("alpha", "Saves a document", json!({ "filePath": text, "file_text": text, "mode": { "enum": ["new", "over"] } }), json!(["filePath", "file_text", "mode"])),
            tool("beta", "Opens a document and shows it", json!({ "filename": text }), json!(["filename"])),
            tool("gamma", "", json!({ "cmd": text }), json!(["cmd"])),
            tool("delta", "Looks through your memories: search", json!({ "q": text }), json!(["q"])),
            tool("epsilon", "Swaps text", json!({ "file": text, "old_str": text, "new_str": text }), json!(["file", "old_str", "new_str"])),
            tool("zeta", "Downloads a page from the web", json!({ "link": text }), json!(["link"])),
        ]});
        let tools = Toolbox::of(&request, "");
        for (skill, name) in [
            (Skill::Write, "alpha"),
            (Skill::Read, "beta"),
            (Skill::Run, "gamma"),
            (Skill::SearchMemory, "delta"),
            (Skill::Edit, "epsilon"),
            (Skill::Fetch, "zeta"),
        ] {
            assert_eq!(tools.offered(skill).map(|tool| tool.name), Some(name), "{skill:?}");
        }
        let write = tools.offered(Skill::Write).unwrap().arguments(Skill::Write, &["a", "b"]);
        assert_eq!(write, json!({ "filePath": "a", "file_text": "b", "mode": "new" }));
        assert!(tools.offered(Skill::SearchWeb).is_none() && tools.deferred(Skill::SearchMemory).is_none());
    }
}
