//! The platform is killed after every single call to the host or a cell and after every commit, of provisioning, of an
//! update, of a suspension and of a removal; the next one takes over. In the end: one cell per bot, never two, never none,
//! no orphan, no lost volume.
//! Never: fewer than all of the points under MOLT_PROVE; every test run tries a sample.

mod contained;
mod simulation;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use molt_fleet::{Config, Fleet, Host};
use molt_model::{BotId, Clock, Intent, Observed};
use molt_store::Store;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::line::{Commits, Line};
use crate::simulated::{Blow, Fuse};
use crate::stage::Stage;

/// More points than any of the stories has.
const POINTS_MAX: u32 = 400;
const WALKS_AT_ONCE: usize = 4;

/// Where the cells live, and what is seen there by other means than the fleet's.
pub(crate) trait Scene: Sized {
    /// How a fleet's calls reach the host. What was under way is cut off when it is dropped.
    type Way;
    /// Without a wake-up for so long, a fleet waits for its own clock.
    const LOOK: Duration;

    fn fuse(&self) -> &Arc<Fuse>;
    /// The host of one fleet, whose calls are points of the fuse.
    fn open(&self, stage: &Stage) -> (Arc<dyn Host>, Config, Self::Way);
    async fn holds(&self) -> Held;
    /// Tells a volume from another one that was made in its place.
    async fn volume(&self, bot: &BotId) -> Option<String>;
    /// What the bot's cell was given.
    async fn given(&self, stage: &Stage, bot: &BotId) -> Option<Given>;
}

/// Bots in the order of their names.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) cells: Vec<BotId>,
    pub(crate) volumes: Vec<BotId>,
    /// What is left of a place that was taken away, with nothing in it.
    pub(crate) empty: Vec<BotId>,
    /// What should not be there, whoever it belonged to.
    pub(crate) rest: Vec<String>,
}

pub(crate) struct Given {
    /// `None`: cells of this host have none.
    pub(crate) key: Option<SecretString>,
    pub(crate) revision: Option<i64>,
}

pub(crate) struct Theatre<S> {
    pub(crate) stage: Stage,
    pub(crate) scene: S,
    /// Places that its fleets keep for the next bots.
    pub(crate) keep_spare: u32,
}

impl<S: Scene> Theatre<S> {
    pub(crate) async fn new(scene: S) -> Self {
        Self { stage: Stage::new().await, scene, keep_spare: 0 }
    }

    fn fleet(&self, store: Store) -> (Fleet, S::Way) {
        let clock: Arc<dyn Clock> = Arc::new(self.stage.clock.clone());
        let (host, config, way) = self.scene.open(&self.stage);
        let config = Config { keep_spare: self.keep_spare, ..config };
        (Fleet::new(config, store, clock, host, self.stage.runtime.subscribe()), way)
    }

    pub(crate) fn next_fleet(&self) -> (Fleet, S::Way) {
        self.fleet(self.stage.database.store.clone())
    }

    /// Works towards `question` until the fuse blows at its `at`th point, then lets another fleet go on until all is quiet.
    /// `false`: the work was done before that point.
    async fn struck_at(&self, at: u32, blow: Blow, commits: Commits, question: &str) -> bool {
        let fuse = self.scene.fuse();
        let line = Line::open(&self.stage.database.url, fuse.clone(), commits).await;
        let store = Store::connect(&line.url, self.stage.database.seal.clone()).await.unwrap();
        let (fleet, way) = self.fleet(store);
        fuse.light(at, blow);
        tokio::select! {
            () = fuse.killed() => {}
            () = self.strive(&fleet, question) => {}
        }
        drop((fleet, line, way));
        let reached = fuse.put_out();
        let (next, _way) = self.next_fleet();
        self.stage.work(&next, question).await;
        self.stage.settle(&next).await;
        reached
    }

    /// As `Stage::work`, for a fleet whose rounds may fail: the next round is the retry, and its pauses are skipped.
    async fn strive(&self, fleet: &Fleet, question: &str) {
        while self.stage.database.text(question).await.as_deref() != Some("true") {
            let worked = fleet.run_once().await.is_ok_and(|counts| counts.claimed + counts.steps > 0);
            if !worked && tokio::time::timeout(S::LOOK, fleet.nudge().notified()).await.is_err() {
                self.stage.clock.forward(TimeDelta::seconds(1));
            }
        }
    }

    /// One that waits for a plan, whose place was made ahead.
    pub(crate) async fn prepared_bot(&self) -> BotId {
        let bot = self.stage.bot(Intent::AwaitingPlan).await;
        let fleet = self.next_fleet().0;
        self.stage.work(&fleet, &AHEAD.done.replace('$', bot.as_str())).await;
        self.stage.settle(&fleet).await;
        bot
    }

    pub(crate) fn all_spares_are_made(&self) -> String {
        format!("select count(*) = {0} and count(made_at) = {0} from molt.spares", self.keep_spare)
    }

    /// One that came to a place that was there.
    async fn bot_in_a_spare(&self) -> BotId {
        let fleet = self.next_fleet().0;
        // It looks at all of them before anything else.
        self.stage.settle(&fleet).await;
        self.stage.work(&fleet, &self.all_spares_are_made()).await;
        let bot = self.stage.requested_bot().await;
        assert!(self.scene.volume(&bot).await.is_some(), "its place is there");
        bot
    }

    /// Nothing is kept for anybody. A bot that there isn't.
    async fn nobody(&self) -> BotId {
        self.stage.database.execute("delete from molt.spares").await;
        self.next_fleet().0.sweep_once().await.unwrap();
        let left = self.scene.holds().await;
        assert!(left.volumes.is_empty() && left.empty.is_empty() && left.rest.is_empty());
        BotId::random()
    }

    pub(crate) async fn running_bot(&self) -> BotId {
        let bot = self.stage.bot(Intent::Running).await;
        self.stage.until(&self.next_fleet().0, &bot, Observed::Running).await;
        bot
    }

    /// Every later fleet would look at it.
    pub(crate) async fn remove(&self, bot: &BotId) {
        self.stage.ask(bot, "intent = 'deleted'").await;
        self.stage.settle(&self.next_fleet().0).await;
    }

    /// What must hold whenever all is quiet; a sentence about what doesn't.
    pub(crate) async fn faults(&self, bot: &BotId, volume: Option<String>) -> Option<String> {
        let rows = async |so: &str| {
            let sql = format!("select string_agg(id, ' ' order by id) from ({so}) ids");
            self.stage.database.text(&sql).await.unwrap_or_default()
        };
        let run = rows("select id from molt.bots where intent = 'running'").await;
        let kept = rows(
            "select id from molt.bots where intent in ('running', 'stopped') or ahead in ('making', 'made')
                         union all select id from molt.spares",
        )
        .await;
        if self.stage.database.count("select count(*) from molt.spares").await > self.keep_spare.into() {
            return Some("more places are kept than are wanted".to_owned());
        }
        let lapsed = rows("select id from molt.bots where ahead = 'lapsed'").await;
        let Held { cells, volumes, empty, mut rest } = self.scene.holds().await;
        rest.extend(
            empty.iter().filter(|bot| !lapsed.contains(bot.as_str())).map(|bot| format!("{bot}, with nothing in it")),
        );
        let ids = |bots: &[BotId]| bots.iter().map(BotId::as_str).collect::<Vec<_>>().join(" ");
        let (cells, volumes) = (ids(&cells), ids(&volumes));
        if cells != run || volumes != kept || !rest.is_empty() {
            return Some(format!("rows: {run}; cells: {cells}; volumes: {volumes} of {kept}; and {rest:?}"));
        }
        if volume.is_some() && self.scene.volume(bot).await != volume {
            return Some("the volume is another one".to_owned());
        }
        if run.is_empty() {
            return None;
        }
        let Some(given) = self.scene.given(&self.stage, bot).await else {
            return Some("the cell doesn't say what it has".to_owned());
        };
        let valid = format!(
            "select string_agg(encode(key_hash, 'hex'), ',') from molt.ghost_keys
             where bot_id = '{bot}' and revoked_at is null"
        );
        let valid = self.stage.database.text(&valid).await.unwrap_or_default();
        let one = given.key.map(|key| hex::encode(Sha256::digest(key.expose_secret())));
        if one.map_or(valid.is_empty() || valid.contains(','), |one| valid != one) {
            return Some("the cell doesn't have the one key that counts".to_owned());
        }
        if given.revision.map(|revision| revision.to_string()) != self.stage.column(bot, "revision").await {
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

/// The bot that a story begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cast {
    /// Just made: nothing is there.
    New,
    /// None: what is asked for is asked by nobody.
    Nobody,
    /// Just made, in a place that was there before it.
    InASpare,
    /// It waits for a plan, and its place was made ahead.
    Prepared,
    Running,
}

/// What is asked for at each point, and when it is done.
pub(crate) struct Story {
    name: &'static str,
    cast: Cast,
    change: &'static str,
    /// A question with `$` for the bot.
    pub(crate) done: &'static str,
    removes: bool,
    /// What a bot that runs, or did so after the point before, has to be asked first.
    first: Option<(&'static str, Observed)>,
}

pub(crate) const PROVISION: Story = Story {
    name: "provisioning",
    cast: Cast::New,
    change: "intent = 'running'",
    done: "select observed = 'running' from molt.bots where id = '$'",
    removes: false,
    first: None,
};
pub(crate) const SETTINGS: Story = Story {
    name: "new settings",
    cast: Cast::Running,
    change: "revision = revision + 1",
    done: "select applied_revision = revision and observed = 'running' from molt.bots where id = '$'",
    removes: false,
    first: None,
};
pub(crate) const RESTART: Story = Story {
    name: "a restart",
    cast: Cast::Running,
    change: "generation = generation + 1, attempts = 0",
    done: "select observed = 'running' and observed_generation = generation from molt.bots where id = '$'",
    removes: false,
    first: None,
};
pub(crate) const REMOVAL: Story = Story {
    name: "a removal",
    cast: Cast::Running,
    change: "intent = 'deleted'",
    done: "select not exists (select from molt.bots where id = '$')",
    removes: true,
    first: None,
};

/// Nobody is told, and nothing counts against the bot.
pub(crate) const AHEAD: Story = Story {
    name: "a place made ahead",
    cast: Cast::New,
    change: "intent = 'awaiting_plan'",
    done: "select ahead = 'made' and observed = 'reserved' and attempts = 0 and last_error is null
             and not exists (select from molt.bot_steps where bot_id = '$')
             and not exists (select from molt.events where bot_id = '$') from molt.bots where id = '$'",
    removes: false,
    first: None,
};
pub(crate) const ACCEPTANCE: Story =
    Story { name: "a plan accepted, the place being there", cast: Cast::Prepared, ..PROVISION };
pub(crate) const LAPSE: Story = Story {
    name: "a place that nobody came for",
    cast: Cast::Prepared,
    change: "wanted_at = wanted_at - interval '1 day'",
    done: "select ahead = 'lapsed' and observed = 'reserved' and attempts = 0 and last_error is null
             and not exists (select from molt.bot_steps where bot_id = '$')
             and not exists (select from molt.events where bot_id = '$') from molt.bots where id = '$'",
    removes: true,
    first: None,
};
/// The plan comes when the place was to go.
pub(crate) const LATE_ACCEPTANCE: Story = Story {
    name: "a plan accepted while the place goes",
    cast: Cast::Prepared,
    change: "ahead = 'leaving', intent = 'running'",
    removes: true,
    ..PROVISION
};
/// Somebody comes back when the place was to go: it goes, and is made anew.
pub(crate) const AHEAD_AGAIN: Story = Story {
    name: "a place that is wanted again while it goes",
    cast: Cast::Prepared,
    change: "ahead = 'leaving'",
    removes: true,
    ..AHEAD
};
pub(crate) const PREPARED_REMOVAL: Story =
    Story { name: "a removal of one that never ran", cast: Cast::Prepared, ..REMOVAL };

/// As many as are wanted, and none of them again.
pub(crate) const SPARE: Story = Story {
    name: "a spare place",
    cast: Cast::Nobody,
    change: "intent = 'running'",
    done: "select count(*) = 2 and count(made_at) = 2 from molt.spares",
    removes: true,
    first: None,
};
/// And another one is made in its stead.
pub(crate) const SPARE_TAKEN: Story = Story {
    name: "a bot in a spare place",
    cast: Cast::InASpare,
    change: "intent = 'running'",
    done: "select observed = 'running' and (select count(*) = 2 and count(made_at) = 2 from molt.spares)
             from molt.bots where id = '$'",
    removes: false,
    first: None,
};

pub(crate) const SPARE_REMOVAL: Story = Story {
    name: "a removal of one in a spare place",
    change: "intent = 'deleted'",
    done: "select not exists (select from molt.bots where id = '$')
             and (select count(*) = 2 and count(made_at) = 2 from molt.spares)",
    removes: true,
    ..SPARE_TAKEN
};

const SUSPEND: &str = "intent = 'stopped', intent_reason = 'Because.', intent_before = 'running'";
const RESUME: &str = "intent = 'running', intent_reason = null, intent_before = null, attempts = 0";
pub(crate) const SUSPENSION: Story = Story {
    name: "a suspension",
    cast: Cast::Running,
    change: SUSPEND,
    done: "select observed = 'suspended' and reason = 'Because.' from molt.bots where id = '$'",
    removes: false,
    first: Some((RESUME, Observed::Running)),
};
pub(crate) const RESUMPTION: Story = Story {
    name: "the end of a suspension",
    cast: Cast::Running,
    change: RESUME,
    done: "select observed = 'running' and reason is null from molt.bots where id = '$'",
    removes: false,
    first: Some((SUSPEND, Observed::Suspended)),
};

impl Story {
    /// Places that are kept while it is told.
    pub(crate) const fn spares(&self) -> u32 {
        if matches!(self.cast, Cast::Nobody | Cast::InASpare) { 2 } else { 0 }
    }
}

/// How far a story's points are tried: in several theatres side by side, since most of a story is waiting.
struct Walk<'a> {
    story: &'a Story,
    blow: Blow,
    commits: Commits,
    every: u32,
    next: AtomicU32,
    tried: AtomicU32,
    /// The first point that the story doesn't have.
    end: AtomicU32,
}

/// Tells the story once for each point, with a new bot where it makes or removes one, in as many theatres as there are.
pub(crate) async fn walk<S: Scene>(theatres: &[Theatre<S>], story: &Story, blow: Blow, commits: Commits, every: u32) {
    let (next, tried, end) = (AtomicU32::new(1), AtomicU32::new(0), AtomicU32::new(POINTS_MAX));
    let walk = Walk { story, blow, commits, every, next, tried, end };
    join_all(theatres.iter().map(|theatre| walk.go(theatre))).await;
    let (tried, end) = (walk.tried.into_inner(), walk.end.into_inner());
    assert!(end < POINTS_MAX, "{}: more points than expected", story.name);
    println!("{}: {blow:?} at {tried} of {} points", story.name, end - 1);
    assert!(tried > 1, "the story is longer than {tried} points");
}

/// Several walks, some of them side by side: each has databases of its own, with their connections.
pub(crate) async fn walks(all: impl IntoIterator<Item: Future<Output = ()>>) {
    stream::iter(all).buffer_unordered(WALKS_AT_ONCE).collect().await
}

impl Walk<'_> {
    /// Tries points until there are no more of them.
    async fn go<S: Scene>(&self, theatre: &Theatre<S>) {
        let mut kept = None;
        loop {
            let point = self.next.fetch_add(1, Ordering::SeqCst);
            if point >= self.end.load(Ordering::SeqCst) {
                return;
            }
            if !is_tried(point, self.every) {
                continue;
            }
            let (bot, reached) = self.try_point(theatre, kept.take(), point).await;
            if !reached {
                self.end.fetch_min(point, Ordering::SeqCst);
                return;
            }
            self.tried.fetch_add(1, Ordering::SeqCst);
            kept = bot;
        }
    }

    /// The bot, if the next point may have it; and whether the story has this point.
    async fn try_point<S: Scene>(
        &self,
        theatre: &Theatre<S>,
        kept: Option<BotId>,
        point: u32,
    ) -> (Option<BotId>, bool) {
        let Self { story, blow, commits, .. } = *self;
        let bot = match (kept, story.cast) {
            (Some(bot), _) => bot,
            (None, Cast::New) => theatre.stage.bot(Intent::AwaitingPlan).await,
            (None, Cast::Nobody) => theatre.nobody().await,
            (None, Cast::InASpare) => theatre.bot_in_a_spare().await,
            (None, Cast::Prepared) => theatre.prepared_bot().await,
            (None, Cast::Running) => theatre.running_bot().await,
        };
        if let Some((change, observed)) = story.first {
            theatre.stage.ask(&bot, change).await;
            theatre.stage.until(&theatre.next_fleet().0, &bot, observed).await;
        }
        let volume = theatre.scene.volume(&bot).await;
        theatre.stage.ask(&bot, story.change).await;
        let reached = theatre.struck_at(point, blow, commits, &story.done.replace('$', bot.as_str())).await;
        let fault = theatre.faults(&bot, volume.filter(|_| !story.removes)).await;
        assert_eq!(fault, None, "{}: {blow:?} at point {point}", story.name);
        let begins = story.cast != Cast::Running;
        if begins {
            let mails = format!("select count(*) from molt.outbox where data ->> 'bot_id' = '{bot}'");
            let told = i64::from(story.done.contains("observed = 'running'"));
            assert_eq!(theatre.stage.database.count(&mails).await, told, "told once: {blow:?} at point {point}");
        }
        if reached && begins {
            theatre.remove(&bot).await;
            assert_eq!(theatre.faults(&bot, None).await, None, "{}: {blow:?} at point {point}, removed", story.name);
        }
        ((!begins && !story.removes).then_some(bot), reached)
    }
}
