//! What must hold for any input of the proxy's parsers, as functions that random bytes are thrown at: by property tests
//! here, and by the fuzzer in `fuzz/`, which sees what it reaches.
//! Never: part of the product; the module is built for tests and with the feature `fuzzing` only.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::call::presented_key;
use crate::egress::fuzzing::client_hello;
use crate::practice::Practice;
use crate::request;
use crate::settle::run_label;
use crate::surface::{Style, Surface};
use crate::tap::{Tap, whole};
use crate::upstream::fuzzing::answer;
use crate::usage::{Report, field, last_report};

/// Panics when something doesn't hold.
pub type Target = fn(&[u8]);

/// By name.
pub const TARGETS: [(&str, Target); 10] = [
    ("request", request),
    ("chat_stream", chat_stream),
    ("responses_stream", responses_stream),
    ("messages_stream", messages_stream),
    ("whole_answer", whole_answer),
    ("usage_report", usage_report),
    ("practice", practice),
    ("headers", headers),
    ("upstream_answer", upstream_answer),
    ("client_hello", client_hello),
];

const MODEL: &str = "m-1";
const LIMIT: i64 = 77;

/// A body is refused, or goes out as the same request but for what must change.
fn request(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    for surface in Surface::ALL {
        let Ok(asked) = request::read(surface, &body) else { continue };
        assert!(asked.n >= 1 && asked.output_limit.is_none_or(|limit| limit >= 0));
        let sent = request::outgoing(&body, &asked, MODEL, LIMIT);
        let read = (serde_json::from_slice::<Value>(&body), serde_json::from_slice::<Value>(&sent));
        let (Ok(mut given), Ok(mut sent)) = read else {
            // A number that no double holds is JSON as well; where it isn't a limit, the provider judges it.
            let is_json = |bytes: &[u8]| serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
            assert!(is_json(&body) && is_json(&sent), "what was read as JSON isn't, before or after");
            continue;
        };
        assert_eq!(sent["model"], MODEL);
        let limit = match surface {
            Surface::Chat => "max_completion_tokens",
            Surface::Responses => "max_output_tokens",
            _ => "model",
        };
        if asked.output_limit.is_none() && limit != "model" {
            assert_eq!(sent[limit], LIMIT);
        }
        if surface == Surface::Chat && asked.stream {
            assert_eq!(sent["stream_options"]["include_usage"], true);
        }
        for changed in ["model", "stream_options", limit] {
            for value in [&mut given, &mut sent] {
                value.as_object_mut().expect("it was read as an object").remove(changed);
            }
        }
        assert_eq!(given, sent);
    }
}

fn chat_stream(data: &[u8]) {
    stream(Surface::Chat, data);
}

fn responses_stream(data: &[u8]) {
    stream(Surface::Responses, data);
}

fn messages_stream(data: &[u8]) {
    stream(Surface::Messages, data);
}

/// However a stream is cut, the same is passed on and the same is learnt. The first byte says how it is cut.
fn stream(surface: Surface, data: &[u8]) {
    let Some((&first, stream)) = data.split_first() else { return };
    let strip = first & 1 == 1;
    let mut once = Tap::new(surface, strip);
    let mut expected = once.push(Bytes::copy_from_slice(stream)).to_vec();
    expected.extend_from_slice(&once.rest());
    assert!(if strip { expected.len() <= stream.len() } else { expected == stream });

    let mut tap = Tap::new(surface, strip);
    let mut out = Vec::new();
    let (mut rest, mut size) = (stream, usize::from(first >> 1));
    while !rest.is_empty() {
        // Pieces of changing length, the same for the same input.
        size = size * 7 % 61 + 1;
        let (chunk, later) = rest.split_at(size.min(rest.len()));
        out.extend_from_slice(&tap.push(Bytes::copy_from_slice(chunk)));
        assert!(out.len() <= stream.len() && tap.pieces() <= once.pieces());
        rest = later;
    }
    out.extend_from_slice(&tap.rest());
    assert_eq!(out, expected);
    assert_eq!(
        (tap.usage(), tap.so_far(), tap.done(), tap.finished(), tap.pieces()),
        (once.usage(), once.so_far(), once.done(), once.finished(), once.pieces())
    );
}

/// The report that is found from the end is the one that a whole parse finds.
fn whole_answer(data: &[u8]) {
    for surface in Surface::ALL {
        assert!(whole(surface, data).said_tokens_estimate >= 0);
    }
    for depth in [1, 2] {
        let slow = field(data, depth).map(|report| report.tokens(Style::OpenAi));
        let fast = last_report(data, depth).map(|report| report.tokens(Style::OpenAi));
        assert!(slow.is_none() || slow == fast || depth == 2, "{slow:?} {fast:?}");
    }
}

fn usage_report(data: &[u8]) {
    let Ok(report) = serde_json::from_slice::<Report>(data) else { return };
    for style in [Style::OpenAi, Style::Anthropic] {
        let Some(tokens) = report.tokens(style) else { continue };
        for figure in [tokens.input, tokens.output, tokens.cache_read, tokens.cache_write, tokens.reasoning] {
            assert!((0..=100_000_000).contains(&figure));
        }
    }
}

/// Whatever is asked of the practice model, its answer is whole, and the taps understand it.
fn practice(data: &[u8]) {
    let practice = Practice::new("practice".to_owned(), std::time::Duration::ZERO);
    for surface in Surface::ALL {
        let Ok(mut reply) = practice.reply(surface, data) else { continue };
        let mut all = Vec::new();
        let mut tap = Tap::new(surface, false);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Some(piece)) = reply.body.poll_data(&mut context) {
            all.extend_from_slice(&tap.push(piece.expect("practice breaks nothing off")));
        }
        if reply.streams {
            assert!(tap.done() && tap.finished());
            assert!(tap.usage().is_some() || surface == Surface::Chat);
        } else if surface != Surface::CountTokens {
            assert!(whole(surface, &all).usage.is_some());
        }
    }
}

/// Keys and traces in headers.
fn headers(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    for name in ["authorization", "x-api-key", "traceparent"] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.clone());
        let _ = (presented_key(&headers), run_label(&headers));
    }
}

/// However a provider's answer is cut on the wire, it is the same answer, or none. The first byte says how it is cut.
fn upstream_answer(data: &[u8]) {
    let Some((&first, wire)) = data.split_first() else { return };
    let size = usize::from(first) % 61 + 1;
    let whole = answer(std::iter::once(wire));
    assert_eq!(answer(wire.chunks(size)), whole);
    assert!(whole.is_none_or(|(_, body)| body.len() <= wire.len()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a parser may stumble over, in any order.
    const WORDS: [&str; 39] = [
        "HTTP/1.1 200 OK\r\n",
        "content-length: 5\r\n",
        "transfer-encoding: chunked\r\n\r\n",
        "5\r\n",
        "0\r\n\r\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\\"",
        "\n",
        "\r\n",
        "\n\n",
        "data: ",
        "event: x\n",
        "[DONE]",
        "\"usage\":",
        "\"choices\":[",
        "\"delta\":{",
        "\"finish_reason\":\"stop\"",
        "\"model\":\"a\"",
        "\"stream\":true",
        "\"max_tokens\":1",
        "\"stream_options\":null",
        "\"type\":\"response.completed\"",
        "\"response\":{",
        "\"type\":\"message_delta\"",
        "\"type\":\"message_start\"",
        "\"message\":{",
        "\"prompt_tokens\":5",
        "\"input_tokens\":5",
        "\"messages\":[",
        "\"input\":\"a\"",
        "null",
        "é",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn every_target_holds(target in 0..TARGETS.len(), words in proptest::collection::vec(0..WORDS.len(), 0..60), first in any::<u8>()) {
            let mut data: Vec<u8> = if TARGETS[target].0.ends_with("stream") || TARGETS[target].0 == "upstream_answer" { vec![first] } else { Vec::new() };
            words.iter().for_each(|&word| data.extend_from_slice(WORDS[word].as_bytes()));
            TARGETS[target].1(&data);
        }
    }
}
