//! All points on the simulated host: its calls, its cells' and every commit.

use std::sync::Arc;
use std::time::Duration;

use molt_bot::CellAddress;
use molt_fleet::{Config, Host};
use molt_model::BotId;
use tokio::net::TcpListener;

use super::{
    ACCEPTANCE, AHEAD, AHEAD_AGAIN, Given, Held, LAPSE, LATE_ACCEPTANCE, PREPARED_REMOVAL, PROVISION, REMOVAL, RESTART,
    RESUMPTION, SETTINGS, SPARE, SPARE_REMOVAL, SPARE_TAKEN, SUSPENSION, Scene, Story, Theatre, walk, walks,
};
use crate::line::Commits;
use crate::simulated::{Blow, Fuse, Rules, Simulated, SimulatedHost, serve_cells};
use crate::stage::Stage;

/// One point of so many is tried in every test run, and of those at which a call fails.
const EVERY: u32 = 5;
const EVERY_CALL: u32 = 11;
/// What is made ahead are short stories.
const EVERY_OF_FEW: u32 = 2;
const PLACES: [&Story; 6] = [&AHEAD, &AHEAD_AGAIN, &ACCEPTANCE, &LAPSE, &LATE_ACCEPTANCE, &PREPARED_REMOVAL];

struct Simulation {
    host: Arc<Simulated>,
    cells: tokio::task::AbortHandle,
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.cells.abort();
    }
}

async fn theatre() -> Theatre<Simulation> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = CellAddress::Tcp(listener.local_addr().unwrap().to_string());
    let rules = Rules { boot: Duration::from_millis(30), ahead: true, ..Rules::default() };
    let host = Simulated::new(rules, address);
    let cells = tokio::spawn(serve_cells(listener, host.clone())).abort_handle();
    Theatre::new(Simulation { host, cells }).await
}

impl Scene for Simulation {
    /// The host asks the fuse itself.
    type Way = ();
    const LOOK: Duration = Duration::from_millis(60);

    fn fuse(&self) -> &Arc<Fuse> {
        &self.host.fuse
    }

    fn open(&self, stage: &Stage) -> (Arc<dyn Host>, Config, ()) {
        (Arc::new(SimulatedHost(self.host.clone())), stage.config(), ())
    }

    async fn holds(&self) -> Held {
        let (cells, volumes) = self.host.holds();
        Held { cells, volumes, ..Held::default() }
    }

    async fn volume(&self, bot: &BotId) -> Option<String> {
        self.host.volume(bot).map(|volume| format!("{volume:?}"))
    }

    async fn given(&self, _stage: &Stage, bot: &BotId) -> Option<Given> {
        Some(Given { key: Some(self.host.ghost_key(bot)?), revision: self.host.applied_revision(bot) })
    }
}

async fn walk_all(story: &Story, blow: Blow, every: u32) {
    let theatre = Theatre { keep_spare: story.spares(), ..theatre().await };
    walk(&[theatre], story, blow, Commits::Done, every).await;
}

#[tokio::test]
async fn provisioning_survives_a_kill_at_every_point() {
    walk_all(&PROVISION, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn new_settings_survive_a_kill_at_every_point() {
    walk_all(&SETTINGS, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_restart_survives_a_kill_at_every_point() {
    walk_all(&RESTART, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_removal_survives_a_kill_at_every_point() {
    walk_all(&REMOVAL, Blow::Kill, EVERY).await;
}

#[tokio::test]
async fn a_suspension_and_its_end_survive_a_kill_at_every_point() {
    walks([&SUSPENSION, &RESUMPTION].map(|story| walk_all(story, Blow::Kill, EVERY))).await;
}

#[tokio::test]
async fn a_place_made_ahead_survives_a_kill_at_every_point_whoever_comes_for_it_or_nobody() {
    walks(PLACES.map(|story| walk_all(story, Blow::Kill, EVERY))).await;
}

#[tokio::test]
async fn a_spare_place_survives_a_kill_at_every_point_until_a_bot_that_took_it_runs() {
    walks([&SPARE, &SPARE_TAKEN, &SPARE_REMOVAL].map(|story| walk_all(story, Blow::Kill, EVERY_OF_FEW))).await;
}

#[tokio::test]
async fn any_call_may_be_refused_or_lose_its_answer() {
    let places = PLACES.map(|story| (story, EVERY_OF_FEW));
    let bots = [&PROVISION, &RESTART, &SUSPENSION, &RESUMPTION, &REMOVAL].map(|story| (story, EVERY_CALL));
    let spares = [&SPARE, &SPARE_TAKEN, &SPARE_REMOVAL].map(|story| (story, EVERY));
    let stories = bots.into_iter().chain(places).chain(spares);
    let all =
        stories.flat_map(|(story, every)| [Blow::Refuse, Blow::LoseAnswer].map(|blow| walk_all(story, blow, every)));
    walks(all).await;
}

/// The judge itself: each thing that must never be is seen when it is.
#[tokio::test]
async fn what_must_never_be_is_noticed() {
    let mut theatre = theatre().await;
    let bot = theatre.running_bot().await;
    let volume = theatre.scene.volume(&bot).await;
    assert!(volume.is_some());
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);
    let stray = format!("insert into molt.spares (id) values ('{}')", BotId::random());
    theatre.stage.database.execute(&stray).await;
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("more places"));
    theatre.keep_spare = 1;
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().starts_with("rows: "), "a row without its place");
    theatre.stage.database.execute(&format!("update molt.spares set id = '{bot}'")).await;
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().starts_with("rows: "), "one place for two");
    theatre.stage.database.execute("delete from molt.spares").await;
    let host = SimulatedHost(theatre.scene.host.clone());
    let spoil = async |sql: &str| theatre.stage.database.execute(sql).await;
    spoil("update molt.ghost_keys set revoked_at = now()").await;
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("key"));
    spoil("update molt.ghost_keys set revoked_at = null; update molt.bots set revision = 9").await;
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("settings"));
    spoil("update molt.bots set revision = 1").await;
    assert_eq!(theatre.faults(&bot, volume.clone()).await, None);
    host.stop(&bot, false).await.unwrap();
    assert!(theatre.faults(&bot, volume.clone()).await.unwrap().contains("cells: ;"), "none");
    host.stop(&bot, true).await.unwrap();
    theatre.stage.settle(&theatre.next_fleet().0).await;
    assert!(theatre.faults(&bot, volume).await.unwrap().contains("another one"), "a lost volume");
    spoil("delete from molt.bots").await;
    assert!(theatre.faults(&bot, None).await.unwrap().starts_with("rows: ;"), "an orphan");
}
