//! The outbox is emptied once per message, by whichever process comes, and a carrier that fails is tried again.
//! Never: a sleep; the clock is moved.

#![expect(clippy::unwrap_used, reason = "a test panics where it can't go on")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::TimeDelta;
use molt_model::Clock as _;
use molt_model::clock::MovedClock;
use molt_notify::{Answer, Counts, Deliver, LocalMailer, Mail, Mailer};
use molt_store::Store;
use molt_store::mail::MailRow;
use molt_store::outbox::{NewMessage, data_binding};
use molt_store::testing::{TestDatabase, database};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use uuid::Uuid;

fn deliver(store: &Store, clock: &MovedClock, mailer: impl Mailer) -> Deliver {
    Deliver::new(store.clone(), Arc::new(clock.clone()), Arc::new(mailer), "https://molt.example".to_owned())
}

async fn enqueue(database: &TestDatabase, clock: &MovedClock, id: Uuid, template: &str, data: Value) {
    let message = NewMessage { id, user: None, template, to_address: "ann@example.com", data };
    let mut tx = database.store.system().await.unwrap();
    tx.enqueue(&message, clock.now()).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn messages_leave_once_and_secrets_are_opened_only_here() {
    let database = database().await;
    let clock = MovedClock::default();
    let ready = json!({ "bot_id": "molt-0", "bot_name": "Pip" });
    for _ in 0..30 {
        enqueue(&database, &clock, Uuid::new_v4(), "your-bot-is-ready", ready.clone()).await;
    }
    let id = Uuid::new_v4();
    let link = "https://molt.example/link#abc".to_owned().into();
    let sealed = hex::encode(database.store.seal().seal(&data_binding(id), &link));
    enqueue(&database, &clock, id, "magic-link", json!({ "link_sealed": sealed, "minutes": 15 })).await;

    let one = deliver(&database.store, &clock, LocalMailer::new(database.store.clone(), Arc::new(clock.clone())));
    let other = database.second_store().await;
    let other = deliver(&other, &clock, LocalMailer::new(other.clone(), Arc::new(clock.clone())));
    let (a, b) = tokio::join!(one.run_once(), other.run_once());
    assert_eq!(a.unwrap().sent + b.unwrap().sent, 31);
    assert_eq!(one.run_once().await.unwrap(), Counts::default());
    assert_eq!(database.count("select count(*) from molt.mails").await, 31);
    let mut tx = database.store.system().await.unwrap();
    let mails = tx.mails_before(None, 100, database.store.seal()).await.unwrap();
    let text = |mail: &MailRow| mail.text.as_ref().unwrap().expose_secret().to_owned();
    let link = text(mails.iter().find(|mail| mail.id == id).unwrap());
    assert!(link.contains("https://molt.example/link#abc") && link.contains("15 minutes"), "{link}");
    let ready = mails.iter().find(|mail| text(mail).contains("molt-0")).unwrap();
    assert_eq!(ready.subject, "Pip is ready");
    let in_clear = "select count(*) from molt.mails m, molt.outbox o where m::text || o::text like '%link#%'";
    assert_eq!(database.count(in_clear).await, 0, "the link rests sealed");
}

/// Fails the first two times.
struct Moody(AtomicU32);

impl Mailer for Moody {
    fn send(&self, _: Mail) -> Answer<'_, anyhow::Result<()>> {
        let tries = self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { if tries < 2 { Err(anyhow::anyhow!("the server said no")) } else { Ok(()) } })
    }
}

#[tokio::test]
async fn a_failing_carrier_is_tried_again_and_a_faulty_message_is_not() {
    let database = database().await;
    let clock = MovedClock::default();
    enqueue(&database, &clock, Uuid::new_v4(), "your-bot-is-ready", json!({ "bot_id": "molt-0", "bot_name": "Pip" }))
        .await;
    enqueue(&database, &clock, Uuid::new_v4(), "no-such-template", json!({})).await;
    let moody = deliver(&database.store, &clock, Moody(AtomicU32::new(0)));
    assert_eq!(moody.run_once().await.unwrap(), Counts { sent: 0, failed: 1, given_up: 1 });
    assert_eq!(moody.run_once().await.unwrap(), Counts::default(), "not before its pause is over");
    clock.forward(TimeDelta::seconds(11));
    assert_eq!(moody.run_once().await.unwrap(), Counts { sent: 0, failed: 1, given_up: 0 });
    clock.forward(TimeDelta::seconds(21));
    assert_eq!(moody.run_once().await.unwrap(), Counts { sent: 1, failed: 0, given_up: 0 });
    let why = database.text("select last_error from molt.outbox where sent_at is null").await.unwrap();
    assert_eq!(why, "there is no template of this name");
    assert_eq!(
        database.count("select count(*) from molt.outbox where sent_at is null and due_at is not null").await,
        0
    );
}
