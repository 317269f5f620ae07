//! Admission against a real database: what is announced is in force, and no cap is ever passed.

use std::sync::atomic::AtomicI64;

use molt_model::{PriceVersion, RequestId, SystemClock, TokenUsage};
use molt_store::testing::{TestDatabase, database};
use molt_store::usage::SettledCall;
use secrecy::ExposeSecret;

use super::*;
use crate::admission::purse::Charge;

const NO_LIMITS: Limits = Limits { bot: limits::Rates::NONE, user: limits::Rates::NONE };

struct Stage {
    database: TestDatabase,
    user: UserId,
    bot: BotId,
    /// The bot's, and one of a program.
    keys: [String; 2],
}

impl Stage {
    async fn new() -> Self {
        let database = database().await;
        let (user, bot) = (UserId::random(), BotId::random());
        database
            .execute(&format!(
                "insert into molt.users (id, issuer, subject, email) values ('{user}', 'test', 'a', 'a@example.com');
                 insert into molt.billing (user_id, provider, subscription_status) values ('{user}', 'local', 'active');
                 insert into molt.price_books (version, prices) values ('v', '{{}}');
                 insert into molt.bots (id, user_id, bot_name, vertical, settings, intent)
                   values ('{bot}', '{user}', 'Pip', 'developer', '{{}}', 'running')"
            ))
            .await;
        let mut tx = database.store.system().await.unwrap();
        let now = SystemClock.now();
        let (_, own) = tx.create_ghost_key(user, Some(&bot), "bot", None, now).await.unwrap();
        let (_, program) = tx.create_ghost_key(user, None, "laptop", None, now).await.unwrap();
        tx.commit().await.unwrap();
        let keys = [own, program].map(|key| key.expose_secret().to_owned());
        Self { database, user, bot, keys }
    }

    fn admission(&self, store: Store) -> (Admission, HolderId) {
        let holder = HolderId::random();
        (Admission::start(store, Arc::new(SystemClock), holder, Nanos::dollars(50), NO_LIMITS), holder)
    }

    async fn cap(&self, table: &str, cap: &str) {
        self.database.execute(&format!("update molt.{table} set cap_nanos = {cap}")).await;
    }

    async fn book(&self, entry: &KeyEntry, holder: HolderId, charge: Charge) {
        let call = SettledCall {
            id: RequestId::random(),
            holder,
            period_start: entry.period_start,
            user: entry.user,
            book_key: entry.book_key,
            bot: entry.bot.clone(),
            key: entry.key,
            run: None,
            provider: "p".into(),
            model: "p/m".into(),
            surface: "chat".into(),
            usage: TokenUsage::default(),
            reserved_nanos: 0,
            cost_nanos: charge.charged.0,
            operator_nanos: charge.operator.0,
            price_version: PriceVersion("v".to_owned()),
            estimate: None,
            first_byte_ms: None,
            duration_ms: 1,
            at: entry.at(SystemClock.now()),
        };
        let mut tx = self.database.store.system().await.unwrap();
        assert_eq!(tx.record_calls(&[call], SystemClock.now()).await.unwrap().len(), 1);
        tx.commit().await.unwrap();
    }

    async fn spent(&self, column: &str, id: &str) -> i64 {
        let sql = format!("select coalesce(sum(cost_nanos), 0) from molt.usage_logs where {column}::text = '{id}'");
        self.database.count(&sql).await
    }

    async fn leased(&self) -> i64 {
        self.database.count("select coalesce(sum(leased_nanos), 0) from molt.budgets").await
    }
}

async fn opened(admission: &Admission, key: &str) -> Arc<KeyEntry> {
    admission.entry(key.as_bytes()).await.unwrap()
}

/// Asks until the answer is the wanted one; a second is what a change may take to be in force.
async fn within_a_second<T, F: Future<Output = T>>(mut ask: impl FnMut() -> F, wanted: impl Fn(&T) -> bool) -> T {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        let answer = ask().await;
        if wanted(&answer) || Instant::now() > until {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

fn reason(declined: Result<Reservation, Declined>) -> Reason {
    match declined {
        Err(Declined::Notice(notice)) => notice.reason,
        other => panic!("not a notice: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_changed_in_the_database_is_in_force_within_a_second() {
    let stage = Stage::new().await;
    let (admission, _) = stage.admission(stage.database.second_store().await);
    let key = &stage.keys[0];
    let reserve = async |worst: i64| {
        let entry = opened(&admission, key).await;
        admission.reserve(&entry, Nanos(worst), Nanos(worst)).await
    };
    let asked = |worst: i64| within_a_second(move || reserve(worst), Result::is_err);
    drop(reserve(1_000).await.unwrap());
    stage.database.execute("update molt.billing set subscription_status = 'canceled'").await;
    assert_eq!(reason(asked(1).await), Reason::PlanNotInForce);
    stage.database.execute("update molt.billing set subscription_status = 'active'").await;
    within_a_second(|| reserve(1), Result::is_ok).await.unwrap();
    stage.database.execute("update molt.ghost_keys set paused_at = now(), paused_reason = 'It ran in circles.'").await;
    assert_eq!(reason(asked(1).await), Reason::Paused("It ran in circles.".to_owned()));
    stage.database.execute("update molt.ghost_keys set paused_at = null, paused_reason = null").await;
    within_a_second(|| reserve(1), Result::is_ok).await.unwrap();
    // An operator's word comes first; the plan's end is said as such, whatever stands about the bot.
    let suspend = |cause: &str| {
        format!(
            "insert into molt.suspensions (bot_id, user_id, cause, reason, since)
             select id, user_id, '{cause}', 'Because.', now() from molt.bots"
        )
    };
    stage.database.execute(&suspend("operator")).await;
    assert_eq!(reason(asked(1).await), Reason::Suspended);
    stage.database.execute("delete from molt.suspensions").await;
    within_a_second(|| reserve(1), Result::is_ok).await.unwrap();
    let ended = format!("update molt.billing set subscription_status = 'canceled'; {}", suspend("plan_ended"));
    stage.database.execute(&ended).await;
    assert_eq!(reason(asked(1).await), Reason::PlanNotInForce);
    let paid = "update molt.billing set subscription_status = 'active'; delete from molt.suspensions";
    stage.database.execute(paid).await;
    within_a_second(|| reserve(1), Result::is_ok).await.unwrap();
    assert!(!opened(&admission, key).await.slowed);
    let slowed = "insert into molt.watches (bot_id, user_id, caution, reason, since, seen_at)
                  select id, user_id, 'slowed', 'It ran in circles.', now(), now() from molt.bots";
    for (change, pace) in [(slowed, true), ("update molt.watches set resumed_at = now(), caution = 'warned'", false)] {
        stage.database.execute(change).await;
        let entry = within_a_second(|| opened(&admission, key), |entry| entry.slowed == pace).await;
        assert_eq!((entry.slowed, entry.resumed_at.is_some()), (pace, !pace));
    }
    for (table, whose) in [("users", Capped::User), ("bots", Capped::Bot), ("ghost_keys", Capped::Key)] {
        stage.cap(table, "500").await;
        assert_eq!(reason(asked(501).await), Reason::TooLittleLeft { whose, cap: Nanos(500) });
        within_a_second(|| reserve(500), Result::is_ok).await.unwrap();
        stage.cap(table, "0").await;
        assert_eq!(reason(asked(1).await), Reason::CapReached { whose, cap: Nanos(0) });
        drop(reserve(0).await.expect("what costs nothing goes at any cap"));
        stage.cap(table, "null").await;
        within_a_second(|| reserve(501), Result::is_ok).await.unwrap();
    }
    stage
        .database
        .execute(&format!("update molt.ghost_keys set revoked_at = now() where bot_id = '{}'", stage.bot))
        .await;
    let refused = within_a_second(|| admission.entry(key.as_bytes()), Result::is_err).await.unwrap_err();
    assert_eq!((refused.status.as_u16(), refused.code), (401, "invalid_api_key"));
    let other = opened(&admission, &stage.keys[1]).await;
    stage.database.execute("update molt.users set erase_requested_at = now()").await;
    within_a_second(|| admission.entry(stage.keys[1].as_bytes()), Result::is_err).await.unwrap_err();
    assert!(other.bot.is_none() && other.purses.len() == 2);
}

#[tokio::test]
async fn what_isnt_a_key_opens_nothing_and_a_flood_of_them_is_bounded() {
    let stage = Stage::new().await;
    let (admission, _) = stage.admission(stage.database.store.clone());
    let dump = stage.database.text("select encode(key_hash, 'hex') from molt.ghost_keys limit 1").await.unwrap();
    for stolen in [dump.clone(), format!("mgk_{dump}"), stage.keys[0].to_uppercase(), String::new(), "x".repeat(9_000)]
    {
        assert_eq!(admission.entry(stolen.as_bytes()).await.unwrap_err().status.as_u16(), 401, "{stolen}");
    }
    let (mut unknown, mut busy) = (0, 0);
    for number in 0..1_000 {
        match admission.entry(format!("mgk_{number:064x}").as_bytes()).await.unwrap_err().code {
            "invalid_api_key" => unknown += 1,
            "busy" => busy += 1,
            other => panic!("{other}"),
        }
    }
    assert!(unknown > 0 && busy > 0, "{unknown} looked up, {busy} told to come back");
    within_a_second(|| admission.entry(stage.keys[0].as_bytes()), Result::is_ok).await.unwrap();
}

#[tokio::test]
async fn in_the_steady_state_a_call_needs_no_database_and_an_outage_loses_nothing() {
    let stage = Stage::new().await;
    let (admission, holder) = stage.admission(stage.database.second_store().await);
    let call = async |worst: i64, cost: i64| {
        let entry = opened(&admission, &stage.keys[0]).await;
        let reservation = admission.reserve(&entry, Nanos(worst), Nanos(worst)).await?;
        Ok::<_, Declined>((entry, reservation.settle(Nanos(cost))))
    };
    let (entry, charge) = call(1_000_000, 900).await.unwrap();
    assert_eq!(charge, Charge { charged: Nanos(900), operator: Nanos::ZERO });
    let slice = entry.purses[0].free() + 900;
    assert_eq!(slice, Nanos::dollars(50).0 / 16);
    // As good as away: nothing can be looked up or leased.
    stage
        .database
        .execute("alter table molt.ghost_keys rename to gone; alter table molt.budgets rename to gone_too")
        .await;
    admission.0.table.invalidate(None);
    for _ in 0..100 {
        call(1_000_000, 1).await.unwrap();
    }
    assert_eq!(entry.purses[0].free(), slice - 1_000);
    let more = slice * 3;
    let refused = call(more, more).await.unwrap_err();
    assert!(matches!(&refused, Declined::Refusal(refusal) if refusal.status.as_u16() == 429), "{refused:?}");
    stage
        .database
        .execute("alter table molt.gone rename to ghost_keys; alter table molt.gone_too rename to budgets")
        .await;
    let (entry, charge) = within_a_second(|| call(more, more), Result::is_ok).await.unwrap();
    assert_eq!(charge, Charge { charged: Nanos(more), operator: Nanos::ZERO });
    stage.book(&entry, holder, Charge { charged: Nanos(more + 1_000), operator: Nanos::ZERO }).await;
    admission.drain().await;
    assert_eq!(stage.leased().await, 0);
}

#[tokio::test]
async fn what_a_provider_reports_above_everything_is_the_operators() {
    let stage = Stage::new().await;
    stage.cap("users", "1000").await;
    stage.cap("bots", "600").await;
    let (admission, holder) = stage.admission(stage.database.second_store().await);
    let entry = opened(&admission, &stage.keys[0]).await;
    let part = admission.reserve(&entry, Nanos(5_000), Nanos(100)).await.unwrap();
    assert_eq!(part.amount(), Nanos(600), "as much as there is, and no less than the least");
    drop(part);
    let first = admission.reserve(&entry, Nanos(200), Nanos(200)).await.unwrap();
    let second = admission.reserve(&entry, Nanos(300), Nanos(300)).await.unwrap();
    let charge = first.settle(Nanos(9_999));
    assert_eq!(charge, Charge { charged: Nanos(300), operator: Nanos(9_699) });
    stage.book(&entry, holder, charge).await;
    let program = opened(&admission, &stage.keys[1]).await;
    drop(admission.reserve(&program, Nanos(400), Nanos(400)).await.unwrap());
    let more = admission.reserve(&program, Nanos(401), Nanos(401)).await;
    assert_eq!(reason(more), Reason::TooLittleLeft { whose: Capped::User, cap: Nanos(1_000) });
    let charge = second.settle(Nanos(300));
    stage.book(&entry, holder, charge).await;
    let over = admission.reserve(&entry, Nanos(1), Nanos(1)).await;
    assert_eq!(reason(over), Reason::CapReached { whose: Capped::Bot, cap: Nanos(600) });
    admission.drain().await;
    assert_eq!((stage.leased().await, stage.spent("user_id", &stage.user.to_string()).await), (0, 600));
}

#[tokio::test]
async fn money_that_an_idle_process_holds_comes_to_the_one_that_needs_it() {
    let stage = Stage::new().await;
    stage.cap("users", "20000000").await;
    let (idle, _) = stage.admission(stage.database.second_store().await);
    let (busy, _) = stage.admission(stage.database.second_store().await);
    let (there, here) = (opened(&idle, &stage.keys[0]).await, opened(&busy, &stage.keys[0]).await);
    drop(idle.reserve(&there, Nanos(1), Nanos(1)).await.unwrap());
    assert!(there.purses[0].free() >= 10_000_000);
    let all = busy.reserve(&here, Nanos(20_000_000), Nanos(20_000_000)).await.unwrap();
    assert_eq!((all.amount(), there.purses[0].free()), (Nanos(20_000_000), 0));
    let none = idle.reserve(&there, Nanos(1), Nanos(1)).await;
    assert_eq!(reason(none), Reason::TooLittleLeft { whose: Capped::User, cap: Nanos(20_000_000) });
    drop(all);
    drop(idle.reserve(&there, Nanos(20_000_000), Nanos(20_000_000)).await.unwrap());
}

/// A sequence of numbers that looks random and is the same in every run.
fn next(state: &AtomicI64, below: i64) -> i64 {
    let step = |state: i64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    let state = state.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).unwrap();
    (state >> 33).rem_euclid(below)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_calls_at_once_over_three_processes_never_pass_a_cap() {
    for (seed, user_cap, bot_cap, key_cap) in [
        (1, 0, 0, 0),
        (2, 1, 9, 9),
        (3, 50_000, 50_000, 50_000),
        (4, 90_000, 40_000, 60_000),
        (5, 900_000, 800_000, 30_000),
    ] {
        let stage = Arc::new(Stage::new().await);
        stage.cap("users", &user_cap.to_string()).await;
        stage.cap("bots", &bot_cap.to_string()).await;
        stage.cap("ghost_keys", &key_cap.to_string()).await;
        let numbers = Arc::new(AtomicI64::new(seed));
        let mut processes = Vec::new();
        for _ in 0..3 {
            processes.push(stage.admission(stage.database.second_store().await));
        }
        let calls: Vec<_> = (0..200_usize)
            .map(|number| {
                let (stage, numbers) = (Arc::clone(&stage), Arc::clone(&numbers));
                let (admission, holder) = processes[number % 3].clone();
                tokio::spawn(async move {
                    let entry = opened(&admission, &stage.keys[number % 2]).await;
                    let worst = next(&numbers, 9_000);
                    let least = next(&numbers, 2).min(1) * worst;
                    let Ok(reservation) = admission.reserve(&entry, Nanos(worst), Nanos(least)).await else {
                        return false;
                    };
                    tokio::task::yield_now().await;
                    let amount = reservation.amount().0;
                    assert!((least..=worst).contains(&amount));
                    // Some cost less than was set aside, some cost more.
                    let charge = reservation.settle(Nanos(next(&numbers, amount.max(1) * 3 / 2 + 1)));
                    stage.book(&entry, holder, charge).await;
                    true
                })
            })
            .collect();
        let mut admitted = 0;
        for call in calls {
            admitted += i64::from(call.await.unwrap());
        }
        for (admission, _) in &processes {
            admission.drain().await;
        }
        assert_eq!(stage.leased().await, 0, "everything went back");
        let user = stage.spent("user_id", &stage.user.to_string()).await;
        let bot = stage.spent("bot_id", stage.bot.as_str()).await;
        assert!(user <= user_cap && bot <= bot_cap, "{user} of {user_cap}, {bot} of {bot_cap}");
        assert!(user_cap < 50_000 || admitted > 0);
        let (admission, _) = &processes[0];
        for key in &stage.keys {
            let entry = opened(admission, key).await;
            let mine = stage.spent("key_id", &entry.key.to_string()).await;
            assert!(mine <= key_cap, "{mine} of {key_cap}");
            let bot_left = if entry.bot.is_some() { bot_cap - bot } else { i64::MAX };
            let left = (user_cap - user).min(key_cap - mine).min(bot_left);
            drop(admission.reserve(&entry, Nanos(left), Nanos(left)).await.expect("what is left can be spent"));
            admission.reserve(&entry, Nanos(left + 1), Nanos(left + 1)).await.unwrap_err();
        }
    }
}
