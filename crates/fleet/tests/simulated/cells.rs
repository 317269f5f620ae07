//! The cells of a simulated host: one listener answers for all of them, and the gateway token tells which is meant.
//! Never: an answer for a machine that is gone, or to a token that isn't the machine's.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chrono::Utc;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use molt_bot::{Applied, CellHealth, Fault, Phase, REVISION_HEADER, canonical_hash};
use molt_model::BotId;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Simulated, locked};

/// Answers for the machines of `host` until it is dropped.
pub(crate) async fn serve_cells(listener: TcpListener, host: Arc<Simulated>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let host = host.clone();
        let service = service_fn(move |request| answer(host.clone(), request));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(host: Arc<Simulated>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match bot_of(&host, &request) {
        Some((bot, hangs)) => {
            if hangs {
                std::future::pending::<()>().await;
            }
            match request.uri().path() {
                "/api/health" => match health(&host, &bot) {
                    Some(health) => (StatusCode::OK, json!(health)),
                    None => refused(),
                },
                "/api/config" => apply(&host, &bot, request).await,
                other => panic!("nobody serves {other}"),
            }
        }
        None => refused(),
    };
    Ok(Response::builder().status(status).body(Full::from(body.to_string())).expect("a response"))
}

fn refused() -> (StatusCode, Value) {
    (StatusCode::UNAUTHORIZED, json!(Fault { code: "unauthorized".into(), message: "No.".into() }))
}

fn bot_of(host: &Simulated, request: &Request<Incoming>) -> Option<(BotId, bool)> {
    let token = request.headers().get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")?;
    let bot = locked(&host.by_token).get(token).cloned()?;
    let hangs = locked(&host.machines).get(&bot)?.hangs;
    Some((bot, hangs))
}

/// A runtime comes up phase by phase, each a third of the time.
fn health(host: &Simulated, bot: &BotId) -> Option<CellHealth> {
    let machines = locked(&host.machines);
    let machine = machines.get(bot)?;
    let up = Instant::now().duration_since(machine.started);
    let (phase, detail) = match host.rules.boot {
        boot if up >= boot => (Phase::Ready, "Ready."),
        boot if up * 3 >= boot * 2 => (Phase::Connecting, "Almost there."),
        boot if up * 3 >= boot => (Phase::Booting, "Waking up."),
        _ => (Phase::Starting, "The cell is up."),
    };
    Some(CellHealth {
        bot_id: bot.clone(),
        boot_id: machine.boot_id,
        phase,
        since: Utc::now(),
        detail: detail.into(),
        error: None,
        runtime_pid: None,
        runtime_restarts: 0,
        runtime_boot_ms: None,
        applied: Some(machine.applied.clone()),
        runtime_version: None,
        active_runs: 0,
    })
}

async fn apply(host: &Simulated, bot: &BotId, request: Request<Incoming>) -> (StatusCode, Value) {
    host.fuse.point().await;
    let revision = request.headers()[REVISION_HEADER].to_str().ok().and_then(|text| text.parse().ok());
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let config: Value = serde_json::from_slice(&body).expect("JSON");
    let applied = Applied { revision: revision.expect("a revision"), hash: canonical_hash(&config) };
    match locked(&host.machines).get_mut(bot) {
        Some(machine) => machine.applied = applied.clone(),
        None => return refused(),
    }
    host.fuse.point().await;
    (StatusCode::OK, json!(applied))
}
