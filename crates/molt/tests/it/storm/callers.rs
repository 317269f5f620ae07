//! Callers who ask at random, read some or all of the answer, hang up when it pleases them, and write down what they saw.
//! Never: a call made twice, whatever became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::dice::Dice;
use super::plan::{AWAY, CLAUDE, EMBED, FLAKY, HONEST, MARK, Model, Plan, Surface, Wish};

/// Under way at one time.
const CALLERS: usize = 24;
/// No answer of the storm takes longer, whatever happens to its proxy.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// A proxy that was killed is back after this.
const NOBODY_THERE_PATIENCE: Duration = Duration::from_secs(60);
const NOBODY_THERE_PAUSE: Duration = Duration::from_millis(10);

const FLAKY_PLANS: [Plan; 8] =
    [Plan::Good, Plan::Good, Plan::FailsOnce, Plan::FailsOnce, Plan::Fails, Plan::Busy, Plan::Refuses, Plan::Closes];
const STREAM_PLANS: [Plan; 8] =
    [Plan::Slow, Plan::Stall, Plan::Silent, Plan::Cut, Plan::CutAfterUsage, Plan::NoUsage, Plan::Excess, Plan::Garbage];
const WHOLE_PLANS: [Plan; 6] = [Plan::Stall, Plan::Cut, Plan::NoUsage, Plan::Excess, Plan::Garbage, Plan::LengthShort];
const EMBED_PLANS: [Plan; 4] = [Plan::Stall, Plan::Cut, Plan::NoUsage, Plan::Garbage];

/// How a call ended for its caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// The connection did.
    #[default]
    Broke,
    HungUp,
    Ended,
}

/// One call as its caller saw it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) wish: Wish,
    pub(super) surface: Surface,
    pub(super) model: &'static Model,
    pub(super) streams: bool,
    hangs_up: HangsUp,
    limited: bool,
    /// Whose proxy was asked, by its place.
    pub(super) slot: usize,
    pub(super) key: usize,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) status: Option<u16>,
    pub(super) id: Option<Uuid>,
    /// The proxy says that there is no row.
    pub(super) unmetered: bool,
    /// Words that arrived.
    pub(super) pieces: u64,
    pub(super) end: End,
    /// All of it arrived, with its end mark.
    pub(super) whole: bool,
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug)]
enum HangsUp {
    Never,
    /// While nothing is answered yet.
    After(Duration),
    /// Once so many words are there.
    At(u64),
}

/// All calls of a storm.
pub(super) struct Calls {
    pub(super) seed: u64,
    pub(super) total: u64,
    pub(super) keys: Vec<String>,
    pub(super) ports: Vec<u16>,
    next: AtomicU64,
    done: AtomicU64,
}

impl Calls {
    pub(super) fn new(seed: u64, total: u64, keys: Vec<String>, ports: Vec<u16>) -> Self {
        Self { seed, total, keys, ports, next: AtomicU64::new(0), done: AtomicU64::new(0) }
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Makes them all; what became of each.
    pub(super) async fn make(self: Arc<Self>) -> Vec<Made> {
        let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(self.clone().one_by_one())).collect();
        let mut all = Vec::new();
        for caller in callers {
            all.extend(caller.await.expect("a caller doesn't panic"));
        }
        all
    }

    async fn one_by_one(self: Arc<Self>) -> Vec<Made> {
        let mut connections: Vec<Option<SendRequest<Full<Bytes>>>> = self.ports.iter().map(|_| None).collect();
        let mut made = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.total {
                return made;
            }
            let mut call = self.throw(number);
            let mut connection = self.connect(&mut call, &mut connections).await;
            let body = call.body();
            let request = Request::post(call.surface.path())
                .header("host", "molt")
                .header("authorization", format!("Bearer {}", self.keys[call.key]))
                .header("content-type", "application/json")
                .body(Full::from(body.to_string()))
                .expect("a good request");
            if call.exchange(&mut connection, request).await == Some(Reusable) {
                connections[call.slot] = Some(connection);
            }
            call.ended = Instant::now();
            self.done.fetch_add(1, Ordering::Relaxed);
            made.push(call);
        }
    }

    /// What call this number is.
    pub(super) fn throw(&self, number: u64) -> Made {
        let mut dice = Dice::new(self.seed, number);
        let key = usize::try_from(dice.below(self.keys.len() as u64)).expect("small");
        let slot = usize::try_from(dice.below(self.ports.len() as u64)).expect("small");
        let surface = match dice.below(10) {
            0..5 => Surface::Chat,
            5..7 => Surface::Responses,
            7..9 => Surface::Messages,
            _ => Surface::Embeddings,
        };
        let model = match surface {
            Surface::Embeddings => &EMBED,
            Surface::Messages => &CLAUDE,
            _ if dice.percent(12) => &FLAKY,
            _ if dice.percent(2) => &AWAY,
            _ => &HONEST,
        };
        let streams = surface != Surface::Embeddings && dice.percent(60);
        let plan = match surface {
            _ if model.id == FLAKY.id => dice.pick(&FLAKY_PLANS),
            _ if !dice.percent(20) => Plan::Good,
            Surface::Embeddings => dice.pick(&EMBED_PLANS),
            _ if streams => dice.pick(&STREAM_PLANS),
            _ => dice.pick(&WHOLE_PLANS),
        };
        let limited = dice.percent(85) || plan == Plan::Excess;
        let most = if limited && dice.percent(10) { 200 } else { 24 };
        let wish = Wish { marker: number, plan, words: 1 + dice.below(most) };
        let hangs_up = match dice.below(100) {
            _ if plan == Plan::Silent => HangsUp::At(dice.below(wish.words / 2 + 1)),
            0..2 => HangsUp::After(Duration::from_millis(dice.below(20))),
            2..14 if streams => HangsUp::At(dice.below(wish.words + 1)),
            _ => HangsUp::Never,
        };
        let now = Instant::now();
        Made {
            wish,
            surface,
            model,
            streams,
            hangs_up,
            limited,
            slot,
            key,
            began: now,
            ended: now,
            status: None,
            id: None,
            unmetered: false,
            pieces: 0,
            end: End::Broke,
            whole: false,
            text: String::new(),
        }
    }

    /// To the proxy that the call is for; while it is down, to the next one.
    async fn connect(
        &self,
        call: &mut Made,
        open: &mut [Option<SendRequest<Full<Bytes>>>],
    ) -> SendRequest<Full<Bytes>> {
        let until = Instant::now() + NOBODY_THERE_PATIENCE;
        loop {
            call.began = Instant::now();
            if let Some(mut kept) = open[call.slot].take()
                && kept.ready().await.is_ok()
            {
                return kept;
            }
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.ports[call.slot])).await
                && let Ok((sender, connection)) = handshake(TokioIo::new(stream)).await
            {
                tokio::spawn(connection);
                return sender;
            }
            assert!(Instant::now() < until, "no proxy comes back");
            tokio::time::sleep(NOBODY_THERE_PAUSE).await;
            call.slot = (call.slot + 1) % self.ports.len();
        }
    }
}

/// The connection may carry another call.
#[derive(PartialEq, Eq)]
struct Reusable;

impl Made {
    fn body(&self) -> Value {
        let text = self.wish.text();
        let mut body = match self.surface {
            Surface::Chat | Surface::Messages => {
                json!({ "model": self.model.id, "messages": [{ "role": "user", "content": text }] })
            }
            Surface::Responses | Surface::Embeddings => json!({ "model": self.model.id, "input": text }),
        };
        if self.surface == Surface::Embeddings {
            return body;
        }
        body["stream"] = json!(self.streams);
        // Some ask to see the usage, some don't; the books have it either way.
        if self.surface == Surface::Chat && self.streams && self.wish.marker.is_multiple_of(2) {
            body["stream_options"] = json!({ "include_usage": true });
        }
        if self.limited {
            let name = if self.surface == Surface::Responses { "max_output_tokens" } else { "max_tokens" };
            body[name] = json!(self.wish.words + 8);
        }
        body
    }

    async fn exchange(
        &mut self,
        connection: &mut SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Option<Reusable> {
        let patience = match self.hangs_up {
            HangsUp::After(patience) => patience,
            HangsUp::Never | HangsUp::At(_) => ANSWER_PATIENCE,
        };
        let Ok(answered) = tokio::time::timeout(patience, connection.send_request(request)).await else {
            assert!(patience < ANSWER_PATIENCE, "no answer at all: {self:?}");
            self.end = End::HungUp;
            return None;
        };
        let response = answered.ok()?;
        self.status = Some(response.status().as_u16());
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        self.id = header("x-molt-request-id").and_then(|id| id.parse().ok());
        self.unmetered = header("x-molt-unmetered").is_some();
        let read = tokio::time::timeout(ANSWER_PATIENCE, self.read(response)).await;
        read.unwrap_or_else(|_| panic!("an answer that doesn't end: {self:?}"))
    }

    async fn read(&mut self, mut response: Response<Incoming>) -> Option<Reusable> {
        let mut bytes = Vec::new();
        loop {
            let enough = matches!(self.hangs_up, HangsUp::At(words) if self.pieces >= words);
            if enough && self.streams && self.status == Some(200) {
                self.end = End::HungUp;
                return None;
            }
            let Some(frame) = response.body_mut().frame().await else { break };
            let Ok(data) = frame.ok()?.into_data() else { continue };
            self.pieces += data.iter().filter(|&&byte| byte == MARK).count() as u64;
            bytes.extend_from_slice(&data);
        }
        self.end = End::Ended;
        self.text = String::from_utf8_lossy(&bytes).into_owned();
        let ends = !self.streams || self.text.contains(self.surface.end_mark());
        self.whole = self.status == Some(200) && !self.unmetered && ends;
        Some(Reusable)
    }
}
