//! The plan, what was used, and the cap.

use chrono::TimeDelta;
use http::StatusCode;
use molt_billing::Renew;
use molt_model::Clock;
use serde_json::{Value, json};

use crate::kit::{ADDRESS, Person, door};

#[tokio::test]
async fn accepting_twice_is_accepting_once() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let id = door.bot(&ann, "Pip").await;
    let link = door.post("/api/billing/checkout", &ann.token, json!({ "bot_id": id })).await.json();
    let path = link["url"].as_str().unwrap().strip_prefix(ADDRESS).unwrap();
    let page = door.get(path, "").await;
    assert_eq!(
        (page.status, page.headers["content-type"].to_str().unwrap()),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    for _ in 0..3 {
        let answer = door.call("POST", path, &ann.token, None).await;
        assert_eq!((answer.status, &answer.json()["bot_id"]), (StatusCode::ACCEPTED, &json!(id)));
    }
    assert_eq!(door.inbox.run_once().await.unwrap().processed, 1);
    assert_eq!(door.inbox.run_once().await.unwrap().processed, 0);
    let answer = door.call("POST", path, &ann.token, None).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(door.inbox.run_once().await.unwrap().processed, 0);
    assert_eq!(door.database.count("select count(*) from molt.events where kind = 'plan.changed'").await, 1);
    let plan = &door.get("/api/me", &ann.token).await.json()["plan"];
    assert_eq!((&plan["in_force"], &plan["status"]), (&json!(true), &json!("active")));
    let portal = door.get("/api/billing/portal", &ann.token).await.json();
    assert_eq!(portal["url"], "http://127.0.0.1:8787/app/plan");
}

#[tokio::test]
async fn a_checkout_that_is_too_old_or_unknown_is_refused() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let link = door.call("POST", "/api/billing/checkout", &ann.token, None).await.json();
    let path = link["url"].as_str().unwrap().strip_prefix(ADDRESS).unwrap().to_owned();
    door.call("POST", "/checkout/7", &ann.token, None).await.problem(404, "checkout_not_found");
    let unknown = "/checkout/00000000-0000-4000-8000-000000000000";
    door.call("POST", unknown, &ann.token, None).await.problem(404, "checkout_not_found");
    door.call("POST", &path, "", None).await.problem(401, "unauthenticated");
    let body = json!({ "bot_id": "molt-000000000000" });
    door.post("/api/billing/checkout", &ann.token, body).await.problem(404, "bot_not_found");
    door.clock.forward(TimeDelta::hours(25));
    let refreshed = door.with_cookie("/api/auth/refresh", &ann.cookie).await.json();
    let token = refreshed["token"].as_str().unwrap();
    door.call("POST", &path, token, None).await.problem(409, "checkout_expired");
    assert_eq!(door.database.count("select count(*) from molt.inbox").await, 0);
}

#[tokio::test]
async fn opening_the_checkout_says_which_bots_are_wanted_and_only_those() {
    let door = door().await;
    let (ann, bob) = (door.person("Ann").await, door.person("Bob").await);
    let gone = door.bot(&ann, "Gone").await;
    door.call("DELETE", &format!("/api/bots/{gone}"), &ann.token, None).await;
    let (pip, mo, kit) = (door.bot(&ann, "Pip").await, door.bot(&ann, "Mo").await, door.bot(&bob, "Kit").await);
    let paused = door.bot(&ann, "Held").await;
    let held = "intent = 'stopped', intent_reason = 'Because.', intent_before = 'awaiting_plan'";
    door.database.execute(&format!("update molt.bots set {held} where id = '{paused}'")).await;
    // Whom the request after that moment is a sign for.
    let opened = async |person: &Person, body: Value, status: u16| {
        door.clock.forward(TimeDelta::seconds(20));
        let before = door.clock.now();
        assert_eq!(door.post("/api/billing/checkout", &person.token, body).await.status.as_u16(), status);
        let sql = format!(
            "select string_agg(bot_name, ' ' order by bot_name) from molt.bots where wanted_at >= '{}'",
            before.to_rfc3339()
        );
        door.database.text(&sql).await.unwrap_or_default()
    };
    assert_eq!(opened(&ann, json!({ "bot_id": pip }), 200).await, "Pip");
    assert_eq!(opened(&ann, json!({ "bot_id": mo }), 200).await, "Mo");
    assert_eq!(opened(&ann, json!({}), 200).await, "Mo Pip", "hers that wait, and nobody else's");
    assert_eq!(opened(&bob, json!({}), 200).await, "Kit");
    for (other, status) in [(&kit, 404), (&gone, 404), (&paused, 200)] {
        assert_eq!(opened(&ann, json!({ "bot_id": other }), status).await, "");
    }
    // Once the plan is there, opening the checkout again says nothing any more.
    door.plan(&ann).await;
    assert_eq!(opened(&ann, json!({}), 200).await, "");
    assert_eq!(opened(&ann, json!({ "bot_id": pip }), 200).await, "");
    let made = "select count(*) from molt.bots where wanted_at < created_at";
    assert_eq!(door.database.count(made).await, 0, "the first sign is that it was made");
}

#[tokio::test]
async fn usage_is_summed_to_the_nano_dollar_within_the_period() {
    let door = door().await;
    let ann = door.person("Ann").await;
    door.plan(&ann).await;
    let row = |cost: i64, age: &str| {
        format!(
            "insert into molt.usage_logs (id, user_id, book_key, provider, model, surface, tokens_in, tokens_out,
               cost_nanos, price_version, duration_ms, at)
             select gen_random_uuid(), id, book_key, 'practice', 'practice/one', 'chat', 1000, 100, {cost}, 'test', 5,
               now() + interval '{age}' from molt.users"
        )
    };
    door.database.execute("insert into molt.price_books (version, prices) values ('test', '{}')").await;
    for sql in [row(3_360_001, "1 second"), row(12, "2 seconds"), row(5_000_000_000, "-40 days")] {
        door.database.execute(&sql).await;
    }
    let usage = door.get("/api/billing/usage", &ann.token).await.json();
    assert_eq!(usage["usage_usd"], "0.003360013");
    assert_eq!((&usage["base_usd"], &usage["total_usd"]), (&json!("50.000000"), &json!("50.003360013")));
    assert_eq!((&usage["tokens_in"], &usage["tokens_out"]), (&json!(2000), &json!(200)));
    assert_eq!(usage["by_model"][0]["model"], "practice/one");
    assert_eq!(usage["by_model"][0]["cost_usd"], "0.003360013");
    assert_eq!(usage["by_day"].as_array().unwrap().iter().map(|day| day["calls"].as_i64().unwrap()).sum::<i64>(), 2);
    let before: Value = usage["period_end"].clone();

    // a month later the next period begins where the last one ended, and counts afresh
    door.clock.forward(TimeDelta::days(32));
    let renew = Renew::new(door.database.store.clone(), std::sync::Arc::new(door.clock.clone()));
    assert_eq!((renew.run_once().await.unwrap(), renew.run_once().await.unwrap()), (1, 0));
    let answer =
        door.post("/api/auth/login", "", json!({ "email": ann.email, "password": crate::kit::PASSWORD })).await;
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let usage = door.get("/api/billing/usage", &token).await.json();
    assert_eq!((&usage["period_start"], &usage["usage_usd"]), (&before, &json!("0.000000")));
}

#[tokio::test]
async fn the_cap_stays_below_the_installations() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let put = |cap: Value| {
        let (door, token) = (&door, &ann.token);
        async move { door.call("PUT", "/api/billing/cap", token, Some(&json!({ "cap_usd": cap }))).await }
    };
    assert_eq!(put(json!("12.50")).await.json(), json!({ "cap_usd": "12.500000", "cap_max_usd": "100.000000" }));
    assert_eq!(door.get("/api/billing/usage", &ann.token).await.json()["cap_usd"], "12.500000");
    for wrong in [json!("-1"), json!("100.01"), json!("1e3"), json!("ten"), json!("")] {
        assert_eq!(put(wrong).await.problem(422, "invalid_body")["field"], "cap_usd");
    }
    put(json!(12.5)).await.problem(422, "invalid_body");
    let missing = door.call("PUT", "/api/billing/cap", &ann.token, Some(&json!({}))).await;
    missing.problem(422, "invalid_body");
    assert_eq!(door.get("/api/billing/usage", &ann.token).await.json()["cap_usd"], "12.500000");
    assert_eq!(put(json!("0")).await.json()["cap_usd"], "0.000000");
    assert_eq!(put(Value::Null).await.json()["cap_usd"], "100.000000");
    assert_eq!(door.database.count("select count(*) from molt.events where kind = 'cap.changed'").await, 3);
}

#[tokio::test]
async fn webhooks_of_others_are_not_configured() {
    let door = door().await;
    for path in ["/api/auth/webhook", "/api/billing/webhook"] {
        door.post(path, "", json!({ "type": "anything" })).await.problem(404, "not_configured");
    }
    assert_eq!(door.database.count("select count(*) from molt.inbox").await, 0);
}
