//! A model that does what the user's message says, line by line, and notes every call.
//! Never: an answer that depends on anything but the messages.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One call as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) authorization: String,
    pub(crate) trace_id: String,
    pub(crate) model: String,
    pub(crate) chat: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Model {
    calls: Arc<Mutex<Vec<Call>>>,
    /// The keys of those who knocked at the door of ways out, which opens to nobody here.
    knocks: Arc<Mutex<Vec<[String; 2]>>>,
}

impl Model {
    pub(crate) fn serve(&self, listener: TcpListener) -> JoinHandle<()> {
        let router = Router::new()
            .route("/v1/chat/completions", post(complete))
            .route("/v1/embeddings", post(embed))
            .route("/v1/egress", get(refuse))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn knocks(&self) -> Vec<[String; 2]> {
        self.knocks.lock().unwrap().clone()
    }

    fn note(&self, headers: &HeaderMap, body: &Value, chat: bool) {
        let header =
            |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let trace_id = header("traceparent").split('-').nth(1).unwrap_or_default().to_owned();
        let model = body["model"].as_str().unwrap_or_default().to_owned();
        self.calls.lock().unwrap().push(Call { authorization: header("authorization"), trace_id, model, chat });
    }
}

/// What a message asks for: `CALL tool {json}` lines are done one after the other, then the answer comes.
struct Script {
    calls: Vec<(String, String)>,
    words: Vec<String>,
    pause_ms: u64,
    say: bool,
    think: bool,
    fail: bool,
}

fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect(),
        _ => String::new(),
    }
}

/// The script of the newest real message, and how many of its calls are done. A resumed run goes on with the message
/// before the runtime's own note about the restart.
fn read(messages: &[Value]) -> (Script, usize) {
    let is_own =
        |text: &str| text.contains("BEGIN_OPENCLAW_INTERNAL_CONTEXT") || text.contains("[System] Your previous turn");
    let asked = messages.iter().rposition(|message| message["role"] == "user" && !is_own(&text_of(message)));
    let asked = asked.unwrap_or(0);
    let text = text_of(&messages[asked]);
    let done = messages[asked..].iter().filter(|message| message["role"] == "tool").count();
    // The runtime dresses the message: the first line has its date in front.
    let number = |word: &str| text.lines().find_map(|line| line.split_once(word)?.1.trim().parse::<u64>().ok());
    let calls = text
        .lines()
        .filter_map(|line| line[line.find("CALL ")?..].strip_prefix("CALL ")?.split_once(' '))
        .map(|(tool, args)| (tool.to_owned(), args.to_owned()))
        .collect();
    let count = number("WORDS").unwrap_or(3);
    let script = Script {
        calls,
        words: (0..count).map(|at| format!("word{at} ")).collect(),
        pause_ms: number("PAUSE").unwrap_or(0),
        say: text.contains("SAY"),
        think: text.contains("THINK"),
        fail: text.contains("FAIL"),
    };
    (script, done)
}

async fn refuse(State(model): State<Model>, headers: HeaderMap) -> StatusCode {
    let keys = ["authorization", "x-molt-egress-key"].map(|name| headers[name].to_str().unwrap().to_owned());
    model.knocks.lock().unwrap().push(keys);
    StatusCode::PROXY_AUTHENTICATION_REQUIRED
}

async fn complete(State(model): State<Model>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    model.note(&headers, &body, true);
    let (script, done) = read(body["messages"].as_array().unwrap());
    if script.fail {
        // Nothing that the real runtime would try again for minutes.
        let body = json!({"error": {"message": "unknown parameter", "type": "invalid_request_error"}});
        return (StatusCode::BAD_REQUEST, axum::Json(body)).into_response();
    }
    let (pieces, stream) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(16);
    tokio::spawn(async move {
        let chunk = |delta: Value, finish: Option<&str>| {
            let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
            Bytes::from(format!(
                "data: {}\n\n",
                json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})
            ))
        };
        let mut parts = vec![chunk(json!({"role": "assistant", "content": ""}), None)];
        if script.think {
            parts.extend(["I ", "think."].map(|text| chunk(json!({"reasoning_content": text}), None)));
        }
        if let Some((tool, args)) = script.calls.get(done) {
            if script.say {
                parts.push(chunk(json!({"content": format!("Step {done}.")}), None));
            }
            let call = json!({"index": 0, "id": format!("call_{done}"), "type": "function", "function": {"name": tool, "arguments": args}});
            parts.push(chunk(json!({"tool_calls": [call]}), None));
            parts.push(chunk(json!({}), Some("tool_calls")));
        } else {
            parts.extend(script.words.iter().map(|word| chunk(json!({"content": word}), None)));
            parts.push(chunk(json!({}), Some("stop")));
        }
        let usage = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}});
        parts.push(Bytes::from(format!("data: {usage}\n\ndata: [DONE]\n\n")));
        for part in parts {
            if pieces.send(Ok(part)).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(script.pause_ms)).await;
        }
    });
    let stream = futures_util::stream::unfold(stream, |mut stream| async move { Some((stream.recv().await?, stream)) });
    ([("content-type", "text/event-stream")], Body::from_stream(stream)).into_response()
}

async fn embed(State(model): State<Model>, headers: HeaderMap, body: Bytes) -> axum::Json<Value> {
    let body: Value = serde_json::from_slice(&body).unwrap();
    model.note(&headers, &body, false);
    let count = body["input"].as_array().map_or(1, Vec::len);
    let data: Vec<Value> =
        (0..count).map(|at| json!({"object": "embedding", "index": at, "embedding": [0.6, 0.8]})).collect();
    axum::Json(
        json!({"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 1, "total_tokens": 1}}),
    )
}
