//! A database with a person in it, and fleets that come and go on it.
//! Never: a shortcut around the rows; what a test wants, it writes as a request would.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use molt_fleet::{Config, Fleet, Host, RuntimeState};
use molt_model::clock::MovedClock;
use molt_model::{BotId, CatalogInForce, Clock, Intent, Observed, Personality, Settings, UserId};
use molt_store::bots::{Made, NewBot};
use molt_store::testing::TestDatabase;
use tokio::sync::watch;

use crate::simulated::catalog;

/// Far more than any step here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a fleet may wait for a wake-up that doesn't come.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) struct Stage {
    pub(crate) database: TestDatabase,
    pub(crate) user: UserId,
    pub(crate) clock: MovedClock,
    pub(crate) catalog: CatalogInForce,
    pub(crate) folder: PathBuf,
    pub(crate) runtime: watch::Sender<RuntimeState>,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let database = molt_store::testing::database().await;
        let user = UserId::random();
        database
            .execute(&format!(
                "insert into molt.users (id, issuer, subject, email) values ('{user}', 'test', 'pat', 'pat@example.test')"
            ))
            .await;
        let folder = std::env::temp_dir().join(format!("mf-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
        std::fs::create_dir(&folder).unwrap();
        let (runtime, _) = watch::channel(RuntimeState::Ready { command: vec!["/bin/false".into()] });
        Self { database, user, clock: MovedClock::default(), catalog: catalog().into(), folder, runtime }
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            data_dir: self.folder.clone(),
            cell_binary: "/bin/false".into(),
            proxy_url: "http://127.0.0.1:9/v1".into(),
            catalog: self.catalog.clone(),
            uid_range: None,
            keep_ahead: TimeDelta::hours(1),
            keep_spare: 0,
        }
    }

    pub(crate) fn fleet(&self, host: Arc<dyn Host>) -> Fleet {
        self.fleet_with(self.config(), host)
    }

    pub(crate) fn fleet_with(&self, config: Config, host: Arc<dyn Host>) -> Fleet {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        Fleet::new(config, self.database.store.clone(), clock, host, self.runtime.subscribe())
    }

    /// What the wizard and an accepted plan write.
    pub(crate) async fn bot(&self, intent: Intent) -> BotId {
        let bot = BotId::random();
        let settings = Settings::new("Pip".into(), Personality::Friendly, "UTC".into(), &self.catalog.current());
        let settings = serde_json::to_string(&settings).unwrap();
        self.database
            .execute(&format!(
                "insert into molt.bots (id, user_id, bot_name, vertical, settings, intent, due_at, wanted_at)
                 values ('{bot}', '{}', 'Pip', 'developer', '{settings}', '{}', {}, now() + interval '{} milliseconds');
                 select pg_notify('molt', 'fleet')",
                self.user,
                intent.as_str(),
                if intent == Intent::AwaitingPlan { "null" } else { "now()" },
                self.moved().num_milliseconds()
            ))
            .await;
        bot
    }

    /// What a request makes, with the id that it gets: the bot runs if a plan is in force, and waits for one otherwise.
    pub(crate) async fn requested_bot(&self) -> BotId {
        let settings = Settings::new("Pip".into(), Personality::Friendly, "UTC".into(), &self.catalog.current());
        let new = NewBot { id: BotId::random(), vertical: "developer".parse().unwrap(), settings };
        let mut tx = self.database.store.tenant(self.user).await.unwrap();
        let made = tx.insert_bot(&new, None, i64::MAX, self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        let Made::New(bot) = made else { panic!("{made:?}") };
        bot
    }

    /// A plan is in force from now on.
    pub(crate) async fn pays(&self) {
        let sql = "insert into molt.billing (user_id, provider, subscription_status)";
        self.database.execute(&format!("{sql} values ('{}', 'local', 'active')", self.user)).await;
    }

    /// Writes to a bot's row as a request does, with the wake-up.
    pub(crate) async fn ask(&self, bot: &BotId, change: &str) {
        self.database
            .execute(&format!(
                "update molt.bots set {change}, due_at = now() + interval '{} milliseconds' where id = '{bot}';
                 select pg_notify('molt', 'fleet')",
                self.moved().num_milliseconds()
            ))
            .await;
    }

    fn moved(&self) -> TimeDelta {
        self.clock.now() - chrono::Utc::now()
    }

    pub(crate) async fn column(&self, bot: &BotId, column: &str) -> Option<String> {
        self.database.text(&format!("select {column} from molt.bots where id = '{bot}'")).await
    }

    pub(crate) async fn observed(&self, bot: &BotId) -> Option<Observed> {
        let words = self.column(bot, "observed || ' ' || phase").await?;
        let (word, phase) = words.split_once(' ').unwrap();
        Some(Observed::read(word, phase).unwrap())
    }

    /// The timeline: names of steps with how they ended.
    pub(crate) async fn timeline(&self, bot: &BotId) -> String {
        let sql = format!(
            "select string_agg(name || coalesce(' ' || outcome, ''), ', ' order by position)
             from molt.bot_steps where bot_id = '{bot}'"
        );
        self.database.text(&sql).await.unwrap_or_default()
    }

    pub(crate) async fn events(&self, bot: &BotId, kind: &str) -> i64 {
        self.database
            .count(&format!("select count(*) from molt.events where bot_id = '{bot}' and kind = '{kind}'"))
            .await
    }

    /// Lets the fleet work until the bot is so.
    pub(crate) async fn until(&self, fleet: &Fleet, bot: &BotId, observed: Observed) {
        let (word, phase) = (observed.word(), observed.phase());
        let question = format!("select observed = '{word}' and phase = '{phase}' from molt.bots where id = '{bot}'");
        self.work(fleet, &question).await;
    }

    /// Lets the fleet work until the question is answered with yes.
    pub(crate) async fn work(&self, fleet: &Fleet, question: &str) {
        let work = async {
            while self.database.text(question).await.as_deref() != Some("true") {
                fleet.run_once().await.unwrap();
                let nudge = fleet.nudge();
                tokio::time::timeout(LOOK, nudge.notified()).await.ok();
            }
        };
        if tokio::time::timeout(PATIENCE, work).await.is_err() {
            let rows = "select json_agg(b)::text || coalesce((select json_agg(s order by position)::text
                        from molt.bot_steps s), '') from molt.bots b";
            panic!("never: {question}\n{}", self.database.text(rows).await.unwrap_or_default());
        }
    }

    /// Lets the fleet work until nothing is due or leased.
    pub(crate) async fn settle(&self, fleet: &Fleet) {
        fleet.run_once().await.unwrap();
        let moved = self.moved().num_milliseconds();
        self.work(
            fleet,
            &format!(
                "select not exists (select from molt.bots where leased_until is not null
                   or due_at <= now() + interval '{moved} milliseconds')"
            ),
        )
        .await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
