//! Caps of assistants and keys, and the keys as their owner sees them.

use http::StatusCode;
use molt_model::{KeyId, Nanos};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::kit::{Door, Person, door};

async fn program_key(door: &Door, person: &Person) -> (KeyId, String) {
    let mut tx = door.database.store.system().await.unwrap();
    let now = molt_model::Clock::now(&door.clock);
    let made = tx.create_ghost_key(person.id.parse().unwrap(), None, "laptop", Some(Nanos(7)), now).await.unwrap();
    tx.commit().await.unwrap();
    (made.0, made.1.expose_secret().to_owned())
}

async fn bot_key(door: &Door, bot: &str) -> String {
    let mut tx = door.database.store.system().await.unwrap();
    let now = molt_model::Clock::now(&door.clock);
    let keys = tx.rotate_bot_key(&bot.parse().unwrap(), now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    keys.ghost.expose_secret().to_owned()
}

#[tokio::test]
async fn a_person_caps_an_assistant_below_the_operators_cap() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    let path = format!("/api/bots/{bot}/cap");
    let put = async |body| door.call("PUT", &path, &ann.token, Some(&body)).await;
    let view = door.get(&path, &ann.token).await.json();
    let cap_max = view["cap_max_usd"].as_str().unwrap().to_owned();
    assert_eq!((&view["cap_usd"], &view["spent_usd"]), (&json!(null), &json!("0.000000")));
    assert_eq!(put(json!({ "cap_usd": "2.5" })).await.json()["cap_usd"], "2.500000");
    assert_eq!(door.get(&format!("/api/bots/{bot}"), &ann.token).await.json()["cap_usd"], "2.500000");
    let above = put(json!({ "cap_usd": "100000" })).await;
    let problem = above.problem(422, "invalid_body");
    assert!(problem["detail"].as_str().unwrap().contains(&cap_max), "{problem}");
    assert_eq!(problem["field"], "cap_usd");
    for wrong in [json!({ "cap_usd": "-1" }), json!({ "cap_usd": "much" }), json!({ "cap_usd": 3 }), json!({})] {
        put(wrong).await.problem(422, "invalid_body");
    }
    door.database
        .execute(&format!(
            "insert into molt.price_books (version, prices) values ('test', '{{}}');
             insert into molt.usage_logs (id, user_id, book_key, bot_id, provider, model, surface, tokens_in, tokens_out,
               cost_nanos, price_version, duration_ms, at)
             select gen_random_uuid(), id, book_key, '{bot}', 'p', 'p/m', 'chat', 1, 1, 12, 'test', 5, now() from molt.users"
        ))
        .await;
    assert_eq!(door.get(&path, &ann.token).await.json()["spent_usd"], "0.000000012");
    assert_eq!(put(json!({ "cap_usd": null })).await.json()["cap_usd"], json!(null));
    assert_eq!(door.database.count("select count(*) from molt.events where kind = 'bot.changed'").await, 2);
}

#[tokio::test]
async fn a_person_sees_caps_and_revokes_their_keys_and_a_key_is_no_log_in() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    door.plan(&ann).await;
    let (laptop, secret) = program_key(&door, &ann).await;
    let own = bot_key(&door, &bot).await;
    for stolen in [&secret, &own] {
        for path in ["/api/me", "/api/keys", "/api/bots", &format!("/api/bots/{bot}"), "/api/billing/usage"] {
            door.get(path, stolen).await.problem(401, "unauthenticated");
        }
    }
    let keys = door.get("/api/keys", &ann.token).await;
    assert!(!keys.text.contains(&secret[4..]) && !keys.text.contains("mgk_"));
    let keys = keys.json();
    let find =
        |label: &str| keys["items"].as_array().unwrap().iter().find(|key| key["label"] == label).unwrap().clone();
    assert_eq!((&find("laptop")["cap_usd"], &find("laptop")["bot_id"]), (&json!("0.000000007"), &json!(null)));
    assert_eq!((&find("bot")["bot_id"], &find("bot")["revoked_at"]), (&json!(bot), &json!(null)));
    let cap = |id: &str| format!("/api/keys/{id}/cap");
    let put = async |id: &str, body| door.call("PUT", &cap(id), &ann.token, Some(&body)).await;
    let set = put(&laptop.to_string(), json!({ "cap_usd": "1" })).await;
    assert_eq!((set.status, &set.json()["cap_usd"]), (StatusCode::OK, &json!("1.000000")));
    put(&laptop.to_string(), json!({ "cap_usd": "100000" })).await.problem(422, "invalid_body");
    let bots_own = find("bot")["id"].as_str().unwrap().to_owned();
    put(&bots_own, json!({ "cap_usd": "1" })).await.problem(409, "not_in_this_state");
    put("7", json!({ "cap_usd": "1" })).await.problem(404, "key_not_found");

    let generation = "select generation from molt.bots";
    let before = door.database.count(generation).await;
    let delete = async |id: &str| door.call("DELETE", &format!("/api/keys/{id}"), &ann.token, None).await;
    for id in [&laptop.to_string(), &laptop.to_string(), &bots_own] {
        assert_eq!(delete(id).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(door.database.count(generation).await, before + 1, "the assistant starts afresh with a new key");
    delete(&KeyId::random().to_string()).await.problem(404, "key_not_found");
    assert_eq!(door.database.count("select count(*) from molt.ghost_keys where revoked_at is null").await, 0);
    put(&laptop.to_string(), json!({ "cap_usd": "1" })).await.problem(404, "key_not_found");
    door.database
        .execute("update molt.ghost_keys set paused_at = now(), paused_reason = 'x' where label = 'bot'")
        .await;
    bot_key(&door, &bot).await;
    assert_eq!(
        door.database
            .count("select count(*) from molt.ghost_keys where paused_at is null and revoked_at is null")
            .await,
        1
    );
    door.database
        .execute("update molt.ghost_keys set paused_at = now(), paused_reason = 'x' where revoked_at is null")
        .await;
    bot_key(&door, &bot).await;
    let paused = "select paused_reason from molt.ghost_keys where revoked_at is null";
    assert_eq!(door.database.text(paused).await.as_deref(), Some("x"), "a restart is no way around a pause");
}
