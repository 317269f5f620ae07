//! The shape of Anthropic's messages: blocks that start, grow and stop.
//! Never: input tokens that are told a second time; the first event has them.

use serde_json::{Value, json};

use super::{Pieces, Speech, named};

pub(super) fn whole(speech: &Speech<'_>) -> Value {
    let mut content = Vec::new();
    if !speech.reasoning.is_empty() {
        content.push(json!({ "type": "thinking", "thinking": speech.reasoning, "signature": "" }));
    }
    match &speech.call {
        Some(call) => content.push(tool_use(speech, call.tool, call.arguments)),
        None => content.push(json!({ "type": "text", "text": speech.text })),
    }
    message(speech, content, Some(stop_reason(speech)), speech.output_tokens)
}

fn message(speech: &Speech<'_>, content: Vec<Value>, stop_reason: Option<&str>, output_tokens: i64) -> Value {
    json!({
        "id": format!("msg_{}", speech.id), "type": "message", "role": "assistant", "model": speech.model,
        "content": content, "stop_reason": stop_reason, "stop_sequence": null,
        "usage": { "input_tokens": speech.input_tokens, "cache_creation_input_tokens": 0,
                   "cache_read_input_tokens": 0, "output_tokens": output_tokens },
    })
}

fn tool_use(speech: &Speech<'_>, tool: &str, input: &Value) -> Value {
    json!({ "type": "tool_use", "id": format!("toolu_{}", speech.id), "name": tool, "input": input })
}

fn stop_reason(speech: &Speech<'_>) -> &'static str {
    match (&speech.call, speech.cut) {
        (Some(_), _) => "tool_use",
        (None, true) => "max_tokens",
        (None, false) => "end_turn",
    }
}

/// The stream, as far as it is written.
struct Stream {
    pieces: Pieces,
    blocks: usize,
}

impl Stream {
    fn push(&mut self, event: &Value, paced: bool) {
        let kind = event["type"].as_str().unwrap_or_default();
        self.pieces.push_back((named(kind, event), paced));
    }

    /// A block from its start to its stop. `deltas` are the kind of its parts and the name of their text.
    fn block(&mut self, start: Value, deltas: (&str, &str), parts: &[impl AsRef<str>], paced: bool) {
        let index = self.blocks;
        self.push(&json!({ "type": "content_block_start", "index": index, "content_block": start }), false);
        for part in parts {
            let delta = json!({ "type": deltas.0, deltas.1: part.as_ref() });
            self.push(&json!({ "type": "content_block_delta", "index": index, "delta": delta }), paced);
        }
        self.push(&json!({ "type": "content_block_stop", "index": index }), false);
        self.blocks += 1;
    }
}

pub(super) fn pieces(speech: &Speech<'_>) -> Pieces {
    let mut stream = Stream { pieces: Pieces::new(), blocks: 0 };
    stream.push(&json!({ "type": "message_start", "message": message(speech, Vec::new(), None, 0) }), false);
    if !speech.reasoning.is_empty() {
        let start = json!({ "type": "thinking", "thinking": "", "signature": "" });
        stream.block(start, ("thinking_delta", "thinking"), &speech.parts(speech.reasoning), true);
    }
    match &speech.call {
        Some(call) => {
            let start = tool_use(speech, call.tool, &json!({}));
            stream.block(start, ("input_json_delta", "partial_json"), &call.argument_parts(), false);
        }
        None => {
            let start = json!({ "type": "text", "text": "" });
            stream.block(start, ("text_delta", "text"), &speech.parts(speech.text), true);
        }
    }
    let delta = json!({ "stop_reason": stop_reason(speech), "stop_sequence": null });
    let usage = json!({ "output_tokens": speech.output_tokens });
    stream.push(&json!({ "type": "message_delta", "delta": delta, "usage": usage }), false);
    stream.push(&json!({ "type": "message_stop" }), false);
    stream.pieces
}
