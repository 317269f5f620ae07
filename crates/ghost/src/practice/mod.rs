//! The practice model: no network, deterministic, and good enough to see every part of the product at work without a key.
//! It understands plain requests by rules, chooses among the tools it is given by their schemas, and says what it is.
//! Never: knowledge it doesn't have, a claim that no tool confirmed, or anything that differs between two equal requests.
//!
//! `hear` finds the person's words in a request, `understand` turns them into wishes, `act` fulfils them with `hands`,
//! `speak` makes the answer ready for the wire, `translate` reads the other surfaces' requests, `embed` makes vectors for
//! memory search.

mod act;
mod embed;
mod files;
mod hands;
mod hear;
mod machine;
mod recall;
mod remember;
mod speak;
mod talk;
#[cfg(test)]
mod tests;
mod tools;
mod translate;
mod understand;
mod words;

use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::answer::Refusal;
use crate::speech::Pieces;
use crate::surface::Surface;
use crate::upstream::{Reply, ReplyBody};
use crate::usage::estimate;
use act::{Move, act};
use hands::{Done, Hands, NextCall, Stop};
use hear::{Heard, hear};
use speak::Answer;
use tools::Toolbox;
use understand::understand;

pub(crate) use speak::PracticeBody;

/// Said at the end of answers, so that nobody takes this for a real model.
const CLOSINGS: [&str; 3] = [
    "*(A practice model answered: it follows simple rules.)*",
    "*(This is the practice model; a real one understands far more.)*",
    "*(Practice model speaking: no network, only rules.)*",
];

pub(crate) struct Practice {
    /// What the configuration calls this provider.
    provider: String,
    pace: Duration,
}

impl Practice {
    pub(crate) fn new(provider: String, pace: Duration) -> Self {
        Self { provider, pace }
    }

    /// Much code, which has no place in the middle of what every call runs.
    #[inline(never)]
    pub(crate) fn reply(&self, surface: Surface, body: &[u8]) -> Result<Reply, Refusal> {
        let request: Value = serde_json::from_slice(body)
            .map_err(|_| Refusal::invalid("invalid_json", "The body isn't valid JSON, or is nested too deeply."))?;
        if surface == Surface::Embeddings {
            let answer = embed::answer(&request, body.len())?;
            return Ok(self.given(false, [(answer.to_string().into(), false)].into()));
        }
        let translated = translate::chat_request(surface, &request)?;
        if surface == Surface::CountTokens {
            let count = serde_json::json!({ "input_tokens": estimate(body.len()) });
            return Ok(self.given(false, [(count.to_string().into(), false)].into()));
        }
        let asked = translated.as_ref().unwrap_or(&request);
        let answer = think(asked);
        let id = hex::encode(&Sha256::digest(body)[..12]);
        // The name that the caller knows: a runtime shows another name as a change of model.
        let model = format!("{}/{}", self.provider, request["model"].as_str().unwrap_or("practice-1"));
        let mut speech = answer.speech(&id, &model, body.len());
        speech.usage_asked = request.pointer("/stream_options/include_usage") == Some(&Value::Bool(true));
        let stream = request.get("stream") == Some(&Value::Bool(true));
        let pieces =
            if stream { speech.pieces(surface) } else { speech.whole(surface).map(|answer| [(answer, false)].into()) };
        Ok(self.given(stream, pieces.unwrap_or_default()))
    }

    fn given(&self, streams: bool, pieces: Pieces) -> Reply {
        Reply { streams, body: ReplyBody::Practice(PracticeBody::new(pieces, self.pace)) }
    }
}

/// The whole of the model: a request in, an answer or a tool call out.
fn think(request: &Value) -> Answer {
    let heard = hear(request);
    let choice = request.get("tool_choice");
    let no_tools = Value::Null;
    let offered = if choice.and_then(Value::as_str) == Some("none") { &no_tools } else { request };
    let tools = Toolbox::of(offered, &heard.system);
    let mut hands = Hands::new(&tools, &heard.done);
    let understood = understand(&heard.words);
    let aloud = understood.aloud || wants_reasoning(request);

    let next = match demanded(choice, &heard, &tools, &mut hands) {
        Some(Err(Stop::Call(call))) => Move::Call(call),
        Some(Ok(result)) => Move::Say(format!("The tool answered:\n\n{result}")),
        Some(Err(_)) | None => act(&understood, &heard, &mut hands),
    };
    let mut answer = Answer::default();
    if aloud {
        answer.reasoning = aloud_text(&heard, &hands.thoughts, &next);
    }
    match next {
        Move::Call(call) => answer.call = Some(call),
        Move::Say(text) => answer.text = closed(text, &heard, request),
    }
    let limit = request.get("max_completion_tokens").or_else(|| request.get("max_tokens")).and_then(Value::as_u64);
    answer.limit(limit);
    answer
}

/// The caller insists on a tool: that one, or any. Once it has answered, the model is free again.
fn demanded(choice: Option<&Value>, heard: &Heard, tools: &Toolbox<'_>, hands: &mut Hands<'_>) -> Option<Done<String>> {
    let choice = choice?;
    if tools.is_empty() || !heard.done.is_empty() {
        return None;
    }
    let named = choice.pointer("/function/name").and_then(Value::as_str);
    if let Some(name) = named {
        // The model's own plan may call the very tool with better arguments.
        let planned = act(&understand(&heard.words), heard, &mut Hands::new(tools, &heard.done));
        return match planned {
            Move::Call(call) if call.tool == name => Some(Err(Stop::Call(call))),
            _ => Some(hands.forced(Some(name), &heard.words)),
        };
    }
    if choice.as_str() != Some("required") {
        return None;
    }
    match act(&understand(&heard.words), heard, &mut Hands::new(tools, &heard.done)) {
        Move::Call(call) => Some(Err(Stop::Call(call))),
        Move::Say(_) => Some(hands.forced(None, &heard.words)),
    }
}

fn wants_reasoning(request: &Value) -> bool {
    let effort =
        request.get("reasoning_effort").or_else(|| request.pointer("/reasoning/effort")).and_then(Value::as_str);
    effort.is_some_and(|effort| !matches!(effort, "" | "none" | "off" | "minimal"))
}

fn aloud_text(heard: &Heard, thoughts: &[String], next: &Move) -> String {
    let words: String = heard.words.chars().take(120).collect();
    let mut text = format!("The person says: “{words}”. ");
    for thought in thoughts {
        text.push_str(thought);
        text.push(' ');
    }
    text.push_str(match next {
        Move::Call(NextCall { .. }) => "I call the tool and see what it answers.",
        Move::Say(_) if heard.done.is_empty() => "I need no tool for this, so I just answer.",
        Move::Say(_) => "Now I have what I need and can answer.",
    });
    text
}

/// With the closing line, or inside the JSON that the caller insists on.
fn closed(text: String, heard: &Heard, request: &Value) -> String {
    let format = request.pointer("/response_format/type").and_then(Value::as_str);
    if matches!(format, Some("json_object" | "json_schema")) {
        return serde_json::json!({ "answer": text, "model": "practice model" }).to_string();
    }
    if text.contains("practice model") {
        return text;
    }
    format!("{text}\n\n{}", CLOSINGS[heard.words.len() % CLOSINGS.len()])
}
