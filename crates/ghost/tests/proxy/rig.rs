//! One proxy on a fresh database, a person with a plan, a bot with a key, and a provider.
//! Never: a shortcut past HTTP for what a caller does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use molt_ghost::{Config, Ghost, Limits, ProviderConfig, ProviderKind, Rates};
use molt_model::clock::MovedClock;
use molt_model::{BotId, Catalog, ModelFacts, Nanos, Price, PriceVersion, RunId, SystemClock, UserId};
use molt_store::ghost::BotKeys;
use molt_store::testing::{TestDatabase, database};
use molt_store::usage::UsageSummary;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::upstream::{KEY, Upstream};

/// $2 and $8 per million tokens; cached input at half a dollar.
pub(crate) const PRICE: Price = Price::flat(2_000_000_000, 8_000_000_000).with_cache_read(500_000_000);
const IN_FORCE_WITHIN: Duration = Duration::from_secs(1);
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Rig {
    pub(crate) database: TestDatabase,
    pub(crate) ghost: Ghost,
    pub(crate) upstream: Upstream,
    pub(crate) folder: PathBuf,
    pub(crate) key: String,
    pub(crate) clock: MovedClock,
    pub(crate) user: UserId,
    pub(crate) bot: BotId,
    pub(crate) base: String,
}

pub(crate) struct Call {
    method: &'static str,
    path: String,
    body: String,
    key: Option<String>,
    headers: Vec<(String, String)>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) request_id: Option<String>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) unmetered: bool,
}

impl Call {
    pub(crate) fn post(path: &str, body: Value) -> Self {
        Self { method: "POST", path: path.to_owned(), body: body.to_string(), key: None, headers: Vec::new() }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), body: String::new(), key: None, headers: Vec::new() }
    }

    pub(crate) fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// The version of the prices below.
const BOOK: &str = "book-1";

pub(crate) fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock)
}

/// What the proxy is told, also by the process that is killed.
pub(crate) fn config(upstream: &str, folder: PathBuf) -> Config {
    let model = |id: &str, embedding: bool| ModelFacts {
        id: id.to_owned(),
        name: id.to_owned(),
        price: PRICE,
        context_window: 128_000,
        output_max: 8_192,
        reasoning: false,
        vision: false,
        strengths: "Tests.".to_owned(),
        embedding,
        listed: true,
    };
    let chat = ["ok", "cut", "nousage", "lies", "broken", "flaky", "unpaid", "badrequest", "slow", "endless"];
    let mut models: Vec<ModelFacts> = chat.iter().map(|name| model(&format!("up/{name}"), false)).collect();
    models.extend([model("up/embed", true), model("down/x", false), model("other/badkey", false)]);
    models.extend([model("practice/practice-1", false), model("practice/practice-embed", true)]);
    let version = PriceVersion(BOOK.to_owned());
    let catalog = Catalog::new(version, models, "practice/practice-1".to_owned(), None);
    let openai = |name: &str, base: &str| ProviderConfig {
        name: name.to_owned(),
        kind: ProviderKind::OpenAi,
        base_url: Some(base.parse().unwrap()),
        api_keys: vec![secrecy::SecretString::from(KEY).into()],
        key_file: None,
    };
    let practice = ProviderConfig {
        name: "practice".to_owned(),
        kind: ProviderKind::Practice,
        base_url: None,
        api_keys: Vec::new(),
        key_file: None,
    };
    Config {
        // Nothing listens on port 1.
        providers: vec![
            openai("up", &format!("http://{upstream}/v1/")),
            openai("other", &format!("http://{upstream}/v1")),
            openai("down", "http://127.0.0.1:1/v1"),
            practice,
        ],
        catalog: catalog.into(),
        data_dir: folder,
        public_url: "https://molt.example".parse().unwrap(),
        monthly_cap_nanos: Nanos::dollars(50),
        limits: Limits { bot: Rates::NONE, user: Rates::NONE },
        watch: false,
        egress: molt_ghost::EgressConfig::default(),
        otlp_endpoint: None,
        practice_pace: Duration::ZERO,
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With a change to what the proxy is told.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let database = database().await;
        let upstream = Upstream::start().await;
        let (user, bot, key) = person(&database).await;
        let folder = std::env::temp_dir().join(format!("molt-ghost-{}", uuid::Uuid::new_v4()));
        let clock = MovedClock::default();
        let mut config = config(&upstream.address.to_string(), folder.clone());
        change(&mut config);
        let ghost = Ghost::start(config, database.store.clone(), Arc::new(clock.clone())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let app = molt_ghost::router(ghost.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { database, ghost, upstream, folder, key, clock, user, bot, base }
    }

    pub(crate) fn config(&self, upstream: &Upstream) -> Config {
        config(&upstream.address.to_string(), self.folder.clone())
    }

    pub(crate) async fn chat(&self, model: &str, extra: Value) -> Answer {
        self.call(Call::post("/v1/chat/completions", chat_body(model, &extra))).await
    }

    pub(crate) async fn call(&self, call: Call) -> Answer {
        let key = call.key.clone().unwrap_or_else(|| self.key.clone());
        send(&self.base, &key, call).await.expect("the proxy answers")
    }

    /// Chats until the answer says this. A change of a plan or a cap is in force within a second.
    pub(crate) async fn chat_until(&self, model: &str, said: &str) {
        let until = Instant::now() + IN_FORCE_WITHIN;
        loop {
            let answer = self.chat(model, json!({})).await;
            if answer.text.contains(said) {
                return;
            }
            assert!(Instant::now() < until, "{}", answer.text);
        }
    }

    /// Asks with the key until it opens nothing any more.
    pub(crate) async fn refused_within_a_second(&self, key: &str) {
        let until = Instant::now() + IN_FORCE_WITHIN;
        loop {
            let answer = self.call(Call::get("/v1/models").key(key)).await;
            if answer.status == 401 {
                return;
            }
            assert!(Instant::now() < until, "{answer:?}");
        }
    }

    /// Reads so many chunks and hangs up; the id of the call.
    pub(crate) async fn hang_up(&self, model: &str, extra: &Value, chunks: usize) -> String {
        let request = request(&self.base, &self.key, Call::post("/v1/chat/completions", chat_body(model, extra)));
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let mut response = client.request(request).await.unwrap();
        for _ in 0..chunks {
            response.body_mut().frame().await.unwrap().unwrap();
        }
        response.headers()["x-molt-request-id"].to_str().unwrap().to_owned()
    }

    /// The row of this answer, once it is in the books.
    pub(crate) async fn row(&self, answer: &Answer) -> Value {
        let id = answer.request_id.as_deref().unwrap_or_else(|| panic!("not metered: {answer:?}"));
        self.row_of(id, SETTLED_WITHIN).await
    }

    pub(crate) async fn row_of(&self, id: &str, within: Duration) -> Value {
        let sql = format!("select row_to_json(l) from molt.usage_logs l where id = '{id}'");
        let until = Instant::now() + within;
        loop {
            if let Some(row) = self.database.text(&sql).await {
                return serde_json::from_str(&row).unwrap();
            }
            assert!(Instant::now() < until, "no row for {id}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn event(&self, kind: &str) -> Value {
        let sql = format!("select row_to_json(e) from molt.events e where kind = '{kind}' order by id desc limit 1");
        serde_json::from_str(&self.database.text(&sql).await.expect("an event")).unwrap()
    }

    pub(crate) async fn rows(&self) -> i64 {
        self.count("select count(*) from molt.usage_logs").await
    }

    pub(crate) async fn rows_after_settling(&self, wanted: i64) -> i64 {
        let until = Instant::now() + SETTLED_WITHIN;
        while self.rows().await < wanted && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.rows().await
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.database.count(sql).await
    }

    pub(crate) async fn insert_run(&self, run: RunId, state: &str) {
        let (bot, user) = (&self.bot, self.user);
        let values = format!("('{run}', '{bot}', '{user}', 'main', 'c1', 'Hi', '{state}')");
        self.database
            .execute(&format!(
                "insert into molt.runs (id, bot_id, user_id, conversation, client_id, text, state) values {values}"
            ))
            .await;
    }

    pub(crate) async fn rotate(&self) -> String {
        self.new_keys().await.ghost.expose_secret().to_owned()
    }

    /// As at each start of the bot's cell.
    pub(crate) async fn new_keys(&self) -> BotKeys {
        self.new_keys_of(&self.bot).await
    }

    pub(crate) async fn new_keys_of(&self, bot: &BotId) -> BotKeys {
        let mut tx = self.database.store.system().await.unwrap();
        let keys = tx.rotate_bot_key(bot, chrono::Utc::now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        keys
    }

    pub(crate) async fn summary(&self) -> UsageSummary {
        let mut tx = self.database.store.tenant(self.user).await.unwrap();
        let (start, end) = tx.usage_period(chrono::Utc::now()).await.unwrap();
        tx.usage_summary(start, end).await.unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Whether only the running process has a file in the journal, and nothing stands in it but its header: all calls are in the
/// books.
pub(crate) fn journal_is_empty(folder: &Path) -> bool {
    const HEADER_BYTES: usize = 64;
    let empty = |file: std::fs::DirEntry| {
        // A file that is gone meanwhile held nothing.
        std::fs::read(file.path()).map_or(true, |bytes| bytes.iter().skip(HEADER_BYTES).all(|byte| *byte == 0))
    };
    let files: Vec<_> = std::fs::read_dir(folder.join("ghost")).unwrap().flatten().collect();
    let segments =
        files.iter().filter(|file| file.path().extension().is_some_and(|ending| ending == "journal")).count();
    segments <= 1 && files.into_iter().all(empty)
}

/// A person with a plan and a bot, and the bot's key.
pub(crate) async fn person(database: &TestDatabase) -> (UserId, BotId, String) {
    let (user, bot) = (UserId::random(), BotId::random());
    database
        .execute(&format!(
            "insert into molt.users (id, issuer, subject, email) values ('{user}', 'test', '{user}', '{user}@example.com');
             insert into molt.billing (user_id, provider, subscription_status) values ('{user}', 'local', 'active');
             insert into molt.bots (id, user_id, bot_name, vertical, settings, intent)
               values ('{bot}', '{user}', 'Pip', 'developer', '{{}}', 'running')"
        ))
        .await;
    let mut tx = database.store.system().await.unwrap();
    let (_, key) = tx.create_ghost_key(user, Some(&bot), "bot", None, chrono::Utc::now()).await.unwrap();
    // As whoever puts a catalogue in force does.
    tx.keep_price_book(BOOK, &json!({}), chrono::Utc::now()).await.unwrap();
    tx.commit().await.unwrap();
    (user, bot, key.expose_secret().to_owned())
}

pub(crate) fn chat_body(model: &str, extra: &Value) -> Value {
    let mut body =
        json!({ "model": model, "messages": [{ "role": "user", "content": "Tell me a story about trains" }] });
    for (name, value) in extra.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

fn request(base: &str, key: &str, call: Call) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::builder().method(call.method).uri(format!("{base}{}", call.path));
    request = request.header("authorization", format!("Bearer {key}")).header("content-type", "application/json");
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    request.body(Full::from(call.body)).unwrap()
}

/// One call. An error: the connection broke.
pub(crate) async fn send(base: &str, key: &str, call: Call) -> Option<Answer> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let response = client.request(request(base, key, call)).await.ok()?;
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (request_id, retry_after) =
        (header("x-molt-request-id"), header("retry-after").and_then(|text| text.parse().ok()));
    let unmetered = header("x-molt-unmetered").is_some();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some(Answer { status, text: String::from_utf8_lossy(&body).into_owned(), request_id, retry_after, unmetered })
}
