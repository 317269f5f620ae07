//! The spans of calls, as a collector that reads OTLP by its published schema gets them.
//! Never: a span looked at before it has gone over the wire.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::rig::{Answer, Call, Rig, chat_body};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Bytes>>>);

impl Collector {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/a/path", listener.local_addr().unwrap());
        let kept = self.0.clone();
        let take = move |body: Bytes| async move { kept.lock().unwrap().push(body) };
        let app = Router::new().route("/a/path/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, app).await });
        base
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.0.lock().unwrap().iter().map(|bytes| ExportTraceServiceRequest::decode(bytes.clone()).unwrap()).collect()
    }

    /// The spans of all requests, as they came.
    fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }
}

fn attributes(all: &[KeyValue]) -> Value {
    let plain = |value: Option<Any>| match value {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::DoubleValue(number)) => json!(number),
        other => panic!("{other:?}"),
    };
    all.iter().map(|pair| (pair.key.clone(), plain(pair.value.clone().and_then(|any| any.value)))).collect()
}

async fn chat(rig: &Rig, model: &str, traceparent: Option<String>) -> Answer {
    let mut call = Call::post("/v1/chat/completions", chat_body(model, &json!({ "stream": true })));
    if let Some(value) = traceparent {
        call = call.header("traceparent", &value);
    }
    rig.call(call).await
}

#[tokio::test]
async fn a_call_is_a_span_of_its_callers_trace_with_the_figures_of_its_row() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let rig = Rig::start_with(|told| told.otlp_endpoint = Some(endpoint.parse().unwrap())).await;
    let answer = chat(&rig, "up/ok", Some(format!("00-{TRACE}-{PARENT}-01"))).await;
    let row = rig.row(&answer).await;
    let told = rig.upstream.requests().pop().unwrap().traceparent.unwrap();
    let unwanted = chat(&rig, "up/ok", Some(format!("00-{TRACE}-{PARENT}-00"))).await;
    rig.row(&unwanted).await;
    let unwanted_told = rig.upstream.requests().pop().unwrap().traceparent.unwrap();
    let failed = chat(&rig, "other/badkey", None).await;
    assert_eq!(failed.status, 429);
    let cut = chat(&rig, "up/cut", Some("00-nonsense-01".to_owned())).await;
    rig.row(&cut).await;
    let count = json!({ "model": "practice/practice-1", "messages": [{ "role": "user", "content": "Hi" }] });
    let free = rig.call(Call::post("/v1/messages/count_tokens", count)).await;
    assert!(free.unmetered, "{free:?}");
    rig.ghost.drain().await;

    let spans = collector.spans();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["chat ok", "chat badkey", "chat cut", "count_tokens practice-1"], "none for who wants none");
    let span = &spans[0];
    assert_eq!((hex::encode(&span.trace_id), hex::encode(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(told, format!("00-{TRACE}-{}-01", hex::encode(&span.span_id)), "the provider's parent is our span");
    assert!(unwanted_told.starts_with(&format!("00-{TRACE}-")) && unwanted_told.ends_with("-00"), "{unwanted_told}");
    assert!(!unwanted_told.contains(PARENT), "{unwanted_told}");
    assert_eq!(span.kind, SpanKind::Client as i32);
    assert_eq!(span.status.as_ref().map_or(0, |status| status.code), StatusCode::Unset as i32);
    let millis = (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000_000;
    assert_eq!(millis, row["duration_ms"].as_u64().unwrap());
    let mut said = attributes(&span.attributes);
    let first = said.as_object_mut().unwrap().remove("gen_ai.response.time_to_first_chunk").unwrap();
    // To the millisecond, which the row holds without its fraction.
    let fraction = first.as_f64().unwrap() * 1000.0 - row["first_byte_ms"].as_f64().unwrap();
    assert!((-0.001..1.0).contains(&fraction), "{first}, and {}", row["first_byte_ms"]);
    let expected = json!({
        "molt.request.id": answer.request_id, "molt.surface": "chat", "molt.charged_nanos": row["cost_nanos"],
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "up", "gen_ai.request.model": "ok",
        "gen_ai.usage.input_tokens": row["tokens_in"], "gen_ai.usage.output_tokens": row["tokens_out"],
        "gen_ai.usage.cache_read.input_tokens": 400, "gen_ai.usage.reasoning.output_tokens": 3,
        "http.response.status_code": 200,
    });
    assert_eq!(said, expected);

    for (span, code, why) in [(&spans[1], 429, "provider_unavailable"), (&spans[2], 200, "provider_cut")] {
        let said = attributes(&span.attributes);
        assert_eq!((&said["http.response.status_code"], &said["error.type"]), (&json!(code), &json!(why)));
        assert_eq!(span.status.as_ref().unwrap().code, StatusCode::Error as i32);
        assert!(span.parent_span_id.is_empty() && hex::encode(&span.trace_id) != TRACE, "a trace of its own");
    }
    assert_eq!(attributes(&spans[2].attributes)["molt.estimate"], "provider_cut");

    let resource = collector.requests()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "molt");
    let sent = collector.0.lock().unwrap().concat();
    let sent = String::from_utf8_lossy(&sent);
    assert!(sent.contains("gen_ai.request.model"));
    for secret in ["trains", "word0", &rig.key, crate::upstream::KEY] {
        assert!(!sent.contains(secret), "{secret}");
    }
    for who in ["user_id", "bot_id", "key_id"] {
        assert!(!sent.contains(row[who].as_str().unwrap()), "{who}");
    }
    let page = rig.ghost.metrics();
    for outcome in ["ended", "sent"] {
        assert!(page.contains(&format!("molt_ghost_spans_total{{outcome=\"{outcome}\"}} 4\n")), "{page}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_call() {
    // Nothing listens on port 1.
    let rig = Rig::start_with(|told| told.otlp_endpoint = Some("http://127.0.0.1:1".parse().unwrap())).await;
    for _ in 0..3 {
        assert_eq!(chat(&rig, "up/ok", None).await.status, 200);
    }
    assert_eq!(rig.rows_after_settling(3).await, 3);
    rig.ghost.drain().await;
    assert!(rig.ghost.metrics().contains("molt_ghost_spans_total{outcome=\"failed\"} 3\n"));
}
