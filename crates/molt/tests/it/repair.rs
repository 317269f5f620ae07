//! What breaks is repaired, what was changed for the worse is undone, what is deleted stays gone, and what is stuck is named:
//! all as a person and an operator see it.
//! Never: a repair that needs somebody to do something, except where the bot says so.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::stack::Stack;
use crate::stack::chat::ends_a_run;
use crate::stack::http::{Ask, Client};
use crate::stack::people::Person;

/// Time zones at which the stand-in breaks: it ends when it is given the change; it refuses the change; it takes the change
/// over and does not start with it.
const ENDS_ON_CHANGE: &str = "Antarctica/Vostok";
const REFUSED_ON_CHANGE: &str = "Antarctica/Davis";
const REFUSED_AT_START: &str = "Antarctica/Troll";

async fn change(stack: &Stack, person: &Person, bot: &str, timezone: &str) -> i64 {
    let seen = stack.bot(person, bot).await;
    let mut settings = seen["settings"].clone();
    settings["timezone"] = json!(timezone);
    let revision = seen["revision"].as_i64().expect("a revision");
    let ask = Ask::new("post", &format!("/api/bots/{bot}/config")).by(person).json(&settings);
    let answer = stack.http.send(ask.header("if-match", &revision.to_string())).await.ok();
    answer["revision"].as_i64().expect("a revision")
}

/// The settings in force are the ones before, the person reads which change it was, and the bad revision is stale.
async fn assert_undone(stack: &Stack, person: &Person, bot: &str, bad: i64, timezone: &str) {
    let seen = stack
        .eventually("the change is undone and the bot runs", async || {
            let seen = stack.bot(person, bot).await;
            let settled =
                seen["status"] == "running" && seen["revision"] == bad + 1 && seen["applied_revision"] == bad + 1;
            settled.then_some(seen)
        })
        .await;
    assert_eq!(seen["settings"]["timezone"], "Europe/Berlin");
    let told = format!("(time zone: Europe/Berlin → {timezone}), so it was undone.");
    assert!(seen["reason"].as_str().is_some_and(|reason| reason.contains(&told)), "{seen:#}");
    let steps = seen["steps"].as_array().expect("a timeline");
    assert!(steps.iter().any(|step| step["name"] == "undone" && step["sentence"] == seen["reason"]), "{steps:#?}");
    let ask = Ask::new("post", &format!("/api/bots/{bot}/config")).by(person).json(&seen["settings"]);
    stack.http.send(ask.header("if-match", &bad.to_string())).await.refused(412, "revision_stale");
    let events = format!(
        "select count(*) from molt.events where kind = 'bot.settings_undone' and body -> 'undone_revision' = '{bad}'
         and body -> 'changes' -> 0 ->> 'to' = '{timezone}'"
    );
    assert_eq!(stack.database.count(&events).await, 1);
}

async fn says_hello(stack: &Stack, person: &Person, bot: &str, id: &str) {
    let mut chat = stack.chat(person, bot).await;
    assert_eq!(chat.turn(id, "main", "Good morning!").await.end(), "finished");
}

#[tokio::test]
async fn a_change_that_breaks_the_bot_is_undone_by_itself() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    says_hello(&stack, &person, &bot, "m-1").await;

    let bad = change(&stack, &person, &bot, ENDS_ON_CHANGE).await;
    assert_undone(&stack, &person, &bot, bad, ENDS_ON_CHANGE).await;
    let bad = change(&stack, &person, &bot, REFUSED_ON_CHANGE).await;
    assert_undone(&stack, &person, &bot, bad, REFUSED_ON_CHANGE).await;

    let late = change(&stack, &person, &bot, REFUSED_AT_START).await;
    stack
        .eventually("the change is in force", async || {
            (stack.bot(&person, &bot).await["applied_revision"] == late).then_some(())
        })
        .await;
    assert_eq!(stack.bot(&person, &bot).await["reason"], Value::Null, "a change that works ends the story");
    stack.http.post(&format!("/api/bots/{bot}/restart"), &person, &json!({})).await.ok();
    assert_undone(&stack, &person, &bot, late, REFUSED_AT_START).await;

    // Nothing of its state was touched: it goes on where it was.
    says_hello(&stack, &person, &bot, "m-2").await;
    let mut chat = stack.chat(&person, &bot).await;
    let frames = chat.resume(0).await;
    assert_eq!(frames.iter().filter(|frame| ends_a_run(frame)).count(), 2);
    assert_eq!((stack.cells().len(), stack.runtimes().len()), (1, 1));
    stack.finish().await;
}

/// The same where the platform dies in between, and so finds out on its own next start.
#[tokio::test]
async fn a_change_that_only_fails_at_the_next_start_of_everything_is_undone_then() {
    let mut stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let late = change(&stack, &person, &bot, REFUSED_AT_START).await;
    stack
        .eventually("the change is in force", async || {
            (stack.bot(&person, &bot).await["applied_revision"] == late).then_some(())
        })
        .await;
    assert!(stack.interrupt().await.success());
    stack.launch().await;
    assert_undone(&stack, &person, &bot, late, REFUSED_AT_START).await;
    stack.kill();
    stack.launch().await;
    stack.wait_running(&person, &bot).await;
    let seen = stack.bot(&person, &bot).await;
    assert!(seen["reason"].as_str().is_some_and(|reason| reason.contains("was undone")), "still told: {seen:#}");
    stack.finish().await;
}

/// A cell that hangs for a moment is reached again; one that hangs on is ended, and another one takes its state.
#[tokio::test]
async fn a_cell_that_hangs_is_reached_again_or_replaced() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let cell = stack.cells()[0].clone();
    let signal = |signal| kill_process(Pid::from_raw(cell.pid).expect("a process id"), signal).expect("our own");
    let notices = async || {
        stack
            .eventually("the platform notices", async || {
                let seen = stack.bot(&person, &bot).await;
                (seen["phase"] == "reconnecting").then_some(seen)
            })
            .await
    };
    signal(Signal::STOP);
    let seen = notices().await;
    assert_eq!(seen["status"], "provisioning");
    assert_eq!(seen["reason"], "Pip went away for a moment and is being brought back.");
    signal(Signal::CONT);
    stack.wait_running(&person, &bot).await;
    assert_eq!(stack.cells()[0].pid, cell.pid, "nothing was ended");
    says_hello(&stack, &person, &bot, "m-1").await;
    if std::env::var_os("MOLT_PROVE").is_some() {
        signal(Signal::STOP);
        notices().await;
        stack
            .eventually("its cell is ended", async || {
                let steps = stack.bot(&person, &bot).await["steps"].clone();
                let climbed = steps.as_array().is_some_and(|all| all.iter().any(|step| step["name"] == "restart_cell"));
                climbed.then_some(())
            })
            .await;
        stack.wait_running(&person, &bot).await;
        assert_ne!(stack.cells()[0].pid, cell.pid);
        says_hello(&stack, &person, &bot, "m-2").await;
    }
    stack.finish().await;
}

/// Killed at several moments of a removal; and something of the bot that only turns up afterwards.
#[tokio::test]
async fn a_deleted_bot_stays_gone() {
    let mut stack = Stack::start().await;
    let person = stack.signup("Ada").await;
    let mut first = None;
    for after_ms in [0, 15, 60] {
        let bot = stack.wizard(&person, "Pip").await;
        if first.is_none() {
            stack.accept_plan(&person, &bot).await;
        }
        stack.wait_running(&person, &bot).await;
        let answer = stack.http.send(Ask::new("delete", &format!("/api/bots/{bot}")).by(&person)).await;
        assert_eq!(answer.status, 204, "{}", answer.text);
        tokio::time::sleep(std::time::Duration::from_millis(after_ms)).await;
        stack.kill();
        stack.launch().await;
        stack
            .eventually("it is gone", async || {
                let rows = stack.database.count("select count(*) from molt.bots").await;
                (rows == 0 && stack.cells().is_empty() && stack.runtimes().is_empty()).then_some(())
            })
            .await;
        let tombs = format!("select count(*) from molt.tombstones where bot_id = '{bot}'");
        assert_eq!(stack.database.count(&tombs).await, 1, "killed after {after_ms} ms");
        assert!(!stack.data().join("bots").join(&bot).exists());
        first.get_or_insert(bot);
    }
    let gone = first.expect("there were three");
    std::fs::create_dir_all(stack.data().join("bots").join(&gone).join("state")).expect("our own folder");
    stack.kill();
    stack.launch().await;
    stack
        .eventually("what turned up is removed", async || {
            (!stack.data().join("bots").join(&gone).exists()).then_some(())
        })
        .await;
    assert_eq!(stack.http.get("/api/bots", &person).await.ok()["items"], json!([]));
    stack.finish().await;
}

#[tokio::test]
async fn what_is_stuck_is_named_to_the_operator() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    stack.grant_operator(&person.email).await;
    let told = stack.operator(&["doctor"]).await;
    assert!(told.contains("No bot is stuck: 1 running"), "{told}");
    let fleet = stack.http.get("/api/admin/fleet", &person).await.ok();
    assert_eq!(fleet["states"], json!([{ "state": "running", "phase": "running", "count": 1 }]));
    assert_eq!((&fleet["stuck"], &fleet["oldest_overdue_seconds"]), (&json!([]), &json!(0)));

    // As a fleet of another version may leave it: nobody is going to look.
    let sql =
        "update molt.bots set phase_deadline_at = now() - interval '10 minutes', last_error = 'Died', due_at = null";
    stack.database.execute(sql).await;
    let mut doctor = stack.operator_command(&["doctor"]);
    let told = tokio::task::spawn_blocking(move || doctor.output()).await.expect("no panic").expect("it starts");
    let sentence = format!("{bot} is in running, 10 min longer than that may take (Died)");
    assert!(!told.status.success() && String::from_utf8_lossy(&told.stdout).contains(&sentence), "{told:?}");
    let fleet = stack.http.get("/api/admin/fleet", &person).await.ok();
    assert_eq!((&fleet["stuck"][0]["why"], &fleet["stuck"][0]["sentence"]), (&json!("overdue"), &json!(sentence)));
    let page = Client::new(stack.port + 1).send(Ask::new("get", "/metrics")).await.text;
    for line in [
        "molt_bots{state=\"running\",phase=\"running\"} 1\n",
        "molt_bots_stuck{why=\"overdue\"} 1\n",
        "molt_bots_stuck{why=\"loops\"} 0\n",
        "molt_loop_runs_total{loop=\"fleet_sweep\"}",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    stack.finish().await;
}
