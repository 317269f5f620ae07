//! The Ghost Key proxy: a bot's model calls go out under the installation's own keys, and every call is in the books.
//! Never: a call without an admission, an answer whose last byte leaves before its usage is on disk, or a master key in
//! anything that a caller, a log or an error can show.

mod admit;
mod answer;
mod batch;
mod call;
mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod journal;
mod outgoing;
mod practice;
mod relay;
mod request;
mod settle;
mod speech;
mod surface;
mod tap;
mod upstream;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use molt_model::{Catalog, Clock, Nanos};
use molt_store::Store;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use batch::Pending;
use journal::Journal;
use upstream::Provider;

pub use config::{Config, ProviderConfig, ProviderKind};

/// Calls in flight in one process; the next one is asked to come back in a moment. Bounds memory and open sockets.
const CALLS_AT_ONCE_MAX: usize = 512;
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
    #[error("provider \"{name}\": {problem}")]
    Provider { name: String, problem: &'static str },
}

/// The running proxy. Cheap to clone.
#[derive(Clone)]
pub struct Ghost(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    catalog: Arc<Catalog>,
    providers: HashMap<String, Provider>,
    public_url: Url,
    monthly_cap: Nanos,
    journal: Journal,
    pending: Pending,
    calls: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Set once: no new calls; what is open is cut after a while.
    stopping: CancellationToken,
    /// The price book is in the database, so that usage rows may name it.
    book_kept: OnceCell<()>,
}

impl Ghost {
    /// Opens the journal, settles what an earlier process left in it, and starts writing the books.
    /// Needs a tokio runtime.
    pub fn start(config: Config, store: Store, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let providers = upstream::providers(&config)?;
        let (journal, left) = Journal::open(&config.data_dir.join("ghost"), clock.now())?;
        if !left.is_empty() {
            tracing::info!(calls = left.len(), "calls of an earlier process go into the books now");
        }
        let inner = Arc::new(Inner {
            store,
            clock,
            catalog: config.catalog,
            providers,
            public_url: config.public_url,
            monthly_cap: config.monthly_cap_nanos,
            journal,
            pending: Pending::new(left),
            calls: Arc::new(Semaphore::new(CALLS_AT_ONCE_MAX)),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            book_kept: OnceCell::new(),
        });
        tokio::spawn(batch::run(Arc::downgrade(&inner), inner.pending.clone()));
        Ok(Self(inner))
    }

    /// Lets open calls end, then the books be written, each for a bounded time. New calls are refused from now on.
    pub async fn drain(&self) {
        self.0.calls.close();
        self.0.tasks.close();
        if tokio::time::timeout(DRAIN_CALLS_MAX, self.0.tasks.wait()).await.is_err() {
            self.0.stopping.cancel();
            self.0.tasks.wait().await;
        }
        let left = tokio::time::timeout(DRAIN_BOOKS_MAX, self.0.pending.empty()).await.is_err();
        if left {
            tracing::warn!("calls are left in the journal; the next start writes them into the books");
        }
        self.0.pending.stop();
    }
}

/// The proxy's routes, all below `/v1`.
pub fn router(ghost: Ghost) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(call::chat))
        .route("/v1/responses", post(call::responses))
        .route("/v1/embeddings", post(call::embeddings))
        .route("/v1/messages", post(call::messages))
        .route("/v1/messages/count_tokens", post(call::count_tokens))
        .route("/v1/models", get(call::models))
        .with_state(ghost)
}
