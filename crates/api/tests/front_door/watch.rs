//! What a person sees and does when the use of their assistant looked unusual.

use http::StatusCode;
use molt_model::{Caution, Clock as _};
use molt_store::watch::Sign;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::kit::{Door, door};

async fn noticed(door: &Door, bot: &str, caution: Caution, reason: &str) -> Option<Caution> {
    let now = door.clock.now();
    let sign = Sign { caution, reason: reason.to_owned(), since: now };
    let mut tx = door.database.store.system().await.unwrap();
    let noted = tx.note_sign(&bot.parse().unwrap(), &sign, now).await.unwrap();
    tx.commit().await.unwrap();
    noted
}

async fn new_key(door: &Door, bot: &str) -> String {
    let mut tx = door.database.store.system().await.unwrap();
    let keys = tx.rotate_bot_key(&bot.parse().unwrap(), door.clock.now()).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    keys.ghost.expose_secret().to_owned()
}

/// Whether a call with the key is let through, at which pace, and why not.
async fn admitted(door: &Door, key: &str) -> (bool, Option<String>) {
    let mut tx = door.database.store.system().await.unwrap();
    let hash = molt_store::ghost::key_hash(&key.to_owned().into());
    let admission = tx.admission(&hash, door.clock.now()).await.unwrap().unwrap();
    (admission.slowed, admission.paused)
}

#[tokio::test]
async fn each_step_is_told_once_and_one_tap_brings_everything_back() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    let key = new_key(&door, &bot).await;
    let path = format!("/api/bots/{bot}");
    let shown = async || door.get(&path, &ann.token).await.json()["unusual"].clone();
    let events = "select count(*) from molt.events where kind = 'bot.usage_unusual'";
    assert_eq!(shown().await, Value::Null);

    assert_eq!(noticed(&door, &bot, Caution::Warned, "It asked the same again.").await, Some(Caution::Warned));
    assert_eq!(noticed(&door, &bot, Caution::Warned, "It asked the same again.").await, None);
    assert_eq!((&shown().await["caution"], admitted(&door, &key).await), (&json!("warned"), (false, None)));
    assert_eq!(noticed(&door, &bot, Caution::Slowed, "It still does.").await, Some(Caution::Slowed));
    assert_eq!(admitted(&door, &key).await, (true, None));
    assert_eq!(noticed(&door, &bot, Caution::Paused, "It doesn't stop.").await, Some(Caution::Paused));
    assert_eq!(noticed(&door, &bot, Caution::Slowed, "Late news.").await, None);
    assert_eq!(shown().await["reason"], "It doesn't stop.");
    assert_eq!(admitted(&door, &key).await, (false, Some("It doesn't stop.".to_owned())));
    let mails = "select string_agg(template, ' ' order by created_at, template) from molt.outbox";
    door.database.execute("update molt.outbox set created_at = now()").await;
    assert_eq!(door.database.text(mails).await.as_deref(), Some("bot-paused bot-slowed unusual-use"));
    assert_eq!(door.database.count(events).await, 3);

    // Neither a restart nor a revoked key is a way around a pause.
    let restarted = new_key(&door, &bot).await;
    assert_eq!(admitted(&door, &restarted).await.1.as_deref(), Some("It doesn't stop."));
    door.database.execute("update molt.ghost_keys set revoked_at = now()").await;
    let key = new_key(&door, &bot).await;
    assert_eq!(admitted(&door, &key).await.1.as_deref(), Some("It doesn't stop."));

    let before = door.clock.now();
    door.clock.forward(chrono::TimeDelta::seconds(1));
    let ben = door.person("Ben").await;
    door.post(&format!("{path}/resume"), &ben.token, json!({})).await.problem(404, "bot_not_found");
    assert_eq!(shown().await["caution"], "paused");
    for _ in 0..2 {
        let resumed = door.call("POST", &format!("{path}/resume"), &ann.token, None).await;
        assert_eq!((resumed.status, &resumed.json()["unusual"]), (StatusCode::OK, &Value::Null), "{}", resumed.text);
    }
    assert_eq!((door.database.count(events).await, admitted(&door, &key).await), (4, (false, None)));

    // What happened before counts no more; what happens from now on is a new story.
    let old = Sign { caution: Caution::Paused, reason: "Old.".to_owned(), since: before };
    let mut tx = door.database.store.system().await.unwrap();
    assert_eq!(tx.note_sign(&bot.parse().unwrap(), &old, door.clock.now()).await.unwrap(), None);
    tx.commit().await.unwrap();
    assert_eq!(noticed(&door, &bot, Caution::Slowed, "Again.").await, Some(Caution::Slowed));
}

#[tokio::test]
async fn steps_come_down_by_themselves_and_a_pause_stays() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let (slow, paused) = (door.bot(&ann, "Slow").await, door.bot(&ann, "Paused").await);
    let key = new_key(&door, &slow).await;
    noticed(&door, &slow, Caution::Slowed, "It ran.").await;
    noticed(&door, &paused, Caution::Paused, "It ran.").await;
    let calm_down = async || {
        let now = door.clock.now();
        let mut tx = door.database.store.system().await.unwrap();
        let done = tx.calm_down(now - chrono::TimeDelta::minutes(30), 10, now).await.unwrap();
        tx.commit().await.unwrap();
        done
    };
    let cautions = async || {
        let sql = "select string_agg(caution, ' ' order by caution) from molt.watches";
        door.database.text(sql).await.unwrap()
    };
    assert_eq!(calm_down().await, 0);
    door.clock.forward(chrono::TimeDelta::minutes(20));
    noticed(&door, &slow, Caution::Warned, "It still runs.").await;
    door.clock.forward(chrono::TimeDelta::minutes(20));
    assert_eq!(calm_down().await, 0, "the newest sign is twenty minutes old");
    door.clock.forward(chrono::TimeDelta::minutes(11));
    assert_eq!((calm_down().await, calm_down().await), (1, 0));
    assert_eq!((cautions().await.as_str(), admitted(&door, &key).await), ("paused warned", (false, None)));
    door.clock.forward(chrono::TimeDelta::minutes(31));
    assert_eq!((calm_down().await, cautions().await.as_str()), (1, "calm paused"));
    let mut tx = door.database.store.system().await.unwrap();
    let bot = paused.parse().unwrap();
    assert_eq!(tx.resume_bot(&bot, door.clock.now()).await.unwrap(), Some(true));
    assert_eq!(tx.resume_bot(&bot, door.clock.now()).await.unwrap(), Some(false));
    assert_eq!(tx.resume_bot(&molt_model::BotId::random(), door.clock.now()).await.unwrap(), None);
    tx.commit().await.unwrap();
    assert_eq!(cautions().await, "calm calm");
}
