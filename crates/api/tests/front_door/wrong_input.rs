//! Wrong input at every address of `openapi.json`: a Problem each time, and nothing changes.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::kit::{Door, PASSWORD, Person, door};
use crate::strangers::{Operation, operations};

/// The person's own ids where ids are asked for.
fn address(operation: &Operation, bot: &str) -> String {
    let path = operation.path.replace("{cid}", "main").replace("{sid}", "weather");
    let with_bot = path.starts_with("/api/bots/") || path.starts_with("/api/chat/");
    path.replace("{id}", if with_bot { bot } else { "00000000-0000-4000-8000-000000000000" })
}

async fn raw(
    door: &Door,
    operation: &Operation,
    path: &str,
    token: &str,
    kind: &str,
    body: Vec<u8>,
) -> crate::kit::Answer {
    let mut request = Request::builder().method(operation.method.as_str()).uri(path).header("if-match", "1");
    if !token.is_empty() {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    if !kind.is_empty() {
        request = request.header(CONTENT_TYPE, kind);
    }
    door.send(request.body(Body::from(body)).unwrap()).await
}

async fn rows(door: &Door) -> String {
    let sql = "select string_agg(format('%s %s %s', id, intent, revision), ',' order by id) from molt.bots";
    let bots = door.database.text(sql).await;
    let sql = "select string_agg(u::text, ',' order by id) from molt.users u";
    format!("{bots:?} {:?}", door.database.text(sql).await)
}

#[tokio::test]
async fn without_a_good_session_token_nothing_happens() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    let other = door_of_others().await;
    let before = rows(&door).await;
    let tokens = forged(&ann, &other);
    let mut tried = 0;
    for operation in operations().iter().filter(|operation| !operation.open) {
        let path = address(operation, &bot);
        for (what, token) in &tokens {
            let answer = door.call(&operation.method, &path, token, operation.body.as_ref()).await;
            let name = format!("{} {path} with {what}: {} {}", operation.method, answer.status, answer.text);
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{name}");
            assert!(
                ["unauthenticated", "ticket_invalid"].contains(&answer.any_problem()["code"].as_str().unwrap()),
                "{name}"
            );
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        tried += 1;
    }
    assert!(tried >= 20);
    assert_eq!(rows(&door).await, before);
}

/// A session token of another installation, signed with another key.
async fn door_of_others() -> String {
    let other = door().await;
    other.person("Ann").await.token
}

/// Tokens that must not work, with what is wrong about each.
fn forged(ann: &Person, other: &str) -> Vec<(&'static str, String)> {
    let parts: Vec<&str> = ann.token.split('.').collect();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut flipped = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
    flipped[10] ^= 1;
    let flipped = URL_SAFE_NO_PAD.encode(flipped);
    claims["sub"] = json!("00000000-0000-4000-8000-000000000000");
    let none = json!({ "alg": "none", "kid": header["kid"] });
    let symmetric = json!({ "alg": "HS256", "kid": header["kid"] });
    vec![
        ("no token", String::new()),
        ("a word", "nonsense".to_owned()),
        ("a changed signature", format!("{}.{}.{flipped}", parts[0], parts[1])),
        ("another subject", format!("{}.{}.{}", parts[0], encode(&claims), parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("alg none", format!("{}.{}.", encode(&none), parts[1])),
        ("alg HS256", format!("{}.{}.{}", encode(&symmetric), parts[1], parts[2])),
        ("another installation's token", other.to_owned()),
        ("a very long token", "x".repeat(10_000)),
        ("the refresh token", ann.cookie.split_once('=').unwrap().1.to_owned()),
    ]
}

#[tokio::test]
async fn every_body_is_checked() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    let before = rows(&door).await;
    let mut tried = 0;
    let skipped = ["/api/admin/users/{id}/role", "/api/bots/{id}/skills", "/api/bots/{id}/skills/{sid}"];
    for operation in operations().iter().filter(|operation| operation.body.is_some()) {
        let path = address(operation, &bot);
        let name = format!("{} {path}", operation.method);
        if skipped[0] == operation.path {
            continue; // 403 before anything else, which strangers.rs checks
        }
        let token = if operation.open { "" } else { &ann.token };
        let json = "application/json";
        let unknown = if operation.strict { b"{\"surely_unknown\": 1}".to_vec() } else { b"\"text\"".to_vec() };
        for (kind, body, statuses) in [
            (json, b"{".to_vec(), vec![400]),
            (json, b"\xff\xfe".to_vec(), vec![400, 422]),
            (json, b"[]".to_vec(), vec![422]),
            (json, b"7".to_vec(), vec![422]),
            (json, unknown.clone(), vec![422]),
            (json, vec![b' '; 1024 * 1024 + 1], vec![413]),
            ("text/plain", b"{}".to_vec(), vec![415, 422]),
        ] {
            let answer = raw(&door, operation, &path, token, kind, body).await;
            let status = answer.status.as_u16();
            if kind == "text/plain" && status == 200 {
                continue; // a body that may be left out
            }
            assert!(statuses.contains(&status), "{name} {kind} {statuses:?}: {status} {}", answer.text);
            answer.any_problem();
        }
        tried += 1;
    }
    assert!(tried >= 9);
    assert_eq!(rows(&door).await, before);
}

#[tokio::test]
async fn every_address_takes_its_methods_only() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let all = operations();
    for operation in &all {
        let path = address(operation, "molt-000000000000");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let known = all.iter().any(|other| other.path == operation.path && other.method == method);
            if known || (method == "GET" && operation.path == "/checkout/{id}") {
                continue;
            }
            let answer = door.call(method, &path, &ann.token, None).await;
            answer.problem(405, "method_not_allowed");
            assert!(answer.headers.contains_key("allow"), "{method} {path}");
        }
    }
    for path in ["/api", "/api/", "/api/bots/", "/api/no/such/thing", "/v2"] {
        door.get(path, &ann.token).await.problem(404, "route_not_found");
    }
}

#[tokio::test]
async fn ids_that_are_no_ids_are_not_found() {
    let door = door().await;
    let ann = door.person("Ann").await;
    for id in [
        "7",
        "molt-",
        "molt-00000000000O",
        "MOLT-000000000000",
        "%00",
        "%ff",
        "..%2f",
        "'%20or%201=1",
        &"x".repeat(5_000),
    ] {
        let answer = door.get(&format!("/api/bots/{id}"), &ann.token).await;
        answer.any_problem();
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id}");
    }
}

#[tokio::test]
async fn fields_of_the_first_forms_are_checked_one_by_one() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let long = "x".repeat(201);
    for (field, email, password) in [
        ("email", "", PASSWORD),
        ("email", "no-at-sign", PASSWORD),
        ("email", "a\u{0}b@example.com", PASSWORD),
        ("password", "new@example.com", "short"),
        ("password", "new@example.com", "new@example.com"),
        ("password", "new@example.com", &long),
    ] {
        let body = json!({ "email": email, "password": password, "name": "New" });
        assert_eq!(door.post("/api/auth/signup", "", body).await.problem(422, "invalid_body")["field"], json!(field));
    }
    door.post("/api/auth/login", "", json!({ "email": "a\u{0}b@example.com", "password": "x" })).await.any_problem();
    let odd = json!({ "email": "ann@example.com", "password": "a\u{0}b" });
    door.post("/api/auth/login", "", odd).await.problem(401, "wrong_credentials");
    for (field, name, zone) in [
        ("bot_name", "", "UTC"),
        ("bot_name", "a\u{0}b", "UTC"),
        ("bot_name", "an assistant's name of more than forty characters", "UTC"),
        ("timezone", "Pip", ""),
        ("timezone", "Pip", "Europe/Atlantis"),
    ] {
        let body = json!({ "bot_name": name, "vertical": "creator", "timezone": zone });
        assert_eq!(door.post("/api/bots", &ann.token, body).await.problem(422, "invalid_body")["field"], json!(field));
    }
    let body = json!({ "bot_name": "Pip", "vertical": "king", "timezone": "UTC" });
    let problem = door.post("/api/bots", &ann.token, body).await.problem(422, "invalid_body");
    assert!(problem["detail"].as_str().unwrap().contains("vertical"), "{problem}");
    assert_eq!(door.database.count("select count(*) from molt.bots").await, 0);
    assert_eq!(door.database.count("select count(*) from molt.users").await, 1);
}
