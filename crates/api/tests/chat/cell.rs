//! A cell for tests: the protocol of `molt_bot` with a journal in memory that outlives every connection.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use molt_bot::{CellSeq, Event, Fault, Frame, FromCell, Op, Reply, Role, RunError, RunPhase, Text};
use molt_model::{ConversationId, RunId};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

/// How the cell misbehaves.
#[derive(Clone, Copy, Default)]
pub(crate) struct Habits {
    /// Replays its whole journal at every connection, as if no acknowledgement had ever arrived.
    pub(crate) replays_everything: bool,
    /// Refuses new messages with this code.
    pub(crate) refuses: Option<&'static str>,
    /// Takes messages but never confirms them.
    pub(crate) mute: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) journal: Vec<Frame>,
    /// Messages in the order of their acceptance.
    pub(crate) runs: Vec<(RunId, ConversationId, String)>,
    /// Every operation, repeats included.
    pub(crate) ops: Vec<Op>,
    pub(crate) acked: CellSeq,
    pub(crate) hellos: Vec<CellSeq>,
    pub(crate) habits: Habits,
    open: HashMap<(RunId, String), (ConversationId, String)>,
    next_seq: CellSeq,
    connections: Vec<mpsc::UnboundedSender<Option<String>>>,
}

#[derive(Clone)]
pub(crate) struct Cell {
    pub(crate) path: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Cell {
    /// Listens at `path` until the test ends.
    pub(crate) fn listen(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let cell = Self { path, state: Arc::default() };
        let serving = cell.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        cell
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Breaks every connection.
    pub(crate) fn cut(&self) {
        for connection in self.state().connections.drain(..) {
            connection.send(None).ok();
        }
    }

    /// Something of a run: a piece passes, the rest goes into the journal first.
    pub(crate) fn say(&self, run: RunId, conversation: &ConversationId, event: Event) {
        let mut state = self.state();
        let done = event.is_finished();
        if let Event::Message { message_id, text, .. } | Event::Thinking { message_id, text } = &event {
            let key = (run, message_id.clone());
            match text {
                Text::Done(_) => drop(state.open.remove(&key)),
                Text::SoFar(text) => drop(state.open.insert(key, (conversation.clone(), text.clone()))),
                Text::Delta(delta) => {
                    let open = state.open.entry(key).or_insert_with(|| (conversation.clone(), String::new()));
                    open.1.push_str(delta);
                }
            }
        }
        let cell_seq = done.then(|| {
            // Increasing, not dense.
            state.next_seq += 3;
            state.next_seq
        });
        let frame = Frame { cell_seq, run_id: run, conversation: conversation.clone(), at: chrono::Utc::now(), event };
        if done {
            state.journal.push(frame.clone());
        }
        state.broadcast(&FromCell::Frame(frame));
    }

    pub(crate) fn delta(&self, run: RunId, id: &str, text: &str) {
        self.say(run, &ConversationId::main(), message(id, Text::Delta(text.to_owned())));
    }

    pub(crate) fn done(&self, run: RunId, id: &str, text: &str) {
        self.say(run, &ConversationId::main(), message(id, Text::Done(text.to_owned())));
    }

    pub(crate) fn phase(&self, run: RunId, phase: RunPhase) {
        self.say(run, &ConversationId::main(), run_event(phase, Some(0)));
    }

    /// A whole answer: started, some pieces, the text, the end.
    pub(crate) fn answer(&self, run: RunId, conversation: &ConversationId, words: &[&str]) {
        self.say(run, conversation, run_event(RunPhase::Started, None));
        for word in words {
            self.say(run, conversation, message("m1", Text::Delta((*word).to_owned())));
        }
        self.say(run, conversation, message("m1", Text::Done(words.concat())));
        self.say(run, conversation, run_event(RunPhase::Finished, Some(0)));
    }

    async fn serve(self, stream: UnixStream) {
        let Ok(socket) = tokio_tungstenite::accept_async(stream).await else { return };
        let (mut sink, mut source) = socket.split();
        let (sender, mut outgoing) = mpsc::unbounded_channel::<Option<String>>();
        loop {
            tokio::select! {
                text = outgoing.recv() => match text {
                    Some(Some(text)) => if sink.send(Message::text(text)).await.is_err() { return },
                    _ => return,
                },
                message = source.next() => match message {
                    Some(Ok(Message::Text(text))) => self.take(serde_json::from_str(&text).unwrap(), &sender),
                    Some(Ok(_)) => {}
                    _ => return,
                },
            }
        }
    }

    fn take(&self, op: Op, sender: &mpsc::UnboundedSender<Option<String>>) {
        let mut state = self.state();
        state.ops.push(op.clone());
        let reply = |reply| {
            sender.send(Some(wire(&FromCell::Reply(reply)))).ok();
        };
        match op {
            Op::Hello { after } => state.hello(after, sender),
            Op::Send { run_id, conversation, text } => {
                let known = state.runs.iter().any(|(run, ..)| *run == run_id);
                if let Some(code) = state.habits.refuses.filter(|_| !known) {
                    let error = Fault { code: code.to_owned(), message: "No.".to_owned() };
                    return reply(Reply::Refused { run_id: Some(run_id), error });
                }
                if !known {
                    state.runs.push((run_id, conversation, text));
                }
                if !state.habits.mute {
                    reply(Reply::Accepted { run_id });
                }
            }
            Op::Ack { cell_seq } => state.acked = state.acked.max(cell_seq),
            Op::Forget { conversation } => {
                state.runs.retain(|(_, of, _)| *of != conversation);
                reply(Reply::Forgotten { conversation });
            }
            Op::Abort { .. } | Op::Approve { .. } => {}
        }
    }
}

impl State {
    fn hello(&mut self, after: CellSeq, sender: &mpsc::UnboundedSender<Option<String>>) {
        self.hellos.push(after);
        let after = if self.habits.replays_everything { 0 } else { after };
        for frame in self.journal.iter().filter(|frame| frame.cell_seq.is_some_and(|seq| seq > after)) {
            sender.send(Some(wire(&FromCell::Frame(frame.clone())))).ok();
        }
        for ((run, id), (conversation, text)) in &self.open {
            let event = message(id, Text::SoFar(text.clone()));
            let at = chrono::Utc::now();
            let frame = Frame { cell_seq: None, run_id: *run, conversation: conversation.clone(), at, event };
            sender.send(Some(wire(&FromCell::Frame(frame)))).ok();
        }
        sender.send(Some(wire(&FromCell::Reply(Reply::CaughtUp { cell_seq: self.next_seq })))).ok();
        self.connections.push(sender.clone());
    }

    fn broadcast(&mut self, message: &FromCell) {
        let text = wire(message);
        self.connections.retain(|connection| connection.send(Some(text.clone())).is_ok());
    }
}

pub(crate) fn message(id: &str, text: Text) -> Event {
    Event::Message { role: Role::Assistant, message_id: id.to_owned(), text }
}

pub(crate) fn run_event(phase: RunPhase, provider_calls: Option<u32>) -> Event {
    let error = matches!(phase, RunPhase::Failed).then(|| RunError {
        code: "runtime_crashed".to_owned(),
        message: "The runtime went down.".to_owned(),
        retry: true,
    });
    Event::Run { phase, model: None, provider_calls, error }
}

fn wire(message: &FromCell) -> String {
    serde_json::to_string(message).unwrap()
}
