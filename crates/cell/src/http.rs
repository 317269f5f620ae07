//! The cell's door, for the platform only: health, configuration, chat stream.
//! Never: answer anything but "alive" without the gateway token.

use std::fs::Permissions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use molt_bot::{CellAddress, CellHealth, Fault, Op, REVISION_HEADER, Revision};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::apply::ApplyError;
use crate::chat::{Chat, LIVE_FRAMES_MAX, Wire};
use crate::config::Config;
use crate::health::Board;
use crate::supervisor::Command;

/// A configuration with a workspace full of skills.
const CONFIG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longer than a person's message, with room for JSON escapes.
const OP_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The platform says hello at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The platform gives up on a stream after three of these.
const PING_PERIOD: Duration = Duration::from_secs(15);
/// A reader that takes longer for one frame is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Replies that wait to be written.
const REPLIES_MAX: usize = 256;

/// What the routes need.
#[derive(Clone)]
pub struct Door {
    pub token: SecretString,
    pub board: Board,
    pub chat: Chat,
    pub commands: mpsc::Sender<Command>,
    /// Notified when the runtime is to start anew.
    pub restart: Arc<Notify>,
}

/// A listener of either kind.
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Starts listening. A socket that an earlier cell left behind is replaced; the lock says that it is dead.
    pub async fn bind(address: &CellAddress) -> anyhow::Result<Self> {
        match address {
            CellAddress::Tcp(address) => {
                Ok(Self::Tcp(TcpListener::bind(address).await.context("listen on the address")?))
            }
            CellAddress::Unix(path) => bind_unix(path).context("listen on the socket").map(Self::Unix),
        }
    }
}

/// Listens before there is a runtime for it, and before the network is left.
pub fn bind_early(address: &CellAddress) -> anyhow::Result<std::net::TcpListener> {
    let CellAddress::Tcp(address) = address else { anyhow::bail!("only a network can be left") };
    let listener = std::net::TcpListener::bind(address).context("listen on the address")?;
    listener.set_nonblocking(true).context("listen without waiting")?;
    Ok(listener)
}

/// Binds through a descriptor of the folder: a socket's own address holds only 108 bytes.
fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { anyhow::bail!("not a path to a socket") };
    std::fs::create_dir_all(folder).context("make the socket's folder")?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("remove the old socket");
        }
        _ => {}
    }
    let folder = std::fs::File::open(folder).context("open the socket's folder")?;
    let address = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    let listener = UnixListener::bind(&address)?;
    // Who may pass through the folder is the platform, as whatever user; the token is asked for behind the door.
    std::fs::set_permissions(&address, Permissions::from_mode(0o666)).context("open the socket to the platform")?;
    Ok(listener)
}

/// Serves until the process ends.
pub async fn serve(listener: Listener, door: Door) -> anyhow::Result<()> {
    let inside = Router::new()
        .route("/api/health", get(health))
        .route("/api/config", post(configure))
        .route("/api/restart", post(restart))
        .route("/api/stream", any(stream))
        .layer(DefaultBodyLimit::max(CONFIG_BYTES_MAX))
        .layer(from_fn_with_state(door.clone(), authorize));
    let router = Router::new().route("/healthz", get(alive)).merge(inside).with_state(door);
    match listener {
        Listener::Unix(listener) => axum::serve(listener, router).await,
        Listener::Tcp(listener) => axum::serve(listener, router).await,
    }
    .context("serve the platform")
}

async fn alive() -> Json<Value> {
    Json(json!({"ok": true}))
}

async fn authorize(State(door): State<Door>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let right = door.token.expose_secret().as_bytes().ct_eq(given.as_bytes());
    if bool::from(right) {
        return next.run(request).await;
    }
    refusal(StatusCode::UNAUTHORIZED, "unauthorized", "The gateway token is missing or wrong.")
}

async fn health(State(door): State<Door>) -> Json<CellHealth> {
    let mut health = door.board.read();
    health.active_runs = door.chat.active_runs();
    Json(health)
}

async fn configure(State(door): State<Door>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(body) = serde_json::from_slice::<Value>(&body).ok().filter(Value::is_object) else {
        return refusal(StatusCode::BAD_REQUEST, "not_an_object", "The configuration isn't a JSON object.");
    };
    let revision = match headers.get(REVISION_HEADER).map(|value| value.to_str().ok()?.parse::<Revision>().ok()) {
        Some(None) => return refusal(StatusCode::BAD_REQUEST, "bad_revision", "The revision isn't a number."),
        Some(Some(revision)) => revision,
        None => door.board.read().applied.map_or(0, |applied| applied.revision),
    };
    let (reply, answer) = oneshot::channel();
    let command = Command { config: Config { revision, body }, reply };
    if door.commands.try_send(command).is_err() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many configurations are waiting.");
    }
    match answer.await {
        Ok(Ok(applied)) => Json(applied).into_response(),
        Ok(Err(ApplyError::Invalid(why))) => refusal(StatusCode::UNPROCESSABLE_ENTITY, "config_invalid", &why),
        Ok(Err(ApplyError::Breaks)) => refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "config_breaks",
            "The assistant doesn't start with this configuration; the one before is back.",
        ),
        Ok(Err(ApplyError::NotApplied)) | Err(_) => {
            refusal(StatusCode::SERVICE_UNAVAILABLE, "not_applied", "The configuration couldn't be applied. Try again.")
        }
    }
}

/// Asked again while it is under way, it is the same restart or the next one; either way a fresh runtime comes of it.
async fn restart(State(door): State<Door>) -> Json<CellHealth> {
    door.restart.notify_one();
    Json(door.board.read())
}

async fn stream(State(door): State<Door>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(OP_BYTES_MAX).on_upgrade(move |socket| async move {
        // A stream ends when either side does; nothing is lost, the platform comes back with its position.
        carry(socket, &door.chat).await;
    })
}

async fn carry(mut socket: WebSocket, chat: &Chat) -> Option<()> {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, read_op(&mut socket)).await.ok()??;
    let Op::Hello { after } = hello else { return None };
    let (live, mut frames) = mpsc::channel(LIVE_FRAMES_MAX);
    let (reply, mut replies) = mpsc::channel::<Wire>(REPLIES_MAX);
    for line in chat.subscribe(after, live).await? {
        write(&mut socket, Message::text(line.as_ref())).await?;
    }
    let mut ping = tokio::time::interval(PING_PERIOD);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(line) = replies.recv() => write(&mut socket, Message::text(line.as_ref())).await?,
            // None: this reader fell behind and was dropped.
            line = frames.recv() => write(&mut socket, Message::text(line?.as_ref())).await?,
            op = read_op(&mut socket) => chat.op(op?, reply.clone()).await,
            _ = ping.tick() => write(&mut socket, Message::Ping(Bytes::new())).await?,
        }
    }
}

/// The next operation; none when the stream is over or doesn't make sense. Safe to cancel.
async fn read_op(socket: &mut WebSocket) -> Option<Op> {
    loop {
        match socket.recv().await?.ok()? {
            Message::Text(text) => return serde_json::from_str(&text).ok(),
            Message::Close(_) => return None,
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

async fn write(socket: &mut WebSocket, message: Message) -> Option<()> {
    tokio::time::timeout(WRITE_TIMEOUT, socket.send(message)).await.ok()?.ok()
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(Fault { code: code.to_owned(), message: message.to_owned() })).into_response()
}
