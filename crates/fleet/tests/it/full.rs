//! The disk of a real Docker engine is full: the bot's owner reads so, nothing is left half made, nobody is asked to do anything,
//! and the bot starts by itself once there is room.

use chrono::TimeDelta;
use molt_fleet::look_at_engine;
use molt_model::bot::Place;
use molt_model::{Clock, Intent, Observed};

use crate::contained::{self, Contained};
use crate::small_engine::SmallEngine;
use crate::stage::Stage;

/// Room for the image and a few cells.
const DISK_MIB: u64 = 512;
/// More tries than any failure but this one has.
const TRIES: usize = 12;
const WAITS: &str = "There is no room left on the disk for Pip. It starts by itself";

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_waits_for_room_on_the_engines_disk_and_starts_by_itself() {
    let Some(small) = contained::found(|| SmallEngine::start(DISK_MIB)).await else { return };
    let stage = Stage::new().await;
    let contained = Contained::new(small.engine.clone(), &stage).await;
    small.fill(0);
    let found = look_at_engine(&contained.docker.socket, &contained.docker.image).await.unwrap();
    assert_eq!((found.root, found.free_bytes), (small.disk(), Some(0)));

    let fleet = stage.fleet_with(contained.config(&stage), contained.host(contained.docker.socket.clone()));
    let bot = stage.bot(Intent::Running).await;
    for _ in 0..TRIES {
        stage.work(&fleet, "select last_error is not null and leased_until is null from molt.bots").await;
        assert_eq!(stage.observed(&bot).await, Some(Observed::Infrastructure(Place::Cell)));
        assert!(stage.column(&bot, "reason").await.unwrap().starts_with(WAITS));
        assert_eq!(stage.column(&bot, "attempts").await.as_deref(), Some("0"), "nothing is wrong with the bot");
        assert_eq!(contained.listed(&["ps", "--all", "--format", "{{.Names}}"]), []);
        assert_eq!(contained.listed(&["volume", "ls", "--quiet"]), []);
        stage.database.execute("update molt.bots set last_error = null").await;
        stage.clock.forward(TimeDelta::minutes(1));
    }
    assert_eq!(stage.timeline(&bot).await, "reserved done, cell", "one line, however often it was tried");
    let sentence = "select sentence from molt.bot_steps where name = 'cell'";
    assert!(stage.database.text(sentence).await.unwrap().starts_with(WAITS));
    stage.database.execute("update molt.bots set last_error = 'the host''s disk is full'").await;
    let stuck = stage.database.store.system().await.unwrap().fleet_overview(stage.clock.now()).await.unwrap().stuck;
    let said = stuck.iter().map(|stuck| stuck.sentence(stage.clock.now())).collect::<Vec<_>>().join("; ");
    assert!(said.contains(bot.as_str()) && said.contains("disk is full"), "what an operator reads: {said}");

    small.make_room();
    stage.until(&fleet, &bot, Observed::Running).await;
    assert_eq!(stage.column(&bot, "reason").await, None);
    assert_eq!(stage.column(&bot, "last_error").await, None);
}
