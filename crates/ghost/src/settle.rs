//! One open call: journalled when it is admitted, settled exactly once however it ends.
//! Never: an open call that is dropped without a settlement; the guard settles it as an estimate.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use molt_model::usage::Estimate;
use molt_model::{RequestId, RunId, Time, TokenUsage};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::Inner;
use crate::admission::limits::Place;
use crate::admission::purse::Reservation;
use crate::answer::Refusal;
use crate::journal::{AdmittedCall, Outcome, Route, Slot};
use crate::metrics::{Ended, Series};
use crate::routes::Known;
use crate::trace::{CallSpan, Settled};
use crate::upstream::Departure;

/// The guard of one call.
pub(crate) struct OpenCall {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: RequestId,
    /// Taken when it is settled. A free call has none.
    record: Option<(Slot, Reservation)>,
    place: Place,
    /// The models that may answer, first choice first, and which of them does.
    routes: Vec<Arc<Route>>,
    /// What is counted of each of them.
    series: Vec<Arc<Series>>,
    answers: usize,
    input_tokens_estimate: i64,
    started: Instant,
    first_byte: Option<Duration>,
    /// Tokens of the answer so far, for an estimate.
    pieces: i64,
    /// What the provider reported before the end, for an estimate: Anthropic counts the input first.
    so_far: Option<TokenUsage>,
    /// Taken when it ends.
    pub(crate) span: Option<Box<CallSpan>>,
    _permit: OwnedSemaphorePermit,
}

/// What was granted before a call may open.
pub(crate) struct Granted {
    pub(crate) reservation: Reservation,
    pub(crate) place: Place,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The run that the caller says it works for: the trace id of `traceparent`. A label, never the basis of a bill.
pub(crate) fn run_label(headers: &HeaderMap) -> Option<RunId> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = value.split('-');
    let (_version, trace) = (parts.next()?, parts.next()?);
    let plain = trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| Uuid::parse_str(trace).ok().map(RunId)).flatten()
}

/// What is random in an id.
type Salt = [u8; 10];

/// Random bytes of the operating system's for the ids of so many calls: asking it each time is a system call.
const IDS_AT_ONCE: usize = 32;

thread_local! {
    static SALTS: RefCell<Vec<Salt>> = const { RefCell::new(Vec::new()) };
}

/// An id that begins with the time, so that the books' index grows at its end and not all over: in a table of millions
/// each row would otherwise touch a page of its own.
fn fresh_id(now: Time) -> RequestId {
    SALTS.with_borrow_mut(|salts| {
        if salts.is_empty() {
            let mut bytes = [Salt::default(); IDS_AT_ONCE];
            getrandom::fill(bytes.as_flattened_mut()).expect("the operating system gives random bytes");
            salts.extend(bytes);
        }
        let salt = salts.pop().expect("there are some now");
        let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        RequestId(uuid::Builder::from_unix_timestamp_millis(millis, &salt).into_uuid())
    })
}

impl OpenCall {
    /// Writes the admission down. An error: it can't be written, so the call must not go out.
    /// `is_free`: it costs nothing and isn't in the books.
    pub(crate) fn open(
        inner: &Arc<Inner>,
        headers: &HeaderMap,
        granted: Granted,
        routes: Vec<Known>,
        (input_tokens_estimate, is_free): (i64, bool),
        started: Instant,
    ) -> io::Result<Self> {
        let Granted { reservation, place, permit } = granted;
        let (routes, series): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
        let now = inner.clock.now();
        let id = fresh_id(now);
        let entry = reservation.entry();
        let call = AdmittedCall {
            id,
            user: entry.user,
            book_key: entry.book_key,
            bot: entry.bot.as_ref(),
            key: entry.key,
            run: run_label(headers),
            routes: &routes,
            period_start: entry.period_start,
            input_tokens_estimate,
            reserved: reservation.amount(),
            at: entry.at(now),
        };
        let record = if is_free { None } else { Some((inner.journal.admit(&call)?, reservation)) };
        Ok(Self {
            inner: Arc::clone(inner),
            id,
            record,
            place,
            routes,
            series,
            answers: 0,
            input_tokens_estimate,
            started,
            first_byte: None,
            pieces: 0,
            so_far: None,
            span: None,
            _permit: permit,
        })
    }

    pub(crate) fn tasks(&self) -> TaskTracker {
        self.inner.tasks.clone()
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.record.is_none()
    }

    /// The models that may answer, first choice first.
    pub(crate) fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// What whoever sends the call notes on the way.
    pub(crate) fn departure(&self) -> Notes<'_> {
        Notes { slot: self.record.as_ref().map(|(slot, _)| slot), route: AtomicUsize::new(0) }
    }

    /// The call goes out now. `waited`: for the caller's own bytes.
    pub(crate) fn goes_out(&self, waited: Duration) {
        self.series[0].left(self.started.elapsed().saturating_sub(waited));
    }

    /// The answer has begun, and comes from this model of the list.
    pub(crate) fn answered_by(&mut self, route: usize) {
        self.answers = route;
        let first_byte = self.started.elapsed();
        self.first_byte = Some(first_byte);
        self.series[route].answered(first_byte, route > 0);
        if self.record.is_none() {
            // A free call, which nobody settles.
            self.series[route].ended(Ended::Whole);
        }
    }

    /// How much of the answer there is, as far as it can be told. Before these bytes are given on.
    pub(crate) fn relayed(&mut self, pieces: i64) {
        if pieces == self.pieces {
            return;
        }
        self.pieces = pieces;
        if let Some((slot, _)) = &self.record {
            slot.relayed(pieces);
        }
    }

    pub(crate) fn reported_so_far(&mut self, usage: Option<TokenUsage>) {
        self.so_far = usage;
    }

    /// Settles with the provider's figures, or as an estimate with its reason. Only the first time counts.
    pub(crate) fn settle(&mut self, usage: Result<TokenUsage, Estimate>) {
        let Some((slot, reservation)) = self.record.take() else { return };
        let (usage, estimate) = match usage {
            Ok(usage) => (usage, None),
            Err(why) => (self.estimated(), Some(why)),
        };
        let mut cost = self.routes[self.answers].price.charge(&usage);
        if estimate.is_some() {
            // Nobody said what it was, so it is at most what was set aside.
            cost = cost.min(reservation.amount());
        }
        let charge = reservation.settle(cost);
        let duration = self.started.elapsed();
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        slot.settle(&Outcome {
            route: self.answers,
            usage,
            charged: charge.charged,
            operator: charge.operator,
            estimate,
            first_byte_ms: self.first_byte.map(millis),
            duration_ms: millis(duration),
        });
        let ended = estimate.map_or(Ended::Whole, Ended::Estimated);
        self.series[self.answers].settled(ended, &usage, charge, duration);
        if let Some(span) = self.span.take() {
            let (route, first_byte) = (&self.routes[self.answers], self.first_byte);
            span.settled(&Settled { route, usage: &usage, estimate, charge, first_byte, duration });
        }
        self.inner.admission.correct(&mut self.place, usage.input.saturating_add(usage.output));
    }

    /// No provider took the call, and this is what its caller is told.
    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        if let Some(span) = &mut self.span {
            span.refused(refusal);
        }
        self.void();
    }

    /// No provider took the call: nothing is charged and no row is written.
    fn void(&mut self) {
        if let Some((slot, _reservation)) = self.record.take() {
            slot.void();
        }
        self.series[0].ended(Ended::Unanswered);
    }

    fn estimated(&self) -> TokenUsage {
        let guess = TokenUsage { input: self.input_tokens_estimate, ..TokenUsage::default() };
        let known = self.so_far.unwrap_or(guess);
        TokenUsage { output: known.output.max(self.pieces), ..known }
    }
}

impl Drop for OpenCall {
    /// Whoever held it was dropped: the caller is gone, or the proxy stops.
    fn drop(&mut self) {
        let left = self.record.as_ref().map(|(slot, _)| slot.has_left());
        match left {
            Some(false) => self.void(),
            Some(true) => {
                let stopping = self.inner.stopping.is_cancelled();
                self.settle(Err(if stopping { Estimate::ProxyRestarted } else { Estimate::HungUp }));
            }
            None => {}
        }
        if let Some(span) = self.span.take() {
            span.ended(&self.routes[self.answers]);
        }
    }
}

/// Notes when a call leaves and when an attempt came to nothing, so that a restart charges for nothing that never left.
pub(crate) struct Notes<'a> {
    slot: Option<&'a Slot>,
    route: AtomicUsize,
}

impl Departure for Notes<'_> {
    fn tries(&self, candidate: usize) {
        self.route.store(candidate, Ordering::Relaxed);
    }

    fn leaves(&self) -> io::Result<()> {
        if let Some(slot) = self.slot {
            slot.sent(self.route.load(Ordering::Relaxed));
        }
        Ok(())
    }

    fn returned(&self) {
        if let Some(slot) = self.slot {
            slot.returned();
        }
    }
}
