//! Wrong input at every door: a Problem with a stable code and a sentence that says what to do, and nothing changes.
//! Never: a list of routes written by hand.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use molt_identity::{Local, LogIn, SignUp};
use molt_model::{Clock, Time};
use molt_store::{SealKey, Store};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::hostile::wire::Wire;
use crate::stack::Stack;
use crate::stack::chat::Refusal;
use crate::stack::http::{Answer, Ask};
use crate::stack::openapi::Route;
use crate::stack::people::{PASSWORD, Person};

/// Above every body that the API takes.
const TOO_LARGE_BYTES: usize = 3 * 1024 * 1024;

#[tokio::test]
async fn a_body_that_does_not_fit_is_refused_at_every_route() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let before = stack.database.everything().await;
    let mut asked = 0;
    for route in stack.routes().await.into_iter().filter(|route| route.body.is_some()) {
        for (what, ask) in spoiled(&route, &bot) {
            asked += 1;
            let answer = stack.http.send(ask.by(&person)).await;
            refused(&route, &what, &answer);
        }
    }
    assert!(asked > 40, "only {asked} wrong bodies were tried");
    assert_eq!(stack.database.everything().await, before, "nothing has changed");
    stack.finish().await;
}

/// A route's request with its body spoiled, each in one way.
fn spoiled(route: &Route, bot: &str) -> Vec<(String, Ask)> {
    let whole = route.body.clone().expect("a body");
    let ask = || route.ask(&|_| bot.to_owned());
    let mut found = vec![
        ("not JSON".to_owned(), ask().raw("{\"half\": ")),
        ("a list".to_owned(), ask().json(&json!([1, 2, 3]))),
        ("a text".to_owned(), ask().json(&json!("all of it"))),
        ("too large".to_owned(), ask().raw(format!("{{\"x\": \"{}\"}}", "x".repeat(TOO_LARGE_BYTES)))),
        ("not UTF-8".to_owned(), ask().raw(vec![b'{', b'"', 0xff, 0xfe, b'"', b':', b'1', b'}'])),
    ];
    if !route.required.is_empty() {
        found.push(("empty".to_owned(), ask().json(&json!({}))));
        found.push(("none at all".to_owned(), ask().raw("")));
    }
    for name in &route.required {
        let mut without = whole.clone();
        without.as_object_mut().expect("an object").remove(name);
        found.push((format!("without {name}"), ask().json(&without)));
        let null = (!route.nullable.contains(name)).then_some(Value::Null);
        for wrong in std::iter::once(json!({"not": ["this"]})).chain(null) {
            let mut other = whole.clone();
            other[name.as_str()] = wrong.clone();
            found.push((format!("{name} = {wrong}"), ask().json(&other)));
        }
    }
    found
}

/// The one answer to it. What an operator may do is refused before the body is looked at, but for its size.
#[track_caller]
fn refused(route: &Route, what: &str, answer: &Answer) {
    let (status, code) = match what {
        "too large" => (413, "body_too_large"),
        _ if route.path.starts_with("/api/admin/") => (403, "not_an_operator"),
        "not JSON" | "not UTF-8" | "none at all" => (400, "invalid_json"),
        _ => (422, "invalid_body"),
    };
    assert_eq!((answer.status, answer.code()), (status, code), "{}, {what}: {}", route.name(), answer.text);
    answer.is_problem();
}

#[tokio::test]
async fn an_id_that_names_nothing_is_not_found_at_every_route() {
    let stack = Stack::start().await;
    let (person, _) = stack.with_bot("Ada").await;
    let before = stack.database.everything().await;
    let long = "x".repeat(300);
    for route in stack.routes().await.into_iter().filter(|route| route.path.contains('{') && route.needs_login) {
        for id in
            ["nothing", "0", "%00", "..%2f..", "%ff", "'; drop table molt.bots; --", "a%20b", "%F0%9F%A6%9E", &long]
        {
            let id = id.replace(' ', "%20").replace('\'', "%27");
            let answer = stack.http.send(route.ask(&|_| id.clone()).by(&person)).await;
            answer.is_problem();
            let expected = match route.path.split('/').nth(2) {
                Some("admin") => (403, "not_an_operator"),
                // What isn't text is no address.
                _ if id == "%ff" => (404, "route_not_found"),
                Some("bots" | "chat") => (404, "bot_not_found"),
                Some("keys") => (404, "key_not_found"),
                _ => (404, "checkout_not_found"),
            };
            assert_eq!((answer.status, answer.code()), expected, "{} with {id}: {}", route.name(), answer.text);
        }
    }
    stack.http.send(Ask::new("get", "/api/no-such-thing").by(&person)).await.refused(404, "route_not_found");
    stack.http.send(Ask::new("put", "/api/bots").by(&person)).await.refused(405, "method_not_allowed");
    assert_eq!(stack.database.everything().await, before, "nothing has changed");
    stack.finish().await;
}

#[tokio::test]
async fn an_expired_or_forged_token_opens_nothing() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let tokens = bad_tokens(&stack, &person).await;
    let before = stack.database.everything().await;
    for route in stack.routes().await.into_iter().filter(|route| route.needs_login) {
        for (what, token) in &tokens {
            let answer = stack.http.send(route.ask(&|_| bot.clone()).bearer(token)).await;
            assert_eq!(answer.status, 401, "{}, {what}: {}", route.name(), answer.text);
            answer.refused(401, "unauthenticated");
        }
    }
    for (what, token) in &tokens {
        let refused =
            stack.try_chat(&format!("/api/chat/{bot}"), &[("authorization", &format!("Bearer {token}"))]).await;
        let refused = refused.err().map(|(status, body)| (status.as_u16(), body["code"].clone()));
        assert_eq!(refused, Some((401, json!("unauthenticated"))), "chat, {what}");
    }
    let basic = Ask::new("get", "/api/me").header("authorization", "Basic YWRhOmFkYQ==");
    stack.http.send(basic).await.refused(401, "unauthenticated");
    assert_eq!(stack.database.everything().await, before, "nothing has changed");
    stack.finish().await;
}

/// A clock that stands still in the past.
struct Past(Time);

impl Clock for Past {
    fn now(&self) -> Time {
        self.0
    }
}

/// Tokens that look like the person's own and aren't.
async fn bad_tokens(stack: &Stack, person: &Person) -> Vec<(&'static str, String)> {
    let parts: Vec<&str> = person.token.split('.').collect();
    let header = jsonwebtoken::decode_header(&person.token).expect("our own token");
    let claims = claims_of(parts[1]);
    let sign = |algorithm: Algorithm, key: &EncodingKey| {
        encode(&Header { kid: header.kid.clone(), ..Header::new(algorithm) }, &claims, key).expect("a key that fits")
    };
    let jwks = stack.http.try_get("/.well-known/jwks.json").await.expect("an answer").text;
    let none = format!("{}.{}.", base64_url(&json!({"alg": "none", "kid": header.kid}).to_string()), parts[1]);
    let mut grown = claims.clone();
    grown["exp"] = json!(4_102_444_800_i64);
    vec![
        ("expired", expired(stack, person).await),
        ("algorithm none", none),
        (
            "signed with the public key as a password",
            sign(Algorithm::HS256, &EncodingKey::from_secret(jwks.as_bytes())),
        ),
        ("signed by another key", sign(Algorithm::EdDSA, &EncodingKey::from_ed_der(&OTHER_KEY))),
        ("claims changed", format!("{}.{}.{}", parts[0], base64_url(&grown.to_string()), parts[2])),
        ("cut", person.token[..person.token.len() - 3].to_owned()),
        ("not a token", "lobster".to_owned()),
        ("very long", "x".repeat(20_000)),
    ]
}

/// An Ed25519 key that nobody has published, in PKCS #8.
const OTHER_KEY: [u8; 48] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20, 1, 2, 3, 4, 5, 6,
    7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
];

/// A token that the installation itself signed, an hour ago by its clock.
async fn expired(stack: &Stack, person: &Person) -> String {
    let seal = SealKey::from_hex(&stack.seal).expect("made for this stack");
    let store = Store::connect(&stack.database.url, seal).await.expect("the test server is up");
    let public_url = format!("http://127.0.0.1:{}", stack.port);
    let config = molt_identity::Config { signup: SignUp::Open, https: false, public_url };
    let an_hour_ago = Arc::new(Past(chrono::Utc::now() - TimeDelta::hours(1)));
    let identity = Local::new(config, store, an_hour_ago);
    let log_in = LogIn { email: person.email.clone(), password: PASSWORD.to_owned().into(), place: "here".to_owned() };
    identity.log_in(log_in).await.expect("the right password").token.expose_secret().to_owned()
}

fn claims_of(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("claims")
}

fn base64_url(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

#[tokio::test]
async fn a_chat_opens_for_its_owner_once_and_from_our_own_pages() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let stranger = stack.signup("Eve").await;
    let path = |ticket: &str| format!("/api/chat/{bot}?ticket={ticket}");
    let status = |opened: Result<_, Refusal>| match opened {
        Ok(_) => panic!("the chat opened"),
        Err((status, body)) => (status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned()),
    };
    let ticket = stack.ticket(&person, &bot).await;
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        let refused = stack.try_chat(&path(&ticket), &[("origin", origin)]).await.map(|_| ());
        assert_eq!(status(refused), (403, "origin_not_allowed".to_owned()), "{origin}");
    }
    let own = format!("http://127.0.0.1:{}", stack.port);
    let fresh = stack.ticket(&person, &bot).await;
    assert!(stack.try_chat(&path(&fresh), &[("origin", &own)]).await.is_ok(), "our own page");
    let again = stack.try_chat(&path(&fresh), &[]).await.map(|_| ());
    assert_eq!(status(again), (401, "ticket_invalid".to_owned()), "a used ticket");
    let late = stack.ticket(&person, &bot).await;
    stack.database.execute("update molt.chat_tickets set expires_at = now() - interval '1 second'").await;
    let other = stack.wizard(&stranger, "Rex").await;
    let theirs = stack.ticket(&stranger, &other).await;
    for (what, ticket) in
        [("expired", &*late), ("not of ours", "lobster"), ("empty", ""), ("for another bot", &*theirs)]
    {
        let refused = status(stack.try_chat(&path(ticket), &[]).await.map(|_| ()));
        assert_eq!(refused, (401, "ticket_invalid".to_owned()), "a ticket that is {what}");
    }
    stack.finish().await;
}

#[tokio::test]
async fn a_frame_that_makes_no_sense_is_answered_and_the_socket_stays_open() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let mut chat = stack.chat(&person, &bot).await;
    let run = uuid::Uuid::new_v4();
    for (bad, code) in [
        ("lobster".to_owned(), "bad_frame"),
        ("[]".to_owned(), "bad_frame"),
        ("{}".to_owned(), "bad_frame"),
        (json!({"type": "dance"}).to_string(), "bad_frame"),
        (json!({"type": "send"}).to_string(), "bad_frame"),
        (json!({"type": "send", "id": "a", "text": ""}).to_string(), "empty_text"),
        (json!({"type": "send", "id": "", "text": "hello"}).to_string(), "bad_frame"),
        (json!({"type": "send", "id": "x".repeat(129), "text": "hello"}).to_string(), "bad_frame"),
        (json!({"type": "send", "id": "a", "text": ["hello"]}).to_string(), "bad_frame"),
        (json!({"type": "send", "id": "a", "text": "x".repeat(150_000)}).to_string(), "text_too_long"),
        (
            json!({"type": "send", "id": "a", "text": "hello", "conversation": "no-such-conversation"}).to_string(),
            "unknown_conversation",
        ),
        (json!({"type": "send", "id": "a", "text": "hello", "conversation": "A B"}).to_string(), "bad_frame"),
        (json!({"type": "abort", "run_id": "not a run"}).to_string(), "bad_frame"),
        (json!({"type": "abort", "run_id": run}).to_string(), "unknown_run"),
        (json!({"type": "approve", "approval_id": 1, "decision": "maybe"}).to_string(), "bad_frame"),
        (json!({"type": "history", "limit": "all"}).to_string(), "bad_frame"),
        (json!({"type": "history", "conversation": "no-such-conversation"}).to_string(), "unknown_conversation"),
        (json!({"type": "resume", "after": "yesterday"}).to_string(), "bad_frame"),
    ] {
        chat.raw(bad.clone()).await;
        let error = chat.until("an error frame", |_| true).await;
        let shown: String = bad.chars().take(80).collect();
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{shown}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| text.ends_with('.')), "{shown}: {error}");
    }
    let turn = chat.turn("m-1", "main", "Good morning!").await;
    assert_eq!(turn.end(), "finished");
    assert_eq!(stack.database.count("select count(*) from molt.runs").await, 1, "only the good message is a run");
    stack.finish().await;
}

#[tokio::test]
async fn a_body_that_can_be_read_in_two_ways_is_refused_at_every_listener() {
    let stack = Stack::start().await;
    let (person, bot) = stack.with_bot("Ada").await;
    let before = stack.database.everything().await;
    let gate = stack.data().join("bots").join(&bot).join("run/out/proxy.sock");
    // The pages, the proxy among them, the operator's own, and the bot's gate: to the proxy, out into the world, and on a
    // connection whose tunnel was refused. Before it comes what leaves the connection as it was.
    let public = Door::Port(stack.port);
    let health = "GET /healthz HTTP/1.1\r\nhost: molt\r\n\r\n";
    let tunnel = "CONNECT site.example HTTP/1.1\r\nhost: site.example\r\n\r\n";
    for (door, first, asked, said) in [
        (public, "", "/api/auth/login", "invalid_header"),
        (public, health, "/api/bots", "invalid_header"),
        (public, health, "/v1/chat/completions", "two_lengths"),
        (public, "", "/", "invalid_header"),
        (Door::Port(stack.port + 1), health, "/metrics", "invalid_header"),
        (Door::Gate, health, "/v1/chat/completions", "two_lengths"),
        (Door::Gate, "", "http://site.example/", "Content-Length or Transfer-Encoding"),
        (Door::Gate, tunnel, "http://site.example/", "Content-Length or Transfer-Encoding"),
    ] {
        for framing in [
            "content-length: 2\r\ntransfer-encoding: chunked",
            "Transfer-Encoding:chunked\r\nx-between: 1\r\nCONTENT-LENGTH:  44",
        ] {
            let mut wire = match door {
                Door::Port(port) => Wire::open(port).await,
                Door::Gate => Wire::over(UnixStream::connect(&gate).await.expect("the gate is open")),
            };
            let token = &person.token;
            let head =
                format!("POST {asked} HTTP/1.1\r\nhost: molt\r\nauthorization: Bearer {token}\r\n{framing}\r\n\r\n");
            wire.say(format!("{first}{head}2\r\n{{}}\r\n0\r\n\r\n{health}").as_bytes()).await;
            if !first.is_empty() {
                let wanted = if first == tunnel { 400 } else { 200 };
                assert_eq!(wire.hear().await.expect("an answer").status, wanted, "{asked}");
            }
            let answer = wire.hear().await.unwrap_or_else(|| panic!("{asked}: no answer"));
            answer.refuses(400, said);
            assert!(answer.head.contains("connection: close"), "{asked}: {answer:?}");
            assert!(wire.hear().await.is_none(), "{asked}: what follows isn't read as a request");
        }
    }
    assert_eq!(stack.database.everything().await, before, "nothing has changed");
    stack.finish().await;
}

/// Where somebody can knock.
#[derive(Clone, Copy)]
enum Door {
    Port(u16),
    /// The bot's.
    Gate,
}
