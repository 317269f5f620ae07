//! The way out of a cell: a forward proxy that lets each bot reach the names that somebody allowed, at public addresses, and
//! says why not otherwise. A connection is looked at, never opened: of TLS only the name that is asked for is read.
//! Never: a name that is looked up twice, an address that wasn't checked, or a bot whose list isn't known let out.

mod asked;
mod count;
mod dial;
pub(crate) mod door;
mod hello;
mod lists;
mod pace;
mod passage;
mod plain;
mod refusals;
mod resolve;
#[cfg(test)]
mod tests;
mod tunnel;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use molt_model::egress::{Entry, Place, Reason, Rules};
use molt_model::{BotId, Clock};
use molt_store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Inner;
use crate::framing::TWO_LENGTHS;
use asked::{Asked, Kind};
pub(crate) use count::Counts;
use dial::NoWay;
use lists::{KeyHash, Known, List, Lists};
use passage::Passage;
use refusals::Refusals;
use resolve::Resolve;
pub(crate) use resolve::System;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use hello::fuzzing;

/// Ways that are open in one process, of all bots: two file handles each.
const OPEN_MAX: usize = 4_096;
/// Connections at the door of one process, of all bots: twice the ways, as one that is kept for its next request holds none.
const DOORS_MAX: usize = 2 * OPEN_MAX;
/// How long a shutdown waits until open ways are closed and the last refusals are written down.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// What the operator decides, and what the catalogue says of its skills.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub rules: Rules,
    /// By skill: where it must be able to go.
    pub skills: BTreeMap<String, Vec<Entry>>,
}

/// The ways out of all bots. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Egress(Arc<Parts>);

struct Parts {
    rules: Rules,
    lists: Arc<Lists>,
    resolver: Arc<dyn Resolve>,
    refusals: Refusals,
    counts: Arc<Counts>,
    places: Arc<Semaphore>,
    doors: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Whose request it is, and what it rests on.
#[derive(Clone, Debug)]
struct Guest {
    bot: BotId,
    /// None: it came through the bot's gate.
    key: Option<KeyHash>,
}

/// Why there is no way out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Denied {
    /// The request makes no sense; what would.
    Malformed(&'static str),
    /// It comes with no key that counts, or not any more.
    NoKey,
    /// It may not go there.
    Refused(Reason, Place),
    /// Whether it may isn't known just now.
    Unknown,
    /// Too many ways are open.
    Busy,
    /// Nobody is there.
    Unreachable(Place),
    TooSlow(Place),
}

/// Answers a `CONNECT`, or a request for another machine in absolute form, of this bot. The connection must be served with
/// upgrades.
pub(crate) async fn handle(inner: &Inner, bot: &BotId, request: Request<Incoming>) -> Response<Body> {
    inner.egress.handle(bot, request).await
}

impl Egress {
    /// Needs a tokio runtime, on which lists are read and refusals are written from now on.
    pub(crate) fn start(config: Config, store: Store, clock: Arc<dyn Clock>, resolver: Arc<dyn Resolve>) -> Self {
        let lists = Lists::start(store.clone(), config.skills);
        let refusals = Refusals::start(store, clock);
        Self(Arc::new(Parts {
            rules: config.rules,
            lists,
            resolver,
            refusals,
            counts: Arc::default(),
            places: Arc::new(Semaphore::new(OPEN_MAX)),
            doors: Arc::new(Semaphore::new(DOORS_MAX)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.0.counts)
    }

    pub(crate) async fn handle(&self, bot: &BotId, request: Request<Incoming>) -> Response<Body> {
        self.serve(&Guest { bot: bot.clone(), key: None }, request).await
    }

    async fn serve(&self, guest: &Guest, request: Request<Incoming>) -> Response<Body> {
        match self.answer(guest, request).await {
            Ok(response) => response,
            Err(denied) => {
                self.0.counts.denied(&denied);
                denied.response()
            }
        }
    }

    /// The answer to a request whose body can be read in two ways.
    pub(crate) fn two_lengths(&self) -> Response<Body> {
        self.0.counts.denied(&Denied::TWO_LENGTHS);
        Denied::TWO_LENGTHS.last_response()
    }

    async fn answer(&self, guest: &Guest, request: Request<Incoming>) -> Result<Response<Body>, Denied> {
        let asked = Asked::read(&request).map_err(Denied::Malformed)?;
        let passage = self.pass(guest, &asked).await?;
        let stream = tokio::select! {
            dialled = dial::dial(&self.0.rules, &*self.0.resolver, &asked.place, asked.port) => dialled,
            () = self.0.stop.cancelled() => Err(NoWay::Unreachable),
        };
        let stream = stream.map_err(|no_way| match no_way {
            NoWay::Refused(reason) => passage.refuse(reason),
            NoWay::Unreachable => Denied::Unreachable(asked.place.clone()),
            NoWay::TooSlow => Denied::TooSlow(asked.place.clone()),
        })?;
        self.0.counts.allowed();
        match asked.kind {
            Kind::Tunnel => Ok(tunnel::open(&self.0.tasks, request, stream, passage)),
            Kind::Plain => plain::forward(&self.0.tasks, request, stream, passage).await,
        }
    }

    /// What is known of the guest's bot, if the guest's key is the one in force.
    async fn admit(&self, guest: &Guest) -> Result<(Arc<Known>, List), Denied> {
        if self.0.stop.is_cancelled() {
            return Err(Denied::Busy);
        }
        let (known, list) = self.0.lists.of(&guest.bot).await.map_err(|_unknown| Denied::Unknown)?;
        if list.admits(guest.key.as_ref()) { Ok((known, list)) } else { Err(Denied::NoKey) }
    }

    /// Lets the bot through, if it may and there is room.
    async fn pass(&self, guest: &Guest, asked: &Asked) -> Result<Passage, Denied> {
        let parts = &self.0;
        let (known, list) = self.admit(guest).await?;
        if let Some(reason) = parts.rules.refusal(&list.entries, &asked.place, asked.port) {
            parts.note(&guest.bot, &asked.place, asked.port, reason);
            return Err(Denied::Refused(reason, asked.place.clone()));
        }
        let places = (place_of(&known.places)?, place_of(&parts.places)?);
        Ok(Passage::new(Arc::clone(parts), guest.clone(), asked, known.watch(), places))
    }

    /// Ends what is open and writes the last refusals down, for a bounded time.
    pub(crate) async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        let _ = tokio::time::timeout(CLOSE_MAX, self.0.tasks.wait()).await;
        if tokio::time::timeout(CLOSE_MAX, self.0.refusals.close()).await.is_err() {
            tracing::warn!("the last refused ways out were not written down");
        }
    }
}

impl Parts {
    /// Writes a refusal down.
    fn note(&self, bot: &BotId, place: &Place, port: u16, reason: Reason) {
        self.refusals.note(bot, place, port, reason, self.rules.is_quiet(place, port));
    }
}

fn place_of(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Denied> {
    Arc::clone(places).try_acquire_owned().map_err(|_full| Denied::Busy)
}

impl Denied {
    const TWO_LENGTHS: Self = Self::Malformed(TWO_LENGTHS);

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::NoKey => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Self::Refused(..) => StatusCode::FORBIDDEN,
            Self::Unknown | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable(_) => StatusCode::BAD_GATEWAY,
            Self::TooSlow(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// For the program that asked, and the model that reads along.
    fn sentence(&self) -> String {
        match self {
            Self::Malformed(what) => (*what).to_owned(),
            Self::NoKey => "This way is open to assistants only, each with keys of its own.".to_owned(),
            Self::Refused(Reason::NotListed, place) => {
                format!("This assistant may not reach {place}. Its owner sees that in the app and can allow it there.")
            }
            Self::Refused(Reason::Port, place) => {
                format!("This assistant may not use this port of {place}; web pages at 80 and 443 can be allowed.")
            }
            Self::Refused(Reason::Address, place) => {
                format!("This assistant may not reach {place}: ask for a domain name instead of an address.")
            }
            Self::Refused(Reason::PrivateAddress, place) => {
                format!("{place} leads into a private network, where no assistant may go.")
            }
            Self::Refused(Reason::OtherName | Reason::NoName, place) => {
                format!("Only {place} may be reached on this connection, and the request named something else.")
            }
            Self::Unknown => "Where this assistant may go can't be looked up just now; try again shortly.".to_owned(),
            Self::Busy => "Too many connections are open; try again in a moment.".to_owned(),
            Self::Unreachable(place) => format!("{place} can't be reached."),
            Self::TooSlow(place) => format!("{place} didn't answer in time."),
        }
    }

    fn response(&self) -> Response<Body> {
        self.text().map(Body::from)
    }

    fn text(&self) -> Response<String> {
        let mut response = Response::new(self.sentence() + "\n");
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if *self == Self::NoKey {
            headers.insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"egress\""));
        }
        response
    }

    /// The same, after which the connection ends.
    fn last_response(&self) -> Response<Body> {
        let mut response = self.response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}
