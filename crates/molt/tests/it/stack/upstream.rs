//! A model provider whose every figure a test knows: it streams, calls a tool when asked to note something, and keeps a
//! list of what it reported.
//! Never: the same figures twice, so that a row that is lost or doubled shows in the sum.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::stream;
use serde_json::{Value, json};

/// Long enough to be cut in the middle.
const WORDS: usize = 24;
/// Odd prices, so that a rounding in the wrong place shows: nano-dollars per million tokens.
pub(crate) const INPUT_NANOS: i64 = 313_700_001;
pub(crate) const OUTPUT_NANOS: i64 = 1_770_000_007;
/// A request with this word is answered by a tool call first.
pub(crate) const NOTE: &str = "jot";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) tokens_in: i64,
    pub(crate) tokens_out: i64,
    /// The figures have left the house.
    pub(crate) reported: bool,
}

#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
    pace: Duration,
}

impl Upstream {
    /// Listens until the test's runtime ends.
    pub(crate) async fn start(pace: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let upstream = Self { port, calls: Arc::default(), pace };
        let router = Router::new().route("/v1/chat/completions", post(complete)).with_state(upstream.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        upstream
    }

    /// The lines of `molt.toml` that make it the default.
    pub(crate) fn settings(&self) -> String {
        let usd = |nanos: i64| format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
        format!(
            "default_model = \"mine/parrot\"\n[providers.mine]\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:{}/v1\"\n\
             [[providers.mine.models]]\nname = \"parrot\"\ntitle = \"Parrot\"\ninput_usd = \"{}\"\noutput_usd = \"{}\"\n\
             context_window = 128000\noutput_max = 8192\nstrengths = \"Counts.\"\n",
            self.port,
            usd(INPUT_NANOS),
            usd(OUTPUT_NANOS)
        )
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no holder panics").clone()
    }

    /// What the calls so far cost whoever made them, each rounded down by itself.
    pub(crate) fn nanos(&self) -> i64 {
        self.calls().iter().map(Call::nanos).sum()
    }

    /// A new call, with figures that no other call has.
    fn begin(&self) -> (usize, Call) {
        let mut calls = self.calls.lock().expect("no holder panics");
        let number = i64::try_from(calls.len()).expect("few calls");
        let call = Call { tokens_in: 1_003 + 17 * number * number, tokens_out: 211 + 29 * number, reported: false };
        calls.push(call);
        (calls.len() - 1, call)
    }

    fn report(&self, index: usize) {
        self.calls.lock().expect("no holder panics")[index].reported = true;
    }
}

impl Call {
    pub(crate) fn nanos(&self) -> i64 {
        let total = i128::from(self.tokens_in) * i128::from(INPUT_NANOS)
            + i128::from(self.tokens_out) * i128::from(OUTPUT_NANOS);
        i64::try_from(total * 12 / 10_000_000).expect("a small sum")
    }

    fn usage(&self) -> Value {
        json!({"prompt_tokens": self.tokens_in, "completion_tokens": self.tokens_out,
               "total_tokens": self.tokens_in + self.tokens_out})
    }
}

async fn complete(State(upstream): State<Upstream>, Json(request): Json<Value>) -> Response {
    let (index, call) = upstream.begin();
    let delta = answer(&request);
    if request["stream"] != true {
        upstream.report(index);
        let mut message = delta;
        message["role"] = json!("assistant");
        let body = json!({"id": format!("call-{index}"), "object": "chat.completion", "model": "parrot", "usage": call.usage(),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
        return Json(body).into_response();
    }
    let asked = request["stream_options"]["include_usage"] == true;
    let chunks = chunks(index, &delta, asked.then(|| call.usage()));
    let last = chunks.len() - 1;
    let body = stream::unfold((upstream, 0), move |(upstream, at)| {
        let chunk = chunks.get(at).cloned();
        async move {
            let chunk = chunk?;
            tokio::time::sleep(upstream.pace).await;
            if at == last {
                upstream.report(index);
            }
            Some((Ok::<_, Infallible>(chunk), (upstream, at + 1)))
        }
    });
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}

/// A tool call when the person's last words ask for a note and a tool for it is offered; else a few words.
fn answer(request: &Value) -> Value {
    let messages = request["messages"].as_array().cloned().unwrap_or_default();
    // the runtime puts words of its own behind the person's
    let own = |message: &&Value| message["content"].to_string().contains("OPENCLAW_INTERNAL_CONTEXT");
    let last = messages.iter().rev().find(|message| !own(message)).cloned().unwrap_or_default();
    let tools = request["tools"].as_array().cloned().unwrap_or_default();
    let can_write = tools.iter().any(|tool| tool["function"]["name"] == "write");
    if last["role"] == "user" && last["content"].to_string().contains(NOTE) && can_write {
        let arguments = json!({"path": "notes.md", "content": "jotted down\n"}).to_string();
        let function = json!({"name": "write", "arguments": arguments});
        return json!({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]});
    }
    let words: Vec<String> = (0..WORDS).map(|number| format!("word{number}")).collect();
    json!({"content": words.join(" ")})
}

/// The stream's pieces, the last of them with `[DONE]` and, if it was asked for, the usage.
fn chunks(index: usize, delta: &Value, usage: Option<Value>) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        let body = json!({"id": format!("call-{index}"), "object": "chat.completion.chunk", "model": "parrot",
            "choices": choices, "usage": usage});
        format!("data: {body}\n\n")
    };
    let piece = |delta: Value, reason: Value| {
        chunk(json!([{"index": 0, "delta": delta, "finish_reason": reason}]), Value::Null)
    };
    let mut chunks = vec![piece(json!({"role": "assistant", "content": ""}), Value::Null)];
    match delta["content"].as_str() {
        Some(text) => {
            chunks.extend(text.split_inclusive(' ').map(|word| piece(json!({"content": word}), Value::Null)));
            chunks.push(piece(json!({}), json!("stop")));
        }
        None => {
            chunks.push(piece(delta.clone(), Value::Null));
            chunks.push(piece(json!({}), json!("tool_calls")));
        }
    }
    let counted = usage.map(|usage| chunk(json!([]), usage)).unwrap_or_default();
    chunks.push(format!("{counted}data: [DONE]\n\n"));
    chunks
}
