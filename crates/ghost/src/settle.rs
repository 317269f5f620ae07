//! One open call: journalled when it is admitted, settled exactly once however it ends.
//! Never: an open call that is dropped without a settlement; the guard settles it as an estimate.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use molt_model::usage::Estimate;
use molt_model::{Nanos, RequestId, TokenUsage};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Inner;
use crate::admission::limits::Place;
use crate::admission::purse::Reservation;
use crate::journal::{Outcome, Priced, Slot};
use crate::upstream::Departure;

/// The guard of one call.
pub(crate) struct OpenCall {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: RequestId,
    pub(crate) slot: Arc<Slot>,
    /// Taken when it is settled.
    pub(crate) reservation: Option<Reservation>,
    pub(crate) place: Place,
    /// The models that may answer, first choice first, and which of them does.
    pub(crate) models: Vec<Priced>,
    pub(crate) answers: usize,
    pub(crate) input_tokens_estimate: i64,
    pub(crate) started: Instant,
    pub(crate) first_byte: Option<Duration>,
    /// Tokens of the answer so far, for an estimate.
    pub(crate) pieces: i64,
}

impl OpenCall {
    pub(crate) fn tasks(&self) -> TaskTracker {
        self.inner.tasks.clone()
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.reservation.is_none()
    }

    /// What whoever sends the call notes on the way.
    pub(crate) fn departure(&self) -> Notes {
        Notes(Arc::clone(&self.slot))
    }

    /// The answer has begun, and comes from this model of the list.
    pub(crate) fn answered_by(&mut self, model: usize) {
        self.answers = model;
        self.first_byte = Some(self.started.elapsed());
    }

    /// How much of the answer there is, as far as it can be told. Before these bytes are given on.
    pub(crate) fn relayed(&mut self, pieces: i64) {
        if pieces != self.pieces {
            self.pieces = pieces;
            self.slot.relayed(pieces);
        }
    }

    /// Settles with the provider's figures, or as an estimate with its reason. Only the first time counts.
    pub(crate) fn settle(&mut self, usage: Result<TokenUsage, Estimate>) {
        let Some(reservation) = self.reservation.take() else { return };
        let (usage, estimate) = match usage {
            Ok(usage) => (usage, None),
            Err(why) => (self.estimated(), Some(why)),
        };
        let model = &self.models[self.answers];
        let reserved = reservation.amount();
        let mut cost = model.price.charge(&usage);
        if estimate.is_some() {
            // Nobody said what it was, so it is at most what was set aside.
            cost = cost.min(reserved);
        }
        let charge = reservation.settle(cost);
        let outcome = Outcome {
            usage,
            estimate,
            charged: charge.charged,
            operator: charge.operator,
            model: self.answers,
            first_byte: self.first_byte,
            duration: self.started.elapsed(),
        };
        self.inner.admission.correct(&mut self.place, usage.input.saturating_add(usage.output));
        if let Err(error) = self.slot.settle(&outcome) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                request.id = %self.id,
                "a call's usage can't be written to the journal"
            );
        }
        self.inner.books.wake(&self.slot);
    }

    /// No provider took the call: nothing is charged and no row is written.
    pub(crate) fn void(&mut self) {
        if self.reservation.take().is_some() {
            self.slot.void();
        }
    }

    fn estimated(&self) -> TokenUsage {
        TokenUsage { input: self.input_tokens_estimate, output: self.pieces, ..TokenUsage::default() }
    }
}

impl Drop for OpenCall {
    /// Whoever held it was dropped: the caller is gone, or the proxy stops.
    fn drop(&mut self) {
        if self.is_settled() {
            return;
        }
        if !self.slot.has_left() {
            return self.void();
        }
        let stopping = self.inner.stopping.is_cancelled();
        self.settle(Err(if stopping { Estimate::ProxyRestarted } else { Estimate::HungUp }));
    }
}

/// Notes when a call leaves and when an attempt came to nothing, so that a restart charges for nothing that never left.
pub(crate) struct Notes(Arc<Slot>);

impl Departure for Notes {
    fn leaves(&self) -> io::Result<()> {
        self.0.sent();
        Ok(())
    }

    fn returned(&self) {
        self.0.returned();
    }
}
