//! Bytes that no honest program sends, from within and from outside.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::hello::{Said, read};
use super::*;

fn tls(sends_name: bool) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(world::certificate()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_sni = sends_name;
    config
}

/// A client's first bytes.
fn hello(name: &str, sends_name: bool) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(tls(sends_name)), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

async fn shake(stream: TcpStream, name: &str, sends_name: bool) -> io::Result<()> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(tls(sends_name)));
    let mut stream = connector.connect(name, stream).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    assert_eq!(world::status(&world::head(&mut stream).await), 200);
    Ok(())
}

#[tokio::test]
async fn tls_goes_through_for_the_name_that_was_allowed_and_no_other() {
    let secure = world::secure_web().await;
    let rig = Rig::start(&["secure.example"], &[("secure.example:443", secure), ("secure.example:9000", secure)]).await;
    for port in [443, 9_000] {
        let to = format!("secure.example:{port}");
        shake(rig.tunnel(&to).await.unwrap(), "secure.example", true).await.unwrap();
        let alert = shake(rig.tunnel(&to).await.unwrap(), "other.example", true).await.unwrap_err();
        assert!(port != 443 || alert.to_string().to_lowercase().contains("unrecognised"), "{alert}");
    }
    // Without a name nobody can tell whom it is for; at a port that the operator named, that is theirs to decide.
    shake(rig.tunnel("secure.example:443").await.unwrap(), "secure.example", false).await.unwrap_err();
    shake(rig.tunnel("secure.example:9000").await.unwrap(), "secure.example", false).await.unwrap();
    let mut plain = rig.tunnel("secure.example:443").await.unwrap();
    assert_eq!(world::ask(&mut plain, "GET / HTTP/1.1\r\nhost: secure.example\r\n\r\n").await, "", "no TLS at all");
    rig.all_closed().await;
    assert_eq!((rig.counted("refused", "other_name"), rig.counted("refused", "no_name")), (2, 2));
    let until = Instant::now() + PATIENCE;
    let noted = "select sum(count)::bigint from molt.egress_refusals where domain = 'secure.example'";
    while rig.database.count(noted).await != 4 {
        assert!(Instant::now() < until, "all are written down");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_hello_that_trickles_or_never_ends_is_given_up() {
    let secure = world::secure_web().await;
    let rig = Rig::start(&["secure.example"], &[("secure.example:443", secure)]).await;
    // One byte after the other is as good as all at once.
    let mut slow = rig.tunnel("secure.example:443").await.unwrap();
    slow.set_nodelay(true).unwrap();
    for byte in hello("secure.example", true) {
        slow.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(slow.read_u8().await.unwrap(), 0x16, "the server answers");
    drop(slow);
    // A record that says it goes on and on.
    let mut endless = rig.tunnel("secure.example:443").await.unwrap();
    let mut record = vec![0x16, 3, 1, 0x40, 0];
    record.extend([1, 0xff, 0xff, 0xff]);
    record.resize(5 + 0x4000, 0);
    while endless.write_all(&record).await.is_ok() {}
    // Nothing at all, and half of one: both are held for a bounded time. The clock is the test's own.
    let silent = rig.tunnel("secure.example:443").await.unwrap();
    let mut half = rig.tunnel("secure.example:443").await.unwrap();
    half.write_all(&hello("secure.example", true)[..50]).await.unwrap();
    assert!(rig.egress.0.counts.now().open >= 2);
    let began = Instant::now();
    for mut stream in [silent, half] {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "closed");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(12), "{took:?}");
    rig.all_closed().await;
}

#[tokio::test]
async fn a_tunnel_to_port_80_is_for_its_own_host() {
    let web = world::web().await;
    let rig = Rig::start(&["site.example"], &[("site.example:80", web)]).await;
    let mut stream = rig.tunnel("site.example:80").await.unwrap();
    for at in 0..3 {
        let asked = format!("GET /{at} HTTP/1.1\r\nhost: site.example\r\nconnection: x-a\r\nx-a: 1\r\nx-b: 2\r\n\r\n");
        let head = world::ask(&mut stream, &asked).await;
        assert_eq!(world::status(&head), 200, "{head}");
        assert!(!head.contains("keep-alive: timeout"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains(&format!("GET /{at} HTTP/1.1")) && body.contains("x-b: 2"), "{body}");
        assert!(!body.contains("x-a") && !body.contains("connection"), "{body}");
    }
    let other = "GET / HTTP/1.1\r\nhost: other.example\r\n\r\n";
    assert_eq!(world::status(&world::ask(&mut stream, other).await), 403);
    rig.refused("site.example", 80, 1).await;
    // Two lengths: it goes nowhere, and neither does what follows.
    let mut stream = rig.tunnel("site.example:80").await.unwrap();
    let double = "POST / HTTP/1.1\r\nhost: site.example\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n\
                  0\r\n\r\nGET /more HTTP/1.1\r\nhost: site.example\r\n\r\n";
    let head = world::ask(&mut stream, double).await;
    assert!(world::status(&head) == 400 && head.contains("connection: close"), "{head}");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("Content-Length or Transfer-Encoding") && !rest.contains("reached"), "{rest}");
    assert_eq!(rig.counted("failed", "malformed"), 1);
    let mut stream = rig.tunnel("site.example:80").await.unwrap();
    let mut endless = stream.write_all(b"GET / HTTP/1.1\r\n").await;
    while endless.is_ok() {
        endless = stream.write_all(&[b'a'; 4096]).await;
    }
    rig.all_closed().await;
}

#[tokio::test]
async fn heads_without_end_and_answers_that_break_off_hurt_nobody() {
    let never = world::says(b"HTTP/1.1 200 OK\r\nx: ").await;
    let half = world::says(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf").await;
    let nonsense = world::says(b"SSH-2.0-nonsense\r\n").await;
    let switches = world::says(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let all = [
        ("never.example:80", never),
        ("half.example:80", half),
        ("nonsense.example:80", nonsense),
        ("switches.example:80", switches),
        ("dead.example:80", dead),
        ("shell.example:22", nonsense),
    ];
    let rig = Rig::start(
        &[
            "*.example.org",
            "never.example",
            "half.example",
            "nonsense.example",
            "switches.example",
            "dead.example",
            "shell.example:22",
        ],
        &all,
    )
    .await;
    for (name, expected) in [("never", 502), ("half", 200), ("nonsense", 502), ("switches", 502), ("dead", 502)] {
        let mut stream = rig.connect().await;
        let asked = format!("GET http://{name}.example/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let head = world::ask(&mut stream, &asked).await;
        assert_eq!(world::status(&head), expected, "{name}: {head}");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(name != "half" || rest == b"half", "what came before the end is given on");
    }
    assert_eq!(rig.tunnel("dead.example:80").await.err(), Some(502));
    // Where the operator named the port the other side may speak first.
    let mut shell = rig.tunnel("shell.example:22").await.unwrap();
    let mut greeting = [0; 18];
    shell.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"SSH-2.0-nonsense\r\n");
    drop(shell);
    rig.all_closed().await;
    for wrong in
        ["CONNECT never.example HTTP/1.1", "CONNECT a@never.example:80 HTTP/1.1", "GET https://never.example/ HTTP/1.1"]
    {
        let mut stream = rig.connect().await;
        let head = world::ask(&mut stream, &format!("{wrong}\r\nhost: x\r\n\r\n")).await;
        assert_eq!(world::status(&head), 400, "{wrong}: {head}");
    }
    let mut stream = rig.connect().await;
    let head = "GET http://never.example/ HTTP/1.1\r\nx: ".to_owned() + &"a".repeat(200_000);
    // The server may close before it has read all of it.
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = world::head(&mut stream).await;
    assert!(matches!(world::status(&answer), 0 | 431), "{answer}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    /// Whatever is done to a hello, nothing panics, and however it is cut the same is heard.
    #[test]
    fn a_spoilt_hello_is_heard_as_it_is_or_not_at_all(
        name in "[a-z]{1,20}\\.example",
        spoilt in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<u8>(),
        end in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let mut bytes = hello(&name, true);
        for (at, byte) in spoilt {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(end.index(bytes.len()));
        }
        bytes.insert(0, cut);
        fuzzing::client_hello(&bytes);
    }
}

#[tokio::test]
async fn the_name_of_a_hello_is_heard() {
    for (bytes, expected) in [
        (hello("Secure.EXAMPLE", true), Said::Tls(Some("secure.example".to_owned()))),
        (hello("secure.example", false), Said::Tls(None)),
        (b"GET / HTTP/1.1\r\n".to_vec(), Said::NotTls),
        (vec![0x16; 100], Said::Broken),
    ] {
        let (said, read) = read(&mut bytes.as_slice()).await.unwrap();
        assert_eq!((said, read), (expected, bytes));
    }
    assert!(read(&mut &hello("secure.example", true)[..40]).await.is_err());
}
