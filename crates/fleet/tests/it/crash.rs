//! The fleet is killed before and after every single call that it makes, and the next one takes over: in the end there is
//! exactly one cell, with the newest key, or none, as wanted.

use std::sync::Arc;

use molt_fleet::{Fleet, Swept};
use molt_model::{BotId, Intent, Observed};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use crate::stage::Stage;
use crate::world::{World, WorldHost};

/// More calls than any of these stories takes.
const CALLS_MAX: i64 = 80;

struct Theatre {
    stage: Stage,
    world: Arc<World>,
}

impl Theatre {
    async fn new() -> Self {
        Self { stage: Stage::new().await, world: World::new() }
    }

    fn fleet(&self) -> Fleet {
        self.stage.fleet(Arc::new(WorldHost(self.world.clone())))
    }

    /// A bot that runs, from a fleet that is gone since.
    async fn running_bot(&self) -> BotId {
        let bot = self.stage.bot(Intent::Running).await;
        self.stage.until(&self.fleet(), &bot, Observed::Running).await;
        bot
    }

    /// Later fleets would count calls for it.
    async fn remove(&self, bot: &BotId) {
        self.stage.ask(bot, "intent = 'deleted'").await;
        self.stage.settle(&self.fleet()).await;
    }

    /// Kills the fleet at its nth call while it works towards `question`; then another one goes on.
    /// `false`: it got there before its nth call.
    async fn killed_at(&self, call: i64, question: &str) -> bool {
        self.world.light_fuse(call);
        let fleet = self.fleet();
        tokio::select! {
            () = self.world.crashed() => {}
            () = self.stage.work(&fleet, question) => {}
        }
        drop(fleet);
        let survived = self.world.put_out_fuse();
        let next = self.fleet();
        self.stage.work(&next, question).await;
        self.stage.settle(&next).await;
        !survived
    }

    /// One cell, known where it is, with the key that counts and nothing left open.
    async fn assert_one_good_cell(&self, bot: &BotId) {
        let key = self.world.ghost_key(bot).expect("a cell");
        let hash = hex::encode(Sha256::digest(key.expose_secret()));
        let valid = format!(
            "select string_agg(encode(key_hash, 'hex'), ',') from molt.ghost_keys
             where bot_id = '{bot}' and revoked_at is null"
        );
        assert_eq!(self.stage.database.text(&valid).await, Some(hash), "the cell has the one key that counts");
        assert!(self.stage.column(bot, "cell ->> 'address'").await.is_some());
        let open = format!("select count(*) from molt.bot_steps where bot_id = '{bot}' and ended_at is null");
        assert_eq!(self.stage.database.count(&open).await, 0, "{}", self.stage.timeline(bot).await);
    }

    async fn mails(&self, bot: &BotId) -> i64 {
        let sql = format!("select count(*) from molt.outbox where data ->> 'bot_id' = '{bot}'");
        self.stage.database.count(&sql).await
    }
}

fn is(observed: Observed, bot: &BotId) -> String {
    format!("select observed = '{}' from molt.bots where id = '{bot}'", observed.word())
}

#[tokio::test]
async fn provisioning_survives_a_kill_at_every_call() {
    let theatre = Theatre::new().await;
    let mut kills = 0;
    for call in 1..CALLS_MAX {
        let bot = theatre.stage.bot(Intent::Running).await;
        let killed = theatre.killed_at(call, &is(Observed::Running, &bot)).await;
        theatre.assert_one_good_cell(&bot).await;
        assert_eq!(theatre.mails(&bot).await, 1, "killed at {call}");
        assert_eq!(theatre.stage.events(&bot, "bot.running").await, 1, "killed at {call}");
        assert_eq!(theatre.stage.events(&bot, "bot.applied").await, 1, "killed at {call}");
        theatre.remove(&bot).await;
        if !killed {
            break;
        }
        kills += 1;
    }
    assert!((8..CALLS_MAX - 1).contains(&kills), "{kills} kills");
    // A cell that was started is found again: no kill costs a second start, except right before the first one.
    assert_eq!(theatre.world.started(), kills + 1);
}

#[tokio::test]
async fn a_restart_survives_a_kill_at_every_call() {
    let theatre = Theatre::new().await;
    let bot = theatre.running_bot().await;
    for call in 1..CALLS_MAX {
        let before = theatre.world.started();
        theatre.stage.ask(&bot, "generation = generation + 1, attempts = 0").await;
        let done = format!(
            "select observed = 'running' and observed_generation = generation from molt.bots where id = '{bot}'"
        );
        let killed = theatre.killed_at(call, &done).await;
        theatre.assert_one_good_cell(&bot).await;
        assert_eq!(theatre.world.started(), before + 1, "killed at {call}: one restart is one start");
        if !killed {
            assert!(call > 10, "{call}");
            assert_eq!(theatre.mails(&bot).await, 1);
            return;
        }
    }
    panic!("too many calls");
}

#[tokio::test]
async fn settings_survive_a_kill_at_every_call() {
    let theatre = Theatre::new().await;
    let bot = theatre.running_bot().await;
    for call in 1..CALLS_MAX {
        theatre.stage.ask(&bot, "revision = revision + 1").await;
        let done = format!("select applied_revision = revision from molt.bots where id = '{bot}'");
        let killed = theatre.killed_at(call, &done).await;
        theatre.assert_one_good_cell(&bot).await;
        assert_eq!(
            theatre.world.applied_revision(&bot).map(|revision| revision.to_string()),
            theatre.stage.column(&bot, "revision").await
        );
        assert_eq!(theatre.stage.observed(&bot).await, Some(Observed::Running));
        if !killed {
            assert!(call >= 4, "{call}");
            assert_eq!(theatre.world.started(), 1, "new settings need no new cell");
            assert_eq!(theatre.stage.events(&bot, "bot.applied").await, call + 1, "each revision is announced once");
            return;
        }
    }
    panic!("too many calls");
}

#[tokio::test]
async fn stopping_and_removing_survive_a_kill_at_every_call() {
    let mut calls = [0; 2];
    for (index, change) in ["intent = 'stopped'", "intent = 'deleted'"].into_iter().enumerate() {
        let theatre = Theatre::new().await;
        for call in 1..CALLS_MAX {
            let bot = theatre.running_bot().await;
            theatre.stage.ask(&bot, change).await;
            let done = if index == 0 {
                is(Observed::Stopped, &bot)
            } else {
                format!("select not exists (select from molt.bots where id = '{bot}')")
            };
            let killed = theatre.killed_at(call, &done).await;
            assert!(!theatre.world.has_cell(&bot));
            assert_eq!(theatre.world.has_state(&bot), index == 0, "killed at {call}: {change}");
            if index == 1 {
                assert_eq!(theatre.stage.events(&bot, "bot.deleted").await, 1, "killed at {call}");
                assert_eq!(theatre.stage.events(&bot, "bot.changed").await, 0, "its history goes with it");
                let tombs = format!("select count(*) from molt.tombstones where bot_id = '{bot}' and host = 'world'");
                assert_eq!(theatre.stage.database.count(&tombs).await, 1, "killed at {call}");
            }
            if index == 0 {
                theatre.remove(&bot).await;
            }
            if !killed {
                calls[index] = call;
                break;
            }
        }
    }
    assert!(calls[0] >= 3 && calls[1] >= 4, "{calls:?}");
}

#[tokio::test]
async fn a_cell_that_dies_while_the_fleet_is_away_comes_back_once() {
    let theatre = Theatre::new().await;
    for call in 1..CALLS_MAX {
        let bot = theatre.running_bot().await;
        assert!(theatre.world.kill(&bot));
        let done =
            format!("select observed = 'running' from molt.bots where id = '{bot}' and cell ->> 'address' <> '{}'", {
                theatre.stage.column(&bot, "cell ->> 'address'").await.unwrap()
            });
        let killed = theatre.killed_at(call, &done).await;
        theatre.assert_one_good_cell(&bot).await;
        theatre.remove(&bot).await;
        if !killed {
            assert!(call > 4, "{call}");
            return;
        }
    }
    panic!("too many calls");
}

#[tokio::test]
async fn what_belongs_to_no_row_is_removed_but_never_another_databases() {
    let theatre = Theatre::new().await;
    let bot = theatre.running_bot().await;
    let orphan = BotId::random();
    theatre.world.leave_state(&orphan);
    let fleet = theatre.fleet();
    assert_eq!(fleet.sweep_once().await.unwrap(), Swept { removed: 1, made_due: 0 });
    assert!(!theatre.world.has_state(&orphan));
    assert!(theatre.world.has_cell(&bot) && theatre.world.has_state(&bot));

    theatre.world.leave_state(&orphan);
    theatre.stage.database.execute("update molt.installation set id = gen_random_uuid()").await;
    assert_eq!(theatre.fleet().sweep_once().await.unwrap(), Swept::default());
    assert!(theatre.world.has_state(&orphan), "the folder belongs to another database");
}
