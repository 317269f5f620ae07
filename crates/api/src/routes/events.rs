//! Everything that changed for the caller, live, as server-sent events.
//! Never: an event left out between two others; the rows are read in the order of their ids.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use molt_model::UserId;
use molt_store::event::EventRow;
use molt_store::{Channel, StoreError};
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::chat::Relays;
use crate::lines::Kind;
use crate::problem::{Code, Problem, ProblemBody};
use crate::state::ApiState;

/// Rows read at a time; the reader's own pace decides when the next ones are read.
const BATCH_MAX: i64 = 100;
/// Proxies on the way cut a silent connection after 30 to 60 seconds.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The net under lost wake-ups.
const LOOK_PERIOD: Duration = Duration::from_secs(15);
/// A pause before the rows are asked again while the database is away, and before a client connects again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
pub(crate) const LAST_EVENT_ID: &str = "last-event-id";

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Streams what changes for the caller: one event each, with data
/// `{id, kind, bot_id, conversation, run_id, seq, body, at}`. With `Last-Event-ID` it goes on behind that event, otherwise
/// it starts now. It ends with the log-in.
#[utoipa::path(
    get, path = "/api/events", tag = "events", operation_id = "streamEvents",
    params(("Last-Event-ID" = Option<i64>, Header, description = "The id of the last event that was seen")),
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream", body = String),
        (status = "4XX", body = ProblemBody),
    ),
    security(("session" = []))
)]
async fn events(
    State(state): State<ApiState>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let asked = last_event_id(&headers)?;
    let line = state.relays.begin_line(Kind::Stream, caller.log_in()).await?;
    // Before the position is read, so that nothing can slip in between unheard.
    let wakeups = state.store.wakeups().subscribe();
    let mut tx = caller.tx(&state).await?;
    let newest = tx.newest_event_id().await?.unwrap_or_default();
    tx.commit().await?;
    let after = asked.unwrap_or(newest).min(newest);
    let reader = Reader {
        relays: state.relays.clone(),
        user: caller.user,
        channel: Channel::Events(caller.user.to_string()),
        wakeups,
        after,
        batch: VecDeque::new(),
        more: true,
        greeted: false,
    };
    let stream = futures_util::stream::unfold(reader, Reader::next).take_until(async move { line.ended().await });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| text.trim().parse().ok()).filter(|&id: &i64| id >= 0);
    id.map(Some).ok_or_else(|| {
        Problem::new(Code::InvalidHeader, "Send the id of an event in Last-Event-ID, or leave the header out.")
    })
}

struct Reader {
    relays: Relays,
    user: UserId,
    channel: Channel,
    wakeups: broadcast::Receiver<Channel>,
    after: i64,
    batch: VecDeque<EventRow>,
    /// There may be rows that weren't read.
    more: bool,
    greeted: bool,
}

impl Reader {
    /// The next event; `None` ends the stream: the person is gone, or the program closes.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if !self.greeted {
            // So that whatever buffers on the way lets the beginning of the answer through.
            self.greeted = true;
            return Some((Ok(Event::default().comment("live").retry(RETRY_PAUSE)), self));
        }
        loop {
            if let Some(row) = self.batch.pop_front() {
                self.after = row.id;
                return Some((Ok(event(&row)), self));
            }
            if self.more {
                match self.read().await {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(error) => {
                        log(self.user, &error);
                        tokio::time::sleep(RETRY_PAUSE).await;
                        continue;
                    }
                }
            }
            let closing = self.relays.closing();
            tokio::select! {
                () = closing => return None,
                alive = Self::woken(&mut self.wakeups, &self.channel) => if !alive { return None },
                () = tokio::time::sleep(LOOK_PERIOD) => {}
            }
            self.more = true;
        }
    }

    /// Reads the next rows. False: the person is gone.
    async fn read(&mut self) -> Result<bool, StoreError> {
        let mut tx = self.relays.store().tenant(self.user).await?;
        let rows = tx.events_after(self.after, BATCH_MAX).await?;
        let there = !rows.is_empty() || tx.newest_event_id().await?.is_some();
        tx.commit().await?;
        self.more = rows.len() as i64 == BATCH_MAX;
        self.batch = rows.into();
        Ok(there)
    }

    /// Waits for a wake-up that concerns this person. False: there will be none any more.
    async fn woken(wakeups: &mut broadcast::Receiver<Channel>, own: &Channel) -> bool {
        loop {
            match wakeups.recv().await {
                Ok(channel) if channel == *own || channel == Channel::All => return true,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return true,
                Err(RecvError::Closed) => return false,
            }
        }
    }
}

fn log(user: UserId, error: &StoreError) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(user.id = %user, error, "events can't be read; again soon");
}

fn event(row: &EventRow) -> Event {
    let data = json!({
        "id": row.id, "kind": row.kind, "bot_id": row.bot_id, "conversation": row.conversation, "run_id": row.run_id,
        "seq": row.seq, "body": row.body, "at": row.at,
    });
    // JSON on one line has no line breaks, which is all that an event's data may not have.
    Event::default().id(row.id.to_string()).data(data.to_string())
}
