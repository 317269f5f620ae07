//! The proxy as a process of its own, killed in the middle of things: no call lost, none twice.
//! Never: a polite shutdown.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use molt_ghost::Ghost;
use molt_store::{SealKey, Store};
use serde_json::json;
use tokio::net::TcpListener;

use crate::rig::{Call, chat_body, clock, config, journal_is_empty, person, send};
use crate::upstream::Upstream;

const ROUNDS: usize = 6;
const CALLS_AT_ONCE: usize = 8;
const FOLDER: &str = "MOLT_GHOST_TEST_FOLDER";
const DATABASE: &str = "MOLT_GHOST_TEST_DATABASE";
const PROVIDER: &str = "MOLT_GHOST_TEST_PROVIDER";

/// Not a test of its own: the process that `killed_at_any_moment…` starts and kills.
#[tokio::test]
async fn the_proxy_as_a_process() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = PathBuf::from(folder);
    let (database, provider) = (std::env::var(DATABASE).unwrap(), std::env::var(PROVIDER).unwrap());
    let seal = SealKey::from_hex(&SealKey::generate_hex()).unwrap();
    let store = Store::connect(&database.into(), seal).await.unwrap();
    let ghost = Ghost::start(config(&provider, folder.clone()), store, clock()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::fs::write(folder.join("address.new"), &address).unwrap();
    std::fs::rename(folder.join("address.new"), folder.join("address")).unwrap();
    axum::serve(listener, molt_ghost::router(ghost)).await.unwrap();
}

fn start(folder: &Path, database: &str, provider: &str) -> Child {
    let _ = std::fs::remove_file(folder.join("address"));
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::the_proxy_as_a_process", "--exact"])
        .envs([(FOLDER, folder.to_str().unwrap()), (DATABASE, database), (PROVIDER, provider)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn address(folder: &Path) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(address) = std::fs::read_to_string(folder.join("address")) {
            return format!("http://{address}");
        }
        assert!(Instant::now() < until, "the proxy doesn't start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_the_books_lose_nothing_and_count_nothing_twice() {
    use secrecy::ExposeSecret;
    let database = molt_store::testing::database().await;
    let provider = Upstream::start().await;
    let (_, _, key) = person(&database).await;
    let folder = std::env::temp_dir().join(format!("molt-ghost-kill-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut known = Vec::new();
    for round in 0..ROUNDS {
        let mut child = start(&folder, database.url.expose_secret(), &provider.address.to_string());
        let base = address(&folder).await;
        let callers: Vec<_> =
            (0..CALLS_AT_ONCE).map(|caller| tokio::spawn(call_on(base.clone(), key.clone(), caller))).collect();
        tokio::time::sleep(Duration::from_millis(350 + 170 * round as u64)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for caller in callers {
            known.extend(caller.await.unwrap());
        }
    }
    let mut child = start(&folder, database.url.expose_secret(), &provider.address.to_string());
    address(&folder).await;
    let folder_is_done = || journal_is_empty(&folder);
    let until = Instant::now() + Duration::from_secs(10);
    while !folder_is_done() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(folder_is_done(), "the journal is in the books");

    compare(&database, &provider, &known).await;
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Calls until the proxy is gone. The ids of the answers that came whole.
async fn call_on(base: String, key: String, caller: usize) -> Vec<String> {
    let mut whole = Vec::new();
    let models = ["up/ok", "up/slow", "up/nousage", "practice/practice-1"];
    for call in 0.. {
        let body = chat_body(models[(caller + call) % models.len()], &json!({ "stream": true }));
        let Some(answer) = send(&base, &key, Call::post("/v1/chat/completions", body)).await else { break };
        assert!(answer.status == 200 || answer.status == 429, "{answer:?}");
        whole.extend(answer.request_id.filter(|_| answer.text.contains("[DONE]")));
    }
    whole
}

/// The books against what the callers got and what the provider served.
async fn compare(database: &molt_store::testing::TestDatabase, provider: &Upstream, known: &[String]) {
    assert!(known.len() > ROUNDS, "too few calls to prove anything: {}", known.len());
    for id in known {
        let sql = format!("select coalesce(estimate, 'exact') from molt.usage_logs where id = '{id}'");
        let row = database.text(&sql).await.unwrap_or_else(|| panic!("{id} is lost"));
        assert!(row == "exact" || row == "not_reported", "{id} was answered in full, yet booked as {row}");
    }
    let rows = database.count("select count(*) from molt.usage_logs").await;
    let seen = database.count("select count(*) from molt.usage_logs where provider = 'up'").await;
    assert!(
        seen >= i64::try_from(provider.requests().len()).unwrap(),
        "{seen} rows for {} calls",
        provider.requests().len()
    );
    let told = "select sum(coalesce((body->>'calls')::bigint, 1)) from molt.events where kind = 'usage'";
    assert_eq!(rows, database.count(told).await, "each row is told of once");
    let spent = "select settled_nanos from molt.budgets where scope = 'user'";
    assert_eq!(database.count(spent).await, database.count("select sum(cost_nanos) from molt.usage_logs").await);
    let released = database.count("select count(*) from molt.holders where released_at is not null").await;
    assert_eq!(released, i64::try_from(ROUNDS).unwrap(), "every process that was killed has given its leases back");
    let twice = "select count(*) from (select tokens_in from molt.usage_logs where provider = 'up' and estimate is null group by 1 having count(*) > 1) t";
    assert_eq!(database.count(twice).await, 0, "the provider counts each call with a number of its own");
    let cut = database.count("select count(*) from molt.usage_logs where estimate = 'proxy_restarted'").await;
    println!("{rows} rows, {} whole answers, {cut} cut by a kill", known.len());
}
