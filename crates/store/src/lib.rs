//! Postgres, and the only crate that speaks SQL. A caller's rights are the type it holds: `TenantTx` acts as one person
//! under row-level security, `SystemTx` sees all rows and is for loops.
//! Never: business rules (they are in `model`), or an outside call while a transaction is open.

pub mod ahead;
pub mod billing;
pub mod bots;
pub mod budget;
pub mod chat;
pub mod conversations;
pub mod egress;
pub mod event;
pub mod fleet;
pub mod ghost;
mod listen;
pub mod local;
pub mod mail;
mod migrate;
pub mod outbox;
pub mod prices;
pub mod repair;
mod seal;
pub mod sessions;
pub mod spares;
pub mod stuck;
pub mod suspend;
pub mod sweep;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod usage;
pub mod users;
pub mod watch;

use std::time::Duration;

use molt_model::UserId;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres, Transaction};

pub use listen::{Channel, Wakeups};
pub use seal::{KeyFile, NoKeys, Place, Resealed, SealKey, SealKeyId, SealRing, Unsealable};

/// Connections of one process. The dev stack runs every role in one process; a handler holds one for milliseconds.
const CONNECTIONS_MAX: u32 = 12;
/// Longer waits mean that the database is away; the caller gets an error that says so.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a caller does differently about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique or check constraint refused the row; the name is the constraint's. Or a value that no row can hold; the name is the
    /// SQLSTATE.
    #[error("the database refused the row: {constraint}")]
    Constraint { constraint: String },
    /// The database can't be reached just now, or can't do it just now; the same again may work.
    #[error("the database can't be reached")]
    Unavailable(#[source] sqlx::Error),
    #[error("unexpected database error")]
    Unexpected(#[from] anyhow::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(db) if db.constraint().is_some() => {
                Self::Constraint { constraint: db.constraint().unwrap_or_default().to_owned() }
            }
            sqlx::Error::Database(db)
                if db.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23")) =>
            {
                Self::Constraint { constraint: db.code().unwrap_or_default().into_owned() }
            }
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Self::Unavailable(error),
            sqlx::Error::Database(db) if db.code().is_some_and(|code| is_passing(&code)) => Self::Unavailable(error),
            _ => Self::Unexpected(error.into()),
        }
    }
}

/// Errors of the server that say nothing against the statement, so that it may be tried again: a lost connection, a
/// deadlock, no room or too many connections, a lock or a statement that was given up, a shutdown.
fn is_passing(code: &str) -> bool {
    ["08", "40", "53", "55P03", "57"].iter().any(|class| code.starts_with(class))
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A pool of connections and the keys that seal secrets at rest. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    seal: SealRing,
    wakeups: Wakeups,
}

impl Store {
    /// Connects as the application role. The first connection is made at once, so that a wrong address shows here.
    pub async fn connect(url: &SecretString, seal: impl Into<SealRing>) -> Result<Self> {
        let seal = seal.into();
        let options: PgConnectOptions = url.expose_secret().parse().map_err(StoreError::from)?;
        let options = options.application_name("molt");
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.clone())
            .await?;
        let wakeups = Wakeups::listen(options, seal.clone());
        Ok(Self { pool, seal, wakeups })
    }

    /// Applies the migrations that are embedded in this binary. Safe to run from several processes at once.
    pub async fn migrate(url: &SecretString) -> Result<()> {
        migrate::run(url).await
    }

    /// A transaction as one person: row-level security shows and takes only this person's rows.
    pub async fn tenant(&self, user: UserId) -> Result<TenantTx> {
        let mut tx = self.pool.begin().await?;
        let claims = serde_json::json!({ "sub": user, "role": "molt_tenant" }).to_string();
        sqlx::query("select set_config('role', 'molt_tenant', true), set_config('request.jwt.claims', $1, true)")
            .bind(claims)
            .execute(&mut *tx)
            .await?;
        Ok(TenantTx { tx, user })
    }

    /// A transaction that sees all rows. For loops, log-in and the proxy; never for a request with a caller.
    pub async fn system(&self) -> Result<SystemTx> {
        // Both in one message: loops open thousands of these, and most of them read one row.
        let tx = self.pool.begin_with("begin; set local role molt_system").await?;
        Ok(SystemTx { tx })
    }

    /// Wake-ups from other processes and transactions: a channel carries no data, the reader looks for itself.
    #[must_use]
    pub fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    /// Seals and opens secrets that rest in the database.
    #[must_use]
    pub fn seal(&self) -> &SealRing {
        &self.seal
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Gives every connection back, the listening one first. To be called before the server is stopped.
    pub async fn close(&self) {
        self.wakeups.close().await;
        self.pool.close().await;
    }
}

/// A transaction under row-level security, for one person. Dropped without `commit`, it rolls back.
pub struct TenantTx {
    pub(crate) tx: Transaction<'static, Postgres>,
    pub(crate) user: UserId,
}

impl TenantTx {
    #[must_use]
    pub fn user(&self) -> UserId {
        self.user
    }

    pub async fn commit(self) -> Result<()> {
        Ok(self.tx.commit().await?)
    }
}

/// A transaction that sees all rows. Dropped without `commit`, it rolls back.
pub struct SystemTx {
    pub(crate) tx: Transaction<'static, Postgres>,
}

impl SystemTx {
    pub async fn commit(self) -> Result<()> {
        Ok(self.tx.commit().await?)
    }
}
