//! Looks into a stream of server-sent events for the usage, the end mark and how much was said, while the bytes pass by.
//! Never: hold bytes back, except the event in progress when the usage must be taken out of the stream again.

use bytes::Bytes;
use molt_model::TokenUsage;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::usage::Report;

/// A longer event isn't looked into; it passes as it is.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// The listener on one stream.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    /// The caller didn't ask for the usage: the event that only carries it is taken out.
    strip: bool,
    /// The event in progress.
    carry: Vec<u8>,
    /// The event in progress is too long to keep.
    skipping: bool,
    pub(crate) usage: Option<TokenUsage>,
    /// The end mark went by.
    pub(crate) done: bool,
    /// A finish reason went by: the model said all that it wanted to say.
    pub(crate) finished: bool,
    /// Events with something of an answer in them. Providers send about one token in each.
    pub(crate) pieces: i64,
}

#[derive(Deserialize)]
struct Piece {
    #[serde(default)]
    choices: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    usage: Option<Report>,
}

impl Tap {
    pub(crate) fn new(strip: bool) -> Self {
        Self { strip, ..Self::default() }
    }

    /// Takes what came from the provider and gives what goes to the caller.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Bytes {
        let mut out = Vec::new();
        let mut rest: &[u8] = &chunk;
        while !rest.is_empty() {
            let take = self.until_boundary(rest);
            let (now, later) = rest.split_at(take);
            rest = later;
            self.carry.extend_from_slice(now);
            if ends_event(&self.carry) {
                self.end_event(&mut out);
            } else if self.carry.len() > EVENT_BYTES_MAX {
                self.spill(&mut out);
            }
        }
        if self.strip { out.into() } else { chunk }
    }

    /// What is still held back when the stream ends. An event without its blank line counts as well.
    pub(crate) fn rest(&mut self) -> Bytes {
        let mut out = Vec::new();
        if !self.carry.is_empty() {
            self.end_event(&mut out);
        }
        if self.strip { out.into() } else { Bytes::new() }
    }

    /// How many bytes belong to the event in progress, its blank line included, or all of them.
    fn until_boundary(&self, bytes: &[u8]) -> usize {
        let mut last = [0u8; 3];
        let kept = self.carry.len().min(3);
        last[3 - kept..].copy_from_slice(&self.carry[self.carry.len() - kept..]);
        for (at, &byte) in bytes.iter().enumerate() {
            if byte == b'\n' && (last[2] == b'\n' || last == *b"\r\n\r" || (last[1] == b'\n' && last[2] == b'\r')) {
                return at + 1;
            }
            last = [last[1], last[2], byte];
        }
        bytes.len()
    }

    fn end_event(&mut self, out: &mut Vec<u8>) {
        let event = std::mem::take(&mut self.carry);
        let only_usage = !std::mem::take(&mut self.skipping) && self.look(&event);
        if self.strip && !only_usage {
            out.extend_from_slice(&event);
        }
    }

    /// Lets go of an event that is too long. The last bytes stay, so that its end is still seen.
    fn spill(&mut self, out: &mut Vec<u8>) {
        let keep_from = self.carry.len() - 3;
        if self.strip {
            out.extend_from_slice(&self.carry[..keep_from]);
        }
        self.carry.drain(..keep_from);
        self.skipping = true;
    }

    /// Whether the event carries the usage and nothing else.
    fn look(&mut self, event: &[u8]) -> bool {
        let mut only_usage = false;
        for line in event.split(|&byte| byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data == b"[DONE]" {
                self.done = true;
                continue;
            }
            self.finished |= contains(data, br#""finish_reason":""#) || contains(data, br#""finish_reason": ""#);
            let said = contains(data, br#""delta""#) && !contains(data, br#""delta":{}"#);
            if contains(data, br#""usage""#)
                && let Ok(Piece { choices, usage: Some(report) }) = serde_json::from_slice::<Piece>(data)
                && let Some(tokens) = report.tokens()
            {
                self.usage = Some(tokens);
                only_usage = choices.is_none_or(|choices| choices.is_empty());
            }
            self.pieces += i64::from(said);
        }
        only_usage
    }
}

fn ends_event(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\n\n") || bytes.ends_with(b"\n\r\n")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Length of the event that only carries the usage.
    const USAGE_BYTES: usize = 72;
    const STREAM: &str = concat!(
        ": hello\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"usage\\\" b\"},\"finish_reason\":null}],\"usage\":null}\n\n",
        "data:{\"choices\":[{\"delta\":{\"content\":\"c\"},\"finish_reason\":\"stop\"}]}\r\n\r\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n",
        "data: [DONE]\n\n",
    );

    fn relay(strip: bool, chunks: impl Iterator<Item = Bytes>) -> (Tap, Vec<u8>) {
        let mut tap = Tap::new(strip);
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(&tap.push(chunk));
        }
        out.extend_from_slice(&tap.rest());
        (tap, out)
    }

    #[test]
    fn a_long_event_passes_unread_and_the_next_is_read() {
        let long = format!("data: {}\n\n{STREAM}", "x".repeat(3 * EVENT_BYTES_MAX));
        for strip in [false, true] {
            let chunks = long.as_bytes().chunks(70_000).map(Bytes::copy_from_slice);
            let (tap, out) = relay(strip, chunks);
            assert_eq!(tap.usage.map(|usage| usage.input), Some(9));
            assert_eq!(out.len() + usize::from(strip) * USAGE_BYTES, long.len());
        }
    }

    proptest! {
        #[test]
        fn cut_anywhere_the_stream_is_the_same(cuts in proptest::collection::vec(1usize..40, 1..60)) {
            for strip in [false, true] {
                let mut at = 0;
                let mut sizes = cuts.iter().cycle();
                let chunks = std::iter::from_fn(|| {
                    let end = (at + sizes.next()?).min(STREAM.len());
                    let chunk = (at < end).then(|| Bytes::from_static(&STREAM.as_bytes()[at..end]));
                    at = end;
                    chunk
                });
                let (tap, out) = relay(strip, chunks);
                let usage = TokenUsage { input: 9, output: 2, ..TokenUsage::default() };
                prop_assert_eq!((tap.usage, tap.done, tap.finished, tap.pieces), (Some(usage), true, true, 2));
                let text = String::from_utf8(out).unwrap();
                if strip {
                    prop_assert!(!text.contains("prompt_tokens") && text.ends_with("data: [DONE]\n\n"));
                    prop_assert_eq!(text.len(), STREAM.len() - USAGE_BYTES);
                } else {
                    prop_assert_eq!(text, STREAM);
                }
            }
        }

        #[test]
        fn any_bytes_pass_as_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1usize..50) {
            let (_, out) = relay(false, bytes.chunks(size).map(Bytes::copy_from_slice));
            prop_assert_eq!(out, bytes);
        }
    }
}
