//! The way to the places where models run: connect, send, wait for the answer's beginning, try elsewhere while that is
//! harmless. Our own HTTP/1.1, because one read of many events must become one write to the caller.
//! Never: a second try after the first byte of an answer, or a provider's text passed on with a key in it.

mod body;
mod breaker;
mod connect;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod head;
mod keyring;
mod outpost;
mod pool;
mod provider;
mod scrub;
mod tally;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::StartError;
use crate::answer::Refusal;
use crate::config::{ProviderConfig, ProviderKind};
use crate::practice::{Practice, PracticeBody};
use crate::surface::Surface;
use body::WireBody;
use keyring::Keyring;
use provider::{Failed, Patience, Provider};
use watch::KeyFile;

pub(crate) use head::Origin;
pub use keyring::MasterKey;
pub(crate) use outpost::Outpost;
pub(crate) use tally::Health;
pub use watch::{KeyFileFault, read_key_file};

/// One provider that may answer a call, and the body in its words. The first choice comes first.
pub(crate) struct Candidate<'a> {
    pub(crate) provider: &'a str,
    pub(crate) body: Bytes,
}

/// What is written down on the way out, so that a restart charges for nothing that never left.
pub(crate) trait Departure: Send + Sync {
    /// From here on it is the candidate of this number that is tried.
    fn tries(&self, candidate: usize);
    /// The next thing to leave is the request. An error: it can't be written down, so nothing may leave.
    fn leaves(&self) -> io::Result<()>;
    /// The attempt came to nothing.
    fn returned(&self);
}

/// The beginning of a provider's answer.
pub(crate) struct Reply {
    /// The provider streams: the body is server-sent events.
    pub(crate) streams: bool,
    pub(crate) body: ReplyBody,
}

pub(crate) enum ReplyBody {
    Wire(WireBody),
    Practice(PracticeBody),
}

/// The answer stopped before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the provider ended its answer too early")]
    Short,
    #[error("the connection to the provider broke")]
    Lost(#[source] io::Error),
    #[error("the provider's answer can't be read: {0}")]
    Malformed(&'static str),
}

impl ReplyBody {
    /// What there is to give on, as much as one read brought; `None`: the end. After an error only errors come.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        match self {
            Self::Wire(body) => body.poll_data(cx),
            // The pause between two words outlives the future.
            Self::Practice(body) => pin!(body.next()).poll(cx).map(|data| data.map(Ok)),
        }
    }

    #[cfg(test)]
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// The last bytes were given on; known with them, not only after them.
    pub(crate) fn is_ended(&self) -> bool {
        match self {
            Self::Wire(body) => body.is_ended(),
            Self::Practice(body) => body.is_ended(),
        }
    }

    /// Nobody reads along any more: no need to go slowly.
    pub(crate) fn hurry(&mut self) {
        if let Self::Practice(body) = self {
            body.hurry();
        }
    }
}

/// All providers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upstreams(Arc<Inner>);

struct Inner {
    places: HashMap<String, Place>,
    /// By provider.
    key_files: Vec<(String, KeyFile)>,
}

enum Place {
    Wire(Box<Provider>),
    Practice(Practice),
}

impl Upstreams {
    /// Faults of the configuration are said here, before anything starts. Needs a tokio runtime.
    pub(crate) fn start(configs: &[ProviderConfig], practice_pace: Duration) -> Result<Self, StartError> {
        let tls = connect::tls();
        let (mut places, mut key_files) = (HashMap::new(), Vec::new());
        for given in configs {
            let fault = |problem| StartError::Provider { name: given.name.clone(), problem };
            let place = match given.kind {
                ProviderKind::Practice => Place::Practice(Practice::new(given.name.clone(), practice_pace)),
                ProviderKind::OpenAi | ProviderKind::Anthropic => {
                    let file = given.key_file.clone().map(|path| KeyFile::new(path, given.api_keys.clone()));
                    let keys = file.as_ref().map_or_else(|| Ok(given.api_keys.clone()), KeyFile::read);
                    let keys = keys.and_then(Keyring::new).map_err(fault)?;
                    key_files.extend(file.map(|file| (given.name.clone(), file)));
                    Place::Wire(Box::new(Provider::new(given, keys, &tls).map_err(fault)?))
                }
            };
            if places.insert(given.name.clone(), place).is_some() {
                return Err(fault("there are two of this name; give each its own"));
            }
        }
        let inner = Arc::new(Inner { places, key_files });
        tokio::spawn(watch::run(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    /// From now on these keys, and no others, for this provider. Keys that stay keep their rest.
    #[cfg_attr(not(test), expect(dead_code, reason = "for an operator's tool; files of keys are watched already"))]
    pub(crate) fn set_keys(&self, provider: &str, keys: Vec<MasterKey>) -> Result<(), &'static str> {
        keyring::check(&keys)?;
        self.0.wire(provider).ok_or("there is no such provider")?.keys.set(keys);
        Ok(())
    }

    /// How each provider on the network does, in the order of their names.
    pub(crate) fn health(&self) -> Vec<Health> {
        let now = Instant::now();
        let mut all: Vec<Health> = self.0.wired().map(|provider| provider.health(now)).collect();
        all.sort_by(|a, b| a.provider.cmp(&b.provider));
        all
    }

    /// Sends the call to the first candidate that answers: its place in the list, and the answer's beginning. Nothing of
    /// an answer has been given on before this returns, so each attempt that came to nothing is without a trace.
    pub(crate) async fn send(
        &self,
        surface: Surface,
        candidates: &[Candidate<'_>],
        origin: &Origin<'_>,
        departure: &impl Departure,
    ) -> Result<(usize, Reply), Refusal> {
        let patience = Patience::begins(Instant::now());
        let mut kept: Option<Refusal> = None;
        for (at, candidate) in candidates.iter().enumerate() {
            if at > 0 && !patience.has(Instant::now(), Duration::ZERO) {
                break;
            }
            departure.tries(at);
            let sent = match self.0.places.get(candidate.provider) {
                Some(place) => place.send(surface, &candidate.body, origin, departure, patience).await,
                None => Err(Failed::Next(scrub::unavailable(scrub::RETRY_AFTER))),
            };
            match sent {
                Ok(reply) => return Ok((at, reply)),
                Err(Failed::Final(refusal)) => return Err(refusal),
                Err(Failed::Next(refusal)) => kept = Some(sooner(kept, refusal)),
            }
        }
        Err(kept.unwrap_or_else(|| scrub::unavailable(scrub::RETRY_AFTER)))
    }
}

/// Of two refusals the one after which it is worth coming back first. One that names no time blames the request, and is
/// said only where every candidate says so.
fn sooner(kept: Option<Refusal>, next: Refusal) -> Refusal {
    let wait = |refusal: &Refusal| refusal.retry_after_seconds.unwrap_or(u64::MAX);
    match kept {
        Some(kept) if wait(&kept) <= wait(&next) => kept,
        _ => next,
    }
}

impl Place {
    async fn send(
        &self,
        surface: Surface,
        body: &Bytes,
        origin: &Origin<'_>,
        departure: &impl Departure,
        patience: Patience,
    ) -> Result<Reply, Failed> {
        match self {
            Self::Practice(practice) => {
                departure.leaves().map_err(|_| Failed::Final(scrub::unavailable(scrub::RETRY_AFTER)))?;
                let refused = |refusal| {
                    departure.returned();
                    Failed::Final(refusal)
                };
                practice.reply(surface, body).map_err(refused)
            }
            Self::Wire(provider) => {
                provider.serves(surface).map_err(Failed::Next)?;
                provider.send(surface, body, origin, departure, patience).await
            }
        }
    }
}

impl Inner {
    fn wire(&self, name: &str) -> Option<&Provider> {
        match self.places.get(name)? {
            Place::Wire(provider) => Some(provider),
            Place::Practice(_) => None,
        }
    }

    fn wired(&self) -> impl Iterator<Item = &Provider> {
        self.places.keys().filter_map(|name| self.wire(name))
    }
}
