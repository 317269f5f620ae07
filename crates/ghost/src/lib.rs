//! The Ghost Key proxy: a bot's model calls go out under the installation's own keys, and every call is in the books.
//! Never: a call without an admission, an answer whose last byte leaves before its usage is on disk, or a master key in
//! anything that a caller, a log or an error can show.

mod admission;
mod answer;
mod body;
mod books;
mod call;
mod config;
mod egress;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod journal;
mod metrics;
mod outlive;
mod practice;
mod relay;
mod request;
mod routes;
mod serve;
mod settle;
mod speech;
mod surface;
mod tap;
mod trace;
mod turn;
mod upstream;
mod usage;
mod watch;
mod worst_case;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use molt_model::{CatalogInForce, Clock};
use molt_store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use admission::Admission;
use answer::Refusal;
use body::Buffers;
use books::Books;
use call::Caller;
use egress::Egress;
use journal::Journal;
use metrics::Metrics;
use routes::Routes;
use trace::Traces;
use upstream::Upstreams;
use watch::Watch;

pub use admission::limits::{Limits, Rates};
pub use config::{Config, ProviderConfig, ProviderKind};
pub use egress::Config as EgressConfig;
pub use framing::{Framing, TWO_LENGTHS, Watched};
pub use gate::{Gates, GatesHeld};
pub use serve::{Listeners, Server};
pub use upstream::{KeyFileFault, MasterKey, read_key_file};
pub use watch::{Looked, Rounds};

/// Calls in flight in one process; the next one is asked to come back in a moment. Bounds memory and open sockets.
const CALLS_AT_ONCE_MAX: usize = 2_048;
const BUSY_RETRY_SECONDS: u64 = 2;
/// How long a shutdown waits for answers that are being written. What is cut then is settled as an estimate.
const DRAIN_CALLS_MAX: Duration = Duration::from_secs(8);
/// How long a shutdown waits for the books after that; the journal keeps what is left.
const DRAIN_BOOKS_MAX: Duration = Duration::from_secs(5);

/// Why the proxy can't start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "another process already writes the usage journal in {0}; stop it first, or give this one its own data folder"
    )]
    JournalTaken(String),
    #[error(
        "the usage journal in {folder} can't be opened; check that the folder can be written and the disk isn't full"
    )]
    Journal { folder: String, source: std::io::Error },
    #[error("the address for traces (otlp_endpoint) can't be used: {0}")]
    Traces(&'static str),
    #[error("provider \"{name}\": {problem}")]
    Provider { name: String, problem: &'static str },
}

/// The running proxy. Cheap to clone.
#[derive(Clone)]
pub struct Ghost(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    catalog: CatalogInForce,
    upstreams: Upstreams,
    public_url: Url,
    admission: Admission,
    /// None: nobody wants it.
    watch: Option<Arc<Watch>>,
    journal: Arc<Journal>,
    books: Books,
    routes: Routes,
    egress: Egress,
    buffers: Buffers,
    calls: Arc<Semaphore>,
    metrics: Metrics,
    /// None: nobody wants traces.
    traces: Option<Traces>,
    tasks: TaskTracker,
    /// Set once: no new calls; what is open is cut after a while.
    stopping: CancellationToken,
}

impl Ghost {
    /// Opens the journal, settles what an earlier process left in it, and starts writing the books.
    /// Needs a tokio runtime, on which everything beside the calls runs from now on.
    pub fn start(config: Config, store: Store, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let upstreams = Upstreams::start(&config.providers, config.practice_pace)?;
        let (journal, recovered) = Journal::open(&config.data_dir.join("ghost"), clock.now())?;
        let journal = Arc::new(journal);
        let books = Books::start(store.clone(), Arc::clone(&clock), Arc::clone(&journal), recovered);
        let (cap, limits) = (config.monthly_cap_nanos, config.limits);
        let watch = config.watch.then(|| Arc::new(Watch::new(store.clone(), Arc::clone(&clock))));
        let resolver = Arc::new(egress::System);
        let egress = Egress::start(config.egress, store.clone(), Arc::clone(&clock), resolver);
        let admission = Admission::start(store, clock.clone(), journal.holder(), cap, limits);
        let traces = config.otlp_endpoint.as_ref().map(Traces::start).transpose()?;
        let calls = Arc::new(Semaphore::new(CALLS_AT_ONCE_MAX));
        let (journal_seen, leases) = (Arc::clone(&journal), admission.leases());
        let seen = metrics::State {
            upstreams: upstreams.clone(),
            journal: journal_seen,
            leases,
            calls: Arc::clone(&calls),
            egress: egress.counts(),
            spans: traces.as_ref().map(Traces::counts),
        };
        Ok(Self(Arc::new(Inner {
            clock,
            catalog: config.catalog,
            upstreams,
            public_url: config.public_url,
            admission,
            watch,
            journal,
            books,
            routes: Routes::default(),
            egress,
            buffers: Buffers::default(),
            calls,
            metrics: Metrics::new(seen),
            traces,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })))
    }

    /// All that is counted, in OpenMetrics' words, without the mark at the end.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.0.metrics.text()
    }

    /// Lets open calls end, then the books be written, each for a bounded time. New calls are refused from now on.
    pub async fn drain(&self) {
        self.0.egress.close().await;
        let all = u32::try_from(CALLS_AT_ONCE_MAX).expect("a few thousand");
        let open = Arc::clone(&self.0.calls).acquire_many_owned(all);
        if tokio::time::timeout(DRAIN_CALLS_MAX, open).await.is_err() {
            self.0.stopping.cancel();
        }
        self.0.calls.close();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        let _ = tokio::time::timeout(DRAIN_BOOKS_MAX, self.0.books.empty()).await;
        if tokio::time::timeout(DRAIN_BOOKS_MAX, self.0.admission.drain()).await.is_err() {
            tracing::warn!("leased money couldn't be given back; the next start gives it back");
        }
        self.0.books.close().await;
        if let Some(traces) = &self.0.traces {
            traces.close().await;
        }
    }
}

impl Inner {
    /// New calls are taken.
    fn is_open(&self) -> Result<(), Refusal> {
        if self.calls.is_closed() { Err(restarting()) } else { Ok(()) }
    }

    /// A place among all calls of this process.
    fn permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.calls).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::NoPermits => {
                Refusal::later("busy", "Too many calls at once; please try again in a moment.", BUSY_RETRY_SECONDS)
            }
            TryAcquireError::Closed => restarting(),
        })
    }
}

fn restarting() -> Refusal {
    Refusal::later("restarting", "Restarting; please try again in a moment.", BUSY_RETRY_SECONDS)
}

/// What a listener of somebody else's answers below `/v1` when `Framing` says that a request is double.
#[must_use]
pub fn two_lengths() -> Response {
    Response::from(call::two_lengths().map(Body::new))
}

/// The proxy's routes below `/v1`, for a listener that serves other things as well. `Server` is faster.
pub fn router(ghost: Ghost) -> Router {
    let handle = |State(ghost): State<Ghost>, request: Request| async move {
        Response::from(call::handle(&ghost.0, Caller::KeyHolder, request).await.map(Body::new))
    };
    Router::new().route("/v1", any(handle)).route("/v1/{*rest}", any(handle)).with_state(ghost)
}
