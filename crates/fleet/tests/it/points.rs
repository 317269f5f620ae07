//! The platform is killed after every single call to the host or a cell and after every commit, of provisioning, of an update
//! and of a removal; the next one takes over. In the end: one cell per bot, never two, never none, no orphan, no lost volume.
//! Never: fewer than all of the points under MOLT_PROVE; every test run tries a sample.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use molt_fleet::Fleet;
use molt_model::{BotId, Clock, Intent, Observed};
use molt_store::Store;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use crate::line::Line;
use crate::scene::{InMemory, Scene};
use crate::simulated::Blow;
use crate::stage::Stage;

/// More points than any of the stories has.
const POINTS_MAX: u32 = 400;
/// One point of so many is tried in every test run, and of those at which a call fails.
const EVERY: u32 = 5;
const EVERY_CALL: u32 = 11;
/// Without a wake-up for so long, a fleet waits for its own clock.
const LOOK: Duration = Duration::from_millis(60);

pub(crate) struct Theatre<S> {
    pub(crate) stage: Stage,
    pub(crate) scene: S,
}

impl<S: Scene> Theatre<S> {
    pub(crate) async fn new(scene: S) -> Self {
        Self { stage: Stage::new().await, scene }
    }

    pub(crate) fn fleet(&self, store: Store) -> Fleet {
        let clock: Arc<dyn Clock> = Arc::new(self.stage.clock.clone());
        Fleet::new(self.stage.config(), store, clock, self.scene.host(), self.stage.runtime.subscribe())
    }

    /// Works towards `question` until the fuse blows at its `at`th point, then lets another fleet go on until all is quiet.
    /// `false`: the work was done before that point.
    async fn struck_at(&self, at: u32, blow: Blow, question: &str) -> bool {
        let cells = self.scene.cells();
        let line = Line::open(&self.stage.database.url, cells.clone()).await;
        let store = Store::connect(&line.url, self.stage.database.seal.clone()).await.unwrap();
        let fleet = self.fleet(store);
        cells.fuse.light(at, blow);
        tokio::select! {
            () = cells.fuse.killed() => {}
            () = self.strive(&fleet, question) => {}
        }
        drop(fleet);
        drop(line);
        let reached = cells.fuse.put_out();
        let next = self.fleet(self.stage.database.store.clone());
        self.stage.work(&next, question).await;
        self.stage.settle(&next).await;
        reached
    }

    /// As `Stage::work`, for a fleet whose rounds may fail: the next round is the retry, and its pauses are skipped.
    async fn strive(&self, fleet: &Fleet, question: &str) {
        while self.stage.database.text(question).await.as_deref() != Some("true") {
            let worked = fleet.run_once().await.is_ok_and(|counts| counts.claimed + counts.steps > 0);
            if !worked && tokio::time::timeout(LOOK, fleet.nudge().notified()).await.is_err() {
                self.stage.clock.forward(TimeDelta::seconds(1));
            }
        }
    }

    pub(crate) async fn running_bot(&self) -> BotId {
        let bot = self.stage.bot(Intent::Running).await;
        self.stage.until(&self.fleet(self.stage.database.store.clone()), &bot, Observed::Running).await;
        bot
    }

    /// Every later fleet would look at it.
    pub(crate) async fn remove(&self, bot: &BotId) {
        self.stage.ask(bot, "intent = 'deleted'").await;
        self.stage.settle(&self.fleet(self.stage.database.store.clone())).await;
    }

    /// What must hold whenever all is quiet; a sentence about what doesn't.
    pub(crate) async fn faults(&self, bot: &BotId, volume: Option<String>) -> Option<String> {
        let rows = "select string_agg(id, ' ' order by id) from molt.bots where intent = 'running'";
        let rows = self.stage.database.text(rows).await.unwrap_or_default();
        let (machines, volumes) = self.scene.holds();
        let (machines, volumes) = (machines.join(" "), volumes.join(" "));
        if machines != rows || volumes != rows {
            return Some(format!("rows: {rows}; machines: {machines}; volumes: {volumes}"));
        }
        if volume.is_some() && self.scene.volume(bot) != volume {
            return Some("the volume is another one".to_owned());
        }
        let key = self.scene.cells().ghost_key(bot)?;
        let valid = format!(
            "select string_agg(encode(key_hash, 'hex'), ',') from molt.ghost_keys
             where bot_id = '{bot}' and revoked_at is null"
        );
        let valid = self.stage.database.text(&valid).await;
        if valid != Some(hex::encode(Sha256::digest(key.expose_secret()))) {
            return Some("the cell doesn't have the one key that counts".to_owned());
        }
        let revision = self.scene.cells().applied_revision(bot).map(|revision| revision.to_string());
        if revision != self.stage.column(bot, "revision").await {
            return Some("the cell doesn't have the newest settings".to_owned());
        }
        let open = format!("select count(*) from molt.bot_steps where bot_id = '{bot}' and ended_at is null");
        (self.stage.database.count(&open).await != 0).then(|| "a step of the timeline is open".to_owned())
    }
}

/// Whether a test run tries this point: one of so many.
fn is_tried(point: u32, every: u32) -> bool {
    std::env::var_os("MOLT_PROVE").is_some() || (point - 1).is_multiple_of(every)
}

/// What is asked for at each point, and when it is done.
pub(crate) struct Story {
    name: &'static str,
    change: &'static str,
    /// A question with `$` for the bot.
    pub(crate) done: &'static str,
    removes: bool,
}

pub(crate) const PROVISION: Story = Story {
    name: "provisioning",
    change: "intent = 'running'",
    done: "select observed = 'running' from molt.bots where id = '$'",
    removes: false,
};
pub(crate) const SETTINGS: Story = Story {
    name: "new settings",
    change: "revision = revision + 1",
    done: "select applied_revision = revision and observed = 'running' from molt.bots where id = '$'",
    removes: false,
};
pub(crate) const RESTART: Story = Story {
    name: "a restart",
    change: "generation = generation + 1, attempts = 0",
    done: "select observed = 'running' and observed_generation = generation from molt.bots where id = '$'",
    removes: false,
};
pub(crate) const REMOVAL: Story = Story {
    name: "a removal",
    change: "intent = 'deleted'",
    done: "select not exists (select from molt.bots where id = '$')",
    removes: true,
};

/// Tells the story once for each point, with a new bot where it makes or removes one.
pub(crate) async fn walk<S: Scene>(scene: S, story: &Story, blow: Blow, every: u32) {
    let theatre = Theatre::new(scene).await;
    let (mut tried, mut kept) = (0, None);
    for point in 1..POINTS_MAX {
        if !is_tried(point, every) {
            continue;
        }
        let begins = story.change == PROVISION.change;
        let bot = match kept.take() {
            Some(bot) => bot,
            None if begins => theatre.stage.bot(Intent::AwaitingPlan).await,
            None => theatre.running_bot().await,
        };
        let volume = theatre.scene.volume(&bot);
        theatre.stage.ask(&bot, story.change).await;
        let reached = theatre.struck_at(point, blow, &story.done.replace('$', bot.as_str())).await;
        let fault = theatre.faults(&bot, volume.filter(|_| !story.removes)).await;
        assert_eq!(fault, None, "{}: {blow:?} at point {point}", story.name);
        if begins {
            let mails = format!("select count(*) from molt.outbox where data ->> 'bot_id' = '{bot}'");
            assert_eq!(theatre.stage.database.count(&mails).await, 1, "told once: {blow:?} at point {point}");
        }
        if !reached {
            println!("{}: {blow:?} at {tried} of {} points", story.name, point - 1);
            assert!(tried > 1, "the story is longer than {tried} points");
            return;
        }
        tried += 1;
        if begins {
            theatre.remove(&bot).await;
        }
        kept = (!begins && !story.removes).then_some(bot);
    }
    panic!("{}: more points than expected", story.name);
}

#[tokio::test]
async fn provisioning_survives_a_kill_at_every_point() {
    walk(InMemory::set().await, &PROVISION, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn new_settings_survive_a_kill_at_every_point() {
    walk(InMemory::set().await, &SETTINGS, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_restart_survives_a_kill_at_every_point() {
    walk(InMemory::set().await, &RESTART, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_removal_survives_a_kill_at_every_point() {
    walk(InMemory::set().await, &REMOVAL, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn any_call_may_be_refused_or_lose_its_answer() {
    for blow in [Blow::Refuse, Blow::LoseAnswer] {
        for story in [&PROVISION, &RESTART, &REMOVAL] {
            walk(InMemory::set().await, story, blow, EVERY_CALL).await;
        }
    }
}

/// The judge itself: each thing that must never be is seen when it is.
#[tokio::test]
async fn what_must_never_be_is_noticed() {
    let theatre = Theatre::new(InMemory::set().await).await;
    let bot = theatre.running_bot().await;
    let volume = theatre.scene.volume(&bot);
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);
    let host = theatre.scene.host();
    let spoil = async |sql: &str| theatre.stage.database.execute(sql).await;
    spoil("update molt.ghost_keys set revoked_at = now()").await;
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("key"));
    spoil("update molt.ghost_keys set revoked_at = null; update molt.bots set revision = 9").await;
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("settings"));
    spoil("update molt.bots set revision = 1").await;
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);
    host.stop(&bot, false).await.unwrap();
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("machines: ;"), "none");
    host.stop(&bot, true).await.unwrap();
    theatre.stage.settle(&theatre.fleet(theatre.stage.database.store.clone())).await;
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("another one"), "a lost volume");
    spoil("delete from molt.bots").await;
    assert!(theatre.faults(&bot, None).await.unwrap().starts_with("rows: ;"), "an orphan");
}
