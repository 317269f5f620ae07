//! The great storm: callers at random, a provider that misbehaves, proxies killed and Postgres stopped under them; and then
//! the books, which must be right to the nano-dollar. Small in every test run, whole under MOLT_PROVE.
//! Never: a mock, or a row that isn't accounted for.

mod books;
mod callers;
mod dice;
mod outage;
pub(crate) mod people;
pub(crate) mod plan;
mod postgres;
pub(crate) mod provider;
pub(crate) mod proxies;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use molt_store::testing::TestDatabase;

use crate::stack::{LOOK_AGAIN, fresh_folder};
use books::Books;
use callers::Calls;
use dice::{Dice, seed};
use plan::{AWAY, CLAUDE, EMBED, FLAKY, HONEST};
use postgres::Postgres;
use provider::Provider;
use proxies::Proxies;

/// Answers that nobody reads any more are listened to for five seconds; this is far beyond.
const CALM_PATIENCE: Duration = Duration::from_secs(40);

/// Calls between the end of Postgres and a kill.
const IN_THE_DARK: u64 = 40;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Size {
    proxies: usize,
    calls: u64,
    people: u64,
    /// Besides one for each stop.
    kills: u64,
    stops: u64,
    /// How long Postgres stays away.
    away: Duration,
}

/// What happens to the proxies once so many calls are done.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    StopPostgres,
}

/// Fields in the order in which they go.
struct Storm {
    size: Size,
    seed: u64,
    proxies: Proxies,
    database: TestDatabase,
    postgres: Postgres,
    provider: Provider,
    _folder: Folder,
}

/// Goes with its test.
pub(crate) struct Folder(pub(crate) std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_proxy_in_the_storm() {
    let away = Duration::from_secs(2);
    let small = Size { proxies: 1, calls: 1_000, people: 8, kills: 1, stops: 0, away };
    let whole = Size { calls: 20_000, people: 60, kills: 6, stops: 1, ..small };
    Storm::gather(if proves() { whole } else { small }).await.rage().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_proxies_in_the_storm() {
    let small = Size { proxies: 3, calls: 2_000, people: 12, kills: 3, stops: 1, away: Duration::from_secs(2) };
    let whole = Size { calls: 100_000, people: 200, kills: 20, stops: 2, away: Duration::from_secs(15), ..small };
    Storm::gather(if proves() { whole } else { small }).await.rage().await;
}

fn proves() -> bool {
    std::env::var_os("MOLT_PROVE").is_some()
}

/// No limits but money, and the storm's providers at the storm's prices.
pub(crate) fn settings(provider: &Provider, keys: &Path, nowhere: u16) -> String {
    let none = "requests_per_minute = 0\ntokens_per_minute = 0\ncalls_at_once = 0\n";
    let mut text = format!("log = \"warn\"\n[limits.bot]\n{none}[limits.user]\n{none}");
    let address = |port: u16| format!("base_url = \"http://127.0.0.1:{port}/v1\"\n");
    for (name, kind, port) in [
        ("up", "openai", provider.port),
        ("flaky", "openai", provider.port),
        ("away", "openai", nowhere),
        ("claude", "anthropic", provider.port),
    ] {
        text += &format!("[providers.{name}]\nkind = \"{kind}\"\n{}", address(port));
        if name == "flaky" {
            text += &format!("api_key_file = {keys:?}\n");
        }
        for model in [&HONEST, &FLAKY, &AWAY, &CLAUDE, &EMBED] {
            if model.id.split_once('/').is_some_and(|(provider, _)| provider == name) {
                text += &model.settings();
            }
        }
    }
    text
}

impl Storm {
    async fn gather(size: Size) -> Self {
        let seed = seed();
        println!("{size:?}, MOLT_STORM_SEED={seed}");
        let folder = Folder(fresh_folder());
        let postgres = Postgres::start(&folder.0).await;
        let database = postgres.database().await;
        let provider = Provider::start().await;
        let keys = folder.0.join("keys");
        std::fs::write(&keys, "sk-storm-one\nsk-storm-two\nsk-storm-three\n").expect("our own folder");
        let nowhere = crate::stack::free_port();
        let settings = settings(&provider, &keys, nowhere);
        let proxies = Proxies::start(&folder.0, size.proxies, &settings, &database.url).await;
        Self { size, seed, proxies, database, postgres, provider, _folder: folder }
    }

    async fn rage(mut self) {
        let began = Instant::now();
        let keys = people::settle_in(&self.database, self.size.people, self.seed).await;
        let calls = Arc::new(Calls::new(self.seed, self.size.calls, keys, self.proxies.ports()));
        let callers = tokio::spawn(calls.clone().make());
        self.strike(&calls).await;
        let made = callers.await.expect("no caller panics");
        self.proxies.all_ready().await;
        let calm = Instant::now();
        while self.provider.open() > 0 {
            assert!(calm.elapsed() < CALM_PATIENCE, "answers that nobody reads are listened to for ever");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let raged = began.elapsed();
        // A polite end writes the books and gives back what was on lease.
        self.proxies.stop().await;
        let (ledger, kills) = (self.provider.ledger(), self.proxies.kills());
        let books = Books { database: &self.database, made: &made, ledger: &ledger, kills: &kills };
        let figures = books.check().await;
        figures.was_a_storm(self.size.kills > 0);
        println!("{raged:?} of storm, {:?} in all", began.elapsed());
    }

    /// Kills and stops, spread over the calls; every one of them happens.
    async fn strike(&mut self, calls: &Calls) {
        let mut dice = Dice::new(self.seed, u64::MAX - 1);
        let at = |number: u64, of: u64| calls.total * (2 * number + 1) / (2 * of + 1);
        let mut blows: Vec<(u64, Blow)> =
            (0..self.size.kills).map(|kill| (at(kill, self.size.kills), Blow::Kill)).collect();
        let stops = (0..self.size.stops).map(|stop| at(stop, self.size.stops) + 7);
        // One that is killed while Postgres is away can't come back before it.
        blows.extend(stops.flat_map(|at| [(at, Blow::StopPostgres), (at + IN_THE_DARK, Blow::Kill)]));
        blows.sort_by_key(|(at, _)| *at);
        let mut back: Option<Instant> = None;
        let mut blows = blows.into_iter().peekable();
        while blows.peek().is_some() || back.is_some() {
            if back.is_some_and(|back| Instant::now() >= back) {
                self.postgres.go_on().await;
                back = None;
            }
            self.proxies.tend(self.postgres.is_away());
            let done = calls.done();
            if let Some((_, blow)) = blows.next_if(|(at, _)| *at <= done) {
                match blow {
                    Blow::Kill => {
                        let slot = usize::try_from(dice.below(self.size.proxies as u64)).expect("small");
                        self.proxies.kill(slot, self.postgres.is_away());
                    }
                    Blow::StopPostgres => {
                        self.postgres.stop().await;
                        back = Some(Instant::now() + self.size.away);
                    }
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
