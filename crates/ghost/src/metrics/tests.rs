//! The figures as an operator reads them.
//! Never: a label that a caller chose.

use std::time::Duration;

use molt_model::{Catalog, ModelFacts, Nanos, Price, PriceVersion};

use super::*;

fn model(id: &str) -> ModelFacts {
    ModelFacts {
        id: id.to_owned(),
        name: id.to_owned(),
        price: Price::flat(1, 1),
        context_window: 1,
        output_max: 1,
        reasoning: false,
        vision: false,
        strengths: String::new(),
        embedding: false,
        listed: true,
    }
}

fn metrics() -> Metrics {
    let mut registry = Registry::with_prefix("molt_ghost");
    let families = Families::registered(&mut registry);
    Metrics { registry, families, series: Mutex::default() }
}

/// The lines of one family that say something.
fn lines(text: &str, family: &str) -> Vec<String> {
    let said = |line: &&str| line.starts_with(family) && !line.ends_with(" 0");
    text.lines().filter(said).map(str::to_owned).collect()
}

#[test]
fn every_ending_has_its_own_place_and_word() {
    for (at, ended) in Ended::ALL.into_iter().enumerate() {
        assert_eq!(ended.place(), at);
        assert_eq!(Ended::ALL.iter().filter(|other| other.label() == ended.label()).count(), 1);
    }
}

#[test]
fn a_call_is_counted_under_its_model_and_a_name_of_a_callers_under_other() {
    let metrics = metrics();
    let catalog = Catalog::new(PriceVersion("1".into()), vec![model("p/known"), model("p/*")], "p/known".into(), None);
    let series = |name: &str| metrics.series(Surface::Chat, &catalog.resolve(name)[0]);
    let (known, made_up, other) = (series("p/known"), series("p/made-up"), series("p/made-up-as-well"));
    assert!(Arc::ptr_eq(&made_up, &other) && !Arc::ptr_eq(&known, &other));
    let usage = TokenUsage { input: 5, output: 7, cache_read: 2, cache_write: 0, reasoning: 3 };
    let charge = Charge { charged: Nanos(40), operator: Nanos(2) };
    known.left(Duration::from_micros(60));
    known.answered(Duration::from_millis(300), true);
    known.settled(Ended::Whole, &usage, charge, Duration::from_secs(2));
    let nothing = Charge { charged: Nanos(0), operator: Nanos(0) };
    made_up.settled(Ended::Estimated(Estimate::HungUp), &TokenUsage::default(), nothing, Duration::ZERO);
    made_up.ended(Ended::Unanswered);
    metrics.refused(Some(Surface::Chat), "busy", "error");
    let text = metrics.text();
    let of = "provider=\"p\",model=\"known\",surface=\"chat\"";
    let others = of.replace("known", "other");
    assert_eq!(
        sorted(lines(&text, "molt_ghost_calls_total")),
        sorted(vec![
            format!("molt_ghost_calls_total{{{of},status=\"ok\"}} 1"),
            format!("molt_ghost_calls_total{{{others},status=\"hung_up\"}} 1"),
            format!("molt_ghost_calls_total{{{others},status=\"unanswered\"}} 1"),
        ])
    );
    let tokens = ["input\"} 5", "output\"} 7", "cache_read\"} 2", "reasoning\"} 3"];
    let tokens = tokens.map(|kind| format!("molt_ghost_tokens_total{{{of},kind=\"{kind}")).to_vec();
    assert_eq!(sorted(lines(&text, "molt_ghost_tokens_total")), sorted(tokens));
    for (family, value) in [("charged_nanos_total", 40), ("operator_nanos_total", 2), ("fallbacks_total", 1)] {
        let family = format!("molt_ghost_{family}");
        assert_eq!(lines(&text, &family), [format!("{family}{{{of}}} {value}")]);
    }
    let buckets = lines(&text, "molt_ghost_first_byte_seconds_bucket");
    assert!(buckets[0].starts_with("molt_ghost_first_byte_seconds_bucket{le=\"0.5\""), "{buckets:?}");
    assert!(lines(&text, "molt_ghost_added_seconds_bucket")[0].contains("le=\"0.0001\""), "{text}");
    let refused = "molt_ghost_refused_total{surface=\"chat\",reason=\"busy\",answer=\"error\"} 1";
    assert_eq!(lines(&text, "molt_ghost_refused_total"), [refused]);
}

#[test]
fn lists_that_come_and_go_dont_add_up_for_ever() {
    let metrics = metrics();
    let series = |at: usize| {
        let id = format!("p/m{at}");
        let catalog = Catalog::new(PriceVersion("1".into()), vec![model(&id)], id.clone(), None);
        metrics.series(Surface::Chat, &catalog.resolve(&id)[0])
    };
    let all: Vec<_> = (0..SERIES_MAX + 2).map(series).collect();
    assert_eq!(metrics.series.lock().unwrap().len(), SERIES_MAX + 1);
    assert!(Arc::ptr_eq(&all[SERIES_MAX], &all[SERIES_MAX + 1]), "what comes late is told apart no more");
    assert!(Arc::ptr_eq(&all[7], &series(7)), "what was there stays itself");
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}
