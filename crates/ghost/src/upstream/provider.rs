//! One provider on the network: attempts under its keys until it answers or the patience is used up.
//! Never: a second attempt after the first byte of an answer was given on, or a charge for one that came to nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_rustls::rustls::ClientConfig;

use super::body::WireBody;
use super::breaker::Breaker;
use super::connect::{Address, Connection};
use super::exchange::exchange;
use super::head::{self, Head, Origin, Presented};
use super::keyring::{AllRest, Chosen, Keyring};
use super::pool::Pool;
use super::scrub::{self, Trouble};
use super::tally::Tally;
use super::{Departure, Reply, ReplyBody};
use crate::answer::Refusal;
use crate::config::{ProviderConfig, ProviderKind};
use crate::surface::Surface;

/// A model that thinks, or answers in one piece, may be silent for minutes.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(180);
const ATTEMPTS_MAX: u32 = 3;
/// Keys tried for one call beside its attempts; a refused key costs a round trip, and its caller waits.
const KEYS_TRIED_MAX: usize = 8;
/// No new attempt after this, so that the runtime's own patience isn't used up.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Of a provider's error body, and the time to read it.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
const ERROR_BODY_TIME_MAX: Duration = Duration::from_secs(5);

pub(super) struct Provider {
    pub(super) name: String,
    kind: ProviderKind,
    address: Address,
    openings: Vec<(Surface, Opening)>,
    pub(super) keys: Keyring,
    pub(super) breaker: Breaker,
    pub(super) pool: Arc<Pool>,
    pub(super) tally: Tally,
}

/// What of a request's head is the same for every call of a surface.
struct Opening {
    text: String,
    presented: Presented,
}

/// The time that one call may take to find a provider that answers.
#[derive(Clone, Copy)]
pub(super) struct Patience(Instant);

/// Why a provider has no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nobody else would do better.
    Final(Refusal),
    /// Another provider may.
    Next(Refusal),
}

/// What happens after an attempt that came to nothing.
#[derive(Debug)]
enum Step {
    /// Under another key, at once.
    OtherKey,
    Again(Duration),
    Fail(Failed),
}

/// How far one call has come with one provider.
struct Tries {
    attempts: u32,
    attempts_max: u32,
    /// Keys that were tried beside the attempts, refused and busy ones.
    keys: usize,
    /// Not to be asked again by this call.
    refused: Vec<u64>,
    /// The provider said something: it is there.
    answered: bool,
    /// It failed, the last time.
    failed: bool,
}

impl Patience {
    pub(super) fn begins(now: Instant) -> Self {
        Self(now + PATIENCE)
    }

    /// An attempt may begin after so long a pause.
    pub(super) fn has(self, now: Instant, pause: Duration) -> bool {
        now + pause < self.0
    }
}

/// Where a kind of provider has a surface, and how it wants its key.
const fn presented(kind: ProviderKind, surface: Surface) -> Option<Presented> {
    match (kind, surface) {
        (ProviderKind::OpenAi, Surface::Chat | Surface::Responses | Surface::Embeddings) => Some(Presented::Bearer),
        // Its own endpoint in OpenAI's shape, which takes the key in OpenAI's manner.
        (ProviderKind::Anthropic, Surface::Chat) => Some(Presented::Bearer),
        (ProviderKind::Anthropic, Surface::Messages | Surface::CountTokens) => Some(Presented::ApiKey),
        _ => None,
    }
}

impl Provider {
    pub(super) fn new(given: &ProviderConfig, keys: Keyring, tls: &Arc<ClientConfig>) -> Result<Self, &'static str> {
        let url = given.base_url.as_ref().ok_or("set its base_url, such as \"https://api.openai.com/v1\"")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("its base_url must not hold a user or a password; use api_key");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("its base_url must end before any ? or #");
        }
        let address = Address::of(url, tls).ok_or("its base_url must begin with http:// or https://")?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let authority = format!("{}{port}", url.host_str().unwrap_or_default());
        let base = url.path().trim_end_matches('/');
        let opening = |surface: Surface| {
            let text = head::opening(&format!("{base}{}", surface.path()), &authority);
            presented(given.kind, surface).map(|presented| (surface, Opening { text, presented }))
        };
        let openings = Surface::ALL.into_iter().filter_map(opening).collect();
        let (breaker, pool) = (Breaker::default(), Arc::default());
        let (name, kind, tally) = (given.name.clone(), given.kind, Tally::default());
        Ok(Self { name, kind, address, openings, keys, breaker, pool, tally })
    }

    /// An error names the surfaces that there are.
    pub(super) fn serves(&self, surface: Surface) -> Result<(), Refusal> {
        if presented(self.kind, surface).is_some() {
            return Ok(());
        }
        let paths: Vec<_> = self.openings.iter().map(|(surface, _)| format!("/v1{}", surface.path())).collect();
        let message = format!("The provider of this model doesn't have this; call {} with it.", paths.join(" or "));
        Err(Refusal::invalid("surface_not_served", message))
    }

    /// Sends the request until somebody answers. Nothing of an answer is given on before this returns.
    pub(super) async fn send(
        &self,
        surface: Surface,
        body: &Bytes,
        origin: &Origin<'_>,
        departure: &impl Departure,
        patience: Patience,
    ) -> Result<Reply, Failed> {
        let pass = self.breaker.pass(Instant::now()).map_err(|wait| Failed::Next(scrub::unavailable(wait)))?;
        let attempts_max = if pass.is_probe() { 1 } else { ATTEMPTS_MAX };
        let mut tries =
            Tries { attempts: 0, attempts_max, keys: 0, refused: Vec::new(), answered: false, failed: false };
        loop {
            let step = match self.keys.choose(Instant::now(), &tries.refused) {
                Err(rest) => tries.all_keys_rest(rest, patience, Instant::now()),
                Ok(key) => match self.attempt(surface, body, origin, departure, &key).await {
                    Ok(reply) => {
                        pass.succeeded();
                        self.keys.accepted(&key);
                        return Ok(reply);
                    }
                    Err(trouble) => {
                        departure.returned();
                        self.tally.failed(&trouble);
                        self.tell(&key, &trouble);
                        tries.after(trouble, key.number, patience, Instant::now())
                    }
                },
            };
            if !matches!(step, Step::Fail(_)) {
                self.tally.retried();
            }
            match step {
                Step::OtherKey => {}
                Step::Again(pause) => tokio::time::sleep(pause).await,
                Step::Fail(failed) => {
                    if tries.failed {
                        if pass.failed(Instant::now()) {
                            tracing::error!(
                                provider = self.name,
                                "a provider failed again and again; it is left alone"
                            );
                        }
                    } else if tries.answered {
                        pass.succeeded();
                    }
                    return Err(failed);
                }
            }
        }
    }

    #[cold]
    fn tell(&self, key: &Chosen, trouble: &Trouble) {
        match trouble {
            Trouble::Key { surely } => {
                tracing::error!(
                    provider = self.name,
                    surely,
                    "a provider refuses one of this installation's keys: check it"
                );
                self.keys.refused(key, Instant::now(), *surely);
            }
            Trouble::Busy(rest) => self.keys.busy(key, Instant::now(), *rest),
            Trouble::Caller(_) => self.keys.accepted(key),
            Trouble::Away { .. } | Trouble::Here => {}
        }
    }

    /// One request under one key.
    async fn attempt(
        &self,
        surface: Surface,
        body: &Bytes,
        origin: &Origin<'_>,
        departure: &impl Departure,
        key: &Chosen,
    ) -> Result<Reply, Trouble> {
        let found = self.openings.iter().find(|(known, _)| *known == surface);
        let Some((_, opening)) = found else { return Err(Trouble::Here) };
        let secret = key.secret.as_deref().map(secrecy::ExposeSecret::expose_secret);
        let head = head::request(&opening.text, secret, opening.presented, origin, body.len());
        let mut pooled = self.pool.take(Instant::now());
        loop {
            let mut connection = match pooled.take() {
                Some(connection) => connection,
                None => {
                    let opened = self.address.connect().await.map_err(|error| self.unreachable(&error))?;
                    self.tally.connected();
                    opened
                }
            };
            self.tally.leaves();
            departure.leaves().map_err(|_| Trouble::Here)?;
            let answered = tokio::time::timeout(FIRST_BYTE_TIMEOUT, exchange(&mut connection, &head, body)).await;
            match answered {
                Ok(Ok(head)) => return self.answered(head, connection).await,
                // The provider closed an idle connection while we took it up: it never looked at the request, and if it
                // did, a call without an answer is charged to nobody here. So it goes out again, on a new connection.
                Ok(Err(unanswered)) if connection.reused && unanswered.closed_silently => departure.returned(),
                Ok(Err(unanswered)) => return Err(self.unreachable(&unanswered.broken)),
                Err(_elapsed) => {
                    tracing::warn!(provider = self.name, "a provider sent no first byte in time");
                    return Err(Trouble::Away { again: false, wait: None });
                }
            }
        }
    }

    #[cold]
    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> Trouble {
        tracing::warn!(provider = self.name, error, "a provider can't be reached, or speaks wrongly");
        Trouble::Away { again: true, wait: None }
    }

    async fn answered(&self, head: Head, connection: Connection) -> Result<Reply, Trouble> {
        let Head { status, content_type, retry_after, framing, keep_alive } = head;
        let mut body = WireBody::new(connection, framing, keep_alive.then(|| Arc::clone(&self.pool)));
        if status.is_success() {
            let kind = content_type.as_ref().map(|value| value.as_bytes().trim_ascii_start()).unwrap_or_default();
            let stream = b"text/event-stream";
            let streams = kind.get(..stream.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(stream));
            return Ok(Reply { streams, body: ReplyBody::Wire(body) });
        }
        let text = tokio::time::timeout(ERROR_BODY_TIME_MAX, beginning(&mut body)).await.unwrap_or_default();
        tracing::warn!(provider = self.name, status = status.as_u16(), "a provider refused a call");
        Err(scrub::judge(status, retry_after, &text, &self.keys))
    }
}

/// An error's body as far as it goes.
pub(super) async fn beginning(body: &mut WireBody) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some(Ok(data)) = std::future::poll_fn(|cx| body.poll_data(cx)).await {
        text.extend_from_slice(&data);
        if text.len() > ERROR_BODY_BYTES_MAX {
            break;
        }
    }
    text
}

impl Tries {
    /// All the ifs about what comes next, and nothing else.
    #[cold]
    fn after(&mut self, trouble: Trouble, key: u64, patience: Patience, now: Instant) -> Step {
        self.failed = matches!(trouble, Trouble::Away { .. });
        self.answered |= !matches!(trouble, Trouble::Away { .. } | Trouble::Here);
        let (again, wait) = match trouble {
            Trouble::Caller(refusal) => return Step::Fail(Failed::Final(refusal)),
            Trouble::Here => return Step::Fail(Failed::Final(scrub::unavailable(scrub::RETRY_AFTER))),
            Trouble::Key { .. } | Trouble::Busy(_)
                if self.keys < KEYS_TRIED_MAX && patience.has(now, Duration::ZERO) =>
            {
                self.keys += 1;
                // A busy one may be waited for.
                if matches!(trouble, Trouble::Key { .. }) {
                    self.refused.push(key);
                }
                return Step::OtherKey;
            }
            Trouble::Key { .. } => return Step::Fail(Failed::Next(scrub::unavailable(scrub::RETRY_AFTER))),
            Trouble::Busy(wait) => return Step::Fail(Failed::Next(scrub::busy(wait))),
            Trouble::Away { again, wait } => (again, wait),
        };
        self.attempts += 1;
        let pause = jittered(wait.unwrap_or(RETRY_PAUSE * self.attempts));
        if again && self.attempts < self.attempts_max && patience.has(now, pause) {
            return Step::Again(pause);
        }
        Step::Fail(Failed::Next(scrub::unavailable(wait.unwrap_or(scrub::RETRY_AFTER))))
    }

    /// No key may be used now. A busy provider is waited for, if it says that it is back in time.
    #[cold]
    fn all_keys_rest(&mut self, rest: AllRest, patience: Patience, now: Instant) -> Step {
        self.attempts += 1;
        let pause = jittered(rest.wait);
        match rest.busy {
            true if self.attempts < self.attempts_max && patience.has(now, pause) => Step::Again(pause),
            true => Step::Fail(Failed::Next(scrub::busy(rest.wait))),
            // No wait: none rests, and this call has tried them all.
            false if rest.wait.is_zero() => Step::Fail(Failed::Next(scrub::unavailable(scrub::RETRY_AFTER))),
            false => Step::Fail(Failed::Next(scrub::unavailable(rest.wait))),
        }
    }
}

/// Up to a quarter longer, never shorter: callers that were sent away together don't come back together.
fn jittered(pause: Duration) -> Duration {
    let share = getrandom::u32().unwrap_or(0) % 1000;
    pause + pause / 4 * share / 1000
}
