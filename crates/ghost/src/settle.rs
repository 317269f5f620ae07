//! One open call: journalled when it is admitted, settled exactly once however it ends.
//! Never: an open call that is dropped without a row; the guard settles it as an estimate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use molt_model::usage::Estimate;
use molt_model::{RequestId, TokenUsage};
use molt_store::usage::SettledCall;
use tokio::sync::OwnedSemaphorePermit;

use crate::journal::AdmittedCall;
use crate::{Inner, upstream};

/// How many events of a stream go by between two notes of how far it is.
const NOTE_PIECES: i64 = 64;

/// The guard of one call.
pub(crate) struct OpenCall {
    inner: Arc<Inner>,
    call: AdmittedCall,
    started: Instant,
    first_byte: Option<Duration>,
    /// Tokens of the answer so far, for an estimate.
    output: i64,
    noted: i64,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl OpenCall {
    /// Writes the admission down. An error: it can't be written, so the call must not go out.
    pub(crate) fn open(inner: Arc<Inner>, call: AdmittedCall, permit: OwnedSemaphorePermit) -> std::io::Result<Self> {
        inner.journal.admit(&call)?;
        let (first_byte, output, noted, ended) = (None, 0, 0, false);
        Ok(Self { inner, call, started: Instant::now(), first_byte, output, noted, ended, _permit: permit })
    }

    /// What whoever sends the call notes on the way.
    pub(crate) fn departure(&self) -> Departure {
        Departure { inner: Arc::clone(&self.inner), id: self.call.id }
    }

    pub(crate) fn id(&self) -> RequestId {
        self.call.id
    }

    pub(crate) fn first_byte(&mut self) {
        self.first_byte.get_or_insert_with(|| self.started.elapsed());
    }

    /// How much of the answer there is, as far as it can be told.
    pub(crate) fn relayed(&mut self, output: i64) {
        self.output = output;
        if output - self.noted >= NOTE_PIECES {
            self.noted = output;
            // A note that can't be written only makes a later estimate lower.
            let _ = self.inner.journal.relayed(self.call.id, output);
        }
    }

    /// Settles with the provider's figures, or as an estimate with its reason. Only the first time counts.
    pub(crate) fn settle(&mut self, usage: Result<TokenUsage, Estimate>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (usage, estimate) = match usage {
            Ok(usage) => (usage, None),
            Err(why) => (self.estimated(), Some(why)),
        };
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let row = SettledCall {
            first_byte_ms: self.first_byte.map(millis),
            duration_ms: millis(self.started.elapsed()),
            ..self.call.settled(usage, estimate)
        };
        if let Err(error) = self.inner.journal.settle(&row) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                request.id = %row.id,
                "a call's usage can't be written to the journal; it is only in memory until it is in the books"
            );
        }
        self.inner.pending.push(row);
    }

    /// No provider took the call: nothing is charged and no row is written.
    pub(crate) fn void(mut self) {
        self.ended = true;
        if let Err(error) = self.inner.journal.void(self.call.id) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                request.id = %self.call.id,
                "a refused call can't be struck from the journal; a restart would book it as an estimate"
            );
        }
    }

    fn estimated(&self) -> TokenUsage {
        TokenUsage { input: self.call.input_tokens_estimate, output: self.output, ..TokenUsage::default() }
    }
}

/// Notes when a call leaves and when an attempt came to nothing, so that a restart charges for nothing that never left.
#[derive(Clone)]
pub(crate) struct Departure {
    inner: Arc<Inner>,
    id: RequestId,
}

impl upstream::Departure for Departure {
    fn leaves(&self) -> std::io::Result<()> {
        self.inner.journal.sent(self.id)
    }

    fn returned(&self) {
        // A note that can't be written only leaves an estimate where there could be none.
        let _ = self.inner.journal.returned(self.id);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.settle(Err(Estimate::ProxyRestarted));
    }
}
