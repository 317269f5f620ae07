//! The description of the API for programs (`openapi.json`) and for people (`/api/docs`), both made from the handlers.
//! Never: a script, or a sentence that isn't in the description.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::Operation;

use crate::problem::Code;
use crate::state::ApiState;

static DESCRIPTION: LazyLock<String> = LazyLock::new(|| pretty(&crate::openapi()));
static PAGE: LazyLock<String> = LazyLock::new(|| page(&crate::openapi()));

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/api/openapi.json", get(|| async { ([(CONTENT_TYPE, "application/json")], DESCRIPTION.as_str()) }))
        .route("/api/docs", get(|| async { Html(PAGE.as_str()) }))
}

/// The description as it is kept in the repository.
pub(crate) fn pretty(api: &OpenApi) -> String {
    let mut text = serde_json::to_string_pretty(api).expect("a description is always JSON");
    text.push('\n');
    text
}

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The API of Molt</title>
<link rel="icon" href="/favicon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/docs.css">
</head>
<body>
<h1>The API of Molt</h1>
<p>JSON in and out, snake_case, times as RFC 3339 in UTC, money as decimal strings in US dollars. Send the session token
as
<code>Authorization: Bearer &lt;token&gt;</code>. For programs: <a href="/api/openapi.json">openapi.json</a>.</p>
"#;

/// The page for people.
fn page(api: &OpenApi) -> String {
    let described = serde_json::to_value(api).expect("a description is always JSON");
    let mut tags: Vec<(String, String)> = Vec::new();
    for (path, item) in &api.paths.paths {
        let methods = [
            ("GET", &item.get),
            ("POST", &item.post),
            ("PUT", &item.put),
            ("PATCH", &item.patch),
            ("DELETE", &item.delete),
        ];
        for (method, operation) in methods {
            let Some(operation) = operation else { continue };
            let tag = operation.tags.as_ref().and_then(|tags| tags.first()).map_or("other", String::as_str);
            let text = section(method, path, operation, &described);
            match tags.iter_mut().find(|(name, _)| name == tag) {
                Some((_, sections)) => sections.push_str(&text),
                None => tags.push((tag.to_owned(), text)),
            }
        }
    }
    let mut page = HEAD.to_owned();
    for (tag, sections) in tags {
        let _ = write!(page, "<h2>{}</h2>\n{sections}", escape(&tag));
    }
    page.push_str(&problems());
    page.push_str("</body>\n</html>\n");
    page
}

fn section(method: &str, path: &str, operation: &Operation, described: &serde_json::Value) -> String {
    let open = operation.security.as_ref().is_some_and(|rules| rules.iter().all(|rule| rule == &Default::default()));
    let mark = if open { " <span class=\"open\">no login</span>" } else { "" };
    let said = [operation.summary.as_deref(), operation.description.as_deref()];
    let said = said.into_iter().flatten().map(escape).collect::<Vec<_>>().join(" ");
    let mut text = format!(
        "<section><p><span class=\"method\">{method}</span> <code>{}</code>{mark}</p>\n<p>{said}</p>\n",
        escape(path)
    );
    let operation = &described["paths"][path][method.to_lowercase()];
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !body.is_null() {
        text.push_str(&shape("Body", body, described));
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let schema = &response["content"]["application/json"]["schema"];
        if !schema.is_null() {
            text.push_str(&shape(&format!("Answer {status}"), schema, described));
        } else if status != "default" {
            let _ = writeln!(text, "<p>Answer {status}</p>");
        }
    }
    text.push_str("</section>\n");
    text
}

/// A schema behind a fold, with what it names written out once.
fn shape(title: &str, schema: &serde_json::Value, described: &serde_json::Value) -> String {
    let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
    let resolved = name.map_or(schema, |name| &described["components"]["schemas"][name]);
    let json = serde_json::to_string_pretty(resolved).expect("a description is always JSON");
    let name = name.map(|name| format!(" <code>{}</code>", escape(name))).unwrap_or_default();
    format!("<details><summary>{title}{name}</summary><pre>{}</pre></details>\n", escape(&json))
}

fn problems() -> String {
    let mut text = String::from(
        "<h2>Problems</h2>\n<p>Whatever is refused is an <code>application/problem+json</code> with \
         <code>code</code>, <code>title</code>, <code>status</code>, <code>detail</code> and, for a field at fault, \
         <code>field</code>. Codes never change.</p>\n<table><tr><th>Code</th><th>Status</th><th>Title</th></tr>\n",
    );
    for code in Code::ALL {
        let (word, status) = (code.as_str(), code.status().as_u16());
        let _ = writeln!(
            text,
            "<tr id=\"{word}\"><td><code>{word}</code></td><td>{status}</td><td>{}</td></tr>",
            escape(code.title())
        );
    }
    text.push_str("</table>\n");
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
