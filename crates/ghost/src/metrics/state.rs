//! What is not counted but is so: calls under way, breakers, keys, the journal, leases. Asked for at each look.
//! Never: a lock held while text is written, or anything that keeps a stopped proxy alive.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::Semaphore;

use crate::CALLS_AT_ONCE_MAX;
use crate::admission::tally::LeaseTally;
use crate::egress;
use crate::journal::Journal;
use crate::trace::Counts;
use crate::upstream::{Health, Upstreams};

/// The parts of the proxy that are asked.
pub(crate) struct State {
    pub(crate) upstreams: Upstreams,
    pub(crate) journal: Arc<Journal>,
    pub(crate) leases: Arc<LeaseTally>,
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) egress: Arc<egress::Counts>,
    /// None: nobody wants traces.
    pub(crate) spans: Option<Arc<Counts>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    fn in_flight(&self) -> usize {
        // A proxy that has stopped holds all places itself.
        if self.calls.is_closed() { 0 } else { CALLS_AT_ONCE_MAX.saturating_sub(self.calls.available_permits()) }
    }
}

impl Collector for State {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        page.one(Gauge, "calls_in_flight", "Calls under way", self.in_flight() as u64)?;
        self.providers(&mut page)?;
        let size = self.journal.size();
        page.one(Gauge, "journal_bytes", "Room that the usage journal takes on the disk", size.bytes)?;
        page.one(Gauge, "journal_unbooked", "Settled calls that are not in the books yet", size.unbooked)?;
        let aside = "Settled calls that the books refuse; they stay in the journal until somebody mends what is wrong";
        page.one(Gauge, "journal_set_aside", aside, size.set_aside)?;
        let leases = self.leases.now();
        let exchanges = [
            ([("outcome", "answered")], leases.answered),
            ([("outcome", "refused")], leases.refused),
            ([("outcome", "unanswered")], leases.unanswered),
        ];
        page.each(Counter, "lease_exchanges", "Exchanges with the database about leased money", &exchanges)?;
        page.one(Counter, "leased_nanos", "Money leased of callers' caps, in nano-dollars", leases.granted)?;
        page.one(Counter, "returned_nanos", "Leased money given back unspent, in nano-dollars", leases.returned)?;
        self.ways_out(&mut page)?;
        let Some(spans) = &self.spans else { return Ok(()) };
        let outcomes = [("ended", &spans.ended), ("sent", &spans.sent), ("failed", &spans.failed)];
        let outcomes = outcomes.map(|(outcome, count)| ([("outcome", outcome)], count.load(Ordering::Relaxed)));
        page.each(
            Counter,
            "spans",
            "Spans of calls; ended and neither sent nor failed is under way or dropped",
            &outcomes,
        )
    }
}

impl State {
    fn ways_out(&self, page: &mut Page<'_>) -> fmt::Result {
        let egress = self.egress.now();
        let help = "Requests of cells for a way out into the world, by what became of them";
        page.each(Counter, "egress_requests", help, &egress.ends)?;
        let bytes = [([("direction", "sent")], egress.sent), ([("direction", "received")], egress.received)];
        page.each(Counter, "egress_bytes", "Bytes on those ways, seen from the cells", &bytes)?;
        page.one(Gauge, "egress_open", "Ways out that are open", egress.open)
    }

    fn providers(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = self.upstreams.health();
        let each = |value: &dyn Fn(&Health) -> u64| -> Vec<_> {
            all.iter().map(|health| ([("provider", health.provider.as_str())], value(health))).collect()
        };
        page.each(Counter, "attempts", "Requests sent to a provider", &each(&|health| health.attempts))?;
        let retries = "Attempts after the first of a call, under the same key or another";
        page.each(Counter, "retries", retries, &each(&|health| health.retries))?;
        let failed: Vec<_> = all
            .iter()
            .flat_map(|health| {
                let reasons = health.failed.iter();
                reasons.map(|(reason, count)| ([("provider", health.provider.as_str()), ("reason", *reason)], *count))
            })
            .collect();
        page.each(Counter, "attempts_failed", "Attempts that came to nothing, by why", &failed)?;
        page.each(
            Counter,
            "connections_opened",
            "Connections opened to a provider",
            &each(&|health| health.connections),
        )?;
        let open = "1 while a provider that failed again and again is left alone";
        page.each(Gauge, "breaker_open", open, &each(&|health| u64::from(health.breaker_open)))?;
        let keys: Vec<_> = all
            .iter()
            .flat_map(|health| {
                let states =
                    [("ready", health.keys.ready), ("refused", health.keys.refused), ("busy", health.keys.busy)];
                states.map(|(state, count)| ([("provider", health.provider.as_str()), ("state", state)], count as u64))
            })
            .collect();
        page.each(Gauge, "keys", "Keys to a provider: ready, or resting as they were refused or as it was busy", &keys)
    }
}

/// Writes families one after another.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn one(&mut self, kind: MetricType, name: &str, help: &str, value: u64) -> fmt::Result {
        let help = sentence(help);
        write(kind, value, self.0.encode_descriptor(name, &help, None, kind)?)
    }

    fn each<S: EncodeLabelSet>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        values: &[(S, u64)],
    ) -> fmt::Result {
        let help = sentence(help);
        let mut family = self.0.encode_descriptor(name, &help, None, kind)?;
        values.iter().try_for_each(|(labels, value)| write(kind, *value, family.encode_family(labels)?))
    }
}

/// The library ends the sentences of registered families itself, and leaves these as they are.
fn sentence(help: &str) -> String {
    format!("{help}.")
}

fn write(kind: MetricType, value: u64, encoder: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        Counter => ConstCounter::new(value).encode(encoder),
        _ => ConstGauge::new(value).encode(encoder),
    }
}
