//! What the sockets of one bot share in this process: one ordered stream of frames, and the texts that are open.
//! Never: a second writer. Only the bot's relay publishes, so that a piece of a text can't overtake its whole.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use molt_bot::{Frame, Op};
use molt_model::{BotId, ConversationId, UserId};
use molt_store::event::EventRow;
use serde_json::Value;
use tokio::sync::{Notify, broadcast, mpsc};

use crate::chat::frames;
use crate::chat::open::OpenTexts;

/// Frames that a slow browser may fall behind before it is brought up to date from the rows instead.
const BACKLOG_MAX: usize = 512;
/// Decisions of people on their way to a cell.
const DECISIONS_MAX: usize = 16;

/// What a relay is told to look at; see `Hub::signal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look(u8);

impl Look {
    /// New rows in `events`.
    pub(crate) const ROWS: Self = Self(1);
    /// A message, an abort or a conversation to forget.
    pub(crate) const WORK: Self = Self(2);
    /// The bot or its cell may have changed.
    pub(crate) const BOT: Self = Self(4);
    pub(crate) const ALL: Self = Self(7);
    pub(crate) const NONE: Self = Self(0);

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// One thing for every socket of the bot.
#[derive(Clone, Debug)]
pub(crate) enum Outgoing {
    /// `seq` is there for finished frames.
    Frame { seq: Option<i64>, text: Utf8Bytes },
    /// The chat is over for good, and why.
    Goodbye(&'static str),
    /// The relay is gone; whoever connects again gets another.
    Stopped,
}

struct Live {
    /// The newest `seq` that was published.
    cursor: i64,
    open: OpenTexts,
}

/// One bot's meeting point of relay and sockets.
pub(crate) struct Hub {
    pub(crate) bot: BotId,
    pub(crate) user: UserId,
    live: Mutex<Live>,
    stream: broadcast::Sender<Outgoing>,
    decisions: mpsc::Sender<Op>,
    signals: AtomicU8,
    wake: Notify,
    linked: AtomicBool,
}

/// A place in the stream: everything up to `cursor` is in the rows, `open` is being written, `stream` has the rest.
pub(crate) struct Place {
    pub(crate) cursor: i64,
    pub(crate) open: Vec<Value>,
    pub(crate) stream: broadcast::Receiver<Outgoing>,
}

impl Hub {
    /// Rows up to `cursor` count as published. The receiver is the relay's: decisions for the cell.
    pub(crate) fn new(bot: BotId, user: UserId, cursor: i64) -> (Self, mpsc::Receiver<Op>) {
        let (decisions, receiver) = mpsc::channel(DECISIONS_MAX);
        let hub = Self {
            bot,
            user,
            live: Mutex::new(Live { cursor, open: OpenTexts::default() }),
            stream: broadcast::Sender::new(BACKLOG_MAX),
            decisions,
            signals: AtomicU8::new(Look::ALL.0),
            wake: Notify::new(),
            linked: AtomicBool::new(false),
        };
        (hub, receiver)
    }

    /// Where the stream is now; nothing is lost or doubled between the three parts.
    pub(crate) fn place(&self) -> Place {
        let live = self.live();
        Place { cursor: live.cursor, open: live.open.snapshot(), stream: self.stream.subscribe() }
    }

    pub(crate) fn cursor(&self) -> i64 {
        self.live().cursor
    }

    pub(crate) fn sockets(&self) -> usize {
        self.stream.receiver_count()
    }

    /// Publishes a finished frame. Rows come in order; one that was published already is passed over.
    pub(crate) fn publish_row(&self, row: EventRow) {
        let Some(seq) = row.seq else { return };
        let mut live = self.live();
        if seq <= live.cursor {
            return;
        }
        live.cursor = seq;
        live.open.close(&row);
        self.send(Outgoing::Frame { seq: Some(seq), text: frames::of_row(row).to_string().into() });
    }

    /// Publishes a piece of an open text.
    pub(crate) fn publish_piece(&self, frame: &Frame) {
        let mut live = self.live();
        if live.open.add(frame) {
            let shown = frames::passing(&frame.event, frame.run_id, &frame.conversation, frame.at);
            self.send(Outgoing::Frame { seq: None, text: shown.to_string().into() });
        }
    }

    /// Stops showing what a deleted conversation was saying.
    pub(crate) fn forget(&self, conversation: &ConversationId) {
        self.live().open.forget(conversation);
    }

    pub(crate) fn say_goodbye(&self, why: &'static str) {
        self.send(Outgoing::Goodbye(why));
    }

    pub(crate) fn say_stopped(&self) {
        self.send(Outgoing::Stopped);
    }

    /// Tells the relay to look. Signals add up until it does.
    pub(crate) fn signal(&self, look: Look) {
        self.signals.fetch_or(look.0, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Waits for signals and takes them. Safe to cancel.
    pub(crate) async fn signalled(&self) -> Look {
        loop {
            let woken = self.wake.notified();
            let signals = self.take_signals();
            if signals != Look::NONE {
                return signals;
            }
            woken.await;
        }
    }

    pub(crate) fn take_signals(&self) -> Look {
        Look(self.signals.swap(0, Ordering::AcqRel))
    }

    pub(crate) fn has_signals(&self) -> bool {
        self.signals.load(Ordering::Acquire) != 0
    }

    /// Gives a person's decision to the cell. False: it can't be reached just now, nothing happened.
    pub(crate) fn decide(&self, op: Op) -> bool {
        self.is_linked() && self.decisions.try_send(op).is_ok()
    }

    pub(crate) fn set_linked(&self, linked: bool) {
        self.linked.store(linked, Ordering::Release);
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    fn send(&self, outgoing: Outgoing) {
        // Nobody listening is fine: what is finished is in the rows, what is open is in `open`.
        let _ = self.stream.send(outgoing);
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
