//! Caps against many holders at once, and against answers that get lost.
//! Never: a check of the sums alone; the table itself refuses a budget that is over its cap while these run.

use std::sync::Arc;

use molt_model::usage::Estimate;
use molt_model::{BotId, KeyId, PriceVersion, RequestId, TokenUsage};

use super::*;
use crate::Store;
use crate::testing::{TestDatabase, database};
use crate::usage::SettledCall;

const CAP: i64 = 10_000;

fn period() -> Time {
    "2026-11-01T00:00:00Z".parse().unwrap()
}

fn now() -> Time {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

async fn person(database: &TestDatabase) -> UserId {
    let user = UserId::random();
    let values = format!("('{user}', 'test', '{user}', '{user}@example.com')");
    database.execute(&format!("insert into molt.users (id, issuer, subject, email) values {values}")).await;
    database.execute("insert into molt.price_books (version, prices) values ('v', '{}') on conflict do nothing").await;
    user
}

fn call(user: UserId, bot: &BotId, key: KeyId, holder: HolderId, cost: i64) -> SettledCall {
    SettledCall {
        id: RequestId::random(),
        holder,
        period_start: period(),
        user,
        book_key: Uuid::new_v4(),
        bot: Some(bot.clone()),
        key,
        run: None,
        provider: "p".into(),
        model: "p/m".into(),
        surface: "chat".into(),
        usage: TokenUsage::default(),
        reserved_nanos: cost,
        cost_nanos: cost,
        operator_nanos: 0,
        price_version: PriceVersion("v".to_owned()),
        estimate: Some(Estimate::HungUp),
        first_byte_ms: None,
        duration_ms: 1,
        at: now(),
    }
}

fn wish(user: UserId, kind: ScopeKind, id: &str, need: i64, want: i64) -> LeaseWish {
    let scope = Scope { kind, id: id.to_owned(), period_start: period() };
    LeaseWish { scope, user, cap: Nanos(CAP), need: Nanos(need), want: Nanos(want) }
}

async fn ask(store: &Store, holder: HolderId, op: Uuid, wishes: &[LeaseWish]) -> Vec<Leased> {
    let mut tx = store.system().await.unwrap();
    let answers = tx.lease(holder, op, wishes).await.unwrap();
    tx.commit().await.unwrap();
    answers
}

async fn book(store: &Store, calls: &[SettledCall]) -> usize {
    let mut tx = store.system().await.unwrap();
    let new = tx.record_calls(calls, now()).await.unwrap();
    tx.commit().await.unwrap();
    new.len()
}

fn leased(granted: i64, free: i64, others: i64) -> Leased {
    Leased { granted: Nanos(granted), free: Nanos(free), others: Nanos(others) }
}

/// settled, leased and the number of leases of the person's own budget.
async fn account(database: &TestDatabase, user: UserId) -> String {
    let leases = "(select count(*) from molt.leases l where l.scope_id = b.scope_id)";
    let sql = format!(
        "select settled_nanos || ' ' || leased_nanos || ' ' || {leases} from molt.budgets b where scope_id = '{user}'"
    );
    database.text(&sql).await.unwrap()
}

#[tokio::test]
async fn a_lease_takes_gives_back_and_is_paid_from() {
    let database = database().await;
    let store = &database.store;
    let (user, bot, key) = (person(&database).await, BotId::random(), KeyId::random());
    let (one, two) = (HolderId::random(), HolderId::random());
    let id = user.to_string();
    let mine = |need, want| [wish(user, ScopeKind::User, &id, need, want)];
    // The rows that are there when a budget is first asked for count, and so does one from before there were periods.
    assert_eq!(book(store, &[call(user, &bot, key, one, 1_000)]).await, 1);
    database.execute("delete from molt.budgets").await;
    database.execute("insert into molt.usage_logs (id, user_id, book_key, provider, model, surface, tokens_in, tokens_out, cost_nanos, price_version, duration_ms, at)
                      select gen_random_uuid(), user_id, book_key, provider, model, surface, 0, 0, n, price_version, 0, t::timestamptz
                      from molt.usage_logs, (values (500, '2026-11-02'), (70, '2026-10-31')) as old (n, t)").await;
    let op = Uuid::new_v4();
    assert_eq!(ask(store, one, op, &mine(0, 0)).await, [leased(0, 8_500, 0)]);
    assert_eq!(ask(store, one, op, &mine(0, 700)).await, [leased(0, 8_500, 0)], "the same operation, the same answer");
    let op = Uuid::new_v4();
    assert_eq!(ask(store, one, op, &mine(100, 6_000)).await, [leased(6_000, 2_500, 0)]);
    assert_eq!(ask(store, one, op, &mine(100, 6_000)).await, [leased(6_000, 2_500, 0)]);
    assert_eq!(
        ask(store, two, op, &mine(2_501, 9_000)).await,
        [leased(0, 2_500, 6_000)],
        "less than the need is no use"
    );
    assert_eq!(ask(store, two, Uuid::new_v4(), &mine(2_500, 9_000)).await, [leased(2_500, 0, 6_000)]);
    assert_eq!(ask(store, one, Uuid::new_v4(), &mine(1, 1)).await, [leased(0, 0, 2_500)]);
    assert_eq!(account(&database, user).await, "1500 8500 2");

    // Paid from the lease of whoever spent it; above it all the same spent; again: nothing.
    let calls = [call(user, &bot, key, one, 5_000), call(user, &bot, key, two, 2_600)];
    assert_eq!((book(store, &calls).await, book(store, &calls).await), (2, 0));
    assert_eq!(account(&database, user).await, "9100 1000 2");
    assert_eq!(
        ask(store, two, Uuid::new_v4(), &mine(1, 1)).await,
        [leased(0, 0, 1_000)],
        "over the cap: nothing is free"
    );
    assert_eq!(ask(store, one, Uuid::new_v4(), &mine(0, -400)).await, [leased(-400, 300, 0)]);
    assert_eq!(ask(store, one, Uuid::new_v4(), &mine(0, -4_000)).await, [leased(-600, 900, 0)]);
    let lowered = LeaseWish { cap: Nanos(9_000), ..mine(1, 1)[0].clone() };
    assert_eq!(ask(store, one, Uuid::new_v4(), &[lowered]).await, [leased(0, 0, 0)]);
    let raised = LeaseWish { cap: Nanos(i64::MAX), ..mine(0, i64::MAX)[0].clone() };
    assert_eq!(ask(store, one, Uuid::new_v4(), &[raised]).await, [leased(i64::MAX - 9_100, 0, 0)]);
    let nobody = wish(UserId::random(), ScopeKind::User, "nobody", 1, 1);
    assert_eq!(ask(store, one, Uuid::new_v4(), &[nobody]).await, [leased(0, 0, 0)]);
    database.execute(&format!("delete from molt.users where id = '{user}'")).await;
    assert_eq!(database.count("select count(*) from molt.budgets").await, 0, "erased with its person");
}

#[tokio::test]
async fn a_holder_lives_and_is_released_once() {
    let database = database().await;
    let store = &database.store;
    let (user, bot, key) = (person(&database).await, BotId::random(), KeyId::random());
    let (one, two) = (HolderId::random(), HolderId::random());
    let id = user.to_string();
    let mut tx = store.system().await.unwrap();
    assert!(tx.holder_seen(one, now()).await.unwrap());
    let later = now() + chrono::TimeDelta::seconds(10);
    assert!(tx.holder_seen(one, later).await.unwrap());
    tx.commit().await.unwrap();
    for holder in [one, two] {
        let wishes = [wish(user, ScopeKind::User, &id, 0, 300), wish(user, ScopeKind::Bot, bot.as_str(), 0, 200)];
        ask(store, holder, Uuid::new_v4(), &wishes).await;
    }
    assert_eq!(account(&database, user).await, "0 600 2");
    let mut tx = store.system().await.unwrap();
    let held = tx.holders().await.unwrap();
    let of_one = Holder { id: one, started_at: now(), seen_at: later, outstanding: Nanos(300) };
    assert_eq!((held.len(), held.iter().find(|holder| holder.id == one)), (2, Some(&of_one)));
    assert!(tx.release_holder(one, later).await.unwrap());
    assert!(!tx.release_holder(one, later).await.unwrap());
    assert!(!tx.release_holder(HolderId::random(), later).await.unwrap());
    assert!(!tx.holder_seen(one, later).await.unwrap());
    assert_eq!(tx.holders().await.unwrap().len(), 1);
    tx.commit().await.unwrap();
    assert_eq!(account(&database, user).await, "0 300 1");
    let mut tx = store.system().await.unwrap();
    let refused = tx.lease(one, Uuid::new_v4(), &[wish(user, ScopeKind::User, &id, 0, 1)]).await;
    assert!(matches!(refused, Err(StoreError::Constraint { constraint }) if constraint == "holders_released"));
    drop(tx);
    // What comes late is spent, and nobody else's lease pays for it.
    assert_eq!(book(store, &[call(user, &bot, key, one, 50)]).await, 1);
    assert_eq!(account(&database, user).await, "50 300 1");
}

/// One proxy: leases, loses answers, spends a part of what it has, gives some back.
async fn spend(store: Store, user: UserId, bot: BotId, key: KeyId, seed: u64) -> i64 {
    let mut state = seed;
    let mut random = move |below: i64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(state >> 33).unwrap() % below
    };
    let holder = HolderId::random();
    let scopes =
        [(ScopeKind::Key, key.to_string()), (ScopeKind::User, user.to_string()), (ScopeKind::Bot, bot.to_string())];
    let (mut held, mut spent) = ([0i64; 3], 0);
    for _ in 0..25 {
        let op = Uuid::new_v4();
        let wishes: Vec<LeaseWish> = scopes
            .iter()
            .map(|(kind, id)| match random(4) {
                0 => wish(user, *kind, id, 0, -random(400)),
                _ => wish(user, *kind, id, random(100), random(600)),
            })
            .collect();
        if random(4) == 0 {
            // Asked, and gone before it was committed.
            let mut tx = store.system().await.unwrap();
            tx.lease(holder, op, &wishes).await.unwrap();
        }
        let answers = ask(&store, holder, op, &wishes).await;
        if random(3) == 0 {
            assert_eq!(ask(&store, holder, op, &wishes).await, answers);
        }
        for (held, answer) in held.iter_mut().zip(&answers) {
            *held += answer.granted.0;
            assert!(*held >= 0);
        }
        let most = *held.iter().min().unwrap();
        let cost = if most > 0 { random(most + 1) } else { 0 };
        let calls = [call(user, &bot, key, holder, cost / 2), call(user, &bot, key, holder, cost - cost / 2)];
        assert_eq!(book(&store, &calls).await, 2);
        held = held.map(|held| held - cost);
        spent += cost;
    }
    let mut tx = store.system().await.unwrap();
    tx.release_holder(holder, now()).await.unwrap();
    tx.commit().await.unwrap();
    spent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cap_is_passed_however_many_spend_at_once() {
    let database = Arc::new(database().await);
    let (user, keys) = (person(&database).await, [KeyId::random(), KeyId::random()]);
    let bots = [BotId::random(), BotId::random()];
    database
        .execute(&format!("alter table molt.budgets add constraint over check (settled_nanos + leased_nanos <= {CAP})"))
        .await;
    let stores = [database.store.clone(), database.second_store().await, database.second_store().await];
    let proxies: Vec<_> = (0..9u64)
        .map(|n| {
            let at = usize::try_from(n).unwrap();
            tokio::spawn(spend(stores[at % 3].clone(), user, bots[at % 2].clone(), keys[at / 2 % 2], n))
        })
        .collect();
    let mut spent = 0;
    for proxy in proxies {
        spent += proxy.await.unwrap();
    }
    assert!(spent > CAP / 2 && spent <= CAP, "{spent}");
    assert_eq!(account(&database, user).await, format!("{spent} 0 0"));
    let wrong = "select count(*) from molt.budgets b where leased_nanos <> 0 or settled_nanos <> (
       select coalesce(sum(cost_nanos), 0) from molt.usage_logs
       where b.scope_id in (user_id::text, bot_id, key_id::text) and period_start = b.period_start)";
    assert_eq!(database.count(wrong).await, 0);
    assert_eq!(database.count("select count(*) from molt.budgets").await, 5);
    assert_eq!(database.count("select count(*) from molt.usage_logs").await, 9 * 25 * 2);
}
