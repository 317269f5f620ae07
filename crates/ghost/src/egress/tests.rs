//! The way out as a cell's programs meet it: curl and node through a pipe from TCP to a unix socket, hostile bytes, and a name
//! server that lies.
//! Never: a stand-in for Postgres or for the wire, or a wait for a time where there is a fact to wait for.

mod hostile;
mod names;
mod open;
mod programs;
mod world;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use molt_model::egress::{Domain, Rules};
use molt_model::{SystemClock, UserId};
use molt_store::testing::{TestDatabase, database};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::*;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// What an owner allows is in force after no more than this.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(1);

/// A name server that says what a test wants, a different thing each time if there are several.
#[derive(Default)]
struct Names {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

#[async_trait]
impl Resolve for Names {
    async fn addresses(&self, name: &Domain) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let left = answers.get_mut(name.as_str()).ok_or(io::ErrorKind::NotFound)?;
        Ok(if left.len() > 1 { left.remove(0) } else { left[0].clone() })
    }
}

/// One bot, its way out, and the pipe that its cell would have.
struct Rig {
    database: TestDatabase,
    egress: Egress,
    names: Arc<Names>,
    bot: BotId,
    /// The cell's end: TCP on the loopback.
    proxy: SocketAddr,
    folder: PathBuf,
}

impl Rig {
    /// `allow` and `private` as an operator writes them.
    async fn start(allow: &[&str], private: &[(&str, SocketAddr)]) -> Self {
        Self::start_with(allow, private, BTreeMap::new()).await
    }

    async fn start_with(allow: &[&str], private: &[(&str, SocketAddr)], skills: BTreeMap<String, Vec<Entry>>) -> Self {
        let database = database().await;
        let bot = bot(&database).await;
        // Somebody listens before the proxy does: the word that they do is not a change.
        let mut wakeups = database.store.wakeups().subscribe();
        database.execute("select pg_notify('molt', 'fleet')").await;
        wakeups.recv().await.unwrap();
        let allow: Vec<String> = allow.iter().map(|text| (*text).to_owned()).collect();
        let private = private.iter().map(|(name, address)| ((*name).to_owned(), address.to_string())).collect();
        let config = Config { rules: Rules::read(&allow, &["hub.example".to_owned()], &private).unwrap(), skills };
        let names: Arc<Names> = Arc::default();
        let resolver: Arc<dyn Resolve> = names.clone();
        let egress = Egress::start(config, database.store.clone(), Arc::new(SystemClock), resolver);
        let folder = std::env::temp_dir().join(format!("molt-egress-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let socket = folder.join("proxy.sock");
        tokio::spawn(gate(egress.clone(), bot.clone(), UnixListener::bind(&socket).unwrap()));
        let pipe = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = pipe.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut program, _)) = pipe.accept().await {
                let mut out = UnixStream::connect(&socket).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut program, &mut out).await });
            }
        });
        Self { database, egress, names, bot, proxy, folder }
    }

    fn resolve(&self, name: &str, answers: &[&[&str]]) {
        let answers = answers.iter().map(|one| one.iter().map(|text| text.parse().unwrap()).collect()).collect();
        self.names.answers.lock().unwrap().insert(name.to_owned(), answers);
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.unwrap()
    }

    /// A tunnel, or the status of the refusal.
    async fn tunnel(&self, to: &str) -> Result<TcpStream, u16> {
        let mut stream = self.connect().await;
        let head = world::ask(&mut stream, &format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n")).await;
        match world::status(&head) {
            200 => Ok(stream),
            other => Err(other),
        }
    }

    async fn owner_allows(&self, domain: &str) {
        let owner = self.database.text("select user_id from molt.bots").await.unwrap();
        let mut tx = self.database.store.tenant(UserId(owner.parse().unwrap())).await.unwrap();
        let now = SystemClock.now();
        tx.allow_domain(&self.bot, &domain.parse().unwrap(), 100, now).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn owner_takes_back(&self, domain: &str) {
        let owner = self.database.text("select user_id from molt.bots").await.unwrap();
        let mut tx = self.database.store.tenant(UserId(owner.parse().unwrap())).await.unwrap();
        let now = SystemClock.now();
        assert!(tx.take_back_domain(&self.bot, &domain.parse().unwrap(), now).await.unwrap());
        tx.commit().await.unwrap();
    }

    /// The row of refusals of this place and port, once it says so many.
    async fn refused(&self, place: &str, port: u16, count: i64) -> Value {
        let sql =
            format!("select row_to_json(r) from molt.egress_refusals r where domain = '{place}' and port = {port}");
        let until = Instant::now() + PATIENCE;
        loop {
            let row = self.database.text(&sql).await.map(|row| serde_json::from_str::<Value>(&row).unwrap());
            match row {
                Some(row) if row["count"] == count => return row,
                row => assert!(Instant::now() < until, "{place}:{port}, {count} times: {row:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Of one outcome and reason.
    fn counted(&self, outcome: &str, reason: &str) -> u64 {
        let ends = self.egress.0.counts.now().ends;
        let label = [("outcome", outcome), ("reason", reason)];
        ends.iter().find(|(labels, _)| *labels == label).expect("a label").1
    }

    async fn all_closed(&self) {
        let until = Instant::now() + PATIENCE;
        while self.egress.0.counts.now().open > 0 {
            assert!(Instant::now() < until, "a way is still open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// As the bot's gate serves it.
async fn gate(egress: Egress, bot: BotId, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let (egress, bot) = (egress.clone(), bot.clone());
        let service = service_fn(move |request| {
            let (egress, bot) = (egress.clone(), bot.clone());
            async move { Ok::<_, std::convert::Infallible>(egress.handle(&bot, request).await) }
        });
        let mut serving = http1::Builder::new();
        serving.max_buf_size(64 * 1024);
        tokio::spawn(serving.serve_connection(TokioIo::new(stream), service).with_upgrades());
    }
}

/// A person's bot.
async fn bot(database: &TestDatabase) -> BotId {
    let (user, bot) = (UserId::random(), BotId::random());
    database
        .execute(&format!(
            "insert into molt.users (id, issuer, subject, email) values ('{user}', 'test', '{user}', '{user}@example.com');
             insert into molt.bots (id, user_id, bot_name, vertical, settings, intent)
               values ('{bot}', '{user}', 'Pip', 'developer', '{{}}', 'running')"
        ))
        .await;
    bot
}
