//! Looks through a request for what a model may count many tokens for although it takes few bytes: pictures, sounds,
//! files, and whatever the provider fetches or remembers itself.
//! Never: a guess in the caller's favour; what isn't known as text counts as more than text.

use memchr::{memchr2, memrchr};

/// Deeper bodies are nobody's request. As deep as our own reader of JSON goes.
const DEPTH_MAX: usize = 128;
/// Where the words to the model stand.
const WATCHED: [&str; 4] = ["messages", "input", "system", "instructions"];
/// Arguments of tools that were called: any names may be in there, and all of it is text to the model.
const ARGUMENTS: [&str; 2] = ["input", "arguments"];
/// Whatever stands under these is a picture, a sound or a file, or the name of one.
const MEDIA: [&str; 10] = [
    "image_url",
    "video_url",
    "audio_url",
    "file_url",
    "input_audio",
    "audio",
    "file",
    "file_id",
    "file_data",
    "image",
];
/// Kinds of content that are text, or hold others.
const TEXTS: [&str; 24] = [
    "text",
    "input_text",
    "output_text",
    "refusal",
    "message",
    "function",
    "function_call",
    "function_call_output",
    "tool_use",
    "tool_result",
    "tool_call",
    "custom",
    "custom_tool_call",
    "custom_tool_call_output",
    "thinking",
    "redacted_thinking",
    "reasoning",
    "reasoning_text",
    "summary_text",
    "ephemeral",
    "local_shell_call",
    "local_shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
];

/// Names of what the provider keeps under this installation's account, which all its people share: whoever knew an id
/// could read another's words.
const KEPT_KINDS: [&str; 1] = ["item_reference"];
const KEPT_IDS: [&str; 2] = ["file_id", "file_ids"];

/// Why a body isn't looked through to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    TooDeep,
    /// It points at something that is kept at the provider.
    Kept,
}

/// The key whose value comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Any,
    Kind,
    Media,
    Arguments,
}

/// Whether there is more in it than text. `body` is valid JSON.
pub(super) fn beyond_text(body: &[u8]) -> Result<bool, Unfit> {
    let (mut at, mut depth) = (0, 0_usize);
    let (mut watched, mut found) = (false, false);
    let mut next = Next::Any;
    // The depth outside of a tool's arguments, while inside.
    let mut outside = None;
    while let Some(&byte) = body.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let end = string_end(body, at);
                let text = &body[at..end];
                at = end + 1;
                let is_key = body[at.min(body.len())..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
                if is_key && depth == 1 {
                    watched = WATCHED.iter().any(|name| is(text, name));
                    next = Next::Any;
                } else if !watched || outside.is_some() {
                    continue;
                } else if is_key {
                    if KEPT_IDS.iter().any(|name| is(text, name)) {
                        return Err(Unfit::Kept);
                    }
                    next = meaning(text);
                } else {
                    if next == Next::Kind && KEPT_KINDS.iter().any(|kind| is(text, kind)) {
                        return Err(Unfit::Kept);
                    }
                    found |= next == Next::Media || (next == Next::Kind && !TEXTS.iter().any(|kind| is(text, kind)));
                    next = Next::Any;
                }
            }
            b'{' | b'[' => {
                if next == Next::Arguments && outside.is_none() {
                    outside = Some(depth);
                }
                found |= next == Next::Media;
                next = Next::Any;
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Unfit::TooDeep);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if outside == Some(depth) {
                    outside = None;
                }
            }
            b',' => next = Next::Any,
            _ => {}
        }
    }
    Ok(found)
}

fn meaning(key: &[u8]) -> Next {
    if is(key, "type") {
        Next::Kind
    } else if MEDIA.iter().any(|name| is(key, name)) {
        Next::Media
    } else if ARGUMENTS.iter().any(|name| is(key, name)) {
        Next::Arguments
    } else {
        Next::Any
    }
}

/// Whether the inside of a JSON string means this text, in any case: some readers don't mind it.
fn is(inside: &[u8], text: &str) -> bool {
    if inside.len() == text.len() {
        return inside.eq_ignore_ascii_case(text.as_bytes());
    }
    // Only something escaped is longer than what it means.
    if inside.len() < text.len() || inside.len() > 6 * text.len() || memrchr(b'\\', inside).is_none() {
        return false;
    }
    let quoted = [b"\"", inside, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|plain| plain.eq_ignore_ascii_case(text))
}

/// The place of the quote that closes the string whose inside begins at `from`.
fn string_end(body: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(found) = body.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if body[at] == b'"' {
            return at;
        }
        at += 2;
    }
    // Not in valid JSON.
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_told_from_everything_else() {
        for (body, beyond) in [
            (r#"{"messages":[{"role":"user","content":"an \"image_url\": \"https://x\""}]}"#, false),
            (r#"{"messages":[{"role":"user","content":[{"type":"text","text":"type"}]}]}"#, false),
            (r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]}"#, true),
            (r#"{"messages":[{"content":[{"image_url":"https://x"}]}]}"#, true),
            (r#"{"messages":[{"content":[{"image_url":null,"type":null}]}]}"#, false),
            (r#"{"messages":[{"content":[{"type":"ima\u0067e","source":{}}]}]}"#, true),
            (r#"{"messages":[{"content":[{"\u0074ype" : "document"}]}]}"#, true),
            (r#"{"m\u0065ssages":[{"content":[{"Type":"document"}]}]}"#, true),
            (r#"{"messages":[{"content":[{"type":"tool_use","input":{"type":"image","file":[{}]}}]}]}"#, false),
            (r#"{"messages":[{"content":[{"type":"tool_use","input":{"a":[]}},{"type":"image"}]}]}"#, true),
            (r#"{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image"}]}]}]}"#, true),
            (r#"{"messages":[{"content":[{"cache_control":{"type":"ephemeral"},"type":"text"}]}]}"#, false),
            (r#"{"tools":[{"type":"function","x":{"type":"object","image_url":{}}}],"messages":[]}"#, false),
            (r#"{"input":[{"type":"function_call","arguments":"{}"},{"type":"input_image"}]}"#, true),
            (r#"{"input":["image_url","type","image"]}"#, false),
            (r#"{"system":[{"type":"document"}]}"#, true),
        ] {
            assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
            assert_eq!(beyond_text(body.as_bytes()), Ok(beyond), "{body}");
        }
    }

    #[test]
    fn a_deep_body_is_refused_wherever_it_is_deep() {
        let nested = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert_eq!(beyond_text(nested(DEPTH_MAX).as_bytes()), Ok(false));
        for kept in [
            r#"{"input":[{"type":"message","content":[{"type":"input_file","file_id":"f"}]}]}"#,
            r#"{"input":[{"type":"item_reference","id":"msg_1"}]}"#,
        ] {
            assert_eq!(beyond_text(kept.as_bytes()), Err(Unfit::Kept), "{kept}");
        }
        assert_eq!(beyond_text(nested(DEPTH_MAX + 1).as_bytes()), Err(Unfit::TooDeep));
        assert_eq!(beyond_text(nested(1_000_000).as_bytes()), Err(Unfit::TooDeep));
    }

    proptest! {
        #[test]
        fn words_are_never_more_than_text(words in "\\PC{0,40}", name in "[a-z]{1,8}") {
            let body = serde_json::json!({ "messages": [{ "role": "user", "content": words, "name": name }],
                                           "input": [words, { "type": "message", "content": words }] });
            prop_assert_eq!(beyond_text(body.to_string().as_bytes()), Ok(false));
        }

        #[test]
        fn any_bytes_are_looked_through(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = beyond_text(&bytes);
        }
    }
}
