//! A provider on the loopback that answers as the model's name tells it to: well, slowly, half, wrongly, or not at all.
//! Never: a library between the test and the wire; what is broken here must be broken for real.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The master key of the test's provider; must never come back out.
pub(crate) const KEY: &str = "sk-master-0123456789";

#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) body: Value,
    pub(crate) authorization: String,
    pub(crate) traceparent: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), received: Arc::default() };
        let shared = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move { shared.serve(stream).await });
            }
        });
        upstream
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let (path, received) = read_request(&mut stream).await?;
        let model = received.body["model"].as_str().unwrap_or("").to_owned();
        let streams = received.body["stream"] == true;
        let (number, seen) = {
            let mut all = self.received.lock().unwrap();
            let seen = all.iter().filter(|other| other.body["model"] == model.as_str()).count();
            all.push(received);
            (all.len() - 1, seen)
        };
        let usage = json!({ "prompt_tokens": 1000 + number, "completion_tokens": 7,
            "prompt_tokens_details": { "cached_tokens": 400 }, "completion_tokens_details": { "reasoning_tokens": 3 } });
        if path.ends_with("/embeddings") {
            let body = json!({ "object": "list", "data": [], "usage": { "prompt_tokens": 5, "total_tokens": 5 } });
            return whole(&mut stream, "200 OK", &body).await;
        }
        let error = |text: &str| json!({ "error": { "message": text } });
        match model.as_str() {
            "broken" => return whole(&mut stream, "500 Oops", &error("boom")).await,
            "flaky" if seen < 2 => return whole(&mut stream, "503 Oops", &error("boom")).await,
            "unpaid" => return whole(&mut stream, "402 Pay", &error("Insufficient credits: check your billing")).await,
            "badkey" => {
                return whole(&mut stream, "401 No", &error(&format!("Incorrect API key provided: {KEY}"))).await;
            }
            "badrequest" => {
                let text = format!("This model's maximum context length is 8 tokens. Key {KEY}, sk-abc***");
                return whole(&mut stream, "400 Bad", &error(&text)).await;
            }
            _ => {}
        }
        if !streams {
            let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "word0 word3" }, "finish_reason": "stop" });
            let body = json!({ "choices": [choice], "usage": usage });
            if model == "cut" {
                stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"cho",
                    )
                    .await
                    .ok()?;
                return None;
            }
            return whole(&mut stream, "200 OK", &body).await;
        }
        self.stream(&mut stream, &model, &usage).await
    }

    async fn stream(&self, stream: &mut TcpStream, model: &str, usage: &Value) -> Option<()> {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .ok()?;
        let count = if model == "endless" { 10_000 } else { 4 };
        for word in 0..count {
            let delta = json!({ "choices": [{ "index": 0, "delta": { "content": format!("word{word} ") }, "finish_reason": null }] });
            event(stream, &delta.to_string()).await?;
            if matches!(model, "slow" | "endless") {
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        }
        if model == "cut" {
            return None;
        }
        event(stream, r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#)
            .await
            .filter(|()| model != "nousage")
            .or_else(|| (model == "nousage").then_some(()))?;
        match model {
            "nousage" => {}
            "lies" => event(stream, r#"{"choices":[],"usage":{"prompt_tokens":-9,"completion_tokens":1e99}}"#).await?,
            _ => event(stream, &json!({ "choices": [], "usage": usage }).to_string()).await?,
        }
        event(stream, "[DONE]").await?;
        stream.write_all(b"0\r\n\r\n").await.ok()
    }
}

async fn event(stream: &mut TcpStream, data: &str) -> Option<()> {
    let text = format!("data: {data}\n\n");
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.ok()
}

async fn whole(stream: &mut TcpStream, status: &str, body: &Value) -> Option<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.ok()
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Received)> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let headers: HashMap<String, String> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length")?.parse().ok()?;
    while bytes.len() < head_end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let path = head.split(' ').nth(1)?.to_owned();
    let body = serde_json::from_slice(&bytes[head_end..head_end + length]).ok()?;
    let authorization = headers.get("authorization").cloned().unwrap_or_default();
    let traceparent = headers.get("traceparent").cloned();
    Some((path, Received { body, authorization, traceparent }))
}
