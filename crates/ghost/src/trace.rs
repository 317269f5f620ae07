//! One span for each model call, as a part of the caller's own trace, sent over OTLP to wherever the operator says.
//! Never: a prompt, an answer, a person, a bot or a key in a span, or a call that waits for one.

mod send;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use molt_model::usage::Estimate;
use molt_model::{RequestId, TokenUsage};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span};
use url::Url;

use crate::StartError;
use crate::admission::purse::Charge;
use crate::answer::Refusal;
use crate::journal::Route;
use crate::surface::Surface;

/// Spans that wait to be sent. What comes beyond that is dropped, which `Counts` shows.
const QUEUE_SPANS_MAX: usize = 4_096;
const BATCH_SPANS_MAX: usize = 512;
/// A span is sent after so long, or with a full batch.
const SEND_EVERY: Duration = Duration::from_secs(2);
/// How long a stopping proxy waits for the last spans.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// Where spans are made and sent from.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    context: TraceContextPropagator,
    counts: Arc<Counts>,
}

/// What became of spans since the start. Ended, and neither sent nor failed: on its way, or dropped from a full queue.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) ended: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// The span of one call that is recorded.
pub(crate) struct CallSpan {
    span: Span,
    start: SystemTime,
    surface: Surface,
    counts: Arc<Counts>,
    /// What the caller was told, where that isn't a success.
    refused: Option<(u16, &'static str)>,
}

/// What a settled call came to.
pub(crate) struct Settled<'a> {
    pub(crate) route: &'a Route,
    pub(crate) usage: &'a TokenUsage,
    pub(crate) estimate: Option<Estimate>,
    pub(crate) charge: Charge,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) duration: Duration,
}

impl Traces {
    /// `endpoint`: of a collector, with or without `/v1/traces`. Needs a tokio runtime, on which spans are sent.
    pub(crate) fn start(endpoint: &Url) -> Result<Self, StartError> {
        let counts = Arc::new(Counts::default());
        let exporter = send::exporter(endpoint, Arc::clone(&counts))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let resource = Resource::builder_empty()
            .with_service_name("molt")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            // A caller that samples its traces decides for its calls as well.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("molt.ghost");
        Ok(Self { provider, tracer, context: TraceContextPropagator::new(), counts })
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// The span of a call that came `ago`, if its caller wants one, and what the provider is told as its parent.
    pub(crate) fn begin(
        &self,
        headers: &HeaderMap,
        surface: Surface,
        id: RequestId,
        ago: Duration,
    ) -> (Option<CallSpan>, Option<HeaderValue>) {
        let parent = self.context.extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let start = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        let builder = self.tracer.span_builder(operation(surface)).with_kind(SpanKind::Client).with_start_time(start);
        let mut span = self.tracer.build_with_context(builder, &parent);
        let own = span.span_context();
        let child = format!("00-{}-{}-{:02x}", own.trace_id(), own.span_id(), own.trace_flags().to_u8());
        let recorded = span.is_recording().then(|| {
            span.set_attribute(KeyValue::new("molt.request.id", id.to_string()));
            CallSpan { span, start, surface, counts: Arc::clone(&self.counts), refused: None }
        });
        (recorded, HeaderValue::from_str(&child).ok())
    }

    /// Sends what is left, for a bounded time.
    pub(crate) async fn close(&self) {
        let provider = self.provider.clone();
        // The library waits on its own thread's answer.
        let closed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(DRAIN_MAX)).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::warn!("the last traces couldn't be sent");
        }
    }
}

/// As the conventions for generative AI call it; they have no word for a count of tokens.
const fn operation(surface: Surface) -> &'static str {
    match surface {
        Surface::Chat | Surface::Responses | Surface::Messages => "chat",
        Surface::Embeddings => "embeddings",
        Surface::CountTokens => "count_tokens",
    }
}

impl CallSpan {
    /// The caller was told this instead of an answer.
    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.refused = Some((refusal.status.as_u16(), refusal.code));
    }

    /// The call is settled, and its span ends.
    pub(crate) fn settled(mut self, settled: &Settled<'_>) {
        self.name(settled.route);
        let TokenUsage { input, output, cache_read, cache_write, reasoning } = *settled.usage;
        self.span.set_attributes([
            KeyValue::new("gen_ai.usage.input_tokens", input),
            KeyValue::new("gen_ai.usage.output_tokens", output),
            KeyValue::new("molt.charged_nanos", settled.charge.charged.0),
        ]);
        let parts = [
            ("gen_ai.usage.cache_read.input_tokens", cache_read),
            ("gen_ai.usage.cache_creation.input_tokens", cache_write),
            ("gen_ai.usage.reasoning.output_tokens", reasoning),
            ("molt.operator_nanos", settled.charge.operator.0),
        ];
        self.span.set_attributes(
            parts.into_iter().filter(|(_, count)| *count > 0).map(|(key, count)| KeyValue::new(key, count)),
        );
        if let Some(time) = settled.first_byte {
            self.span.set_attribute(KeyValue::new("gen_ai.response.time_to_first_chunk", time.as_secs_f64()));
        }
        if let Some(why) = settled.estimate {
            self.span.set_attribute(KeyValue::new("molt.estimate", why.as_str()));
        }
        // A caller that hangs up has what it wanted, and a provider that doesn't count has answered.
        let failed = settled.estimate.filter(|why| matches!(why, Estimate::ProviderCut | Estimate::ProxyRestarted));
        let end = self.start + settled.duration;
        self.end(failed.map(Estimate::as_str), end);
    }

    /// The call ended without a settlement: nobody answered, or it was free.
    pub(crate) fn ended(mut self, route: &Route) {
        self.name(route);
        let refused = self.refused.map(|(_, code)| code);
        self.end(refused, SystemTime::now());
    }

    fn name(&mut self, route: &Route) {
        let model = route.model.strip_prefix(&*route.provider).and_then(|model| model.strip_prefix('/'));
        let model = model.unwrap_or(&route.model).to_owned();
        let operation = operation(self.surface);
        self.span.update_name(format!("{operation} {model}"));
        self.span.set_attributes([
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", route.provider.to_string()),
            KeyValue::new("gen_ai.request.model", model),
            KeyValue::new("molt.surface", self.surface.name()),
        ]);
    }

    fn end(mut self, failed: Option<&'static str>, at: SystemTime) {
        let status = self.refused.map_or(200, |(status, _)| status);
        self.span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if let Some(why) = failed {
            self.span.set_attribute(KeyValue::new("error.type", why));
            self.span.set_status(Status::error(why));
        }
        self.counts.ended.fetch_add(1, Ordering::Relaxed);
        self.span.end_with_timestamp(at);
    }
}
