//! The open lines of this process: every live stream and every chat socket, with the log-in that opened it.
//! Never: a line that goes on after its log-in has ended, or one person holding so many that others find none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use molt_model::UserId;
use molt_store::sessions::LogIn;
use molt_store::{Channel, Store, StoreError};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};

use crate::problem::{Code, Problem};

/// Live streams of one person: a tab holds one, and people have fewer tabs than this on all their devices together.
const STREAMS_MAX: usize = 32;
/// Chat sockets of one person: a tab holds one, programs may hold one for each bot and device.
const SOCKETS_MAX: usize = 100;
/// The net under lost wake-ups.
const LOOK_PERIOD: Duration = Duration::from_secs(15);
/// When somebody who has too many may try again: a closed one is noticed at once.
const RETRY_AFTER_S: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `GET /api/events`.
    Stream,
    /// `GET /api/chat/{id}`.
    Socket,
}

/// All of them. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    next: u64,
    lines: HashMap<u64, Entry>,
}

struct Entry {
    kind: Kind,
    log_in: LogIn,
    ended: Arc<Notify>,
}

/// One line, counted as long as this lives.
pub(crate) struct Line {
    lines: Lines,
    id: u64,
    ended: Arc<Notify>,
}

impl Line {
    /// Resolves once the log-in has ended; one may wait for it.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.lines.open().lines.remove(&self.id);
    }
}

impl Lines {
    /// Counts a new line, then makes sure that its log-in is still in force: one that ends from now on ends the line.
    pub(crate) async fn begin(&self, store: &Store, kind: Kind, log_in: LogIn) -> Result<Line, Problem> {
        let line = self.count(kind, log_in)?;
        let ended = store.system().await?.ended_log_ins(&[log_in]).await?;
        if ended.is_empty() {
            return Ok(line);
        }
        Err(Problem::new(Code::Unauthenticated, "This session has ended; log in again."))
    }

    fn count(&self, kind: Kind, log_in: LogIn) -> Result<Line, Problem> {
        let (max, what) = match kind {
            Kind::Stream => (STREAMS_MAX, "live streams"),
            Kind::Socket => (SOCKETS_MAX, "chat connections"),
        };
        let mut open = self.open();
        let own = open.lines.values().filter(|line| line.kind == kind && line.log_in.user == log_in.user);
        if own.count() >= max {
            let detail = format!("You have {max} {what} open already; close some of them, then try again.");
            return Err(Problem::new(Code::TooManyOpen, detail).retry_after_s(RETRY_AFTER_S));
        }
        open.next += 1;
        let (id, ended) = (open.next, Arc::new(Notify::new()));
        open.lines.insert(id, Entry { kind, log_in, ended: ended.clone() });
        Ok(Line { lines: self.clone(), id, ended })
    }

    /// Ends lines whose log-in has ended, as soon as that is told, until the program closes.
    pub(crate) async fn watch(self, store: Store, closing: impl Future<Output = ()>) {
        let mut wakeups = store.wakeups().subscribe();
        let mut period = tokio::time::interval(LOOK_PERIOD);
        tokio::pin!(closing);
        loop {
            let whose = tokio::select! {
                () = &mut closing => return,
                whose = concerned(&mut wakeups) => match whose {
                    Some(whose) => whose,
                    None => return,
                },
                _ = period.tick() => Whose::Anybodys,
            };
            if let Err(error) = self.look(&store, whose).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "it isn't known which log-ins have ended; again soon"
                );
            }
        }
    }

    async fn look(&self, store: &Store, whose: Whose) -> Result<(), StoreError> {
        let (ids, log_ins): (Vec<u64>, Vec<LogIn>) = {
            let open = self.open();
            let asked = open.lines.iter().filter(|(_, line)| whose.has(line.log_in.user));
            asked.map(|(id, line)| (*id, line.log_in)).unzip()
        };
        if ids.is_empty() {
            return Ok(());
        }
        let ended = store.system().await?.ended_log_ins(&log_ins).await?;
        let open = self.open();
        for line in ended.into_iter().filter_map(|at| open.lines.get(ids.get(at)?)) {
            line.ended.notify_one();
        }
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose lines to look at.
#[derive(Clone, Copy)]
enum Whose {
    Anybodys,
    Of(UserId),
}

impl Whose {
    fn has(self, user: UserId) -> bool {
        match self {
            Self::Anybodys => true,
            Self::Of(one) => one == user,
        }
    }
}

/// The next wake-up about log-ins; `None`: there will be none any more.
async fn concerned(wakeups: &mut broadcast::Receiver<Channel>) -> Option<Whose> {
    loop {
        match wakeups.recv().await {
            Ok(Channel::Sessions(user)) => return Some(user.parse().map_or(Whose::Anybodys, Whose::Of)),
            Ok(Channel::All) | Err(RecvError::Lagged(_)) => return Some(Whose::Anybodys),
            Ok(_) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}
