//! The WebSocket to the runtime: its handshake, requests with a deadline, events in order.
//! Never: interpret an event, or reconnect by itself; the supervisor knows whether the runtime still lives.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// The runtime's protocol version that this cell was built against.
const PROTOCOL: u32 = 4;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// The runtime ticks every 30 s; three missed ticks are a dead connection.
const SILENCE_MAX: Duration = Duration::from_secs(95);
/// The runtime's own limit for a frame.
const FRAME_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Requests that wait to be written.
const REQUESTS_MAX: usize = 256;
/// Events that wait to be translated; beyond this the socket isn't read until they are.
const EVENTS_MAX: usize = 1024;

type Socket = WebSocketStream<TcpStream>;

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The connection is gone; whether the request was taken isn't known.
    #[error("the connection to the runtime is closed")]
    Closed,
    #[error("the runtime didn't answer in time")]
    Timeout,
    /// The runtime answered no.
    #[error("the runtime refused: {code}")]
    Refused { code: String, message: String, retryable: bool },
    #[error("the runtime doesn't speak the expected protocol")]
    Protocol(#[source] anyhow::Error),
}

/// An event of the runtime.
#[derive(Debug)]
pub struct GatewayEvent {
    pub event: String,
    pub payload: Value,
}

/// Sends requests; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway {
    requests: mpsc::Sender<Request>,
}

/// A connection that was just made.
#[derive(Debug)]
pub struct Connected {
    pub gateway: Gateway,
    /// Ends when the connection does.
    pub events: mpsc::Receiver<GatewayEvent>,
    pub version: Option<String>,
}

#[derive(Debug)]
struct Request {
    method: &'static str,
    params: Value,
    traceparent: Option<String>,
    reply: oneshot::Sender<Result<Value, GatewayError>>,
}

impl Gateway {
    /// Connects to the runtime on this machine and introduces the cell.
    pub async fn connect(port: u16, token: &SecretString) -> Result<Connected, GatewayError> {
        tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(port, token)).await.map_err(|_| GatewayError::Timeout)?
    }

    /// Asks for something and waits for the answer, at most `deadline`.
    pub async fn request(
        &self,
        method: &'static str,
        params: Value,
        deadline: Duration,
    ) -> Result<Value, GatewayError> {
        self.traced(method, params, None, deadline).await
    }

    /// The same, under a trace that the runtime passes on to its model calls.
    pub async fn traced(
        &self,
        method: &'static str,
        params: Value,
        traceparent: Option<String>,
        deadline: Duration,
    ) -> Result<Value, GatewayError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { method, params, traceparent, reply };
        let asking = async {
            self.requests.send(request).await.map_err(|_| GatewayError::Closed)?;
            answer.await.map_err(|_| GatewayError::Closed)?
        };
        tokio::time::timeout(deadline, asking).await.map_err(|_| GatewayError::Timeout)?
    }
}

async fn handshake(port: u16, token: &SecretString) -> Result<Connected, GatewayError> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|_| GatewayError::Closed)?;
    stream.set_nodelay(true).map_err(|_| GatewayError::Closed)?;
    let config =
        WebSocketConfig::default().max_message_size(Some(FRAME_BYTES_MAX)).max_frame_size(Some(FRAME_BYTES_MAX));
    let url = format!("ws://127.0.0.1:{port}/");
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config))
        .await
        .map_err(|error| GatewayError::Protocol(error.into()))?;
    wait_for(&mut socket, |frame| frame["event"] == "connect.challenge").await?;
    let connect = json!({"type": "req", "id": "connect", "method": "connect", "params": {
        "minProtocol": PROTOCOL, "maxProtocol": PROTOCOL,
        // A closed list on the runtime's side: this pair is the one for a program on the same machine.
        "client": {"id": "gateway-client", "displayName": "molt-cell", "version": env!("CARGO_PKG_VERSION"),
            "platform": "linux", "mode": "backend"},
        "role": "operator",
        "scopes": ["operator.read", "operator.write", "operator.admin", "operator.approvals"],
        "caps": ["tool-events"],
        "auth": {"token": token.expose_secret()},
        "locale": "en-US",
    }});
    write(&mut socket, &connect).await?;
    let hello = answer(wait_for(&mut socket, |frame| frame["id"] == "connect").await?)?;
    let scopes = hello["auth"]["scopes"].as_array().map_or(0, Vec::len);
    if scopes == 0 {
        // A connection without rights is accepted by the runtime and useless to us.
        return Err(GatewayError::Protocol(anyhow::anyhow!("connected without scopes")));
    }
    let version = hello["server"]["version"].as_str().map(str::to_owned);
    let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
    let (outbox, events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(carry(socket, inbox, outbox));
    Ok(Connected { gateway: Gateway { requests }, events, version })
}

async fn wait_for(socket: &mut Socket, wanted: impl Fn(&Value) -> bool) -> Result<Value, GatewayError> {
    loop {
        let frame = read(socket).await?;
        if wanted(&frame) {
            return Ok(frame);
        }
    }
}

/// Carries requests out and answers and events in, until either side is gone.
async fn carry(mut socket: Socket, mut inbox: mpsc::Receiver<Request>, outbox: mpsc::Sender<GatewayEvent>) {
    let mut waiting: HashMap<String, oneshot::Sender<Result<Value, GatewayError>>> = HashMap::new();
    let mut last_id: u64 = 0;
    loop {
        tokio::select! {
            request = inbox.recv() => {
                let Some(request) = request else { break };
                last_id += 1;
                let id = last_id.to_string();
                let mut frame =
                    json!({"type": "req", "id": id, "method": request.method, "params": request.params});
                if let Some(traceparent) = request.traceparent {
                    frame["traceparent"] = Value::String(traceparent);
                }
                waiting.retain(|_, reply| !reply.is_closed());
                waiting.insert(id, request.reply);
                if write(&mut socket, &frame).await.is_err() {
                    break;
                }
            }
            frame = tokio::time::timeout(SILENCE_MAX, read(&mut socket)) => {
                let Ok(Ok(mut frame)) = frame else { break };
                if frame["type"] == "event" {
                    let event = frame["event"].as_str().unwrap_or_default().to_owned();
                    let payload = frame["payload"].take();
                    if outbox.send(GatewayEvent { event, payload }).await.is_err() {
                        break;
                    }
                } else if let Some(reply) = frame["id"].as_str().and_then(|id| waiting.remove(id)) {
                    reply.send(answer(frame)).ok();
                }
            }
        }
    }
    // Dropping `waiting` tells everyone who still waits that the connection is closed.
    socket.close(None).await.ok();
}

fn answer(mut frame: Value) -> Result<Value, GatewayError> {
    if frame["ok"] == Value::Bool(true) {
        return Ok(frame["payload"].take());
    }
    let error = &frame["error"];
    Err(GatewayError::Refused {
        code: error["code"].as_str().unwrap_or("UNKNOWN").to_owned(),
        message: error["message"].as_str().unwrap_or_default().to_owned(),
        retryable: error["retryable"] == Value::Bool(true),
    })
}

async fn write(socket: &mut Socket, frame: &Value) -> Result<(), GatewayError> {
    socket.send(Message::text(frame.to_string())).await.map_err(|_| GatewayError::Closed)
}

/// The next JSON frame. Safe to cancel.
async fn read(socket: &mut Socket) -> Result<Value, GatewayError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text).map_err(|error| GatewayError::Protocol(error.into()));
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(GatewayError::Closed),
            Some(Ok(_)) => {}
        }
    }
}
