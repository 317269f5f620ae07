//! A provider on the loopback that does what each call's own words ask for, and keeps count of every request that it saw.
//! Never: a library between it and the wire; what is broken here is broken for real.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::plan::{Count, Plan, Surface, Wish};

const SLOW_PAUSE: Duration = Duration::from_millis(4);
const STALL: Duration = Duration::from_secs(1);
/// What a bad provider might say out of turn: whoever takes it for an answer hands it to the wrong caller.
const GARBAGE: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n\"wrong\"";

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) wish: Wish,
    pub(crate) count: Count,
    /// It was answered with an error, or not at all.
    pub(crate) refused: bool,
}

/// All that arrived, by the proxy's request id.
pub(crate) type Ledger = HashMap<Uuid, Vec<Attempt>>;

#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) port: u16,
    ledger: Arc<Mutex<Ledger>>,
    /// Answers that are being given.
    open: Arc<AtomicUsize>,
}

struct Request {
    surface: Surface,
    id: Uuid,
    wish: Wish,
    streams: bool,
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let provider = Self { port, ledger: Arc::default(), open: Arc::default() };
        let shared = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move { shared.serve(stream).await });
            }
        });
        provider
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.ledger.lock().expect("no panic").clone()
    }

    /// Answers that the proxies still listen to.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Requests one after the other, until one of both sides ends the connection.
    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let _ = stream.set_nodelay(true);
        let mut bytes = Vec::new();
        loop {
            let request = read(&mut stream, &mut bytes).await?;
            let plan = self.note(&request);
            self.open.fetch_add(1, Ordering::SeqCst);
            let answered = answer(&mut stream, &request, plan).await;
            self.open.fetch_sub(1, Ordering::SeqCst);
            answered?;
        }
    }

    /// Writes the request down; how it is answered.
    fn note(&self, request: &Request) -> Plan {
        let mut ledger = self.ledger.lock().expect("no panic");
        let attempts = ledger.entry(request.id).or_default();
        let plan = match request.wish.plan {
            Plan::FailsOnce if attempts.is_empty() => Plan::Fails,
            Plan::FailsOnce => Plan::Good,
            plan => plan,
        };
        attempts.push(Attempt {
            wish: request.wish,
            count: request.wish.count(request.surface),
            refused: plan.is_refusal(),
        });
        plan
    }
}

async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Request> {
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length: usize = header("content-length")?.parse().ok()?;
    while bytes.len() < head_end + length {
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&bytes[head_end..head_end + length]).into_owned();
    bytes.drain(..head_end + length);
    let json: Value = serde_json::from_str(&body).ok()?;
    Some(Request {
        surface: Surface::of(head.split(' ').nth(1)?)?,
        id: header("x-client-request-id")?.parse().ok()?,
        wish: Wish::read(&body)?,
        streams: json["stream"] == true,
    })
}

/// `None`: the connection is over.
async fn answer(stream: &mut TcpStream, request: &Request, plan: Plan) -> Option<()> {
    let error = |status: &str, more: &str| {
        let body = json!({ "error": { "message": "not today" } }).to_string();
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let refusal = match plan {
        Plan::Fails => error("500 Oops", ""),
        Plan::Busy => error("429 Busy", "retry-after: 1\r\n"),
        Plan::Refuses => error("400 Bad", ""),
        Plan::Closes => return None,
        _ if request.streams => return streamed(stream, request, plan).await,
        _ => return whole(stream, request, plan).await,
    };
    stream.write_all(refusal.as_bytes()).await.ok()
}

async fn whole(stream: &mut TcpStream, request: &Request, plan: Plan) -> Option<()> {
    let words = "~word ".repeat(usize::try_from(request.wish.words).expect("a few"));
    let mut body = match request.surface {
        Surface::Chat => json!({ "object": "chat.completion",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": words }, "finish_reason": "stop" }] }),
        Surface::Responses => json!({ "object": "response", "status": "completed",
            "output": [{ "type": "message", "content": [{ "type": "output_text", "text": words }] }] }),
        Surface::Messages => json!({ "type": "message", "content": [{ "type": "text", "text": words }] }),
        Surface::Embeddings => json!({ "object": "list", "data": [{ "index": 0, "embedding": [0.5, 0.25] }] }),
    };
    if plan != Plan::NoUsage {
        body["usage"] = request.wish.count(request.surface).report(request.surface);
    }
    let body = body.to_string();
    let said = match plan {
        Plan::Cut => body.len() + 50,
        Plan::LengthShort => body.len() - 40,
        _ => body.len(),
    };
    if plan == Plan::Stall {
        tokio::time::sleep(STALL).await;
    }
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {said}\r\n\r\n");
    stream.write_all(format!("{head}{body}{}", behind(plan)).as_bytes()).await.ok().filter(|()| plan != Plan::Cut)
}

/// What goes along behind the end of an answer. Later it could only be taken for the answer to the next request: HTTP/1.1
/// numbers nothing.
const fn behind(plan: Plan) -> &'static str {
    if matches!(plan, Plan::Garbage) { GARBAGE } else { "" }
}

/// The events of a stream, by what they are for.
struct Script {
    opening: Vec<String>,
    word: String,
    usage: Vec<String>,
    end: Vec<String>,
}

fn script(surface: Surface, report: Option<&Value>) -> Script {
    let plain = |data: &Value| format!("data: {data}\n\n");
    let named = |data: &Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default());
    match surface {
        Surface::Chat | Surface::Embeddings => {
            let piece = |delta: Value, reason: Value| {
                plain(&json!({ "object": "chat.completion.chunk",
                    "choices": [{ "index": 0, "delta": delta, "finish_reason": reason }] }))
            };
            let mut usage = vec![piece(json!({}), json!("stop"))];
            usage.extend(report.map(|report| plain(&json!({ "choices": [], "usage": report }))));
            let word = piece(json!({ "content": "~word " }), Value::Null);
            Script { opening: Vec::new(), word, usage, end: vec!["data: [DONE]\n\n".to_owned()] }
        }
        Surface::Responses => Script {
            opening: vec![named(&json!({ "type": "response.created", "response": { "status": "in_progress" } }))],
            word: named(&json!({ "type": "response.output_text.delta", "delta": "~word " })),
            usage: vec![named(&json!({ "type": "response.completed",
                "response": { "status": "completed", "usage": report } }))],
            end: Vec::new(),
        },
        Surface::Messages => {
            let first = report.map(|report| {
                let mut first = report.clone();
                first["output_tokens"] = json!(1);
                first
            });
            let last = report.map(|report| json!({ "output_tokens": report["output_tokens"] }));
            Script {
                opening: vec![named(
                    &json!({ "type": "message_start", "message": { "type": "message", "usage": first } }),
                )],
                word: named(&json!({ "type": "content_block_delta", "index": 0,
                    "delta": { "type": "text_delta", "text": "~word " } })),
                usage: vec![named(
                    &json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": last }),
                )],
                end: vec![named(&json!({ "type": "message_stop" }))],
            }
        }
    }
}

async fn streamed(stream: &mut TcpStream, request: &Request, plan: Plan) -> Option<()> {
    let report = request.wish.count(request.surface).report(request.surface);
    let script = script(request.surface, (plan != Plan::NoUsage).then_some(&report));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    say(stream, &script.opening).await?;
    match plan {
        Plan::Endless => return endless(stream, request.wish.words).await,
        Plan::WrongChunk => {
            stream.write_all(b"zz\r\ndata: {}\n\n\r\n").await.ok()?;
            return None;
        }
        _ => {}
    }
    let half = request.wish.words / 2;
    for word in 0..request.wish.words {
        if word == half {
            match plan {
                Plan::Cut => {
                    stream.write_all(b"ff\r\ndata: {\"cho").await.ok()?;
                    return None;
                }
                Plan::Silent => {
                    let mut nothing = Vec::new();
                    let _ = stream.read_buf(&mut nothing).await;
                    return None;
                }
                Plan::Stall => tokio::time::sleep(STALL).await,
                _ => {}
            }
        }
        say(stream, std::slice::from_ref(&script.word)).await?;
        if plan == Plan::Slow {
            tokio::time::sleep(SLOW_PAUSE).await;
        }
    }
    say(stream, &script.usage).await?;
    if plan == Plan::CutAfterUsage {
        return None;
    }
    say(stream, &script.end).await?;
    stream.write_all(format!("0\r\n\r\n{}", behind(plan)).as_bytes()).await.ok()
}

/// One event that never ends, until the connection does.
async fn endless(stream: &mut TcpStream, megabytes: u64) -> Option<()> {
    let mut megabyte = format!("{:x}\r\n", 1 << 20).into_bytes();
    megabyte.resize(megabyte.len() + (1 << 20), b'a');
    megabyte.extend_from_slice(b"\r\n");
    stream.write_all(b"6\r\ndata: \r\n").await.ok()?;
    for _ in 0..megabytes {
        stream.write_all(&megabyte).await.ok()?;
    }
    None
}

/// Events, a chunk each, in one write.
async fn say(stream: &mut TcpStream, events: &[String]) -> Option<()> {
    let chunks: String = events.iter().map(|event| format!("{:x}\r\n{event}\r\n", event.len())).collect();
    stream.write_all(chunks.as_bytes()).await.ok()
}
