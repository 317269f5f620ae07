//! Chat: messages in, events out, one run at a time per conversation, nothing lost and nothing twice.
//! Never: give the runtime a message that it may already have; `recover` looks first.

mod run;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use molt_bot::{CellSeq, Fault, FromCell, Op, Reply};
use molt_model::id::RunId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::gateway::{Gateway, GatewayEvent};
use crate::journal::Journal;
use crate::traces::Traces;
use turns::{Outcome, Turns};

/// Inputs that wait for their turn.
const INPUTS_MAX: usize = 1024;
/// Frames that a slow reader may be behind before it is dropped (it comes back with its position).
pub const LIVE_FRAMES_MAX: usize = 4096;
/// The platform opens one stream; a few more are a reconnect or a person who looks.
const READERS_MAX: usize = 8;
/// A message longer than this is a file and belongs somewhere else.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Messages that wait in all conversations together.
const WAITING_MAX: usize = 64;
/// How often runs that fell silent are looked at.
const TICK: Duration = Duration::from_millis(500);

/// What a reader of the stream receives.
pub type Wire = Arc<str>;

#[derive(Debug)]
enum Input {
    Subscribe { after: CellSeq, live: mpsc::Sender<Wire>, backlog: oneshot::Sender<Vec<Wire>> },
    Op { op: Op, reply: mpsc::Sender<Wire> },
    Up(Gateway),
    Down,
    Event(GatewayEvent),
}

/// The way to the chat; cheap to clone.
#[derive(Clone, Debug)]
pub struct Chat {
    inputs: mpsc::Sender<Input>,
    active: Arc<AtomicU32>,
}

impl Chat {
    /// Starts the chat on its journal. The receiver tells when it can't go on (the disk is full, say).
    #[must_use]
    pub fn start(journal: Journal, traces: Traces) -> (Self, oneshot::Receiver<anyhow::Error>) {
        let (inputs, inbox) = mpsc::channel(INPUTS_MAX);
        let (outcomes, results) = mpsc::channel(INPUTS_MAX);
        let (failed, failure) = oneshot::channel();
        let active = Arc::new(AtomicU32::new(0));
        let turns = Turns::restore(journal, traces, outcomes);
        let chat = Self { inputs, active: active.clone() };
        tokio::spawn(async move {
            if let Err(error) = work(turns, inbox, results, &active).await {
                failed.send(error).ok();
            }
        });
        (chat, failure)
    }

    /// Runs that are running or waiting.
    #[must_use]
    pub fn active_runs(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// The frames behind `after`; what comes later arrives in `live`. None when there are too many readers.
    pub async fn subscribe(&self, after: CellSeq, live: mpsc::Sender<Wire>) -> Option<Vec<Wire>> {
        let (backlog, answer) = oneshot::channel();
        self.inputs.send(Input::Subscribe { after, live, backlog }).await.ok()?;
        answer.await.ok()
    }

    /// Does what the platform asked; the answer arrives in `reply`.
    pub async fn op(&self, op: Op, reply: mpsc::Sender<Wire>) {
        self.inputs.send(Input::Op { op, reply }).await.ok();
    }

    /// The runtime is there.
    pub async fn up(&self, gateway: Gateway) {
        self.inputs.send(Input::Up(gateway)).await.ok();
    }

    /// The runtime is gone.
    pub async fn down(&self) {
        self.inputs.send(Input::Down).await.ok();
    }

    /// The runtime said something.
    pub async fn event(&self, event: GatewayEvent) {
        self.inputs.send(Input::Event(event)).await.ok();
    }
}

async fn work(
    mut turns: Turns,
    mut inbox: mpsc::Receiver<Input>,
    mut results: mpsc::Receiver<Outcome>,
    active: &AtomicU32,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            input = inbox.recv() => {
                let Some(input) = input else { return Ok(()) };
                take(&mut turns, input)?;
            }
            outcome = results.recv() => {
                let Some(outcome) = outcome else { return Ok(()) };
                turns.settle(outcome)?;
            }
            _ = tick.tick() => turns.look_around()?,
        }
        active.store(turns.active(), Ordering::Relaxed);
    }
}

fn take(turns: &mut Turns, input: Input) -> anyhow::Result<()> {
    match input {
        Input::Subscribe { after, live, backlog } => {
            if turns.readers() < READERS_MAX {
                backlog.send(turns.subscribe(after, live)).ok();
            }
            Ok(())
        }
        Input::Op { op, reply } => operate(turns, op, &reply),
        Input::Up(gateway) => turns.up(gateway),
        Input::Down => {
            turns.down();
            Ok(())
        }
        Input::Event(GatewayEvent { event, payload }) => turns.event(&event, &payload),
    }
}

fn operate(turns: &mut Turns, op: Op, reply: &mpsc::Sender<Wire>) -> anyhow::Result<()> {
    let answer = match op {
        Op::Hello { .. } => Some(refused(None, "hello_twice", "The stream has begun already.")),
        Op::Send { run_id, conversation, text } => Some(if turns.knows(run_id) {
            Reply::Accepted { run_id }
        } else if text.len() > MESSAGE_BYTES_MAX {
            refused(Some(run_id), "message_too_long", "This message is too long.")
        } else if turns.is_full() || turns.active() as usize >= WAITING_MAX {
            refused(Some(run_id), "busy", "Too many messages are waiting. Try again in a moment.")
        } else {
            turns.accept(run_id, conversation, text, Utc::now()).context("accept a message")?;
            Reply::Accepted { run_id }
        }),
        Op::Abort { run_id } => {
            if turns.abort(run_id)? {
                None
            } else {
                Some(refused(Some(run_id), "run_over", "This run is over."))
            }
        }
        Op::Approve { approval_id, decision } => {
            turns.approve(approval_id, decision);
            None
        }
        Op::Ack { cell_seq } => {
            turns.ack(cell_seq)?;
            None
        }
        Op::Forget { conversation } => {
            if turns.forget(&conversation, reply.clone())? {
                None
            } else {
                Some(refused(None, "not_ready", "The assistant isn't ready. Try again in a moment."))
            }
        }
    };
    if let Some(answer) = answer {
        reply.try_send(wire(&FromCell::Reply(answer))).ok();
    }
    // Only now may the runtime hear of it: the acceptance is durable and on its way.
    turns.give_next()
}

fn refused(run_id: Option<RunId>, code: &str, message: &str) -> Reply {
    Reply::Refused { run_id, error: Fault { code: code.to_owned(), message: message.to_owned() } }
}

/// As it goes over the wire.
fn wire(message: &FromCell) -> Wire {
    serde_json::to_string(message).expect("replies and frames are always JSON").into()
}
