//! Turns a request of any surface into the chat request that the model understands.
//! Never: the person's words changed, or a tool's answer put before its call.

use serde_json::{Value, json};

use crate::answer::Refusal;
use crate::surface::Surface;

/// The request as a chat request. `None`: it is one already.
pub(super) fn chat_request(surface: Surface, request: &Value) -> Result<Option<Value>, Refusal> {
    match surface {
        Surface::Responses => from_responses(request).map(Some),
        Surface::Messages => from_messages(request).map(Some),
        Surface::Chat | Surface::Embeddings | Surface::CountTokens => {
            messages(request)?;
            Ok(None)
        }
    }
}

fn messages(request: &Value) -> Result<&Vec<Value>, Refusal> {
    request
        .get("messages")
        .and_then(Value::as_array)
        .ok_or_else(|| Refusal::invalid("messages_missing", "messages must be a list of messages."))
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or("").to_owned()
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn called(name: String, arguments: String) -> Value {
    json!({ "type": "function", "function": { "name": name, "arguments": arguments } })
}

fn tool(given: &Value, schema: &str) -> Value {
    json!({ "type": "function", "function": { "name": given.get("name"), "description": given.get("description"),
                                              "parameters": given.get(schema) } })
}

fn from_responses(request: &Value) -> Result<Value, Refusal> {
    let mut said = Vec::new();
    if let Some(instructions) = request.get("instructions").and_then(Value::as_str) {
        said.push(json!({ "role": "system", "content": instructions }));
    }
    match request.get("input") {
        Some(Value::String(words)) => said.push(json!({ "role": "user", "content": words })),
        Some(Value::Array(items)) => said.extend(items.iter().filter_map(item)),
        _ => return Err(Refusal::invalid("input_invalid", "input must be a text or a list of items.")),
    }
    let tools: Vec<Value> = list(request, "tools").map(|given| tool(given, "parameters")).collect();
    let choice = match request.get("tool_choice") {
        Some(Value::Object(choice)) => json!({ "type": "function", "function": { "name": choice.get("name") } }),
        Some(choice) => choice.clone(),
        None => Value::Null,
    };
    Ok(json!({
        "model": request.get("model"), "stream": request.get("stream"), "messages": said, "tools": tools,
        "tool_choice": choice, "max_completion_tokens": request.get("max_output_tokens"),
        "reasoning": request.get("reasoning"), "response_format": request.pointer("/text/format"),
    }))
}

fn item(item: &Value) -> Option<Value> {
    match item.get("type").and_then(Value::as_str).unwrap_or("message") {
        "message" => Some(json!({ "role": item.get("role"), "content": item.get("content") })),
        "function_call" => {
            let call = called(text(item, "name"), text(item, "arguments"));
            Some(json!({ "role": "assistant", "tool_calls": [call] }))
        }
        "function_call_output" => Some(json!({ "role": "tool", "content": item.get("output") })),
        _ => None,
    }
}

fn from_messages(request: &Value) -> Result<Value, Refusal> {
    let mut said = Vec::new();
    if let Some(system) = request.get("system") {
        said.push(json!({ "role": "system", "content": system }));
    }
    for message in messages(request)? {
        turns(message, &mut said);
    }
    let tools: Vec<Value> = list(request, "tools").map(|given| tool(given, "input_schema")).collect();
    let choice = request.get("tool_choice").unwrap_or(&Value::Null);
    let choice = match choice.get("type").and_then(Value::as_str) {
        Some("any") => json!("required"),
        Some("tool") => json!({ "type": "function", "function": { "name": choice.get("name") } }),
        Some("none") => json!("none"),
        _ => json!("auto"),
    };
    let thinking = request.pointer("/thinking/type").and_then(Value::as_str);
    let effort = thinking.filter(|&kind| kind != "disabled").map(|_| "medium");
    Ok(json!({
        "model": request.get("model"), "stream": request.get("stream"), "messages": said, "tools": tools,
        "tool_choice": choice, "max_tokens": request.get("max_tokens"), "reasoning_effort": effort,
    }))
}

/// The answers of tools stand in the user's messages, the calls in the assistant's.
fn turns(message: &Value, said: &mut Vec<Value>) {
    let kind = |block: &Value| block.get("type").and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
    let role = message.get("role").cloned().unwrap_or_default();
    if !message.get("content").is_some_and(Value::is_array) {
        said.push(json!({ "role": role, "content": message.get("content") }));
        return;
    }
    let results = list(message, "content").filter(|block| kind(block) == "tool_result");
    said.extend(results.map(|block| json!({ "role": "tool", "content": block.get("content") })));
    let words: Vec<&Value> = list(message, "content").filter(|block| kind(block) == "text").collect();
    let calls: Vec<Value> = list(message, "content")
        .filter(|block| kind(block) == "tool_use")
        .map(|block| called(text(block, "name"), block.get("input").unwrap_or(&Value::Null).to_string()))
        .collect();
    if !words.is_empty() || !calls.is_empty() {
        said.push(json!({ "role": role, "content": words, "tool_calls": calls }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::practice::hear::hear;

    #[test]
    fn the_same_conversation_is_heard_on_every_surface() {
        let chat = json!({ "messages": [
            { "role": "system", "content": "Your name is Ada." },
            { "role": "user", "content": "first" },
            { "role": "assistant", "content": "yes" },
            { "role": "user", "content": [{ "type": "text", "text": "second" }] },
            { "role": "assistant", "content": null, "tool_calls": [{ "id": "c", "function": { "name": "read", "arguments": "{\"path\":\"a\"}" } }] },
            { "role": "tool", "tool_call_id": "c", "content": "new" },
        ]});
        let responses = json!({ "instructions": "Your name is Ada.", "input": [
            { "role": "user", "content": "first" },
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "yes" }] },
            { "role": "user", "content": [{ "type": "input_text", "text": "second" }] },
            { "type": "reasoning", "summary": [] },
            { "type": "function_call", "call_id": "c", "name": "read", "arguments": "{\"path\":\"a\"}" },
            { "type": "function_call_output", "call_id": "c", "output": "new" },
        ]});
        let anthropic = json!({ "system": [{ "type": "text", "text": "Your name is Ada." }], "messages": [
            { "role": "user", "content": "first" },
            { "role": "assistant", "content": "yes" },
            { "role": "user", "content": [{ "type": "text", "text": "second" }] },
            { "role": "assistant", "content": [{ "type": "thinking", "thinking": "x" }, { "type": "tool_use", "id": "c", "name": "read", "input": { "path": "a" } }] },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "c", "content": [{ "type": "text", "text": "new" }] }] },
        ]});
        let heard = format!("{:?}", hear(&chat));
        for (surface, request) in [(Surface::Responses, responses), (Surface::Messages, anthropic)] {
            let translated = chat_request(surface, &request).unwrap().unwrap();
            assert_eq!(format!("{:?}", hear(&translated)), heard, "{surface:?}");
        }
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        for (surface, request, code) in [
            (Surface::Chat, json!({ "messages": "hi" }), "messages_missing"),
            (Surface::Messages, json!({}), "messages_missing"),
            (Surface::Responses, json!({ "input": 3 }), "input_invalid"),
        ] {
            assert_eq!(chat_request(surface, &request).unwrap_err().code, code, "{surface:?}");
        }
    }
}
