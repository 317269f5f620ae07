//! A bot that runs in circles, and one that only works hard, as the proxy sees them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Timelike as _};
use molt_ghost::{Looked, Rounds};
use molt_model::{Clock as _, RunId};
use serde_json::{Value, json};

use crate::rig::{self, Answer, Call, Rig};

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

#[tokio::test]
async fn an_hour_that_costs_far_more_than_usual_is_told_and_calms_down_by_itself() {
    let rig = watched().await;
    let rounds = Rounds::new(rig.database.store.clone(), Arc::new(rig.clock.clone()));
    // Early in an hour, so that all of this happens in one.
    let minute = i64::from(rig.clock.now().minute());
    rig.clock.forward(TimeDelta::minutes(60 - minute));
    let run = RunId::random();
    rig.insert_run(run, "accepted").await;
    let asked = format!("update molt.runs set created_at = '{}'", rig.clock.now().to_rfc3339());
    rig.database.execute(&asked).await;
    let asked = Call::post("/v1/chat/completions", rig::chat_body("up/ok", &json!({})));
    let parent = format!("00-{}-00f067aa0ba902b7-01", run.0.simple());
    rig.row(&rig.call(asked.header("traceparent", &parent)).await).await;
    for _ in 0..3 {
        rig.row(&rig.again().await).await;
    }
    let sums = "select row(sum(calls), sum(unasked), sum(cost_nanos))::text from molt.bot_hours";
    let books =
        "select row(count(*), count(*) filter (where run_id is null), sum(cost_nanos))::text from molt.usage_logs";
    let counted = rig.database.text(sums).await.unwrap();
    assert_eq!(Some(&counted), rig.database.text(books).await.as_ref());
    assert!(counted.starts_with("(4,3,"), "{counted}");
    let looked = Looked { bots: 1, ..Looked::default() };
    assert_eq!(rounds.run_once().await.unwrap(), looked, "an ordinary hour");
    assert_eq!(rounds.run_once().await.unwrap(), Looked::default(), "nothing new");

    let costs = |dollars: i64| format!("update molt.bot_hours set cost_nanos = {dollars}000000000, unseen = true");
    let noticed = Looked { noticed: 1, ..looked };
    rig.database.execute(&costs(6)).await;
    assert_eq!(rounds.run_once().await.unwrap(), noticed);
    rig.database.execute(&costs(25)).await;
    assert_eq!(rounds.run_once().await.unwrap(), looked, "somebody is there: told once, and not stopped");
    rig.database.execute("update molt.runs set created_at = created_at - interval '1 day'").await;
    rig.database.execute(&costs(12)).await;
    assert_eq!((rounds.run_once().await.unwrap(), rounds.run_once().await.unwrap()), (noticed, Looked::default()));
    rig.caution_until("slowed").await;
    let mail = "select data from molt.outbox where template = 'bot-slowed'";
    let mail: Value = serde_json::from_str(&rig.database.text(mail).await.unwrap()).unwrap();
    assert_eq!(mail["spent"], "$12.00");
    rig.clock.forward(TimeDelta::minutes(31));
    assert_eq!(rounds.run_once().await.unwrap().calmed, 1);
    rig.caution_until("warned").await;
    assert_eq!(rounds.run_once().await.unwrap().calmed, 0, "each step takes its time");
    rig.clock.forward(TimeDelta::minutes(31));
    assert_eq!(rounds.run_once().await.unwrap().calmed, 1);
    rig.caution_until("calm").await;
    rig.clock.forward(TimeDelta::days(16));
    rig.database.store.sweep(rig.clock.now()).await.unwrap();
    assert_eq!(rig.count("select count(*) from molt.bot_hours").await, 0);
}
