//! The listeners: what people and bots reach, and the operator's own.
//! Never: a port taken silently by another program, or a shutdown that waits for a browser.

use std::fmt::Write;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use http::StatusCode;
use molt_api::{Code, Problem};
use molt_ghost::{Framing, Ghost, TWO_LENGTHS, Watched};
use molt_model::{Clock, SystemClock};
use molt_store::Store;
use molt_store::stuck::StuckWhy;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// Live streams and chats never end by themselves; whoever is cut comes back and goes on.
const GRACE: Duration = Duration::from_millis(500);
/// Metrics are asked for every few seconds; whoever asks doesn't wait longer for the database.
const FLEET_LOOK: Duration = Duration::from_secs(2);
/// What Prometheus asks for and understands; its older form has no word for the end of a page.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Takes the port, or says in a sentence who could help. `option` is the setting's name on the command line or in the file.
pub async fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    explained(TcpListener::bind(address).await, address, option)
}

/// The listeners of a process that is nothing but a proxy: a thread a core.
pub fn bind_proxy(address: SocketAddr, option: &str) -> anyhow::Result<molt_ghost::Listeners> {
    explained(molt_ghost::Listeners::bind(address, 0), address, option)
}

fn explained<T>(bound: std::io::Result<T>, address: SocketAddr, option: &str) -> anyhow::Result<T> {
    match bound {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "port {} on {} is taken by another program; stop it, or choose another port with {option}",
            address.port(),
            address.ip()
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!("this account may not listen on {address}; choose a port above 1023 with {option}")
        }
        Err(error) => {
            Err(error).with_context(|| format!("molt can't listen on {address}; choose another address with {option}"))
        }
    }
}

/// Serves until `stopping`; then open requests get a moment.
pub fn serve(listener: TcpListener, router: Router, stopping: CancellationToken) -> JoinHandle<()> {
    let router = router.layer(middleware::from_fn(one_length));
    let service = router.into_make_service_with_connect_info::<Caller>();
    let listener = Front(listener);
    tokio::spawn(async move {
        let ending = stopping.clone();
        let served = axum::serve(listener, service).with_graceful_shutdown(async move { ending.cancelled().await });
        let cut = async {
            stopping.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            ended = served => if let Err(error) = ended {
                tracing::error!(error = &error as &dyn std::error::Error, "the listener ended");
            },
            () = cut => {}
        }
    })
}

/// Whoever is at the other end of a connection.
#[derive(Clone)]
struct Caller {
    address: SocketAddr,
    framing: Framing,
}

/// A listener whose requests are watched for what can be read in two ways.
struct Front(TcpListener);

impl Listener for Front {
    type Io = Watched<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        // Words of an answer are small packets that must not wait for each other. Without it they are only slower.
        let _ = stream.set_nodelay(true);
        (Watched::new(stream), address)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, Front>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Front>) -> Self {
        Self { address: *stream.remote_addr(), framing: stream.io().framing() }
    }
}

/// Refuses a body that has a length and comes in chunks.
async fn one_length(ConnectInfo(caller): ConnectInfo<Caller>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(ConnectInfo(caller.address));
    if !caller.framing.is_double(request.headers()) {
        return next.run(request).await;
    }
    if request.uri().path().starts_with("/v1") {
        return molt_ghost::two_lengths();
    }
    ([("connection", "close")], Problem::new(Code::InvalidHeader, TWO_LENGTHS)).into_response()
}

/// `/metrics` in OpenMetrics' words, for this machine's operator; and health, for roles without a front door.
pub fn operator_router(
    tasks: Tasks,
    ready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    ghost: Option<Ghost>,
    fleet: Option<Store>,
) -> Router {
    let readiness = ready.clone();
    let metrics = move || {
        let proxy = ghost.as_ref().map(Ghost::metrics).unwrap_or_default();
        let text = metrics(&tasks, ready().is_empty()) + &proxy;
        let fleet = fleet.clone();
        async move {
            let bots = match fleet {
                Some(store) => fleet_metrics(&store).await,
                None => String::new(),
            };
            ([("content-type", OPEN_METRICS)], text + &bots + "# EOF\n")
        }
    };
    let ready = move || {
        let waiting_for = readiness();
        let status = if waiting_for.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        async move { (status, waiting_for.join("\n") + "\n") }
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
}

fn metrics(tasks: &Tasks, ready: bool) -> String {
    let mut text = String::new();
    let statuses = tasks.statuses();
    let mut family = |name: &str, kind: &str, help: &str, values: Vec<(String, f64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        let suffix = if kind == "counter" { "_total" } else { "" };
        for (labels, value) in values {
            let _ = writeln!(text, "{name}{suffix}{labels} {value}");
        }
    };
    let of_loops = |value: &dyn Fn(&crate::tasks::Status) -> u64| {
        statuses.iter().map(|(name, status)| (format!("{{loop=\"{name}\"}}"), value(status) as f64)).collect::<Vec<_>>()
    };
    family("molt_loop_runs", "counter", "Rounds of a loop.", of_loops(&|status| status.runs));
    family("molt_loop_failures", "counter", "Rounds that failed.", of_loops(&|status| status.failures));
    family("molt_loop_panics", "counter", "Rounds that panicked.", of_loops(&|status| status.panics));
    family("molt_loop_handled", "counter", "Things a loop handled.", of_loops(&|status| status.handled));
    let last = |status: &crate::tasks::Status| status.last_duration_ms;
    family("molt_loop_last_duration_ms", "gauge", "How long the last round took.", of_loops(&last));
    family("molt_ready", "gauge", "Whether all parts are ready.", vec![(String::new(), f64::from(u8::from(ready)))]);
    if let Some(bytes) = resident_bytes() {
        family(
            "process_resident_memory_bytes",
            "gauge",
            "Memory of this process.",
            vec![(String::new(), bytes as f64)],
        );
    }
    text
}

/// What the fleet's process says about all bots; nothing while the database is away, so that the rest is still told.
async fn fleet_metrics(store: &Store) -> String {
    let now = SystemClock.now();
    let look = async {
        let mut system = store.system().await?;
        system.fleet_overview(now).await
    };
    let Ok(Ok(overview)) = tokio::time::timeout(FLEET_LOOK, look).await else { return String::new() };
    let mut text = "# HELP molt_bots Bots in a state.\n# TYPE molt_bots gauge\n".to_owned();
    for (observed, count) in &overview.counts {
        let (state, phase) = (observed.word(), observed.phase());
        let _ = writeln!(text, "molt_bots{{state=\"{state}\",phase=\"{phase}\"}} {count}");
    }
    text += "# HELP molt_bots_stuck Bots that do not get on; at most a hundred of each kind are counted.\n";
    text += "# TYPE molt_bots_stuck gauge\n";
    for why in StuckWhy::ALL {
        let count = overview.stuck.iter().filter(|stuck| stuck.why == why).count();
        let _ = writeln!(text, "molt_bots_stuck{{why=\"{}\"}} {count}", why.as_str());
    }
    text += "# HELP molt_bots_oldest_overdue_seconds How long the bot that is stuck for longest has been so.\n";
    text += "# TYPE molt_bots_oldest_overdue_seconds gauge\n";
    let _ = writeln!(text, "molt_bots_oldest_overdue_seconds {}", overview.oldest_overdue(now).num_seconds());
    text
}

/// Memory that this process holds, where the system tells.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
