//! Every request of the Fly host and every answer of its simulator, held against the contract by Prism, which knows neither.
//! Never: a pass that nobody checked. What Prism objects to is collected, and it is shown that it does object.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use molt_fleet::{Ensured, FlyHost, Host};
use molt_model::BotId;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::fly_faults::{settings, spec};
use crate::fly_simulator::{Fault, ORG, Simulator, TOKEN};

/// Prism takes 14 s on a busy machine.
const READY_MAX: Duration = Duration::from_secs(120);
/// The one route that the contract lacks.
const EXEMPT: &str = "/v1/orgs/";
/// Prism says so wherever it objects.
const OBJECTION: &str = "stoplight.io/prism/errors";

struct Prism(Child);

impl Drop for Prism {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// `None`: it isn't installed, which only a developer may leave so.
async fn prism(upstream: SocketAddr) -> Option<(Prism, SocketAddr)> {
    let program = root().join("e2e/node_modules/.bin/prism");
    if !program.exists() {
        println!("skipped: {} is missing; `npm ci --ignore-scripts` in e2e/ brings it", program.display());
        assert!(std::env::var_os("CI").is_none(), "nothing may be skipped here");
        return None;
    }
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let child = Command::new(program)
        .arg("proxy")
        .arg(root().join("infrastructure/contracts/fly-machines.derived-2026-08.json"))
        .arg(format!("http://{upstream}"))
        .args(["--errors", "--host", "127.0.0.1", "--port", &address.port().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let prism = Prism(child);
    let began = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        assert!(began.elapsed() < READY_MAX, "Prism does not listen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("Prism listens after {:?}", began.elapsed());
    Some((prism, address))
}

/// Passes on what comes, and notes what Prism objected to.
struct Front {
    prism: SocketAddr,
    simulator: SocketAddr,
    checked: Mutex<u32>,
    objections: Mutex<Vec<String>>,
}

impl Front {
    async fn listen(self: Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let front = self.clone();
                let service = service_fn(move |request| front.clone().pass(request));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        address
    }

    async fn pass(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let what = format!("{} {}", parts.method, parts.uri);
        let exempt = parts.uri.path().starts_with(EXEMPT);
        let body = body.collect().await?.to_bytes();
        let to = if exempt { self.simulator } else { self.prism };
        let response = send(to, Request::from_parts(parts, Full::from(body))).await;
        if !exempt {
            *self.checked.lock().unwrap() += 1;
            let text = String::from_utf8_lossy(response.body()).into_owned();
            if text.contains(OBJECTION) {
                println!("{what}: {text}");
                self.objections.lock().unwrap().push(format!("{what}: {text}"));
            }
        }
        Ok(response.map(Full::from))
    }
}

async fn send(to: SocketAddr, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(driver);
    let (mut parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    driver.abort();
    parts.headers.remove("transfer-encoding");
    parts.headers.remove("content-length");
    Response::from_parts(parts, body)
}

async fn ask(to: SocketAddr, method: &str, path: &str, body: Option<Value>) -> Response<Bytes> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "fly")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json");
    let body = body.map_or_else(Full::default, |body| Full::from(body.to_string()));
    send(to, request.body(body).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn contract() {
    let simulator = Simulator::new().await;
    let Some((_prism, prism)) = prism(simulator.address).await else { return };
    let front = Arc::new(Front {
        prism,
        simulator: simulator.address,
        checked: Mutex::default(),
        objections: Mutex::default(),
    });
    let url = format!("http://{}", front.clone().listen().await);
    a_life(&FlyHost::new(settings(url)).unwrap(), &simulator).await;
    let objections = front.objections.lock().unwrap().clone();
    assert!(objections.is_empty(), "{objections:#?}");
    let checked = *front.checked.lock().unwrap();
    println!("{checked} requests and answers were held against the contract");
    assert!(checked > 40, "{checked}");

    // It does object: to a field that Fly doesn't know, to a wait that is too long, and to a wrong answer.
    let app = json!({ "org_slug": ORG, "name": "molt-x", "colour": "red" });
    assert_eq!(ask(prism, "POST", "/v1/apps", Some(app)).await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let long = ask(prism, "GET", "/v1/apps/a/machines/b/wait?state=started&timeout=120", None).await;
    assert_eq!(long.status(), StatusCode::UNPROCESSABLE_ENTITY);
    simulator.state().plan("GET", "/v1/apps/a", Fault::Lie, 1);
    let lie = ask(prism, "GET", "/v1/apps/a", None).await;
    assert!(lie.status().is_server_error(), "{}", lie.status());
    assert!(String::from_utf8_lossy(lie.body()).contains(OBJECTION));
}

/// Everything that the host ever asks.
async fn a_life(host: &FlyHost, simulator: &Simulator) {
    let bot = BotId::random();
    simulator.state().full_for_volumes.insert("fra".into());
    simulator.state().full_for_machines.insert("ams".into());
    assert_eq!(host.ensure(&spec(&bot, 1)).await.unwrap(), Ensured::Started);
    assert_eq!(host.ensure(&spec(&bot, 1)).await.unwrap(), Ensured::AlreadyThere);
    host.inspect(&bot).await.unwrap();
    host.list().await.unwrap();
    host.stop(&bot, false).await.unwrap();
    assert_eq!(host.ensure(&spec(&bot, 2)).await.unwrap(), Ensured::Started);
    let app = simulator.app().name;
    simulator.destroy_machine(&app);
    tokio::time::timeout(Duration::from_secs(20), host.gone(&bot)).await.unwrap();
    assert_eq!(host.ensure(&spec(&bot, 3)).await.unwrap(), Ensured::Started);
    host.stop(&bot, true).await.unwrap();
    assert!(host.list().await.unwrap().is_empty());

    // A place made ahead, taken away, made again, and started in where there is room for it.
    let (ahead, bot) = (host.prepares().unwrap(), BotId::random());
    ahead.prepare(&bot).await.unwrap();
    ahead.withdraw(&bot).await.unwrap();
    ahead.prepare(&bot).await.unwrap();
    simulator.state().full_for_machines.insert("cdg".into());
    simulator.state().full_for_machines.remove("ams");
    assert_eq!(host.ensure(&spec(&bot, 1)).await.unwrap(), Ensured::Started);
    host.stop(&bot, true).await.unwrap();
}
