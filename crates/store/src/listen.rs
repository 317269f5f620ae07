//! Wake-ups across transactions and processes: one LISTEN connection, fanned out inside.
//! Never: data in a wake-up. Whoever is woken looks at the rows; a lost wake-up costs one period, nothing else.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

/// Wake-ups that a slow reader may fall behind before it is simply told to look again.
const BACKLOG_MAX: usize = 1024;
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// What happened, in the coarsest words that are still useful. The text is the notification's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// New rows in `events` of this user.
    Events(String),
    /// New rows in `events` of this bot's chat.
    Chat(String),
    /// A bot's intent or settings changed: `fleet::reconcile` looks.
    Fleet,
    /// A message or an abort waits for a bot: the chat relay looks.
    Runs,
    /// `outbox` has a row.
    Outbox,
    /// `inbox` has a row.
    Inbox,
    /// A key, plan or cap changed: caches of the proxy look again.
    Admission,
    /// A price list was imported, or a proxy has other keys: catalogues are made anew.
    Prices,
    /// The connection was lost for a while; look at everything.
    All,
}

impl Channel {
    /// The notification's text; see `crate::notify`.
    #[must_use]
    pub fn payload(&self) -> String {
        match self {
            Self::Events(user) => format!("events {user}"),
            Self::Chat(bot) => format!("chat {bot}"),
            Self::Fleet => "fleet".to_owned(),
            Self::Runs => "runs".to_owned(),
            Self::Outbox => "outbox".to_owned(),
            Self::Inbox => "inbox".to_owned(),
            Self::Admission => "admission".to_owned(),
            Self::Prices => "prices".to_owned(),
            Self::All => "all".to_owned(),
        }
    }

    fn parse(payload: &str) -> Self {
        match payload.split_once(' ').unwrap_or((payload, "")) {
            ("events", user) => Self::Events(user.to_owned()),
            ("chat", bot) => Self::Chat(bot.to_owned()),
            ("fleet", _) => Self::Fleet,
            ("runs", _) => Self::Runs,
            ("outbox", _) => Self::Outbox,
            ("inbox", _) => Self::Inbox,
            ("admission", _) => Self::Admission,
            ("prices", _) => Self::Prices,
            _ => Self::All,
        }
    }
}

/// The fan-out. The LISTEN connection lives as long as the last clone.
#[derive(Clone)]
pub struct Wakeups {
    sender: broadcast::Sender<Channel>,
    _task: Arc<AbortOnDrop>,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Wakeups {
    pub(crate) fn listen(options: PgConnectOptions) -> Self {
        let (sender, _) = broadcast::channel(BACKLOG_MAX);
        let task = tokio::spawn(run(options, sender.clone()));
        Self { sender, _task: Arc::new(AbortOnDrop(task.abort_handle())) }
    }

    /// Every wake-up from now on. A reader that lags gets `RecvError::Lagged`: treat it as `Channel::All`.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Channel> {
        self.sender.subscribe()
    }
}

async fn run(options: PgConnectOptions, sender: broadcast::Sender<Channel>) {
    loop {
        if let Err(error) = listen_once(&options, &sender).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the listening connection was lost; connecting again"
            );
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn listen_once(options: &PgConnectOptions, sender: &broadcast::Sender<Channel>) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("molt").await?;
    // Nobody listening is fine: the period of each loop is the net.
    let _ = sender.send(Channel::All);
    while let Some(notification) = listener.try_recv().await? {
        let _ = sender.send(Channel::parse(notification.payload()));
    }
    Ok(())
}
