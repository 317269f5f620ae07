//! Answers that are wrong: each is right in the end or clearly broken, and none is used for the next call.
//! Never: a broken answer that looks whole.

use super::server::{Act, Server};
use super::*;
use proptest::prelude::*;

const OK: &str = "HTTP/1.1 200 OK\r\n";

/// What came of an answer, and on how many connections this call and a good one after it were made.
async fn outcome(act: Act) -> (Result<String, &'static str>, usize) {
    let server = Server::start([act, Act::Close, Act::Close]).await;
    let upstreams = upstreams(&[provider("p", ProviderKind::OpenAi, &server.url(), &["k"])]);
    let body = Bytes::from_static(b"{}");
    let told = match send(&upstreams, &["p"], &body, &Notes::default()).await {
        Err(_) => Err("no answer"),
        Ok((_, reply)) => match read(reply.body).await {
            Ok(whole) => Ok(String::from_utf8(whole).unwrap()),
            Err((Broken::Short, _)) => Err("short"),
            Err((Broken::Lost(_), _)) => Err("lost"),
            Err((Broken::Malformed(_), _)) => Err("malformed"),
        },
    };
    let pooled = upstreams.0.wire("p").unwrap().pool.count();
    (told, pooled)
}

#[tokio::test]
async fn an_answer_is_right_or_broken_and_only_a_right_one_leaves_its_connection() {
    let close = |text: String| Act::SayAndClose(text.into_bytes());
    let say = |text: String| Act::Say(vec![text.into_bytes()]);
    for (act, told, pooled) in [
        (say(format!("{OK}content-length: 4\r\n\r\nbody")), Ok("body"), 1),
        (say(format!("{OK}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")), Ok("body"), 1),
        (say(format!("{OK}content-length: 0\r\n\r\n")), Ok(""), 1),
        (say(format!("{OK}content-length: 4\r\nconnection: close\r\n\r\nbody")), Ok("body"), 0),
        (say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx".to_owned()), Ok("x"), 1),
        (close(format!("{OK}\r\nuntil the end")), Ok("until the end"), 0),
        (close("HTTP/1.0 200 OK\r\n\r\nold".to_owned()), Ok("old"), 0),
        // Bytes after the end: the answer is whole, the connection can't be trusted.
        (say(format!("{OK}content-length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\n\r\n")), Ok("body"), 0),
        (say(format!("{OK}transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nmore")), Ok("a"), 0),
        // Lengths that lie.
        (close(format!("{OK}content-length: 9\r\n\r\nbody")), Err("short"), 0),
        (close(format!("{OK}transfer-encoding: chunked\r\n\r\n9\r\nbody")), Err("short"), 0),
        (close(format!("{OK}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n")), Err("short"), 0),
        (close(format!("{OK}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n")), Err("short"), 0),
        (say(format!("{OK}transfer-encoding: chunked\r\n\r\n2\r\nbody\r\n0\r\n\r\n")), Err("malformed"), 0),
        (say(format!("{OK}transfer-encoding: chunked\r\n\r\n-4\r\nbody\r\n")), Err("malformed"), 0),
        (say(format!("{OK}transfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\n")), Err("malformed"), 0),
        (say(format!("{OK}transfer-encoding: chunked\r\n\r\n4;{}\r\n", "x".repeat(20_000))), Err("malformed"), 0),
        (say(format!("{OK}transfer-encoding: chunked\r\n\r\n0\r\n{}", "x: y\r\n".repeat(5_000))), Err("malformed"), 0),
    ] {
        let what = format!("{act:?}");
        assert_eq!(outcome(act).await, (told.map(str::to_owned), pooled), "{}", &what[..what.len().min(200)]);
    }
}

#[tokio::test]
async fn a_head_that_can_be_read_in_two_ways_is_no_answer() {
    for head in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "content-length: 4\r\ncontent-length: 5",
        "content-length: -1",
        "transfer-encoding: gzip",
        "x: a\r\n folded: b",
    ] {
        let act = Act::say(&format!("{OK}{head}\r\n\r\n4\r\nbody\r\n0\r\n\r\n"));
        assert_eq!(outcome(act).await, (Err("no answer"), 0), "{head}");
    }
    for wire in [format!("{OK}x: {}", "y".repeat(70_000)), "\0".repeat(70_000), "HTTP/1.1 100 C\r\n\r\n".repeat(9)] {
        assert_eq!(outcome(Act::say(&wire)).await, (Err("no answer"), 0), "{:?}", &wire[..20]);
    }
    assert_eq!(outcome(Act::SayAndClose(b"HTTP/1.1 200 OK\r\ncontent".to_vec())).await, (Err("no answer"), 0));
}

/// A chunked answer in these chunks, cut into these writes.
fn cut(data: &[u8], chunks: &[usize], writes: &[usize]) -> Vec<Vec<u8>> {
    let mut wire = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let mut rest = data;
    for size in chunks.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, more) = rest.split_at(rest.len().min(*size));
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
        rest = more;
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    let (mut pieces, mut rest) = (Vec::new(), &wire[..]);
    for size in writes.iter().cycle() {
        if rest.is_empty() {
            return pieces;
        }
        let (piece, more) = rest.split_at(rest.len().min(*size));
        pieces.push(piece.to_vec());
        rest = more;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn however_an_answer_is_cut_on_the_wire_its_bytes_are_the_same(
        length in 0usize..200_000,
        chunks in proptest::collection::vec(1usize..70_000, 1..6),
        writes in proptest::collection::vec(1usize..30_000, 1..6),
    ) {
        let data: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
        let pieces = cut(&data, &chunks, &writes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let got = runtime.block_on(async {
            let server = Server::start([Act::Say(pieces)]).await;
            let upstreams = upstreams(&[provider("p", ProviderKind::OpenAi, &server.url(), &["k"])]);
            let (_, reply) = send(&upstreams, &["p"], &Bytes::from_static(b"{}"), &Notes::default()).await.unwrap();
            assert!(reply.streams);
            let whole = read(reply.body).await.unwrap();
            assert_eq!(upstreams.0.wire("p").unwrap().pool.count(), 1);
            whole
        });
        prop_assert!(got == data, "{} bytes became {}", data.len(), got.len());
    }
}

#[tokio::test]
async fn one_read_of_many_events_is_one_piece() {
    let event = "data: {\"x\":1}\n\n";
    let chunks = format!("{:x}\r\n{event}\r\n", event.len()).repeat(100);
    let wire = format!(
        "{OK}content-type: Text/Event-Stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
    );
    assert!(wire.len() < 8 * 1024, "it fits one read");
    let server = Server::start([Act::say(&wire)]).await;
    let upstreams = upstreams(&[provider("p", ProviderKind::OpenAi, &server.url(), &["k"])]);
    let (_, mut reply) = send(&upstreams, &["p"], &Bytes::from_static(b"{}"), &Notes::default()).await.unwrap();
    assert!(reply.streams);
    let piece = reply.body.next().await.unwrap().unwrap();
    assert_eq!(piece, event.repeat(100));
    assert!(reply.body.is_ended(), "the end is known with the last piece");
    assert_eq!(upstreams.0.wire("p").unwrap().pool.count(), 1, "and its connection is free already");
    assert!(reply.body.next().await.is_none());
}
