//! The heads of requests and answers on the wire.
//! Never: a header of the caller's that isn't on the list, or an answer whose length can be read in two ways.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use httparse::Status;
use molt_model::RequestId;

use super::Broken;
use super::body::{Chunks, Framing};

/// Of one answer's head. Providers send two to four kilobytes, with cookies and limits.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
/// Answers before the answer ("100 Continue"). One is usual; a stream of them would hold a call for ever.
pub(super) const INTERIM_MAX: usize = 8;
/// Of one header that is passed on from the caller.
const PASSED_BYTES_MAX: usize = 512;
/// The longest that a provider may send us away for; after that it is asked again anyway.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
const USER_AGENT: &str = concat!("molt/", env!("CARGO_PKG_VERSION"));
/// What of the caller's reaches the provider, beside the body: switches of its API, nothing about the caller.
const PASSED: [HeaderName; 3] = [
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("openai-beta"),
];
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// What of a call goes along in the head.
pub(crate) struct Origin<'a> {
    pub(crate) request_id: RequestId,
    /// Continued by the proxy; the caller's own is not looked at here.
    pub(crate) traceparent: Option<&'a HeaderValue>,
    /// The caller's; only the switches of the provider's API are taken.
    pub(crate) headers: &'a HeaderMap,
}

impl Origin<'_> {
    /// What of a caller's headers may go along; mostly nothing.
    pub(crate) fn switches(headers: &HeaderMap) -> HeaderMap {
        PASSED.into_iter().filter_map(|name| Some((name.clone(), headers.get(&name)?.clone()))).collect()
    }
}

/// How the master key is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presented {
    /// `authorization: Bearer`.
    Bearer,
    /// `x-api-key`, beside `anthropic-version`.
    ApiKey,
}

/// Writes the head of a request. `opening` is the request line and the headers that are always the same.
pub(super) fn request(
    opening: &str,
    key: Option<&str>,
    presented: Presented,
    origin: &Origin<'_>,
    body_bytes: usize,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(opening.len() + 512);
    head.extend_from_slice(opening.as_bytes());
    if let Some(key) = key {
        let name = if presented == Presented::ApiKey { "x-api-key" } else { "authorization" };
        line(&mut head, name, &[if presented == Presented::ApiKey { b"" } else { b"Bearer " }, key.as_bytes()]);
    }
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    line(&mut head, "x-client-request-id", &[origin.request_id.0.as_hyphenated().encode_lower(&mut id).as_bytes()]);
    if let Some(value) = origin.traceparent {
        line(&mut head, "traceparent", &[value.as_bytes()]);
    }
    for name in &PASSED {
        for value in origin.headers.get_all(name).iter().filter(|value| value.len() <= PASSED_BYTES_MAX) {
            line(&mut head, name.as_str(), &[value.as_bytes()]);
        }
    }
    if presented == Presented::ApiKey && !origin.headers.contains_key(&PASSED[0]) {
        line(&mut head, PASSED[0].as_str(), &[ANTHROPIC_VERSION.as_bytes()]);
    }
    line(&mut head, "content-length", &[body_bytes.to_string().as_bytes()]);
    head.extend_from_slice(b"\r\n");
    head
}

/// The part of a head that is the same for every call to one place.
pub(super) fn opening(path: &str, authority: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: {USER_AGENT}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\n"
    )
}

/// The same where no models run; nothing of it is a caller's.
pub(super) fn opening_of(path: &str, authority: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: {USER_AGENT}\r\nconnection: close\r\n")
}

/// A head with our own headers, and no others.
pub(super) fn with_headers(opening: &str, headers: &HeaderMap, body_bytes: usize) -> Vec<u8> {
    let mut head = opening.as_bytes().to_vec();
    for (name, value) in headers.iter().filter(|(name, _)| **name != header::CONTENT_LENGTH) {
        line(&mut head, name.as_str(), &[value.as_bytes()]);
    }
    line(&mut head, "content-length", &[body_bytes.to_string().as_bytes()]);
    head.extend_from_slice(b"\r\n");
    head
}

fn line(head: &mut Vec<u8>, name: &str, value: &[&[u8]]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    for part in value {
        head.extend_from_slice(part);
    }
    head.extend_from_slice(b"\r\n");
}

/// What is needed of the head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) content_type: Option<HeaderValue>,
    pub(super) retry_after: Option<Duration>,
    pub(super) framing: Framing,
    /// The connection may carry another call after this answer.
    pub(super) keep_alive: bool,
}

/// Looks for the end of a head in what arrives, byte by byte once.
#[derive(Default)]
pub(super) struct HeadReader {
    looked_at: usize,
    interim: usize,
}

impl HeadReader {
    /// Takes a whole head out of the buffer. `None`: it isn't all there yet.
    pub(super) fn read(&mut self, buffer: &mut BytesMut) -> Result<Option<Head>, Broken> {
        loop {
            let Some(end) = self.end(buffer) else {
                let too_long = buffer.len() >= HEAD_BYTES_MAX;
                return if too_long { Err(Broken::Malformed("its head has no end")) } else { Ok(None) };
            };
            let head = parse(&buffer[..end])?;
            buffer.advance(end);
            self.looked_at = 0;
            match head {
                Some(head) => return Ok(Some(head)),
                None if self.interim == INTERIM_MAX => return Err(Broken::Malformed("too many interim answers")),
                None => self.interim += 1,
            }
        }
    }

    /// Where the head ends, behind its empty line.
    fn end(&mut self, buffer: &[u8]) -> Option<usize> {
        let from = self.looked_at.saturating_sub(2);
        self.looked_at = buffer.len().min(HEAD_BYTES_MAX);
        let lines = buffer[from..self.looked_at].iter().enumerate().filter(|&(_, &byte)| byte == b'\n');
        lines.map(|(at, _)| from + at + 1).find_map(|next| match &buffer[next..self.looked_at] {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        })
    }
}

/// `None`: an interim answer, to be skipped.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Broken> {
    const WRONG: Broken = Broken::Malformed("its head isn't HTTP");
    let mut room = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut room);
    if !matches!(parsed, Ok(Status::Complete(length)) if length == bytes.len()) {
        return Err(WRONG);
    }
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(WRONG)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Broken::Malformed("it wants to speak something else"));
    }
    if status.is_informational() {
        return Ok(None);
    }
    let mut facts = Facts { modern: response.version == Some(1), ..Facts::default() };
    for field in response.headers {
        facts.note(field.name, field.value)?;
    }
    facts.head(status).map(Some)
}

#[derive(Default)]
struct Facts {
    /// HTTP/1.1, not 1.0.
    modern: bool,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    content_type: Option<HeaderValue>,
    retry_after: Option<Duration>,
}

impl Facts {
    fn note(&mut self, name: &str, value: &[u8]) -> Result<(), Broken> {
        let is = |wanted: HeaderName| name.eq_ignore_ascii_case(wanted.as_str());
        if is(header::CONTENT_LENGTH) {
            let length = digits(value).ok_or(Broken::Malformed("its length is no number"))?;
            if self.length.replace(length).is_some() {
                return Err(Broken::Malformed("it names two lengths"));
            }
        } else if is(header::TRANSFER_ENCODING) {
            if !value.trim_ascii().eq_ignore_ascii_case(b"chunked") || self.chunked {
                return Err(Broken::Malformed("its transfer encoding is unknown"));
            }
            self.chunked = true;
        } else if is(header::CONNECTION) {
            let mut words = value.split(|&byte| byte == b',');
            self.close |= words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
        } else if is(header::CONTENT_TYPE) {
            self.content_type = HeaderValue::from_bytes(value).ok();
        } else if is(header::RETRY_AFTER) {
            self.retry_after = retry_after(value);
        }
        Ok(())
    }

    fn head(self, status: StatusCode) -> Result<Head, Broken> {
        let empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Broken::Malformed("it names a length and sends chunks")),
            (true, None) if !self.modern => return Err(Broken::Malformed("chunks in HTTP/1.0")),
            _ if empty => Framing::Length(0),
            (true, None) => Framing::Chunked(Chunks::default()),
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        };
        let keep_alive = self.modern && !self.close;
        let Self { content_type, retry_after, .. } = self;
        Ok(Head { status, content_type, retry_after, framing, keep_alive })
    }
}

/// Only digits: no sign, no list, no blank inside.
fn digits(value: &[u8]) -> Option<u64> {
    let plain = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    plain.then(|| str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// In seconds; the other form, a date, is as good as none.
fn retry_after(value: &[u8]) -> Option<Duration> {
    let seconds: f64 = str::from_utf8(value).ok()?.trim().parse().ok()?;
    let seconds = seconds.is_finite().then_some(seconds)?.clamp(1.0, RETRY_AFTER_MAX.as_secs_f64());
    Some(Duration::from_secs_f64(seconds.ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(wire: &str) -> Result<Option<Head>, Broken> {
        HeadReader::default().read(&mut BytesMut::from(wire))
    }

    #[test]
    fn only_what_is_on_the_list_goes_out() {
        let mut caller = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer mgk_caller"),
            ("cookie", "a=b"),
            ("x-stainless-lang", "js"),
            ("x-forwarded-for", "10.0.0.9"),
            ("openai-beta", "assistants=v2"),
            ("anthropic-beta", "b1"),
            ("host", "evil"),
            ("traceparent", "00-caller"),
        ] {
            caller.append(name, HeaderValue::from_static(value));
        }
        caller.append("anthropic-beta", HeaderValue::from_static("b2"));
        caller.append("anthropic-beta", HeaderValue::from_str(&"x".repeat(600)).unwrap());
        let traceparent = HeaderValue::from_static("00-ours");
        let request_id = RequestId(uuid::Uuid::nil());
        let origin = Origin { request_id, traceparent: Some(&traceparent), headers: &caller };
        let opening = opening("/v1/messages", "api.example");
        let head = String::from_utf8(request(&opening, Some("sk-1"), Presented::ApiKey, &origin, 12)).unwrap();
        let common = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: api.example\r\nuser-agent: {USER_AGENT}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\n"
        );
        let id = "x-client-request-id: 00000000-0000-0000-0000-000000000000\r\n";
        let beta = "anthropic-beta: b1\r\nanthropic-beta: b2\r\nopenai-beta: assistants=v2\r\n";
        let rest = "anthropic-version: 2023-06-01\r\ncontent-length: 12\r\n\r\n";
        assert_eq!(head, format!("{common}x-api-key: sk-1\r\n{id}traceparent: 00-ours\r\n{beta}{rest}"));

        let caller = HeaderMap::from_iter([(PASSED[0].clone(), HeaderValue::from_static("2024-01-01"))]);
        let origin = Origin { request_id, traceparent: None, headers: &caller };
        let head = String::from_utf8(request(&opening, Some("sk-1"), Presented::Bearer, &origin, 0)).unwrap();
        assert_eq!(
            head,
            format!(
                "{common}authorization: Bearer sk-1\r\n{id}anthropic-version: 2024-01-01\r\ncontent-length: 0\r\n\r\n"
            )
        );
        let head = String::from_utf8(request(&opening, None, Presented::Bearer, &origin, 0)).unwrap();
        assert!(!head.contains("authorization"), "{head}");
    }

    #[test]
    fn an_answers_head_has_one_meaning_or_none() {
        let framing = |wire: &str| {
            let head = read(&format!("{wire}\r\n\r\n")).unwrap().unwrap();
            (head.framing, head.keep_alive)
        };
        let chunked = || Framing::Chunked(Chunks::default());
        for (wire, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 12", (Framing::Length(12), true)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0012\r\nconnection: Keep-Alive, CLOSE", (Framing::Length(12), false)),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked ", (chunked(), true)),
            ("HTTP/1.1 200 OK\r\nx: y", (Framing::UntilClose, true)),
            ("HTTP/1.1 204 No", (Framing::Length(0), true)),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive", (Framing::Length(1), false)),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200\r\ncontent-length: 3",
                (Framing::Length(3), true),
            ),
        ] {
            assert_eq!(framing(wire), expected, "{wire}");
        }
        for wire in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 5",
            "HTTP/1.1 200 OK\r\ncontent-length: -5",
            "HTTP/1.1 200 OK\r\ncontent-length: +5",
            "HTTP/1.1 200 OK\r\ncontent-length: 0x5",
            "HTTP/1.1 200 OK\r\ncontent-length: ",
            "HTTP/1.1 200 OK\r\ncontent-length: 9999999999999999999999",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
            "HTTP/1.1 101 Switch\r\nupgrade: x",
            "HTTP/1.1 200 OK\r\nx: a\r\n folded: b",
            "HTTP/1.1 200 OK\r\ncontent-length : 5",
            "HTTP/1.1 200 OK\r\nx\0: y",
            "HTTP/1.1 2000 OK",
            "HTTP/2 200 OK",
            "SSH-2.0-OpenSSH",
            "",
        ] {
            assert!(matches!(read(&format!("{wire}\r\n\r\n")), Err(Broken::Malformed(_))), "{wire}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1));
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_BYTES_MAX));
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(INTERIM_MAX + 1);
        for wire in [many, long, interim] {
            assert!(matches!(read(&wire), Err(Broken::Malformed(_))), "{}", &wire[..30]);
        }
        assert!(read("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n").unwrap().is_none());
    }

    #[test]
    fn a_time_to_come_back_is_kept_within_bounds() {
        for (value, seconds) in [
            ("7", Some(7)),
            ("1.2", Some(2)),
            ("0", Some(1)),
            ("-4", Some(1)),
            ("1e9", Some(300)),
            ("NaN", None),
            ("inf", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            assert_eq!(retry_after(value.as_bytes()), seconds.map(Duration::from_secs), "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_head_in_pieces_is_the_same_head(cut in 1usize..60) {
            let wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Busy\r\nretry-after: 3\r\ncontent-length: 4\r\n\r\nbody";
            let (mut buffer, mut reader, mut found) = (BytesMut::new(), HeadReader::default(), None);
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                if found.is_none() {
                    found = reader.read(&mut buffer).unwrap();
                }
            }
            let head = found.unwrap();
            prop_assert_eq!((head.status.as_u16(), head.framing, head.retry_after), (429, Framing::Length(4), Some(Duration::from_secs(3))));
            prop_assert_eq!(&buffer[..], b"body");
        }

        #[test]
        fn any_bytes_are_a_head_or_broken_or_unfinished(bytes in proptest::collection::vec(any::<u8>(), 0..300), http in any::<bool>()) {
            let mut wire = BytesMut::from(if http { &b"HTTP/1.1 200 OK\r\n"[..] } else { b"" });
            wire.extend_from_slice(&bytes);
            let _ = HeadReader::default().read(&mut wire);
        }
    }
}
