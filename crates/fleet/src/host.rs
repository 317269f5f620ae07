//! Where cells live: the one trait that a kind of host implements.
//! Never: anything about rows, plans or people; a host knows bots by their ids only.

use std::fmt;
use std::io::{self, ErrorKind};
use std::pin::Pin;

use molt_bot::CellAddress;
use molt_model::BotId;
use rustix::io::Errno;
use secrecy::SecretString;
use serde_json::Value;
use uuid::Uuid;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything that a cell is started with.
#[derive(Clone)]
pub struct CellSpec {
    pub bot: BotId,
    /// The system user that is this cell's alone. `None`: the host doesn't give cells users of their own.
    pub uid: Option<u32>,
    pub gateway_token: SecretString,
    pub ghost_key: SecretString,
    /// For ways out; a host whose cells have a socket to the proxy doesn't pass it on.
    pub egress_key: SecretString,
    /// Where the cell sends model calls.
    pub proxy_url: String,
    /// The runtime's configuration.
    pub config: Value,
    /// The settings' revision that `config` renders.
    pub revision: i64,
    /// The runtime's program and its arguments.
    pub runtime_command: Vec<String>,
    /// There for a bot that came to a place which was made before it. The host keeps it with the place when it first starts a
    /// cell there, and starts none where only others' are; to it that is one more name, it knows of no bot but by its id.
    pub claim: Option<Uuid>,
}

impl fmt::Debug for CellSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CellSpec").field("bot", &self.bot).field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// What a host knows of a bot's cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Absent,
    /// A cell lives (it may not answer yet).
    Present {
        address: CellAddress,
    },
}

/// How `ensure` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// A new cell, from this spec.
    Started,
    /// A cell lived already; the spec was not used.
    AlreadyThere,
}

/// What was ever started in a bot's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Used {
    /// Nothing, so whatever is there holds nothing.
    Never,
    /// A cell, under these claims; a cell may have been started without one.
    By(Vec<Uuid>),
}

impl Used {
    #[must_use]
    pub fn is_by(&self, claim: Uuid) -> bool {
        matches!(self, Self::By(claims) if claims.contains(&claim))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The host can't be used at all; the sentence says what to do.
    #[error("{0}")]
    Unusable(String),
    /// Something of the cell would not end.
    #[error("processes of {bot} would not end")]
    WontEnd { bot: BotId },
    #[error("the disk is full: make room on the host, and what waits goes on by itself")]
    DiskFull,
    #[error("unexpected error of the host")]
    Unexpected(#[source] anyhow::Error),
}

/// A full disk is told apart wherever it is met.
impl From<anyhow::Error> for HostError {
    fn from(error: anyhow::Error) -> Self {
        let full = |cause: &(dyn std::error::Error + 'static)| {
            let by_kind = cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == ErrorKind::StorageFull);
            by_kind || cause.downcast_ref::<Errno>() == Some(&Errno::NOSPC)
        };
        if error.chain().any(full) { Self::DiskFull } else { Self::Unexpected(error) }
    }
}

/// A kind of host. Every call may be repeated, in any order, after any crash: a cell is named after its bot, and there is
/// never more than one.
pub trait Host: Send + Sync + 'static {
    /// A word for the database and for logs.
    fn kind(&self) -> &'static str;

    /// Starts the bot's cell unless one lives.
    fn ensure<'a>(&'a self, spec: &'a CellSpec) -> BoxFuture<'a, Result<Ensured, HostError>>;

    fn inspect<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Report, HostError>>;

    /// Ends the cell and everything that it started; `Ok` means that nothing is left. The state stays. With `remove` the
    /// state goes too.
    fn stop<'a>(&'a self, bot: &'a BotId, remove: bool) -> BoxFuture<'a, Result<(), HostError>>;

    /// Every bot of which this host holds anything: a cell, a state, or the rest of either.
    fn list(&self) -> BoxFuture<'_, Result<Vec<BotId>, HostError>>;

    /// Resolves when the bot's cell is gone; at once if there is none.
    fn gone<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, ()>;

    /// For a host at which making a bot's place takes far longer than starting a cell in it. `None`: nothing is worth making
    /// ahead.
    fn prepares(&self) -> Option<&dyn Prepares> {
        None
    }
}

/// A host that makes a place before anybody wants the bot running, or before there is a bot: nothing runs in it, and no secret
/// is in it. Of a place that was there before its bot, `ensure` starts nothing and touches nothing if a cell was started in it
/// under other claims than the bot's (`CellSpec::claim`), or without one. These calls may be repeated like all others.
pub trait Prepares: Send + Sync {
    /// Makes the bot's place, unless it is there. `ensure` finds it.
    fn prepare<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<(), HostError>>;

    /// Takes away whatever of the place may hold something or costs something; `Ok` means that it is gone. A place in which a
    /// cell was ever started is left alone, and that is an error.
    fn withdraw<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<(), HostError>>;

    /// Whether a cell was ever started in the bot's place, and under whose claims. Only looks.
    fn used<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Used, HostError>>;
}
