//! The relay of one bot: gives messages to the cell, stores what the cell finished, passes on what it is saying.
//! Never: an acknowledgement before the row is committed, a second end of a run, or a frame after it.

use std::sync::Arc;
use std::time::Duration;

use molt_bot::{CellAddress, CellSeq, Client, Event, Fault, Frame, FromCell, Op, Reply, Role, RunError, RunPhase};
use molt_model::{ConversationId, Intent, RunId, Time};
use molt_store::StoreError;
use molt_store::chat::{CellFrame, OpenRun, RunEnd, Stored};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::chat::hub::{Hub, Look};
use crate::chat::link::{Link, Stuck};
use crate::chat::parked::{Ending, Parked};
use crate::chat::{Relays, frames};

/// A proxy writes a call into the books within milliseconds of its end; after this a run ends without it.
const USAGE_WAIT: Duration = Duration::from_secs(3);
/// How often the books are asked while a run's end waits, should a wake-up be lost.
const USAGE_LOOK: Duration = Duration::from_millis(250);
/// A relay without sockets and without work ends after this.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// The net under lost wake-ups.
const LOOK_PERIOD: Duration = Duration::from_secs(15);
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// Rows read at a time; a row holds at most a few megabytes, most hold a sentence.
const ROWS_MAX: i64 = 100;
/// More than any bot may have open, so that one look sees all.
const WORK_MAX: i64 = 200;
/// The cell's code for a message that it has no room for just now.
const REFUSED_FOR_NOW: &str = "busy";

/// Why a turn of the relay did not come to its end; the next one starts from the rows.
#[derive(Debug, thiserror::Error)]
enum Setback {
    #[error("the database refused or is away")]
    Store(#[from] StoreError),
    #[error("the cell can't follow")]
    Stuck(#[from] Stuck),
}

pub(crate) struct Relay {
    relays: Relays,
    hub: Arc<Hub>,
    decisions: mpsc::Receiver<Op>,
    link: Option<Link>,
    parked: Parked,
    /// The newest position of the cell's journal that is stored or parked.
    newest: CellSeq,
    /// The cell exists, as far as the last look told.
    reachable: bool,
    todo: Look,
    attempt: u32,
    connect_at: Instant,
    look_at: Instant,
    idle_at: Option<Instant>,
    over: bool,
}

/// What ended a relay's wait.
enum Woken {
    Cell(Option<FromCell>),
    Decision(Op),
    Signals(Look),
    Time,
}

impl Relay {
    pub(crate) fn new(relays: Relays, hub: Arc<Hub>, decisions: mpsc::Receiver<Op>) -> Self {
        let now = Instant::now();
        Self {
            relays,
            hub,
            decisions,
            link: None,
            parked: Parked::default(),
            newest: 0,
            reachable: false,
            todo: Look::ALL,
            attempt: 0,
            connect_at: now,
            look_at: now,
            idle_at: None,
            over: false,
        }
    }

    /// Runs until nobody needs the relay, the bot is gone, or the program closes.
    pub(crate) async fn run(mut self) {
        let closing = self.relays.closing();
        tokio::pin!(closing);
        loop {
            let woken = tokio::select! {
                () = &mut closing => return,
                woken = self.wait() => woken,
            };
            if let Err(setback) = self.turn(woken).await {
                let error = &setback as &dyn std::error::Error;
                tracing::warn!(bot.id = %self.hub.bot, error, "the chat of a bot starts again from its rows");
                self.todo = Look::ALL;
                self.disconnect();
            }
            if self.over || (self.is_idle() && self.relays.retire(&self.hub)) {
                return;
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let due = self.next_due();
        let link = &mut self.link;
        let from_cell = async {
            match link {
                Some(link) => link.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            from = from_cell => Woken::Cell(from),
            Some(op) = self.decisions.recv() => Woken::Decision(op),
            look = self.hub.signalled() => Woken::Signals(look),
            () = tokio::time::sleep_until(due) => Woken::Time,
        }
    }

    fn next_due(&self) -> Instant {
        let connect = self.link.is_none().then_some(self.connect_at);
        let usage = (!self.parked.is_empty()).then(|| Instant::now() + USAGE_LOOK);
        [connect, usage, self.idle_at].into_iter().flatten().fold(self.look_at, Instant::min)
    }

    async fn turn(&mut self, woken: Woken) -> Result<(), Setback> {
        let mut books_may_differ = false;
        match woken {
            Woken::Cell(Some(FromCell::Frame(frame))) => self.take_frame(frame).await?,
            Woken::Cell(Some(FromCell::Reply(reply))) => self.take_reply(reply).await?,
            Woken::Cell(None) => self.disconnect(),
            Woken::Decision(op) => self.tell(op)?,
            Woken::Signals(look) => {
                books_may_differ = look.has(Look::ROWS);
                self.todo = self.todo.with(look);
            }
            Woken::Time => books_may_differ = true,
        }
        if Instant::now() >= self.look_at {
            self.look_at = Instant::now() + LOOK_PERIOD;
            self.todo = Look::ALL;
        }
        if books_may_differ {
            self.release_endings().await?;
        }
        if self.todo.has(Look::ROWS) {
            self.publish_rows().await?;
            self.todo = self.todo.without(Look::ROWS);
        }
        if self.todo.has(Look::BOT) || (self.link.is_none() && Instant::now() >= self.connect_at) {
            self.look_at_bot().await?;
            self.todo = self.todo.without(Look::BOT);
        }
        if self.todo.has(Look::WORK) && !self.over {
            self.do_work().await?;
            self.todo = self.todo.without(Look::WORK);
        }
        Ok(())
    }

    fn disconnect(&mut self) {
        if self.link.take().is_some_and(|link| link.caught_up) {
            self.attempt = 0;
        }
        self.hub.set_linked(false);
        // What waits is still in the cell's journal, beyond the position that the rows name.
        self.parked.clear();
        let pause = RECONNECT_MIN.saturating_mul(1 << self.attempt.min(10)).min(RECONNECT_MAX);
        self.attempt = self.attempt.saturating_add(1);
        self.connect_at = Instant::now() + pause;
    }

    /// Whether the bot is still there; connects to its cell if there is one.
    async fn look_at_bot(&mut self) -> Result<(), Setback> {
        self.connect_at = Instant::now() + RECONNECT_MAX;
        let facts = self.relays.store().relay_facts(&self.hub.bot).await?;
        let Some(facts) = facts.filter(|facts| facts.intent != Intent::Deleted) else {
            self.over = true;
            self.hub.say_goodbye("This assistant was deleted.");
            return Ok(());
        };
        let address = facts.address.as_deref().map(str::parse::<CellAddress>);
        if let Some(Err(error)) = &address {
            let error = error as &dyn std::error::Error;
            tracing::error!(bot.id = %self.hub.bot, error, "the address of a cell can't be read");
        }
        let cell = address.and_then(Result::ok).zip(facts.token);
        self.reachable = cell.is_some();
        if self.link.is_none()
            && let Some((address, token)) = cell
        {
            self.newest = facts.cell_seq;
            self.link = Some(Link::open(&self.hub.bot, Client::new(address, token), facts.cell_seq));
        }
        Ok(())
    }

    /// Publishes rows that others wrote: people's messages, usage, another process.
    async fn publish_rows(&mut self) -> Result<(), StoreError> {
        loop {
            let mut tx = self.relays.store().system().await?;
            let rows = tx.frames_between(&self.hub.bot, self.hub.cursor(), i64::MAX, ROWS_MAX).await?;
            tx.commit().await?;
            let more = rows.len() as i64 == ROWS_MAX;
            for row in rows {
                self.hub.publish_row(row);
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn tell(&self, op: Op) -> Result<(), Stuck> {
        self.link.as_ref().map_or(Ok(()), |link| link.tell(op))
    }

    /// Messages, aborts and conversations to forget. Everything here is safe to say again.
    async fn do_work(&mut self) -> Result<(), Setback> {
        let mut tx = self.relays.store().system().await?;
        let runs = tx.open_runs(&self.hub.bot, WORK_MAX).await?;
        let forget = tx.conversations_to_forget(&self.hub.bot, WORK_MAX).await?;
        tx.commit().await?;
        forget.iter().for_each(|conversation| self.hub.forget(conversation));
        let has_work = !(runs.is_empty() && forget.is_empty());
        self.idle_at = if has_work && self.reachable { None } else { self.idle_at.or(Some(Instant::now() + IDLE_MAX)) };
        let Some(link) = self.link.as_mut().filter(|link| link.caught_up) else {
            return self.abort_what_never_started(&runs).await;
        };
        for run in runs {
            if link.sent.insert(run.run) {
                link.tell(Op::Send { run_id: run.run, conversation: run.conversation, text: run.text })?;
            }
            if run.abort && link.aborted.insert(run.run) {
                link.tell(Op::Abort { run_id: run.run })?;
            }
        }
        for conversation in forget {
            if link.forgotten.insert(conversation.clone()) {
                link.tell(Op::Forget { conversation })?;
            }
        }
        Ok(())
    }

    /// Without a cell, a message that nobody has taken ends at once, and so does a run that nothing is left of.
    /// Should the cell know it after all, `Stored::RunOver` tells it to stop.
    async fn abort_what_never_started(&mut self, runs: &[OpenRun]) -> Result<(), Setback> {
        let reachable = self.reachable;
        for run in runs.iter().filter(|run| run.abort && !(run.accepted && reachable)) {
            let end = Event::Run { phase: RunPhase::Aborted, model: None, provider_calls: None, error: None };
            self.end_run(run.run, RunEnd::Aborted, &end).await?;
        }
        Ok(())
    }

    async fn end_run(&mut self, run: RunId, end: RunEnd, event: &Event) -> Result<(), StoreError> {
        let mut tx = self.relays.store().system().await?;
        let body = |conversation: &ConversationId| frames::of_event(event, run, conversation);
        tx.end_open_run(&self.hub.bot, run, end, body, self.relays.now()).await?;
        tx.commit().await?;
        self.publish_rows().await
    }

    async fn take_reply(&mut self, reply: Reply) -> Result<(), Setback> {
        match reply {
            Reply::Accepted { run_id } => {
                let mut tx = self.relays.store().system().await?;
                tx.run_accepted(&self.hub.bot, run_id).await?;
                tx.commit().await?;
            }
            Reply::CaughtUp { .. } => {
                if let Some(link) = &mut self.link {
                    link.caught_up = true;
                }
                self.attempt = 0;
                self.hub.set_linked(true);
                self.todo = self.todo.with(Look::WORK);
            }
            Reply::Refused { run_id: Some(run), error } => self.take_refusal(run, error).await?,
            Reply::Refused { run_id: None, error } => {
                tracing::warn!(bot.id = %self.hub.bot, code = %error.code, "a cell refused an operation");
                if let Some(link) = &mut self.link {
                    // The next look asks again.
                    link.forgotten.clear();
                }
            }
            Reply::Forgotten { conversation } => {
                let mut tx = self.relays.store().system().await?;
                tx.conversation_forgotten(&self.hub.bot, &conversation).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    /// The cell doesn't take a message, or has nothing left to abort: the run ends here. When the cell only has no
    /// room, the message waits.
    async fn take_refusal(&mut self, run: RunId, fault: Fault) -> Result<(), Setback> {
        let Some(link) = &mut self.link else { return Ok(()) };
        tracing::warn!(bot.id = %self.hub.bot, run.id = %run, code = %fault.code, "a cell refused an operation of a run");
        if fault.code == REFUSED_FOR_NOW {
            link.sent.remove(&run);
            return Ok(());
        }
        if self.parked.holds_end_of(run) {
            return Ok(());
        }
        let (end, phase, error) = if link.aborted.contains(&run) {
            (RunEnd::Aborted, RunPhase::Aborted, None)
        } else {
            let error = RunError { code: fault.code, message: fault.message, retry: true };
            (RunEnd::Failed, RunPhase::Failed, Some(error))
        };
        let event = Event::Run { phase, model: None, provider_calls: None, error };
        Ok(self.end_run(run, end, &event).await?)
    }

    async fn take_frame(&mut self, frame: Frame) -> Result<(), Setback> {
        if let Some(cell_seq) = frame.cell_seq {
            self.newest = self.newest.max(cell_seq);
        }
        match self.parked.behind(frame) {
            Some(frame) => self.handle_frame(frame).await,
            None => Ok(()),
        }
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<(), Setback> {
        let calls = match &frame.event {
            Event::Run { provider_calls, .. } if frame.event.ends_run() => provider_calls.unwrap_or(0),
            _ => 0,
        };
        if frame.cell_seq.is_none() {
            if !self.link.as_ref().is_some_and(|link| link.forgotten.contains(&frame.conversation)) {
                self.hub.publish_piece(&frame);
            }
            return Ok(());
        }
        if calls > 0 && !self.books_know(frame.run_id, calls).await? {
            self.parked.hold(Ending { frame, calls, until: Instant::now() + USAGE_WAIT });
            return Ok(());
        }
        self.store(frame).await
    }

    async fn books_know(&self, run: RunId, calls: u32) -> Result<bool, StoreError> {
        let mut tx = self.relays.store().system().await?;
        let count = tx.usage_count_of_run(run).await?;
        tx.commit().await?;
        Ok(count >= i64::from(calls))
    }

    /// Lets runs end whose usage is in the books, or that have waited long enough.
    async fn release_endings(&mut self) -> Result<(), Setback> {
        let waiting: Vec<_> = self
            .parked
            .endings()
            .map(|ending| (ending.frame.conversation.clone(), ending.frame.run_id, ending.calls))
            .collect();
        for (conversation, run, calls) in waiting {
            if self.parked.is_due(&conversation, Instant::now()) {
                tracing::warn!(bot.id = %self.hub.bot, run.id = %run, calls, "a run ends before all its usage is known");
            } else if !self.books_know(run, calls).await? {
                continue;
            }
            let Some(ending) = self.parked.release(&conversation) else { continue };
            self.store(ending).await?;
            while let Some(frame) = self.parked.next_loose() {
                self.take_frame(frame).await?;
            }
        }
        Ok(())
    }

    /// Commits a finished frame, then acknowledges it, then shows it.
    async fn store(&mut self, frame: Frame) -> Result<(), Setback> {
        let Some(cell_seq) = frame.cell_seq else { return Ok(()) };
        let Some(cell_frame) = cell_frame(&frame, cell_seq, self.relays.now()) else { return Ok(()) };
        let upto = self.parked.lowest().map_or(self.newest, |lowest| lowest - 1);
        let mut tx = self.relays.store().system().await?;
        let stored = tx.store_frame(&self.hub.bot, &cell_frame, Some(upto)).await?;
        tx.commit().await?;
        self.tell(Op::Ack { cell_seq: upto })?;
        if frame.event.ends_run() {
            // There may be room now for a message that the cell could not take.
            self.todo = self.todo.with(Look::WORK);
        }
        match stored {
            Stored::New(row) if row.seq == Some(self.hub.cursor() + 1) => self.hub.publish_row(row),
            Stored::New(_) => self.publish_rows().await?,
            Stored::Known => {}
            Stored::RunOver => self.stop_ended_run(&frame)?,
            Stored::NoConversation => {
                let (bot, run) = (&self.hub.bot, frame.run_id);
                tracing::debug!(bot.id = %bot, run.id = %run, "dropped a frame of a conversation that is gone");
            }
            Stored::BotGone => self.todo = self.todo.with(Look::BOT),
        }
        Ok(())
    }

    /// The cell goes on with a run that has ended here.
    fn stop_ended_run(&mut self, frame: &Frame) -> Result<(), Stuck> {
        let Some(link) = &mut self.link else { return Ok(()) };
        if frame.event.ends_run() || !link.aborted.insert(frame.run_id) {
            return Ok(());
        }
        link.tell(Op::Abort { run_id: frame.run_id })
    }

    fn is_idle(&mut self) -> bool {
        let quiet = self.hub.sockets() == 0 && self.parked.is_empty() && !self.hub.has_signals();
        let Some(idle_at) = self.idle_at.filter(|_| quiet) else {
            if self.hub.sockets() > 0 {
                self.idle_at = Some(Instant::now() + IDLE_MAX);
            }
            return false;
        };
        Instant::now() >= idle_at
    }
}

/// `None`: not the cell's to say. A person's message is the platform's own.
fn cell_frame(frame: &Frame, cell_seq: CellSeq, now: Time) -> Option<CellFrame> {
    if matches!(frame.event, Event::Message { role: Role::User, .. }) {
        return None;
    }
    let end = match &frame.event {
        Event::Run { phase: RunPhase::Finished, .. } => Some(RunEnd::Finished),
        Event::Run { phase: RunPhase::Failed, .. } => Some(RunEnd::Failed),
        Event::Run { phase: RunPhase::Aborted, .. } => Some(RunEnd::Aborted),
        _ => None,
    };
    Some(CellFrame {
        cell_seq,
        run: frame.run_id,
        conversation: frame.conversation.clone(),
        end,
        body: frames::of_event(&frame.event, frame.run_id, &frame.conversation),
        at: frame.at.min(now),
    })
}
