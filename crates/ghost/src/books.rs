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

use crate::journal::{BATCH_MAX, Batch, Journal, Recovered};

/// What settles within so long goes into the books together, but for calls of a run: a chat waits for those.
const GATHER: Duration = Duration::from_millis(50);
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// After an outage the books are up to date again within seconds.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often this process says that it lives. An operator who wonders whether a holder is lost looks for minutes.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Heartbeats between two tries of what the books refused: what is wrong may have been mended meanwhile.
const BEATS_BETWEEN_TRIES: u64 = 60;

/// The way into the books. It ends when this is dropped; the journal keeps what is left.
pub(crate) struct Books {
    journal: Arc<Journal>,
    store: Store,
    clock: Arc<dyn Clock>,
    booked: watch::Receiver<u64>,
    stop: CancellationToken,
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
        tokio::spawn(stop.clone().run_until_cancelled_owned(task.run()));
        let beats = beat(store.clone(), Arc::clone(&clock), Arc::clone(&journal));
        tokio::spawn(stop.clone().run_until_cancelled_owned(beats));
        let guard = stop.clone().drop_guard();
        Self { journal, store, clock, booked, stop, _guard: guard }
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
        self.stop.cancel();
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

impl Task {
    async fn run(mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.write_all().await {
                Ok(()) => {
                    pause = RETRY_FIRST;
                    self.journal.settled(GATHER).await;
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

    /// Until nothing waits.
    async fn write_all(&mut self) -> Result<(), StoreError> {
        loop {
            let batch = self.journal.collect(BATCH_MAX);
            if batch.calls.is_empty() {
                break;
            }
            self.write(&batch).await?;
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

    async fn record(&self, calls: &[SettledCall]) -> Result<(), StoreError> {
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
