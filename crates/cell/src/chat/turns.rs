//! All runs of the bot, and who listens. Every change is in the journal before anybody hears of it.
//! Never: wait; requests to the runtime go out in tasks of their own and come back as outcomes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::Utc;
use molt_bot::{CellSeq, Decision, Event, Fault, Frame, FromCell, Reply, RunPhase};
use molt_model::clock::Time;
use molt_model::id::{ConversationId, RunId};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::run::{Run, session_key};
use super::{Wire, wire};
use crate::failure;
use crate::gateway::{Gateway, GatewayError};
use crate::journal::Journal;
use crate::recover::{Verdict, judge};
use crate::traces::{Traces, traceparent};

/// The runtime answers at once, but the first message after a boot finds it busy.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// A run's own messages are on one page, tool calls included.
const HISTORY_MESSAGES: u32 = 200;

/// What came of a request to the runtime.
#[derive(Debug)]
pub(super) enum Outcome {
    Sent { run_id: RunId, result: Result<Value, GatewayError> },
    History { run_id: RunId, result: Result<Value, GatewayError> },
    Aborted { run_id: RunId },
}

pub(super) struct Turns {
    journal: Journal,
    traces: Traces,
    outcomes: mpsc::Sender<Outcome>,
    gateway: Option<Gateway>,
    /// In order of acceptance. The first of a conversation is the one that runs.
    runs: Vec<Run>,
    /// The runtime's ids of runs, ended ones of this process too, so that their echoes are known.
    names: HashMap<String, RunId>,
    readers: Vec<mpsc::Sender<Wire>>,
}

/// Ids of ended runs are forgotten beyond this many; their echoes come within a second.
const NAMES_MAX: usize = 4096;

impl Turns {
    pub(super) fn restore(journal: Journal, traces: Traces, outcomes: mpsc::Sender<Outcome>) -> Self {
        let now = Instant::now();
        let runs: Vec<Run> = journal.open_runs().iter().map(|open| Run::restore(open, now)).collect();
        let mut names = HashMap::new();
        for run in &runs {
            names.insert(run.run_id.to_string(), run.run_id);
            names.extend(run.runtime_runs.iter().map(|name| (name.clone(), run.run_id)));
        }
        Self { journal, traces, outcomes, gateway: None, runs, names, readers: Vec::new() }
    }

    pub(super) fn active(&self) -> u32 {
        u32::try_from(self.runs.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn readers(&mut self) -> usize {
        self.readers.retain(|reader| !reader.is_closed());
        self.readers.len()
    }

    pub(super) fn knows(&self, run_id: RunId) -> bool {
        self.journal.knows(run_id)
    }

    pub(super) fn is_full(&self) -> bool {
        self.journal.is_full()
    }

    pub(super) fn subscribe(&mut self, after: CellSeq, live: mpsc::Sender<Wire>) -> Vec<Wire> {
        let mut backlog: Vec<Wire> = self.journal.lines_after(after).map(|line| line.json.clone()).collect();
        for run in &self.runs {
            let open = run.translator.open_texts();
            backlog.extend(open.into_iter().map(|event| wire(&FromCell::Frame(frame(run, event)))));
        }
        backlog.push(wire(&FromCell::Reply(Reply::CaughtUp { cell_seq: self.journal.last_seq() })));
        self.readers.push(live);
        backlog
    }

    pub(super) fn accept(
        &mut self,
        run_id: RunId,
        conversation: ConversationId,
        text: String,
        at: Time,
    ) -> anyhow::Result<()> {
        self.journal.accept(run_id, conversation, text, at)?;
        let open = self.journal.open_runs().last().context("the run was just accepted")?;
        let run = Run::restore(open, Instant::now());
        self.names.insert(run_id.to_string(), run_id);
        self.runs.push(run);
        Ok(())
    }

    pub(super) fn ack(&mut self, cell_seq: CellSeq) -> anyhow::Result<()> {
        self.journal.ack(cell_seq)
    }

    pub(super) fn up(&mut self, gateway: Gateway) -> anyhow::Result<()> {
        self.gateway = Some(gateway);
        self.unsettle();
        self.look_around()?;
        self.give_next()
    }

    pub(super) fn down(&mut self) {
        self.gateway = None;
        self.unsettle();
    }

    fn unsettle(&mut self) {
        let now = Instant::now();
        self.runs.iter_mut().for_each(|run| run.unsettle(now));
    }

    /// Gives the runtime the first message of every conversation in which nothing runs.
    pub(super) fn give_next(&mut self) -> anyhow::Result<()> {
        let Some(gateway) = self.gateway.clone() else { return Ok(()) };
        let mut busy: Vec<ConversationId> = Vec::new();
        for at in 0..self.runs.len() {
            let run = &mut self.runs[at];
            let first = !busy.contains(&run.conversation);
            busy.push(run.conversation.clone());
            if !first || run.given {
                continue;
            }
            self.journal.note_given(run.run_id)?;
            run.given = true;
            run.asking = true;
            run.heard(Instant::now());
            self.traces.open(run.run_id);
            // What a person writes is for the assistant: "/model" or "/think" is text like any other.
            let params = json!({
                "sessionKey": run.session_key(), "message": run.text, "idempotencyKey": run.run_id.to_string(),
                "suppressCommandInterpretation": true,
            });
            let (run_id, outcomes, gateway) = (run.run_id, self.outcomes.clone(), gateway.clone());
            tokio::spawn(async move {
                let trace = Some(traceparent(run_id));
                let result = gateway.traced("chat.send", params, trace, SEND_TIMEOUT).await;
                outcomes.send(Outcome::Sent { run_id, result }).await.ok();
            });
        }
        Ok(())
    }

    /// Reads the history for runs of which it is unclear what became of them.
    pub(super) fn look_around(&mut self) -> anyhow::Result<()> {
        let Some(gateway) = &self.gateway else { return Ok(()) };
        let now = Instant::now();
        for run in self.runs.iter_mut().filter(|run| run.is_due(now)) {
            run.asking = true;
            self.traces.open(run.run_id);
            let params = json!({"sessionKey": run.session_key(), "limit": HISTORY_MESSAGES});
            let (run_id, outcomes, gateway) = (run.run_id, self.outcomes.clone(), gateway.clone());
            tokio::spawn(async move {
                let result = gateway.request("chat.history", params, ASK_TIMEOUT).await;
                outcomes.send(Outcome::History { run_id, result }).await.ok();
            });
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, outcome: Outcome) -> anyhow::Result<()> {
        let (Outcome::Sent { run_id, .. } | Outcome::History { run_id, .. } | Outcome::Aborted { run_id }) = &outcome;
        let run_id = *run_id;
        let Some(at) = self.position(run_id) else { return Ok(()) };
        let now = Instant::now();
        match outcome {
            Outcome::Sent { result, .. } => {
                let run = &mut self.runs[at];
                run.asking = false;
                match result {
                    // Known from before: whatever frames it had, they may be over.
                    Ok(answer) if answer["status"] == "ok" => run.unsettle(now),
                    Ok(_) => {}
                    Err(GatewayError::Refused { retryable: false, code, .. }) => {
                        tracing::warn!(run.id = %run_id, code, "the runtime refused a message");
                        let events = run.translator.end(RunPhase::Failed, Some(failure::refused()));
                        return self.publish(run_id, events);
                    }
                    Err(_) => {
                        run.unsettle(now);
                        run.look_again(now);
                    }
                }
                if self.runs[at].abort { self.send_abort(run_id) } else { Ok(()) }
            }
            Outcome::History { result, .. } => {
                let run = &mut self.runs[at];
                run.asking = false;
                run.look_again(now);
                match result {
                    Ok(history) => self.conclude(run_id, &judge(&history, run_id)),
                    Err(_) => Ok(()),
                }
            }
            Outcome::Aborted { .. } => {
                let run = &mut self.runs[at];
                run.unclear_since.get_or_insert(now);
                run.abort_sent = false;
                run.look_again(now);
                Ok(())
            }
        }
    }

    /// Acts on what the history says about a run.
    fn conclude(&mut self, run_id: RunId, verdict: &Verdict) -> anyhow::Result<()> {
        let Some(at) = self.position(run_id) else { return Ok(()) };
        let now = Instant::now();
        let run = &mut self.runs[at];
        let abort = run.abort;
        let events = match verdict {
            Verdict::Active(names) => {
                if let Some(name) = names.iter().rev().find(|name| !self.names.contains_key(*name)) {
                    self.adopt(run_id, name)?;
                }
                return if abort { self.send_abort(run_id) } else { Ok(()) };
            }
            Verdict::Lost if !abort => {
                run.given = false;
                return self.give_next();
            }
            Verdict::Answered(content) => {
                let mut events = content.as_deref().map_or_else(Vec::new, |content| run.translator.answer(content));
                events.extend(run.translator.end(RunPhase::Finished, None));
                events
            }
            Verdict::Lost | Verdict::Silent | Verdict::Failed if abort => run.translator.end(RunPhase::Aborted, None),
            Verdict::Failed => run.translator.end(RunPhase::Failed, Some(failure::interrupted())),
            Verdict::Lost | Verdict::Silent => {
                run.unclear_since.get_or_insert(now);
                if !run.is_lost(now) {
                    return Ok(());
                }
                run.translator.end(RunPhase::Failed, Some(failure::interrupted()))
            }
        };
        self.publish(run_id, events)
    }

    /// The runtime went on with a run under another name.
    fn adopt(&mut self, run_id: RunId, name: &str) -> anyhow::Result<()> {
        let Some(at) = self.position(run_id) else { return Ok(()) };
        self.journal.note_resumed(run_id, name.to_owned())?;
        self.names.insert(name.to_owned(), run_id);
        let run = &mut self.runs[at];
        run.runtime_runs.push(name.to_owned());
        tracing::info!(run.id = %run_id, "the runtime took up an interrupted run");
        let events = run.translator.interrupt();
        self.publish(run_id, events)
    }

    /// A frame of the runtime.
    pub(super) fn event(&mut self, event: &str, payload: &Value) -> anyhow::Result<()> {
        match event {
            "chat" | "agent" => {
                let Some(run_id) = self.run_of(payload)? else { return Ok(()) };
                let Some(at) = self.position(run_id) else { return Ok(()) };
                let run = &mut self.runs[at];
                run.heard(Instant::now());
                let events = run.translator.frame(event, payload);
                self.publish(run_id, events)
            }
            "exec.approval.requested" => self.approval(payload),
            _ => Ok(()),
        }
    }

    /// Which run a frame belongs to. An unknown name in a conversation whose run is unclear is that run, resumed.
    fn run_of(&mut self, payload: &Value) -> anyhow::Result<Option<RunId>> {
        let Some(name) = payload["runId"].as_str() else { return Ok(None) };
        if let Some(run_id) = self.names.get(name) {
            return Ok(Some(*run_id));
        }
        let session = payload["sessionKey"].as_str().unwrap_or_default();
        let unclear = self.runs.iter().find(|run| run.session_key() == session);
        let Some(run_id) = unclear.filter(|run| run.unclear_since.is_some()).map(|run| run.run_id) else {
            return Ok(None);
        };
        self.adopt(run_id, name)?;
        Ok(Some(run_id))
    }

    fn approval(&mut self, payload: &Value) -> anyhow::Result<()> {
        let request = &payload["request"];
        let session = request["sessionKey"].as_str().unwrap_or_default();
        let Some(run_id) = self.runs.iter().find(|run| run.session_key() == session).map(|run| run.run_id) else {
            return Ok(());
        };
        let Some(approval_id) = payload["id"].as_str().map(str::to_owned) else { return Ok(()) };
        let args = json!({"command": request["command"], "cwd": request["cwd"]});
        self.publish(run_id, vec![Event::Approval { approval_id, tool: "exec".into(), args }])
    }

    pub(super) fn approve(&self, approval_id: String, decision: Decision) {
        let Some(gateway) = self.gateway.clone() else { return };
        let decision = match decision {
            Decision::Once => "allow-once",
            Decision::Always => "allow-always",
            Decision::No => "deny",
        };
        tokio::spawn(async move {
            let params = json!({"id": approval_id, "decision": decision});
            if let Err(error) = gateway.request("exec.approval.resolve", params, ASK_TIMEOUT).await {
                tracing::warn!(%error, "the runtime didn't take an approval");
            }
        });
    }

    /// Ends a run; false when it is over already (or never was).
    pub(super) fn abort(&mut self, run_id: RunId) -> anyhow::Result<bool> {
        let Some(at) = self.position(run_id) else { return Ok(false) };
        self.journal.note_abort(run_id)?;
        let run = &mut self.runs[at];
        run.abort = true;
        if run.given {
            self.send_abort(run_id)?;
        } else {
            let events = run.translator.end(RunPhase::Aborted, None);
            self.publish(run_id, events)?;
        }
        Ok(true)
    }

    fn send_abort(&mut self, run_id: RunId) -> anyhow::Result<()> {
        let (Some(gateway), Some(at)) = (self.gateway.clone(), self.position(run_id)) else { return Ok(()) };
        let run = &mut self.runs[at];
        if run.asking || std::mem::replace(&mut run.abort_sent, true) {
            return Ok(());
        }
        let params = json!({"sessionKey": run.session_key(), "runId": run.runtime_run()});
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            // Whether it aborted or there was nothing to abort, frames or the history will tell.
            gateway.request("chat.abort", params, ASK_TIMEOUT).await.ok();
            outcomes.send(Outcome::Aborted { run_id }).await.ok();
        });
        Ok(())
    }

    /// Ends the conversation's runs and deletes its session; false while the runtime isn't there.
    pub(super) fn forget(&mut self, conversation: &ConversationId, reply: mpsc::Sender<Wire>) -> anyhow::Result<bool> {
        let Some(gateway) = self.gateway.clone() else { return Ok(false) };
        let over: Vec<RunId> =
            self.runs.iter().filter(|run| run.conversation == *conversation).map(|run| run.run_id).collect();
        for run_id in over {
            self.journal.note_abort(run_id)?;
            let Some(at) = self.position(run_id) else { continue };
            let events = self.runs[at].translator.end(RunPhase::Aborted, None);
            self.publish(run_id, events)?;
        }
        let conversation = conversation.clone();
        tokio::spawn(async move {
            let key = session_key(&conversation);
            gateway.request("chat.abort", json!({"sessionKey": key}), ASK_TIMEOUT).await.ok();
            let params = json!({"key": key, "deleteTranscript": true});
            let answer = match gateway.request("sessions.delete", params, ASK_TIMEOUT).await {
                Ok(_) => Reply::Forgotten { conversation },
                Err(error) => {
                    tracing::warn!(%error, "the runtime didn't delete a session");
                    let message = "The conversation couldn't be deleted. Try again.".to_owned();
                    Reply::Refused { run_id: None, error: Fault { code: "not_forgotten".into(), message } }
                }
            };
            reply.send(wire(&FromCell::Reply(answer))).await.ok();
        });
        Ok(true)
    }

    /// Journals what is finished, passes everything on, and closes the run behind its last event.
    fn publish(&mut self, run_id: RunId, events: Vec<Event>) -> anyhow::Result<()> {
        let Some(at) = self.position(run_id) else { return Ok(()) };
        for mut event in events {
            let ends = event.ends_run();
            if let Event::Run { provider_calls, .. } = &mut event
                && ends
            {
                *provider_calls = Some(self.traces.close(run_id));
            }
            let finished = event.is_finished();
            let frame = frame(&self.runs[at], event);
            let line = if finished { self.journal.append(frame)? } else { wire(&FromCell::Frame(frame)) };
            // A reader that fell behind is dropped; it comes back and says where it was.
            self.readers.retain(|reader| reader.try_send(line.clone()).is_ok());
            if ends {
                self.runs.remove(at);
                self.prune_names();
                return self.give_next();
            }
        }
        Ok(())
    }

    fn prune_names(&mut self) {
        if self.names.len() > NAMES_MAX {
            let runs = &self.runs;
            self.names.retain(|_, run_id| runs.iter().any(|run| run.run_id == *run_id));
        }
    }

    fn position(&self, run_id: RunId) -> Option<usize> {
        self.runs.iter().position(|run| run.run_id == run_id)
    }
}

fn frame(run: &Run, event: Event) -> Frame {
    Frame { cell_seq: None, run_id: run.run_id, conversation: run.conversation.clone(), at: Utc::now(), event }
}
