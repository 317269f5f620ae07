//! What goes over the wire between the platform and a cell: JSON over HTTP/1.1 and one WebSocket.
//! Never: anything of the runtime's own protocol, so that an upgrade of the runtime stays inside the cell.

use molt_model::clock::Time;
use molt_model::id::{BotId, ConversationId, RunId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The settings' revision, as the platform counts it (`x-molt-revision`).
pub type Revision = i64;

/// Position of a finished frame in a cell's journal. Strictly increasing, also over restarts and over a lost volume.
/// Not dense.
pub type CellSeq = i64;

/// Names the revision that the body of `POST /api/config` renders.
pub const REVISION_HEADER: &str = "x-molt-revision";

/// `GET /api/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellHealth {
    pub bot_id: BotId,
    /// New for every process of the cell.
    pub boot_id: Uuid,
    pub phase: Phase,
    pub since: Time,
    /// A sentence fit for a stranger's eyes.
    pub detail: String,
    pub error: Option<Fault>,
    pub runtime_pid: Option<u32>,
    /// How often the runtime ended by itself or hung, in this process of the cell: not when a change of the settings ended it,
    /// nor when it was well and the platform wanted a fresh one.
    pub runtime_restarts: u32,
    /// From spawn to ready, of the last start.
    pub runtime_boot_ms: Option<u64>,
    /// What the runtime has really taken over.
    pub applied: Option<Applied>,
    pub runtime_version: Option<String>,
    pub active_runs: u32,
}

/// What the cell is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The cell is up; the runtime isn't spawned yet.
    Starting,
    /// The runtime's process runs and doesn't answer yet.
    Booting,
    /// The runtime answers; the cell is joining it.
    Connecting,
    /// Messages are answered.
    Ready,
    /// The runtime went down, or has to; it comes back by itself.
    Restarting,
    /// The runtime doesn't come up. The cell goes on trying, slowly.
    Failed,
}

/// Something went wrong: a stable code, and a sentence fit for a stranger's eyes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub code: String,
    pub message: String,
}

/// Answer of `POST /api/config`: the runtime has really taken this over. `hash` is `canonical_hash` of the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub revision: Revision,
    pub hash: String,
}

/// Platform → cell, on `/api/stream`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// First on every connection: replay what was finished after this position, then what is open, then live.
    Hello {
        after: CellSeq,
    },
    /// One message, one run. Durable in the cell before `accepted` comes back; the same `run_id` is one run.
    Send {
        run_id: RunId,
        conversation: ConversationId,
        text: String,
    },
    /// Ends a run, running or queued. The run's last frame says `aborted`.
    Abort {
        run_id: RunId,
    },
    Approve {
        approval_id: String,
        decision: Decision,
    },
    /// Everything up to here is safe with the platform; the cell may forget it.
    Ack {
        cell_seq: CellSeq,
    },
    /// Ends the conversation's runs and deletes its session in the runtime.
    Forget {
        conversation: ConversationId,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Once,
    Always,
    No,
}

/// Cell → platform: a reply to an operation, or a frame of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromCell {
    Reply(Reply),
    Frame(Frame),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The message is durable and will have exactly one run. Also the answer to a repeated `run_id`.
    Accepted { run_id: RunId },
    /// The operation was not taken; nothing happened. `run_id` is there when the operation named one.
    Refused { run_id: Option<RunId>, error: Fault },
    /// The conversation's session is deleted in the runtime.
    Forgotten { conversation: ConversationId },
    /// The replay after `hello` is over; what follows is live. `cell_seq` is the newest finished frame's.
    CaughtUp { cell_seq: CellSeq },
}

/// One step of a run. Finished frames carry `cell_seq` and are journalled; the pieces of an open text carry none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell_seq: Option<CellSeq>,
    pub run_id: RunId,
    pub conversation: ConversationId,
    pub at: Time,
    pub event: Event,
}

/// The event language. The cell doesn't echo the user's own message: the platform has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    Message {
        role: Role,
        /// Stable within the run; a run may hold several messages.
        message_id: String,
        #[serde(flatten)]
        text: Text,
    },
    Thinking {
        message_id: String,
        #[serde(flatten)]
        text: Text,
    },
    ToolCall {
        call_id: String,
        tool: String,
        args: Value,
    },
    ToolResult {
        call_id: String,
        tool: String,
        /// What the tool said, cut to a bounded size.
        result: String,
        success: bool,
    },
    MemoryAccess {
        action: MemoryAction,
        /// A path inside the workspace; for a search, what was looked for.
        file: String,
    },
    Approval {
        approval_id: String,
        tool: String,
        args: Value,
    },
    Run {
        phase: RunPhase,
        /// `provider/model`, on `model` and `fallback`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// How many model calls the run made, on the last frame of a run. Counted per process of the cell: a run
        /// that outlived one says what was counted since.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_calls: Option<u32>,
        /// On `failed`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<RunError>,
    },
}

impl Event {
    /// Exactly one such event ends a run, and it is the run's last.
    #[must_use]
    pub const fn ends_run(&self) -> bool {
        matches!(self, Self::Run { phase: RunPhase::Finished | RunPhase::Failed | RunPhase::Aborted, .. })
    }

    /// Finished events are journalled and numbered; pieces of an open text only pass through.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        !matches!(self, Self::Message { text, .. } | Self::Thinking { text, .. } if !text.is_done())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    User,
    Assistant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryAction {
    Read,
    Write,
    Search,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    Started,
    Model,
    Fallback,
    Finished,
    Failed,
    Aborted,
    /// The runtime or the cell went down in the middle, and the run goes on. What was open of its texts is void.
    Resumed,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    pub code: String,
    pub message: String,
    /// Sending the same text again (as a new message) makes sense.
    pub retry: bool,
}

/// The text of a message: a piece, all of it so far, or all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawText", into = "RawText")]
pub enum Text {
    /// `{"delta": …, "done": false}`
    Delta(String),
    /// `{"content": …, "done": false}`: replaces what was shown so far (after `hello`, or when the runtime rewrote).
    SoFar(String),
    /// `{"content": …, "done": true}`
    Done(String),
}

impl Text {
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct RawText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    done: bool,
}

/// A text frame with neither or both of `delta` and `content`.
#[derive(Debug, thiserror::Error)]
#[error("a text has either a delta or a content")]
struct InvalidText;

impl TryFrom<RawText> for Text {
    type Error = InvalidText;
    fn try_from(raw: RawText) -> Result<Self, InvalidText> {
        match raw {
            RawText { delta: Some(delta), content: None, done: false } => Ok(Self::Delta(delta)),
            RawText { delta: None, content: Some(content), done: false } => Ok(Self::SoFar(content)),
            RawText { delta: None, content: Some(content), done: true } => Ok(Self::Done(content)),
            _ => Err(InvalidText),
        }
    }
}

impl From<Text> for RawText {
    fn from(text: Text) -> Self {
        match text {
            Text::Delta(delta) => Self { delta: Some(delta), content: None, done: false },
            Text::SoFar(content) => Self { delta: None, content: Some(content), done: false },
            Text::Done(content) => Self { delta: None, content: Some(content), done: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn frames_look_on_the_wire_as_the_protocol_says() {
        let run = RunId::random();
        let at: Time = "2026-11-22T11:22:33Z".parse().unwrap();
        let frame = |cell_seq, event| Frame { cell_seq, run_id: run, conversation: ConversationId::main(), at, event };
        let message = |text| Event::Message { role: Role::Assistant, message_id: "m1".into(), text };
        let cases = [
            (
                frame(None, message(Text::Delta("he".into()))),
                json!({"run_id": run, "conversation": "main", "at": "2026-11-22T11:22:33Z",
                    "event": {"type": "message", "role": "assistant", "message_id": "m1", "delta": "he", "done": false}}),
            ),
            (
                frame(Some(7), message(Text::Done("hello".into()))),
                json!({"cell_seq": 7, "run_id": run, "conversation": "main", "at": "2026-11-22T11:22:33Z",
                    "event": {"type": "message", "role": "assistant", "message_id": "m1", "content": "hello", "done": true}}),
            ),
            (
                frame(
                    Some(8),
                    Event::Run { phase: RunPhase::Finished, model: None, provider_calls: Some(2), error: None },
                ),
                json!({"cell_seq": 8, "run_id": run, "conversation": "main", "at": "2026-11-22T11:22:33Z",
                    "event": {"type": "run", "phase": "finished", "provider_calls": 2}}),
            ),
        ];
        for (frame, wire) in cases {
            assert_eq!(serde_json::to_value(&frame).unwrap(), wire);
            assert_eq!(serde_json::from_value::<FromCell>(wire).unwrap(), FromCell::Frame(frame));
        }
        let accepted = json!({"type": "accepted", "run_id": run});
        assert_eq!(
            serde_json::from_value::<FromCell>(accepted).unwrap(),
            FromCell::Reply(Reply::Accepted { run_id: run })
        );
        let hello: Op = serde_json::from_value(json!({"op": "hello", "after": 3})).unwrap();
        assert_eq!(hello, Op::Hello { after: 3 });
    }

    #[test]
    fn a_text_is_one_thing() {
        for wrong in [
            json!({"done": true}),
            json!({"delta": "a", "done": true}),
            json!({"delta": "a", "content": "a", "done": false}),
        ] {
            assert!(serde_json::from_value::<Text>(wrong).is_err());
        }
    }
}
