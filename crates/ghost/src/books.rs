//! Carries settled calls from the journal into the books, in batches, and again until Postgres took them.
//! Never: drop a call, or keep any of them in memory. What can't be written now is written later, by this process or the
//! next.

use std::sync::Arc;
use std::time::Duration;

use molt_model::{Clock, HolderId};
use molt_store::usage::SettledCall;
use molt_store::{Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::journal::{BATCH_MAX, Batch, Journal, Recovered};

const RETRY_FIRST: Duration = Duration::from_millis(100);
/// After an outage the books are up to date again within seconds.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often this process says that it lives. An operator who wonders whether a holder is lost looks for minutes.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Heartbeats between two tries of what the books refused: what is wrong may have been mended meanwhile.
const BEATS_BETWEEN_TRIES: u64 = 60;

/// The constraint that refuses a second row for one call.
const BOOKED_ALREADY: &str = "usage_logs_pkey";

/// The way into the books. It ends when this is dropped; the journal keeps what is left.
pub(crate) struct Books {
    journal: Arc<Journal>,
    store: Store,
    clock: Arc<dyn Clock>,
    booked: watch::Receiver<u64>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _guard: DropGuard,
}

struct Task {
    journal: Arc<Journal>,
    store: Store,
    clock: Arc<dyn Clock>,
    booked: watch::Sender<u64>,
    /// Earlier processes whose leases return once their calls are booked.
    earlier: Vec<HolderId>,
}

impl Books {
    /// Begins to write. Needs a tokio runtime, and stays on it.
    pub(crate) fn start(store: Store, clock: Arc<dyn Clock>, journal: Arc<Journal>, recovered: Recovered) -> Self {
        if recovered.calls > 0 {
            tracing::info!(
                calls = recovered.calls,
                estimated = recovered.estimated,
                "calls of an earlier process go into the books now"
            );
        }
        let (sender, booked) = watch::channel(0);
        let stop = CancellationToken::new();
        let task = Task {
            journal: Arc::clone(&journal),
            store: store.clone(),
            clock: Arc::clone(&clock),
            booked: sender,
            earlier: recovered.holders,
        };
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(task.run()));
        let beats = beat(store.clone(), Arc::clone(&clock), Arc::clone(&journal));
        tasks.spawn(stop.clone().run_until_cancelled_owned(beats));
        tasks.close();
        let guard = stop.clone().drop_guard();
        Self { journal, store, clock, booked, stop, tasks, _guard: guard }
    }

    /// How many calls went into the books so far; changes with each batch.
    pub(crate) fn booked(&self) -> watch::Receiver<u64> {
        self.booked.clone()
    }

    /// Returns when no settled call waits for the books any more. What the books refused doesn't count.
    pub(crate) async fn empty(&self) {
        let mut booked = self.booked();
        while self.journal.waiting() > 0 && booked.changed().await.is_ok() {}
    }

    /// Stops writing. With nothing left to book, all that this process has on lease returns; otherwise its next start sees
    /// to it. Nothing may be leased or admitted any more.
    pub(crate) async fn close(&self) {
        self.stop().await;
        if !self.journal.is_done() {
            tracing::warn!("calls are left in the journal; the next start writes them into the books");
            return;
        }
        if let Err(error) = release(&self.store, self.clock.as_ref(), self.journal.holder()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "leases of budgets can't be given back just now; the next start does it"
            );
        }
    }
}

impl Books {
    /// A batch in the middle is written whole or not at all, and again by the next start.
    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Task {
    async fn run(mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.write_all().await {
                Ok(()) => {
                    pause = RETRY_FIRST;
                    self.journal.settled().await;
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        calls = self.journal.waiting(),
                        retry_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                        "calls can't be written into the books just now; they stay in the journal"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Until so little waits that more may come first: a batch costs the database the same few steps, whatever is in it.
    async fn write_all(&mut self) -> Result<(), StoreError> {
        loop {
            let batch = self.journal.collect(BATCH_MAX);
            if !batch.calls.is_empty() {
                self.write(&batch).await?;
            }
            if batch.calls.len() < BATCH_MAX {
                break;
            }
        }
        if !self.earlier.is_empty() {
            for holder in self.journal.holders_done() {
                release(&self.store, self.clock.as_ref(), holder).await?;
                self.journal.holder_released(holder);
                self.earlier.retain(|earlier| *earlier != holder);
            }
        }
        Ok(())
    }

    /// All of them in one transaction; where a row is refused, in halves, until it stands alone and is set aside.
    async fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut parts = vec![(0, batch.calls.len())];
        while let Some((from, to)) = parts.pop() {
            let part = from..to;
            match self.record(&batch.calls[part.clone()]).await {
                Ok(()) => self.journal.booked(&batch.places[part.clone()]),
                Err(StoreError::Constraint { .. }) if part.len() > 1 => {
                    let middle = from.midpoint(to);
                    parts.extend([(middle, to), (from, middle)]);
                    continue;
                }
                Err(StoreError::Constraint { constraint }) => {
                    let call = &batch.calls[from];
                    tracing::error!(request.id = %call.id, user.id = %call.user, constraint, "the books refuse a call");
                    self.journal.set_aside(&batch.places[from]);
                }
                Err(error) => return Err(error),
            }
            self.booked.send_modify(|booked| *booked += part.len() as u64);
        }
        Ok(())
    }

    /// Only after a crash or a lost answer is one of them there already.
    async fn record(&self, calls: &[SettledCall]) -> Result<(), StoreError> {
        let mut tx = self.store.system().await?;
        match tx.record_new_calls(calls, self.clock.now()).await {
            Ok(_) => return tx.commit().await,
            Err(StoreError::Constraint { constraint }) if constraint == BOOKED_ALREADY => drop(tx),
            Err(error) => return Err(error),
        }
        let mut tx = self.store.system().await?;
        tx.record_calls(calls, self.clock.now()).await?;
        tx.commit().await
    }
}

async fn release(store: &Store, clock: &dyn Clock, holder: HolderId) -> Result<(), StoreError> {
    let mut tx = store.system().await?;
    tx.release_holder(holder, clock.now()).await?;
    tx.commit().await
}

/// Says that this process lives, and now and then has what the books refused tried again.
async fn beat(store: Store, clock: Arc<dyn Clock>, journal: Arc<Journal>) {
    let mut beats = 0u64;
    loop {
        match seen(&store, clock.as_ref(), journal.holder()).await {
            Ok(true) => {}
            Ok(false) => tracing::error!(
                holder = %journal.holder(),
                "this proxy was declared lost and its leases given to others: restart it"
            ),
            // The books say so already, or nothing is going on.
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "no heartbeat into the database"),
        }
        tokio::time::sleep(HEARTBEAT).await;
        beats += 1;
        if beats.is_multiple_of(BEATS_BETWEEN_TRIES) {
            journal.bring_back();
        }
    }
}

async fn seen(store: &Store, clock: &dyn Clock, holder: HolderId) -> Result<bool, StoreError> {
    let mut tx = store.system().await?;
    let held = tx.holder_seen(holder, clock.now()).await?;
    tx.commit().await?;
    Ok(held)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use molt_model::{KeyId, Nanos, Price, PriceVersion, RequestId, SystemClock, TokenUsage, UserId};
    use molt_store::testing::{TestDatabase, database};
    use uuid::Uuid;

    use super::*;
    use crate::journal::{AdmittedCall, Outcome, Route};

    struct Proxy {
        database: TestDatabase,
        folder: PathBuf,
        user: UserId,
    }

    impl Proxy {
        async fn new() -> Self {
            let (database, user) = (database().await, UserId::random());
            let values = format!("('{user}', 'test', '{user}', '{user}@example.com')");
            database.execute(&format!("insert into molt.users (id, issuer, subject, email) values {values}")).await;
            database.execute("insert into molt.price_books (version, prices) values ('v', '{}')").await;
            Self { database, folder: std::env::temp_dir().join(format!("molt-books-{}", Uuid::new_v4())), user }
        }

        fn start(&self) -> (Arc<Journal>, Books) {
            let (journal, recovered) = Journal::open(&self.folder, SystemClock.now()).unwrap();
            let journal = Arc::new(journal);
            let store = self.database.store.clone();
            let books = Books::start(store, Arc::new(SystemClock), Arc::clone(&journal), recovered);
            (journal, books)
        }

        fn call(&self, journal: &Journal, price_version: &str) -> RequestId {
            let route = Route {
                provider: "p".into(),
                model: "p/m".into(),
                surface: "chat".into(),
                price: Price::default(),
                price_version: PriceVersion(price_version.to_owned()),
            };
            let call = AdmittedCall {
                id: RequestId::random(),
                user: self.user,
                book_key: Uuid::new_v4(),
                bot: None,
                key: KeyId::random(),
                run: None,
                routes: &[Arc::new(route)],
                period_start: "2026-11-01T00:00:00Z".parse().unwrap(),
                input_tokens_estimate: 1,
                reserved: Nanos(5),
                at: SystemClock.now(),
            };
            let outcome = Outcome {
                route: 0,
                usage: TokenUsage::default(),
                charged: Nanos(2),
                operator: Nanos::ZERO,
                estimate: None,
                first_byte_ms: None,
                duration_ms: 1,
            };
            journal.admit(&call).unwrap().settle(&outcome);
            call.id
        }

        async fn spent(&self) -> i64 {
            self.database.count("select settled_nanos from molt.budgets where scope = 'user'").await
        }

        async fn unreleased(&self) -> i64 {
            self.database.count("select count(*) from molt.holders where released_at is null").await
        }
    }

    impl Drop for Proxy {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[tokio::test]
    async fn a_call_that_the_books_refuse_keeps_nobody_waiting_and_is_not_lost() {
        let proxy = Proxy::new().await;
        let (journal, books) = proxy.start();
        let mut wrong = Vec::new();
        for n in 0..200 {
            let unknown = n == 0 || n == 77 || n == 78 || n == 199;
            let id = proxy.call(&journal, if unknown { "later" } else { "v" });
            wrong.extend(unknown.then_some(id));
        }
        books.empty().await;
        assert_eq!(proxy.spent().await, 196 * 2);
        books.close().await;
        assert_eq!(proxy.unreleased().await, 1, "what isn't booked is still on lease");
        drop((journal, books));

        let (journal, books) = proxy.start();
        books.empty().await;
        assert_eq!(proxy.spent().await, 196 * 2);
        proxy.database.execute("insert into molt.price_books (version, prices) values ('later', '{}')").await;
        journal.bring_back();
        books.empty().await;
        assert_eq!(proxy.spent().await, 200 * 2);
        for id in wrong {
            let row = format!("select count(*) from molt.usage_logs where id = '{id}'");
            assert_eq!(proxy.database.count(&row).await, 1);
        }
        assert!(*books.booked().borrow() >= 4);
    }

    #[tokio::test]
    async fn a_call_whose_booking_was_not_answered_is_counted_once() {
        let proxy = Proxy::new().await;
        let (journal, recovered) = Journal::open(&proxy.folder, SystemClock.now()).unwrap();
        let journal = Arc::new(journal);
        for _ in 0..5 {
            proxy.call(&journal, "v");
        }
        let batch = journal.collect(BATCH_MAX);
        let mut tx = proxy.database.store.system().await.unwrap();
        assert_eq!(tx.record_calls(&batch.calls[1..3], SystemClock.now()).await.unwrap().len(), 2);
        tx.commit().await.unwrap();
        assert_eq!(proxy.spent().await, 2 * 2);
        let books = Books::start(proxy.database.store.clone(), Arc::new(SystemClock), Arc::clone(&journal), recovered);
        books.empty().await;
        assert_eq!(proxy.spent().await, 5 * 2);
        assert_eq!(proxy.database.count("select count(*) from molt.usage_logs").await, 5);
        books.close().await;
        assert_eq!(proxy.unreleased().await, 0, "nothing is left in the journal");
    }

    #[tokio::test]
    async fn leases_return_when_their_holders_calls_are_booked() {
        let proxy = Proxy::new().await;
        let (journal, books) = proxy.start();
        proxy.call(&journal, "v");
        books.empty().await;
        assert_eq!(proxy.spent().await, 2);
        books.close().await;
        assert_eq!(proxy.unreleased().await, 0, "a polite end");
        proxy.call(&journal, "v");
        drop((journal, books));

        let (journal, books) = proxy.start();
        let mut booked = books.booked();
        booked.wait_for(|booked| *booked == 1).await.unwrap();
        assert_eq!(proxy.spent().await, 4);
        // Killed with nothing to book: the next start gives back all the same.
        books.stop().await;
        drop((journal, books));
        let (journal, books) = proxy.start();
        tokio::time::timeout(Duration::from_secs(10), async {
            while !journal.holders_done().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("earlier holders are released without a call to book");
        books.close().await;
        assert_eq!(proxy.unreleased().await, 0);
    }
}
