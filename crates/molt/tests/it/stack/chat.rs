//! A chat client as somebody else would write it from the front door's page alone.
//! Never: knowledge of the program's own types.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::people::Person;
use super::{PATIENCE, Stack};

/// Nothing more comes when nothing came for so long.
const QUIET: Duration = Duration::from_millis(600);

/// An open socket, and every frame that came through it.
pub(crate) struct Chat {
    socket: WebSocketStream<TcpStream>,
    pub(crate) frames: Vec<Value>,
}

/// One run from its ack to its end, as one socket saw it.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) frames: Vec<Value>,
}

/// Why a socket was refused: the status of the answer and its body.
pub(crate) type Refusal = (StatusCode, Value);

impl Stack {
    pub(crate) async fn ticket(&self, person: &Person, bot: &str) -> String {
        let answer = self.http.post(&format!("/api/bots/{bot}/chat-ticket"), person, &Value::Null).await.ok();
        answer["ticket"].as_str().expect("a ticket").to_owned()
    }

    pub(crate) async fn chat(&self, person: &Person, bot: &str) -> Chat {
        let ticket = self.ticket(person, bot).await;
        let opened = self.try_chat(&format!("/api/chat/{bot}?ticket={ticket}"), &[]).await;
        opened.unwrap_or_else(|(status, body)| panic!("the chat was refused: {status} {body}"))
    }

    /// Opens a socket at this path with these headers.
    pub(crate) async fn try_chat(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Chat, Refusal> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("the program listens");
        let mut request = format!("ws://127.0.0.1:{}{path}", self.port).into_client_request().expect("an address");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header's value"));
        }
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Chat { socket, frames: Vec::new() }),
            Err(Error::Http(answer)) => {
                let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                Err((answer.status(), serde_json::from_str(&body).unwrap_or_else(|_| json!(body))))
            }
            Err(error) => panic!("no answer to the handshake: {error}"),
        }
    }
}

impl Chat {
    pub(crate) async fn say(&mut self, frame: Value) {
        self.raw(frame.to_string()).await;
    }

    pub(crate) async fn raw(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.expect("the socket is open");
    }

    /// Sends, and does not mind if the other side is gone.
    pub(crate) async fn try_say(&mut self, frame: Value) {
        let _ = self.socket.send(Message::text(frame.to_string())).await;
    }

    /// The next frame; `None` when the socket has closed, however it did.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a frame within its time")? {
                Ok(Message::Text(text)) => {
                    let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
                    self.frames.push(frame.clone());
                    return Some(frame);
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let Some(frame) = self.next().await else { panic!("the socket closed before {what}: {:#?}", self.frames) };
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// Whatever still comes until nothing does.
    pub(crate) async fn rest(&mut self) -> Vec<Value> {
        let from = self.frames.len();
        while let Ok(Some(_)) = tokio::time::timeout(QUIET, self.next()).await {}
        self.frames[from..].to_vec()
    }

    /// Sends a message and answers its run.
    pub(crate) async fn send(&mut self, id: &str, conversation: &str, text: &str) -> String {
        self.say(json!({"type": "send", "id": id, "conversation": conversation, "text": text})).await;
        let ack = self.until("the ack", |frame| frame["type"] == "ack" && frame["id"] == id).await;
        ack["run_id"].as_str().expect("a run").to_owned()
    }

    /// Sends a message and waits for the end of its run.
    pub(crate) async fn turn(&mut self, id: &str, conversation: &str, text: &str) -> Turn {
        let run_id = self.send(id, conversation, text).await;
        self.end_of(&run_id).await
    }

    pub(crate) async fn end_of(&mut self, run_id: &str) -> Turn {
        let seen = self.frames.iter().any(|frame| frame["run_id"] == run_id && ends_a_run(frame));
        if !seen {
            self.until("the run's end", |frame| frame["run_id"] == run_id && ends_a_run(frame)).await;
        }
        let of_run = |frame: &&Value| frame["run_id"] == run_id && frame["type"] != "ack";
        Turn { frames: self.frames.iter().filter(of_run).cloned().collect() }
    }

    /// Everything finished after `seq`, as a client gets it that was away.
    pub(crate) async fn resume(&mut self, after: i64) -> Vec<Value> {
        self.say(json!({"type": "resume", "after": after})).await;
        self.rest().await
    }

    /// A conversation's newest finished frames, oldest first.
    pub(crate) async fn history(&mut self, conversation: &str) -> Vec<Value> {
        self.say(json!({"type": "history", "conversation": conversation, "limit": 200})).await;
        let answer = self.until("the history", |frame| frame["type"] == "history").await;
        answer["items"].as_array().expect("a list").clone()
    }
}

impl Turn {
    pub(crate) fn of(&self, kind: &str) -> Vec<&Value> {
        self.frames.iter().filter(|frame| frame["type"] == kind).collect()
    }

    /// How the run ended.
    pub(crate) fn end(&self) -> &str {
        let ends: Vec<&Value> = self.frames.iter().filter(|frame| ends_a_run(frame)).collect();
        assert_eq!(ends.len(), 1, "a run ends exactly once: {ends:?}");
        ends[0]["phase"].as_str().expect("a phase")
    }

    /// The assistant's finished words, all messages of the run together.
    pub(crate) fn answer(&self) -> String {
        let said = self.of("message").into_iter().filter(|frame| frame["role"] == "assistant" && frame["done"] == true);
        said.filter_map(|frame| frame["content"].as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// `run` with one of the three phases that are final.
pub(crate) fn ends_a_run(frame: &Value) -> bool {
    let last = |phase: &str| ["finished", "failed", "aborted"].contains(&phase);
    frame["type"] == "run" && frame["phase"].as_str().is_some_and(last)
}

/// `seq` of finished frames: strictly increasing, so nothing came twice.
#[track_caller]
pub(crate) fn assert_in_order(frames: &[Value]) {
    let seqs: Vec<i64> = frames.iter().filter_map(|frame| frame["seq"].as_i64()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "not strictly increasing: {seqs:?}");
}
