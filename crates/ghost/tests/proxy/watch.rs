//! A bot that runs in circles, and one that only works hard, as the proxy sees them.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use molt_model::Clock as _;
use serde_json::json;

use crate::rig::{Answer, Rig};

async fn watched() -> Rig {
    Rig::start_with(|config| config.watch = true).await
}

impl Rig {
    async fn again(&self) -> Answer {
        self.clock.forward(TimeDelta::seconds(1));
        self.chat("up/ok", json!({})).await
    }

    async fn caution_until(&self, wanted: &str) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let caution = self.database.text("select caution from molt.watches").await.unwrap_or_default();
            if caution == wanted {
                return;
            }
            assert!(Instant::now() < until, "{caution}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn resume(&self) {
        let mut tx = self.database.store.tenant(self.user).await.unwrap();
        assert!(tx.resume_bot(&self.bot, self.clock.now()).await.unwrap());
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn a_loop_is_told_slowed_and_paused_and_one_word_of_its_owner_ends_that() {
    let rig = watched().await;
    let told = "select count(*) from molt.events where kind = 'bot.usage_unusual'";
    for _ in 0..11 {
        assert!(rig.again().await.text.contains("word3"));
    }
    assert_eq!(rig.count("select count(*) from molt.watches").await, 0);
    rig.again().await;
    rig.caution_until("warned").await;
    assert_eq!(
        rig.event("bot.usage_unusual").await["body"]["reason"],
        "It sent the same request 12 times within ten minutes."
    );
    for _ in 12..24 {
        assert!(rig.again().await.text.contains("word3"), "a warning slows nothing down");
    }
    rig.caution_until("slowed").await;
    let until = Instant::now() + Duration::from_secs(1);
    let refused = loop {
        let answer = rig.again().await;
        if answer.status != 200 {
            break answer;
        }
        assert!(Instant::now() < until, "the walking pace is in force within a second");
    };
    assert!(refused.status == 429 && refused.retry_after.is_some_and(|seconds| seconds > 1), "{refused:?}");
    assert!(refused.text.contains("rate_limited"), "{refused:?}");
    assert_eq!(rig.count(told).await, 2);

    // As if it had gone on at that pace for minutes.
    rig.database.execute("update molt.watches set caution = 'warned'").await;
    rig.chat_until("up/ok", "word3").await;
    for _ in 0..24 {
        rig.again().await;
    }
    rig.caution_until("paused").await;
    rig.chat_until("up/ok", "I was paused to be on the safe side. It sent the same request").await;
    let sent = rig.upstream.requests().len();
    let said = rig.again().await;
    assert!(said.unmetered && said.text.contains(&format!("https://molt.example/app/bots/{}", rig.bot)), "{said:?}");
    assert_eq!(rig.upstream.requests().len(), sent, "nothing goes out");
    let mails = "select string_agg(template, ' ' order by template) from molt.outbox";
    assert_eq!(rig.database.text(mails).await.as_deref(), Some("bot-paused bot-slowed unusual-use"));

    rig.clock.forward(TimeDelta::seconds(1));
    rig.resume().await;
    rig.chat_until("up/ok", "word3").await;
    for _ in 0..8 {
        assert!(rig.again().await.text.contains("word3"), "what happened before counts no more");
    }
    assert_eq!(rig.count(told).await, 4);
    assert_eq!(rig.count("select count(*) from molt.watches where caution <> 'calm'").await, 0);
}

#[tokio::test]
async fn hard_work_and_what_no_provider_answered_is_left_alone() {
    let rig = watched().await;
    for round in 0..60 {
        rig.clock.forward(TimeDelta::seconds(1));
        let messages = json!([{ "role": "user", "content": format!("Write chapter {round}") }]);
        assert_eq!(rig.chat("up/ok", json!({ "messages": messages })).await.status, 200);
    }
    for _ in 0..15 {
        rig.clock.forward(TimeDelta::seconds(1));
        assert_eq!(rig.chat("up/badrequest", json!({})).await.status, 400);
    }
    // The same once more, and only now it counts: a sign of before would stand there first.
    rig.clock.forward(TimeDelta::minutes(11));
    for _ in 0..12 {
        rig.again().await;
    }
    rig.caution_until("warned").await;
    assert_eq!(rig.count("select count(*) from molt.events where kind = 'bot.usage_unusual'").await, 1);
}
