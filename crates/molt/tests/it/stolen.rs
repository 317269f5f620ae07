//! What a thief has of a stolen Ghost Key (model calls of that bot within its cap, and nothing else) and of a stolen dump of
//! the database (nothing at all).
//! Never: a key made for the test where the real one can be stolen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use molt_store::local::Binaries;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::stack::Stack;
use crate::stack::http::{Answer, Ask};
use crate::stack::people::{PASSWORD, Person};
use crate::stack::upstream::Upstream;

/// How long a changed cap may take to be in force (the issue's own figure).
const IN_FORCE_MAX: Duration = Duration::from_secs(1);
/// Shorter words can't be keys of anything.
const WORD_BYTES_MIN: usize = 16;
/// Far below what locks an account.
const LOG_INS_TRIED: usize = 3;
/// Of the provider's account; the proxy alone has it.
const MASTER_KEY: &str = "sk-master-0123456789abcdefghij";

struct Loot {
    stack: Stack,
    person: Person,
    bot: String,
    /// The variables of the bot's own supervisor, as whoever breaks into it finds them.
    environment: BTreeMap<String, String>,
    _keys: KeyFile,
}

/// A file with the master key. It goes with the test.
struct KeyFile(PathBuf);

impl KeyFile {
    fn write() -> Self {
        let path = std::env::temp_dir().join(format!("molt-it-{}.key", uuid::Uuid::new_v4().simple()));
        std::fs::write(&path, format!("{MASTER_KEY}\n")).expect("files can be made");
        Self(path)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Loot {
    async fn take() -> Self {
        let upstream = Upstream::start(Duration::ZERO).await;
        let settings = upstream.settings();
        let keys = KeyFile::write();
        let with_key = format!("kind = \"openai\"\napi_key_file = {:?}\n", keys.0);
        // A sealed cell has no key at all; where nothing can be sealed off this is what there is to steal.
        let settings = settings.replace("kind = \"openai\"\n", &with_key) + "\n[fleet]\nseal = \"off\"\n";
        let stack = Stack::start_with(&settings).await;
        let (person, bot) = stack.with_bot("Ada").await;
        let cell = stack.cells().pop().expect("the bot runs");
        let text = std::fs::read(format!("/proc/{}/environ", cell.pid)).expect("the thief is root");
        let text = String::from_utf8_lossy(&text).into_owned();
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = text.split('\0').filter_map(pair).collect();
        Self { stack, person, bot, environment, _keys: keys }
    }

    fn key(&self) -> &str {
        &self.environment["MOLT_GHOST_KEY"]
    }

    async fn call(&self, key: &str) -> Answer {
        let body = json!({ "model": "mine/parrot", "messages": [{ "role": "user", "content": "hello" }] });
        self.stack.http.send(Ask::new("post", "/v1/chat/completions").bearer(key).json(&body)).await
    }
}

#[tokio::test]
async fn a_stolen_key_opens_only_model_calls_of_its_bot_within_its_cap() {
    let loot = Loot::take().await;
    let stack = &loot.stack;
    let before = stack.database.everything().await;
    let mut tried = 0;
    for route in stack.routes().await.into_iter().filter(|route| route.needs_login) {
        let ask = route.ask(&|_| loot.bot.clone());
        for ask in [ask.clone().bearer(loot.key()), ask.header("x-api-key", loot.key())] {
            stack.http.send(ask).await.refused(401, "unauthenticated");
            tried += 1;
        }
    }
    assert!(tried > 40, "only {tried} requests were made");
    let bearer = format!("Bearer {}", loot.key());
    let chat = stack.try_chat(&format!("/api/chat/{}", loot.bot), &[("authorization", &bearer)]).await;
    assert_eq!(chat.err().map(|(status, _)| status.as_u16()), Some(401), "the chat");
    // No way out either: the door asks for another key as well, and this cell has none.
    assert!(!loot.environment.keys().any(|name| name.contains("EGRESS")), "{:?}", loot.environment.keys());
    for second in ["", loot.key()] {
        let knock = Ask::new("get", "/v1/egress").bearer(loot.key()).header("x-molt-egress-key", second);
        let knock = knock.header("connection", "upgrade").header("upgrade", "molt-egress");
        assert_eq!(stack.http.send(knock).await.status, 407);
    }
    assert_eq!(stack.database.everything().await, before, "nothing has changed");

    let whole = loot.call(loot.key()).await;
    assert_eq!(whole.status, 200, "{}", whole.text);
    let row = format!("select count(*) from molt.usage_logs where bot_id = '{}'", loot.bot);
    stack.eventually("a row", async || (stack.database.count(&row).await == 1).then_some(())).await;
    let cap = format!("/api/bots/{}/cap", loot.bot);
    let put = |usd: &str| Ask::new("put", &cap).by(&loot.person).json(&json!({ "cap_usd": usd }));
    let spent = stack.database.count("select sum(cost_nanos) from molt.usage_logs").await;
    stack.http.send(put("0.000001")).await.ok();
    let capped = Instant::now();
    while loot.call(loot.key()).await.headers.get("x-molt-unmetered").is_none() {
        assert!(capped.elapsed() < IN_FORCE_MAX, "the cap isn't in force");
    }
    let after = stack.database.count("select sum(cost_nanos) from molt.usage_logs").await;
    for _ in 0..20 {
        let refused = loot.call(loot.key()).await;
        assert!(refused.status == 200 && refused.headers.contains_key("x-molt-unmetered"), "{}", refused.text);
    }
    assert!(spent > 0 && after >= spent, "{spent} {after}");
    let rows = stack.database.count("select count(*) from molt.usage_logs").await;
    stack.http.send(put("5")).await.ok();
    let raised = Instant::now();
    while loot.call(loot.key()).await.headers.contains_key("x-molt-unmetered") {
        assert!(raised.elapsed() < IN_FORCE_MAX, "the raised cap isn't in force");
    }
    let one_more = async || (stack.database.count("select count(*) from molt.usage_logs").await > rows).then_some(());
    stack.eventually("a row", one_more).await;
    loot.stack.finish().await;
}

#[tokio::test]
async fn a_stolen_dump_opens_nothing() {
    let loot = Loot::take().await;
    let stack = &loot.stack;
    let mut chat = stack.chat(&loot.person, &loot.bot).await;
    chat.turn("m-1", "main", "Hello.").await;
    let ticket = stack.ticket(&loot.person, &loot.bot).await;
    let program = stack.make_key(&loot.person.email).await;
    loot.call(&program).await.ok();
    let mail = json!({ "email": loot.person.email });
    let asked = stack.http.send(Ask::new("post", "/api/auth/magic-link").json(&mail)).await;
    assert_eq!(asked.status, 202, "{}", asked.text);
    // What an operator reads, and what a thief must not: the link is good when the dump is taken.
    let olga = stack.signup("Olga").await;
    stack.grant_operator(&olga.email).await;
    let link = stack.eventually("a mail", async || stack.link(&olga).await).await;

    let dump = dump(stack).await;
    assert!(dump.contains(&loot.person.email) && dump.contains("ghost_keys"), "it is a dump");
    let mut secrets: Vec<(String, String)> = loot
        .environment
        .iter()
        .filter(|(name, _)| ["KEY", "TOKEN", "SECRET"].iter().any(|word| name.contains(word)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    assert!(secrets.len() >= 2, "{:?}", loot.environment.keys());
    secrets.extend([
        ("a password".to_owned(), PASSWORD.to_owned()),
        ("a session".to_owned(), loot.person.token.clone()),
        ("a program's key".to_owned(), program),
        ("a chat ticket".to_owned(), ticket),
        ("a log-in link".to_owned(), link.clone()),
        ("the master key".to_owned(), MASTER_KEY.to_owned()),
        ("the seal key".to_owned(), stack.seal.expose_secret().to_owned()),
    ]);
    let lower = dump.to_lowercase();
    for (what, secret) in &secrets {
        let bytes = secret.as_bytes();
        for form in [secret.clone(), STANDARD.encode(bytes).trim_end_matches('=').to_owned()] {
            assert!(!dump.contains(&form), "{what} stands in the dump");
        }
        assert!(!lower.contains(&hex::encode(bytes)), "{what} stands in the dump, in hex");
    }
    assert!(!dump.contains("PRIVATE KEY") && !lower.contains(&hex::encode("PRIVATE KEY")), "a private key");
    for words in ["/link#", "link%23"] {
        assert!(!lower.contains(words) && !lower.contains(&hex::encode(words)), "a link stands in the dump");
    }
    nothing_opens(&loot, &dump).await;
    let consume = Ask::new("post", "/api/auth/magic-link/consume").json(&json!({ "token": link }));
    stack.http.send(consume.clone()).await.ok();
    let again = stack.http.send(consume).await;
    assert!((400..500).contains(&again.status), "{}", again.text);
    loot.stack.finish().await;
}

impl Stack {
    /// The token of the newest link that the built-in mailer kept, as an operator reads it.
    async fn link(&self, operator: &Person) -> Option<String> {
        let mails = self.http.send(Ask::new("get", "/api/admin/mails").by(operator)).await.ok();
        let texts = mails["items"].as_array().expect("a list").iter().filter_map(|mail| mail["text"].as_str());
        let link = texts.filter_map(|text| text.split("/link#").nth(1)).next()?;
        Some(link.split_whitespace().next().expect("a link").to_owned())
    }
}

/// All that somebody gets who may read the whole database.
async fn dump(stack: &Stack) -> String {
    let also: Vec<PathBuf> = std::env::var_os("MOLT_POSTGRES_BIN").map(PathBuf::from).into_iter().collect();
    let binaries = Binaries::find(&also, &std::env::var("PATH").unwrap_or_default());
    let found = binaries.iter().map(|of| of.folder().join("pg_dump")).find(|path| path.is_file());
    let mut command = Command::new(found.expect("pg_dump lies beside Postgres"));
    // Of what our own driver writes into an address, pg_dump knows the place of the socket.
    let mut url: url::Url = stack.database.owner_url.expose_secret().parse().expect("an address");
    let host: Vec<_> =
        url.query_pairs().filter(|(name, _)| name == "host").map(|(_, value)| value.into_owned()).collect();
    url.set_query(host.first().map(|host| format!("host={host}")).as_deref());
    command.arg("--dbname").arg(url.as_str());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Each word of the dump that could be a key is tried as one.
async fn nothing_opens(loot: &Loot, dump: &str) {
    let rows = dump.lines().skip_while(|line| !line.starts_with("COPY "));
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let words: BTreeSet<&str> = rows
        .flat_map(|line| line.split(|c: char| !is_part(c)))
        .filter(|word| word.len() >= WORD_BYTES_MIN && word.bytes().any(|byte| byte.is_ascii_digit()))
        .collect();
    assert!(words.len() > 30, "only {} words", words.len());
    for (at, word) in words.iter().enumerate() {
        for path in ["/v1/models", "/api/me"] {
            let answer = loot.stack.http.send(Ask::new("get", path).bearer(word)).await;
            assert_eq!(answer.status, 401, "{word} of the dump opens {path}: {}", answer.text);
        }
        let link = Ask::new("post", "/api/auth/magic-link/consume").json(&json!({ "token": word }));
        let answer = loot.stack.http.send(link).await;
        assert!((400..500).contains(&answer.status), "{word} of the dump is a log-in link: {}", answer.text);
        let chat = format!("/api/chat/{}?ticket={word}", loot.bot);
        assert!(loot.stack.try_chat(&chat, &[]).await.is_err(), "{word} of the dump opens the chat");
        // Log-ins are counted, so only a few of them.
        if at < LOG_INS_TRIED {
            let log_in = json!({ "email": loot.person.email, "password": word });
            let answer = loot.stack.http.send(Ask::new("post", "/api/auth/login").json(&log_in)).await;
            assert!(answer.status >= 400 && answer.json["token"] == Value::Null, "{}", answer.text);
        }
    }
    println!("{} words of the dump open nothing", words.len());
}
