//! The routes as the running program describes them itself, and a well-formed request for each.
//! Never: a list of routes written by hand.

use serde_json::{Map, Value, json};

use super::Stack;
use super::http::Ask;

/// Deeper than any body of ours; a schema that refers to itself ends here.
const DEPTH_MAX: u32 = 12;

#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) method: String,
    /// With its parameters in braces.
    pub(crate) path: String,
    pub(crate) needs_login: bool,
    /// A body that fits, if the route takes one.
    pub(crate) body: Option<Value>,
    /// Names of the body's fields that must be there.
    pub(crate) required: Vec<String>,
    /// Names of the body's fields that may be null.
    pub(crate) nullable: Vec<String>,
    /// Names of headers that must be there.
    pub(crate) headers: Vec<String>,
}

impl Route {
    /// The request with `fill` for the parameters of the path, a fitting body and headers; no login yet.
    pub(crate) fn ask(&self, fill: &dyn Fn(&str) -> String) -> Ask {
        let mut path = String::new();
        for (at, part) in self.path.split(['{', '}']).enumerate() {
            path.push_str(&if at % 2 == 0 { part.to_owned() } else { fill(part) });
        }
        let mut ask = Ask::new(&self.method, &path);
        for name in &self.headers {
            ask = ask.header(name, "1");
        }
        match &self.body {
            Some(body) => ask.json(body),
            None => ask,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method.to_uppercase(), self.path)
    }
}

impl Stack {
    /// Every route of `/api/openapi.json`.
    pub(crate) async fn routes(&self) -> Vec<Route> {
        let described = self.http.try_get("/api/openapi.json").await.expect("an answer").ok();
        let mut routes = Vec::new();
        for (path, methods) in described["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                if ["get", "post", "put", "patch", "delete"].contains(&method.as_str()) {
                    routes.push(route(&described, path, method, operation, methods));
                }
            }
        }
        assert!(routes.len() > 20, "the description has the routes");
        routes
    }
}

fn route(all: &Value, path: &str, method: &str, operation: &Value, methods: &Value) -> Route {
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let schema = resolve(all, schema);
    let names = |list: &Value| -> Vec<String> {
        let names = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(str::to_owned).collect()
    };
    let parameters =
        [&operation["parameters"], &methods["parameters"]].into_iter().filter_map(Value::as_array).flatten();
    let headers = parameters.filter(|one| one["in"] == "header" && one["required"] == true);
    let login = operation.get("security").or_else(|| all.get("security"));
    Route {
        method: method.to_owned(),
        path: path.to_owned(),
        needs_login: login.and_then(Value::as_array).is_some_and(|ways| ways.iter().all(|way| !no_requirement(way))),
        body: (!schema.is_null()).then(|| example(all, &schema, 0)),
        required: names(&schema["required"]),
        nullable: nullable(&schema),
        headers: headers.filter_map(|one| one["name"].as_str()).map(str::to_owned).collect(),
    }
}

fn nullable(schema: &Value) -> Vec<String> {
    let fields = schema["properties"].as_object().into_iter().flatten();
    let null = |kinds: &Value| kinds.as_array().is_some_and(|kinds| kinds.contains(&json!("null")));
    fields.filter(|(_, field)| null(&field["type"])).map(|(name, _)| name.clone()).collect()
}

fn no_requirement(way: &Value) -> bool {
    way.as_object().is_none_or(Map::is_empty)
}

fn resolve(all: &Value, schema: &Value) -> Value {
    let Some(name) = schema["$ref"].as_str().and_then(|to| to.rsplit('/').next()) else { return schema.clone() };
    all["components"]["schemas"][name].clone()
}

/// A value that fits the schema: its own example, else the plainest one of its type.
fn example(all: &Value, schema: &Value, depth: u32) -> Value {
    let schema = resolve(all, schema);
    let given = schema.get("example").or_else(|| schema["examples"].get(0)).or_else(|| schema["enum"].get(0));
    if let Some(given) = given {
        return given.clone();
    }
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    for several in ["oneOf", "anyOf"] {
        if let Some(ways) = schema[several].as_array() {
            let way = ways.iter().find(|way| way["type"] != "null").unwrap_or(&Value::Null);
            return example(all, way, depth + 1);
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let parts = parts.iter().map(|part| example(all, part, depth + 1));
        let fields = parts.filter_map(|part| part.as_object().cloned()).flatten();
        return Value::Object(fields.collect());
    }
    let kinds = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    match kinds.iter().find_map(|kind| kind.as_str().filter(|kind| *kind != "null")) {
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields.map(|(name, field)| (name.clone(), example(all, field, depth + 1))).collect()
        }
        Some("array") => json!([example(all, &schema["items"], depth + 1)]),
        Some("string") => json!(text(&schema)),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(true),
        _ => Value::Null,
    }
}

fn text(schema: &Value) -> String {
    match schema["format"].as_str() {
        Some("uuid") => uuid::Uuid::new_v4().to_string(),
        Some("date-time") => "2030-01-01T00:00:00Z".to_owned(),
        Some("email") => "somebody@example.com".to_owned(),
        _ => "example".to_owned(),
    }
}
