//! What is made for a bot between the wizard and the plan, at the simulated Fly: who gets it, when it goes, and that nothing of
//! it ever harms a bot.

use std::time::Duration;

use chrono::TimeDelta;
use molt_fleet::{Fleet, Host, Swept};
use molt_model::{BotId, Clock, Intent, Observed};

use crate::fly::Fly;
use crate::fly_simulator::Fault;
use crate::points::{AHEAD, LAPSE, Scene, Theatre};
use crate::stage::Stage;

/// Longer than a round of the fleet waits for its workers.
const SLOW: Duration = Duration::from_millis(800);

async fn theatre() -> Theatre<Fly> {
    Theatre::new(Fly::set().await).await
}

/// A bot whose machine is being made just now, and takes its time.
async fn in_the_middle(theatre: &Theatre<Fly>, fleet: &Fleet) -> BotId {
    theatre.scene.simulator.state().plan("POST", "/machines", Fault::Slow(SLOW), 1);
    let bot = theatre.stage.bot(Intent::AwaitingPlan).await;
    fleet.run_once().await.unwrap();
    assert_eq!(theatre.stage.column(&bot, "ahead").await.as_deref(), Some("making"));
    bot
}

async fn until(theatre: &Theatre<Fly>, fleet: &Fleet, bot: &BotId, done: &str) {
    theatre.stage.work(fleet, &done.replace('$', bot.as_str())).await;
    theatre.stage.settle(fleet).await;
}

#[tokio::test]
async fn a_plan_that_comes_in_the_middle_gets_the_place_that_is_being_made() {
    let theatre = theatre().await;
    let (stage, fleet) = (&theatre.stage, theatre.next_fleet().0);
    let bot = in_the_middle(&theatre, &fleet).await;
    stage.ask(&bot, "intent = 'running'").await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.settle(&fleet).await;
    assert_eq!(theatre.faults(&bot, None).await, None);
    assert_eq!(theatre.scene.simulator.calls("POST", "/machines").len(), 1, "it is not made again");
    assert_eq!(stage.column(&bot, "ahead").await, None, "it is the bot's own");
    assert_eq!(stage.timeline(&bot).await, "reserved done, cell done, booting done, settings done, ready done");
}

#[tokio::test]
async fn a_bot_that_is_deleted_in_the_middle_leaves_nothing() {
    let theatre = theatre().await;
    let (stage, fleet) = (&theatre.stage, theatre.next_fleet().0);
    let bot = in_the_middle(&theatre, &fleet).await;
    stage.ask(&bot, "intent = 'deleted'").await;
    stage.work(&fleet, "select not exists (select from molt.bots)").await;
    assert!(theatre.scene.simulator.state().apps.is_empty());
}

#[tokio::test]
async fn two_fleets_make_one_place() {
    let theatre = theatre().await;
    let one = theatre.next_fleet().0;
    let bot = in_the_middle(&theatre, &one).await;
    // The second one takes over what the first one is still at.
    let two = theatre.next_fleet().0;
    let both = async {
        loop {
            one.run_once().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = until(&theatre, &two, &bot, AHEAD.done) => {}
        () = both => {}
    }
    assert_eq!(theatre.faults(&bot, None).await, None);
    let volume = theatre.scene.volume(&bot).await;
    theatre.stage.ask(&bot, "intent = 'running'").await;
    theatre.stage.until(&two, &bot, Observed::Running).await;
    theatre.stage.settle(&two).await;
    assert_eq!(theatre.faults(&bot, volume).await, None, "and the bot gets it");
}

#[tokio::test]
async fn the_sweeper_knows_whose_place_it_is() {
    let theatre = theatre().await;
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    let bot = theatre.prepared_bot().await;
    let fleet = theatre.next_fleet().0;
    stage.settle(&fleet).await;
    let volume = theatre.scene.volume(&bot).await;
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept::default(), "neither an orphan nor a cell");
    assert_eq!(theatre.faults(&bot, volume).await, None);
    let secrets = simulator.app().secrets;
    assert!(secrets.is_empty(), "{:?}", secrets.keys());

    stage.ask(&bot, LAPSE_OF_TIME).await;
    until(&theatre, &fleet, &bot, LAPSE.done).await;
    assert_eq!((simulator.app().living().count(), simulator.app().volumes.len()), (0, 0));
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept::default());

    let orphan = theatre.prepared_bot().await;
    stage.database.execute(&format!("delete from molt.bots where id = '{orphan}'")).await;
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 1, made_due: 0 });
    stage.database.execute("delete from molt.bots").await;
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 1, made_due: 0 });
    assert!(simulator.state().apps.is_empty());
}

/// As a request does that opens the checkout. For how many bots that is news.
async fn open_checkout(stage: &Stage, bot: &BotId) -> u64 {
    let mut tx = stage.database.store.tenant(stage.user).await.unwrap();
    let news = tx.plan_is_wanted(Some(bot), stage.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    news
}

async fn is_so(stage: &Stage, bot: &BotId, question: &str) {
    let rows = stage.column(bot, "json_build_array(ahead, wanted_at, due_at)").await;
    assert_eq!(stage.column(bot, question).await.as_deref(), Some("true"), "{question}: {rows:?}");
}

/// A plan for this bot, and what Fly is asked for until it runs, in the order of the alphabet.
async fn accept(theatre: &Theatre<Fly>, fleet: &Fleet, bot: &BotId) -> Vec<String> {
    let simulator = &theatre.scene.simulator;
    let before = simulator.state().calls.len();
    theatre.stage.ask(bot, "intent = 'running'").await;
    theatre.stage.until(fleet, bot, Observed::Running).await;
    let named = |part: &str| match part.starts_with("molt-") || part.len() == 14 {
        true => "…".to_owned(),
        false => part.to_owned(),
    };
    let calls = simulator.state().calls[before..].to_vec();
    let named = |path: &str| path.split('/').map(named).collect::<Vec<_>>().join("/");
    let mut calls: Vec<String> = calls.iter().map(|call| format!("{} {}", call.method, named(&call.path))).collect();
    calls.sort();
    calls
}

#[tokio::test]
async fn whoever_comes_back_has_the_place_made_anew_and_starts_as_fast_as_at_first() {
    let theatre = theatre().await;
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    let first = theatre.prepared_bot().await;
    let fleet = theatre.next_fleet().0;
    stage.settle(&fleet).await;
    let at_first = accept(&theatre, &fleet, &first).await;
    assert!(at_first.iter().any(|call| call == "POST /v1/apps/…/machines/…/start"), "{at_first:?}");
    theatre.remove(&first).await;

    let bot = stage.bot(Intent::AwaitingPlan).await;
    until(&theatre, &fleet, &bot, AHEAD.done).await;
    let volume = theatre.scene.volume(&bot).await;
    stage.ask(&bot, LAPSE_OF_TIME).await;
    until(&theatre, &fleet, &bot, LAPSE.done).await;
    let asked = simulator.state().calls.len();
    let made = simulator.calls("POST", "/machines").len();
    stage.settle(&fleet).await;
    assert_eq!(simulator.state().calls.len(), asked, "nobody wants it: nothing is asked");
    assert_eq!(open_checkout(stage, &bot).await, 1);
    until(&theatre, &fleet, &bot, AHEAD.done).await;
    assert_eq!(simulator.calls("POST", "/machines").len(), made + 1);
    assert_ne!(theatre.scene.volume(&bot).await, volume, "what went doesn't come back");
    assert_eq!(theatre.faults(&bot, None).await, None);
    let volume = theatre.scene.volume(&bot).await;
    assert_eq!(accept(&theatre, &fleet, &bot).await, at_first);
    stage.settle(&fleet).await;
    assert_eq!(theatre.faults(&bot, volume).await, None);
    assert_eq!(open_checkout(stage, &bot).await, 0, "it runs");
}

#[tokio::test]
async fn a_place_that_just_goes_is_made_anew_for_who_comes_back() {
    let theatre = theatre().await;
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    let bot = theatre.prepared_bot().await;
    let fleet = theatre.next_fleet().0;
    stage.settle(&fleet).await;
    simulator.state().plan("DELETE", "/machines/*", Fault::Slow(SLOW), 1);
    stage.ask(&bot, LAPSE_OF_TIME).await;
    stage.work(&fleet, &format!("select ahead = 'leaving' from molt.bots where id = '{bot}'")).await;
    assert_eq!(open_checkout(stage, &bot).await, 1);
    until(&theatre, &fleet, &bot, AHEAD.done).await;
    assert_eq!((simulator.calls("POST", "/machines").len(), simulator.app().living().count()), (2, 1));
    assert_eq!(theatre.faults(&bot, None).await, None);
}

#[tokio::test]
async fn a_place_is_kept_for_an_hour_after_the_last_sign_and_signs_alone_ask_fly_nothing() {
    let theatre = theatre().await;
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    let bot = theatre.prepared_bot().await;
    let fleet = theatre.next_fleet().0;
    stage.settle(&fleet).await;
    let asked = simulator.state().calls.len();
    let volume = theatre.scene.volume(&bot).await;
    stage.clock.forward(TimeDelta::minutes(50));
    let (mut news, signs) = (0, 100);
    for _ in 0..signs {
        news += open_checkout(stage, &bot).await;
        fleet.run_once().await.unwrap();
        stage.clock.forward(TimeDelta::milliseconds(600));
    }
    assert!((5..=6).contains(&news), "{news} of {signs} in a minute");
    assert_eq!(simulator.state().calls.len(), asked, "a place that is there needs no look");
    let untouched = "due_at < wanted_at + interval '11 minutes' and leased_until is null";
    is_so(stage, &bot, untouched).await;

    // Its hour, counted from the beginning, is over: it is looked at once, and kept for the rest of the other one.
    for minutes in [10, 40] {
        stage.clock.forward(TimeDelta::minutes(minutes));
        stage.settle(&fleet).await;
        is_so(stage, &bot, "ahead = 'made' and due_at = wanted_at + interval '1 hour'").await;
        assert_eq!(simulator.state().calls.len(), asked + 1, "after {minutes} minutes");
    }
    assert_eq!(theatre.scene.volume(&bot).await, volume);
    stage.clock.forward(TimeDelta::minutes(10));
    until(&theatre, &fleet, &bot, LAPSE.done).await;
    assert_eq!(theatre.faults(&bot, None).await, None);
}

const LAPSE_OF_TIME: &str = "wanted_at = wanted_at - interval '1 day'";

#[tokio::test]
async fn a_place_that_can_not_be_made_is_tried_ever_more_rarely_and_counts_against_nobody() {
    let mut theatre = theatre().await;
    theatre.scene.keep_ahead = TimeDelta::minutes(5);
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    simulator.state().full_for_volumes.extend(["fra", "ams"].map(String::from));
    let fleet = theatre.next_fleet().0;
    let bot = stage.bot(Intent::AwaitingPlan).await;
    stage.settle(&fleet).await;
    while stage.column(&bot, "ahead").await.as_deref() == Some("making") {
        stage.clock.forward(TimeDelta::seconds(10));
        stage.settle(&fleet).await;
    }
    stage.work(&fleet, &LAPSE.done.replace('$', bot.as_str())).await;
    let tries = simulator.calls("POST", "/volumes").len() / 2;
    assert!((4..=8).contains(&tries), "{tries} in five minutes");
    assert_eq!(theatre.faults(&bot, None).await, None);

    // Nothing is made again but for who comes back, and for them it is tried anew however long it was put off.
    stage.settle(&fleet).await;
    assert_eq!(simulator.calls("POST", "/volumes").len() / 2, tries);
    assert_eq!(open_checkout(stage, &bot).await, 1);
    stage
        .work(&fleet, &format!("select ahead = 'making' and leased_until is null from molt.bots where id = '{bot}'"))
        .await;
    stage.clock.forward(TimeDelta::seconds(100));
    stage.settle(&fleet).await;
    is_so(stage, &bot, "due_at > wanted_at + interval '3 minutes'").await;
    assert_eq!(simulator.calls("POST", "/volumes").len() / 2, tries + 2);
    simulator.state().full_for_volumes.clear();
    stage.settle(&fleet).await;
    assert_eq!(simulator.calls("POST", "/volumes").len() / 2, tries + 2, "as long as nobody comes");
    open_checkout(stage, &bot).await;
    until(&theatre, &fleet, &bot, AHEAD.done).await;
    stage.ask(&bot, "intent = 'running'").await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.settle(&fleet).await;
    assert_eq!(theatre.faults(&bot, None).await, None);
}

#[tokio::test]
async fn while_fly_is_away_a_waiting_bot_waits_and_nobody_reads_of_it() {
    let theatre = theatre().await;
    let (stage, fleet) = (&theatre.stage, theatre.next_fleet().0);
    theatre.scene.simulator.state().away = true;
    let bot = stage.bot(Intent::AwaitingPlan).await;
    stage.settle(&fleet).await;
    let quiet = AHEAD.done.replace('$', bot.as_str()).replace("ahead = 'made'", "ahead is null and due_at > now()");
    assert_eq!(
        stage.database.text(&quiet).await.as_deref(),
        Some("true"),
        "no attempt is used up, and it is tried again"
    );
    theatre.scene.simulator.state().away = false;
    stage.clock.forward(TimeDelta::seconds(5));
    until(&theatre, &fleet, &bot, AHEAD.done).await;
    assert_eq!(theatre.faults(&bot, None).await, None);
}

#[tokio::test]
async fn what_a_bot_ran_on_is_never_taken_away_whatever_it_waits_for() {
    let theatre = theatre().await;
    let stage = &theatre.stage;
    let bot = theatre.prepared_bot().await;
    let fleet = theatre.next_fleet().0;
    let volume = theatre.scene.volume(&bot).await;
    stage.ask(&bot, "intent = 'running'").await;
    stage.until(&fleet, &bot, Observed::Running).await;
    stage.settle(&fleet).await;
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);

    let host: std::sync::Arc<dyn Host> = theatre.scene.open(stage).0;
    let refused = async || host.prepares().unwrap().withdraw(&bot).await.unwrap_err().to_string();
    assert!(refused().await.contains("was started"), "{}", refused().await);
    // Its plan ends, and it waits for another one, for days.
    for change in ["intent = 'stopped'", "intent = 'awaiting_plan'", LAPSE_OF_TIME] {
        stage.ask(&bot, change).await;
        stage.settle(&fleet).await;
    }
    assert_eq!(stage.observed(&bot).await, Some(Observed::Stopped));
    assert_eq!(theatre.scene.volume(&bot).await, volume);
    assert!(refused().await.contains("was started"), "stopped as well");
    // Without its machine, too: the volume is marked.
    theatre.scene.simulator.destroy_machine(&Fly::app_of(&bot));
    assert!(refused().await.contains("was started"));
    assert_eq!(theatre.scene.volume(&bot).await, volume);
}

#[tokio::test]
async fn a_place_goes_as_soon_as_nobody_may_want_it() {
    let mut theatre = theatre().await;
    let bot = theatre.prepared_bot().await;
    let fleet = theatre.next_fleet().0;
    theatre.stage.ask(&bot, "intent = 'stopped', intent_reason = 'Because.', intent_before = 'awaiting_plan'").await;
    theatre.stage.work(&fleet, &format!("select ahead = 'lapsed' from molt.bots where id = '{bot}'")).await;
    theatre.remove(&bot).await;

    // The operator wants none any more.
    let bot = theatre.prepared_bot().await;
    drop(fleet);
    theatre.scene.keep_ahead = TimeDelta::zero();
    let fleet = theatre.next_fleet().0;
    until(&theatre, &fleet, &bot, LAPSE.done).await;
    assert_eq!(theatre.faults(&bot, None).await, None);
}
