//! Which key, which provider, how often: the calls that go out, seen from the provider's side.
//! Never: an attempt that the journal wasn't told of.

use super::server::{Act, Server};
use super::*;

fn ok() -> Act {
    Act::answer(200, "content-type: application/json\r\n", "fine")
}

fn body() -> Bytes {
    Bytes::from_static(br#"{"model":"http://169.254.169.254/x"}"#)
}

async fn fine(upstreams: &Upstreams, providers: &[&str], notes: &Notes) -> usize {
    let (at, reply) = send(upstreams, providers, &body(), notes).await.unwrap();
    assert_eq!(read(reply.body).await.unwrap(), b"fine");
    at
}

fn keys_asked(server: &Server) -> Vec<String> {
    let key = |request: &String| {
        request.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap_or("none").to_owned()
    };
    server.requests().iter().map(key).collect()
}

#[tokio::test]
async fn a_connection_is_used_again_and_one_that_was_closed_costs_nothing() {
    let later = |text: &str| Act::SayAndCloseLater(text.as_bytes().to_vec());
    let server = Server::start([ok(), ok(), later("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine"), ok()]).await;
    let upstreams = upstreams(&[provider("p", ProviderKind::OpenAi, &server.url(), &["k"])]);
    let notes = Notes::default();
    for _ in 0..3 {
        fine(&upstreams, &["p"], &notes).await;
    }
    assert_eq!((server.connections(), notes.counts()), (1, (3, 0)));
    let sent = server.requests().remove(0);
    let (head, sent_body) = sent.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with(&format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\n", server.address)), "{head}");
    assert_eq!(sent_body, body(), "an address in the body leads nowhere");

    // The provider closes the idle connection; whether that is seen before the next call or only in it, it goes through.
    server.close_idle.notify_one();
    server.closed_idle.notified().await;
    fine(&upstreams, &["p"], &notes).await;
    assert_eq!(server.connections(), 2);
    let (left, returned) = notes.counts();
    assert_eq!(left - returned, 4, "each call is out once");

    // It takes the request and closes on a reused connection: not a byte of an answer, so it goes out anew.
    server.plan(Act::Close);
    server.plan(ok());
    fine(&upstreams, &["p"], &notes).await;
    let (left_now, returned_now) = notes.counts();
    assert_eq!((server.connections(), left_now - left, returned_now - returned), (3, 2, 1));
    assert_eq!(server.requests().len(), 6);
}

#[tokio::test]
async fn another_runtime_has_connections_of_its_own() {
    let server = Server::start([ok(), ok(), ok()]).await;
    let upstreams = upstreams(&[provider("p", ProviderKind::OpenAi, &server.url(), &["k"])]);
    fine(&upstreams, &["p"], &Notes::default()).await;
    let elsewhere = upstreams.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { fine(&elsewhere, &["p"], &Notes::default()).await });
    });
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    assert_eq!(server.connections(), 2);
    fine(&upstreams, &["p"], &Notes::default()).await;
    assert_eq!(server.connections(), 2, "its own again");
    let pool = &upstreams.0.wire("p").unwrap().pool;
    assert_eq!(pool.count(), 2);
    pool.sweep(Instant::now() + Duration::from_secs(49));
    assert_eq!(pool.count(), 2);
    pool.sweep(Instant::now() + Duration::from_secs(51));
    assert_eq!(pool.count(), 0);
}

#[tokio::test]
async fn an_early_answer_to_a_long_request_is_heard() {
    let long = Bytes::from(vec![b' '; 24 * 1024 * 1024]);
    let said = r#"{"error":{"message":"Too long."}}"#;
    let wire = format!("HTTP/1.1 413 No\r\ncontent-length: {}\r\n\r\n{said}", said.len());
    // Without a word of it read, closing resets the connection; the answer may be lost with it, and the call is tried again.
    let server = Server::start(std::iter::repeat_n(Act::SayEarly(wire.into_bytes()), 3)).await;
    let upstreams = upstreams(&[provider("p", ProviderKind::OpenAi, &server.url(), &["k"])]);
    let refusal = send(&upstreams, &["p"], &long, &Notes::default()).await.err().unwrap();
    assert!(refusal.status == 413 || refusal.code == "provider_unavailable", "{refusal:?}");
    assert_eq!(upstreams.0.wire("p").unwrap().pool.count(), 0);

    let server = Server::start([ok()]).await;
    let upstreams = super::upstreams(&[provider("p", ProviderKind::OpenAi, &server.url(), &["k"])]);
    let (_, reply) = send(&upstreams, &["p"], &long, &Notes::default()).await.unwrap();
    assert_eq!(read(reply.body).await.unwrap(), b"fine");
    assert!(server.requests()[0].ends_with(&" ".repeat(1000)) && server.requests()[0].len() > long.len());
}

#[tokio::test]
async fn a_key_that_is_refused_or_busy_rests_and_another_goes() {
    let refused = Act::answer(401, "", r#"{"error":{"message":"Incorrect key a"}}"#);
    let busy = Act::answer(429, "retry-after: 200\r\n", "{}");
    let server = Server::start([refused.clone(), ok(), ok(), busy.clone(), busy, ok(), refused]).await;
    let upstreams = upstreams(&[provider("p", ProviderKind::OpenAi, &server.url(), &["a", "b", "c"])]);
    let notes = Notes::default();
    fine(&upstreams, &["p"], &notes).await;
    fine(&upstreams, &["p"], &notes).await;
    assert_eq!(keys_asked(&server), ["a", "b", "c"]);
    assert_eq!(notes.counts(), (3, 1));
    let refusal = send(&upstreams, &["p"], &body(), &notes).await.err().unwrap();
    assert_eq!((refusal.status.as_u16(), refusal.code, refusal.retry_after_seconds), (429, "provider_busy", Some(200)));
    assert_eq!(server.requests().len(), 5, "both were asked once");
    assert_eq!(send(&upstreams, &["p"], &body(), &notes).await.err().unwrap().code, "provider_busy");
    assert_eq!(server.requests().len(), 5, "and not again while they rest");

    upstreams.set_keys("p", vec![secrecy::SecretString::from("d").into()]).unwrap();
    fine(&upstreams, &["p"], &notes).await;
    assert_eq!(keys_asked(&server).last().unwrap(), "d");
    let refusal = send(&upstreams, &["p"], &body(), &notes).await.err().unwrap();
    assert_eq!((refusal.status.as_u16(), refusal.code), (429, "provider_unavailable"));
    assert!(refusal.retry_after_seconds.is_some_and(|seconds| (29..=30).contains(&seconds)), "{refusal:?}");
    let (left, returned) = notes.counts();
    assert_eq!(left - returned, 3, "what failed is not charged");
    assert!(upstreams.set_keys("p", vec![secrecy::SecretString::from("a b").into()]).is_err());
    assert!(upstreams.set_keys("q", Vec::new()).is_err());
}

#[tokio::test]
async fn the_next_candidate_answers_where_the_first_can_not() {
    let server = Server::start([Act::answer(503, "retry-after: 30\r\n", ""), ok(), ok(), ok()]).await;
    let url = server.url();
    let (chat, claude) = (ProviderKind::OpenAi, ProviderKind::Anthropic);
    let upstreams = upstreams(&[
        provider("gone", chat, "http://127.0.0.1:1/v1", &[]),
        provider("first", chat, &url, &["k"]),
        provider("second", claude, &url, &["k"]),
    ]);
    let notes = Notes::default();
    assert_eq!(fine(&upstreams, &["first", "second"], &notes).await, 1, "thirty seconds don't fit");
    assert_eq!(notes.counts(), (2, 1));
    assert_eq!(fine(&upstreams, &["gone", "first"], &notes).await, 1);
    assert_eq!(notes.counts(), (3, 4), "three connections that failed: nothing left");
    assert_eq!(fine(&upstreams, &["unknown", "first"], &notes).await, 1);

    let candidates = [Candidate { provider: "first", body: body() }];
    let headers = HeaderMap::new();
    let origin = Origin { request_id: RequestId::random(), traceparent: None, headers: &headers };
    let refusal = upstreams.send(Surface::Messages, &candidates, &origin, &notes).await.err().unwrap();
    assert_eq!((refusal.status.as_u16(), refusal.code), (400, "surface_not_served"));
    assert!(refusal.message.contains("/v1/chat/completions or /v1/responses or /v1/embeddings"), "{}", refusal.message);
    server.plan(ok());
    let candidates = [Candidate { provider: "first", body: body() }, Candidate { provider: "second", body: body() }];
    let (at, reply) = upstreams.send(Surface::CountTokens, &candidates, &origin, &notes).await.unwrap();
    assert_eq!((at, read(reply.body).await.unwrap()), (1, b"fine".to_vec()));
    let sent = server.requests().pop().unwrap();
    assert!(sent.starts_with("POST /v1/messages/count_tokens HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("\r\nx-api-key: k\r\n") && sent.contains("\r\nanthropic-version: 2023-06-01\r\n"), "{sent}");

    server.plan(Act::answer(422, "", r#"{"error":{"message":"No such field, key k"}}"#));
    let refusal = send(&upstreams, &["first", "second"], &body(), &notes).await.err().unwrap();
    assert_eq!((refusal.status.as_u16(), refusal.message.as_str()), (422, "No such field, [key]ey [key]"));
    let full = Notes { disk_full: true, ..Notes::default() };
    let asked = server.requests().len();
    assert_eq!(send(&upstreams, &["first", "second"], &body(), &full).await.err().unwrap().status, 429);
    assert_eq!(server.requests().len(), asked, "what can't be written down doesn't leave");
}

#[tokio::test]
async fn a_provider_that_fails_again_and_again_is_left_alone_and_found_again() {
    let failing = || Act::answer(500, "retry-after: 60\r\n", "");
    let server = Server::start(std::iter::repeat_with(failing).take(5)).await;
    let upstreams = upstreams(&[
        provider("p", ProviderKind::OpenAi, &server.url(), &["k"]),
        provider("q", ProviderKind::OpenAi, &server.url(), &["k"]),
    ]);
    let notes = Notes::default();
    for _ in 0..5 {
        assert_eq!(send(&upstreams, &["p"], &body(), &notes).await.err().unwrap().code, "provider_unavailable");
    }
    assert_eq!(server.requests().len(), 5);
    let refusal = send(&upstreams, &["p"], &body(), &notes).await.err().unwrap();
    assert_eq!((refusal.status.as_u16(), refusal.retry_after_seconds), (429, Some(2)));
    server.plan(ok());
    assert_eq!(fine(&upstreams, &["p", "q"], &notes).await, 1, "others go on");
    assert_eq!(server.requests().len(), 6, "it was not asked");
    assert_eq!(notes.counts(), (6, 5));

    let breaker = &upstreams.0.wire("p").unwrap().breaker;
    let probe = breaker.pass(Instant::now() + Duration::from_secs(3)).unwrap();
    assert!(probe.is_probe());
    probe.succeeded();
    server.plan(ok());
    assert_eq!(fine(&upstreams, &["p", "q"], &notes).await, 0);
}

#[tokio::test]
async fn a_failure_is_tried_again_and_told_once() {
    let server = Server::start([Act::answer(500, "", ""), Act::Close, ok()]).await;
    let upstreams = upstreams(&[provider("p", ProviderKind::OpenAi, &server.url(), &[])]);
    let notes = Notes::default();
    fine(&upstreams, &["p"], &notes).await;
    assert_eq!(keys_asked(&server), ["none"; 3], "this provider wants no key");
    let (left, returned) = notes.counts();
    assert_eq!((server.requests().len(), left - returned), (3, 1));
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_and_a_broken_one_changes_nothing() {
    let folder = std::env::temp_dir().join(format!("molt-keys-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("keys");
    let server = Server::start(std::iter::repeat_with(ok).take(8)).await;
    let mut given = provider("p", ProviderKind::OpenAi, &server.url(), &["x"]);
    given.key_file = Some(path.clone());
    for text in [None, Some(""), Some("a b c")] {
        text.inspect(|text| std::fs::write(&path, text).unwrap());
        assert!(matches!(Upstreams::start(&[given.clone()], Duration::ZERO), Err(StartError::Provider { .. })));
    }
    std::fs::write(&path, "# first\na\n").unwrap();
    let upstreams = upstreams(&[given]);
    let notes = Notes::default();
    let replace = |text: &str| {
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), &path).unwrap();
    };
    // The watcher may be the one that reads the file; either way it is read once.
    let settled = async |asked: &[&str]| {
        upstreams.0.clone().run_once(Instant::now()).await;
        let before = server.requests().len();
        for _ in asked {
            fine(&upstreams, &["p"], &notes).await;
        }
        let mut keys = keys_asked(&server).split_off(before);
        keys.sort();
        assert_eq!(keys, asked);
    };
    settled(&["a", "x"]).await;
    replace("b\n");
    settled(&["b", "x"]).await;
    for broken in ["", "b x y"] {
        replace(broken);
        settled(&["b", "x"]).await;
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
