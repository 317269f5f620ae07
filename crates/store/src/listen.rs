//! Wake-ups across transactions and processes: one LISTEN connection, fanned out inside.
//! Never: data in a wake-up. Whoever is woken looks at the rows; a lost wake-up costs one period, nothing else.

use std::sync::Arc;
use std::time::Duration;

use molt_model::{BotId, UserId};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;

use crate::SealRing;
use crate::seal::listener_name;

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
    /// A key, plan or cap of this person's changed: what the proxies keep of it is old. Sent by triggers.
    Admission(UserId),
    /// A call of this person's lacks money that other proxies have leased: who holds some it doesn't need gives it back.
    BudgetWanted(UserId),
    /// Money of this person's was given back: who waits for some asks again.
    BudgetFreed(UserId),
    /// Where this bot may go has changed: what the proxies keep of it is old. Sent by triggers.
    Egress(BotId),
    /// A log-in of this user ended: what it opened ends too.
    Sessions(String),
    /// A price list was imported, or a proxy has other keys: catalogues are made anew.
    Prices,
    /// The keys that seal secrets changed: they are read again, here.
    SealKeys,
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
            Self::Admission(user) => format!("admission {user}"),
            Self::BudgetWanted(user) => format!("budget-wanted {user}"),
            Self::BudgetFreed(user) => format!("budget-freed {user}"),
            Self::Egress(bot) => format!("egress {bot}"),
            Self::Sessions(user) => format!("sessions {user}"),
            Self::Prices => "prices".to_owned(),
            Self::SealKeys => "seal-keys".to_owned(),
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
            ("admission", user) => user.parse().map_or(Self::All, Self::Admission),
            ("budget-wanted", user) => user.parse().map_or(Self::All, Self::BudgetWanted),
            ("budget-freed", user) => user.parse().map_or(Self::All, Self::BudgetFreed),
            ("egress", bot) => bot.parse().map_or(Self::All, Self::Egress),
            ("sessions", user) => Self::Sessions(user.to_owned()),
            ("prices", _) => Self::Prices,
            ("seal-keys", _) => Self::SealKeys,
            _ => Self::All,
        }
    }
}

/// The fan-out. The LISTEN connection lives as long as the last clone, or until `close`.
#[derive(Clone)]
pub struct Wakeups {
    sender: broadcast::Sender<Channel>,
    task: Arc<Listening>,
}

struct Listening {
    abort: AbortHandle,
    closing: watch::Sender<bool>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl Wakeups {
    pub(crate) fn listen(options: PgConnectOptions, seal: SealRing) -> Self {
        let (sender, _) = broadcast::channel(BACKLOG_MAX);
        let (closing, asked) = watch::channel(false);
        let task = tokio::spawn(run(options, seal, sender.clone(), asked));
        Self { sender, task: Arc::new(Listening { abort: task.abort_handle(), closing }) }
    }

    /// Ends the LISTEN connection and waits until it is gone, so that a server which stops next has nothing to cut.
    pub(crate) async fn close(&self) {
        // A task that is gone already has dropped its end, and that is what this waits for.
        let _ = self.task.closing.send(true);
        self.task.closing.closed().await;
    }

    /// Every wake-up from now on. A reader that lags gets `RecvError::Lagged`: treat it as `Channel::All`.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Channel> {
        self.sender.subscribe()
    }
}

async fn run(
    options: PgConnectOptions,
    seal: SealRing,
    sender: broadcast::Sender<Channel>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        match listen_once(&options, &seal, &sender, &mut closing).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the listening connection was lost; connecting again"
            ),
        }
        tokio::select! {
            () = asked(&mut closing) => return,
            () = tokio::time::sleep(RECONNECT_PAUSE) => {}
        }
    }
}

/// Listens until it is asked to close; an error: the connection was lost.
async fn listen_once(
    options: &PgConnectOptions,
    seal: &SealRing,
    sender: &broadcast::Sender<Channel>,
    closing: &mut watch::Receiver<bool>,
) -> Result<(), sqlx::Error> {
    let pool = tokio::select! {
        () = asked(closing) => return Ok(()),
        pool = PgPoolOptions::new().max_connections(1).connect_with(options.clone()) => pool?,
    };
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("molt").await?;
    read_keys(&mut listener, seal).await?;
    // Nobody listening is fine: the period of each loop is the net.
    let _ = sender.send(Channel::All);
    loop {
        tokio::select! {
            () = asked(closing) => break,
            received = listener.try_recv() => match received? {
                Some(notification) => {
                    let channel = Channel::parse(notification.payload());
                    if channel == Channel::SealKeys {
                        read_keys(&mut listener, seal).await?;
                    }
                    drop(sender.send(channel));
                }
                // Lost, and made anew by the listener: what came in between is unknown.
                None => {
                    read_keys(&mut listener, seal).await?;
                    drop(sender.send(Channel::All));
                }
            },
        }
    }
    // The listener gives its connection back in the background; the pool waits for it.
    drop(listener);
    pool.close().await;
    Ok(())
}

/// Reads the seal keys again, and names the connection after the key that this process seals with from now on: whoever
/// retires a key looks there whether everybody has the newer one.
async fn read_keys(listener: &mut PgListener, seal: &SealRing) -> Result<(), sqlx::Error> {
    if let Err(error) = seal.reload() {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the file with the seal keys can't be used; the keys stay as they were until it can"
        );
    }
    let name = sqlx::query("select set_config('application_name', $1, false)").bind(listener_name(seal.newest()));
    name.execute(listener).await?;
    Ok(())
}

async fn asked(closing: &mut watch::Receiver<bool>) {
    // An error: the last clone is gone, which ends this task anyway.
    let _ = closing.wait_for(|closing| *closing).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::database;

    #[tokio::test]
    async fn a_closed_store_has_no_connection_left() {
        let database = database().await;
        let mut wakeups = database.store.wakeups().subscribe();
        database.execute("select pg_notify('molt', 'sessions somebody')").await;
        let open = "select count(*) from pg_stat_activity where datname = current_database() and application_name ~ '^molt( |$)'";
        // A lost notification was sent before anybody listened; then the first word is that somebody does.
        wakeups.recv().await.unwrap();
        assert!(database.count(open).await >= 2, "the pool's and the listening one");
        database.store.close().await;
        let began = std::time::Instant::now();
        while database.count(open).await > 0 {
            assert!(began.elapsed() < Duration::from_secs(10), "a connection is left");
        }
        assert_eq!(database.store.wakeups().clone().close().await, (), "twice is once");
    }

    #[test]
    fn a_channel_is_read_back_from_its_payload() {
        let channels = [
            Channel::Events("u".to_owned()),
            Channel::Chat("b".to_owned()),
            Channel::Fleet,
            Channel::Runs,
            Channel::Outbox,
            Channel::Inbox,
            Channel::Admission(UserId::random()),
            Channel::BudgetWanted(UserId::random()),
            Channel::BudgetFreed(UserId::random()),
            Channel::Egress(BotId::random()),
            Channel::Prices,
            Channel::SealKeys,
            Channel::Sessions("u".to_owned()),
            Channel::All,
        ];
        for channel in channels {
            assert_eq!(Channel::parse(&channel.payload()), channel);
        }
        assert_eq!(Channel::parse("from a newer version"), Channel::All);
    }
}
