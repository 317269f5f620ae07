//! Places that are kept for the next bots, at the simulated Fly: how many there are, who gets them, and that nobody ever gets
//! one that another bot used.

use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use molt_fleet::{Fleet, Swept};
use molt_model::{BotId, Observed};
use secrecy::{ExposeSecret, SecretString};

use crate::fly::Fly;
use crate::points::{Scene, Theatre};
use crate::stage::Stage;

async fn theatre(keep_spare: u32) -> Theatre<Fly> {
    Theatre { keep_spare, ..Theatre::new(Fly::set().await).await }
}

async fn fill(theatre: &Theatre<Fly>, fleet: &Fleet) {
    // One that begins looks at all of them first.
    theatre.stage.settle(fleet).await;
    theatre.stage.work(fleet, &theatre.all_spares_are_made()).await;
}

async fn spares(stage: &Stage) -> Vec<String> {
    let ids = stage.database.text("select string_agg(id, ' ' order by id) from molt.spares").await.unwrap_or_default();
    ids.split(' ').filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

/// Calls about this bot's app that change something.
fn changes(theatre: &Theatre<Fly>, bot: &BotId) -> usize {
    let app = Fly::app_of(bot);
    let state = theatre.scene.simulator.state();
    state.calls.iter().filter(|call| call.method != "GET" && call.path.contains(&app)).count()
}

#[tokio::test]
async fn as_many_places_wait_as_are_wanted_and_one_that_is_taken_is_made_anew() {
    let mut theatre = theatre(2).await;
    let fleet = theatre.next_fleet().0;
    fill(&theatre, &fleet).await;
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    for app in simulator.state().apps.values() {
        let machine = app.living().next().unwrap();
        assert_eq!((machine.state.as_str(), app.volumes.len(), app.ips.len()), ("created", 1, 1));
        assert!(app.secrets.is_empty(), "{:?}", app.secrets.keys());
    }
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept::default(), "they are nobody's and known");
    let asked = simulator.state().calls.len();
    for _ in 0..3 {
        fleet.run_once().await.unwrap();
    }
    assert_eq!(simulator.state().calls.len(), asked, "what is there needs no look");

    let bot = stage.requested_bot().await;
    let volume = theatre.scene.volume(&bot).await;
    fill(&theatre, &fleet).await;
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);
    assert_eq!(simulator.calls("POST", "/machines").len(), 3);
    let waits = "json_build_array(ahead, due_at > now() + interval '50 minutes')";
    assert_eq!(stage.column(&bot, waits).await.as_deref(), Some("[\"made\", true]"), "it waits for its plan");
    stage.ask(&bot, "intent = 'running'").await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.settle(&fleet).await;
    assert_eq!(theatre.faults(&bot, volume).await, None);
    assert_eq!(simulator.calls("POST", "/machines").len(), 3, "it is not made again");

    // Fewer are wanted, and none.
    drop(fleet);
    for keep_spare in [1, 0] {
        theatre.keep_spare = keep_spare;
        let fleet = theatre.next_fleet().0;
        fill(&theatre, &fleet).await;
        assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 1, made_due: 0 });
        assert_eq!(theatre.faults(&bot, None).await, None, "{keep_spare}");
    }
}

#[tokio::test]
async fn a_spare_that_nobody_pays_for_goes_as_every_place_does() {
    let mut theatre = theatre(1).await;
    let fleet = theatre.next_fleet().0;
    fill(&theatre, &fleet).await;
    let bot = theatre.stage.requested_bot().await;
    fill(&theatre, &fleet).await;
    theatre.stage.clock.forward(TimeDelta::minutes(61));
    let lapsed = |bot: &BotId| {
        format!("select ahead = 'lapsed' and attempts = 0 and last_error is null from molt.bots where id = '{bot}'")
    };
    theatre.stage.work(&fleet, &lapsed(&bot)).await;
    assert_eq!(theatre.faults(&bot, None).await, None);
    theatre.remove(&bot).await;

    // Where nothing is made for those who look at the plans, nothing is kept for them either.
    theatre.scene.keep_ahead = TimeDelta::zero();
    let fleet = theatre.next_fleet().0;
    fill(&theatre, &fleet).await;
    let bot = theatre.stage.requested_bot().await;
    theatre.stage.work(&fleet, &lapsed(&bot)).await;
    fill(&theatre, &fleet).await;
    assert_eq!(theatre.faults(&bot, None).await, None);
}

#[tokio::test]
async fn a_spare_that_is_gone_is_made_anew() {
    let theatre = theatre(2).await;
    let (stage, fleet) = (&theatre.stage, theatre.next_fleet().0);
    fill(&theatre, &fleet).await;
    let before = spares(stage).await;
    let gone: BotId = before[0].parse().unwrap();
    theatre.scene.simulator.state().apps.remove(&Fly::app_of(&gone));
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept::default());
    assert_eq!(stage.database.text(&theatre.all_spares_are_made()).await.as_deref(), Some("true"), "a listing lags");
    stage.clock.forward(TimeDelta::minutes(2));
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept::default());
    fill(&theatre, &fleet).await;
    assert_eq!(spares(stage).await, before);
    assert!(theatre.scene.volume(&gone).await.is_some());
    assert_eq!(theatre.faults(&gone, None).await, None);
}

#[tokio::test]
async fn two_fleets_keep_as_many_as_one() {
    let theatre = theatre(2).await;
    let (one, two) = (theatre.next_fleet().0, theatre.next_fleet().0);
    tokio::join!(fill(&theatre, &one), fill(&theatre, &two));
    let bot = theatre.stage.requested_bot().await;
    theatre.stage.ask(&bot, "intent = 'running'").await;
    let runs = format!("select observed = 'running' from molt.bots where id = '{bot}'");
    tokio::join!(theatre.stage.work(&one, &runs), theatre.stage.work(&two, &runs));
    tokio::join!(fill(&theatre, &one), fill(&theatre, &two));
    theatre.stage.settle(&one).await;
    assert_eq!(theatre.faults(&bot, None).await, None);
    assert_eq!(theatre.scene.simulator.state().apps.len(), 3, "both may try the same one, and one is made");
}

#[tokio::test]
async fn where_there_is_no_room_spares_are_tried_ever_more_rarely_and_a_bot_gets_its_own_id() {
    let theatre = theatre(3).await;
    let (stage, simulator, fleet) = (&theatre.stage, &theatre.scene.simulator, theatre.next_fleet().0);
    simulator.state().full_for_volumes.extend(["fra", "ams"].map(String::from));
    let tries = || simulator.calls("POST", "/volumes").len() / 2;
    let rounds = async |minutes: i32| {
        for _ in 0..minutes * 6 {
            fleet.run_once().await.unwrap();
            tokio::time::timeout(Duration::from_millis(60), fleet.nudge().notified()).await.ok();
            stage.clock.forward(TimeDelta::seconds(10));
        }
    };
    rounds(10).await;
    assert!((6..=9).contains(&tries()), "{} in ten minutes", tries());
    let bot = stage.requested_bot().await;
    assert_eq!(stage.column(&bot, "claim").await, None);
    stage.database.execute("delete from molt.bots").await;
    simulator.state().full_for_volumes.clear();
    rounds(11).await;
    assert_eq!(stage.database.text(&theatre.all_spares_are_made()).await.as_deref(), Some("true"));
    assert!(fleet.sweep_once().await.is_ok());
    assert_eq!(theatre.faults(&bot, None).await, None);
}

/// What Alice's bot left when the backup was taken that knows nothing of her.
#[derive(Clone, Copy, Debug)]
enum Left {
    Running,
    Stopped,
    WithoutMachine,
}

/// Alice's bot takes the spare and is started; then the database is as it was before. The fleet that knows nothing of it, her
/// place, and her volume.
async fn restored(theatre: &Theatre<Fly>, left: Left) -> (Fleet, BotId, String) {
    let (stage, fleet) = (&theatre.stage, theatre.next_fleet().0);
    fill(theatre, &fleet).await;
    let alice = stage.requested_bot().await;
    fill(theatre, &fleet).await;
    stage.ask(&alice, "intent = 'running'").await;
    stage.until(&fleet, &alice, Observed::Running).await;
    stage.settle(&fleet).await;
    match left {
        Left::Running => {}
        Left::Stopped => {
            stage.ask(&alice, "intent = 'stopped'").await;
            stage.until(&fleet, &alice, Observed::Stopped).await;
            stage.settle(&fleet).await;
        }
        Left::WithoutMachine => theatre.scene.simulator.destroy_machine(&Fly::app_of(&alice)),
    }
    // It is the one that is there longest, so the next bot gets it.
    stage
        .database
        .execute(&format!(
            "delete from molt.bots where id = '{alice}'; delete from molt.tombstones; delete from molt.ghost_keys;
             insert into molt.spares (id, made_at) values ('{alice}', now() - interval '1 hour');
             delete from molt.spares where id <> '{alice}'"
        ))
        .await;
    let volume = theatre.scene.volume(&alice).await.unwrap();
    (fleet, alice, volume)
}

#[tokio::test]
async fn after_a_restored_backup_a_fleet_that_starts_keeps_no_place_that_was_used() {
    join_all([Left::Running, Left::Stopped, Left::WithoutMachine].map(async |left| {
        let theatre = theatre(1).await;
        let stage = &theatre.stage;
        let (fleet, alice, volume) = restored(&theatre, left).await;
        drop(fleet);
        let before = changes(&theatre, &alice);
        let fleet = theatre.next_fleet().0;
        fill(&theatre, &fleet).await;
        let bob = stage.requested_bot().await;
        assert_ne!(bob, alice, "{left:?}");
        stage.ask(&bob, "intent = 'running'").await;
        stage.until(&fleet, &bob, Observed::Running).await;
        fill(&theatre, &fleet).await;
        assert_eq!(changes(&theatre, &alice), before, "{left:?}");
        assert_eq!(theatre.scene.volume(&alice).await.as_ref(), Some(&volume));
        // From here on it is what every bot is that has no row.
        assert_eq!(
            fleet.sweep_once().await.unwrap().removed,
            2,
            "hers, and the spare that was dropped with the backup"
        );
        assert_eq!(theatre.faults(&bob, None).await, None, "{left:?}");
    }))
    .await;
}

#[tokio::test]
async fn after_a_restored_backup_no_bot_gets_what_another_one_used() {
    join_all([Left::Running, Left::Stopped, Left::WithoutMachine].map(async |left| {
        let theatre = theatre(1).await;
        let stage = &theatre.stage;
        let (fleet, alice, volume) = restored(&theatre, left).await;
        let (before, key) = (changes(&theatre, &alice), theatre.scene.cells.ghost_key(&alice));
        let bob = stage.requested_bot().await;
        assert_eq!(bob, alice, "the fleet that ran all the time knows nothing of it");
        stage.ask(&bob, "intent = 'running'").await;
        while stage.observed(&bob).await.unwrap().phase() != "failed" {
            fleet.run_once().await.unwrap();
            tokio::time::timeout(Duration::from_millis(100), fleet.nudge().notified()).await.ok();
            stage.clock.forward(TimeDelta::seconds(5));
        }
        // Neither does anything else reach it: a restart, new settings, a stop, another fleet, the sweeper.
        for change in ["generation = generation + 1", "revision = revision + 1", "intent = 'stopped'"] {
            stage.ask(&bob, change).await;
            stage.settle(&fleet).await;
        }
        let next = theatre.next_fleet().0;
        stage.settle(&next).await;
        next.sweep_once().await.unwrap();
        stage.settle(&next).await;
        assert_eq!(changes(&theatre, &alice), before, "{left:?}");
        assert_eq!(theatre.scene.volume(&alice).await.as_ref(), Some(&volume), "{left:?}");
        let held = |key: Option<SecretString>| key.map(|key| key.expose_secret().to_owned());
        assert_eq!(held(theatre.scene.cells.ghost_key(&alice)), held(key), "{left:?}");
        assert_eq!(stage.database.store.cell_address(&bob).await.unwrap().map(|(address, _)| address), None);

        // He removes it, and has another one made.
        theatre.remove(&bob).await;
        fill(&theatre, &next).await;
        let bob = stage.requested_bot().await;
        stage.ask(&bob, "intent = 'running'").await;
        stage.until(&next, &bob, Observed::Running).await;
        fill(&theatre, &next).await;
        next.sweep_once().await.unwrap();
        assert_ne!(bob, alice);
        assert_eq!(theatre.faults(&bob, None).await, None, "{left:?}");
    }))
    .await;
}
