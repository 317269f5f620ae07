//! A bot that is suspended rests with all that it has, and nothing of the fleet's own brings it back: no repair, no sweep, no
//! restart of the platform, no start that comes late.

use std::sync::Arc;

use chrono::TimeDelta;
use molt_fleet::{Fleet, RuntimeState, Swept};
use molt_model::{BotId, Clock, Intent, Observed, Rung};

use crate::stage::Stage;
use crate::world::{Hangs, Mood, World, WorldHost};

const WHY: &str = "Somebody complained.";

struct Scene {
    stage: Stage,
    world: Arc<World>,
    fleet: Fleet,
    bot: BotId,
}

impl Scene {
    /// A bot that is about to start, of somebody with a plan.
    async fn new() -> Self {
        let (stage, world) = (Stage::new().await, World::new());
        let plan = "insert into molt.billing (user_id, provider, subscription_status) select id, 'local', 'active' from molt.users";
        stage.database.execute(plan).await;
        let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
        let bot = stage.bot(Intent::Running).await;
        Self { stage, world, fleet, bot }
    }

    async fn suspend(&self) {
        let mut tx = self.stage.database.store.system().await.unwrap();
        assert!(tx.suspend_bot(&self.bot, WHY, self.stage.clock.now()).await.unwrap().is_some());
        tx.commit().await.unwrap();
    }

    async fn resume(&self) {
        let mut tx = self.stage.database.store.system().await.unwrap();
        assert!(tx.resume_for_operator(&self.bot, self.stage.clock.now()).await.unwrap().unwrap().resumed);
        tx.commit().await.unwrap();
    }

    async fn until(&self, observed: Observed) {
        self.stage.until(&self.fleet, &self.bot, observed).await;
    }

    /// It is suspended, says why, keeps its state, has no cell, and so many cells were ever started.
    async fn assert_rests(&self, started: i64) {
        self.stage.settle(&self.fleet).await;
        assert_eq!(self.stage.observed(&self.bot).await, Some(Observed::Suspended));
        assert_eq!(self.stage.column(&self.bot, "reason").await.as_deref(), Some(WHY));
        assert!(!self.world.has_cell(&self.bot) && self.world.has_state(&self.bot));
        assert_eq!(self.world.started(), started);
        let open = format!("select count(*) from molt.bot_steps where bot_id = '{}' and ended_at is null", self.bot);
        assert_eq!(self.stage.database.count(&open).await, 0);
    }
}

#[tokio::test]
async fn nothing_of_the_fleets_own_brings_a_suspended_bot_back() {
    let mut scene = Scene::new().await;
    scene.until(Observed::Running).await;
    scene.suspend().await;
    scene.until(Observed::Suspended).await;
    scene.assert_rests(1).await;

    // New settings wait, the runtime comes and goes, time passes, the sweeper looks.
    scene.stage.ask(&scene.bot, "revision = revision + 1, generation = generation + 1").await;
    scene.stage.runtime.send_replace(RuntimeState::Failed { sentence: "npm can't be reached".into() });
    scene.assert_rests(1).await;
    scene.stage.runtime.send_replace(RuntimeState::Ready { command: vec!["/bin/false".into()] });
    scene.stage.clock.forward(TimeDelta::hours(1));
    scene.assert_rests(1).await;
    assert_eq!(scene.fleet.sweep_once().await.unwrap(), Swept::default());

    // The platform stops, also in the middle of it, and another fleet takes over.
    scene.fleet.shutdown().await.unwrap();
    scene.fleet = scene.stage.fleet(Arc::new(WorldHost(scene.world.clone())));
    scene.assert_rests(1).await;
    let halfway = "observed = 'stopping', phase = 'stopping', leased_until = null";
    scene.stage.ask(&scene.bot, halfway).await;
    scene.fleet.shutdown().await.unwrap();
    assert_eq!(scene.stage.observed(&scene.bot).await, Some(Observed::Stopped), "the pause of the installation");
    scene.fleet = scene.stage.fleet(Arc::new(WorldHost(scene.world.clone())));
    scene.assert_rests(1).await;

    scene.resume().await;
    scene.until(Observed::Running).await;
    assert_eq!(scene.world.started(), 2);
    assert_eq!(scene.world.applied_revision(&scene.bot), Some(2), "with the settings of meanwhile");
    assert_eq!(scene.stage.column(&scene.bot, "reason").await, None);
}

#[tokio::test]
async fn a_start_that_hangs_while_the_bot_is_suspended_is_ended() {
    let scene = Scene::new().await;
    scene.world.hang(&scene.bot, Hangs::Starts);
    let starts = format!("select phase = 'cell' from molt.bots where id = '{}'", scene.bot);
    scene.stage.work(&scene.fleet, &starts).await;
    scene.suspend().await;
    scene.fleet.run_once().await.unwrap();
    scene.world.unhang();
    scene.until(Observed::Suspended).await;
    scene.assert_rests(1).await;
}

#[tokio::test]
async fn a_bot_under_repair_is_suspended_without_another_try() {
    let scene = Scene::new().await;
    scene.world.set_mood(Mood::Sick);
    scene.until(Observed::Degraded(Rung::RestartCell)).await;
    let started = scene.world.started();
    scene.suspend().await;
    scene.until(Observed::Suspended).await;
    scene.stage.clock.forward(TimeDelta::minutes(5));
    scene.assert_rests(started).await;

    // Given up, and suspended after that; lifted, it is tried afresh.
    scene.resume().await;
    for _ in 0..molt_fleet::ATTEMPTS_MAX {
        scene.stage.settle(&scene.fleet).await;
        scene.stage.clock.forward(TimeDelta::seconds(31));
    }
    scene.until(Observed::Degraded(Rung::GivenUp)).await;
    scene.suspend().await;
    scene.until(Observed::Suspended).await;
    let started = scene.world.started();
    scene.assert_rests(started).await;
    scene.world.set_mood(Mood::Well);
    scene.resume().await;
    scene.until(Observed::Running).await;
}

#[tokio::test]
async fn a_change_that_does_not_work_is_not_undone_while_the_bot_is_suspended() {
    let scene = Scene::new().await;
    scene.world.set_mood(Mood::Loyal);
    scene.until(Observed::Running).await;
    scene
        .stage
        .ask(&scene.bot, "revision = revision + 1, settings = settings || '{\"timezone\": \"Europe/Berlin\"}'")
        .await;
    scene.suspend().await;
    scene.until(Observed::Suspended).await;
    scene.stage.clock.forward(TimeDelta::minutes(5));
    scene.assert_rests(1).await;
    assert_eq!(scene.stage.column(&scene.bot, "revision").await.as_deref(), Some("2"));
    assert_eq!(scene.stage.events(&scene.bot, "bot.settings_undone").await, 0);
}

#[tokio::test]
async fn a_suspended_bot_can_be_removed_and_leaves_a_tombstone() {
    let scene = Scene::new().await;
    scene.until(Observed::Running).await;
    scene.suspend().await;
    scene.until(Observed::Suspended).await;
    let mut tx = scene.stage.database.store.tenant(scene.stage.user).await.unwrap();
    assert!(tx.delete_bot(&scene.bot, scene.stage.clock.now()).await.unwrap());
    tx.commit().await.unwrap();
    scene.stage.work(&scene.fleet, "select not exists (select from molt.bots)").await;
    assert!(!scene.world.has_state(&scene.bot));
    for (table, left) in [("tombstones", 1), ("suspensions", 0)] {
        assert_eq!(scene.stage.database.count(&format!("select count(*) from molt.{table}")).await, left, "{table}");
    }
    let mut tx = scene.stage.database.store.system().await.unwrap();
    assert!(tx.resume_for_operator(&scene.bot, scene.stage.clock.now()).await.unwrap().is_none());
}
