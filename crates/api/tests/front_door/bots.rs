//! Making, setting up, restarting and removing assistants.

use http::StatusCode;
use serde_json::{Value, json};

use crate::kit::door;

#[tokio::test]
async fn an_assistant_waits_for_a_plan_and_starts_with_it() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let body = json!({ "bot_name": " Pip ", "vertical": "executive", "timezone": "UTC", "personality": "playful" });
    let answer = door.post("/api/bots", &ann.token, body).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let bot = answer.json();
    let id = bot["id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/api/bots/{id}"));
    let fields: Vec<&str> = bot.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "id",
        "bot_name",
        "vertical",
        "status",
        "phase",
        "phase_since",
        "reason",
        "suspended",
        "steps",
        "settings",
        "revision",
        "applied_revision",
        "unusual",
        "cap_usd",
        "created_at",
        "running_since",
    ];
    assert_eq!(fields, expected);
    assert_eq!((&bot["status"], &bot["phase"]), (&json!("provisioning"), &json!("awaiting_plan")));
    assert_eq!(
        bot["settings"],
        json!({
            "bot_name": "Pip", "personality": "playful", "timezone": "UTC", "default_model": "practice/one",
            "fallback_model": null, "notifications": { "email": true, "push": false, "daily_summary_at": null },
        })
    );
    let restart = format!("/api/bots/{id}/restart");
    door.call("POST", &restart, &ann.token, None).await.problem(409, "not_in_this_state");

    let accepted = door.plan(&ann).await.json();
    assert_eq!(accepted["bot_id"], json!(id));
    assert_eq!(accepted["return_url"], json!(format!("http://127.0.0.1:8787/app/bots/{id}")));
    let bot = door.get(&format!("/api/bots/{id}"), &ann.token).await.json();
    assert_eq!((&bot["status"], &bot["phase"]), (&json!("provisioning"), &json!("queued")));
    assert_eq!(
        door.database.text("select intent from molt.bots where due_at is not null").await.as_deref(),
        Some("running")
    );
    assert_eq!(door.call("POST", &restart, &ann.token, None).await.status, StatusCode::ACCEPTED);
    assert_eq!(door.database.count("select generation from molt.bots").await, 2);

    // the plan is there already: the next one starts at once
    let second = door.bot(&ann, "Pop").await;
    let second = door.get(&format!("/api/bots/{second}"), &ann.token).await.json();
    assert_eq!(second["phase"], "queued");
    let kinds = door.database.text("select string_agg(kind, ' ' order by id) from molt.events").await.unwrap();
    assert_eq!(kinds, "bot.created plan.changed bot.changed bot.changed bot.created");
}

#[tokio::test]
async fn settings_are_written_against_the_revision_that_was_seen() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let id = door.bot(&ann, "Pip").await;
    let path = format!("/api/bots/{id}/config");
    let read = door.get(&format!("/api/bots/{id}"), &ann.token).await;
    assert_eq!(read.headers["etag"], "\"1\"");
    let mut settings = read.json()["settings"].clone();
    settings["bot_name"] = json!("Pippa");
    settings["fallback_model"] = json!("practice/two");
    settings["notifications"]["daily_summary_at"] = json!("09:00");
    let write = |settings: Value, seen: &'static str| {
        let (door, path, token) = (&door, &path, &ann.token);
        async move { door.call_with("POST", path, token, Some(&settings), &[("if-match", seen)]).await }
    };
    door.call("POST", &path, &ann.token, Some(&settings)).await.problem(428, "revision_required");
    write(settings.clone(), "soon").await.problem(400, "invalid_header");
    let answer = write(settings.clone(), "1").await;
    assert_eq!((answer.status, answer.json()), (StatusCode::ACCEPTED, json!({ "revision": 2 })));
    write(settings.clone(), "1").await.problem(412, "revision_stale");
    assert_eq!(write(settings.clone(), "\"2\"").await.json(), json!({ "revision": 3 }));
    let bot = door.get(&format!("/api/bots/{id}"), &ann.token).await.json();
    assert_eq!((&bot["bot_name"], &bot["revision"], &bot["applied_revision"]), (&json!("Pippa"), &json!(3), &json!(0)));

    for (field, value) in [
        ("bot_name", json!("")),
        ("timezone", json!("Mars/Olympus")),
        ("default_model", json!("practice/embed")),
        ("fallback_model", json!("openai/none")),
    ] {
        let mut wrong = settings.clone();
        wrong[field] = value;
        assert_eq!(write(wrong, "3").await.problem(422, "invalid_body")["field"], json!(field));
    }
    for (field, value) in [("personality", json!("rude")), ("bot_name", json!(7)), ("unknown", json!(1))] {
        let mut wrong = settings.clone();
        wrong[field] = value;
        write(wrong, "3").await.problem(422, "invalid_body");
    }
    let mut part = settings.clone();
    part.as_object_mut().unwrap().remove("timezone");
    write(part, "3").await.problem(422, "invalid_body");
    assert_eq!(door.database.count("select revision from molt.bots").await, 3);
}

#[tokio::test]
async fn there_is_a_limit_and_a_removed_assistant_makes_room() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let mut ids = Vec::new();
    for name in ["One", "Two", "Three"] {
        ids.push(door.bot(&ann, name).await);
    }
    let body = json!({ "bot_name": "Four", "vertical": "creator", "timezone": "UTC" });
    door.post("/api/bots", &ann.token, body.clone()).await.problem(403, "bot_limit_reached");
    let path = format!("/api/bots/{}", ids[0]);
    assert_eq!(door.call("DELETE", &path, &ann.token, None).await.status, StatusCode::NO_CONTENT);
    door.get(&path, &ann.token).await.problem(404, "bot_not_found");
    door.call("DELETE", &path, &ann.token, None).await.problem(404, "bot_not_found");
    assert_eq!(door.get("/api/bots", &ann.token).await.json()["items"].as_array().unwrap().len(), 2);
    assert_eq!(door.post("/api/bots", &ann.token, body).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn two_requests_at_once_do_not_pass_the_limit() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let body = json!({ "bot_name": "Pip", "vertical": "creator", "timezone": "UTC" });
    let all = (0..8).map(|_| door.post("/api/bots", &ann.token, body.clone()));
    let answers = futures_util::future::join_all(all).await;
    let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!((made, door.database.count("select count(*) from molt.bots").await), (3, 3));
}

#[tokio::test]
async fn models_and_skills_are_listed() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let models = door.get("/api/models", &ann.token).await.json();
    let ids: Vec<&str> =
        models["items"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!((ids, &models["next"]), (vec!["practice/one", "practice/two"], &Value::Null));
    assert_eq!(models["items"][0]["price"]["input_usd"], "2.000000");
    assert_eq!((&models["items"][0]["default"], &models["items"][1]["default"]), (&json!(true), &json!(false)));
    assert_eq!(door.get("/api/skills", &ann.token).await.json(), json!({ "items": [], "next": null }));
    let id = door.bot(&ann, "Pip").await;
    let path = format!("/api/bots/{id}/skills");
    assert_eq!(door.get(&path, &ann.token).await.json(), json!({ "items": [], "next": null }));
    door.post(&path, &ann.token, json!({ "skill_id": "weather" })).await.problem(404, "unknown_skill");
    let one = format!("{path}/weather");
    door.call("PATCH", &one, &ann.token, Some(&json!({ "enabled": true }))).await.problem(404, "unknown_skill");
    door.call("DELETE", &one, &ann.token, None).await.problem(404, "unknown_skill");
}

#[tokio::test]
async fn a_request_for_an_assistant_that_comes_twice_makes_one() {
    let door = door().await;
    let (ann, eve) = (door.person("Ann").await, door.person("Eve").await);
    let body = json!({ "bot_name": "Pip", "vertical": "developer", "timezone": "Europe/Berlin" });
    let ask = async |token: &str, key: &str, body: &Value| {
        door.call_with("POST", "/api/bots", token, Some(body), &[("idempotency-key", key)]).await
    };
    let (one, two) = tokio::join!(ask(&ann.token, "tap-1", &body), ask(&ann.token, "tap-1", &body));
    assert_eq!((one.status, two.status), (StatusCode::CREATED, StatusCode::CREATED), "{} {}", one.text, two.text);
    assert_eq!(one.json()["id"], two.json()["id"]);
    assert_eq!(one.headers["location"], two.headers["location"]);
    assert_eq!(door.database.count("select count(*) from molt.bots").await, 1);
    assert_eq!(door.database.count("select count(*) from molt.events where kind = 'bot.created'").await, 1);

    // The same in other words, and with what is understood when it is left out.
    let same = json!({ "timezone": "Europe/Berlin", "personality": null, "vertical": "developer", "bot_name": "Pip" });
    assert_eq!(ask(&ann.token, "tap-1", &same).await.json()["id"], one.json()["id"]);
    let another = json!({ "bot_name": "Pop", "vertical": "developer", "timezone": "Europe/Berlin" });
    ask(&ann.token, "tap-1", &another).await.problem(422, "idempotency_key_reused");
    assert_eq!(ask(&ann.token, "tap-2", &body).await.status, StatusCode::CREATED, "a new key is a new assistant");
    let hers = ask(&eve.token, "tap-1", &another).await;
    assert_eq!(hers.status, StatusCode::CREATED, "another person's keys are their own: {}", hers.text);
    assert_eq!(door.post("/api/bots", &ann.token, body.clone()).await.status, StatusCode::CREATED, "no key at all");
    assert_eq!(
        ask(&ann.token, "tap-2", &body).await.status,
        StatusCode::CREATED,
        "also when there is no room for more"
    );
    ask(&ann.token, "tap-3", &body).await.problem(403, "bot_limit_reached");

    for wrong in ["", "  ", &"x".repeat(201), "schlüssel"] {
        ask(&ann.token, wrong, &body).await.problem(400, "invalid_header");
    }
    let id = one.json()["id"].as_str().unwrap().to_owned();
    let gone = door.call("DELETE", &format!("/api/bots/{id}"), &ann.token, None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    ask(&ann.token, "tap-1", &body).await.problem(409, "not_in_this_state");
}

#[tokio::test]
async fn verbs_go_by_the_state_and_a_refusal_says_why() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let id = door.bot(&ann, "Pip").await;
    let path = format!("/api/bots/{id}");
    let verb = async |verb: &str| door.call("POST", &format!("{path}/{verb}"), &ann.token, None).await;
    let state = async || {
        let bot = door.get(&path, &ann.token).await.json();
        (bot["status"].as_str().unwrap().to_owned(), bot["phase"].as_str().unwrap().to_owned(), bot["reason"].clone())
    };
    let is = |status: &str, phase: &str, reason: Value| (status.to_owned(), phase.to_owned(), reason);
    assert_eq!(state().await, is("provisioning", "awaiting_plan", Value::Null));
    for refused in ["restart", "stop"] {
        let problem = verb(refused).await.problem(409, "not_in_this_state");
        assert!(problem["detail"].as_str().unwrap().contains("waits for a plan"), "{problem}");
    }
    assert_eq!(verb("resume").await.status, StatusCode::OK, "there was nothing to lift");
    assert_eq!(state().await.1, "awaiting_plan");

    door.plan(&ann).await;
    assert_eq!(state().await, is("provisioning", "queued", Value::Null));
    assert_eq!(verb("stop").await.status, StatusCode::ACCEPTED);
    assert_eq!(verb("stop").await.status, StatusCode::ACCEPTED, "twice is once");
    assert_eq!(state().await, is("stopped", "stopped", Value::Null));
    let problem = verb("restart").await.problem(409, "not_in_this_state");
    assert!(problem["detail"].as_str().unwrap().contains("resume it"), "{problem}");
    assert_eq!(verb("resume").await.json()["phase"], "queued");
    assert_eq!(verb("restart").await.status, StatusCode::ACCEPTED);
}
