//! The WebSocket to the runtime: its handshake, requests with a deadline, events in order.
//! Never: interpret an event, or reconnect by itself; the supervisor knows whether the runtime still lives.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// The runtime's protocol version that this cell was built against.
const PROTOCOL: u32 = 4;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// The runtime answers pings from its one thread, which was seen to be busy for seconds on a loaded machine.
const PATIENCE: Patience = Patience { ping: Duration::from_secs(10), unanswered_max: 4 };
/// The runtime's own limit for a frame.
const FRAME_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Requests that wait to be written.
const REQUESTS_MAX: usize = 256;
/// Events that wait to be translated; beyond this the socket isn't read until they are.
const EVENTS_MAX: usize = 1024;

type Socket = WebSocketStream<TcpStream>;

/// When a connection counts as dead.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// How often the runtime is asked for a sign of life: by itself it says something every 30 s only.
    ping: Duration,
    /// So often in vain, whatever else was asked of it meanwhile. Counted, not measured: a cell that was held up itself
    /// can't tell how long the runtime was silent.
    unanswered_max: u32,
}

impl Patience {
    fn write_max(self) -> Duration {
        self.ping * self.unanswered_max
    }
}

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
    tokio::spawn(carry(socket, inbox, outbox, PATIENCE));
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

/// Carries requests out and answers and events in, until either side is gone or the runtime hangs.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: WebSocketStream<S>,
    mut inbox: mpsc::Receiver<Request>,
    outbox: mpsc::Sender<GatewayEvent>,
    patience: Patience,
) {
    let mut waiting: HashMap<String, oneshot::Sender<Result<Value, GatewayError>>> = HashMap::new();
    let mut last_id: u64 = 0;
    let mut ping = tokio::time::interval(patience.ping);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unanswered = 0;
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
                if put(&mut socket, Message::text(frame.to_string()), patience).await.is_err() {
                    break;
                }
            }
            frame = hear(&mut socket) => {
                let Ok(frame) = frame else { break };
                if let Some(frame) = frame && !pass_on(frame, &mut waiting, &outbox).await {
                    break;
                }
                unanswered = 0;
            }
            _ = ping.tick() => {
                if unanswered == patience.unanswered_max {
                    tracing::warn!(pings = unanswered, "the runtime hangs");
                    break;
                }
                unanswered += 1;
                if put(&mut socket, Message::Ping(Bytes::new()), patience).await.is_err() {
                    break;
                }
            }
        }
    }
    // Tells everyone who still waits or listens that the connection is closed.
    drop((waiting, outbox));
    socket.close(None).await.ok();
}

/// False when nobody listens to events any more.
async fn pass_on(
    mut frame: Value,
    waiting: &mut HashMap<String, oneshot::Sender<Result<Value, GatewayError>>>,
    outbox: &mpsc::Sender<GatewayEvent>,
) -> bool {
    if frame["type"] == "event" {
        let event = frame["event"].as_str().unwrap_or_default().to_owned();
        let payload = frame["payload"].take();
        return outbox.send(GatewayEvent { event, payload }).await.is_ok();
    }
    if let Some(reply) = frame["id"].as_str().and_then(|id| waiting.remove(id)) {
        reply.send(answer(frame)).ok();
    }
    true
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
    put(socket, Message::text(frame.to_string()), PATIENCE).await
}

/// A runtime that hangs doesn't read either.
async fn put<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    message: Message,
    patience: Patience,
) -> Result<(), GatewayError> {
    let sent = tokio::time::timeout(patience.write_max(), socket.send(message)).await;
    sent.map_err(|_| GatewayError::Timeout)?.map_err(|_| GatewayError::Closed)
}

/// The next JSON frame. Safe to cancel.
async fn read(socket: &mut Socket) -> Result<Value, GatewayError> {
    loop {
        if let Some(frame) = hear(socket).await? {
            return Ok(frame);
        }
    }
}

/// The next sign of life, and the JSON in it. Safe to cancel.
async fn hear<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
) -> Result<Option<Value>, GatewayError> {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => {
            serde_json::from_str(&text).map(Some).map_err(|error| GatewayError::Protocol(error.into()))
        }
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(GatewayError::Closed),
        Some(Ok(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    const PATIENCE: Patience = Patience { ping: Duration::from_millis(20), unanswered_max: 4 };
    /// Far above what a busy machine adds.
    const SOON: Duration = Duration::from_secs(20);

    async fn connected() -> (Gateway, mpsc::Receiver<GatewayEvent>, WebSocketStream<DuplexStream>) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let (outbox, events) = mpsc::channel(EVENTS_MAX);
        let socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        tokio::spawn(carry(socket, inbox, outbox, PATIENCE));
        (Gateway { requests }, events, WebSocketStream::from_raw_socket(theirs, Role::Server, None).await)
    }

    /// Whoever goes on asking must not keep a dead connection alive by it.
    #[tokio::test]
    async fn a_runtime_that_hangs_is_noticed_while_it_is_asked() {
        let (gateway, mut events, _hangs) = connected().await;
        let asks = async {
            loop {
                let asked = gateway.request("chat.history", json!({}), PATIENCE.ping).await;
                if matches!(asked, Err(GatewayError::Closed)) {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, asks).await.expect("noticed");
        assert!(events.recv().await.is_none(), "whoever listens is told");
    }

    #[tokio::test]
    async fn a_runtime_that_does_not_read_any_more_is_noticed() {
        let (gateway, mut events, _hangs) = connected().await;
        let params = json!({"message": "x".repeat(128 * 1024)});
        let asked = gateway.request("chat.send", params, SOON).await;
        assert!(matches!(asked, Err(GatewayError::Closed)), "{asked:?}");
        assert!(events.recv().await.is_none());
    }

    /// It has nothing to say for ten times as long as a hanging one may be silent; its answers to pings are enough.
    #[tokio::test]
    async fn a_runtime_that_is_only_quiet_is_left_alone() {
        let (gateway, mut events, mut quiet) = connected().await;
        let served = async {
            let mut pings = 0;
            while let Some(Ok(message)) = quiet.next().await {
                pings += u32::from(message.is_ping());
                if pings == 10 * PATIENCE.unanswered_max {
                    let event = json!({"type": "event", "event": "tick", "payload": {}}).to_string();
                    quiet.send(Message::text(event)).await.unwrap();
                    return;
                }
            }
            panic!("cut after {pings} pings");
        };
        tokio::time::timeout(SOON, served).await.expect("pings come");
        assert_eq!(events.recv().await.expect("the connection stands").event, "tick");
        drop(gateway);
    }
}
