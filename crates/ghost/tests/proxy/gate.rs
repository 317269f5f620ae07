//! A bot's gate: who comes through it is that bot, with no key and whatever key it shows; it goes and comes with its folder.
//! Never: a request that reaches the proxy by another way than the socket.

use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use molt_ghost::{Gates, GatesHeld, Ghost};
use molt_model::BotId;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::rig::{Rig, chat_body, clock, person};

const IN_FORCE_WITHIN: Duration = Duration::from_secs(1);

fn folder(rig: &Rig, bot: &BotId) -> PathBuf {
    rig.folder.join("bots").join(bot.as_str()).join("run/out")
}

fn socket(rig: &Rig, bot: &BotId) -> PathBuf {
    folder(rig, bot).join("proxy.sock")
}

/// One request by a bot's gate; status, text and the id of a metered call.
async fn ask(rig: &Rig, bot: &BotId, request: http::Request<Full<Bytes>>) -> (u16, String, Option<String>) {
    let stream = UnixStream::connect(socket(rig, bot)).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(driver);
    let response = sender.send_request(request).await.unwrap();
    let id = response.headers().get("x-molt-request-id").map(|id| id.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    driver.abort();
    (status, String::from_utf8_lossy(&text).into_owned(), id)
}

fn chat(key: Option<&str>) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::post("/v1/chat/completions").header("host", "proxy");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    request.body(Full::from(chat_body("up/ok", &json!({})).to_string())).unwrap()
}

#[tokio::test]
async fn who_comes_through_a_gate_is_its_bot() {
    let rig = Rig::start().await;
    let (other_user, other, other_key) = person(&rig.database).await;
    let gates = Gates::new(&rig.ghost, &rig.folder);
    assert_eq!(gates.run_once().unwrap(), GatesHeld::default(), "no bot has a folder here");
    std::fs::create_dir_all(folder(&rig, &rig.bot)).unwrap();
    std::fs::create_dir_all(folder(&rig, &other)).unwrap();
    assert_eq!(gates.run_once().unwrap(), GatesHeld { open: 2, opened: 2, closed: 0 });
    assert_eq!(gates.run_once().unwrap(), GatesHeld { open: 2, opened: 0, closed: 0 });
    assert_eq!(std::fs::metadata(socket(&rig, &other)).unwrap().permissions().mode() & 0o777, 0o666);

    // Without a key, with a wrong one and with somebody else's: it is this bot's call in any case.
    for key in [None, Some("placeholder"), Some(other_key.as_str())] {
        let (status, text, id) = ask(&rig, &rig.bot, chat(key)).await;
        assert_eq!(status, 200, "{text}");
        let row = rig.row_of(&id.unwrap(), Duration::from_secs(5)).await;
        assert_eq!((&row["bot_id"], &row["user_id"]), (&json!(rig.bot), &json!(rig.user)));
    }
    let (_, _, id) = ask(&rig, &other, chat(Some(&rig.key))).await;
    let row = rig.row_of(&id.unwrap(), Duration::from_secs(5)).await;
    assert_eq!((&row["bot_id"], &row["user_id"]), (&json!(other), &json!(other_user)));

    // A new key, as each start makes one: the next call is on it.
    let before = row["key_id"].clone();
    rig.rotate().await;
    let in_force = format!("select id from molt.ghost_keys where bot_id = '{}' and revoked_at is null", rig.bot);
    let new = rig.database.text(&in_force).await.unwrap();
    let until = Instant::now() + IN_FORCE_WITHIN;
    loop {
        let (_, _, id) = ask(&rig, &rig.bot, chat(None)).await;
        let row = rig.row_of(&id.unwrap(), Duration::from_secs(5)).await;
        assert_ne!(row["key_id"], before);
        if row["key_id"] == json!(new) {
            break;
        }
        assert!(Instant::now() < until, "{row}");
    }
    // The plan, a pause and a removal count as they do for a key.
    let paused = "update molt.ghost_keys set paused_at = now(), paused_reason = 'it ran in circles'";
    for (change, bot, wanted) in [
        ("update molt.billing set subscription_status = 'canceled'", &other, "no plan is in force"),
        (paused, &rig.bot, "circles"),
        ("update molt.bots set intent = 'deleted'", &rig.bot, "revoked"),
    ] {
        rig.database.execute(change).await;
        let until = Instant::now() + IN_FORCE_WITHIN;
        loop {
            let (_, text, _) = ask(&rig, bot, chat(None)).await;
            if text.contains(wanted) {
                break;
            }
            assert!(Instant::now() < until, "{change}: {text}");
        }
    }
}

#[tokio::test]
async fn a_gate_goes_with_its_folder_and_comes_back_after_a_restart() {
    let rig = Rig::start().await;
    std::fs::create_dir_all(folder(&rig, &rig.bot)).unwrap();
    // What a killed proxy leaves: a socket on which nobody listens.
    drop(UnixListener::bind(socket(&rig, &rig.bot)).unwrap());
    assert!(UnixStream::connect(socket(&rig, &rig.bot)).await.is_err());
    let gates = Gates::new(&rig.ghost, &rig.folder);
    assert_eq!(gates.run_once().unwrap().opened, 1);
    assert_eq!(ask(&rig, &rig.bot, chat(None)).await.0, 200);

    // Removed by hand, or replaced by something else: the next round puts it back.
    std::fs::remove_file(socket(&rig, &rig.bot)).unwrap();
    assert_eq!(gates.run_once().unwrap(), GatesHeld { open: 1, opened: 1, closed: 1 });
    std::fs::remove_file(socket(&rig, &rig.bot)).unwrap();
    symlink("/dev/null", socket(&rig, &rig.bot)).unwrap();
    assert_eq!(gates.run_once().unwrap(), GatesHeld { open: 1, opened: 1, closed: 1 });
    assert!(std::fs::symlink_metadata(socket(&rig, &rig.bot)).unwrap().file_type().is_socket());
    assert_eq!(ask(&rig, &rig.bot, chat(None)).await.0, 200);

    // A link in the place of the folder isn't followed.
    let elsewhere = rig.folder.join("elsewhere");
    std::fs::create_dir_all(&elsewhere).unwrap();
    let stranger = BotId::random();
    std::fs::create_dir_all(folder(&rig, &stranger).parent().unwrap()).unwrap();
    symlink(&elsewhere, folder(&rig, &stranger)).unwrap();
    assert_eq!(gates.run_once().unwrap(), GatesHeld { open: 1, opened: 0, closed: 0 });
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);

    // The next process takes the gates over.
    rig.ghost.drain().await;
    drop(gates);
    let mut config = rig.config(&rig.upstream);
    config.data_dir = rig.folder.join("the next one's");
    let ghost = Ghost::start(config, rig.database.store.clone(), clock()).unwrap();
    let gates = Gates::new(&ghost, &rig.folder);
    assert_eq!(gates.run_once().unwrap().opened, 1);
    assert_eq!(ask(&rig, &rig.bot, chat(None)).await.0, 200);

    let open = UnixStream::connect(socket(&rig, &rig.bot)).await.unwrap();
    std::fs::remove_dir_all(rig.folder.join("bots")).unwrap();
    assert_eq!(gates.run_once().unwrap(), GatesHeld { open: 0, opened: 0, closed: 1 });
    assert_eq!(end(open).await, "", "a connection on which nothing is under way ends");
}

/// What still comes until the other side closes.
async fn end(mut stream: UnixStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn a_gate_leads_to_the_proxy_only() {
    let rig = Rig::start().await;
    std::fs::create_dir_all(folder(&rig, &rig.bot)).unwrap();
    let gates = Gates::new(&rig.ghost, &rig.folder);
    gates.run_once().unwrap();
    for head in [
        "CONNECT example.invalid:443 HTTP/1.1\r\nHost: example.invalid:443\r\nConnection: close\r\n\r\n",
        "GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(socket(&rig, &rig.bot)).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(end(stream).await.starts_with("HTTP/1.1 403"), "{head}");
    }
    let request = http::Request::get("/admin").header("host", "proxy").body(Full::default()).unwrap();
    assert_eq!(ask(&rig, &rig.bot, request).await.0, 404);
    let request = http::Request::get("/v1/models").header("host", "proxy").body(Full::default()).unwrap();
    let (status, text, _) = ask(&rig, &rig.bot, request).await;
    assert!(status == 200 && text.contains("practice/practice-1"), "{text}");
}
