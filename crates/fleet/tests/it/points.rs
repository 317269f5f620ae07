//! The platform is killed after every single call to the host or a cell and after every commit, of provisioning, of an
//! update, of a suspension and of a removal; the next one takes over. In the end: one cell per bot, never two, never none, no orphan, no lost volume.
//! Never: fewer than all of the points under MOLT_PROVE; every test run tries a sample.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use molt_bot::CellAddress;
use molt_fleet::Fleet;
use molt_model::{BotId, Clock, Intent, Observed};
use molt_store::Store;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::line::Line;
use crate::simulated::{Blow, Rules, Simulated, SimulatedHost, Volume, serve_cells};
use crate::stage::Stage;

/// More points than any of the stories has.
const POINTS_MAX: u32 = 400;
/// One point of so many is tried in every test run, and of those at which a call fails.
const EVERY: u32 = 5;
const EVERY_CALL: u32 = 11;
/// Without a wake-up for so long, a fleet waits for its own clock.
const LOOK: Duration = Duration::from_millis(60);

struct Theatre {
    stage: Stage,
    host: Arc<Simulated>,
    cells: tokio::task::AbortHandle,
}

impl Drop for Theatre {
    fn drop(&mut self) {
        self.cells.abort();
    }
}

impl Theatre {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = CellAddress::Tcp(listener.local_addr().unwrap().to_string());
        let rules = Rules { boot: Duration::from_millis(30), ..Rules::default() };
        let host = Simulated::new(rules, address);
        let cells = tokio::spawn(serve_cells(listener, host.clone())).abort_handle();
        Self { stage: Stage::new().await, host, cells }
    }

    fn fleet(&self, store: Store) -> Fleet {
        let clock: Arc<dyn Clock> = Arc::new(self.stage.clock.clone());
        let host = Arc::new(SimulatedHost(self.host.clone()));
        Fleet::new(self.stage.config(), store, clock, host, self.stage.runtime.subscribe())
    }

    /// Works towards `question` until the fuse blows at its `at`th point, then lets another fleet go on until all is quiet.
    /// `false`: the work was done before that point.
    async fn struck_at(&self, at: u32, blow: Blow, question: &str) -> bool {
        let line = Line::open(&self.stage.database.url, self.host.clone()).await;
        let store = Store::connect(&line.url, self.stage.database.seal.clone()).await.unwrap();
        let fleet = self.fleet(store);
        self.host.fuse.light(at, blow);
        tokio::select! {
            () = self.host.fuse.killed() => {}
            () = self.strive(&fleet, question) => {}
        }
        drop(fleet);
        drop(line);
        let reached = self.host.fuse.put_out();
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

    async fn running_bot(&self) -> BotId {
        let bot = self.stage.bot(Intent::Running).await;
        self.stage.until(&self.fleet(self.stage.database.store.clone()), &bot, Observed::Running).await;
        bot
    }

    /// Every later fleet would look at it.
    async fn remove(&self, bot: &BotId) {
        self.stage.ask(bot, "intent = 'deleted'").await;
        self.stage.settle(&self.fleet(self.stage.database.store.clone())).await;
    }

    /// What must hold whenever all is quiet; a sentence about what doesn't.
    async fn faults(&self, bot: &BotId, volume: Option<Volume>) -> Option<String> {
        let rows = async |intents: &str| {
            let sql = format!("select string_agg(id, ' ' order by id) from molt.bots where intent in ({intents})");
            self.stage.database.text(&sql).await.unwrap_or_default()
        };
        let (run, kept) = (rows("'running'").await, rows("'running', 'stopped'").await);
        let (machines, volumes) = self.host.holds();
        let ids = |bots: &[BotId]| bots.iter().map(BotId::as_str).collect::<Vec<_>>().join(" ");
        if ids(&machines) != run || ids(&volumes) != kept {
            let (machines, volumes) = (ids(&machines), ids(&volumes));
            return Some(format!("rows: {run}; machines: {machines}; volumes: {volumes} of {kept}"));
        }
        if volume.is_some() && self.host.volume(bot) != volume {
            return Some("the volume is another one".to_owned());
        }
        let key = self.host.ghost_key(bot)?;
        let valid = format!(
            "select string_agg(encode(key_hash, 'hex'), ',') from molt.ghost_keys
             where bot_id = '{bot}' and revoked_at is null"
        );
        let valid = self.stage.database.text(&valid).await;
        if valid != Some(hex::encode(Sha256::digest(key.expose_secret()))) {
            return Some("the cell doesn't have the one key that counts".to_owned());
        }
        let revision = self.host.applied_revision(bot).map(|revision| revision.to_string());
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
struct Story {
    name: &'static str,
    change: &'static str,
    done: &'static str,
    removes: bool,
    /// What a bot that runs, or did so after the point before, has to be asked first.
    first: Option<(&'static str, Observed)>,
}

const PROVISION: Story = Story {
    name: "provisioning",
    change: "intent = 'running'",
    done: "select observed = 'running' from molt.bots where id = '$'",
    removes: false,
    first: None,
};
const SETTINGS: Story = Story {
    name: "new settings",
    change: "revision = revision + 1",
    done: "select applied_revision = revision and observed = 'running' from molt.bots where id = '$'",
    removes: false,
    first: None,
};
const RESTART: Story = Story {
    name: "a restart",
    change: "generation = generation + 1, attempts = 0",
    done: "select observed = 'running' and observed_generation = generation from molt.bots where id = '$'",
    removes: false,
    first: None,
};
const REMOVAL: Story = Story {
    name: "a removal",
    change: "intent = 'deleted'",
    done: "select not exists (select from molt.bots where id = '$')",
    removes: true,
    first: None,
};

const SUSPEND: &str = "intent = 'stopped', intent_reason = 'Because.', intent_before = 'running'";
const RESUME: &str = "intent = 'running', intent_reason = null, intent_before = null, attempts = 0";
const SUSPENSION: Story = Story {
    name: "a suspension",
    change: SUSPEND,
    done: "select observed = 'suspended' and reason = 'Because.' from molt.bots where id = '$'",
    removes: false,
    first: Some((RESUME, Observed::Running)),
};
const RESUMPTION: Story = Story {
    name: "the end of a suspension",
    change: RESUME,
    done: "select observed = 'running' and reason is null from molt.bots where id = '$'",
    removes: false,
    first: Some((SUSPEND, Observed::Suspended)),
};

/// Tells the story once for each point, with a new bot where it makes or removes one.
async fn walk(story: &Story, blow: Blow, every: u32) {
    let theatre = Theatre::new().await;
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
        if let Some((change, observed)) = story.first {
            theatre.stage.ask(&bot, change).await;
            theatre.stage.until(&theatre.fleet(theatre.stage.database.store.clone()), &bot, observed).await;
        }
        let volume = theatre.host.volume(&bot);
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
    walk(&PROVISION, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn new_settings_survive_a_kill_at_every_point() {
    walk(&SETTINGS, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_restart_survives_a_kill_at_every_point() {
    walk(&RESTART, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_removal_survives_a_kill_at_every_point() {
    walk(&REMOVAL, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_suspension_and_its_end_survive_a_kill_at_every_point() {
    walk(&SUSPENSION, Blow::Kill, EVERY).await;
    walk(&RESUMPTION, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn any_call_may_be_refused_or_lose_its_answer() {
    for blow in [Blow::Refuse, Blow::LoseAnswer] {
        for story in [&PROVISION, &RESTART, &SUSPENSION, &RESUMPTION, &REMOVAL] {
            walk(story, blow, EVERY_CALL).await;
        }
    }
}

/// The judge itself: each thing that must never be is seen when it is.
#[tokio::test]
async fn what_must_never_be_is_noticed() {
    let theatre = Theatre::new().await;
    let bot = theatre.running_bot().await;
    let volume = theatre.host.volume(&bot);
    assert_eq!(theatre.faults(&bot, volume).await, None);
    let host = SimulatedHost(theatre.host.clone());
    let spoil = async |sql: &str| theatre.stage.database.execute(sql).await;
    spoil("update molt.ghost_keys set revoked_at = now()").await;
    assert!(theatre.faults(&bot, volume).await.unwrap().contains("key"));
    spoil("update molt.ghost_keys set revoked_at = null; update molt.bots set revision = 9").await;
    assert!(theatre.faults(&bot, volume).await.unwrap().contains("settings"));
    spoil("update molt.bots set revision = 1").await;
    assert_eq!(theatre.faults(&bot, volume).await, None);
    molt_fleet::Host::stop(&host, &bot, false).await.unwrap();
    assert!(theatre.faults(&bot, volume).await.unwrap().contains("machines: ;"), "none");
    molt_fleet::Host::stop(&host, &bot, true).await.unwrap();
    theatre.stage.settle(&theatre.fleet(theatre.stage.database.store.clone())).await;
    assert!(theatre.faults(&bot, volume).await.unwrap().contains("another one"), "a lost volume");
    spoil("delete from molt.bots").await;
    assert!(theatre.faults(&bot, None).await.unwrap().starts_with("rows: ;"), "an orphan");
}
