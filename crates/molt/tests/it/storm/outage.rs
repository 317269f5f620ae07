//! Postgres away for ten minutes: calls go on within the money that is leased, memory stays bounded, and the books are equal
//! again within seconds of its return.
//! Never: a figure that isn't compared call by call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use molt_store::testing::TestDatabase;
use serde_json::json;
use uuid::Uuid;

use super::plan::{HONEST, Plan, Surface, Wish};
use super::postgres::Postgres;
use super::provider::Provider;
use super::proxies::Proxies;
use super::{Folder, people, proves, settings};
use crate::stack::http::{Ask, Client};
use crate::stack::{LOOK_AGAIN, fresh_folder};

/// A person each. Forty calls a second between them.
const CALLERS: u64 = 8;
const PAUSE: Duration = Duration::from_millis(200);
const WORDS: u64 = 9;
/// From the return of Postgres until every call made so far is a row.
const EQUAL_WITHIN: Duration = Duration::from_secs(10);
/// What the journal may keep mapped of a backlog, and what the first calls under load take.
const GROWTH_MIB_MAX: u64 = 24;

/// What each call must cost, by the id that its caller was told.
type Charges = HashMap<Uuid, i64>;

struct Caller {
    client: Client,
    key: String,
    number: Arc<AtomicU64>,
}

impl Caller {
    /// One call; its id, and what it must cost. Nothing but an answer will do, whatever is away.
    async fn call(&self) -> (Uuid, i64) {
        let marker = self.number.fetch_add(1, Ordering::Relaxed);
        let wish = Wish { marker, plan: Plan::Good, words: WORDS };
        let body = json!({ "model": HONEST.id, "max_tokens": 40, "stream": marker.is_multiple_of(2),
            "messages": [{ "role": "user", "content": wish.text() }] });
        let answer = self.client.send(Ask::new("post", Surface::Chat.path()).bearer(&self.key).json(&body)).await;
        assert_eq!(answer.status, 200, "call {marker}: {}", answer.text);
        let id = answer.headers.get("x-molt-request-id").unwrap_or_else(|| panic!("no answer of a model: {answer:?}"));
        let id = id.to_str().expect("plain").parse().expect("an id");
        (id, wish.count(Surface::Chat).charge(&HONEST))
    }

    async fn until(self, stop: Arc<AtomicBool>) -> Charges {
        let mut made = Charges::new();
        while !stop.load(Ordering::Relaxed) {
            made.extend([self.call().await]);
            tokio::time::sleep(PAUSE).await;
        }
        made
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_may_be_away_for_ten_minutes() {
    let away = Duration::from_secs(if proves() { 600 } else { 4 });
    let folder = Folder(fresh_folder());
    let mut postgres = Postgres::start(&folder.0).await;
    let database = postgres.database().await;
    let provider = Provider::start().await;
    let keys = folder.0.join("keys");
    std::fs::write(&keys, "sk-storm\n").expect("our own folder");
    let settings = settings(&provider, &keys, crate::stack::free_port());
    let mut proxies = Proxies::start(&folder.0, 1, &settings, &database.url).await;
    let (port, number, stop) = (proxies.ports()[0], Arc::default(), Arc::new(AtomicBool::new(false)));
    let mut callers = Vec::new();
    let mut charges = Charges::new();
    for _ in 0..CALLERS {
        let key = people::program(&database).await;
        let caller = Caller { client: Client::new(port), key, number: Arc::clone(&number) };
        charges.extend([caller.call().await]);
        callers.push(caller);
    }
    let stranger = people::program(&database).await;
    equal(&database, &charges, "before").await;

    postgres.stop().await;
    let (gone, before) = (Instant::now(), proxies.now_mib(0));
    let calls: Vec<_> = callers.into_iter().map(|caller| tokio::spawn(caller.until(Arc::clone(&stop)))).collect();
    let mut most = before;
    while gone.elapsed() < away {
        tokio::time::sleep(LOOK_AGAIN * 10).await;
        most = most.max(proxies.now_mib(0));
        assert!(!calls.iter().any(tokio::task::JoinHandle::is_finished), "a caller has given up");
    }
    // Who isn't known to this process can't be looked up; that is no judgement about the key.
    let ask = Ask::new("post", Surface::Chat.path()).bearer(&stranger).json(&json!({ "model": HONEST.id }));
    let refused = Client::new(port).send(ask).await;
    assert!(refused.status == 429 && refused.headers.contains_key("retry-after"), "{refused:?}");
    stop.store(true, Ordering::Relaxed);
    for caller in calls {
        charges.extend(caller.await.expect("every call is answered"));
    }
    let rate = charges.len() as u64 / gone.elapsed().as_secs().max(1);

    postgres.go_on().await;
    let back = Instant::now();
    equal(&database, &charges, "after").await;
    let equal_after = back.elapsed();
    println!(
        "away {away:?}: {} calls ({rate} a second), books equal {equal_after:?} after the return; {before} MiB, at most {most}",
        charges.len()
    );
    assert!(equal_after < EQUAL_WITHIN, "{equal_after:?}");
    assert!(most <= before + GROWTH_MIB_MAX, "{before} MiB, then {most}");
    proxies.stop().await;
    assert_eq!(database.count("select coalesce(sum(leased_nanos), 0) from molt.budgets").await, 0, "leases returned");
    let budgets = "select sum(settled_nanos) from molt.budgets where scope = 'user'";
    assert_eq!(database.count(budgets).await, charges.values().sum::<i64>(), "the budgets count every row");
}

/// Waits until each call has its row, and compares all of them.
async fn equal(database: &TestDatabase, charges: &Charges, when: &str) {
    let began = Instant::now();
    let wanted = i64::try_from(charges.len()).expect("some thousands");
    while database.count("select count(*) from molt.usage_logs").await != wanted {
        assert!(began.elapsed() < EQUAL_WITHIN, "{when}: the books don't hold {wanted} calls");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let sql = "select string_agg(concat_ws(' ', id, cost_nanos + operator_nanos, coalesce(estimate, '-')), E'\\n')
               from molt.usage_logs";
    let text = database.text(sql).await.expect("rows");
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let charge = words[0].parse().ok().and_then(|id: Uuid| charges.get(&id));
        assert_eq!((charge.map(ToString::to_string).as_deref(), words[2]), (Some(words[1]), "-"), "{when}: {line}");
    }
}
