//! The journal against a model of itself, against torn files, and against many threads at once.
//! Never: a polite shutdown; what is dropped here leaves its files as a kill does.

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use molt_model::usage::Estimate;
use molt_model::{BotId, KeyId, Nanos, Price, PriceVersion, RequestId, RunId, TokenUsage, UserId};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// Room for the routes and some fifty calls, so that files turn over.
const SMALL: Bounds = Bounds { bytes: 16 * 1024, segments: 64 };
const PRICE: Price = Price::flat(1_000_000_000, 2_000_000_000).with_cache_read(1_000_000_000);

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("molt-journal-{}", Uuid::new_v4())))
    }

    fn open(&self, bounds: Bounds) -> (Journal, Recovered) {
        Journal::open_bounded(&self.0, at(5_000), bounds).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        segment::files(&self.0).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn at(ms: i64) -> Time {
    Time::from_timestamp_millis(1_795_000_000_000 + ms).unwrap()
}

fn routes() -> Vec<Arc<Route>> {
    let route = |model: &str, price: Price| {
        Arc::new(Route {
            provider: "mine".into(),
            model: format!("mine/{model}").into(),
            surface: "chat".into(),
            price,
            price_version: PriceVersion("a".to_owned()),
        })
    };
    vec![route("first \"quoted\"", PRICE), route("second", Price { output: 7_000_000_000, ..PRICE })]
}

fn call<'a>(bot: Option<&'a BotId>, routes: &'a [Arc<Route>]) -> AdmittedCall<'a> {
    AdmittedCall {
        id: RequestId::random(),
        user: UserId::random(),
        book_key: Uuid::new_v4(),
        bot,
        key: KeyId::random(),
        run: None,
        routes,
        period_start: at(0),
        input_tokens_estimate: 10,
        reserved: Nanos(1_000_000),
        at: at(1_000),
    }
}

fn outcome(route: usize, output: i64) -> Outcome {
    let usage = TokenUsage { input: 1, output, cache_read: 2, cache_write: 3, reasoning: 4 };
    let (charged, operator) = (Nanos(output), Nanos(output * 2));
    let estimate = (output % 2 == 0).then_some(Estimate::HungUp);
    Outcome { route, usage, charged, operator, estimate, first_byte_ms: Some(output), duration_ms: 9 }
}

/// The row of the books for a call that ended so.
fn row(holder: HolderId, call: &AdmittedCall<'_>, outcome: &Outcome) -> SettledCall {
    let route = &call.routes[outcome.route];
    SettledCall {
        id: call.id,
        holder,
        period_start: call.period_start,
        user: call.user,
        book_key: call.book_key,
        bot: call.bot.cloned(),
        key: call.key,
        run: call.run,
        provider: Arc::clone(&route.provider),
        model: Arc::clone(&route.model),
        surface: Arc::clone(&route.surface),
        usage: outcome.usage,
        reserved_nanos: call.reserved.0,
        cost_nanos: outcome.charged.0,
        operator_nanos: outcome.operator.0,
        price_version: route.price_version.clone(),
        estimate: outcome.estimate,
        first_byte_ms: outcome.first_byte_ms,
        duration_ms: outcome.duration_ms,
        at: call.at,
    }
}

/// What a restart makes of a call that had left and of which so much had come back.
fn restarted(holder: HolderId, call: &AdmittedCall<'_>, route: usize, pieces: i64) -> SettledCall {
    let usage = TokenUsage { input: call.input_tokens_estimate, output: pieces, ..TokenUsage::default() };
    let outcome = Outcome {
        route,
        usage,
        charged: call.routes[route].price.charge(&usage).min(call.reserved),
        operator: Nanos::ZERO,
        estimate: Some(Estimate::ProxyRestarted),
        first_byte_ms: None,
        duration_ms: 4_000,
    };
    row(holder, call, &outcome)
}

fn by_id(calls: Vec<SettledCall>) -> BTreeMap<RequestId, SettledCall> {
    calls.into_iter().map(|call| (call.id, call)).collect()
}

#[test]
fn a_restart_charges_for_what_left_and_for_nothing_else() {
    let (folder, routes, bot) = (Folder::new(), routes(), BotId::random());
    let calls: Vec<_> = (0..8).map(|_| call(Some(&bot), &routes)).collect();
    let run = Some(RunId::random());
    let calls: Vec<_> = calls.into_iter().map(|call| AdmittedCall { run, ..call }).collect();
    let [waiting, away, refused, again, dear, ended, void, booked] = calls.as_slice() else { unreachable!() };
    let (journal, recovered) = folder.open(SMALL);
    assert_eq!(recovered, Recovered::default());
    let holder = journal.holder();
    let slots: Vec<_> = calls.iter().map(|call| journal.admit(call).unwrap()).collect();
    assert_eq!(journal.waiting(), 0);
    let mut slots = slots.into_iter().zip(&calls).skip(1).map(|(slot, _)| slot);
    let mut next = || slots.next().unwrap();
    next().sent(0);
    let slot = next();
    slot.sent(0);
    slot.returned();
    let slot = next();
    slot.sent(0);
    slot.returned();
    slot.sent(1);
    slot.relayed(3);
    let slot = next();
    slot.sent(1);
    slot.relayed(1_000_000_000);
    let slot = next();
    slot.sent(0);
    slot.settle(&outcome(1, 5));
    next().void();
    next().settle(&outcome(0, 6));
    let batch = journal.collect(100);
    assert_eq!(batch.calls, [row(holder, ended, &outcome(1, 5)), row(holder, booked, &outcome(0, 6))]);
    journal.booked(&batch.places[1..]);
    assert_eq!((journal.waiting(), journal.is_done()), (1, false));
    drop(journal);

    let (journal, recovered) = folder.open(SMALL);
    assert_eq!(recovered, Recovered { calls: 4, estimated: 3, holders: vec![holder] });
    let left = journal.collect(100);
    let expected = [
        restarted(holder, away, 0, 0),
        restarted(holder, again, 1, 3),
        restarted(holder, dear, 1, 1_000_000_000),
        row(holder, ended, &outcome(1, 5)),
    ];
    assert_eq!(left.calls, expected);
    assert_eq!(left.calls[2].cost_nanos, 1_000_000, "never more than was set aside");
    assert!([waiting, refused, void].iter().all(|call| expected.iter().all(|row| row.id != call.id)));

    // Its last file goes when everything is booked and its leases have returned.
    assert_eq!((journal.holders_done(), journal.is_done()), (vec![], true));
    journal.booked(&left.places);
    assert_eq!((journal.holders_done(), journal.waiting()), (vec![holder], 0));
    journal.shared.remove_done();
    assert_eq!(folder.files().len(), 2);
    journal.holder_released(holder);
    assert_eq!((folder.files().len(), journal.holders_done()), (1, vec![]));
}

#[test]
fn what_the_books_refuse_stays_and_is_tried_again() {
    let (folder, routes) = (Folder::new(), routes());
    let (journal, _) = folder.open(SMALL);
    let one = call(None, &routes);
    journal.admit(&one).unwrap().settle(&outcome(0, 1));
    let expected = [row(journal.holder(), &one, &outcome(0, 1))];
    journal.set_aside(&journal.collect(1).places[0]);
    assert_eq!((journal.collect(10).calls.len(), journal.waiting(), journal.is_done()), (0, 0, false));
    journal.bring_back();
    assert_eq!((journal.collect(10).calls, journal.waiting()), (expected.to_vec(), 1));
    journal.set_aside(&journal.collect(1).places[0]);
    drop(journal);
    let (journal, recovered) = folder.open(SMALL);
    assert_eq!((journal.collect(10).calls, recovered.estimated), (expected.to_vec(), 0));
}

#[test]
fn a_long_backlog_is_on_the_disk_only_and_bounded() {
    let (folder, routes) = (Folder::new(), routes());
    let (journal, _) = folder.open(Bounds { segments: 8, ..SMALL });
    let mut settled = BTreeSet::new();
    let error = loop {
        let one = call(None, &routes);
        match journal.admit(&one) {
            Ok(slot) => slot.settle(&outcome(0, 1)),
            Err(error) => break error,
        }
        settled.insert(one.id);
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(settled.len() > 8 * 40, "{}", settled.len());
    assert!((8..=9).contains(&folder.files().len()), "the spare is one of them or the next");
    let mapped = || {
        let state = journal.shared.state();
        state.segments.values().filter(|listed| listed.segment.strong_count() > 0).count()
    };
    assert_eq!(mapped(), 1, "only the current file is in memory");
    let mut booked = BTreeSet::new();
    while journal.waiting() > 0 {
        let batch = journal.collect(37);
        assert!(batch.calls.len() <= 37 && mapped() <= 3);
        booked.extend(batch.calls.iter().map(|call| call.id));
        journal.booked(&batch.places);
    }
    assert_eq!(booked, settled);
    journal.shared.remove_done();
    journal.admit(&call(None, &routes)).unwrap().void();
    assert!(journal.is_done());
    let many: Vec<_> = (0..=ROUTES_MAX).map(|_| Arc::clone(&routes[0])).collect();
    for wrong in [&many[..], &[]] {
        assert!(journal.admit(&AdmittedCall { routes: wrong, ..call(None, &routes) }).is_err());
    }
    // The writer removes files as well; once it has ended none is on its way out.
    drop(journal);
    assert!(folder.files().len() <= 2, "{:?}", folder.files());
}

#[test]
fn a_torn_record_is_left_out_and_the_others_are_found() {
    let (folder, routes) = (Folder::new(), routes());
    let (journal, _) = folder.open(SMALL);
    let calls: Vec<_> = (0..6).map(|_| call(None, &routes)).collect();
    let mut places = Vec::new();
    for (n, one) in calls.iter().enumerate() {
        let slot = journal.admit(one).unwrap();
        slot.sent(0);
        places.push(slot.at * 8);
        if n != 4 {
            slot.settle(&outcome(0, 1));
        }
    }
    // Room that was taken by somebody who never wrote into it.
    journal.shared.reserve(&routes, &mut [0; ROUTES_MAX]).unwrap();
    let last = call(None, &routes);
    journal.admit(&last).unwrap().settle(&outcome(0, 1));
    let holder = journal.holder();
    drop(journal);
    let file = folder.files().remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[places[0]] ^= 1; // a head
    bytes[places[1] + 50] ^= 1; // what never changes
    bytes[places[2] + 25 * 8] ^= 1; // figures of an outcome: the call is an estimate
    bytes[places[3] + 8] ^= 1; // a checksum
    std::fs::write(&file, bytes).unwrap();
    std::fs::write(folder.0.join("calls-00000007.journal"), b"short").unwrap();
    let (journal, recovered) = folder.open(SMALL);
    assert_eq!(recovered, Recovered { calls: 4, estimated: 2, holders: vec![holder] });
    let expected = [
        restarted(holder, &calls[2], 0, 0),
        restarted(holder, &calls[4], 0, 0),
        row(holder, &calls[5], &outcome(0, 1)),
        row(holder, &last, &outcome(0, 1)),
    ];
    assert_eq!(journal.collect(10).calls, expected);
}

#[tokio::test]
async fn the_books_are_woken_at_once_for_a_run_and_gather_otherwise() {
    let (folder, routes) = (Folder::new(), routes());
    let (journal, _) = folder.open(Bounds { segments: 64, ..SMALL });
    let settle = |run| {
        let one = AdmittedCall { run, ..call(None, &routes) };
        journal.admit(&one).unwrap().settle(&outcome(0, 1));
    };
    // Nothing else runs on this thread between a settlement and this.
    let woken = || pin!(journal.settled()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
    assert!(!woken(), "nothing is settled");
    settle(None);
    settle(None);
    assert!(!woken(), "more may come");
    journal.settled().await;
    assert!(!woken(), "looked, and nothing new since");
    settle(None);
    settle(Some(RunId::random()));
    assert!(woken(), "a chat waits");
    (0..BATCH_MAX).for_each(|_| settle(None));
    assert!(woken(), "nobody waits for more");
}

#[test]
fn the_books_are_woken_by_a_runtime_that_ends() {
    let (folder, routes) = (Folder::new(), routes());
    let (journal, _) = folder.open(SMALL);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { journal.admit(&call(None, &routes)).unwrap().settle(&outcome(0, 1)) });
    let mut settled = pin!(journal.settled());
    let mut context = Context::from_waker(Waker::noop());
    assert!(settled.as_mut().poll(&mut context).is_pending(), "more may come");
    drop(runtime);
    assert!(settled.poll(&mut context).is_ready());
}

#[test]
fn threads_that_settle_and_books_that_read_lose_nothing_and_see_nothing_twice() {
    const CALLS: usize = 3_000;
    let (folder, routes, bot) = (Folder::new(), routes(), BotId::random());
    let (journal, _) = folder.open(Bounds { segments: 1_000, ..SMALL });
    let mut booked = BTreeMap::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut settled = BTreeMap::new();
                    let mut open = Vec::new();
                    for n in 0..CALLS {
                        let one = call(Some(&bot), &routes);
                        let slot = journal.admit(&one).unwrap();
                        slot.sent(n % 2);
                        match n % 7 {
                            0 => slot.void(),
                            1 => open.push((slot, one)),
                            _ => {
                                let outcome = outcome(n % 2, i64::try_from(n).unwrap());
                                slot.settle(&outcome);
                                settled.insert(one.id, row(journal.holder(), &one, &outcome));
                            }
                        }
                    }
                    for (slot, one) in open {
                        slot.settle(&outcome(0, 1));
                        settled.insert(one.id, row(journal.holder(), &one, &outcome(0, 1)));
                    }
                    settled
                })
            })
            .collect();
        while !threads.iter().all(|thread| thread.is_finished()) || journal.waiting() > 0 {
            let batch = journal.collect(BATCH_MAX);
            journal.booked(&batch.places);
            for call in batch.calls {
                assert!(booked.insert(call.id, call).is_none(), "collected twice");
            }
        }
        let settled: BTreeMap<_, _> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(booked.len(), settled.len());
        assert!(booked == settled);
    });
    assert!(journal.is_done());
    drop(journal);
    assert_eq!(folder.open(SMALL).1.calls, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn any_file_is_read_without_a_panic(garbage in proptest::collection::vec(any::<u8>(), 1..4_000), from in 0usize..6_000) {
        let (folder, routes) = (Folder::new(), routes());
        let (journal, _) = folder.open(SMALL);
        for n in 0..20 {
            let slot = journal.admit(&call(None, &routes)).unwrap();
            slot.sent(0);
            if n % 2 == 0 {
                slot.settle(&outcome(0, n));
            }
        }
        drop(journal);
        let file = folder.files().remove(0);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[from..from + garbage.len()].copy_from_slice(&garbage);
        std::fs::write(&file, bytes).unwrap();
        let (journal, recovered) = folder.open(SMALL);
        prop_assert!(recovered.calls <= 20);
        let found = journal.collect(100).calls.len();
        prop_assert_eq!(found, recovered.calls);
    }
}

/// This thread's time on a processor: other load on the machine doesn't show in it. Linux only, as the figure is.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Under full load the books keep up. The figure that it prints means something in a release build only:
/// `cargo test --release -p molt-ghost -- --nocapture full_load`.
#[test]
fn under_full_load_every_call_is_read_once() {
    const CALLS: u32 = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
    let (folder, routes, bot) = (Folder::new(), routes(), BotId::random());
    for threads in [1, 2] {
        let (journal, _) = Journal::open(&folder.0, at(0)).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let (mut booked, mut reading) = (0, Duration::ZERO);
        let took = std::thread::scope(|scope| {
            let one = || {
                let one = AdmittedCall { id: RequestId(Uuid::from_u128(1)), ..call(Some(&bot), &routes) };
                let began = on_cpu();
                for n in 0..CALLS {
                    let slot = journal.admit(&one).unwrap();
                    slot.sent(0);
                    slot.relayed(i64::from(n));
                    slot.settle(&outcome(0, i64::from(n)));
                }
                on_cpu() - began
            };
            let settling: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            let books = scope.spawn(|| {
                let (mut booked, mut reading) = (0, Duration::ZERO);
                while !done.load(Ordering::Relaxed) || journal.waiting() > 0 {
                    let began = on_cpu();
                    let batch = journal.collect(BATCH_MAX);
                    journal.booked(&batch.places);
                    booked += batch.calls.len();
                    reading += on_cpu() - began;
                }
                (booked, reading)
            });
            let took: Duration = settling.into_iter().map(|thread| thread.join().unwrap()).sum();
            done.store(true, Ordering::Relaxed);
            (booked, reading) = books.join().unwrap();
            took
        });
        assert_eq!(booked, CALLS as usize * threads as usize);
        println!(
            "{threads} threads: {} ns of processor time a call; the books read one in {} ns",
            (took / threads / CALLS).as_nanos(),
            (reading / CALLS / threads).as_nanos()
        );
    }
}
