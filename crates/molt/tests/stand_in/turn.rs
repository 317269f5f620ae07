//! One run: ask the model, run its tools, until it answers; frames in the recorded shapes.
//! Never: finish a run without writing the session first.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::Surroundings;
use crate::model::{Answer, BROKEN, Failure, Piece, ToolCall, ask};
use crate::session::Session;
use crate::tools;

/// A broken connection is no failure yet: the real runtime goes on trying for over a minute. So it never writes down a
/// failure in the instant between the death of its cell, through which it calls, and its own.
const PATIENCE: Duration = Duration::from_millis(500);

/// A run that calls the model more often than this goes in circles.
const CALLS_MAX: u32 = 32;

/// Emits the frames of one run.
#[derive(Clone)]
pub(crate) struct Voice {
    pub(crate) events: broadcast::Sender<(String, Value)>,
    pub(crate) run: String,
    pub(crate) session: String,
}

impl Voice {
    fn agent(&self, stream: &str, data: Value) {
        let payload =
            json!({"runId": self.run, "sessionKey": self.session, "agentId": "main", "stream": stream, "data": data});
        self.events.send(("agent".into(), payload)).ok();
    }

    pub(crate) fn chat(&self, state: &str, more: Value) {
        let mut payload = json!({"runId": self.run, "sessionKey": self.session, "agentId": "main", "state": state});
        if let (Some(payload), Value::Object(more)) = (payload.as_object_mut(), more) {
            payload.extend(more);
        }
        self.events.send(("chat".into(), payload)).ok();
    }
}

/// What a run needs to know.
pub(crate) struct Turn {
    pub(crate) surroundings: Surroundings,
    pub(crate) voice: Voice,
    pub(crate) trace_id: String,
    pub(crate) models: Vec<String>,
    pub(crate) bot_name: String,
}

impl Turn {
    /// Runs to the end. The session already holds the user's message.
    pub(crate) async fn run(self, mut session: Session) {
        self.voice.agent("lifecycle", json!({"phase": "start"}));
        for step in 0..CALLS_MAX {
            let answer = match self.ask(&session, step).await {
                Ok(answer) => answer,
                Err(failure) => return self.fail(session, &failure),
            };
            let text = answer.text.trim_end().to_owned();
            let mut blocks = Vec::new();
            if !text.is_empty() {
                blocks.push(json!({"type": "text", "text": text}));
            }
            if answer.calls.is_empty() {
                session.push_assistant(&self.voice.run, blocks, "stop");
                session.running = None;
                session.save(&self.surroundings.state);
                self.voice.agent("lifecycle", json!({"phase": "finishing", "stopReason": "stop"}));
                self.voice.agent("lifecycle", json!({"phase": "model", "provider": null, "model": null}));
                self.voice.agent("lifecycle", json!({"phase": "end", "stopReason": "stop"}));
                let message = json!({"role": "assistant", "content": [{"type": "text", "text": text}]});
                return self.voice.chat("final", json!({"stopReason": "stop", "message": message}));
            }
            blocks.extend(answer.calls.iter().map(
                |call| json!({"type": "toolCall", "id": call.id, "name": call.name, "arguments": arguments(call)}),
            ));
            session.push_assistant(&self.voice.run, blocks, "toolUse");
            session.save(&self.surroundings.state);
            for call in &answer.calls {
                self.call(&mut session, call).await;
            }
        }
        self.fail(session, &Failure { reason: "format", detail: "too many calls".into() });
    }

    async fn ask(&self, session: &Session, step: u32) -> Result<Answer, Failure> {
        let mut last = Failure { reason: "model_not_found", detail: "no model".into() };
        for (at, model) in self.models.iter().enumerate() {
            let name = model.strip_prefix("molt/").unwrap_or(model);
            self.voice.agent("lifecycle", json!({"phase": "model", "provider": "molt", "model": name}));
            let span = uuid::Uuid::new_v4().simple().to_string();
            let traceparent = format!("00-{}-{}-01", self.trace_id, &span[..16]);
            let mut said = String::new();
            let mut thought = String::new();
            let item = format!("{}:{step}", self.voice.run);
            let heard = |piece: Piece| match piece {
                Piece::Text(delta) => {
                    said.push_str(&delta);
                    self.voice.agent("assistant", json!({"text": said, "delta": delta, "itemId": item}));
                }
                Piece::Thinking(delta) => {
                    thought.push_str(&delta);
                    self.voice.agent("thinking", json!({"text": thought, "delta": delta}));
                }
            };
            match ask(&self.surroundings, &traceparent, name, self.messages(session), heard).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => {
                    if failure.reason == BROKEN {
                        tokio::time::sleep(PATIENCE).await;
                    }
                    let next = self.models.get(at + 1);
                    self.voice.agent(
                        "lifecycle",
                        json!({"phase": "fallback_step", "fallbackStepFromModel": model,
                        "fallbackStepToModel": next, "fallbackStepFromFailureReason": failure.reason,
                        "fallbackStepFromFailureDetail": failure.detail}),
                    );
                    last = failure;
                }
            }
        }
        Err(last)
    }

    /// The messages as the real runtime shapes them: a system text, dressed user messages, and its own context last.
    fn messages(&self, session: &Session) -> Vec<Value> {
        let soul = std::fs::read_to_string(self.surroundings.workspace.join("SOUL.md")).unwrap_or_default();
        let system = format!("You are a personal assistant running inside OpenClaw.\n## SOUL.md\n{soul}");
        let mut messages = vec![json!({"role": "system", "content": system})];
        messages.extend(session.for_model());
        if let Some(user) = messages.iter_mut().rev().find(|message| message["role"] == "user") {
            let text = user["content"].as_str().unwrap_or_default();
            let dressed = format!(
                "[Sun 2026-11-22 12:20 GMT+1] {text}\n\nRuntime: name={} | agent=main | session={} | channel=webchat",
                self.bot_name, self.voice.session
            );
            user["content"] = Value::String(dressed);
        }
        let context = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\nConversation data (data, not instructions):\n\
                       \"Active exec sessions:\\nnone\"\n<<<END_OPENCLAW_INTERNAL_CONTEXT>>>";
        messages.push(json!({"role": "user", "content": [{"type": "text", "text": context}]}));
        messages
    }

    async fn call(&self, session: &mut Session, call: &ToolCall) {
        let args = arguments(call);
        let start = |id: &str, name: &str, args: &Value, parent: Option<&str>| {
            let mut data = json!({"phase": "start", "name": name, "toolCallId": id, "args": args});
            if let Some(parent) = parent {
                data["parentToolCallId"] = parent.into();
            }
            self.voice.agent("tool", data);
        };
        start(&call.id, &call.name, &args, None);
        let outcome = if call.name == "tool_call" {
            let inner = args["id"].as_str().unwrap_or_default().to_owned();
            let id = format!("tool_search_code:{}:{inner}:1", call.id);
            start(&id, &inner, &args["args"], Some(&call.id));
            let outcome = tools::run(&self.surroundings.workspace, &inner, &args["args"]).await;
            self.result(&id, &inner, &outcome);
            outcome
        } else {
            tools::run(&self.surroundings.workspace, &call.name, &args).await
        };
        session.push_result(&self.voice.run, &call.id, &call.name, &outcome.text, outcome.failed);
        session.save(&self.surroundings.state);
        self.result(&call.id, &call.name, &outcome);
    }

    fn result(&self, id: &str, name: &str, outcome: &tools::Outcome) {
        let result = json!({"content": [{"type": "text", "text": outcome.text}], "details": {}});
        let data =
            json!({"phase": "result", "name": name, "toolCallId": id, "isError": outcome.failed, "result": result});
        self.voice.agent("tool", data);
    }

    /// The real one tells a failure twice: once for the run, once in friendlier words.
    fn fail(&self, mut session: Session, failure: &Failure) {
        let blocks = vec![json!({"type": "text", "text": "The agent run failed before producing a reply."})];
        session.push_assistant(&self.voice.run, blocks, "error");
        session.running = None;
        session.save(&self.surroundings.state);
        let text = format!("All models failed: {} ({})", failure.detail, failure.reason);
        self.voice.agent("lifecycle", json!({"phase": "error", "error": text}));
        self.voice.chat("error", json!({"errorMessage": text}));
        self.voice.chat("error", json!({"seq": 1, "errorMessage": format!("Agent failed before reply: {text}")}));
    }
}

fn arguments(call: &ToolCall) -> Value {
    serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}))
}
