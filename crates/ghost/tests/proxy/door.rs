//! The door: a cell's own forwarder, over TLS, to the real proxy, and from there to servers of the test's own. And who is not
//! let in: whoever lacks one of the two keys.
//! Never: a request that passes the cell's forwarder by, where it is the cell that asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use molt_cell::environment::ProxyAddress;
use molt_cell::outlet::{self, Way};
use molt_cell::proxy::Proxy;
use molt_cell::tls::Tls;
use molt_ghost::{EgressConfig, Listeners, Server};
use molt_model::egress::Rules;
use molt_store::ghost::BotKeys;
use rcgen::{CertificateParams, KeyPair};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::rig::{Call, Rig, person};

/// What a revoked key still opens is closed after no more than this.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections of one bot at the door.
const DOORS_OF_BOT_MAX: usize = 128;

/// A name, what shows that it is that name, and who believes it.
struct Identity {
    acceptor: TlsAcceptor,
    roots: RootCertStore,
}

impl Identity {
    fn of(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), roots }
    }
}

/// What opens TLS before the proxy, as a router at its edge does.
async fn edge(identity: &Identity, proxy: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, acceptor) = (listener.local_addr().unwrap(), identity.acceptor.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(proxy).await.unwrap();
                copy_bidirectional(&mut outside, &mut inside).await.ok();
            });
        }
    });
    address
}

/// Servers in the world: one that speaks HTTP, one that speaks it over TLS, one that gives back what it gets. They count.
struct World {
    plain: SocketAddr,
    secure: SocketAddr,
    echo: SocketAddr,
    roots: RootCertStore,
    reached: Arc<AtomicUsize>,
}

impl World {
    async fn start() -> Self {
        let (identity, reached) = (Identity::of("secure.example"), Arc::new(AtomicUsize::new(0)));
        let listen = async || {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            (listener.local_addr().unwrap(), listener)
        };
        let ((plain, http), (secure, https), (echo, bytes)) = (listen().await, listen().await, listen().await);
        let (counts, acceptor) = (reached.clone(), identity.acceptor);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Ok((stream, _)) = http.accept() => drop(tokio::spawn(answer(stream))),
                    Ok((stream, _)) = https.accept() => {
                        let acceptor = acceptor.clone();
                        tokio::spawn(async move {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                answer(stream).await;
                            }
                        });
                    }
                    Ok((mut stream, _)) = bytes.accept() => {
                        tokio::spawn(async move {
                            let (mut from, mut to) = stream.split();
                            tokio::io::copy(&mut from, &mut to).await.ok();
                        });
                    }
                }
                counts.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { plain, secure, echo, roots: identity.roots, reached }
    }

    fn rules(&self) -> Rules {
        let allow = ["listed.example", "secure.example", "echo.example:7000"].map(str::to_owned);
        let private = [
            ("listed.example:80", self.plain),
            ("other.example:80", self.plain),
            ("secure.example:443", self.secure),
            ("echo.example:7000", self.echo),
        ];
        let private = private.into_iter().map(|(name, address)| (name.to_owned(), address.to_string())).collect();
        Rules::read(&allow, &[], &private).unwrap()
    }
}

async fn answer(mut stream: impl AsyncRead + tokio::io::AsyncWrite + Unpin) {
    while !head(&mut stream).await.is_empty() {
        let said = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\ncame-through";
        if stream.write_all(said).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// Reads to the end of a head, or of everything.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

/// Of an answer's head; 0: there is none.
fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

struct Stage {
    rig: Rig,
    world: World,
    /// The proxy by itself, without TLS.
    proxy: SocketAddr,
    keys: BotKeys,
    server: Option<Server>,
}

impl Stage {
    async fn set() -> Self {
        let world = World::start().await;
        let rules = world.rules();
        let rig = Rig::start_with(|config| config.egress = EgressConfig { rules, ..EgressConfig::default() }).await;
        let listeners = Listeners::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let proxy = listeners.address();
        let server = Some(Server::start(&rig.ghost, listeners).unwrap());
        let keys = rig.new_keys().await;
        Self { rig, world, proxy, keys, server }
    }

    fn way(&self) -> Way {
        Way::Door { ghost_key: self.keys.ghost.clone(), egress_key: self.keys.egress.clone() }
    }

    /// The cell's forwarder, with the proxy behind TLS; where the runtime finds it.
    async fn cell(&self, proxy: SocketAddr) -> SocketAddr {
        let identity = Identity::of("proxy.example");
        let authority = edge(&identity, proxy).await.to_string();
        let address = ProxyAddress::Tls { authority, name: "proxy.example".to_owned(), prefix: "/v1".to_owned() };
        let tls = Tls::trusting("proxy.example", identity.roots).unwrap();
        let proxy = Proxy::new(address, None).unwrap().trusting(tls);
        SocketAddr::from(([127, 0, 0, 1], outlet::start(proxy, self.way()).await.unwrap()))
    }

    /// The door as somebody knocks who has these headers; the connection, and the answer.
    async fn knock(&self, headers: &[(&str, &str)]) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        let mut request = "GET /v1/egress HTTP/1.1\r\nhost: proxy\r\nconnection: upgrade\r\n".to_owned();
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        let answer = ask(&mut stream, &(request + "\r\n")).await;
        let said = body(&mut stream, &answer).await;
        (stream, answer + &said)
    }

    async fn knock_with(&self, keys: &BotKeys) -> (TcpStream, String) {
        self.knock_by(keys.ghost.expose_secret(), keys.egress.expose_secret()).await
    }

    async fn knock_by(&self, ghost: &str, egress: &str) -> (TcpStream, String) {
        let bearer = format!("Bearer {ghost}");
        self.knock(&[("authorization", &bearer), ("x-molt-egress-key", egress), ("upgrade", "molt-egress")]).await
    }

    /// By both keys.
    async fn let_in(&self) -> (TcpStream, String) {
        self.knock_with(&self.keys).await
    }

    async fn refused(&self, place: &str) -> Value {
        let sql = format!("select row_to_json(r) from molt.egress_refusals r where domain = '{place}'");
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(row) = self.rig.database.text(&sql).await {
                return serde_json::from_str(&row).unwrap();
            }
            assert!(Instant::now() < until, "{place} is not written down");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn reached(&self) -> usize {
        self.world.reached.load(Ordering::SeqCst)
    }

    async fn close(mut self) {
        self.server.take().unwrap().stop().await;
    }
}

async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    head(stream).await
}

/// An answer with its body, which has a length.
async fn whole(stream: &mut TcpStream, request: &str) -> (u16, String) {
    let head = ask(stream, request).await;
    (status(&head), body(stream, &head).await)
}

/// What belongs to this head.
async fn body(stream: &mut TcpStream, head: &str) -> String {
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.unwrap();
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn a_cell_without_a_socket_reaches_what_is_listed_and_nothing_else() {
    let stage = Stage::set().await;
    let pages = stage.rig.base.strip_prefix("http://").unwrap().parse().unwrap();
    for proxy in [stage.proxy, pages] {
        reaches_what_is_listed(&stage, stage.cell(proxy).await).await;
    }
    // The proxy's books know nothing of all this, and no model was called.
    assert_eq!(stage.rig.rows().await, 0);
    assert!(stage.rig.ghost.metrics().contains("egress_requests_total{outcome=\"refused\",reason=\"address\"} 4\n"));
    stage.close().await;
}

async fn reaches_what_is_listed(stage: &Stage, cell: SocketAddr) {
    let connect = async || TcpStream::connect(cell).await.unwrap();
    // Requests in full, one after the other on one connection.
    let mut stream = connect().await;
    for _ in 0..2 {
        let get = "GET http://listed.example/ HTTP/1.1\r\nhost: listed.example\r\n\r\n";
        assert_eq!(whole(&mut stream, get).await, (200, "came-through".to_owned()));
    }
    // TLS from end to end, in a tunnel through the cell's own TLS.
    let mut tunnel = connect().await;
    let opened = ask(&mut tunnel, "CONNECT secure.example:443 HTTP/1.1\r\nhost: secure.example:443\r\n\r\n").await;
    assert_eq!(status(&opened), 200, "{opened}");
    let secure = Tls::trusting("secure.example", stage.world.roots.clone()).unwrap();
    let mut secure = secure.connect(tunnel).await.unwrap();
    secure.write_all(b"GET / HTTP/1.1\r\nhost: secure.example\r\n\r\n").await.unwrap();
    assert_eq!(status(&head(&mut secure).await), 200);

    let before = stage.reached();
    let (code, said) =
        whole(&mut connect().await, "GET http://other.example/ HTTP/1.1\r\nhost: other.example\r\n\r\n").await;
    assert!(code == 403 && said.contains("may not reach other.example"), "{code} {said}");
    let row = stage.refused("other.example").await;
    assert_eq!((row["reason"].as_str(), row["bot_id"].as_str()), (Some("not_listed"), Some(stage.rig.bot.as_str())));
    for inside in ["169.254.169.254:80".to_owned(), stage.proxy.to_string()] {
        let tunnel = format!("CONNECT {inside} HTTP/1.1\r\nhost: {inside}\r\n\r\n");
        let (code, said) = whole(&mut connect().await, &tunnel).await;
        assert!(code == 403 && said.contains("ask for a domain name"), "{inside}: {code} {said}");
    }
    stage.refused("169.254.169.254").await;
    // No way to a model, and none for TLS to another name than the tunnel's.
    let model = "POST /v1/chat/completions HTTP/1.1\r\nhost: proxy\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(whole(&mut connect().await, model).await.0, 400);
    let mut tunnel = connect().await;
    ask(&mut tunnel, "CONNECT secure.example:443 HTTP/1.1\r\nhost: secure.example:443\r\n\r\n").await;
    let other = Tls::trusting("other.example", stage.world.roots.clone()).unwrap();
    assert!(other.connect(tunnel).await.is_err());
    // That tunnel's connection was made; no byte of the cell's went out on it.
    assert!(stage.reached() <= before + 1);
}

#[tokio::test]
async fn one_key_or_a_wrong_one_opens_nothing() {
    let stage = Stage::set().await;
    let (_, other_bot, other_key) = person(&stage.rig.database).await;
    let other = stage.rig.new_keys_of(&other_bot).await;
    let mut tx = stage.rig.database.store.system().await.unwrap();
    let (_, program) = tx.create_ghost_key(stage.rig.user, None, "laptop", None, chrono::Utc::now()).await.unwrap();
    tx.commit().await.unwrap();
    let (ghost, egress) = (stage.keys.ghost.expose_secret(), stage.keys.egress.expose_secret());
    let unknown = format!("mek_{}", "0".repeat(64));
    let strange = format!("mgk_{}", "0".repeat(64));
    for (first, second) in [
        ("", ""),
        (ghost, ""),
        ("", egress),
        (ghost, ghost),
        (egress, egress),
        (egress, ghost),
        (ghost, unknown.as_str()),
        (strange.as_str(), egress),
        (ghost, other.egress.expose_secret()),
        (other.ghost.expose_secret(), egress),
        (other_key.as_str(), other.egress.expose_secret()),
        (program.expose_secret(), egress),
    ] {
        let (mut stream, answer) = stage.knock_by(first, second).await;
        assert_eq!(status(&answer), 407, "{first} {second}: {answer}");
        assert!(answer.contains("proxy-authenticate: Bearer"), "{answer}");
        for word in [ghost, egress, "credit", "billing"] {
            assert!(!answer.contains(word), "{answer}");
        }
        // Nothing is behind it but the proxy as everybody sees it.
        let tunnel = ask(&mut stream, "CONNECT listed.example:80 HTTP/1.1\r\nhost: listed.example:80\r\n\r\n").await;
        assert_eq!(status(&tunnel), 404, "{tunnel}");
    }
    // What other proxies take is no way around it, and the second key opens no model.
    for scheme in ["authorization", "proxy-authorization"] {
        for key in [ghost, egress] {
            let mut stream = TcpStream::connect(stage.proxy).await.unwrap();
            let request = format!("CONNECT secure.example:443 HTTP/1.1\r\nhost: x\r\n{scheme}: Bearer {key}\r\n\r\n");
            let answer = ask(&mut stream, &request).await;
            assert!((400..500).contains(&status(&answer)), "{answer}");
        }
    }
    assert_eq!(stage.rig.call(Call::get("/v1/models").key(egress)).await.status, 401);
    // Both keys, without the wish to change the protocol.
    let bearer = format!("Bearer {ghost}");
    let (_, answer) = stage.knock(&[("authorization", &bearer), ("x-molt-egress-key", egress)]).await;
    assert_eq!(status(&answer), 400, "{answer}");
    assert_eq!(stage.reached(), 0);
    let dump =
        stage.rig.database.text("select string_agg(row_to_json(k)::text, '') from molt.ghost_keys k").await.unwrap();
    assert!(!dump.contains(&egress["mek_".len()..]), "it rests as a hash");
    assert!(stage.rig.ghost.metrics().contains("egress_requests_total{outcome=\"failed\",reason=\"no_key\"} 12\n"));
    stage.close().await;
}

#[tokio::test]
async fn with_its_key_a_way_ends_within_a_second() {
    let mut stage = Stage::set().await;
    let cell = stage.cell(stage.proxy).await;
    let mut tunnel = TcpStream::connect(cell).await.unwrap();
    ask(&mut tunnel, "CONNECT echo.example:7000 HTTP/1.1\r\nhost: echo.example:7000\r\n\r\n").await;
    let mut kept = TcpStream::connect(cell).await.unwrap();
    let get = "GET http://listed.example/ HTTP/1.1\r\nhost: listed.example\r\n\r\n";
    assert_eq!(whole(&mut kept, get).await.0, 200);
    let mut said = [0; 5];
    tunnel.write_all(b"hello").await.unwrap();
    tunnel.read_exact(&mut said).await.unwrap();

    // Another change to the bot's list lets what is open be.
    stage.rig.database.execute(&format!("select pg_notify('molt', 'egress {}')", stage.rig.bot)).await;
    tunnel.write_all(b"again").await.unwrap();
    tunnel.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"again");

    // The cell is started anew, and this one is not.
    let old = std::mem::replace(&mut stage.keys, stage.rig.new_keys().await);
    let began = Instant::now();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(IN_FORCE_WITHIN, tunnel.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.is_empty(), "a tunnel outlived its key");
    let (code, _) = whole(&mut kept, get).await;
    assert!(code == 407 && began.elapsed() < IN_FORCE_WITHIN, "{code}");
    let (_, answer) = stage.knock_with(&old).await;
    assert_eq!(status(&answer), 407, "{answer}");
    let (_, answer) = stage.let_in().await;
    assert_eq!(status(&answer), 101, "{answer}");

    // The bot goes: so does its way.
    let mut tunnel = TcpStream::connect(stage.cell(stage.proxy).await).await.unwrap();
    let opened = ask(&mut tunnel, "CONNECT echo.example:7000 HTTP/1.1\r\nhost: echo.example:7000\r\n\r\n").await;
    assert_eq!(status(&opened), 200, "{opened}");
    stage.rig.database.execute("update molt.bots set intent = 'deleted'").await;
    let ended = tokio::time::timeout(IN_FORCE_WITHIN, tunnel.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a tunnel outlived its bot");
    stage.close().await;
}

#[tokio::test]
async fn one_bot_holds_so_many_connections_and_gets_them_back() {
    let stage = Stage::set().await;
    let mut held = Vec::new();
    for _ in 0..DOORS_OF_BOT_MAX {
        let (stream, answer) = stage.let_in().await;
        assert_eq!(status(&answer), 101, "{answer}");
        held.push(stream);
    }
    let (_, answer) = stage.let_in().await;
    assert_eq!(status(&answer), 503, "{answer}");
    // A tunnel holds its place, too.
    let mut tunnel = held.pop().unwrap();
    ask(&mut tunnel, "CONNECT echo.example:7000 HTTP/1.1\r\nhost: echo.example:7000\r\n\r\n").await;
    assert_eq!(status(&stage.let_in().await.1), 503);
    // Somebody else's places are their own.
    let (_, other, _) = person(&stage.rig.database).await;
    let (_kept, answer) = stage.knock_with(&stage.rig.new_keys_of(&other).await).await;
    assert_eq!(status(&answer), 101, "{answer}");
    drop((tunnel, held));
    let until = Instant::now() + PATIENCE;
    while status(&stage.let_in().await.1) != 101 {
        assert!(Instant::now() < until, "no place came back");
    }
    // A shutdown waits for nobody who is idle.
    let (mut idle, _) = stage.let_in().await;
    let began = Instant::now();
    stage.rig.ghost.drain().await;
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(began.elapsed() < PATIENCE);
    stage.close().await;
}
