//! The shape of chat completions.
//! Never: an event with a usage for somebody who didn't ask for it.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Pieces, Speech};

pub(super) fn whole(speech: &Speech<'_>) -> Value {
    let mut message = json!({ "role": "assistant", "content": speech.text });
    if !speech.reasoning.is_empty() {
        message["reasoning_content"] = speech.reasoning.into();
    }
    if let Some(call) = &speech.call {
        message["content"] = Value::Null;
        message["tool_calls"] = json!([tool_call(speech, call.tool, &call.arguments.to_string())]);
    }
    let choice = json!({ "index": 0, "message": message, "finish_reason": finish_reason(speech) });
    json!({
        "id": id(speech), "object": "chat.completion", "created": speech.created, "model": speech.model,
        "choices": [choice], "usage": usage(speech),
    })
}

pub(super) fn pieces(speech: &Speech<'_>) -> Pieces {
    let mut pieces = Pieces::new();
    let chunk = |choices: Value| json!({ "id": id(speech), "object": "chat.completion.chunk", "created": speech.created, "model": speech.model, "choices": choices });
    let mut push = |chunk: Value, paced: bool| pieces.push_back((Bytes::from(format!("data: {chunk}\n\n")), paced));
    let delta = |delta: Value| chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]));
    push(delta(json!({ "role": "assistant", "content": "" })), false);
    for part in speech.parts(speech.reasoning) {
        push(delta(json!({ "reasoning_content": part })), true);
    }
    for part in speech.parts(speech.text) {
        push(delta(json!({ "content": part })), true);
    }
    if let Some(call) = &speech.call {
        push(delta(json!({ "tool_calls": [tool_call(speech, call.tool, "")] })), false);
        for part in call.argument_parts() {
            push(delta(json!({ "tool_calls": [{ "index": 0, "function": { "arguments": part } }] })), false);
        }
    }
    push(chunk(json!([{ "index": 0, "delta": {}, "finish_reason": finish_reason(speech) }])), false);
    if speech.usage_asked {
        let mut last = chunk(json!([]));
        last["usage"] = usage(speech);
        push(last, false);
    }
    pieces.push_back((Bytes::from_static(b"data: [DONE]\n\n"), false));
    pieces
}

fn id(speech: &Speech<'_>) -> String {
    format!("chatcmpl-{}", speech.id)
}

fn tool_call(speech: &Speech<'_>, tool: &str, arguments: &str) -> Value {
    json!({ "index": 0, "id": format!("call_{}", speech.id), "type": "function",
            "function": { "name": tool, "arguments": arguments } })
}

fn finish_reason(speech: &Speech<'_>) -> &'static str {
    match (&speech.call, speech.cut) {
        (Some(_), _) => "tool_calls",
        (None, true) => "length",
        (None, false) => "stop",
    }
}

fn usage(speech: &Speech<'_>) -> Value {
    json!({
        "prompt_tokens": speech.input_tokens, "completion_tokens": speech.output_tokens,
        "total_tokens": speech.input_tokens + speech.output_tokens,
        "prompt_tokens_details": { "cached_tokens": 0 },
        "completion_tokens_details": { "reasoning_tokens": speech.reasoning_tokens },
    })
}
