//! The stories: what happens to a cell, and what must hold afterwards.
//! Never: a look behind the host except through what every host under test offers.

use std::error::Error;

use molt_fleet::{Ensured, HostError, Report};
use molt_model::BotId;

use crate::suite::{Fault, HostUnderTest, Stage, Story, within};

/// More calls than any host makes for one cell.
const CALLS_MAX: u32 = 60;
/// A host that was disturbed is asked again, as the fleet would.
const TRIES_MAX: u32 = 4;

pub(crate) async fn of<H: HostUnderTest>(story: Story, stage: &Stage<'_, H>) {
    match story {
        Story::Create => create(stage).await,
        Story::CreateAgain => create_again(stage).await,
        Story::Start => start(stage).await,
        Story::Stop => stop(stage).await,
        Story::Restart => restart(stage).await,
        Story::Crash => crash(stage).await,
        Story::Hang => hang(stage).await,
        Story::SlowBoot => slow_boot(stage).await,
        Story::LostAnswer => lost_answer(stage).await,
        Story::GoneMachine => gone_machine(stage).await,
        Story::FullDisk => full_disk(stage).await,
        Story::HostAway => host_away(stage).await,
        Story::Update => update(stage).await,
        Story::Delete => delete(stage).await,
        Story::DeleteAgain => delete_again(stage).await,
        Story::Ahead => ahead(stage).await,
    }
}

async fn create<H: HostUnderTest>(stage: &Stage<'_, H>) {
    stage.assert_nothing().await;
    let health = stage.start(7).await;
    assert_eq!(health.applied.map(|applied| applied.revision), Some(7));
    stage.assert_one_cell().await;
    // A neighbour is another cell, and neither notices the other.
    let neighbour = BotId::random();
    within("ensure", stage.host.ensure(&stage.under.spec(&neighbour, 1))).await.unwrap();
    stage.assert_one_cell().await;
    within("stop", stage.host.stop(&neighbour, true)).await.unwrap();
    assert_eq!(stage.ready(&stage.spec(7)).await.boot_id, health.boot_id);
    stage.assert_one_cell().await;
}

async fn create_again<H: HostUnderTest>(stage: &Stage<'_, H>) {
    let (other, spec) = (stage.under.open(), stage.spec(1));
    let (one, two) = tokio::join!(stage.ensure(&spec), within("ensure", other.ensure(&spec)));
    let mut outcomes = [one.unwrap(), two.unwrap()];
    outcomes.sort_by_key(|outcome| *outcome == Ensured::AlreadyThere);
    assert_eq!(outcomes, [Ensured::Started, Ensured::AlreadyThere], "two programs at the same time");
    let boot = stage.ready(&spec).await.boot_id;
    for host in [&stage.host, &other] {
        assert_eq!(within("ensure", host.ensure(&stage.spec(2))).await.unwrap(), Ensured::AlreadyThere);
    }
    let health = stage.ready(&spec).await;
    assert_eq!((health.boot_id, health.applied.map(|applied| applied.revision)), (boot, Some(1)), "the first one");
    stage.assert_one_cell().await;
}

async fn start<H: HostUnderTest>(stage: &Stage<'_, H>) {
    stage.start(1).await;
    stage.under.write_note(&stage.bot, "kept").await;
    stage.stop(false).await.unwrap();
    // By a program that never saw the bot.
    let other = stage.under.open();
    assert_eq!(within("ensure", other.ensure(&stage.spec(2))).await.unwrap(), Ensured::Started);
    stage.ready(&stage.spec(2)).await;
    stage.assert_one_cell().await;
    stage.assert_note("kept").await;
}

async fn stop<H: HostUnderTest>(stage: &Stage<'_, H>) {
    stage.start(1).await;
    stage.under.write_note(&stage.bot, "kept").await;
    let gone = stage.host.gone(&stage.bot);
    let (stopped, ()) = tokio::join!(stage.stop(false), async {
        tokio::time::timeout(crate::suite::CALL_MAX, gone).await.expect("noticed by who waits for it");
    });
    stopped.unwrap();
    stage.assert_only_state().await;
    stage.stop(false).await.unwrap();
    stage.gone().await;
    stage.assert_only_state().await;
    stage.assert_note("kept").await;
}

async fn restart<H: HostUnderTest>(stage: &Stage<'_, H>) {
    let first = stage.start(1).await.boot_id;
    stage.under.write_note(&stage.bot, "kept").await;
    for _ in 0..2 {
        stage.stop(false).await.unwrap();
        assert_ne!(stage.start(1).await.boot_id, first);
        stage.assert_one_cell().await;
    }
    stage.assert_note("kept").await;
}

async fn crash<H: HostUnderTest>(stage: &Stage<'_, H>) {
    stage.start(1).await;
    stage.under.write_note(&stage.bot, "kept").await;
    stage.under.fault(Fault::Crash, &stage.bot).await;
    stage.gone().await;
    stage.assert_only_state().await;
    stage.start(1).await;
    stage.assert_one_cell().await;
    stage.assert_note("kept").await;
}

async fn hang<H: HostUnderTest>(stage: &Stage<'_, H>) {
    stage.start(1).await;
    stage.under.write_note(&stage.bot, "kept").await;
    stage.under.fault(Fault::Hang, &stage.bot).await;
    assert!(matches!(stage.inspect().await, Report::Present { .. }), "it hangs, but it lives");
    assert_eq!(stage.ensure(&stage.spec(1)).await.unwrap(), Ensured::AlreadyThere, "no second one beside it");
    stage.stop(false).await.unwrap();
    stage.gone().await;
    stage.assert_only_state().await;
    stage.start(1).await;
    stage.assert_one_cell().await;
    stage.assert_note("kept").await;
}

async fn slow_boot<H: HostUnderTest>(stage: &Stage<'_, H>) {
    let spec = stage.under.slow_spec(&stage.bot);
    assert_eq!(stage.ensure(&spec).await.unwrap(), Ensured::Started);
    assert!(matches!(stage.inspect().await, Report::Present { .. }), "a cell lives before its runtime does");
    assert_eq!(stage.ensure(&spec).await.unwrap(), Ensured::AlreadyThere);
    stage.assert_one_cell().await;
    // Nobody has to wait for it: it can be stopped in the middle, and a good one takes its place.
    stage.stop(false).await.unwrap();
    stage.assert_only_state().await;
    stage.start(2).await;
    stage.assert_one_cell().await;
}

/// The answer to every single call of a start, a stop and a removal is lost, one after the other.
async fn lost_answer<H: HostUnderTest>(stage: &Stage<'_, H>) {
    let mut lost = [0; 3];
    for (what, count) in lost.iter_mut().enumerate() {
        for nth in (1..CALLS_MAX).step_by(H::lost_answers_apart()) {
            let bot = BotId::random();
            let stage = Stage { under: stage.under, host: stage.under.open(), bot };
            if what > 0 {
                stage.start(1).await;
            }
            let losing = stage.under.open_losing(nth).await;
            let spec = stage.spec(1);
            let answer = match what {
                0 => within("ensure", losing.host.ensure(&spec)).await.map(drop),
                1 => within("stop", losing.host.stop(&stage.bot, false)).await,
                _ => within("remove", losing.host.stop(&stage.bot, true)).await,
            };
            assert!(answer.is_ok() || losing.happened(), "an error without a cause: {answer:?}");
            settle(&stage, what).await;
            if !losing.happened() {
                break;
            }
            *count += 1;
        }
    }
    println!("answers lost in a start, a stop and a removal: {lost:?}");
    assert!(lost.iter().all(|&count| count > 0 && count < CALLS_MAX - 1), "{lost:?}");
}

/// Another program goes on where the first one lost its answer.
async fn settle<H: HostUnderTest>(stage: &Stage<'_, H>, what: usize) {
    match what {
        0 => {
            let mut tries = 0;
            while let Err(error) = stage.ensure(&stage.spec(1)).await {
                tries += 1;
                assert!(tries < TRIES_MAX, "{error:?}");
            }
            stage.ready(&stage.spec(1)).await;
            stage.assert_one_cell().await;
            stage.stop(true).await.unwrap();
            stage.assert_nothing().await;
        }
        1 => {
            stage.stop(false).await.unwrap();
            stage.assert_only_state().await;
            stage.stop(true).await.unwrap();
        }
        _ => {
            stage.stop(true).await.unwrap();
            stage.assert_nothing().await;
        }
    }
}

async fn gone_machine<H: HostUnderTest>(stage: &Stage<'_, H>) {
    stage.start(1).await;
    stage.under.write_note(&stage.bot, "kept").await;
    stage.under.fault(Fault::GoneMachine, &stage.bot).await;
    stage.gone().await;
    assert_eq!(stage.inspect().await, Report::Absent);
    stage.stop(false).await.unwrap();
    stage.start(1).await;
    stage.assert_one_cell().await;
    stage.assert_note("kept").await;
}

async fn full_disk<H: HostUnderTest>(stage: &Stage<'_, H>) {
    stage.under.fault(Fault::FullDisk, &stage.bot).await;
    let error = stage.ensure(&stage.spec(1)).await.expect_err("there is no room");
    let said = sentences(&error);
    assert!(said.contains("disk is full"), "an honest error: {said}");
    assert!(stage.under.found(&stage.bot).await.cells.is_empty());
    // What is there can be looked at and removed meanwhile.
    assert_eq!(stage.inspect().await, Report::Absent);
    stage.stop(true).await.unwrap();
    stage.assert_nothing().await;
    stage.under.mend(Fault::FullDisk).await;
    stage.start(1).await;
    stage.assert_one_cell().await;
}

async fn host_away<H: HostUnderTest>(stage: &Stage<'_, H>) {
    stage.start(1).await;
    stage.under.write_note(&stage.bot, "kept").await;
    stage.under.fault(Fault::HostAway, &stage.bot).await;
    for (name, error) in [
        ("ensure", stage.ensure(&stage.spec(1)).await.map(drop)),
        ("inspect", within("inspect", stage.host.inspect(&stage.bot)).await.map(drop)),
        ("stop", stage.stop(false).await),
        ("list", within("list", stage.host.list()).await.map(drop)),
    ] {
        // Silence must never pass for absence: the fleet would start a second cell.
        let error = error.expect_err(name);
        assert!(matches!(error, HostError::Unusable(_)), "{name} says what to do: {error:?}");
    }
    stage.under.mend(Fault::HostAway).await;
    let spec = stage.spec(1);
    stage.ensure(&spec).await.unwrap();
    stage.ready(&spec).await;
    stage.assert_one_cell().await;
    stage.assert_note("kept").await;
}

async fn update<H: HostUnderTest>(stage: &Stage<'_, H>) {
    let old = stage.start(1).await;
    stage.under.write_note(&stage.bot, "kept").await;
    stage.stop(false).await.unwrap();
    let new = stage.start(2).await;
    assert_ne!(old.boot_id, new.boot_id);
    let (old, new) = (old.applied.unwrap(), new.applied.unwrap());
    assert_eq!((old.revision, new.revision), (1, 2));
    assert_ne!(old.hash, new.hash, "the new configuration is in force");
    stage.assert_one_cell().await;
    stage.assert_note("kept").await;
}

async fn delete<H: HostUnderTest>(stage: &Stage<'_, H>) {
    stage.start(1).await;
    stage.under.write_note(&stage.bot, "forgotten").await;
    stage.stop(true).await.unwrap();
    stage.gone().await;
    stage.assert_nothing().await;
}

async fn delete_again<H: HostUnderTest>(stage: &Stage<'_, H>) {
    // What never was, is gone already.
    stage.stop(true).await.unwrap();
    stage.start(1).await;
    stage.under.write_note(&stage.bot, "forgotten").await;
    let other = stage.under.open();
    let (one, two) = tokio::join!(stage.stop(true), within("stop", other.stop(&stage.bot, true)));
    one.unwrap();
    two.unwrap();
    stage.stop(true).await.unwrap();
    stage.assert_nothing().await;
    // The same name again is a new bot.
    stage.start(1).await;
    stage.assert_one_cell().await;
    assert_eq!(stage.under.note(&stage.bot).await, None);
}

/// A place without a cell: made by two programs at once, started in, never taken from a cell that ran, taken away, removed.
async fn ahead<H: HostUnderTest>(stage: &Stage<'_, H>) {
    // What never was, is gone already.
    stage.withdraw().await.unwrap();
    let other = stage.under.open();
    tokio::join!(stage.prepare(&*stage.host), stage.prepare(&*other));
    stage.prepare(&*stage.host).await;
    stage.assert_only_state().await;
    let place = stage.under.found(&stage.bot).await.states;
    stage.start(1).await;
    stage.assert_one_cell().await;
    assert_eq!(stage.under.found(&stage.bot).await.states, place, "it is the one that was made ahead");
    stage.under.write_note(&stage.bot, "kept").await;
    stage.prepare(&*other).await;
    for _ in 0..2 {
        stage.withdraw().await.expect_err("a cell was started in it");
        stage.stop(false).await.unwrap();
    }
    stage.start(2).await;
    stage.assert_note("kept").await;
    stage.stop(true).await.unwrap();
    stage.assert_nothing().await;

    stage.prepare(&*other).await;
    stage.withdraw().await.unwrap();
    stage.withdraw().await.unwrap();
    assert_eq!(stage.inspect().await, Report::Absent);
    let found = stage.under.found(&stage.bot).await;
    assert_eq!((found.cells.len(), found.states.len()), (0, 0), "{found:?}");
    stage.start(3).await;
    stage.assert_one_cell().await;
    stage.stop(true).await.unwrap();
    stage.prepare(&*stage.host).await;
    stage.stop(true).await.unwrap();
    stage.assert_nothing().await;
}

/// Everything that an error and its causes say.
fn sentences(error: &HostError) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}
