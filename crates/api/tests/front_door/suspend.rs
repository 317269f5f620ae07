//! Assistants that somebody else than their owner keeps from running: an operator, or a plan that has ended.

use std::sync::Arc;

use chrono::TimeDelta;
use http::StatusCode;
use molt_billing::Renew;
use molt_model::{Clock as _, Intent, UserId};
use molt_store::bots::Made;
use serde_json::{Value, json};

use crate::kit::{Answer, Door, PASSWORD, Person, door};

impl Door {
    async fn operator(&self, name: &str) -> Person {
        let person = self.person(name).await;
        self.database.execute(&format!("update molt.users set role = 'operator' where id = '{}'", person.id)).await;
        person
    }

    async fn by_operator(&self, operator: &Person, bot: &str, verb: &str, body: Option<Value>) -> Answer {
        let path = format!("/api/admin/bots/{bot}/{verb}");
        self.call("POST", &path, &operator.token, body.as_ref()).await
    }

    async fn verb(&self, person: &Person, bot: &str, verb: &str) -> Answer {
        self.call("POST", &format!("/api/bots/{bot}/{verb}"), &person.token, None).await
    }

    /// Phase and, if it is suspended, by what.
    async fn standing(&self, person: &Person, bot: &str) -> (String, Option<String>) {
        let bot = self.get(&format!("/api/bots/{bot}"), &person.token).await.json();
        let cause = bot["suspended"]["cause"].as_str().map(str::to_owned);
        assert_eq!(cause.is_some(), bot["phase"] == "suspended", "{bot}");
        (bot["phase"].as_str().unwrap().to_owned(), cause)
    }

    fn renew(&self) -> Renew {
        Renew::new(self.database.store.clone(), Arc::new(self.clock.clone()))
    }

    /// A later time, at which the person has logged in anew.
    async fn forward(&self, person: &mut Person, time: TimeDelta) {
        self.clock.forward(time);
        let answer = self.post("/api/auth/login", "", json!({ "email": person.email, "password": PASSWORD })).await;
        person.token = answer.json()["token"].as_str().unwrap().to_owned();
    }

    async fn mails(&self, template: &str) -> i64 {
        self.database.count(&format!("select count(*) from molt.outbox where template = '{template}'")).await
    }
}

fn is(phase: &str, cause: &str) -> (String, Option<String>) {
    (phase.to_owned(), (!cause.is_empty()).then(|| cause.to_owned()))
}

#[tokio::test]
async fn an_operator_suspends_and_nobody_else_lifts_it() {
    let door = door().await;
    let (ann, bob) = (door.person("Ann").await, door.operator("Bob").await);
    let bot = door.bot(&ann, "Pip").await;
    door.plan(&ann).await;
    let why = json!({ "reason": "Somebody complained" });
    door.by_operator(&ann, &bot, "suspend", Some(why.clone())).await.problem(403, "not_an_operator");
    door.by_operator(&bob, "molt-000000000000", "suspend", Some(why.clone())).await.problem(404, "bot_not_found");
    let silent = door.by_operator(&bob, &bot, "suspend", Some(json!({ "reason": " " }))).await;
    assert_eq!(silent.problem(422, "invalid_body")["field"], "reason");
    assert_eq!(door.standing(&ann, &bot).await, is("queued", ""));

    let done = door.by_operator(&bob, &bot, "suspend", Some(why.clone())).await.json();
    let since = done["suspended"]["since"].clone();
    let view = door.get(&format!("/api/bots/{bot}"), &ann.token).await.json();
    let told = json!({
        "cause": "operator", "reason": "Somebody complained.", "since": since,
        "mend": "Whoever runs this installation can lift this; ask them."
    });
    assert_eq!((&view["suspended"], &done["suspended"]), (&told, &told));
    assert_eq!((&view["status"], &view["phase"]), (&json!("stopped"), &json!("suspended")));
    assert_eq!(view["reason"], "Somebody complained.");

    // Its owner can't, and reads why; other people's suspensions aren't theirs either.
    for refused in ["restart", "stop", "resume"] {
        let problem = door.verb(&ann, &bot, refused).await.problem(409, "bot_suspended");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with("Pip is suspended since ") && detail.contains("Somebody complained."), "{detail}");
        assert!(detail.ends_with("ask them."), "what mends it: {detail}");
    }
    door.by_operator(&ann, &bot, "resume", None).await.problem(403, "not_an_operator");
    assert_eq!(door.standing(&ann, &bot).await, is("suspended", "operator"));
    let config = format!("/api/bots/{bot}/config");
    let saved = door.call_with("POST", &config, &ann.token, Some(&view["settings"]), &[("if-match", "1")]).await;
    assert_eq!(saved.status, StatusCode::ACCEPTED, "settings wait until it runs again");

    // Once more is the same; another reason is told, under the same date.
    door.clock.forward(TimeDelta::minutes(5));
    door.by_operator(&bob, &bot, "suspend", Some(why)).await.json();
    assert_eq!(door.mails("bot-suspended").await, 1);
    let again = door.by_operator(&bob, &bot, "suspend", Some(json!({ "reason": "Two people did!" }))).await.json();
    assert_eq!((&again["suspended"]["reason"], &again["suspended"]["since"]), (&json!("Two people did!"), &since));
    assert_eq!(door.mails("bot-suspended").await, 2);
    let listed = door.get("/api/admin/fleet", &bob.token).await.json()["suspended"].clone();
    assert_eq!(listed, json!([{ "bot_id": bot, "user_id": ann.id, "reason": "Two people did!", "since": since }]));

    for _ in 0..2 {
        let done = door.by_operator(&bob, &bot, "resume", None).await.json();
        assert_eq!(done, json!({ "bot_id": bot, "suspended": null }));
    }
    assert_eq!(door.standing(&ann, &bot).await, is("queued", ""));
    door.by_operator(&bob, "molt-000000000000", "resume", None).await.problem(404, "bot_not_found");
    let log = "select string_agg(action || ' ' || (detail ->> 'resumed'), ', ' order by at, detail ->> 'resumed' desc)
               from molt.audit_log where action = 'bot.resume'";
    assert_eq!(door.database.text(log).await.as_deref(), Some("bot.resume true, bot.resume false"));
    let log = "select count(*) from molt.audit_log where action = 'bot.suspend' and detail ->> 'reason' is not null";
    assert_eq!(door.database.count(log).await, 3);
}

#[tokio::test]
async fn what_its_owner_wanted_before_is_wanted_afterwards() {
    let door = door().await;
    let (ann, bob) = (door.person("Ann").await, door.operator("Bob").await);
    let waiting = door.bot(&ann, "Wait").await;
    let why = || Some(json!({ "reason": "Because." }));
    door.by_operator(&bob, &waiting, "suspend", why()).await.json();
    assert_eq!(door.standing(&ann, &waiting).await, is("suspended", "operator"));
    door.by_operator(&bob, &waiting, "resume", None).await.json();
    assert_eq!(door.standing(&ann, &waiting).await, is("awaiting_plan", ""));

    // A plan that comes meanwhile starts it, but not before the operator lets it.
    door.by_operator(&bob, &waiting, "suspend", why()).await.json();
    door.plan(&ann).await;
    assert_eq!(door.standing(&ann, &waiting).await, is("suspended", "operator"));
    door.by_operator(&bob, &waiting, "resume", None).await.json();
    assert_eq!(door.standing(&ann, &waiting).await, is("queued", ""));

    assert_eq!(door.verb(&ann, &waiting, "stop").await.status, StatusCode::ACCEPTED);
    door.by_operator(&bob, &waiting, "suspend", why()).await.json();
    door.by_operator(&bob, &waiting, "resume", None).await.json();
    assert_eq!(door.standing(&ann, &waiting).await, is("stopped", ""), "its owner had stopped it");

    // Its owner may let go of it in any case, and what is being removed is nobody's to suspend or to bring back.
    door.by_operator(&bob, &waiting, "suspend", why()).await.json();
    let gone = door.call("DELETE", &format!("/api/bots/{waiting}"), &ann.token, None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    for (verb, body) in [("suspend", why()), ("resume", None)] {
        door.by_operator(&bob, &waiting, verb, body).await.problem(404, "bot_not_found");
    }
    let intent = format!("select intent from molt.bots where id = '{waiting}'");
    assert_eq!(door.database.text(&intent).await.as_deref(), Some("deleted"));
}

#[tokio::test]
async fn a_cancelled_plan_holds_until_its_date_and_can_be_kept() {
    let door = door().await;
    let mut ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    let cancel = async |person: &Person| door.call("POST", "/api/billing/cancel", &person.token, None).await;
    cancel(&ann).await.problem(409, "not_in_this_state");
    door.plan(&ann).await;
    let plan = async |person: &Person| door.get("/api/me", &person.token).await.json()["plan"].clone();
    let end = plan(&ann).await["period_end"].clone();
    assert_eq!(plan(&ann).await["ends_at"], Value::Null);

    for processed in [1, 0] {
        let answer = cancel(&ann).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::ACCEPTED, json!({ "ends_at": end })));
        assert_eq!(door.inbox.run_once().await.unwrap().processed, processed, "twice is once");
    }
    let cancelled = plan(&ann).await;
    assert_eq!((&cancelled["in_force"], &cancelled["ends_at"]), (&json!(true), &end));
    assert_eq!(door.standing(&ann, &bot).await, is("queued", ""));

    // Kept after all: nothing is paid twice, and the month after is renewed.
    door.plan(&ann).await;
    assert_eq!((&plan(&ann).await["ends_at"], &plan(&ann).await["period_end"]), (&Value::Null, &end));
    door.forward(&mut ann, TimeDelta::days(32)).await;
    assert_eq!(door.renew().run_once().await.unwrap(), 1);
    assert_eq!(plan(&ann).await["period_start"], end);

    cancel(&ann).await.json();
    door.inbox.run_once().await.unwrap();
    door.forward(&mut ann, TimeDelta::days(20)).await;
    assert_eq!(door.renew().run_once().await.unwrap(), 0, "its date has not come");
    assert_eq!(door.standing(&ann, &bot).await, is("queued", ""));
    // Two events of one click, and one that comes when nothing is in force any more.
    let body = json!({ "user_id": ann.id });
    let mut tx = door.database.store.system().await.unwrap();
    for event in ["one", "two"] {
        tx.insert_inbox("local", event, "plan.cancelled", &body, door.clock.now()).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(door.inbox.run_once().await.unwrap().processed, 2);
    door.forward(&mut ann, TimeDelta::days(20)).await;
    assert_eq!((door.renew().run_once().await.unwrap(), door.renew().run_once().await.unwrap()), (1, 0));
    let ended = plan(&ann).await;
    assert_eq!((&ended["in_force"], &ended["ends_at"]), (&json!(false), &ended["period_end"]));
    cancel(&ann).await.problem(409, "not_in_this_state");
    assert_eq!(door.standing(&ann, &bot).await, is("suspended", "plan_ended"));
}

#[tokio::test]
async fn a_plan_that_ends_suspends_what_ran_and_one_that_is_paid_again_brings_it_back() {
    let door = door().await;
    let (mut ann, mut bob) = (door.person("Ann").await, door.operator("Bob").await);
    let [runs, rests, held] = [door.bot(&ann, "Run").await, door.bot(&ann, "Rest").await, door.bot(&ann, "Held").await];
    let others = door.bot(&bob, "Other").await;
    door.plan(&ann).await;
    door.plan(&bob).await;
    assert_eq!(door.verb(&ann, &rests, "stop").await.status, StatusCode::ACCEPTED);
    door.by_operator(&bob, &held, "suspend", Some(json!({ "reason": "Because." }))).await.json();
    door.call("POST", "/api/billing/cancel", &ann.token, None).await.json();
    door.inbox.run_once().await.unwrap();
    door.forward(&mut ann, TimeDelta::days(32)).await;
    door.forward(&mut bob, TimeDelta::zero()).await;
    assert_eq!(door.renew().run_once().await.unwrap(), 2, "one month began, one plan ended");

    assert_eq!(door.standing(&ann, &runs).await, is("suspended", "plan_ended"));
    assert_eq!(door.standing(&ann, &rests).await, is("stopped", ""), "that was its owner's own wish");
    assert_eq!(door.standing(&ann, &held).await, is("suspended", "operator"), "the other reason stands behind it");
    assert_eq!(door.standing(&bob, &others).await, is("queued", ""));
    assert_eq!(door.mails("plan-ended").await, 1);
    for refused in ["restart", "stop", "resume"] {
        let detail = door.verb(&ann, &runs, refused).await.problem(409, "bot_suspended")["detail"].to_string();
        assert!(detail.contains("The plan has ended. Renew the plan"), "{detail}");
    }
    // An operator lifts their own reason, not the plan's.
    let left = door.by_operator(&bob, &held, "resume", None).await.json();
    assert_eq!(left["suspended"]["cause"], "plan_ended");
    door.by_operator(&bob, &runs, "resume", None).await.json();
    assert_eq!(door.standing(&ann, &runs).await, is("suspended", "plan_ended"));
    // One that was stopped waits for a plan.
    assert_eq!(door.verb(&ann, &rests, "resume").await.status, StatusCode::OK);
    assert_eq!(door.standing(&ann, &rests).await, is("awaiting_plan", ""));
    door.by_operator(&bob, &runs, "suspend", Some(json!({ "reason": "Because." }))).await.json();

    door.plan(&ann).await;
    for bot in [&rests, &held] {
        assert_eq!(door.standing(&ann, bot).await, is("queued", ""), "{bot}");
    }
    assert_eq!(door.standing(&ann, &runs).await, is("suspended", "operator"));
    door.by_operator(&bob, &runs, "resume", None).await.json();
    assert_eq!(door.standing(&ann, &runs).await, is("queued", ""));
    assert_eq!(door.database.count("select count(*) from molt.suspensions").await, 0);
    assert_eq!(door.database.count("select count(*) from molt.bots where intent_before is not null").await, 0);
}

/// Whatever its owner does in the very moment in which the plan ends, no bot is left running without one.
#[tokio::test]
async fn no_bot_slips_by_while_the_plan_ends() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let rests = door.bot(&ann, "Rest").await;
    door.plan(&ann).await;
    assert_eq!(door.verb(&ann, &rests, "stop").await.status, StatusCode::ACCEPTED);
    door.call("POST", "/api/billing/cancel", &ann.token, None).await.json();
    door.inbox.run_once().await.unwrap();
    door.clock.forward(TimeDelta::days(32));
    let (user, now): (UserId, _) = (ann.id.parse().unwrap(), door.clock.now());
    let settings = molt_model::Settings::new("Late".into(), Default::default(), "UTC".into(), &crate::kit::catalog());
    let new =
        molt_store::bots::NewBot { id: molt_model::BotId::random(), vertical: "developer".parse().unwrap(), settings };

    // Both begin while the plan is in force, and hold what they need.
    let (store, bot) = (&door.database.store, rests.parse().unwrap());
    let mut starting = store.tenant(user).await.unwrap();
    assert!(starting.start_stopped_bot(&bot, now).await.unwrap());
    let made = starting.insert_bot(&new, None, 10, now).await.unwrap();
    assert_eq!(made, Made::New(new.id.clone()));
    let renew = door.renew();
    let ends = tokio::spawn(async move { renew.run_once().await });
    starting.commit().await.unwrap();
    assert_eq!(ends.await.unwrap().unwrap(), 1);
    let bots = store.tenant(user).await.unwrap().bots().await.unwrap();
    for bot in bots {
        let cause = bot.suspension.map(|suspension| suspension.cause.as_str());
        assert_eq!((bot.intent, cause), (Intent::Stopped, Some("plan_ended")), "{}", bot.settings.bot_name);
    }
}
