//! Carries settled calls from the journal into the books, as soon as there is one, and again until Postgres took it.
//! Never: drop a call. What can't be written now is written later, by this process or the next.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use molt_store::StoreError;
use molt_store::usage::SettledCall;
use tokio::sync::Notify;

use crate::Inner;

/// Rows in one transaction. A call alone is written alone; a backlog after an outage goes in larger steps.
const BATCH_MAX: usize = 64;
/// Calls that wait for the books. Beyond it new calls are refused, so that an outage can't fill the memory.
const PENDING_MAX: usize = 10_000;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The calls that aren't in the books yet. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pending(Arc<Queue>);

struct Queue {
    calls: Mutex<State>,
    more: Notify,
    emptied: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<SettledCall>,
    /// Taken by the writer and not yet in the books.
    in_hand: usize,
    stopped: bool,
}

impl Pending {
    pub(crate) fn new(left: Vec<SettledCall>) -> Self {
        let state = State { waiting: left.into(), ..State::default() };
        Self(Arc::new(Queue { calls: Mutex::new(state), more: Notify::new(), emptied: Notify::new() }))
    }

    pub(crate) fn push(&self, call: SettledCall) {
        self.state().waiting.push_back(call);
        self.0.more.notify_one();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.state().waiting.len() >= PENDING_MAX
    }

    /// Returns when every call is in the books.
    pub(crate) async fn empty(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            {
                let state = self.state();
                if state.waiting.is_empty() && state.in_hand == 0 {
                    return;
                }
            }
            emptied.await;
        }
    }

    pub(crate) fn stop(&self) {
        self.state().stopped = true;
        self.0.more.notify_one();
    }

    /// The next calls of one bot of one person, oldest first; `None`: stopped.
    async fn take(&self) -> Option<Vec<SettledCall>> {
        loop {
            {
                let mut state = self.state();
                if state.stopped {
                    return None;
                }
                if let Some(first) = state.waiting.front() {
                    let whose = (first.user, first.bot.clone());
                    let same = |call: &SettledCall| (call.user, &call.bot) == (whose.0, &whose.1);
                    let count = state.waiting.iter().take(BATCH_MAX).take_while(|call| same(call)).count();
                    state.in_hand = count;
                    return Some(state.waiting.drain(..count).collect());
                }
            }
            self.0.more.notified().await;
        }
    }

    fn put_down(&self, back: Vec<SettledCall>) {
        let mut state = self.state();
        state.in_hand = 0;
        for call in back.into_iter().rev() {
            state.waiting.push_front(call);
        }
        if state.waiting.is_empty() {
            self.0.emptied.notify_waiters();
        }
    }

    /// One call that Postgres refuses must not keep the others waiting.
    fn put_last(&self, calls: Vec<SettledCall>) {
        let mut state = self.state();
        state.in_hand = 0;
        state.waiting.extend(calls);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until stopped, or until the proxy is gone.
pub(crate) async fn run(inner: Weak<Inner>, pending: Pending) {
    let mut pause = RETRY_FIRST;
    while let Some(calls) = pending.take().await {
        let Some(inner) = inner.upgrade() else { return };
        let Err(refused) = write(&inner, &pending, calls).await else {
            pause = RETRY_FIRST;
            continue;
        };
        tracing::warn!(
            error = &refused as &dyn std::error::Error,
            retry_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "calls can't be written into the books just now; they stay in the journal"
        );
        drop(inner);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// All of them in one transaction; where something else than an outage refuses that, one by one.
async fn write(inner: &Inner, pending: &Pending, calls: Vec<SettledCall>) -> Result<(), StoreError> {
    match record(inner, &calls).await {
        Ok(()) => {
            inner.journal.booked(calls.iter().map(|call| call.id));
            pending.put_down(Vec::new());
            Ok(())
        }
        Err(error @ StoreError::Unavailable(_)) => {
            pending.put_down(calls);
            Err(error)
        }
        Err(error) => {
            let mut refused = Vec::new();
            let mut last = error;
            for call in calls {
                match record(inner, std::slice::from_ref(&call)).await {
                    Ok(()) => inner.journal.booked([call.id].into_iter()),
                    Err(error) => {
                        last = error;
                        refused.push(call);
                    }
                }
            }
            if refused.is_empty() {
                pending.put_down(refused);
                return Ok(());
            }
            pending.put_last(refused);
            Err(last)
        }
    }
}

async fn record(inner: &Inner, calls: &[SettledCall]) -> Result<(), StoreError> {
    let now = inner.clock.now();
    let mut tx = inner.store.system().await?;
    tx.record_calls(calls, now).await?;
    tx.commit().await
}
