//! Streams of each family, cut anywhere; what goes through, and what is learnt from it.
//! Never: a provider's stream that only one cut of it was tried on.

use proptest::prelude::*;

use super::*;

/// The event that only carries the usage, and the streams.
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n";
const CHAT: &str = concat!(
    ": hello\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"usage\\\":{ b\"},\"finish_reason\":null}],\"usage\":null}\n\n",
    "data:{\"choices\":[{\"delta\":{\"content\":\"c\"},\"finish_reason\":\"stop\"}]}\r\n\r\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n",
);
/// The usage stands in the last event that says something, and with each before it what it was so far.
const CHAT_TOLD_ALONG: &str = concat!(
    "data: {\"choices\": [{\"delta\": {\"content\": \"a\"}}], \"usage\": {\"prompt_tokens\": 9, \"completion_tokens\": 1}}\n\n",
    "data: {\"choices\": [{\"delta\": {}, \"finish_reason\": \"stop\"}], \"usage\": {\"prompt_tokens\": 9, \"completion_tokens\": 2}}\n\n",
    "data: [DONE]\n\n",
);
const RESPONSES: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"\\\"usage\\\":{\"}\n\n",
    "event: response.output_text.delta\ndata: {\"delta\":\"b\",\"type\":\"response.output_text.delta\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[{\"type\":\"message\",\"x\":{\"usage\":{\"input_tokens\":1}}}],",
    "\"usage\":{\"input_tokens\":9,\"output_tokens\":2,\"input_tokens_details\":{\"cached_tokens\":4}},\"metadata\":{}}}\n\n",
);
const MESSAGES: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"input_tokens\":2,",
    "\"cache_creation_input_tokens\":3,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n",
    "event: content_block_delta\ndata: {\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"\"},\"type\":\"content_block_delta\"}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

fn relay(surface: Surface, strip: bool, chunks: impl Iterator<Item = Bytes>) -> (Tap, Vec<u8>) {
    let mut tap = Tap::new(surface, strip);
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&tap.push(chunk));
    }
    out.extend_from_slice(&tap.rest());
    (tap, out)
}

fn cut<'a>(stream: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = Bytes> + 'a {
    let (mut at, mut sizes) = (0, sizes.iter().cycle());
    std::iter::from_fn(move || {
        let end = (at + sizes.next()?).min(stream.len());
        let chunk = (at < end).then(|| Bytes::copy_from_slice(&stream[at..end]));
        at = end;
        chunk
    })
}

fn usage(surface: Surface) -> TokenUsage {
    let plain = TokenUsage { input: 9, output: 2, ..TokenUsage::default() };
    match surface {
        Surface::Responses => TokenUsage { cache_read: 4, ..plain },
        Surface::Messages => TokenUsage { cache_read: 4, cache_write: 3, ..plain },
        _ => plain,
    }
}

#[test]
fn a_whole_read_passes_without_a_copy() {
    for (surface, stream, strip) in
        [(Surface::Chat, CHAT, false), (Surface::Chat, CHAT_TOLD_ALONG, true), (Surface::Messages, MESSAGES, true)]
    {
        let chunk = Bytes::from_static(stream.as_bytes());
        let out = Tap::new(surface, strip).push(chunk.clone());
        assert_eq!((out.as_ptr(), out.len()), (chunk.as_ptr(), chunk.len()));
    }
    let chunk = Bytes::from(format!("{USAGE}data: [DONE]\n\n"));
    let out = Tap::new(Surface::Chat, true).push(chunk.clone());
    assert_eq!((&out[..], out.as_ptr()), (&b"data: [DONE]\n\n"[..], chunk[USAGE.len()..].as_ptr()));
}

#[test]
fn only_what_may_be_the_usage_waits() {
    let mut tap = Tap::new(Surface::Chat, true);
    let first = "data: {\"id\":\"x\",\"choices\":[{\"delta\":{\"con";
    assert_eq!(&tap.push(Bytes::from(format!("{CHAT}{first}")))[CHAT.len() - USAGE.len()..], first.as_bytes());
    assert_eq!(&tap.push(Bytes::from_static(b"tent\":\"d\"}}]}\n\n"))[..], b"tent\":\"d\"}}]}\n\n");
    assert!(tap.push(Bytes::from_static(b"data: {\"id\":1,")).is_empty());
    assert_eq!(&tap.push(Bytes::from_static(b"\"choices\":[{}"))[..], b"data: {\"id\":1,\"choices\":[{}");
    let long = Bytes::from(vec![b'x'; HELD_BYTES_MAX]);
    assert_eq!(tap.push(Bytes::from_static(b"]}\n\ndata: ")).len(), 4);
    assert_eq!(tap.push(long).len(), HELD_BYTES_MAX + 6);
}

#[test]
fn a_stream_that_stops_early_is_no_whole_one() {
    let heard = |surface, stream: &str, until: &str| {
        let end = stream.find(until).unwrap();
        relay(surface, false, [Bytes::copy_from_slice(&stream.as_bytes()[..end])].into_iter()).0
    };
    let begun = heard(Surface::Messages, MESSAGES, "event: message_delta");
    assert_eq!((begun.usage(), begun.pieces(), begun.done(), begun.finished()), (None, 2, false, false));
    assert_eq!(begun.so_far(), Some(TokenUsage { output: 1, ..usage(Surface::Messages) }));
    let along = heard(Surface::Chat, CHAT_TOLD_ALONG, "data: {\"choices\": [{\"delta\": {}");
    assert_eq!((along.usage(), along.so_far().unwrap().output, along.done()), (None, 1, false));
    let responses = heard(Surface::Responses, RESPONSES, "event: response.completed");
    assert_eq!((responses.usage(), responses.so_far(), responses.pieces(), responses.done()), (None, None, 2, false));
    // Half an event has said something too.
    assert_eq!(heard(Surface::Chat, CHAT, "\"},\"finish_reason\":\"stop").pieces(), 2);
}

#[test]
fn a_failed_response_has_ended_but_not_well() {
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"usage\":null}}\n\n";
    let (tap, _) = relay(Surface::Responses, false, [Bytes::from_static(failed.as_bytes())].into_iter());
    assert_eq!((tap.usage(), tap.done(), tap.finished()), (None, true, false));
}

#[test]
fn an_input_that_is_told_again_replaces_the_first() {
    let again = MESSAGES.replace("{\"output_tokens\":2}", "{\"input_tokens\":5,\"output_tokens\":2}");
    let (tap, _) = relay(Surface::Messages, false, cut(again.as_bytes(), &[50]));
    assert_eq!(tap.usage(), Some(TokenUsage { input: 5, output: 2, ..TokenUsage::default() }));
    let zero = MESSAGES.replace("{\"output_tokens\":2}", "{\"input_tokens\":0,\"output_tokens\":2}");
    let (tap, _) = relay(Surface::Messages, false, cut(zero.as_bytes(), &[50]));
    assert_eq!(tap.usage(), Some(usage(Surface::Messages)));
}

#[test]
fn the_usage_with_the_end_mark_in_one_event_is_left_alone() {
    let stream = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9}}\ndata: [DONE]\n\n";
    let (tap, out) = relay(Surface::Chat, true, [Bytes::from_static(stream.as_bytes())].into_iter());
    assert!(tap.done() && tap.usage().is_some() && out == stream.as_bytes());
}

#[test]
fn what_is_taken_out_does_not_depend_on_the_cuts() {
    let long = USAGE.replace("[],", &format!("[],{}", " ".repeat(HELD_BYTES_MAX)));
    for event in [
        USAGE,
        "data: {\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\nx: {\"choices\": [{}]}\n\n",
        "data: {\"x\":{\"choices\": [{}]},\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n",
        long.as_str(),
    ] {
        let (_, whole) = relay(Surface::Chat, true, std::iter::once(Bytes::from(event.to_owned())));
        for size in [1, 7, 60, 4_000] {
            let (_, pieces) = relay(Surface::Chat, true, cut(event.as_bytes(), &[size]));
            assert_eq!(whole, pieces, "in pieces of {size}");
        }
    }
}

#[test]
fn a_long_event_passes_in_little_memory_and_is_read_at_its_end() {
    let filler = "x".repeat(3_000_000);
    let long = [
        (Surface::Chat, format!("data: {{\"x\":\"{filler}\"}}\n\n{CHAT}"), true),
        (Surface::Responses, RESPONSES.replace("{\"output\":[", &format!("{{\"output\":[\"{filler}\",")), false),
        (Surface::Responses, format!("data: {filler}\n\n{RESPONSES}"), false),
        (Surface::Messages, format!("{filler}\n\n{MESSAGES}"), false),
    ];
    for (surface, stream, strip) in long {
        for size in [70_000, 1_000] {
            let mut tap = Tap::new(surface, strip);
            let mut out = 0;
            for chunk in cut(stream.as_bytes(), &[size]) {
                out += tap.push(chunk).len();
                assert!(tap.carry.len() <= EVENT_BYTES_MAX + size && tap.carry.capacity() <= 4 * EVENT_BYTES_MAX);
            }
            out += tap.rest().len();
            assert_eq!((tap.usage(), tap.done(), tap.pieces()), (Some(usage(surface)), true, 2), "{surface:?}");
            assert_eq!(out + if strip { USAGE.len() } else { 0 }, stream.len());
        }
    }
}

proptest! {
    #[test]
    fn cut_anywhere_the_stream_is_the_same(sizes in proptest::collection::vec(1usize..90, 1..60), strip in any::<bool>()) {
        for (surface, stream) in [
            (Surface::Chat, CHAT), (Surface::Chat, CHAT_TOLD_ALONG), (Surface::Responses, RESPONSES), (Surface::Messages, MESSAGES),
        ] {
            let (tap, out) = relay(surface, strip, cut(stream.as_bytes(), &sizes));
            let pieces = if stream == CHAT_TOLD_ALONG { 1 } else { 2 };
            prop_assert_eq!((tap.usage(), tap.done(), tap.finished(), tap.pieces()), (Some(usage(surface)), true, true, pieces));
            let expected = if strip { stream.replace(USAGE, "") } else { stream.to_owned() };
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn any_bytes_pass_as_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1usize..50) {
        for surface in Surface::ALL {
            for strip in [false, true] {
                let (_, out) = relay(surface, strip, bytes.chunks(size).map(Bytes::copy_from_slice));
                prop_assert_eq!(&out, &bytes);
            }
        }
    }

    #[test]
    fn what_is_learnt_does_not_depend_on_the_cuts(
        lines in proptest::collection::vec(line(), 0..30), sizes in proptest::collection::vec(1usize..200, 1..40), strip in any::<bool>(),
    ) {
        let stream = lines.concat();
        for surface in [Surface::Chat, Surface::Responses, Surface::Messages] {
            let (whole, once) = relay(surface, strip, [Bytes::copy_from_slice(stream.as_bytes())].into_iter());
            let (tap, out) = relay(surface, strip, cut(stream.as_bytes(), &sizes));
            prop_assert_eq!((tap.usage(), tap.so_far(), tap.done(), tap.finished(), tap.pieces()),
                            (whole.usage(), whole.so_far(), whole.done(), whole.finished(), whole.pieces()));
            prop_assert_eq!(out, once);
        }
    }
}

/// Lines of all families in any order, with ends of all kinds.
fn line() -> impl Strategy<Value = String> {
    let all: Vec<String> = [CHAT, CHAT_TOLD_ALONG, RESPONSES, MESSAGES]
        .concat()
        .lines()
        .map(str::to_owned)
        .chain(["\n".into(), "data:".into()])
        .collect();
    (0..all.len(), prop_oneof![Just("\n"), Just("\r\n"), Just("\n\n"), Just("\r\n\r\n"), Just("\n\r\n")])
        .prop_map(move |(at, end)| format!("{}{end}", all[at]))
}
