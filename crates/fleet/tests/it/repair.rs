//! The ladder of repair, rung by rung, and that nobody waits for somebody else's.

use std::sync::Arc;

use chrono::TimeDelta;
use molt_fleet::{ATTEMPTS_MAX, ENDS_MAX, Fleet};
use molt_model::{BotId, Intent, Observed, Rung};
use secrecy::ExposeSecret;

use crate::stage::Stage;
use crate::world::{Hangs, Mood, World, WorldHost};

struct Ward {
    stage: Stage,
    world: Arc<World>,
    fleet: Fleet,
}

impl Ward {
    async fn new() -> Self {
        let (stage, world) = (Stage::new().await, World::new());
        let fleet = stage.fleet(Arc::new(WorldHost(world.clone())));
        Self { stage, world, fleet }
    }

    async fn running_bot(&self) -> BotId {
        let bot = self.stage.bot(Intent::Running).await;
        self.until(&bot, Observed::Running).await;
        bot
    }

    async fn until(&self, bot: &BotId, observed: Observed) {
        self.stage.until(&self.fleet, bot, observed).await;
    }

    /// Its cell is asked how it is, and found to be so.
    async fn falls_to(&self, bot: &BotId, mood: Mood, rung: Rung) {
        self.world.set_mood_of(bot, mood);
        self.stage.clock.forward(TimeDelta::seconds(6));
        self.until(bot, Observed::Degraded(rung)).await;
    }
}

#[tokio::test]
async fn a_cell_that_answers_again_costs_nothing() {
    let ward = Ward::new().await;
    let bot = ward.running_bot().await;
    ward.falls_to(&bot, Mood::Adrift, Rung::Reconnect).await;
    let reason = ward.stage.column(&bot, "reason").await.unwrap();
    assert_eq!(reason, "Pip went away for a moment and is being brought back.");
    ward.world.set_mood_of(&bot, Mood::Well);
    ward.until(&bot, Observed::Running).await;
    assert_eq!((ward.world.started(), ward.world.runtime_restarts()), (1, 0));
    let timeline = ward.stage.timeline(&bot).await;
    assert!(timeline.ends_with("ready done, reconnect done, ready done"), "{timeline}");
    assert_eq!(ward.stage.column(&bot, "reason").await, None);
}

#[tokio::test]
async fn a_cell_that_has_lost_its_runtime_is_asked_to_restart_it() {
    let ward = Ward::new().await;
    let bot = ward.running_bot().await;
    ward.falls_to(&bot, Mood::Adrift, Rung::Reconnect).await;
    ward.stage.clock.forward(TimeDelta::seconds(16));
    ward.until(&bot, Observed::Running).await;
    assert_eq!((ward.world.started(), ward.world.runtime_restarts()), (1, 1), "the cell itself stayed");
    let timeline = ward.stage.timeline(&bot).await;
    assert!(timeline.ends_with("reconnect failed, restart_runtime done, ready done"), "{timeline}");
}

#[tokio::test]
async fn a_cell_that_stays_silent_is_restarted_and_then_replaced() {
    let ward = Ward::new().await;
    let bot = ward.running_bot().await;
    let token = ward.stage.database.store.cell_address(&bot).await.unwrap().unwrap().1;
    ward.falls_to(&bot, Mood::Hangs, Rung::Reconnect).await;
    // Whatever is started from now on doesn't come up.
    ward.world.set_mood(Mood::Sick);
    for _ in 0..=ATTEMPTS_MAX {
        ward.stage.clock.forward(TimeDelta::seconds(31));
        ward.stage.settle(&ward.fleet).await;
    }
    ward.until(&bot, Observed::Degraded(Rung::GivenUp)).await;
    let timeline = ward.stage.timeline(&bot).await;
    let rung = |name: &str| format!(", {name} done, cell done, booting failed").repeat(2);
    let ladder = format!("reconnect failed{}{}", rung("restart_cell"), rung("replace_cell"));
    assert!(timeline.ends_with(&ladder), "{timeline}");
    assert_eq!(ward.world.started(), i64::from(ATTEMPTS_MAX));
    assert!(ward.world.has_state(&bot), "repair never takes the state");

    ward.world.set_mood(Mood::Well);
    ward.stage.ask(&bot, "generation = generation + 1").await;
    ward.until(&bot, Observed::Running).await;
    let newer = ward.stage.database.store.cell_address(&bot).await.unwrap().unwrap().1;
    assert_ne!(token.expose_secret(), newer.expose_secret(), "a replaced cell has credentials of its own");
}

/// It runs well in between, so that no row of failures ever is long; it is a loop all the same.
#[tokio::test]
async fn a_runtime_that_ends_every_few_minutes_is_a_crash_loop() {
    let ward = Ward::new().await;
    let bot = ward.running_bot().await;
    for round in 1..ENDS_MAX {
        ward.stage.clock.forward(TimeDelta::minutes(3));
        ward.world.end_runtime(&bot);
        let noted = format!("select jsonb_array_length(cell -> 'ends') = {round} from molt.bots where id = '{bot}'");
        ward.stage.work(&ward.fleet, &noted).await;
        assert_eq!(ward.stage.observed(&bot).await, Some(Observed::Running));
    }
    ward.stage.clock.forward(TimeDelta::minutes(2));
    ward.world.end_runtime(&bot);
    ward.until(&bot, Observed::Degraded(Rung::GivenUp)).await;
    let reason = ward.stage.column(&bot, "reason").await.unwrap();
    assert!(reason.starts_with("Pip came up and ended again 5 times within 15 minutes."), "{reason}");
    assert_eq!(ward.world.started(), 1);

    // A person's restart begins a new count, and what happened long ago is forgotten as well.
    ward.stage.ask(&bot, "generation = generation + 1").await;
    ward.until(&bot, Observed::Running).await;
    for _ in 0..2 * ENDS_MAX {
        ward.stage.clock.forward(TimeDelta::minutes(10));
        let before = ward.stage.column(&bot, "cell -> 'ends'").await;
        ward.world.end_runtime(&bot);
        let noted = before.map_or("is not null".to_owned(), |ends| format!("<> '{ends}'"));
        ward.stage.work(&ward.fleet, &format!("select cell -> 'ends' {noted} from molt.bots where id = '{bot}'")).await;
    }
    assert_eq!(ward.stage.observed(&bot).await, Some(Observed::Running));
}

#[tokio::test]
async fn a_host_that_hangs_for_one_bot_delays_no_other() {
    let ward = Ward::new().await;
    let (stuck, other) = (ward.running_bot().await, ward.running_bot().await);
    ward.world.hang(&stuck, Hangs::Everything);
    ward.world.kill(&stuck);
    let taken = format!("select leased_until is not null from molt.bots where id = '{stuck}'");
    ward.stage.work(&ward.fleet, &taken).await;
    for _ in 0..3 {
        let before = ward.world.started();
        assert!(ward.world.kill(&other));
        let began = std::time::Instant::now();
        ward.stage
            .work(&ward.fleet, &format!("select observed <> 'running' from molt.bots where id = '{other}'"))
            .await;
        ward.stage.clock.forward(TimeDelta::seconds(11));
        ward.until(&other, Observed::Running).await;
        assert_eq!(ward.world.started(), before + 1);
        assert!(began.elapsed().as_secs() < 15, "shorter than any deadline of a call to a host");
    }
    assert!(!ward.world.has_cell(&stuck), "it still hangs");
    ward.world.unhang();
    ward.until(&stuck, Observed::Running).await;
}
