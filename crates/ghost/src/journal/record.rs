//! What stands in a segment: routes, and calls with what has become of them.
//! Never: a record that is believed without its checksum, or a layout that two versions read differently; the segment's mark
//! changes with it.
//!
//! A call is a head, a part that never changes, and a part that is rewritten in place while the call is on its way:
//!
//! ```text
//! 0   mark | kind | length in words        written when the room is taken
//! 1   checksum of all up to the state      written last
//! 2   ids, times, reservation, bot, routes
//! 23  state | route                        one word: what is true is never half written
//! 24  relayed
//! 25  outcome, its checksum last           written before the state says "settled"
//! ```

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use molt_model::usage::Estimate;
use molt_model::{BotId, HolderId, KeyId, Nanos, Price, PriceVersion, RequestId, RunId, Time, TokenUsage, UserId};
use molt_store::usage::SettledCall;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The upper half of every head.
const MARK: u64 = 0x4d43_414c;
const ROUTE: u64 = 1;
const CALL: u64 = 2;
/// Room that a crash left half written.
const TORN: u64 = 3;
const HEAD_WORDS: usize = 2;
/// Fixed, and longer than any bot's id.
const BOT_WORDS: usize = 3;
/// A first choice and its fallbacks.
pub(crate) const ROUTES_MAX: usize = 7;
const STATE_AT: usize = 23;
const RELAYED_AT: usize = 24;
const OUTCOME_AT: usize = 25;
const OUTCOME_WORDS: usize = 10;
pub(super) const CALL_WORDS: usize = OUTCOME_AT + OUTCOME_WORDS + 1;

/// Where a call may go and what it costs there. Made once for a model and a surface, and written once into each segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) provider: Arc<str>,
    /// `provider/model`.
    pub(crate) model: Arc<str>,
    /// As the books call it.
    pub(crate) surface: Arc<str>,
    pub(crate) price: Price,
    pub(crate) price_version: PriceVersion,
}

/// What is known of a call before it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmittedCall<'a> {
    pub(crate) id: RequestId,
    pub(crate) user: UserId,
    pub(crate) book_key: Uuid,
    pub(crate) bot: Option<&'a BotId>,
    pub(crate) key: KeyId,
    pub(crate) run: Option<RunId>,
    /// The first choice, then the fallbacks; at most `ROUTES_MAX`.
    pub(crate) routes: &'a [Arc<Route>],
    pub(crate) period_start: Time,
    pub(crate) input_tokens_estimate: i64,
    /// The worst case that was set aside for it.
    pub(crate) reserved: Nanos,
    pub(crate) at: Time,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Which of the call's routes answered.
    pub(crate) route: usize,
    pub(crate) usage: TokenUsage,
    pub(crate) charged: Nanos,
    /// What it cost above all that could be charged.
    pub(crate) operator: Nanos,
    pub(crate) estimate: Option<Estimate>,
    pub(crate) first_byte_ms: Option<i64>,
    pub(crate) duration_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Admitted,
    /// The next thing to leave was the call.
    Sent,
    /// The provider didn't take it; it may be sent again.
    Returned,
    /// No provider took it: nothing to charge.
    Void,
    Settled,
    /// Settled, and the books refused it.
    SetAside,
    Booked,
}

impl State {
    const ALL: [Self; 7] =
        [Self::Admitted, Self::Sent, Self::Returned, Self::Void, Self::Settled, Self::SetAside, Self::Booked];

    /// Zero is never written: it is what room holds before it is taken.
    const fn code(self) -> u64 {
        self as u64 + 1
    }
}

/// Of words as they lie on the disk.
pub(super) fn checksum(words: &[u64]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    let mut bytes = [0u8; 8 * STATE_AT];
    for some in words.chunks(STATE_AT) {
        for (word, place) in some.iter().zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        hasher.update(&bytes[..8 * some.len()]);
    }
    u64::from(hasher.finalize())
}

const fn head(kind: u64, length: usize) -> u64 {
    MARK << 32 | kind << 24 | length as u64
}

/// Kind and length; `None`: no record begins here.
fn read_head(word: u64) -> Option<(u64, usize)> {
    let length = usize::try_from(word & 0xff_ffff).ok()?;
    (word >> 32 == MARK && length > 0).then_some((word >> 24 & 0xff, length))
}

fn read(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

fn write(words: &[AtomicU64], values: &[u64]) {
    for (word, value) in words.iter().zip(values) {
        word.store(*value, Ordering::Relaxed);
    }
}

/// Signed numbers rest as their two's complement.
#[expect(clippy::cast_sign_loss, reason = "read back by `signed`")]
const fn unsigned(number: i64) -> u64 {
    number as u64
}

#[expect(clippy::cast_possible_wrap, reason = "written by `unsigned`")]
const fn signed(word: u64) -> i64 {
    word as i64
}

fn pair(id: Uuid) -> [u64; 2] {
    let (high, low) = id.as_u64_pair();
    [high, low]
}

/// A route as it is written: head, checksum, length of the text, text.
pub(super) fn encode_route(route: &Route) -> io::Result<Vec<u64>> {
    let text = serde_json::to_vec(route)?;
    let length = HEAD_WORDS + 1 + text.len().div_ceil(8);
    let mut words = vec![head(ROUTE, length), 0, text.len() as u64];
    words.extend(text.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bytes)
    }));
    words[1] = checksum(&words);
    Ok(words)
}

pub(super) fn write_route(words: &[AtomicU64], route: &[u64]) {
    write(words, route);
}

/// Takes the room of a call, so that the ones after it can be found whatever becomes of it.
pub(super) fn take_room(words: &[AtomicU64]) {
    words[0].store(head(CALL, CALL_WORDS), Ordering::Release);
}

/// Writes what never changes, and that the call is admitted. `routes` are the places of its routes in the same segment.
pub(super) fn write_call(words: &[AtomicU64], call: &AdmittedCall<'_>, routes: &[u32]) {
    let mut values = [0u64; STATE_AT];
    values[0] = head(CALL, CALL_WORDS);
    let ids = [call.id.0, call.user.0, call.book_key, call.key.0, call.run.map_or(Uuid::nil(), |run| run.0)];
    for (at, id) in ids.into_iter().enumerate() {
        values[2 + 2 * at..4 + 2 * at].copy_from_slice(&pair(id));
    }
    values[12] = unsigned(call.at.timestamp_micros());
    values[13] = unsigned(call.period_start.timestamp_micros());
    values[14] = unsigned(call.input_tokens_estimate);
    values[15] = unsigned(call.reserved.0);
    let bot = call.bot.map_or("", BotId::as_str).as_bytes();
    let mut bytes = [0u8; BOT_WORDS * 8];
    let length = bot.len().min(bytes.len() - 1);
    bytes[0] = u8::try_from(length).expect("shorter than the room for it");
    bytes[1..=length].copy_from_slice(&bot[..length]);
    for (at, chunk) in bytes.chunks(8).enumerate() {
        values[16 + at] = u64::from_le_bytes(chunk.try_into().expect("chunks of eight"));
    }
    let mut places = [0u32; 1 + ROUTES_MAX];
    places[0] = u32::try_from(routes.len()).expect("at most ROUTES_MAX");
    places[1..=routes.len()].copy_from_slice(routes);
    for (at, two) in places.chunks(2).enumerate() {
        values[19 + at] = u64::from(two[0]) << 32 | u64::from(two[1]);
    }
    values[1] = checksum(&values);
    write(&words[2..], &values[2..]);
    set(words, State::Admitted, 0);
    words[1].store(values[1], Ordering::Release);
}

/// In one word, so that nobody ever reads half of it.
pub(super) fn set(words: &[AtomicU64], state: State, route: usize) {
    words[STATE_AT].store(state.code() | (route as u64) << 8, Ordering::Release);
}

/// The state, and which route the call took or takes; `None`: still being written.
pub(super) fn state(words: &[AtomicU64]) -> Option<(State, usize)> {
    let word = words[STATE_AT].load(Ordering::Acquire);
    let state = State::ALL.into_iter().find(|state| state.code() == word & 0xff)?;
    Some((state, usize::try_from(word >> 8).ok()?))
}

pub(super) fn set_relayed(words: &[AtomicU64], pieces: i64) {
    words[RELAYED_AT].store(unsigned(pieces), Ordering::Relaxed);
}

fn estimate_code(estimate: Option<Estimate>) -> u64 {
    match estimate {
        None => 0,
        Some(Estimate::HungUp) => 1,
        Some(Estimate::ProviderCut) => 2,
        Some(Estimate::ProxyRestarted) => 3,
        Some(Estimate::NotReported) => 4,
    }
}

fn estimate(code: u64) -> Option<Option<Estimate>> {
    Some(match code {
        0 => None,
        1 => Some(Estimate::HungUp),
        2 => Some(Estimate::ProviderCut),
        3 => Some(Estimate::ProxyRestarted),
        4 => Some(Estimate::NotReported),
        _ => return None,
    })
}

/// Writes how the call ended, and then that it did.
pub(super) fn write_outcome(words: &[AtomicU64], outcome: &Outcome) {
    let usage = &outcome.usage;
    let numbers = [
        usage.input,
        usage.output,
        usage.cache_read,
        usage.cache_write,
        usage.reasoning,
        outcome.charged.0,
        outcome.operator.0,
        outcome.first_byte_ms.unwrap_or(-1),
        outcome.duration_ms,
    ];
    let mut values = [0u64; OUTCOME_WORDS];
    for (value, number) in values.iter_mut().zip(numbers) {
        *value = unsigned(number);
    }
    values[9] = estimate_code(outcome.estimate);
    write(&words[OUTCOME_AT..], &values);
    words[OUTCOME_AT + OUTCOME_WORDS].store(checksum(&values), Ordering::Relaxed);
    set(words, State::Settled, outcome.route);
}

/// `None`: a power cut took a part of it.
fn read_outcome(words: &[AtomicU64], route: usize) -> Option<Outcome> {
    let values = read(&words[OUTCOME_AT..OUTCOME_AT + OUTCOME_WORDS]);
    let sum = words[OUTCOME_AT + OUTCOME_WORDS].load(Ordering::Relaxed);
    if sum != checksum(&values) {
        return None;
    }
    let number = |at: usize| signed(values[at]);
    let (input, output, cache_read, cache_write, reasoning) = (number(0), number(1), number(2), number(3), number(4));
    Some(Outcome {
        route,
        usage: TokenUsage { input, output, cache_read, cache_write, reasoning },
        charged: Nanos(number(5)),
        operator: Nanos(number(6)),
        estimate: estimate(values[9])?,
        first_byte_ms: Some(number(7)).filter(|ms| *ms >= 0),
        duration_ms: number(8),
    })
}

/// Whose record it is, for a log.
pub(super) fn id(words: &[AtomicU64]) -> RequestId {
    RequestId(Uuid::from_u64_pair(words[2].load(Ordering::Relaxed), words[3].load(Ordering::Relaxed)))
}

/// Reads the calls of one segment.
pub(super) struct Reader<'a> {
    words: &'a [AtomicU64],
    holder: HolderId,
    routes: HashMap<u32, Arc<Route>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(words: &'a [AtomicU64], holder: HolderId) -> Self {
        Self { words, holder, routes: HashMap::new() }
    }

    /// The places of the calls between two places. Every record's head must be whole: `mend` sees to it after a crash.
    pub(super) fn calls(&self, from: usize, to: usize) -> impl Iterator<Item = usize> + use<'a> {
        let words = &self.words[..to];
        let mut at = from;
        std::iter::from_fn(move || {
            loop {
                let (kind, length) = read_head(words.get(at)?.load(Ordering::Acquire))?;
                let here = at;
                at += length;
                if kind == CALL {
                    return (at <= words.len()).then_some(here);
                }
            }
        })
    }

    /// Goes through a segment of a process that died, and turns what isn't a whole record into room that is skipped.
    /// Returns where the records end.
    pub(super) fn mend(&self, from: usize) -> usize {
        let (mut at, mut end) = (from, from);
        while at < self.words.len() {
            match self.whole(at) {
                Some(length) => {
                    if at > end {
                        self.words[end].store(head(TORN, at - end), Ordering::Release);
                    }
                    at += length;
                    end = at;
                }
                None => at += 1,
            }
        }
        end
    }

    /// The length of the record here, when its checksum holds.
    fn whole(&self, at: usize) -> Option<usize> {
        let (kind, length) = read_head(self.words[at].load(Ordering::Acquire))?;
        let record = self.words.get(at..at + length)?;
        let fixed = match kind {
            CALL if length == CALL_WORDS => STATE_AT,
            ROUTE if length > HEAD_WORDS => length,
            TORN => return Some(length),
            _ => return None,
        };
        let mut values = read(&record[..fixed]);
        let sum = std::mem::take(&mut values[1]);
        (sum == checksum(&values)).then_some(length)
    }

    fn route(&mut self, place: u32) -> Option<Arc<Route>> {
        if let Some(route) = self.routes.get(&place) {
            return Some(Arc::clone(route));
        }
        let at = usize::try_from(place).ok()?;
        let length = self.whole(at)?;
        let values = read(&self.words[at + HEAD_WORDS..at + length]);
        let bytes: Vec<u8> = values[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
        let text = bytes.get(..usize::try_from(values[0]).ok()?)?;
        let route: Arc<Route> = Arc::new(serde_json::from_slice(text).ok()?);
        self.routes.insert(place, Arc::clone(&route));
        Some(route)
    }

    /// The call at a place as the books take it, if it is settled; `None`: it can't be read.
    pub(super) fn settled(&mut self, at: usize) -> Option<SettledCall> {
        let (_, route) = state(&self.words[at..])?;
        let outcome = read_outcome(&self.words[at..], route)?;
        self.call(at, &outcome)
    }

    /// What is booked of a call that was on its way when its process died: the bytes that left, and what had come back.
    pub(super) fn left_open(&mut self, at: usize, now: Time) -> Option<Outcome> {
        let words = &self.words[at..at + CALL_WORDS];
        let (_, route) = state(words)?;
        let output = signed(words[RELAYED_AT].load(Ordering::Relaxed)).max(0);
        let usage = TokenUsage { input: signed(words[14].load(Ordering::Relaxed)), output, ..TokenUsage::default() };
        let price_of = self.route(self.place(at, route)?)?;
        let reserved = Nanos(signed(words[15].load(Ordering::Relaxed)));
        let began = signed(words[12].load(Ordering::Relaxed));
        Some(Outcome {
            route,
            usage,
            charged: price_of.price.charge(&usage).min(reserved),
            operator: Nanos::ZERO,
            estimate: Some(Estimate::ProxyRestarted),
            first_byte_ms: None,
            duration_ms: (now.timestamp_micros().saturating_sub(began) / 1_000).max(0),
        })
    }

    /// Where the call's route of this number stands.
    fn place(&self, at: usize, route: usize) -> Option<u32> {
        let places = &read(&self.words[at + 19..at + STATE_AT]);
        let mut places = places.iter().flat_map(|two| [(two >> 32) as u32, (two & 0xffff_ffff) as u32]);
        let count = usize::try_from(places.next()?).ok()?;
        places.take(count).nth(route)
    }

    fn call(&mut self, at: usize, outcome: &Outcome) -> Option<SettledCall> {
        let route = self.route(self.place(at, outcome.route)?)?;
        let values = read(&self.words[at..at + STATE_AT]);
        let id = |at: usize| Uuid::from_u64_pair(values[at], values[at + 1]);
        let time = |at: usize| Time::from_timestamp_micros(signed(values[at]));
        let bytes: Vec<u8> = values[16..19].iter().flat_map(|word| word.to_le_bytes()).collect();
        let bot = std::str::from_utf8(bytes.get(1..=usize::from(bytes[0]))?).ok()?;
        Some(SettledCall {
            id: RequestId(id(2)),
            holder: self.holder,
            period_start: time(13)?,
            user: UserId(id(4)),
            book_key: id(6),
            bot: if bot.is_empty() { None } else { Some(bot.parse().ok()?) },
            key: KeyId(id(8)),
            run: Some(id(10)).filter(|run| !run.is_nil()).map(RunId),
            provider: Arc::clone(&route.provider),
            model: Arc::clone(&route.model),
            surface: Arc::clone(&route.surface),
            usage: outcome.usage,
            reserved_nanos: signed(values[15]),
            cost_nanos: outcome.charged.0,
            operator_nanos: outcome.operator.0,
            price_version: route.price_version.clone(),
            estimate: outcome.estimate,
            first_byte_ms: outcome.first_byte_ms,
            duration_ms: outcome.duration_ms,
            at: time(12)?,
        })
    }
}
