//! Where the time of a start at Fly goes, by calls that take what Fly's are taken to need.
//! Never: a figure of Fly's. Nobody measured it.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::future::join_all;
use hyper::Method;
use molt_fleet::Fleet;
use molt_model::{BotId, Intent, Observed};

use super::Fly;
use crate::fly_simulator::{Call, Rules};
use crate::points::{AHEAD, Theatre};

/// What Fly's calls are taken to need; nobody has measured Fly for this. What is held here is what lies between them.
fn latency(method: &Method, path: &str) -> Duration {
    Duration::from_millis(match (method.as_str(), path.rsplit('/').next().unwrap_or_default()) {
        ("GET", _) => 60,
        ("POST", "apps") => 400,
        ("POST", "ip_assignments") => 250,
        ("POST", "volumes") => 700,
        ("POST", "machines") => 1_000,
        _ => 300,
    })
}

/// From one state of a machine to the next, twice on its way up.
const LAG: Duration = Duration::from_millis(400);
/// Of the runtime.
const LONG_BOOT: Duration = Duration::from_secs(3);
/// What a start may take besides the runtime (the issue's own figure).
const BESIDES_MAX: Duration = Duration::from_secs(2);
/// What Fly's own calls may take of that where a place was made ahead.
const FLY_MAX: Duration = Duration::from_millis(1_600);
/// Of a machine that is there: one look finds the app and it, the secrets are given while the address is read and the lease
/// taken, and the lease is given back while the machine starts.
const ASIDE_OF_A_MACHINE: [&str; 4] = ["GET machines", "GET ip_assignments", "POST lease", "DELETE lease"];

/// Where the time of a start went.
struct Timed {
    /// From the acceptance of the plan until the bot ran, without the runtime's boot.
    besides: Duration,
    /// What of it were Fly's calls, by their latencies.
    at_fly: Duration,
    /// The rest.
    ours: Duration,
}

impl Timed {
    /// A plan is followed by the runtime's boot and little else. What Fly takes counts.
    fn assert_in_time(&self) {
        assert!(self.at_fly <= FLY_MAX, "{:?}", self.at_fly);
        // A clock on a busy machine can't be held to the tenths of a second that are left.
        let most = if std::env::var_os("MOLT_PROVE").is_some() { self.besides } else { self.ours };
        assert!(most < BESIDES_MAX, "{most:?}");
    }
}

async fn timed_theatre(keep_ahead: TimeDelta) -> Theatre<Fly> {
    let fly = Fly::with(Rules { lag: LAG, latency, ..Rules::default() }, LONG_BOOT).await;
    Theatre::new(Fly { keep_ahead, ..fly }).await
}

#[tokio::test]
async fn where_a_place_was_made_ahead_a_plan_is_followed_by_the_runtimes_boot_and_less_than_two_seconds() {
    let theatre = timed_theatre(TimeDelta::hours(1)).await;
    let (stage, fleet) = (&theatre.stage, theatre.next_fleet().0);
    let bot = stage.bot(Intent::AwaitingPlan).await;
    stage.work(&fleet, &AHEAD.done.replace('$', bot.as_str())).await;
    stage.settle(&fleet).await;
    // The machine comes up in one move.
    let first = time_a_start(&theatre, &fleet, &bot, &ASIDE_OF_A_MACHINE, 1).await;
    first.assert_in_time();
}

/// Where places are kept for the next bots, there is no moment at which a plan comes too early: neither right after the bot was
/// made, nor before, for a second bot of somebody who pays.
#[tokio::test]
async fn where_a_spare_place_waits_a_plan_may_come_with_the_bot_or_before_it() {
    join_all([false, true].map(async |pays| {
        let theatre = Theatre { keep_spare: 1, ..timed_theatre(TimeDelta::hours(1)).await };
        let (stage, fleet) = (&theatre.stage, theatre.next_fleet().0);
        stage.settle(&fleet).await;
        stage.work(&fleet, &theatre.all_spares_are_made()).await;
        if pays {
            stage.pays().await;
        }
        let before = theatre.scene.simulator.state().calls.len();
        let (accepted, bot) = (Instant::now(), stage.requested_bot().await);
        if !pays {
            stage.ask(&bot, "intent = 'running'").await;
        }
        stage.until(&fleet, &bot, Observed::Running).await;
        // Whose place it is is seen while it is looked for; that no cell runs there, nobody has to ask.
        let aside = [&ASIDE_OF_A_MACHINE[..], &["GET secrets"]].concat();
        let start = account(&theatre, &bot, before, accepted.elapsed(), &aside, 1).await;
        start.assert_in_time();
        stage.work(&fleet, &theatre.all_spares_are_made()).await;
    }))
    .await;
}

#[tokio::test]
async fn a_start_takes_what_fly_and_the_runtime_take_and_little_else() {
    let theatre = timed_theatre(TimeDelta::zero()).await;
    let stage = &theatre.stage;
    let fleet = theatre.next_fleet().0;
    let bot = stage.bot(Intent::AwaitingPlan).await;
    stage.settle(&fleet).await;
    assert!(theatre.scene.simulator.state().calls.iter().all(|call| call.method == "GET"), "nothing is made ahead");
    // The address is made while the volume is; a machine comes up in two moves.
    let first = time_a_start(&theatre, &fleet, &bot, &["GET machines", "POST ip_assignments"], 2).await;
    stage.ask(&bot, "intent = 'stopped'").await;
    stage.until(&fleet, &bot, Observed::Stopped).await;
    let again = time_a_start(&theatre, &fleet, &bot, &ASIDE_OF_A_MACHINE, 1).await;
    for start in [first, again] {
        assert!(start.ours < BESIDES_MAX, "{:?}", start.ours);
    }
}

/// A plan may come while the place is still being made: the start goes on with that, and nothing is made twice.
#[tokio::test]
async fn a_plan_that_comes_while_the_place_is_made_waits_for_the_rest_of_it_and_for_nothing_else() {
    // What Fly is asked for when the plan comes.
    join_all(["/v1/apps", "/volumes", "/machines"].map(async |made| {
        let theatre = timed_theatre(TimeDelta::hours(1)).await;
        let (stage, simulator, fleet) = (&theatre.stage, &theatre.scene.simulator, theatre.next_fleet().0);
        let created = Instant::now();
        let bot = stage.bot(Intent::AwaitingPlan).await;
        // It may be there by the time that this is answered.
        let asked = format!("select ahead is not null from molt.bots where id = '{bot}'");
        while simulator.calls("POST", made).is_empty() {
            stage.work(&fleet, &asked).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let early = created.elapsed();
        stage.ask(&bot, "intent = 'running'").await;
        let accepted = Instant::now();
        stage.until(&fleet, &bot, Observed::Running).await;
        let besides = accepted.elapsed() - LONG_BOOT;
        // Both looks for a machine are beside others, and so are the address and what the start has aside.
        let aside = [&ASIDE_OF_A_MACHINE[..], &["GET machines", "POST ip_assignments"]].concat();
        let all = account(&theatre, &bot, 0, created.elapsed(), &aside, 1).await;
        println!("accepted {early:?} after the bot was made, it ran {besides:?} later, besides the runtime's boot");
        for (end, times) in [("/v1/apps", 1), ("/ip_assignments", 1), ("/volumes", 1), ("/machines", 1), ("/start", 1)]
        {
            assert_eq!(simulator.calls("POST", end).len(), times, "{end}, accepted at {made}");
        }
        assert!(all.ours < BESIDES_MAX, "{:?}", all.ours);
    }))
    .await;
}

/// Has the bot start and says where the time went. `aside`: calls that are made while others are.
async fn time_a_start(theatre: &Theatre<Fly>, fleet: &Fleet, bot: &BotId, aside: &[&str], moves: u32) -> Timed {
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    let before = simulator.state().calls.len();
    stage.ask(bot, "intent = 'running'").await;
    let accepted = Instant::now();
    stage.until(fleet, bot, Observed::Running).await;
    account(theatre, bot, before, accepted.elapsed(), aside, moves).await
}

/// Where the time went that it took from the call after `before` on until the bot ran.
async fn account(
    theatre: &Theatre<Fly>,
    bot: &BotId,
    before: usize,
    took: Duration,
    aside: &[&str],
    moves: u32,
) -> Timed {
    let (stage, simulator) = (&theatre.stage, &theatre.scene.simulator);
    let mut calls = simulator.state().calls[before..].to_vec();
    // Places that are made for others meanwhile are asked for by others.
    let app = Fly::app_of(bot);
    calls.retain(|call| call.path.split('/').any(|part| part == app) || call.body["name"] == app);
    let of = |call: &Call| latency(&call.method.parse().unwrap(), &call.path);
    let mut aside = aside.to_vec();
    let mut at_fly = LAG * moves;
    for call in &calls {
        let end = format!("{} {}", call.method, call.path.rsplit('/').next().unwrap_or_default());
        let beside = aside.iter().position(|name| *name == end).map(|at| aside.remove(at)).is_some();
        at_fly += if beside { Duration::ZERO } else { of(call) };
        let note = if beside { " beside others" } else { "" };
        println!("  {} {} {:?}{note}", call.method, call.path.replace(&app, "…"), of(call));
    }
    assert!(aside.is_empty(), "not called: {aside:?}");
    let besides = took - LONG_BOOT;
    let ours = besides.checked_sub(at_fly).expect("less than Fly and the runtime take: the sum is wrong");
    let lines = "select string_agg(format('%s %s ms', name, round(extract(epoch from ended_at - started_at) * 1000)),
                   ', ' order by position) from molt.bot_steps where bot_id";
    println!("the timeline: {}", stage.database.text(&format!("{lines} = '{bot}'")).await.unwrap());
    println!(
        "{took:?}: {} calls to Fly and its machine {at_fly:?}, the runtime {LONG_BOOT:?}, ours {ours:?}; all but the runtime {besides:?}",
        calls.len()
    );
    Timed { besides, at_fly, ours }
}
