//! A histogram that threads add to without waiting for each other; the library's own has a lock.
//! Never: a figure that is lost. A look in the middle of an addition may see it half.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The labels of no exemplar.
type NoLabels = Vec<(&'static str, &'static str)>;

/// Durations, counted by buckets. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nanos: AtomicU64,
    buckets: Vec<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    seconds_max: f64,
    max: Duration,
    count: AtomicU64,
}

impl Histogram {
    /// Up to each of these, in seconds and rising, and one bucket for all above.
    pub(super) fn new(bounds: &[f64]) -> Self {
        let bucket = |seconds_max, max| Bucket { seconds_max, max, count: AtomicU64::new(0) };
        let bounded = bounds.iter().map(|&seconds| bucket(seconds, Duration::from_secs_f64(seconds)));
        let buckets = bounded.chain([bucket(f64::INFINITY, Duration::MAX)]).collect();
        Self(Arc::new(Inner { nanos: AtomicU64::new(0), buckets }))
    }

    pub(super) fn observe(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
        let found = self.0.buckets.iter().find(|bucket| time <= bucket.max);
        if let Some(bucket) = found {
            bucket.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let each = self.0.buckets.iter().map(|bucket| (bucket.seconds_max, bucket.count.load(Ordering::Relaxed)));
        let buckets: Vec<(f64, u64)> = each.collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabels>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn times_are_counted_in_the_first_bucket_that_holds_them() {
        let histogram = Histogram::new(&[0.001, 0.5]);
        for micros in [0, 1_000, 1_001, 500_000, 2_000_000] {
            histogram.clone().observe(Duration::from_micros(micros));
        }
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register("x", "X", histogram);
        encode(&mut text, &registry).unwrap();
        let wanted =
            "x_sum 2.502001\nx_count 5\nx_bucket{le=\"0.001\"} 2\nx_bucket{le=\"0.5\"} 4\nx_bucket{le=\"+Inf\"} 5\n";
        assert!(text.contains(wanted), "{text}");
    }
}
