//! Wrong input at every address of `openapi.json`: a Problem each time, and nothing changes.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::kit::{Answer, Door, PASSWORD, Person, door};
use crate::spoil::{Ask, REFUSED, Spoiled, There, described};
use crate::strangers::{Operation, operations};

/// The person's own ids where ids are asked for.
fn address(operation: &Operation, bot: &str) -> String {
    let path = operation.path.replace("{cid}", "main").replace("{sid}", "weather").replace("{domain}", "example.org");
    let with_bot = path.starts_with("/api/bots/") || path.starts_with("/api/chat/");
    path.replace("{id}", if with_bot { bot } else { "00000000-0000-4000-8000-000000000000" })
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

/// A door with something behind it, and somebody who may open every part of it.
async fn furnished() -> (Door, Person, There) {
    let door = door().await;
    let (ann, eve) = (door.person("Ann").await, door.person("Eve").await);
    door.database.execute(&format!("update molt.users set role = 'operator' where id = '{}'", ann.id)).await;
    let bot = door.bot(&ann, "Pip").await;
    door.plan(&ann).await;
    let made = door.post(&format!("/api/bots/{bot}/conversations"), &ann.token, json!({ "title": "Trains" })).await;
    let link = door.post("/api/billing/checkout", &ann.token, json!({})).await.json();
    let mut tx = door.database.store.system().await.unwrap();
    let (key, _) =
        tx.create_ghost_key(ann.id.parse().unwrap(), None, "laptop", None, chrono::Utc::now()).await.unwrap();
    tx.commit().await.unwrap();
    door.database
        .execute(&format!(
            "insert into molt.egress_refusals (bot_id, user_id, domain, port, reason, count, first_at, last_at)
             values ('{bot}', '{}', '{REFUSED}', 443, 'not_listed', 1, now(), now())",
            ann.id
        ))
        .await;
    let there = There {
        key: key.to_string(),
        email: ann.email.clone(),
        password: PASSWORD.to_owned(),
        conversation: made.json()["id"].as_str().unwrap().to_owned(),
        checkout: link["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned(),
        somebody: eve.id,
        bot,
    };
    (door, ann, there)
}

async fn ask(door: &Door, ask: Ask, token: &str) -> Answer {
    let mut request = Request::builder().method(ask.method.as_str()).uri(ask.path);
    for (name, value) in ask.headers {
        request = request.header(name, value);
    }
    if !token.is_empty() {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    door.send(request.body(ask.body.map_or_else(Body::empty, Body::from)).unwrap()).await
}

#[tokio::test]
async fn one_thing_wrong_gets_the_one_answer_to_it_and_changes_nothing() {
    let (door, ann, there) = furnished().await;
    let before = door.database.everything().await;
    let (mut asked, mut faults) = (0, Vec::new());
    for operation in described() {
        let token = if operation.open { "" } else { &ann.token };
        for Spoiled { what, ask: spoiled, status, code } in operation.spoiled(&there) {
            let large = spoiled.body.as_ref().is_some_and(|body| body.len() > 1024 * 1024);
            if closed(&operation.name()).is_some_and(|_| !large) {
                continue;
            }
            asked += 1;
            let answer = ask(&door, spoiled, token).await;
            let said: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            if (answer.status.as_u16(), said["code"].as_str()) == (status, Some(code)) {
                answer.any_problem();
            } else {
                faults.push(format!(
                    "{}, {what}: not {code} but {} {:.200}",
                    operation.name(),
                    answer.status,
                    answer.text
                ));
            }
        }
    }
    assert!(faults.is_empty(), "of {asked}:\n{}", faults.join("\n"));
    assert!(asked > 700, "only {asked} wrong requests were tried");
    assert_eq!(door.database.everything().await, before, "nothing has changed");

    // And each of them is good when nothing is spoiled, or it proves nothing. What removes comes last.
    let mut all = described();
    all.sort_by_key(|operation| (operation.method == "DELETE", std::cmp::Reverse(operation.path.len())));
    for operation in all {
        let token = if operation.open { "" } else { &ann.token };
        let answer = ask(&door, operation.good(&there), token).await;
        match closed(&operation.name()).or(unanswered(&operation.name())) {
            Some((status, code)) => drop(answer.problem(status, code)),
            None => assert!(answer.status.is_success(), "{}: {} {}", operation.name(), answer.status, answer.text),
        }
    }
}

/// Addresses that have nothing behind them here, whatever they are asked.
fn closed(name: &str) -> Option<(u16, &'static str)> {
    match name {
        "POST /api/auth/webhook" | "POST /api/billing/webhook" => Some((404, "not_configured")),
        _ => None,
    }
}

/// What a good request gets where no skill, link, cookie or upgrade is.
fn unanswered(name: &str) -> Option<(u16, &'static str)> {
    match name {
        "POST /api/bots/{id}/skills" | "PATCH /api/bots/{id}/skills/{sid}" | "DELETE /api/bots/{id}/skills/{sid}" => {
            Some((404, "unknown_skill"))
        }
        "POST /api/auth/magic-link/consume" => Some((401, "link_invalid")),
        "POST /api/auth/refresh" => Some((401, "session_ended")),
        "GET /api/chat/{id}" => Some((400, "invalid_header")),
        _ => None,
    }
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
