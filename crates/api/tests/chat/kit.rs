//! The stack of one test: server, database, a person with a bot, the bot's cell; and a browser.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use molt_api::{ApiState, Config, router};
use molt_billing::LocalPayments;
use molt_identity::{Local, LogIn, NewPerson, Session, SignUp};
use molt_model::clock::MovedClock;
use molt_model::{BotId, Catalog, ConversationId, PriceVersion, RunId, UserId};
use molt_store::chat::{NewMessage, Sent};
use molt_store::testing::{TestDatabase, database};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tower::ServiceExt;

use crate::cell::Cell;

pub(crate) const ORIGIN: &str = "http://127.0.0.1:8787";
const PASSWORD: &str = "correct horse battery";
const TOKEN: &str = "gateway-token-of-the-test";
/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Stack {
    pub(crate) db: TestDatabase,
    pub(crate) state: ApiState,
    pub(crate) clock: MovedClock,
    pub(crate) address: SocketAddr,
    pub(crate) ada: Person,
    pub(crate) bot: BotId,
    pub(crate) cell: Cell,
    folder: PathBuf,
}

pub(crate) struct Person {
    pub(crate) user: UserId,
    pub(crate) token: String,
    /// The refresh cookie, as a browser sends it.
    pub(crate) cookie: String,
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.state.relays.close();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

impl Stack {
    /// Ada with one bot whose cell listens.
    pub(crate) async fn start() -> Self {
        let db = database().await;
        let clock = MovedClock::default();
        let state = state(&db, &clock).await;
        let ada = sign_up(&state, "ada@example.com").await;
        let address = serve(&state).await;
        let folder = std::env::temp_dir().join(format!("molt-chat-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let cell = Cell::listen(folder.join("cell.sock"));
        let bot = BotId::random();
        let stack = Self { db, state, clock, address, ada, bot, cell, folder };
        stack.insert_bot(stack.ada.user, &stack.bot).await;
        stack.give_cell().await;
        stack
    }

    pub(crate) async fn insert_bot(&self, user: UserId, bot: &BotId) {
        let sql = format!(
            "insert into molt.bots (id, user_id, bot_name, vertical, settings, intent, observed)
             values ('{bot}', '{user}', 'Pip', 'developer', '{{}}', 'running', 'running')"
        );
        self.db.execute(&sql).await;
    }

    /// The bot's cell answers from now on.
    pub(crate) async fn give_cell(&self) {
        let sealed =
            self.state.store.seal().seal(&format!("bots.gateway_token:{}", self.bot), &TOKEN.to_owned().into());
        let (sealed, path) = (hex::encode(sealed), self.cell.path.display());
        let sql = format!(
            "update molt.bots set cell = '{{\"address\": \"unix:{path}\"}}', gateway_token = '\\x{sealed}' where id = '{}';
             select pg_notify('molt', 'fleet')",
            self.bot
        );
        self.db.execute(&sql).await;
    }

    pub(crate) async fn take_cell_away(&self) {
        self.db.execute(&format!("update molt.bots set cell = null where id = '{}'", self.bot)).await;
        self.cell.cut();
    }

    pub(crate) async fn sign_up(&self, email: &str) -> Person {
        sign_up(&self.state, email).await
    }

    /// The same person on another device.
    pub(crate) async fn log_in(&self, email: &str) -> Person {
        let person = LogIn { email: email.to_owned(), password: PASSWORD.to_owned().into(), place: String::new() };
        person_of(&self.state.local_identity.as_ref().unwrap().log_in(person).await.unwrap())
    }

    /// A request as Ada.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.ask_as(&self.ada, method, path, body).await
    }

    pub(crate) async fn ask_as(
        &self,
        who: &Person,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", who.token));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_string()))).unwrap();
        let response = router(self.state.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn ticket(&self) -> String {
        let (status, body) = self.ask(Method::POST, &format!("/api/bots/{}/chat-ticket", self.bot), None).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["ticket"].as_str().unwrap().to_owned()
    }

    /// A browser with a ticket of its own.
    pub(crate) async fn browser(&self) -> Browser {
        let ticket = self.ticket().await;
        self.open(&format!("?ticket={ticket}"), &[("origin", ORIGIN)]).await.unwrap()
    }

    pub(crate) async fn open(&self, query: &str, headers: &[(&str, &str)]) -> Result<Browser, (StatusCode, Value)> {
        open(self.address, &self.bot, query, headers).await
    }

    /// A message without a socket, so without a relay of this process.
    pub(crate) async fn write_message(&self, id: &str, text: &str) -> RunId {
        let (main, run) = (ConversationId::main(), RunId::random());
        let body = json!({"type": "message", "role": "user", "content": text, "done": true});
        let (bot, conversation) = (&self.bot, &main);
        let message = NewMessage { bot, conversation, client_id: id, text, title: text, run, body, open_max: 50 };
        let mut tx = self.db.store.tenant(self.ada.user).await.unwrap();
        assert_eq!(tx.send_message(&message, chrono::Utc::now()).await.unwrap(), Sent::Run(run));
        tx.commit().await.unwrap();
        run
    }

    pub(crate) async fn until_true(&self, sql: &str) {
        wait_for(sql, || async { self.db.text(sql).await.as_deref() == Some("true") }).await;
    }

    /// Seqs of the bot's frames, and how many ends each run has: dense, and one each.
    pub(crate) async fn assert_rows_are_sound(&self) {
        let bot = &self.bot;
        let dense = format!(
            "select count(*) = coalesce(max(seq), 0) from molt.events where bot_id = '{bot}' and seq is not null"
        );
        assert_eq!(self.db.text(&dense).await.as_deref(), Some("true"), "a seq is missing");
        let ends = format!(
            "select count(*) from (select run_id from molt.events where bot_id = '{bot}' and body ->> 'type' = 'run'
               and body ->> 'phase' in ('finished', 'failed', 'aborted') group by run_id having count(*) > 1) twice"
        );
        assert_eq!(self.db.count(&ends).await, 0, "a run ended twice");
    }
}

pub(crate) async fn state(db: &TestDatabase, clock: &MovedClock) -> ApiState {
    let store = db.second_store().await;
    let clock: Arc<MovedClock> = Arc::new(clock.clone());
    let identity = molt_identity::Config { signup: SignUp::Open, https: false, public_url: ORIGIN.to_owned() };
    let identity = Arc::new(Local::new(identity, store.clone(), clock.clone()));
    let catalog = Catalog::new(PriceVersion("test".to_owned()), Vec::new(), "practice/practice-1".to_owned(), None);
    let payments = Arc::new(LocalPayments::new(ORIGIN.to_owned()));
    let config = Config::new(ORIGIN.parse().unwrap());
    ApiState::local(store, clock, catalog.into(), identity, payments, config)
}

/// Another process of the platform on the same rows, or the first one.
pub(crate) async fn serve(state: &ApiState) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(state.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn sign_up(state: &ApiState, email: &str) -> Person {
    let person = NewPerson { email: email.to_owned(), password: PASSWORD.to_owned().into(), name: None, invite: None };
    person_of(&state.local_identity.as_ref().unwrap().sign_up(person).await.unwrap())
}

fn person_of(session: &Session) -> Person {
    let cookie = format!("molt_refresh={}", session.refresh.expose_secret());
    Person { user: session.user.id(), token: session.token.expose_secret().to_owned(), cookie }
}

/// Opens the chat's socket; a refusal with its status and body.
pub(crate) async fn open(
    address: SocketAddr,
    bot: &BotId,
    query: &str,
    headers: &[(&str, &str)],
) -> Result<Browser, (StatusCode, Value)> {
    let mut request = format!("ws://{address}/api/chat/{bot}{query}").into_client_request().unwrap();
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(Browser { socket }),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err((response.status(), serde_json::from_slice(body).unwrap_or(Value::Null)))
        }
        Err(other) => panic!("{other}"),
    }
}

pub(crate) struct Browser {
    socket: WebSocketStream<TcpStream>,
}

impl Browser {
    pub(crate) async fn tell(&mut self, frame: Value) {
        self.tell_text(&frame.to_string()).await;
    }

    pub(crate) async fn tell_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Sends what the server may cut off before it has all of it.
    pub(crate) async fn tell_until_cut_off(&mut self, text: &str) {
        let sent = self.socket.send(Message::text(text)).await;
        assert!(matches!(sent, Ok(()) | Err(Error::Io(_))), "{sent:?}");
    }

    /// The next frame; `None`: the server closed the socket.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(PATIENCE, self.receive()).await.expect("a frame in time")
    }

    /// The next frame if one comes within `wait`.
    pub(crate) async fn next_within(&mut self, wait: Duration) -> Option<Value> {
        tokio::time::timeout(wait, self.receive()).await.ok().flatten()
    }

    async fn receive(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The code and the sentence with which the server closes.
    pub(crate) async fn close_reason(&mut self) -> (u16, String) {
        let closed = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => return (frame.code.into(), frame.reason.to_string()),
                    Some(Ok(_)) => {}
                    other => panic!("no close frame but {other:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("a close in time")
    }

    /// Closes from this side; the code of the server's answer, `None`: the connection broke off without one.
    pub(crate) async fn close(mut self) -> Option<u16> {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.socket.send(Message::Close(Some(frame))).await.unwrap();
        let answered = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.expect("an answer in time")
    }

    /// All frames up to and with the first that fits.
    pub(crate) async fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("closed after {frames:#?}"));
            let last = fits(&frame);
            frames.push(frame);
            if last {
                return frames;
            }
        }
    }

    /// Sends a message and waits for its ack.
    pub(crate) async fn send(&mut self, id: &str, text: &str) -> RunId {
        self.tell(json!({"type": "send", "id": id, "text": text})).await;
        let frames = self.until(|frame| frame["type"] == "ack" && frame["id"] == id).await;
        frames.last().unwrap()["run_id"].as_str().unwrap().parse().unwrap()
    }

    /// Everything up to the end of the run.
    pub(crate) async fn until_end(&mut self, run: RunId) -> Vec<Value> {
        self.until(|frame| is_end_of(frame, run)).await
    }
}

pub(crate) fn is_end_of(frame: &Value, run: RunId) -> bool {
    frame["type"] == "run"
        && frame["run_id"] == json!(run)
        && ["finished", "failed", "aborted"].iter().any(|phase| frame["phase"] == *phase)
}

pub(crate) async fn wait_for<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let started = std::time::Instant::now();
    while !check().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
