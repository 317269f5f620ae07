//! The comparison itself: each kind of fault, planted once, is found.
//! Never: a process; what is compared here is made up.

use molt_model::UserId;
use molt_store::testing::database;

use super::super::callers::Calls;
use super::super::plan::{CLAUDE, HONEST, Surface, Wish};
use super::*;

fn made() -> Made {
    let mut made = Calls::new(1, 1, vec![String::new()], vec![1]).throw(0);
    made.wish = Wish { marker: 7, plan: Plan::Good, words: 5 };
    (made.surface, made.model, made.streams) = (Surface::Chat, &HONEST, true);
    (made.status, made.id, made.end, made.whole, made.pieces) = (Some(200), Some(Uuid::nil()), End::Ended, true, 5);
    made
}

fn attempt(wish: Wish) -> Attempt {
    Attempt { wish, count: wish.count(Surface::Chat), refused: false }
}

fn row(tokens: Count) -> Row {
    let cost = tokens.charge(&HONEST);
    Row { model: HONEST.id.to_owned(), tokens, reserved: 1_000_000, cost, operator: 0, estimate: None }
}

#[tokio::test]
async fn a_row_that_is_wrong_is_found() {
    let (database, ledger, made) = (database().await, Ledger::new(), [made()]);
    let attempt = attempt(made[0].wish);
    let good = row(attempt.count);
    let none = [Vec::new()];
    let books = Books { database: &database, made: &made, ledger: &ledger, kills: &none };
    let judge = |row: &Row| books.judge(&made[0], &attempt, Some(row));
    assert_eq!(judge(&good), Ok(()));
    let more = Count { output: good.tokens.output + 1, ..good.tokens };
    for wrong in [
        Row { cost: good.cost + 1, ..good.clone() },
        Row { cost: good.cost - 1, operator: 1, ..good.clone() },
        Row { tokens: more, cost: more.charge(&HONEST), ..good.clone() },
        Row { model: CLAUDE.id.to_owned(), ..good.clone() },
        Row { estimate: Some("hung_up".to_owned()), ..good.clone() },
        Row { estimate: Some("proxy_restarted".to_owned()), ..good.clone() },
    ] {
        assert!(judge(&wrong).is_err(), "{wrong:?}");
    }
    assert!(books.judge(&made[0], &attempt, None).is_err(), "lost");
    let refused = Attempt { refused: true, ..attempt.clone() };
    assert!(books.judge(&made[0], &refused, Some(&good)).is_err(), "charged for nothing");
    assert_eq!(books.judge(&made[0], &refused, None), Ok(()));
}

#[tokio::test]
async fn an_estimate_out_of_its_bounds_is_found() {
    let (database, ledger) = (database().await, Ledger::new());
    let mut cut = made();
    (cut.whole, cut.end, cut.pieces) = (false, End::Broke, 3);
    let made = [cut, made()];
    let kills = [vec![made[0].began]];
    let books = Books { database: &database, made: &made, ledger: &ledger, kills: &kills };
    let attempt = attempt(made[0].wish);
    let of = |output: i64| Row {
        estimate: Some("proxy_restarted".to_owned()),
        ..row(Count { input: 30, output, ..Count::default() })
    };
    for (output, fits) in [(2, false), (3, true), (5, true), (6, false)] {
        assert_eq!(books.judge(&made[0], &attempt, Some(&of(output))).is_ok(), fits, "{output} of 3 to 5");
    }
    let above = Row { reserved: of(4).cost - 1, ..of(4) };
    assert!(books.judge(&made[0], &attempt, Some(&above)).is_err(), "more than was set aside");
    assert!(books.judge(&made[1], &attempt, Some(&of(5))).is_err(), "the caller had all of it before the kill");
}

#[test]
fn an_answer_that_is_not_its_callers_is_found() {
    let good = made();
    let known = vec![attempt(good.wish)];
    assert_eq!(seen(&good, Some(&known), 1), Ok(()));
    let other = vec![attempt(Wish { marker: 8, ..good.wish })];
    assert!(
        seen(&good, Some(&other), 1).is_err() && seen(&good, None, 1).is_err() && seen(&good, Some(&known), 2).is_err()
    );
    let mut wrong = made();
    wrong.pieces = 4;
    assert!(seen(&wrong, Some(&known), 1).is_err(), "a word is missing");
    let mut wrong = made();
    wrong.whole = false;
    assert!(seen(&wrong, Some(&known), 1).is_err(), "its end is missing");
    let mut wrong = made();
    (wrong.unmetered, wrong.id) = (true, None);
    assert!(seen(&wrong, None, 1).is_err(), "it left all the same");
    let mut wrong = made();
    wrong.id = None;
    assert!(seen(&wrong, None, 1).is_err(), "without an id");
}

#[tokio::test]
async fn a_cap_that_is_passed_and_money_that_is_nowhere_are_found() {
    let database = database().await;
    let (ledger, kills) = (Ledger::new(), [Vec::new()]);
    let books = Books { database: &database, made: &[], ledger: &ledger, kills: &kills };
    assert_eq!(books.sums().await, Vec::<String>::new());
    let (user, key, holder) = (UserId::random(), Uuid::new_v4(), Uuid::new_v4());
    database
        .execute(&format!(
            "insert into molt.users (id, issuer, subject, email, cap_nanos) values ('{user}', 'storm', '{user}', 'a@example.com', 10);
             insert into molt.ghost_keys (id, user_id, key_hash, label, cap_nanos) values ('{key}', '{user}', '\\x01', 'program', 10);
             insert into molt.price_books (version, prices) values ('v', '{{}}');
             insert into molt.usage_logs (id, user_id, book_key, key_id, provider, model, surface, tokens_in, tokens_out,
               cost_nanos, price_version, duration_ms, at, period_start)
               values ('{holder}', '{user}', '{user}', '{key}', 'p', 'p/m', 'chat', 1, 1, 11, 'v', 1, now(), '2026-11-01Z');
             insert into molt.holders (id) values ('{holder}');
             insert into molt.budgets (scope, scope_id, period_start, user_id, settled_nanos, leased_nanos)
               values ('user', '{user}', '2026-11-01Z', '{user}', 11, 5);
             insert into molt.leases (holder, scope, scope_id, period_start, outstanding_nanos, op, granted_nanos, free_nanos, others_nanos)
               values ('{holder}', 'user', '{user}', '2026-11-01Z', 5, '{holder}', 5, 0, 0)"
        ))
        .await;
    let faults = books.sums().await.join("\n");
    for fault in
        ["by a key", "by a person", "aren't the sums", "dead holders", "on lease to nobody", "weren't released"]
    {
        assert!(faults.contains(fault), "{fault}: {faults}");
    }
    assert!(!faults.contains("by a bot"), "{faults}");
}
