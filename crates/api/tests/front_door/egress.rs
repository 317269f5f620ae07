//! Where an assistant may go, as its owner sees and decides it.

use http::StatusCode;
use molt_model::Clock as _;
use molt_model::egress::Reason;
use molt_store::egress::{Refused, Ways};
use serde_json::{Value, json};

use crate::kit::{Door, door};

/// What a proxy writes when it refused a way out; of how many places the owner was told.
async fn refused(door: &Door, bot: &str, place: &str, port: u16, reason: Reason) -> usize {
    let now = door.clock.now();
    let one = Refused { place: place.to_owned(), port, reason, count: 2, first_at: now, last_at: now, quiet: false };
    let mut tx = door.database.store.system().await.unwrap();
    let both = [one.clone(), Refused { count: 1, port: port + 1, ..one }];
    let told = tx.note_refusals(&bot.parse().unwrap(), &both, now).await.unwrap();
    tx.commit().await.unwrap();
    told
}

/// What a proxy reads.
async fn ways(door: &Door, bot: &str) -> Option<Ways> {
    let mut tx = door.database.store.system().await.unwrap();
    tx.ways_of(&bot.parse().unwrap()).await.unwrap()
}

#[tokio::test]
async fn what_was_refused_is_told_once_and_allowed_with_one_tap() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    let path = format!("/api/bots/{bot}/egress");
    let shown = async || door.get(&path, &ann.token).await.json();
    assert_eq!(shown().await, json!({ "allowed": [], "refused": [] }));
    assert_eq!(refused(&door, &bot, "site.example", 443, Reason::NotListed).await, 1);
    assert_eq!(refused(&door, &bot, "site.example", 443, Reason::NotListed).await, 0, "told once");
    assert_eq!(refused(&door, &bot, "10.0.0.1", 80, Reason::Address).await, 1);
    assert_eq!(refused(&door, &bot, "nas.lan", 80, Reason::NotListed).await, 1);
    let seen = shown().await;
    let line = |domain: &str, port: u16| -> Value {
        let mut lines = seen["refused"].as_array().unwrap().iter();
        lines.find(|line| line["domain"] == domain && line["port"] == port).unwrap().clone()
    };
    let site = line("site.example", 443);
    assert_eq!((&site["count"], &site["reason"], &site["can_allow"]), (&json!(4), &json!("not_listed"), &json!(true)));
    assert_eq!(line("site.example", 444)["count"], 2);
    assert_eq!(
        (line("10.0.0.1", 80)["can_allow"].clone(), line("nas.lan", 80)["can_allow"].clone()),
        (json!(false), json!(false))
    );
    let told =
        "select string_agg(body ->> 'domain', ' ' order by id) from molt.events where kind = 'bot.egress_refused'";
    assert_eq!(door.database.text(told).await.as_deref(), Some("site.example 10.0.0.1 nas.lan"));

    let dismissed = door.post(&format!("{path}/dismiss"), &ann.token, json!({ "domain": "10.0.0.1" })).await;
    assert_eq!(dismissed.status, StatusCode::NO_CONTENT, "{}", dismissed.text);
    door.post(&format!("{path}/dismiss"), &ann.token, json!({ "domain": "never.example" }))
        .await
        .problem(404, "domain_not_found");
    for _ in 0..2 {
        let allowed = door.post(&format!("{path}/allow"), &ann.token, json!({ "domain": "SITE.example." })).await;
        assert_eq!(allowed.status, StatusCode::OK, "{}", allowed.text);
        assert_eq!((&allowed.json()["domain"], &allowed.json()["source"]), (&json!("site.example"), &json!("you")));
    }
    assert_eq!(ways(&door, &bot).await.unwrap().domains, ["site.example".parse().unwrap()]);
    let seen = shown().await;
    assert_eq!(seen["allowed"][0]["domain"], "site.example");
    let left: Vec<&Value> = seen["refused"].as_array().unwrap().iter().map(|line| &line["domain"]).collect();
    assert_eq!(left, ["nas.lan", "nas.lan", "10.0.0.1", "10.0.0.1"], "the newest first");
    assert!(
        seen["refused"]
            .as_array()
            .unwrap()
            .iter()
            .all(|line| (line["domain"] == "10.0.0.1") == (line["dismissed"] == true))
    );
    // A batch that was on its way meanwhile is over.
    assert_eq!(refused(&door, &bot, "site.example", 80, Reason::NotListed).await, 0);
    assert!(!shown().await["refused"].to_string().contains("\"port\":80,\"domain\":\"site.example\""));
    let changes = "select count(*) from molt.events where kind = 'bot.egress_changed'";
    assert_eq!(door.database.count(changes).await, 2);
    let export = door.get("/api/me/export", &ann.token).await.json();
    assert_eq!(export["egress"][0]["allowed"][0]["domain"], "site.example");

    let one = format!("{path}/allow/site.example");
    assert_eq!(door.call("DELETE", &one, &ann.token, None).await.status, StatusCode::NO_CONTENT);
    door.call("DELETE", &one, &ann.token, None).await.problem(404, "domain_not_found");
    assert_eq!((ways(&door, &bot).await, door.database.count(changes).await), (Some(Ways::default()), 3));
}

#[tokio::test]
async fn only_names_of_the_world_and_only_so_many() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    let path = format!("/api/bots/{bot}/egress/allow");
    for wrong in [
        "",
        "example",
        "localhost",
        "printer.local",
        "db.internal",
        "10.0.0.1",
        "127.1",
        "0x7f000001",
        "[::1]",
        "::1",
        "169.254.169.254",
        "*.example.org",
        "example.org:443",
        "https://example.org",
        "a b.example",
        "x@example.org",
    ] {
        let problem = door.post(&path, &ann.token, json!({ "domain": wrong })).await.problem(422, "invalid_body");
        assert_eq!(problem["field"], "domain", "{wrong}");
    }
    let own = "bücher.example";
    let allowed = door.post(&path, &ann.token, json!({ "domain": own })).await.json();
    assert_eq!(allowed["domain"], "xn--bcher-kva.example");
    let many = "insert into molt.egress_allowed select b.id, b.user_id, 'd' || n || '.example', now()
                from molt.bots b, generate_series(1, 99) n";
    door.database.execute(many).await;
    door.post(&path, &ann.token, json!({ "domain": "more.example" })).await.problem(403, "domain_limit_reached");
    assert_eq!(door.post(&path, &ann.token, json!({ "domain": own })).await.status, StatusCode::OK, "it is there");
    door.call("DELETE", &format!("{path}/b%C3%BCcher.example"), &ann.token, None).await;
    assert_eq!(door.post(&path, &ann.token, json!({ "domain": "more.example" })).await.status, StatusCode::OK);

    // Nobody writes a row about somebody else's bot, not even one of their own.
    let eve = door.person("Eve").await;
    let theirs = format!("insert into molt.egress_allowed values ('{bot}', '{}', 'evil.example', now())", eve.id);
    assert!(door.database.as_tenant(Some(eve.id.parse().unwrap()), &theirs).await.is_err());
    door.call("DELETE", &format!("/api/bots/{bot}"), &ann.token, None).await;
    assert_eq!(ways(&door, &bot).await, None, "nothing is open to a bot that goes");
    assert_eq!(refused(&door, &bot, "site.example", 443, Reason::NotListed).await, 0);
}

#[tokio::test]
async fn old_refusals_are_swept() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    refused(&door, &bot, "site.example", 443, Reason::NotListed).await;
    door.database.store.sweep(door.clock.now()).await.unwrap();
    assert_eq!(door.database.count("select count(*) from molt.egress_refusals").await, 2);
    door.database.store.sweep(door.clock.now() + chrono::TimeDelta::days(31)).await.unwrap();
    assert_eq!(door.database.count("select count(*) from molt.egress_refusals").await, 0);
}
