//! The stand-in's one port: health over HTTP, everything else over the WebSocket.
//! Never: accept what the real one refuses (a wrong token, a stale base hash, an unknown key).

use std::collections::HashMap;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::{any, get};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;

use crate::Surroundings;
use crate::session::Session;
use crate::turn::{Turn, Voice};

/// Top-level keys that the real one knows and that are used here.
const KEYS: [&str; 16] = [
    "gateway", "plugins", "browser", "update", "cron", "skills", "tools", "memory", "models", "agents", "logging",
    "proxy", "session", "messages", "commands", "meta",
];
/// Time zones that stand for a fault in the configuration which only shows later, as the real one has them: a start that
/// refuses what the running one took over, a runtime that ends when it is given the change, one that says no, and one that
/// lives on without listening.
const REFUSED_AT_START: &str = "Antarctica/Troll";
const ENDS_ON_CHANGE: &str = "Antarctica/Vostok";
const REFUSED_ON_CHANGE: &str = "Antarctica/Davis";
const HANGS_ON_CHANGE: &str = "Antarctica/Mawson";
const RECOVERY: &str = "[System] Your previous turn was interrupted by a gateway restart while OpenClaw was waiting on \
                        tool/model work. Continue from the existing transcript and finish the task.";
/// Frames that a reader may be behind.
const EVENTS_MAX: usize = 4096;

pub(crate) enum StartError {
    Config(String),
    Listen(std::io::Error),
}

#[derive(Clone)]
struct Gateway {
    surroundings: Surroundings,
    events: broadcast::Sender<(String, Value)>,
    /// From now on nobody is heard any more.
    deaf: watch::Sender<()>,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    config: Value,
    /// Keys seen in this process: in flight (with the way to stop it) or over.
    runs: HashMap<String, Option<(String, AbortHandle)>>,
}

pub(crate) async fn serve(surroundings: Surroundings) -> Result<(), StartError> {
    let config = std::fs::read(&surroundings.config).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let config = config.ok_or_else(|| StartError::Config("no configuration".into()))?;
    check(&config).map_err(StartError::Config)?;
    if zone(&config) == HANGS_ON_CHANGE {
        return std::future::pending().await;
    }
    if [REFUSED_AT_START, ENDS_ON_CHANGE, REFUSED_ON_CHANGE].contains(&zone(&config)) {
        return Err(StartError::Config(format!("no start in {}", zone(&config))));
    }
    let address = ("127.0.0.1", surroundings.port);
    let (events, _) = broadcast::channel(EVENTS_MAX);
    let shared = Arc::new(Mutex::new(Shared { config, runs: HashMap::new() }));
    let (deaf, mut turned_deaf) = watch::channel(());
    let gateway = Gateway { surroundings, events, deaf, shared };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/startupz", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .route("/", any(upgrade))
        .with_state(gateway.clone());
    // Read before anybody can start a run of their own.
    let interrupted = Session::all(&gateway.surroundings.state);
    let interrupted = interrupted.into_iter().filter(|session| session.running.is_some()).collect();
    let listener = TcpListener::bind(address).await.map_err(StartError::Listen)?;
    tokio::spawn(resume(gateway, interrupted));
    let served = axum::serve(listener, router).into_future();
    tokio::select! {
        ended = served => return ended.map_err(StartError::Listen),
        _ = turned_deaf.changed() => {}
    }
    std::future::pending().await
}

/// The real one takes up interrupted runs by itself, under new names, shortly after it is ready.
async fn resume(gateway: Gateway, interrupted: Vec<Session>) {
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    for mut session in interrupted {
        let run = uuid::Uuid::new_v4().to_string();
        session.push_user(&run, RECOVERY);
        let trace = uuid::Uuid::new_v4().simple().to_string();
        gateway.begin(session, &run, trace);
    }
}

async fn upgrade(State(gateway): State<Gateway>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(25 * 1024 * 1024).on_upgrade(move |socket| async move {
        gateway.talk(socket).await;
    })
}

impl Gateway {
    async fn talk(self, mut socket: WebSocket) -> Option<()> {
        let challenge = json!({"nonce": uuid::Uuid::new_v4(), "ts": 0});
        send(&mut socket, &json!({"type": "event", "event": "connect.challenge", "payload": challenge})).await?;
        let connect = receive(&mut socket).await?;
        if connect["params"]["auth"]["token"] != self.surroundings.token.as_str() {
            let error =
                json!({"code": "INVALID_REQUEST", "message": "bad token", "details": {"code": "AUTH_TOKEN_MISMATCH"}});
            send(&mut socket, &json!({"type": "res", "id": connect["id"], "ok": false, "error": error})).await?;
            return None;
        }
        let hello = json!({"type": "hello-ok", "protocol": 4, "server": {"version": "stand-in"},
            "auth": {"method": "token", "role": "operator", "scopes": connect["params"]["scopes"]}});
        send(&mut socket, &json!({"type": "res", "id": connect["id"], "ok": true, "payload": hello})).await?;
        let (mut events, mut deaf) = (self.events.subscribe(), self.deaf.subscribe());
        loop {
            tokio::select! {
                _ = deaf.changed() => return None,
                event = events.recv() => {
                    let (event, payload) = event.ok()?;
                    send(&mut socket, &json!({"type": "event", "event": event, "payload": payload})).await?;
                }
                request = receive(&mut socket) => {
                    let request = request?;
                    let id = &request["id"];
                    let answer = match self.answer(&request) {
                        Ok(payload) => json!({"type": "res", "id": id, "ok": true, "payload": payload}),
                        Err((code, message)) => {
                            json!({"type": "res", "id": id, "ok": false, "error": {"code": code, "message": message}})
                        }
                    };
                    send(&mut socket, &answer).await?;
                }
            }
        }
    }

    fn answer(&self, request: &Value) -> Result<Value, (&'static str, String)> {
        let params = &request["params"];
        match request["method"].as_str().unwrap_or_default() {
            "config.get" => {
                let config = self.lock().config.clone();
                let hash = hash(&config);
                Ok(
                    json!({"hash": hash, "configRevisionHash": hash, "appliedConfigHash": hash, "valid": true, "config": config}),
                )
            }
            "config.apply" => self.apply(params),
            "chat.send" => self.send(params, request["traceparent"].as_str()),
            "chat.history" => Ok(self.history(params["sessionKey"].as_str().unwrap_or_default())),
            "chat.abort" => Ok(self.abort(params)),
            "sessions.delete" => {
                let key = params["key"].as_str().unwrap_or_default();
                Ok(json!({"ok": true, "key": key, "deleted": Session::delete(&self.surroundings.state, key)}))
            }
            other => Err(("INVALID_REQUEST", format!("unknown method: {other}"))),
        }
    }

    fn apply(&self, params: &Value) -> Result<Value, (&'static str, String)> {
        let raw = params["raw"].as_str().unwrap_or_default();
        let config: Value =
            serde_json::from_str(raw).map_err(|error| ("INVALID_REQUEST", format!("invalid config: {error}")))?;
        let mut shared = self.lock();
        if params["baseHash"] != hash(&shared.config).as_str() {
            let message = "config changed since last load; re-run config.get and retry";
            return Err(("INVALID_REQUEST", message.to_owned()));
        }
        check(&config).map_err(|why| ("INVALID_REQUEST", format!("invalid config: {why}")))?;
        match zone(&config) {
            ENDS_ON_CHANGE => std::process::exit(1),
            HANGS_ON_CHANGE => drop(self.deaf.send(())),
            REFUSED_ON_CHANGE => return Err(("INVALID_REQUEST", "invalid config: no such place".to_owned())),
            _ => {}
        }
        std::fs::write(&self.surroundings.config, raw).map_err(|error| ("UNAVAILABLE", error.to_string()))?;
        let hash = hash(&config);
        shared.config = config;
        self.events.send(("config.changed".into(), json!({"hash": hash}))).ok();
        Ok(json!({"ok": true, "hash": hash}))
    }

    fn send(&self, params: &Value, traceparent: Option<&str>) -> Result<Value, (&'static str, String)> {
        let (Some(key), Some(run)) = (params["sessionKey"].as_str(), params["idempotencyKey"].as_str()) else {
            return Err(("INVALID_REQUEST", "session mutation target is unavailable".into()));
        };
        if let Some(known) = self.lock().runs.get(run) {
            let status = if known.is_some() { "in_flight" } else { "ok" };
            return Ok(json!({"runId": run, "status": status}));
        }
        let trace = traceparent.and_then(|trace| trace.split('-').nth(1)).map(str::to_owned);
        let trace = trace.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
        let mut session = Session::load(&self.surroundings.state, key);
        session.push_user(run, params["message"].as_str().unwrap_or_default());
        self.begin(session, run, trace);
        Ok(json!({"runId": run, "status": "started"}))
    }

    fn begin(&self, mut session: Session, run: &str, trace_id: String) {
        let voice = Voice { events: self.events.clone(), run: run.to_owned(), session: session.key.clone() };
        let (models, bot_name) = self.choices();
        let turn = Turn { surroundings: self.surroundings.clone(), voice, trace_id, models, bot_name };
        let (key, gateway, name) = (session.key.clone(), self.clone(), run.to_owned());
        session.running = Some(run.to_owned());
        let task = tokio::spawn(async move {
            // The real one answers "started" before the message is on its disk; killed in between, it knows nothing.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            session.save(&turn.surroundings.state);
            turn.run(session).await;
            gateway.lock().runs.insert(name, None);
        });
        self.lock().runs.insert(run.to_owned(), Some((key, task.abort_handle())));
    }

    fn choices(&self) -> (Vec<String>, String) {
        let shared = self.lock();
        let chosen = &shared.config["agents"]["defaults"]["model"];
        let fallbacks = chosen["fallbacks"].as_array().into_iter().flatten();
        let models = std::iter::once(&chosen["primary"]).chain(fallbacks);
        let name = shared.config["agents"]["entries"]["main"]["identity"]["name"].as_str().unwrap_or("assistant");
        (models.filter_map(|model| model.as_str().map(str::to_owned)).collect(), name.to_owned())
    }

    fn history(&self, key: &str) -> Value {
        let session = Session::load(&self.surroundings.state, key);
        let active = self.active(key);
        json!({"sessionKey": key, "messages": session.messages, "hasMore": false,
            "pendingInputs": {"items": [], "total": 0},
            "sessionInfo": {"key": key, "hasActiveRun": !active.is_empty() || session.running.is_some(), "activeRunIds": active}})
    }

    fn active(&self, key: &str) -> Vec<String> {
        let shared = self.lock();
        let in_flight = shared.runs.iter().filter(|(_, run)| run.as_ref().is_some_and(|(session, _)| session == key));
        in_flight.map(|(name, _)| name.clone()).collect()
    }

    fn abort(&self, params: &Value) -> Value {
        let key = params["sessionKey"].as_str().unwrap_or_default();
        let wanted = params["runId"].as_str();
        let names: Vec<String> =
            self.active(key).into_iter().filter(|name| wanted.is_none_or(|wanted| wanted == name)).collect();
        for name in &names {
            if let Some((_, task)) = self.lock().runs.insert(name.clone(), None).flatten() {
                task.abort();
            }
            let mut session = Session::load(&self.surroundings.state, key);
            session.running = None;
            session.save(&self.surroundings.state);
            let voice = Voice { events: self.events.clone(), run: name.clone(), session: key.to_owned() };
            voice.chat("aborted", json!({"stopReason": "rpc"}));
        }
        json!({"ok": true, "aborted": !names.is_empty(), "runIds": names})
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(config: &Value) -> Result<(), String> {
    let Some(map) = config.as_object() else { return Err("not an object".into()) };
    let unknown = map.keys().find(|key| !KEYS.contains(&key.as_str()));
    unknown.map_or(Ok(()), |key| Err(format!("<root>: Unrecognized key: \"{key}\"")))
}

fn zone(config: &Value) -> &str {
    config["agents"]["defaults"]["userTimezone"].as_str().unwrap_or_default()
}

fn hash(config: &Value) -> String {
    hex::encode(Sha256::digest(config.to_string()))
}

async fn send(socket: &mut WebSocket, frame: &Value) -> Option<()> {
    socket.send(Message::text(frame.to_string())).await.ok()
}

async fn receive(socket: &mut WebSocket) -> Option<Value> {
    loop {
        match socket.recv().await?.ok()? {
            Message::Text(text) => return serde_json::from_str(&text).ok(),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}
