//! Every way to get a request of `openapi.json` wrong that its description gives away, each with the one answer that it
//! must get.
//! Never: a route written by hand. What is written down by hand is good values, by name, and what isn't the rule.

use serde_json::{Map, Value, json};

/// More than any text of ours may have, and far less than a body.
const TOO_LONG: usize = 10_000;
/// One byte more than the API takes.
const TOO_LARGE: usize = 1024 * 1024 + 1;

/// A domain that an assistant is allowed to reach once that was asked for, and one that it was refused.
const ALLOWED: &str = "allowed.example";
pub(crate) const REFUSED: &str = "refused.example";

/// An operation with everything that the description says of its request.
pub(crate) struct Described {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) open: bool,
    parameters: Vec<(String, String, bool)>,
    body: Option<Value>,
    body_optional: bool,
}

/// A request, whole.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Option<Vec<u8>>,
}

/// A request with one thing wrong, and the answer.
pub(crate) struct Spoiled {
    pub(crate) what: String,
    pub(crate) ask: Ask,
    pub(crate) status: u16,
    pub(crate) code: &'static str,
}

/// What is really there, so that a good request is good.
pub(crate) struct There {
    pub(crate) email: String,
    pub(crate) password: String,
    pub(crate) bot: String,
    pub(crate) conversation: String,
    pub(crate) checkout: String,
    pub(crate) key: String,
    pub(crate) somebody: String,
}

pub(crate) fn described() -> Vec<Described> {
    let api: Value = serde_json::from_str(&molt_api::openapi_json()).unwrap();
    let mut found = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let parameters = operation["parameters"].as_array().into_iter().flatten().map(|one| {
                let text = |name: &str| one[name].as_str().unwrap().to_owned();
                (text("in"), text("name").to_ascii_lowercase(), one["required"] == true)
            });
            let (schema, body_optional) = if schema.is_null() { (None, false) } else { resolved(schema, &api) };
            found.push(Described {
                method: method.to_uppercase(),
                path: path.clone(),
                open: operation["security"].as_array().is_some_and(|rules| rules.iter().all(|rule| *rule == json!({}))),
                parameters: parameters.collect(),
                body: schema,
                body_optional,
            });
        }
    }
    assert!(found.len() >= 30);
    found
}

/// The schema with all that it refers to in its place, and whether null will do as well.
fn resolved(schema: &Value, api: &Value) -> (Option<Value>, bool) {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolved(&api["components"]["schemas"][reference.rsplit('/').next().unwrap()], api);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let nullable = choices.iter().any(|choice| choice["type"] == "null");
        let real = choices.iter().find(|choice| choice["type"] != "null").unwrap();
        return (resolved(real, api).0, nullable);
    }
    let kinds = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    let mut whole = schema.clone();
    whole["type"] = kinds.iter().find(|kind| **kind != "null").unwrap().clone();
    for field in whole["properties"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let (one, nullable) = resolved(field, api);
        *field = one.unwrap();
        field["nullable"] = json!(nullable || field["nullable"] == true);
    }
    whole["nullable"] = json!(kinds.contains(&json!("null")));
    (Some(whole), false)
}

impl Described {
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The request as it should be.
    pub(crate) fn good(&self, there: &There) -> Ask {
        let mut headers = Vec::new();
        let named = self.parameters.iter().filter(|(place, _, required)| place == "header" && *required);
        headers.extend(named.map(|(_, name, _)| (name.clone(), b"1".to_vec())));
        let body = self.body.as_ref().map(|schema| good_body(&self.path, schema, there).to_string().into_bytes());
        if body.is_some() {
            headers.push(("content-type".to_owned(), b"application/json".to_vec()));
        }
        Ask { method: self.method.clone(), path: self.address("", "", there), headers, body }
    }

    /// The path with `instead` for the parameter `spoiled`, and what is really there for the others.
    fn address(&self, spoiled: &str, instead: &str, there: &There) -> String {
        let fill =
            |name: &str| match (name, self.path.split('/').nth(if self.path.starts_with("/api") { 2 } else { 1 })) {
                (name, _) if name == spoiled => instead.to_owned(),
                ("id", Some("bots" | "chat")) => there.bot.clone(),
                ("id", Some("keys")) => there.key.clone(),
                ("id", Some("checkout")) => there.checkout.clone(),
                ("id", Some("admin")) if self.path.contains("/bots/") => there.bot.clone(),
                ("id", Some("admin")) => there.somebody.clone(),
                ("cid", _) => there.conversation.clone(),
                ("sid", _) => "weather".to_owned(),
                ("domain", _) => ALLOWED.to_owned(),
                other => panic!("{}: say here what a good {other:?} is", self.path),
            };
        let parts = self.path.split(['{', '}']).enumerate();
        parts.map(|(at, part)| if at % 2 == 0 { part.to_owned() } else { fill(part) }).collect()
    }

    /// Every spoiled request.
    pub(crate) fn spoiled(&self, there: &There) -> Vec<Spoiled> {
        let mut found = self.spoiled_ids(there);
        found.extend(self.spoiled_parameters(there));
        found.extend(self.spoiled_wrapping(there));
        if let Some(schema) = &self.body {
            let good = good_body(&self.path, schema, there);
            self.spoil_fields(schema, &good, "", there, &mut found);
        }
        found
    }

    fn spoiled_ids(&self, there: &There) -> Vec<Spoiled> {
        let long = "x".repeat(300);
        let mut found = Vec::new();
        for (_, name, _) in self.parameters.iter().filter(|(place, ..)| place == "path") {
            let code = match (name.as_str(), self.path.split('/').nth(2)) {
                ("id", Some("bots" | "chat")) => "bot_not_found",
                ("cid", _) => "conversation_not_found",
                ("sid", _) => "unknown_skill",
                ("domain", _) => "domain_not_found",
                ("id", Some("keys")) => "key_not_found",
                ("id", Some("admin")) if self.path.contains("/bots/") => "bot_not_found",
                ("id", Some("admin")) => "user_not_found",
                ("id", _) if self.path.starts_with("/checkout/") => "checkout_not_found",
                other => panic!("{}: say here what is not found by a bad {other:?}", self.path),
            };
            let nobodys = ["molt-0123456789ab", "00000000-0000-4000-8000-000000000000", "c-0123456789ab"];
            let nonsense = ["nothing", "0", "-1", "%00", "..%2f..", "'%20or%201=1", "%F0%9F%A6%9E", "MAIN", &long];
            let nothing = if self.path.ends_with(&format!("{{{name}}}")) { "route_not_found" } else { code };
            let others = [("", nothing), ("%ff", "route_not_found")];
            let cases = nobodys.iter().chain(&nonsense).map(|id| (*id, code)).chain(others);
            for (id, code) in cases {
                let ask = Ask { path: self.address(name, id, there), ..self.good(there) };
                found.push(Spoiled { what: format!("{name} = {id:.40}"), ask, status: 404, code });
            }
        }
        found
    }

    fn spoiled_parameters(&self, there: &There) -> Vec<Spoiled> {
        let mut found = Vec::new();
        let mut add = |what: String, ask: Ask, (status, code): (u16, &'static str)| {
            found.push(Spoiled { what, ask, status, code });
        };
        let mut in_query = false;
        for (place, name, required) in &self.parameters {
            let header = |value: &[u8]| {
                let mut ask = self.good(there);
                ask.headers.retain(|(other, _)| other != name);
                ask.headers.push((name.clone(), value.to_vec()));
                ask
            };
            match place.as_str() {
                "header" => {
                    for (value, answer) in bad_headers(name) {
                        add(format!("{name}: {}", value.escape_ascii()), header(&value), answer);
                    }
                }
                "query" => {
                    in_query = true;
                    for (value, answer) in bad_queries(name) {
                        let good = self.good(there);
                        let ask = Ask { path: format!("{}?{name}={value}", good.path), ..good };
                        add(format!("?{name}={value}"), ask, answer);
                    }
                }
                _ => {}
            }
            if place == "header" && *required {
                let mut ask = self.good(there);
                ask.headers.retain(|(other, _)| other != name);
                add(format!("without {name}"), ask, (428, "revision_required"));
            }
        }
        if in_query {
            let good = self.good(there);
            let ask = Ask { path: format!("{}?surely_unknown=1", good.path), ..good };
            add("an unknown word in the query".to_owned(), ask, (400, "invalid_query"));
        }
        found
    }

    /// The body as a whole: its size, its kind, its encoding.
    fn spoiled_wrapping(&self, there: &There) -> Vec<Spoiled> {
        let mut found = Vec::new();
        let mut add = |what: &str, headers: &[(&str, &str)], body: Vec<u8>, status: u16, code: &'static str| {
            let mut ask = self.good(there);
            ask.headers.retain(|(name, _)| !headers.iter().any(|(other, _)| other == name));
            let new = headers.iter().filter(|(_, value)| !value.is_empty());
            ask.headers.extend(new.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())));
            found.push(Spoiled { what: what.to_owned(), ask: Ask { body: Some(body), ..ask }, status, code });
        };
        let large = || vec![b' '; TOO_LARGE];
        add("too large, and says so", &[("content-length", &TOO_LARGE.to_string())], large(), 413, "body_too_large");
        let Some(good) = self.good(there).body else { return found };
        add("too large", &[], large(), 413, "body_too_large");
        for body in ["{", "{}{}", "{'a': 1}", "nonsense", "\u{feff}{}"] {
            add(body, &[], body.as_bytes().to_vec(), 400, "invalid_json");
        }
        add("not UTF-8", &[], b"{\"a\": \"\xff\xfe\"}".to_vec(), 400, "invalid_json");
        add("too deep", &[], "[".repeat(5_000).into_bytes(), 400, "invalid_json");
        for body in ["[]", "7", "true", "\"text\""] {
            add(body, &[], body.as_bytes().to_vec(), 422, "invalid_body");
        }
        if !self.body_optional {
            add("nothing", &[], Vec::new(), 400, "invalid_json");
            add("null", &[], b"null".to_vec(), 422, "invalid_body");
        }
        for kind in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json"] {
            add(&format!("marked as {kind:?}"), &[("content-type", kind)], good.clone(), 415, "unsupported_media_type");
        }
        found
    }

    fn spoil_fields(&self, schema: &Value, good: &Value, at: &str, there: &There, found: &mut Vec<Spoiled>) {
        let Some(fields) = schema["properties"].as_object() else { return };
        let mut add = |what: String, body: String, status: u16, code: &'static str| {
            let ask = Ask { body: Some(body.into_bytes()), ..self.good(there) };
            found.push(Spoiled { what, ask, status, code });
        };
        let object = |body: &mut Value| body.pointer_mut(at).unwrap().as_object_mut().unwrap().clone();
        let with = |change: &dyn Fn(&mut Map<String, Value>)| {
            let mut body = good.clone();
            let mut inner = object(&mut body);
            change(&mut inner);
            *body.pointer_mut(at).unwrap() = Value::Object(inner);
            body.to_string()
        };
        let extra = with(&|inner| drop(inner.insert("surely_unknown".to_owned(), json!(1))));
        add(format!("{at}/surely_unknown"), extra, 422, "invalid_body");
        for (name, field) in fields {
            let place = format!("{at}/{name}");
            let set = |value: &Value| with(&|inner| drop(inner.insert(name.clone(), value.clone())));
            if schema["required"].as_array().is_some_and(|names| names.contains(&json!(name))) {
                add(format!("without {place}"), with(&|inner| drop(inner.remove(name))), 422, "invalid_body");
            }
            for value in wrong_values(field) {
                add(format!("{place} = {value}"), set(&value), 422, "invalid_body");
            }
            if field["type"] == "string" {
                let half = set(&json!("HALF")).replace("HALF", "\\ud800");
                add(format!("{place} with half a character"), half, 400, "invalid_json");
            }
            if field["type"] == "string" && field["enum"].is_null() {
                for (what, value) in
                    [("empty", String::new()), ("too long", "x".repeat(TOO_LONG)), ("NUL", "a\0b".into())]
                {
                    if let Some((status, code)) = bad_text(&self.path, name, &value) {
                        add(format!("{place}, {what}"), set(&json!(value)), status, code);
                    }
                }
            }
        }
        for (name, field) in fields {
            self.spoil_fields(field, good, &format!("{at}/{name}"), there, found);
        }
    }
}

/// Values of every kind that the field doesn't take.
fn wrong_values(field: &Value) -> Vec<Value> {
    let kind = field["type"].as_str().unwrap();
    let all =
        [json!({"not": "this"}), json!(["nor this"]), json!(7.5), json!("no such word"), json!(true), Value::Null];
    let takes = |value: &Value| match value {
        Value::Null => field["nullable"] == true,
        Value::Bool(_) => kind == "boolean",
        Value::Number(_) => kind == "number",
        Value::String(_) => kind == "string" && field["enum"].is_null(),
        Value::Array(_) => kind == "array",
        Value::Object(_) => kind == "object" && field["properties"].is_null(),
    };
    all.into_iter().filter(|value| !takes(value)).collect()
}

/// What a text gets that is of the right kind and can't be meant. `None`: any text will do.
fn bad_text(path: &str, field: &str, value: &str) -> Option<(u16, &'static str)> {
    Some(match (path, field) {
        ("/api/auth/login", "password") => (401, "wrong_credentials"),
        ("/api/auth/magic-link/consume", "token") => (401, "link_invalid"),
        ("/api/billing/checkout", "bot_id") => (404, "bot_not_found"),
        ("/api/bots/{id}/skills", "skill_id") => (404, "unknown_skill"),
        // Nobody has to say what they are called.
        ("/api/auth/signup", "name") if value.is_empty() => return None,
        // An open door asks for no invitation.
        ("/api/auth/signup", "invite") => return None,
        _ => (422, "invalid_body"),
    })
}

fn bad_headers(name: &str) -> Vec<(Vec<u8>, (u16, &'static str))> {
    let no_number = ["", "x", "1.5", "99999999999999999999"];
    let mut found: Vec<(Vec<u8>, (u16, &'static str))> = Vec::new();
    let mut add = |value: &str, status, code| found.push((value.as_bytes().to_vec(), (status, code)));
    match name {
        "if-match" => {
            no_number
                .iter()
                .chain(&["*", "W/\"1\"", "\"1", "1, 2"])
                .for_each(|value| add(value, 400, "invalid_header"));
            ["0", "-1", "2", "\"2\""].iter().for_each(|value| add(value, 412, "revision_stale"));
        }
        "last-event-id" => no_number.iter().chain(&["-1"]).for_each(|value| add(value, 400, "invalid_header")),
        "idempotency-key" => ["", " ", &"x".repeat(201)].iter().for_each(|value| add(value, 400, "invalid_header")),
        other => panic!("say here what a bad {other} is"),
    }
    found.push((vec![b'1', 0xff], (400, "invalid_header")));
    found
}

fn bad_queries(name: &str) -> Vec<(&'static str, (u16, &'static str))> {
    let (values, answer): (&[&str], _) = match name {
        "limit" => (&["", "x", "-1", "0", "201", "65536", "1.5", "1&limit=2", "%ff"], (400, "invalid_query")),
        "after" => (&["nonsense", "%00", "%ff", "'%20or%201=1", ""], (400, "invalid_query")),
        // Only an upgrade uses a ticket.
        "ticket" => (&["nonsense", ""], (400, "invalid_header")),
        other => panic!("say here what a bad {other} is"),
    };
    values.iter().map(|value| (*value, answer)).collect()
}

fn good_body(path: &str, schema: &Value, there: &There) -> Value {
    let fields = schema["properties"].as_object().unwrap();
    let good = |name: &str, field: &Value| match (name, field["type"].as_str().unwrap()) {
        (_, "boolean") => json!(true),
        ("email", _) if path == "/api/auth/signup" => json!("new@example.com"),
        ("email", _) => json!(there.email),
        ("password", _) => json!(there.password),
        ("bot_id", _) => json!(there.bot),
        ("default_model", _) => json!("practice/one"),
        ("fallback_model", _) => json!("practice/two"),
        ("timezone", _) => json!("Europe/Berlin"),
        ("daily_summary_at", _) => json!("07:30"),
        ("cap_usd", _) => json!("12.50"),
        ("domain", _) if path.ends_with("/dismiss") => json!(REFUSED),
        ("domain", _) => json!(ALLOWED),
        ("bot_name" | "name" | "title" | "token" | "invite" | "skill_id" | "reason", _) => json!("Pip"),
        (_, "string") if field["enum"].is_array() => field["enum"][0].clone(),
        (_, "object") if field["properties"].is_null() => json!({}),
        (_, "object") => good_body(path, field, there),
        other => panic!("{path}: say here what a good {other:?} is"),
    };
    Value::Object(fields.iter().map(|(name, field)| (name.clone(), good(name, field))).collect())
}
