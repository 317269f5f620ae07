//! The shape of OpenAI's responses: items that are added, filled and done, and a response around them.
//! Never: an event without its number in the sequence.

use serde_json::{Value, json};

use super::{Pieces, Speech, named};

pub(super) fn whole(speech: &Speech<'_>) -> Value {
    response(speech, Some(items(speech)))
}

/// `output`: none while the answer is on its way.
fn response(speech: &Speech<'_>, output: Option<Vec<Value>>) -> Value {
    let status = match (&output, speech.cut) {
        (None, _) => "in_progress",
        (Some(_), true) => "incomplete",
        (Some(_), false) => "completed",
    };
    let usage = output.is_some().then(|| usage(speech));
    let cut = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
    json!({
        "id": format!("resp_{}", speech.id), "object": "response", "created_at": speech.created, "status": status,
        "background": false, "error": null, "incomplete_details": cut, "instructions": null,
        "max_output_tokens": null, "model": speech.model, "output": output.unwrap_or_default(),
        "parallel_tool_calls": false, "previous_response_id": null, "reasoning": { "effort": null, "summary": null },
        "store": false, "temperature": 1.0, "text": { "format": { "type": "text" } }, "tool_choice": "auto",
        "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": usage, "user": null, "metadata": {},
    })
}

fn usage(speech: &Speech<'_>) -> Value {
    json!({
        "input_tokens": speech.input_tokens, "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": speech.output_tokens, "output_tokens_details": { "reasoning_tokens": speech.reasoning_tokens },
        "total_tokens": speech.input_tokens + speech.output_tokens,
    })
}

fn items(speech: &Speech<'_>) -> Vec<Value> {
    let mut items = Vec::new();
    if !speech.reasoning.is_empty() {
        items.push(reasoning(speech, Some(speech.reasoning)));
    }
    match &speech.call {
        Some(call) => items.push(function_call(speech, call.tool, Some(&call.arguments.to_string()))),
        None => items.push(message(speech, Some(speech.text))),
    }
    items
}

/// The text is missing as long as the item isn't done; the same below.
fn reasoning(speech: &Speech<'_>, text: Option<&str>) -> Value {
    let summary: Vec<Value> = text.map(|text| json!({ "type": "summary_text", "text": text })).into_iter().collect();
    json!({ "id": format!("rs_{}", speech.id), "type": "reasoning", "summary": summary })
}

fn message(speech: &Speech<'_>, text: Option<&str>) -> Value {
    let content: Vec<Value> = text.map(text_part).into_iter().collect();
    let status = status(speech, text.is_some());
    json!({ "id": format!("msg_{}", speech.id), "type": "message", "status": status, "role": "assistant", "content": content })
}

fn function_call(speech: &Speech<'_>, tool: &str, arguments: Option<&str>) -> Value {
    json!({ "id": format!("fc_{}", speech.id), "type": "function_call", "status": status(speech, arguments.is_some()),
            "call_id": format!("call_{}", speech.id), "name": tool, "arguments": arguments.unwrap_or("") })
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn status(speech: &Speech<'_>, done: bool) -> &'static str {
    match (done, speech.cut) {
        (false, _) => "in_progress",
        (true, true) => "incomplete",
        (true, false) => "completed",
    }
}

/// The stream, as far as it is written.
struct Stream {
    pieces: Pieces,
    items: usize,
}

impl Stream {
    fn push(&mut self, kind: &str, fields: Value, paced: bool) {
        let mut event = json!({ "type": kind, "sequence_number": self.pieces.len() });
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        self.pieces.push_back((named(kind, &event), paced));
    }

    /// The events of a text that grows: `kind` and its parts, then the whole of it under `name`.
    fn grow(&mut self, kind: &str, place: &Value, parts: &[impl AsRef<str>], name: &str, paced: bool) {
        let with = |name: &str, text: &str| {
            let mut fields = place.clone();
            fields[name] = text.into();
            fields
        };
        for part in parts {
            self.push(&format!("{kind}.delta"), with("delta", part.as_ref()), paced);
        }
        let text: String = parts.iter().map(AsRef::as_ref).collect();
        self.push(&format!("{kind}.done"), with(name, &text), false);
    }

    fn begin(&mut self, item: &Value) {
        self.push("response.output_item.added", json!({ "output_index": self.items, "item": item }), false);
    }

    fn finish(&mut self, item: &Value) {
        self.push("response.output_item.done", json!({ "output_index": self.items, "item": item }), false);
        self.items += 1;
    }
}

pub(super) fn pieces(speech: &Speech<'_>) -> Pieces {
    let mut stream = Stream { pieces: Pieces::new(), items: 0 };
    let begun = json!({ "response": response(speech, None) });
    stream.push("response.created", begun.clone(), false);
    stream.push("response.in_progress", begun, false);
    if !speech.reasoning.is_empty() {
        let item = reasoning(speech, None);
        stream.begin(&item);
        let place = json!({ "item_id": item["id"], "output_index": stream.items, "summary_index": 0 });
        let part = |text: &str| with(&place, "part", json!({ "type": "summary_text", "text": text }));
        stream.push("response.reasoning_summary_part.added", part(""), false);
        stream.grow("response.reasoning_summary_text", &place, &speech.parts(speech.reasoning), "text", true);
        stream.push("response.reasoning_summary_part.done", part(speech.reasoning), false);
        stream.finish(&reasoning(speech, Some(speech.reasoning)));
    }
    if let Some(call) = &speech.call {
        let item = function_call(speech, call.tool, None);
        stream.begin(&item);
        let place = json!({ "item_id": item["id"], "output_index": stream.items });
        stream.grow("response.function_call_arguments", &place, &call.argument_parts(), "arguments", false);
        stream.finish(&function_call(speech, call.tool, Some(&call.arguments.to_string())));
    } else {
        let item = message(speech, None);
        stream.begin(&item);
        let place = json!({ "item_id": item["id"], "output_index": stream.items, "content_index": 0 });
        stream.push("response.content_part.added", with(&place, "part", text_part("")), false);
        let place_of_text = with(&place, "logprobs", json!([]));
        stream.grow("response.output_text", &place_of_text, &speech.parts(speech.text), "text", true);
        stream.push("response.content_part.done", with(&place, "part", text_part(speech.text)), false);
        stream.finish(&message(speech, Some(speech.text)));
    }
    let end = if speech.cut { "response.incomplete" } else { "response.completed" };
    stream.push(end, json!({ "response": whole(speech) }), false);
    stream.pieces
}

fn with(fields: &Value, name: &str, value: Value) -> Value {
    let mut fields = fields.clone();
    fields[name] = value;
    fields
}
