//! What no wake-up tells of: cells without a row, rows without a cell, work that somebody began and nobody ends; and the
//! tombstones that keep what is gone from coming back.

use std::sync::Arc;

use chrono::TimeDelta;
use molt_fleet::Swept;
use molt_model::bot::{Boot, Reserved};
use molt_model::{Clock, Intent, Observed};
use molt_store::stuck::StuckWhy;

use crate::stage::Stage;
use crate::world::{Hangs, World, WorldHost};

/// The worst that can come late: a start that the host answers after the bot was removed by another fleet.
#[tokio::test]
async fn a_start_that_comes_too_late_brings_nothing_back() {
    let (stage, world) = (Stage::new().await, World::new());
    let slow = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::Running).await;
    world.hang(&bot, Hangs::Starts);
    stage.work(&slow, &format!("select phase = 'cell' from molt.bots where id = '{bot}'")).await;

    stage.ask(&bot, "intent = 'deleted'").await;
    let next = stage.fleet(Arc::new(WorldHost(world.clone())));
    stage.work(&next, &format!("select not exists (select from molt.bots where id = '{bot}')")).await;
    let tomb = format!("select count(*) from molt.tombstones where bot_id = '{bot}' and host = 'world'");
    assert_eq!(stage.database.count(&tomb).await, 1);

    world.unhang();
    while !world.has_cell(&bot) {
        tokio::task::yield_now().await;
    }
    slow.run_once().await.unwrap();
    next.run_once().await.unwrap();
    assert_eq!(next.sweep_once().await.unwrap(), Swept { removed: 1, made_due: 0 });
    assert!(!world.has_cell(&bot) && !world.has_state(&bot));
    assert_eq!(stage.database.count("select count(*) from molt.bots").await, 0);
    assert_eq!(next.sweep_once().await.unwrap(), Swept::default(), "once is enough");

    let again = format!(
        "insert into molt.bots (id, user_id, bot_name, vertical, settings, intent, phase)
         values ('{bot}', '{}', 'Pip', 'developer', '{{}}', 'running', 'queued')",
        stage.user
    );
    let refused = stage.database.as_tenant(Some(stage.user), &again).await.unwrap_err();
    assert!(refused.contains("this bot is gone"), "{refused}");
    stage.database.store.sweep(stage.clock.now() + TimeDelta::days(399)).await.unwrap();
    assert_eq!(stage.database.count(&tomb).await, 1);
    stage.database.store.sweep(stage.clock.now() + TimeDelta::days(401)).await.unwrap();
    assert_eq!(stage.database.count(&tomb).await, 0);
}

#[tokio::test]
async fn rows_and_cells_that_do_not_match_are_found() {
    let (stage, world) = (Stage::new().await, World::new());
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let bot = stage.bot(Intent::Running).await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.settle(&fleet).await;
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept::default(), "all is well");

    // The machine that it lived on is gone.
    world.vanish(&bot);
    let before = stage.column(&bot, "cell ->> 'address'").await.unwrap();
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 0, made_due: 1 });
    let back = format!("observed = 'running' and cell ->> 'address' <> '{before}'");
    stage.work(&fleet, &format!("select {back} from molt.bots where id = '{bot}'")).await;
    assert_eq!(world.started(), 2);
    stage.settle(&fleet).await;

    // The row is behind: it says that no cell runs, and nobody is going to look.
    let forget = "due_at = null, leased_until = null";
    let sql = |change: &str| format!("update molt.bots set {change}, {forget} where id = '{bot}'");
    stage.database.execute(&sql("intent = 'stopped', observed = 'stopped', phase = 'stopped'")).await;
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 0, made_due: 1 });
    stage.settle(&fleet).await;
    assert!(!world.has_cell(&bot) && world.has_state(&bot));
    assert_eq!(stage.observed(&bot).await, Some(Observed::Stopped));

    // Half deleted, and the wake-up was lost.
    stage.database.execute(&sql("intent = 'deleted', observed = 'deleting', phase = 'removing_state'")).await;
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 0, made_due: 1 });
    stage.work(&fleet, "select not exists (select from molt.bots)").await;
    assert!(!world.has_state(&bot));
}

#[tokio::test]
async fn what_is_stuck_is_named_with_the_reason() {
    let (stage, world) = (Stage::new().await, World::new());
    let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
    let well = stage.bot(Intent::Running).await;
    stage.until(&fleet, &well, Observed::Running).await;
    stage.settle(&fleet).await;
    let mut bots = Vec::new();
    for change in [
        "observed = 'booting', phase = 'booting', phase_deadline_at = now() - interval '20 minutes', due_at = null",
        "observed = 'stopping', phase = 'stopping', moves = 41, due_at = null",
        "leased_until = now() - interval '10 minutes', due_at = null",
        "phase = 'queued', due_at = now() - interval '6 minutes', last_error = 'Died'",
        // not yet
        "observed = 'booting', phase = 'booting', phase_deadline_at = now() - interval '20 seconds', due_at = null",
    ] {
        let bot = stage.bot(Intent::Running).await;
        stage.database.execute(&format!("update molt.bots set {change} where id = '{bot}'")).await;
        bots.push(bot);
    }
    let now = chrono::Utc::now();
    let overview = stage.database.store.system().await.unwrap().fleet_overview(now).await.unwrap();
    let found = |bot: &molt_model::BotId| overview.stuck.iter().find(|stuck| &stuck.bot == bot);
    let why: Vec<_> = bots.iter().map(|bot| found(bot).map(|stuck| stuck.why)).collect();
    let expected = [StuckWhy::Overdue, StuckWhy::Loops, StuckWhy::Leased, StuckWhy::Unattended].map(Some);
    assert_eq!(why, [&expected[..], &[None]].concat());
    assert!(found(&well).is_none());
    let sentence = |n: usize| found(&bots[n]).unwrap().sentence(now);
    assert_eq!(sentence(0), format!("{} is in booting, 20 min longer than that may take", bots[0]));
    assert_eq!(sentence(3), format!("{} has been waiting in queued for 6 min; does `molt fleet` run? (Died)", bots[3]));
    assert_eq!(overview.oldest_overdue(now).num_minutes(), 20);
    let count = |state| overview.counts.iter().find(|(observed, _)| *observed == state).map(|(_, count)| *count);
    assert_eq!(count(Observed::Booting(Boot::Waking)), Some(2));
    assert_eq!(count(Observed::Running), Some(1));
    assert_eq!(count(Observed::Reserved(Reserved::Queued)), Some(1));
}
