//! One open call: journalled when it is admitted, settled exactly once however it ends.
//! Never: an open call that is dropped without a row; the guard settles it as an estimate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use molt_model::usage::Estimate;
use molt_model::{Nanos, RequestId, TokenUsage};
use tokio::sync::OwnedSemaphorePermit;

use crate::journal::{AdmittedCall, Journal, Outcome, Route, Slot};

/// How many events of a stream go by between two notes of how far it is.
const NOTE_PIECES: i64 = 64;

/// The guard of one call.
pub(crate) struct OpenCall {
    id: RequestId,
    route: Arc<Route>,
    input_tokens_estimate: i64,
    departure: Departure,
    started: Instant,
    first_byte: Option<Duration>,
    /// Tokens of the answer so far, for an estimate.
    output: i64,
    noted: i64,
    _permit: OwnedSemaphorePermit,
}

impl OpenCall {
    /// Writes the admission down. An error: it can't be written, so the call must not go out.
    pub(crate) fn open(
        journal: &Journal,
        call: &AdmittedCall<'_>,
        permit: OwnedSemaphorePermit,
    ) -> std::io::Result<Self> {
        let slot = journal.admit(call)?;
        Ok(Self {
            id: call.id,
            route: Arc::clone(&call.routes[0]),
            input_tokens_estimate: call.input_tokens_estimate,
            departure: Departure { slot: Arc::new(Mutex::new(Some(slot))) },
            started: Instant::now(),
            first_byte: None,
            output: 0,
            noted: 0,
            _permit: permit,
        })
    }

    /// What whoever sends the call notes on the way.
    pub(crate) fn departure(&self) -> Departure {
        self.departure.clone()
    }

    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    pub(crate) fn first_byte(&mut self) {
        self.first_byte.get_or_insert_with(|| self.started.elapsed());
    }

    /// How much of the answer there is, as far as it can be told.
    pub(crate) fn relayed(&mut self, output: i64) {
        self.output = output;
        if output - self.noted >= NOTE_PIECES {
            self.noted = output;
            self.departure.note(|slot| slot.relayed(output));
        }
    }

    /// Settles with the provider's figures, or as an estimate with its reason. Only the first time counts.
    pub(crate) fn settle(&mut self, usage: Result<TokenUsage, Estimate>) {
        let Some(slot) = self.departure.take() else { return };
        let (usage, estimate) = match usage {
            Ok(usage) => (usage, None),
            Err(why) => (self.estimated(), Some(why)),
        };
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        slot.settle(&Outcome {
            route: 0,
            usage,
            charged: self.route.price.charge(&usage),
            operator: Nanos::ZERO,
            estimate,
            first_byte_ms: self.first_byte.map(millis),
            duration_ms: millis(self.started.elapsed()),
        });
    }

    /// No provider took the call: nothing is charged and no row is written.
    pub(crate) fn void(self) {
        if let Some(slot) = self.departure.take() {
            slot.void();
        }
    }

    fn estimated(&self) -> TokenUsage {
        TokenUsage { input: self.input_tokens_estimate, output: self.output, ..TokenUsage::default() }
    }
}

/// Notes when a call leaves and when an attempt came to nothing, so that a restart charges for nothing that never left.
#[derive(Clone)]
pub(crate) struct Departure {
    /// Empty once the call is settled or void.
    slot: Arc<Mutex<Option<Slot>>>,
}

impl Departure {
    /// The next thing to leave is the call.
    pub(crate) fn leaves(&self) -> std::io::Result<()> {
        self.note(|slot| slot.sent(0));
        Ok(())
    }

    /// The provider didn't take it.
    pub(crate) fn returned(&self) {
        self.note(Slot::returned);
    }

    fn note(&self, note: impl FnOnce(&Slot)) {
        if let Some(slot) = self.slot.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            note(slot);
        }
    }

    fn take(&self) -> Option<Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.settle(Err(Estimate::ProxyRestarted));
    }
}
