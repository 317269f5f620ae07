//! A second person tries every address of `openapi.json` with the first one's ids: nothing is found, nothing is told, and
//! nothing of the first one's changes.

use http::StatusCode;
use molt_model::{BotId, Settings, UserId};
use serde_json::{Value, json};

use crate::kit::{ADDRESS, Answer, Door, Person, door};

/// One operation of the description.
pub(crate) struct Operation {
    pub(crate) method: String,
    pub(crate) path: String,
    /// No log-in is asked for.
    pub(crate) open: bool,
    /// A body that fits.
    pub(crate) body: Option<Value>,
}

/// Every operation that the description names.
pub(crate) fn operations() -> Vec<Operation> {
    let api: Value = serde_json::from_str(&molt_api::openapi_json()).unwrap();
    let mut found = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            found.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                open: operation["security"].as_array().is_some_and(|rules| rules.iter().all(|rule| *rule == json!({}))),
                body: (!schema.is_null()).then(|| example(schema, &api)),
            });
        }
    }
    assert!(found.len() >= 30);
    found
}

/// A value that fits a schema of ours: required fields only, the first of each choice.
fn example(schema: &Value, api: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return example(&api["components"]["schemas"][reference.rsplit('/').next().unwrap()], api);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let real = choices.iter().find(|choice| choice["type"] != "null").unwrap();
        return example(real, api);
    }
    if let Some(words) = schema["enum"].as_array() {
        return words[0].clone();
    }
    let kind = schema["type"].as_str().or(schema["type"][0].as_str()).unwrap_or("object");
    match kind {
        "string" => json!("UTC"),
        "integer" | "number" => json!(1),
        "boolean" => json!(true),
        "array" => json!([]),
        _ => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let fields = required.iter().map(|name| {
                let name = name.as_str().unwrap();
                (name.to_owned(), example(&schema["properties"][name], api))
            });
            Value::Object(fields.collect())
        }
    }
}

/// Everything that the first person has, as text that changes when any of it does.
async fn fingerprint(door: &Door, person: &Person) -> String {
    let tables = "select string_agg(table_name, ' ') from information_schema.columns
                  where table_schema = 'molt' and column_name = 'user_id'";
    let mut all =
        door.database.text(&format!("select row(u)::text from molt.users u where id = '{}'", person.id)).await;
    for table in door.database.text(tables).await.unwrap().split(' ') {
        let sql = format!(
            "select md5(coalesce(string_agg(t::text, ',' order by t::text), '')) from molt.{table} t where user_id = '{}'",
            person.id
        );
        all.get_or_insert_default().push_str(&format!("\n{table} {}", door.database.text(&sql).await.unwrap()));
    }
    all.unwrap()
}

/// A domain that the first person's assistant may reach.
const ALLOWED: &str = "site.example";

struct Mine {
    bot: String,
    conversation: String,
    checkout: String,
    key: String,
}

async fn mine(door: &Door, ann: &Person) -> Mine {
    let bot = door.bot(ann, "Pip").await;
    door.plan(ann).await;
    let path = format!("/api/bots/{bot}/conversations");
    let conversation = door.post(&path, &ann.token, json!({ "title": "Trains" })).await;
    assert_eq!(conversation.status, StatusCode::CREATED, "{}", conversation.text);
    let allow = format!("/api/bots/{bot}/egress/allow");
    assert!(door.post(&allow, &ann.token, json!({ "domain": ALLOWED })).await.status.is_success());
    let link = door.post("/api/billing/checkout", &ann.token, json!({ "bot_id": bot })).await.json();
    let keys = door.get("/api/keys", &ann.token).await.json();
    assert!(keys["items"].as_array().unwrap().is_empty());
    let mut tx = door.database.store.system().await.unwrap();
    let (key, _) =
        tx.create_ghost_key(ann.id.parse().unwrap(), None, "laptop", None, chrono::Utc::now()).await.unwrap();
    tx.commit().await.unwrap();
    Mine {
        key: key.to_string(),
        conversation: conversation.json()["id"].as_str().unwrap().to_owned(),
        checkout: link["url"].as_str().unwrap().strip_prefix(ADDRESS).unwrap().to_owned(),
        bot,
    }
}

impl Mine {
    /// The address with the first person's ids in it.
    fn address(&self, path: &str, ann: &Person) -> String {
        let with_bot = path.starts_with("/api/bots/") || path.starts_with("/api/chat/");
        let address = path.replace("/checkout/{id}", &self.checkout);
        let with_key = path.starts_with("/api/keys/");
        let own = if with_bot { &self.bot } else { &self.key };
        let address = address.replace("{id}", if with_bot || with_key { own } else { &ann.id });
        address.replace("{cid}", &self.conversation).replace("{sid}", "weather").replace("{domain}", ALLOWED)
    }
}

async fn try_as(door: &Door, token: &str, operation: &Operation, address: &str) -> Answer {
    let mut body = operation.body.clone();
    if address.ends_with("/config") {
        let settings = Settings::new("Eve".to_owned(), Default::default(), "UTC".to_owned(), &crate::kit::catalog());
        body = Some(serde_json::to_value(settings).unwrap());
    }
    let headers = [("if-match", "1"), ("accept", "*/*")];
    door.call_with(&operation.method, address, token, body.as_ref(), &headers).await
}

#[tokio::test]
async fn a_stranger_finds_changes_and_learns_nothing() {
    let door = door().await;
    let (ann, eve) = (door.person("Annabel").await, door.person("Eve").await);
    let mine = mine(&door, &ann).await;
    let before = fingerprint(&door, &ann).await;
    let mut tried = 0;
    for operation in operations() {
        let name = format!("{} {}", operation.method, operation.path);
        if name == "DELETE /api/me" {
            continue; // Eve leaves last, below
        }
        let address = mine.address(&operation.path, &ann);
        assert!(!address.contains('{'), "an id that this test does not know: {name}");
        let answer = try_as(&door, &eve.token, &operation, &address).await;
        if operation.path.contains("/admin/") {
            answer.problem(403, "not_an_operator");
        } else if operation.path.contains('{') {
            let problem = answer.any_problem();
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{name}: {problem}");
        }
        for secret in [&ann.id, &ann.email, &mine.bot, &mine.conversation, &mine.key] {
            assert!(!answer.text.contains(secret.as_str()), "{name} tells {secret}: {}", answer.text);
        }
        tried += 1;
    }
    assert!(tried >= 30);
    assert_eq!(door.call("DELETE", "/api/me", &eve.token, None).await.status, StatusCode::ACCEPTED);
    assert_eq!(fingerprint(&door, &ann).await, before);
    let bot = door.get(&format!("/api/bots/{}", mine.bot), &ann.token).await;
    assert_eq!(bot.status, StatusCode::OK, "the first person still has everything");
}

#[tokio::test]
async fn below_the_door_postgres_itself_refuses() {
    let door = door().await;
    let (ann, eve) = (door.person("Annabel").await, door.person("Eve").await);
    let mine = mine(&door, &ann).await;
    let before = fingerprint(&door, &ann).await;
    let eve: UserId = eve.id.parse().unwrap();
    let bot: BotId = mine.bot.parse().unwrap();
    let now = chrono::Utc::now();
    let mut tx = door.database.store.tenant(eve).await.unwrap();
    assert!(tx.bot(&bot).await.unwrap().is_none());
    assert!(tx.bots().await.unwrap().is_empty());
    assert!(!tx.restart_bot(&bot, now).await.unwrap());
    assert!(!tx.delete_bot(&bot, now).await.unwrap());
    assert!(!tx.has_bot(&bot).await.unwrap());
    let checkout = mine.checkout.rsplit('/').next().unwrap().parse().unwrap();
    assert!(tx.checkout(checkout).await.unwrap().is_none());
    assert!(tx.billing().await.unwrap().is_none());
    let key = mine.key.parse().unwrap();
    assert!(!tx.set_bot_cap(&bot, None, now).await.unwrap() && !tx.has_key(key).await.unwrap());
    assert!(!tx.revoke_own_key(key, now).await.unwrap() && tx.ghost_keys(now, 10).await.unwrap().is_empty());
    assert_eq!(tx.set_key_cap(key, None).await.unwrap(), molt_store::ghost::KeyCapSet::NotFound);
    assert_eq!(tx.bot_spent(&bot, now).await.unwrap(), molt_model::Nanos::ZERO);
    assert_eq!(tx.events_after(0, 100).await.unwrap().len(), 0);
    tx.end_all_sessions(now).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(fingerprint(&door, &ann).await, before);
}
