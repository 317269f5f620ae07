//! One streamed call of the model through the cell's forwarder.
//! Never: anything but what the real runtime sends; the proxy under test must see the same shape.

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::Surroundings;

/// A piece of the answer.
pub(crate) enum Piece {
    Text(String),
    Thinking(String),
}

/// A whole answer.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCall>,
}

#[derive(Clone, Default)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// The real runtime's word for a connection that broke.
pub(crate) const BROKEN: &str = "timeout";

/// Why a call failed, in the real runtime's words.
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
}

/// Asks the model; every piece goes to `heard` as it comes.
pub(crate) async fn ask(
    surroundings: &Surroundings,
    traceparent: &str,
    model: &str,
    messages: Vec<Value>,
    mut heard: impl FnMut(Piece),
) -> Result<Answer, Failure> {
    let broken = |detail: String| Failure { reason: BROKEN, detail };
    let authority =
        surroundings.model_url.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
    let stream = TcpStream::connect(&authority).await.map_err(|error| broken(error.to_string()))?;
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.to_string()))?;
    tokio::spawn(driver);
    let body = json!({
        "model": model, "messages": messages, "stream": true, "stream_options": {"include_usage": true},
        "tools": crate::tools::offered(), "tool_choice": "auto", "max_completion_tokens": 8192,
    });
    let request = Request::post("/v1/chat/completions")
        .header("host", &authority)
        .header("authorization", format!("Bearer {}", surroundings.model_key))
        .header("content-type", "application/json")
        .header("user-agent", "OpenAI/JS 7.15.0")
        .header("traceparent", traceparent)
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|error| broken(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
    let status = response.status();
    if !status.is_success() {
        let reason = match status.as_u16() {
            400 => "format",
            401 | 403 => "auth",
            402 => "billing",
            429 => "rate_limit",
            _ => "server_error",
        };
        return Err(Failure { reason, detail: status.to_string() });
    }
    let mut body = response.into_body();
    let mut buffer = Vec::new();
    let mut answer = Answer::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(error.to_string()))?;
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            read_line(&String::from_utf8_lossy(&line), &mut answer, &mut heard);
        }
    }
    Ok(answer)
}

fn read_line(line: &str, answer: &mut Answer, heard: &mut impl FnMut(Piece)) {
    let Some(data) = line.trim().strip_prefix("data:") else { return };
    let Ok(chunk) = serde_json::from_str::<Value>(data.trim()) else { return };
    let delta = &chunk["choices"][0]["delta"];
    if let Some(text) = delta["reasoning_content"].as_str().filter(|text| !text.is_empty()) {
        heard(Piece::Thinking(text.to_owned()));
    }
    if let Some(text) = delta["content"].as_str().filter(|text| !text.is_empty()) {
        answer.text.push_str(text);
        heard(Piece::Text(text.to_owned()));
    }
    for call in delta["tool_calls"].as_array().into_iter().flatten() {
        let at = usize::try_from(call["index"].as_u64().unwrap_or(0)).unwrap_or(0);
        if answer.calls.len() <= at {
            answer.calls.resize_with(at + 1, ToolCall::default);
        }
        let slot = &mut answer.calls[at];
        slot.id.push_str(call["id"].as_str().unwrap_or_default());
        slot.name.push_str(call["function"]["name"].as_str().unwrap_or_default());
        slot.arguments.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
    }
}
