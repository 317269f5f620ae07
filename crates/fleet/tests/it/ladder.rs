//! What does not come up: tried again with pauses, given up visibly, brought back when a person asks or the cause is gone.

use std::sync::Arc;

use chrono::TimeDelta;
use molt_fleet::{ATTEMPTS_MAX, RuntimeState};
use molt_model::bot::Reserved;
use molt_model::{Intent, Observed, Rung};

use crate::stage::Stage;
use crate::world::{Mood, World, WorldHost};

#[tokio::test]
async fn a_first_start_tells_its_story() {
    let (stage, world) = (Stage::new().await, World::new());
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::AwaitingPlan).await;
    stage.settle(&fleet).await;
    assert_eq!(stage.observed(&bot).await, Some(Observed::Reserved(Reserved::AwaitingPlan)));
    assert_eq!((world.started(), stage.timeline(&bot).await.as_str()), (0, ""));

    stage.runtime.send_replace(RuntimeState::Installing { percent: 43, sentence: "Fetching OpenClaw".into() });
    stage.ask(&bot, "intent = 'running'").await;
    stage
        .work(
            &fleet,
            &format!(
                "select sentence like '%(40 \\%)' from molt.bot_steps where bot_id = '{bot}' and name = 'runtime'"
            ),
        )
        .await;
    assert_eq!((world.started(), stage.column(&bot, "phase").await.as_deref()), (0, Some("runtime")));
    stage.runtime.send_replace(RuntimeState::Ready { command: vec!["/bin/false".into()] });
    stage.until(&fleet, &bot, Observed::Running).await;
    assert_eq!(
        stage.timeline(&bot).await,
        "reserved done, runtime done, cell done, booting done, settings done, ready done"
    );
    let (address, token) = stage.database.store.cell_address(&bot).await.unwrap().unwrap();
    assert!(address.starts_with("tcp:127.0.0.1:"), "{address}");
    assert_eq!(secrecy::ExposeSecret::expose_secret(&token).len(), 64);
    let mail = "select to_address || ' ' || template || ' ' || (data ->> 'bot_name') from molt.outbox";
    assert_eq!(stage.database.text(mail).await.as_deref(), Some("pat@example.test your-bot-is-ready Pip"));

    let quiet = stage.database.text("select max(updated_at) from molt.bots").await;
    for _ in 0..3 {
        stage.clock.forward(TimeDelta::seconds(20));
        assert_eq!(fleet.run_once().await.unwrap().asked, 1);
    }
    assert_eq!(stage.database.text("select max(updated_at) from molt.bots").await, quiet, "health costs no rows");
}

#[tokio::test]
async fn a_sick_runtime_is_given_up_with_a_sentence_and_started_anew_on_request() {
    for (mood, sentence) in [(Mood::Sick, "ends by itself. Restart Pip"), (Mood::Dies, "ended unexpectedly. We tried")]
    {
        let (stage, world) = (Stage::new().await, World::new());
        world.set_mood(mood);
        let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
        let bot = stage.bot(Intent::Running).await;
        for _ in 0..ATTEMPTS_MAX {
            stage.settle(&fleet).await;
            stage.clock.forward(TimeDelta::seconds(31));
        }
        stage.until(&fleet, &bot, Observed::Degraded(Rung::GivenUp)).await;
        assert_eq!(world.started(), i64::from(ATTEMPTS_MAX), "{mood:?}");
        assert!(!world.has_cell(&bot));
        let reason = stage.column(&bot, "reason").await.unwrap();
        assert!(reason.contains(sentence), "{reason}");
        stage.clock.forward(TimeDelta::hours(1));
        stage.settle(&fleet).await;
        assert_eq!(world.started(), i64::from(ATTEMPTS_MAX), "nobody asked");

        world.set_mood(Mood::Well);
        stage.ask(&bot, "generation = generation + 1").await;
        stage.until(&fleet, &bot, Observed::Running).await;
        assert_eq!(stage.column(&bot, "reason").await, None);
    }
}

#[tokio::test]
async fn a_cell_that_hangs_is_replaced_after_its_deadline() {
    let (stage, world) = (Stage::new().await, World::new());
    world.set_mood(Mood::Hangs);
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::Running).await;
    stage
        .work(&fleet, &format!("select count(*) = 1 from molt.bot_steps where bot_id = '{bot}' and name = 'booting'"))
        .await;
    world.set_mood(Mood::Well);
    stage.clock.forward(TimeDelta::minutes(4));
    stage.until(&fleet, &bot, Observed::Running).await;
    assert_eq!(world.started(), 2);
    let timeline = stage.timeline(&bot).await;
    assert!(
        timeline.starts_with("reserved done, cell done, booting failed, restart_cell done, cell done, booting done"),
        "{timeline}"
    );
}

#[tokio::test]
async fn refused_settings_leave_the_bot_running_and_are_not_tried_again() {
    let (stage, world) = (Stage::new().await, World::new());
    world.set_mood(Mood::Picky);
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::Running).await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.ask(&bot, "revision = revision + 1").await;
    stage.work(&fleet, &format!("select reason is not null from molt.bots where id = '{bot}'")).await;
    stage.settle(&fleet).await;
    assert_eq!(stage.observed(&bot).await, Some(Observed::Running));
    assert_eq!(stage.column(&bot, "applied_revision").await.as_deref(), Some("1"));
    assert!(stage.timeline(&bot).await.ends_with("settings failed"));
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn without_a_runtime_the_bot_says_so_and_starts_by_itself_once_there_is_one() {
    let (stage, world) = (Stage::new().await, World::new());
    let sentence = "npm can't be reached. Check the network".to_owned();
    stage.runtime.send_replace(RuntimeState::Failed { sentence: sentence.clone() });
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::Running).await;
    stage.until(&fleet, &bot, Observed::Degraded(Rung::NoRuntime)).await;
    assert_eq!(stage.column(&bot, "reason").await, Some(format!("{sentence}.")));
    // Without a step of the clock: the bot is called, it doesn't wait for its next look.
    stage.runtime.send_replace(RuntimeState::Ready { command: vec!["/bin/false".into()] });
    stage.until(&fleet, &bot, Observed::Running).await;
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_running_cell_that_dies_is_back_at_once_and_a_crash_loop_ends() {
    let (stage, world) = (Stage::new().await, World::new());
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::Running).await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.clock.forward(TimeDelta::minutes(3));
    for round in 2..=ATTEMPTS_MAX {
        assert!(world.kill(&bot));
        stage.work(&fleet, &format!("select observed <> 'running' from molt.bots where id = '{bot}'")).await;
        stage.clock.forward(TimeDelta::seconds(31));
        stage.until(&fleet, &bot, Observed::Running).await;
        assert_eq!(world.started(), i64::from(round));
    }
    assert!(world.kill(&bot));
    stage.until(&fleet, &bot, Observed::Degraded(Rung::GivenUp)).await;
    assert_eq!(stage.events(&bot, "bot.running").await, i64::from(ATTEMPTS_MAX));
    let reason = stage.column(&bot, "reason").await.unwrap();
    assert!(reason.starts_with("Pip came up and ended again 5 times within 15 minutes."), "{reason}");
}

#[tokio::test]
async fn a_shutdown_stops_all_and_changes_nothing_that_is_wanted() {
    let (stage, world) = (Stage::new().await, World::new());
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bots = [stage.bot(Intent::Running).await, stage.bot(Intent::Running).await];
    for bot in &bots {
        stage.until(&fleet, bot, Observed::Running).await;
    }
    fleet.shutdown().await.unwrap();
    assert_eq!(fleet.run_once().await.unwrap(), molt_fleet::Counts::default());
    for bot in &bots {
        assert!(!world.has_cell(bot) && world.has_state(bot));
        assert_eq!(stage.observed(bot).await, Some(Observed::Stopped));
        assert_eq!(stage.column(bot, "intent").await.as_deref(), Some("running"));
    }
    let next = stage.fleet(Arc::new(WorldHost(world.clone())));
    for bot in &bots {
        stage.until(&next, bot, Observed::Running).await;
    }
    assert_eq!(world.started(), 4);
}

#[tokio::test]
async fn an_erased_person_goes_after_their_last_bot() {
    let (stage, world) = (Stage::new().await, World::new());
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::Running).await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.database.execute("update molt.users set erase_requested_at = now()").await;
    fleet.run_once().await.unwrap();
    assert_eq!(stage.database.count("select count(*) from molt.users").await, 1);
    stage.ask(&bot, "intent = 'deleted'").await;
    stage.work(&fleet, "select not exists (select from molt.users)").await;
    assert!(!world.has_cell(&bot) && !world.has_state(&bot));
    assert_eq!(stage.database.count("select count(*) from molt.events").await, 0);
}
