//! Reads the provider's usage report, whatever it looks like, finds it in an answer without reading all of that, and
//! estimates where there is none.
//! Never: trust in a figure's sign or size, or in a report that stands where the model or the caller could have put it.

mod figures;

use std::sync::LazyLock;

use memchr::{memchr2, memmem};
use molt_model::TokenUsage;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::surface::{Style, Surface};
use figures::{Count, Details};

/// A hundred million tokens in one call: no model has such a window, so a larger figure is a fault.
const TOKENS_MAX: i64 = 100_000_000;
/// English text and JSON have about four bytes a token. An estimate, marked as one wherever it is used.
const BYTES_PER_TOKEN: usize = 4;
/// Longer reports are none.
const REPORT_BYTES_MAX: usize = 8 * 1024;
/// Of an answer, where the report is looked for first.
const TAIL_BYTES: usize = 64 * 1024;
/// Of places that look like a report. More of them are somebody's game, and the slow way is the fast one.
const CANDIDATES_MAX: usize = 8;
const REPORT_KEY: &[u8] = b"\"usage\"";

/// A report in the words of any provider. Fields that one leaves out, or spells as something else, count as nothing.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    prompt_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
    prompt_tokens_details: Details,
    completion_tokens_details: Details,
    input_tokens: Count,
    output_tokens: Count,
    input_tokens_details: Details,
    output_tokens_details: Details,
    cache_creation_input_tokens: Count,
    cache_read_input_tokens: Count,
}

impl Report {
    /// `None`: it says nothing at all.
    pub(crate) fn tokens(&self, style: Style) -> Option<TokenUsage> {
        let input = self.prompt_tokens.0.or(self.input_tokens.0);
        let output = self.completion_tokens.0.or(self.output_tokens.0);
        if input.is_none() && output.is_none() {
            return None;
        }
        let ins = self.prompt_tokens_details.or_more(self.input_tokens_details);
        let outs = self.completion_tokens_details.or_more(self.output_tokens_details);
        let (input, output) = (input.unwrap_or(0), output.unwrap_or(0));
        let reasoning = outs.reasoning;
        if style == Style::Anthropic {
            // Its input is what was neither read from the cache nor written to it.
            let cache_read = self.cache_read_input_tokens.0.unwrap_or(0);
            let cache_write = self.cache_creation_input_tokens.0.unwrap_or(0);
            let input = (input + cache_read + cache_write).min(TOKENS_MAX);
            return Some(TokenUsage { input, output, cache_read, cache_write, reasoning });
        }
        // Some count what was thought beside what was said; their total tells.
        let beside = reasoning > 0 && self.total_tokens.0 == Some(input + output + reasoning);
        Some(TokenUsage {
            input,
            output: if beside { (output + reasoning).min(TOKENS_MAX) } else { output },
            cache_read: ins.cache_read,
            cache_write: ins.cache_write,
            reasoning,
        })
    }
}

/// Tokens of that many bytes of text, rounded up.
pub(crate) fn estimate(bytes: usize) -> i64 {
    i64::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(TOKENS_MAX).min(TOKENS_MAX)
}

/// What is needed of an answer in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) usage: Option<TokenUsage>,
    /// Of the answer, when there is no usage; else zero.
    pub(crate) said_tokens_estimate: i64,
}

/// Reads an answer in one piece from its end. All of it is looked at only when no report stands near there.
pub(crate) fn whole(surface: Surface, body: &[u8]) -> Whole {
    let usage = last_report(body, 1).and_then(|report| report.tokens(surface.style()));
    let said_tokens_estimate = if usage.is_some() || !surface.speaks() { 0 } else { said(body) };
    Whole { usage, said_tokens_estimate }
}

/// The report that stands as a field `depth` objects deep: 1 is the object that `json` is. `json` may lack its beginning.
/// What a model said, or a caller's own words in an echo, stands deeper, or in quotes.
pub(crate) fn last_report(json: &[u8], depth: usize) -> Option<Report> {
    static FINDER: LazyLock<memmem::FinderRev<'static>> = LazyLock::new(|| memmem::FinderRev::new(REPORT_KEY));
    let tail = &json[json.len().saturating_sub(TAIL_BYTES)..];
    let mut end = tail.len();
    for _ in 0..CANDIDATES_MAX {
        let Some(at) = FINDER.rfind(&tail[..end]) else { break };
        end = at;
        let Some(from) = opened(tail, at) else { continue };
        let Some(to) = closed(&tail[..tail.len().min(from + REPORT_BYTES_MAX)], from) else { continue };
        if unclosed(&tail[to..]) == Some(depth) {
            return serde_json::from_slice(&tail[from..to]).ok();
        }
    }
    field(json, depth)
}

/// The slow way, for reports that don't stand near the end.
pub(crate) fn field(json: &[u8], depth: usize) -> Option<Report> {
    #[derive(Deserialize)]
    struct Inner {
        #[serde(default)]
        usage: Option<Report>,
    }
    #[derive(Deserialize)]
    struct Outer {
        #[serde(default)]
        response: Option<Inner>,
        #[serde(default)]
        message: Option<Inner>,
    }
    if depth == 1 {
        return serde_json::from_slice::<Inner>(json).ok()?.usage;
    }
    let outer: Outer = serde_json::from_slice(json).ok()?;
    outer.response.or(outer.message)?.usage
}

/// Where the object begins whose key stands at `at`; `None`: that is no key, or no object follows.
fn opened(json: &[u8], at: usize) -> Option<usize> {
    let escapes = json[..at].iter().rev().take_while(|&&byte| byte == b'\\').count();
    if escapes % 2 == 1 {
        return None;
    }
    let from = after_colon(json, at + REPORT_KEY.len())?;
    (json.get(from) == Some(&b'{')).then_some(from)
}

/// Where the value after a key begins that ends at `at`.
pub(crate) fn after_colon(json: &[u8], at: usize) -> Option<usize> {
    let colon = at + json.get(at..)?.iter().position(|byte| !byte.is_ascii_whitespace())?;
    if json[colon] != b':' {
        return None;
    }
    Some(colon + 1 + json[colon + 1..].iter().position(|byte| !byte.is_ascii_whitespace())?)
}

/// The place after the object that begins at `from`.
fn closed(json: &[u8], from: usize) -> Option<usize> {
    let mut open = 0_usize;
    let mut at = from;
    while at < json.len() {
        match json[at] {
            b'"' => at = string_end(json, at + 1)?,
            b'{' | b'[' => open += 1,
            b'}' | b']' => {
                open = open.checked_sub(1)?;
                if open == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// How many objects are closed in `rest` that were opened before it. `None`: `rest` isn't the end of something whole.
fn unclosed(rest: &[u8]) -> Option<usize> {
    let (mut open, mut closed) = (0_usize, 0_usize);
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'"' => at = string_end(rest, at + 1)?,
            b'{' | b'[' => open += 1,
            b'}' | b']' if open > 0 => open -= 1,
            b'}' | b']' => closed += 1,
            _ => {}
        }
        at += 1;
    }
    Some(closed)
}

/// The place of the quote that closes the string whose inside begins at `from`.
fn string_end(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Tokens of an answer without a report, from the length of what the model said.
fn said(body: &[u8]) -> i64 {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Answer<'a> {
        choices: Vec<Choice<'a>>,
        #[serde(borrow)]
        output: Option<&'a RawValue>,
        #[serde(borrow)]
        content: Option<&'a RawValue>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Choice<'a> {
        #[serde(borrow)]
        message: Message<'a>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Message<'a> {
        content: Value,
        reasoning_content: Value,
        #[serde(borrow)]
        tool_calls: Option<&'a RawValue>,
    }
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(body) else {
        // Cut short by a wrong length, it can't be read, but it was given on: at most all of it was said. A page of words
        // that no model said is no answer.
        return if body.trim_ascii_start().starts_with(b"{") { estimate(body.len()) } else { 0 };
    };
    let text = |value: &Value| value.as_str().map_or(0, str::len);
    let raw = |value: Option<&RawValue>| value.map_or(0, |raw| raw.get().len());
    let spoken = |Choice { message }: &Choice<'_>| {
        text(&message.content) + text(&message.reasoning_content) + raw(message.tool_calls)
    };
    estimate(answer.choices.iter().map(spoken).sum::<usize>() + raw(answer.output) + raw(answer.content))
}

#[cfg(test)]
mod tests;
