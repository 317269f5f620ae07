//! What became of a message, read from the runtime's history of its conversation. Pure.
//! Never: guess from time alone; the caller does the waiting.
//!
//! What the runtime was seen to do when it is killed in the middle of a run (docs/decisions/0003): the message is in
//! the history or it is lost without a trace; within seconds of being ready it goes on by itself, as a new run in the
//! same session; sending the message again, even with the same key, runs it a second time.

use molt_model::id::RunId;
use serde_json::Value;

use crate::translate::message_text;

/// The state of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No trace of it: it can be given (again).
    Lost,
    /// The runtime works on it, or is about to; under these ids, as far as it says.
    Active(Vec<String>),
    /// It was answered.
    Answered(Option<String>),
    /// The runtime gave up on it.
    Failed,
    /// The message is there, nothing works on it, and no answer came.
    Silent,
}

/// Judges the answer of `chat.history`. The message's run is the newest of its conversation: the cell gives the next
/// one only when this one has ended.
#[must_use]
pub fn judge(history: &Value, run_id: RunId) -> Verdict {
    let own = run_id.to_string();
    let key = format!("{own}:user");
    let empty = Vec::new();
    let messages = history["messages"].as_array().unwrap_or(&empty);
    let pending = history["pendingInputs"]["items"].as_array().unwrap_or(&empty);
    let session = &history["sessionInfo"];

    let mut active: Vec<String> = strings(&session["activeRunIds"]);
    active.extend(pending.iter().filter_map(|item| item["runId"].as_str().map(str::to_owned)));
    active.extend(history["inFlightRun"]["runId"].as_str().map(str::to_owned));
    active.dedup();
    if !active.is_empty() || !pending.is_empty() || session["hasActiveRun"] == Value::Bool(true) {
        return Verdict::Active(active);
    }

    let asked = messages.iter().position(|message| message["idempotencyKey"] == key.as_str());
    let asked = asked.or_else(|| is_all_later(history, messages).then_some(0));
    let Some(asked) = asked else { return Verdict::Lost };
    let Some(last) = messages[asked..].iter().rev().find(|message| message["role"] == "assistant") else {
        return Verdict::Silent;
    };
    match last["stopReason"].as_str() {
        Some("stop" | "length") => Verdict::Answered(message_text(last)),
        Some("error") => Verdict::Failed,
        _ => Verdict::Silent,
    }
}

/// The page doesn't reach back to the newest message of a person: it is full of what came after.
fn is_all_later(history: &Value, messages: &[Value]) -> bool {
    let is_note = |message: &Value| message["provenance"]["kind"] == "internal_system";
    let is_person = |message: &Value| message["role"] == "user" && !is_note(message);
    history["hasMore"] == Value::Bool(true) && !messages.iter().any(is_person)
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verdicts() {
        let run = RunId::random();
        let user = json!({"role": "user", "content": "hi", "idempotencyKey": format!("{run}:user")});
        let answer =
            |stop: &str| json!({"role": "assistant", "stopReason": stop, "content": [{"type": "text", "text": "yes"}]});
        let history = |messages: Value, session: Value| json!({"messages": messages, "pendingInputs": {"items": []}, "sessionInfo": session});
        let idle = json!({"hasActiveRun": false, "activeRunIds": []});
        let cases = [
            (history(json!([]), idle.clone()), Verdict::Lost),
            (history(json!([answer("stop")]), idle.clone()), Verdict::Lost),
            (history(json!([user]), idle.clone()), Verdict::Silent),
            (history(json!([user, answer("toolUse")]), idle.clone()), Verdict::Silent),
            (history(json!([user, answer("stop")]), idle.clone()), Verdict::Answered(Some("yes".into()))),
            (history(json!([user, answer("error")]), idle), Verdict::Failed),
            (history(json!([user]), json!({"hasActiveRun": true})), Verdict::Active(vec![])),
            (
                json!({"messages": [{"role": "user", "content": "older"}, answer("stop")], "hasMore": true}),
                Verdict::Lost,
            ),
            (
                json!({"messages": [answer("toolUse"), answer("stop")], "hasMore": true}),
                Verdict::Answered(Some("yes".into())),
            ),
            (
                history(json!([user]), json!({"hasActiveRun": true, "activeRunIds": ["r2"]})),
                Verdict::Active(vec!["r2".into()]),
            ),
            (
                json!({"messages": [user], "pendingInputs": {"items": [{"runId": "r3"}]}, "sessionInfo": {}}),
                Verdict::Active(vec!["r3".into()]),
            ),
        ];
        for (history, expected) in cases {
            assert_eq!(judge(&history, run), expected, "{history}");
        }
    }
}
