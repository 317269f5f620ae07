//! What the proxy says of itself to whoever watches it: calls, tokens, money and times, by provider, model and surface.
//! Never: a label with a person, a bot or a key in it, or with a name that a caller made up.

mod histogram;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use molt_model::usage::Estimate;
use molt_model::{Target, TokenUsage};
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::admission::purse::Charge;
use crate::surface::Surface;

use histogram::Histogram;
pub(crate) use state::State;

/// Models that are told apart. A price list has some hundreds; lists that come and go must not add up for ever.
const SERIES_MAX: usize = 2_048;
/// Stands for every model that only a ceiling covers, whose names come from callers.
const OTHER_MODEL: &str = "other";
/// Seconds. Providers begin to answer within some tens of milliseconds to a minute.
const ANSWER_BUCKETS: [f64; 12] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0];
/// Seconds. The proxy's own time is some tens of microseconds, or a look into the database.
const OWN_BUCKETS: [f64; 10] = [25e-6, 50e-6, 1e-4, 25e-5, 5e-4, 1e-3, 5e-3, 25e-3, 0.1, 1.0];

/// Provider, model, surface.
type Place = (Arc<str>, Arc<str>, Surface);
type Labels = Vec<(&'static str, Arc<str>)>;
/// The proxy's own words only.
type OwnLabels = [(&'static str, &'static str); 3];

/// How a call ended, as the label `status` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Answered in full, and the provider said what it used.
    Whole,
    /// Answered, and booked as an estimate.
    Estimated(Estimate),
    /// No provider answered, or the caller left before the call went out: nothing was charged.
    Unanswered,
}

impl Ended {
    const ALL: [Self; 6] = [
        Self::Whole,
        Self::Estimated(Estimate::HungUp),
        Self::Estimated(Estimate::ProviderCut),
        Self::Estimated(Estimate::ProxyRestarted),
        Self::Estimated(Estimate::NotReported),
        Self::Unanswered,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Whole => "ok",
            Self::Estimated(why) => why.as_str(),
            Self::Unanswered => "unanswered",
        }
    }

    /// Its place in `ALL`.
    const fn place(self) -> usize {
        match self {
            Self::Whole => 0,
            Self::Estimated(Estimate::HungUp) => 1,
            Self::Estimated(Estimate::ProviderCut) => 2,
            Self::Estimated(Estimate::ProxyRestarted) => 3,
            Self::Estimated(Estimate::NotReported) => 4,
            Self::Unanswered => 5,
        }
    }
}

/// Everything that is counted of one model on one surface: looked up when a route is made, then only added to.
#[derive(Debug)]
pub(crate) struct Series {
    calls: [Counter; Ended::ALL.len()],
    tokens: [Counter; 5],
    charged: Counter,
    operator: Counter,
    fallbacks: Counter,
    first_byte: Histogram,
    duration: Histogram,
    added: Histogram,
}

impl Series {
    /// A call ended whose usage is charged.
    pub(crate) fn settled(&self, ended: Ended, usage: &TokenUsage, charge: Charge, duration: Duration) {
        self.calls[ended.place()].inc();
        let TokenUsage { input, output, cache_read, cache_write, reasoning } = *usage;
        for (counter, tokens) in self.tokens.iter().zip([input, output, cache_read, cache_write, reasoning]) {
            if tokens > 0 {
                counter.inc_by(tokens.unsigned_abs());
            }
        }
        self.charged.inc_by(u64::try_from(charge.charged.0).unwrap_or(0));
        if charge.operator.0 > 0 {
            self.operator.inc_by(charge.operator.0.unsigned_abs());
        }
        self.duration.observe(duration);
    }

    /// A call ended that costs nothing.
    pub(crate) fn ended(&self, ended: Ended) {
        self.calls[ended.place()].inc();
    }

    /// The answer has begun. `fallback`: this wasn't the first choice.
    pub(crate) fn answered(&self, first_byte: Duration, fallback: bool) {
        self.first_byte.observe(first_byte);
        if fallback {
            self.fallbacks.inc();
        }
    }

    /// The call goes out, after so much time of the proxy's own.
    pub(crate) fn left(&self, added: Duration) {
        self.added.observe(added);
    }
}

/// All that is counted. What has a state (breakers, keys, the journal) is asked for it at each look.
pub(crate) struct Metrics {
    registry: Registry,
    families: Families,
    series: Mutex<HashMap<Place, Arc<Series>>>,
}

struct Families {
    calls: Family<Labels, Counter>,
    tokens: Family<Labels, Counter>,
    charged: Family<Labels, Counter>,
    operator: Family<Labels, Counter>,
    fallbacks: Family<Labels, Counter>,
    first_byte: Family<Labels, Histogram>,
    duration: Family<Labels, Histogram>,
    added: Family<Labels, Histogram>,
    refused: Family<OwnLabels, Counter>,
}

impl Metrics {
    pub(crate) fn new(state: State) -> Self {
        let mut registry = Registry::with_prefix("molt_ghost");
        let families = Families::registered(&mut registry);
        registry.register_collector(Box::new(state));
        Self { registry, families, series: Mutex::default() }
    }

    /// The series of a model. Not for each call: whoever makes a route keeps it.
    pub(crate) fn series(&self, surface: Surface, target: &Target<'_>) -> Arc<Series> {
        let model = if target.ceiling { OTHER_MODEL } else { target.model };
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place: Place = (target.provider.into(), model.into(), surface);
        if series.len() >= SERIES_MAX && !series.contains_key(&place) {
            place.1 = OTHER_MODEL.into();
        }
        let made = series.entry(place).or_insert_with_key(|place| Arc::new(self.families.series(place)));
        Arc::clone(made)
    }

    /// The proxy answered a call itself: with an error, or with a notice in the model's place.
    pub(crate) fn refused(&self, surface: Option<Surface>, reason: &'static str, answer: &'static str) {
        let surface = surface.map_or("none", Surface::name);
        self.families.refused.get_or_create(&[("surface", surface), ("reason", reason), ("answer", answer)]).inc();
    }

    /// All families in OpenMetrics' words, without the mark at the end.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry).expect("a string takes whatever is written");
        text
    }
}

impl Families {
    fn registered(registry: &mut Registry) -> Self {
        let answers: fn() -> Histogram = || Histogram::new(&ANSWER_BUCKETS);
        let own: fn() -> Histogram = || Histogram::new(&OWN_BUCKETS);
        let families = Self {
            calls: Family::default(),
            tokens: Family::default(),
            charged: Family::default(),
            operator: Family::default(),
            fallbacks: Family::default(),
            first_byte: Family::new_with_constructor(answers),
            duration: Family::new_with_constructor(answers),
            added: Family::new_with_constructor(own),
            refused: Family::default(),
        };
        let mut counters = |name, help, family: &Family<Labels, Counter>| {
            registry.register(name, help, family.clone());
        };
        counters("calls", "Calls that went to a provider, by how they ended", &families.calls);
        counters("tokens", "Tokens of those calls; cache_read is part of input, reasoning of output", &families.tokens);
        counters("charged_nanos", "What callers were charged, in nano-dollars", &families.charged);
        counters(
            "operator_nanos",
            "What no cap covered, at the operator's expense, in nano-dollars",
            &families.operator,
        );
        counters(
            "fallbacks",
            "Calls that this model answered in place of an alias's first choice",
            &families.fallbacks,
        );
        let mut times = |name, help, family: &Family<Labels, Histogram>| {
            registry.register(name, help, family.clone());
        };
        times("first_byte_seconds", "From a request's head to the head of the provider's answer", &families.first_byte);
        times(
            "call_seconds",
            "From a request's head to the settlement, before the answer's last byte",
            &families.duration,
        );
        let added = "From a request's head to the first attempt, without the wait for its body: the proxy's own time";
        times("added_seconds", added, &families.added);
        let refused =
            "Requests that the proxy answered itself, with an error or with a notice as an assistant's message";
        registry.register("refused", refused, families.refused.clone());
        families
    }

    fn series(&self, (provider, model, surface): &Place) -> Series {
        let labels: Labels = vec![
            ("provider", Arc::clone(provider)),
            ("model", Arc::clone(model)),
            ("surface", Arc::from(surface.name())),
        ];
        let with = |family: &Family<Labels, Counter>, name: &'static str, value: &str| {
            let mut labels = labels.clone();
            labels.push((name, Arc::from(value)));
            family.get_or_create_owned(&labels)
        };
        let kinds = ["input", "output", "cache_read", "cache_write", "reasoning"];
        Series {
            calls: Ended::ALL.map(|ended| with(&self.calls, "status", ended.label())),
            tokens: kinds.map(|kind| with(&self.tokens, "kind", kind)),
            charged: self.charged.get_or_create_owned(&labels),
            operator: self.operator.get_or_create_owned(&labels),
            fallbacks: self.fallbacks.get_or_create_owned(&labels),
            first_byte: self.first_byte.get_or_create_owned(&labels),
            duration: self.duration.get_or_create_owned(&labels),
            added: self.added.get_or_create_owned(&labels),
        }
    }
}
