//! A change of the settings that keeps the bot from coming up is undone by itself, and its owner is told which one it was.

use std::sync::Arc;

use molt_fleet::Fleet;
use molt_model::{BotId, Intent, Observed, Rung};

use crate::stage::Stage;
use crate::world::{Mood, World, WorldHost};

/// A change, as the API writes it.
const CHANGE: &str =
    "revision = revision + 1, settings = settings || '{\"timezone\": \"Europe/Berlin\", \"bot_name\": \"Pop\"}'";

async fn setting(mood: Mood) -> (Stage, Arc<World>, Fleet, BotId) {
    let (stage, world) = (Stage::new().await, World::new());
    world.set_mood(mood);
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::Running).await;
    stage.until(&fleet, &bot, Observed::Running).await;
    (stage, world, fleet, bot)
}

async fn assert_undone(stage: &Stage, fleet: &Fleet, bot: &BotId, what: &str) {
    let done = format!(
        "select observed = 'running' and revision = 3 and applied_revision = 3 from molt.bots where id = '{bot}'"
    );
    stage.work(fleet, &done).await;
    stage.settle(fleet).await;
    let settings =
        stage.column(bot, "settings ->> 'timezone' || ' ' || (settings ->> 'bot_name') || ' ' || bot_name").await;
    assert_eq!(settings.as_deref(), Some("UTC Pip Pip"));
    let told = format!(
        "{what} your last change (name: Pip → Pop, time zone: UTC → Europe/Berlin), so it was undone. \
         Change the settings and save again."
    );
    assert_eq!(stage.column(bot, "reason").await.as_deref(), Some(told.as_str()));
    assert_eq!(stage.events(bot, "bot.settings_undone").await, 1);
    let event = format!(
        "select body -> 'changes' -> 1 ->> 'to' from molt.events where bot_id = '{bot}' and kind = 'bot.settings_undone'"
    );
    assert_eq!(stage.database.text(&event).await.as_deref(), Some("Europe/Berlin"));
    let line = format!(
        "select count(*) from molt.bot_steps where bot_id = '{bot}' and name = 'undone' and sentence = '{}'",
        told.replace('\'', "''")
    );
    assert_eq!(stage.database.count(&line).await, 1);

    // A change that works ends the story.
    stage.ask(bot, "revision = revision + 1, settings = settings || '{\"timezone\": \"Europe/Paris\"}'").await;
    stage
        .work(fleet, &format!("select applied_revision = 4 and reason is null from molt.bots where id = '{bot}'"))
        .await;
}

#[tokio::test]
async fn a_runtime_that_does_not_come_up_with_new_settings_gets_the_old_ones_back() {
    let (stage, world, fleet, bot) = setting(Mood::Loyal).await;
    stage.ask(&bot, CHANGE).await;
    assert_undone(&stage, &fleet, &bot, "Pip did not come up with").await;
    assert_eq!(world.started(), 2);
    assert!(world.has_state(&bot));
}

/// Taken over while it ran, they only show at the next start, when another fleet is there.
#[tokio::test]
async fn settings_that_only_fail_at_the_next_start_are_undone_then() {
    let (stage, world, fleet, bot) = setting(Mood::Well).await;
    stage.ask(&bot, CHANGE).await;
    stage.work(&fleet, &format!("select applied_revision = 2 from molt.bots where id = '{bot}'")).await;
    stage.settle(&fleet).await;
    fleet.shutdown().await.unwrap();
    world.set_mood(Mood::Loyal);
    let next = stage.fleet(Arc::new(WorldHost(world.clone())));
    assert_undone(&stage, &next, &bot, "Pip did not come up with").await;
}

#[tokio::test]
async fn settings_that_the_runtime_refuses_are_undone_while_it_runs() {
    let (stage, world, fleet, bot) = setting(Mood::Picky).await;
    stage.ask(&bot, CHANGE).await;
    assert_undone(&stage, &fleet, &bot, "Pip's runtime did not accept").await;
    assert_eq!(world.started(), 1);
}

/// Where the owner was faster with a better change, theirs counts.
#[tokio::test]
async fn newer_settings_are_never_undone_for_older_ones() {
    let (stage, world, fleet, bot) = setting(Mood::Loyal).await;
    stage.ask(&bot, CHANGE).await;
    stage.ask(&bot, CHANGE).await;
    let done = format!("select observed = 'running' and applied_revision = 3 from molt.bots where id = '{bot}'");
    stage.work(&fleet, &done).await;
    assert_eq!(stage.column(&bot, "settings ->> 'timezone'").await.as_deref(), Some("Europe/Berlin"));
    assert_eq!(stage.events(&bot, "bot.settings_undone").await, 0);
    assert_eq!(world.started(), 1);
}

/// Nothing worked before these, so there is nothing to go back to.
#[tokio::test]
async fn first_settings_are_never_undone() {
    let (stage, world) = (Stage::new().await, World::new());
    world.set_mood(Mood::Sick);
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::Running).await;
    for _ in 0..5 {
        stage.settle(&fleet).await;
        stage.clock.forward(chrono::TimeDelta::seconds(31));
    }
    stage.until(&fleet, &bot, Observed::Degraded(Rung::GivenUp)).await;
    assert_eq!(stage.column(&bot, "revision").await.as_deref(), Some("1"));
}
