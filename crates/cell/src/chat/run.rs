//! One run: its message, how far it came, and what was said in it.
//! Never: I/O.

use std::time::{Duration, Instant};

use molt_model::id::{ConversationId, RunId};

use crate::journal::OpenRun;
use crate::translate::Translator;

/// A run that says nothing for this long is looked up in the history: its last frame may have been missed.
const SILENCE: Duration = Duration::from_secs(60);
/// After a crash the history is read this often, until the runtime says something.
const LOOK_AGAIN: Duration = Duration::from_millis(1000);
/// The runtime takes up interrupted runs within seconds of being ready (measured: 1 to 5 s, on a busy machine). After
/// this long with nothing at work on it, a run counts as lost.
const TAKE_UP_MAX: Duration = Duration::from_secs(25);

/// A run without a last event.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) run_id: RunId,
    pub(super) conversation: ConversationId,
    pub(super) text: String,
    /// The runtime may know the message.
    pub(super) given: bool,
    pub(super) abort: bool,
    /// The abort was passed on in this connection.
    pub(super) abort_sent: bool,
    /// Ids under which the runtime went on with it, newest last.
    pub(super) runtime_runs: Vec<String>,
    pub(super) translator: Translator,
    /// Since when it is unclear what became of it; none while frames come.
    pub(super) unclear_since: Option<Instant>,
    /// When to read the history next.
    pub(super) look_at: Instant,
    /// A request about it is on its way.
    pub(super) asking: bool,
}

impl Run {
    pub(super) fn restore(open: &OpenRun, now: Instant) -> Self {
        Self {
            run_id: open.run_id,
            conversation: open.conversation.clone(),
            text: open.text.clone(),
            given: open.given,
            abort: open.abort,
            abort_sent: false,
            runtime_runs: open.runtime_runs.clone(),
            translator: Translator::resume(open.frames.iter().map(|frame| &frame.event)),
            unclear_since: open.given.then_some(now),
            look_at: now,
            asking: false,
        }
    }

    /// A connection to the runtime was made or lost: nothing on its way counts any more.
    pub(super) const fn unsettle(&mut self, now: Instant) {
        self.abort_sent = false;
        self.asking = false;
        if self.given {
            self.unclear_since = Some(now);
            self.look_at = now;
        }
    }

    /// The runtime works on it.
    pub(super) fn heard(&mut self, now: Instant) {
        self.unclear_since = None;
        self.look_at = now + SILENCE;
    }

    /// Look again: soon while it is unclear what became of it, otherwise after the next silence.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.look_at = now + if self.unclear_since.is_some() { LOOK_AGAIN } else { SILENCE };
    }

    /// It is unclear for so long that nothing will come any more.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        self.unclear_since.is_some_and(|since| now.duration_since(since) > TAKE_UP_MAX)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.given && !self.asking && now >= self.look_at
    }

    /// The id under which the runtime knows it now.
    pub(super) fn runtime_run(&self) -> String {
        self.runtime_runs.last().cloned().unwrap_or_else(|| self.run_id.to_string())
    }

    /// The runtime's name for the conversation.
    pub(super) fn session_key(&self) -> String {
        session_key(&self.conversation)
    }
}

/// The runtime's name for a conversation.
pub(super) fn session_key(conversation: &ConversationId) -> String {
    format!("agent:main:{conversation}")
}
