//! The way into a chat: a ticket for browsers, and the WebSocket itself.
//! Never: a socket for a page of a foreign origin, a ticket that is good twice, or a token in an address.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use chrono::TimeDelta;
use http::HeaderMap;
use http::header::ORIGIN;
use molt_model::{BotId, Time, UserId};
use molt_store::sessions::LogIn;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::chat::person::Person;
use crate::chat::socket::{FRAME_BYTES_MAX, Session};
use crate::extract::{BotPath, Query};
use crate::lines::Kind;
use crate::problem::{Code, Problem, ProblemBody};
use crate::state::ApiState;

const TICKET_BYTES: usize = 32;
/// A page opens its socket right after it got the ticket.
const TICKET_SECONDS: i64 = 30;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(ticket)).routes(routes!(socket))
}

/// Good for one socket of this person and this bot.
#[derive(Serialize, ToSchema)]
struct Ticket {
    ticket: String,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Time,
}

/// Gets a ticket for the chat's WebSocket: good once, for 30 seconds, for the caller and this bot.
#[utoipa::path(
    post, path = "/api/bots/{id}/chat-ticket", tag = "chat", operation_id = "createChatTicket",
    params(("id" = String, Path, description = "The bot's id")),
    responses((status = 200, body = Ticket), (status = "4XX", body = ProblemBody)),
    security(("session" = []))
)]
async fn ticket(
    State(state): State<ApiState>,
    caller: Caller,
    BotPath(bot): BotPath,
) -> Result<axum::Json<Ticket>, Problem> {
    let mut bytes = [0u8; TICKET_BYTES];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    let ticket = hex::encode(bytes);
    let expires_at = state.now() + TimeDelta::seconds(TICKET_SECONDS);
    let mut tx = caller.tx(&state).await?;
    if !tx.insert_chat_ticket(&hash(&ticket), &bot, caller.session, expires_at).await? {
        return Err(Problem::bot_not_found());
    }
    tx.commit().await?;
    Ok(axum::Json(Ticket { ticket, expires_at }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SocketQuery {
    ticket: Option<String>,
}

/// The chat with a bot, as a WebSocket of JSON text frames.
///
/// To the server: `send {id, conversation?, text}`, `abort {run_id}`, `approve {approval_id, decision}`,
/// `history {conversation?, limit?, before?}`, `resume {after}`; each with its name as `type`.
/// From the server: `ack {id, run_id}`, `history {conversation, items, more}`, `error {code, message, id?}`, and the events
/// of runs: `message`, `thinking`, `tool_call`, `tool_result`, `memory_access`, `approval`, `usage`, `run`; finished ones
/// with a `seq`. A text that is being written comes as `delta` with `done: false`; `content` with `done: false` is all of
/// it so far and replaces what was shown.
#[utoipa::path(
    get, path = "/api/chat/{id}", tag = "chat", operation_id = "openChat",
    params(
        ("id" = String, Path, description = "The bot's id"),
        ("ticket" = Option<String>, Query, description = "A ticket; a program may send its session token as a header instead"),
    ),
    responses((status = 101, description = "The socket is open"), (status = "4XX", body = ProblemBody)),
    security(("session" = []), ())
)]
async fn socket(
    State(state): State<ApiState>,
    BotPath(bot): BotPath,
    Query(query): Query<SocketQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    check_origin(&state, &headers)?;
    let upgrade = upgrade.map_err(|_| {
        let detail = "Open this address as a WebSocket (ws:// or wss://, with the headers of an upgrade).";
        Problem::new(Code::InvalidHeader, detail)
    });
    let (log_in, upgrade) = match query.ticket {
        Some(ticket) => {
            // Only a socket uses the ticket up.
            let upgrade = upgrade?;
            (redeem(&state, &bot, &ticket).await?, upgrade)
        }
        None => {
            let caller = Caller::authenticate(&state, &headers).await?;
            own(&state, caller.user, &bot).await?;
            (caller.log_in(), upgrade?)
        }
    };
    let relays = state.relays.clone();
    let line = relays.begin_line(Kind::Socket, log_in).await?;
    let (hub, place) = relays.attach(&bot).await?.ok_or_else(Problem::bot_not_found)?;
    let person = Person { relays, user: log_in.user, bot, hub };
    let upgrade = upgrade.max_message_size(FRAME_BYTES_MAX).max_frame_size(FRAME_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| Session::new(socket, person, place).run(line)))
}

fn check_origin(state: &ApiState, headers: &HeaderMap) -> Result<(), Problem> {
    let mut origins = headers.get_all(ORIGIN).iter();
    if origins.all(|origin| origin.to_str().is_ok_and(|origin| state.config.allows_origin(origin))) {
        return Ok(());
    }
    let detail = "Pages of this origin may not open the chat. Open the app at this installation's own address, or ask the \
                  operator to add the origin to the setting `origins`.";
    Err(Problem::new(Code::OriginNotAllowed, detail))
}

async fn redeem(state: &ApiState, bot: &BotId, ticket: &str) -> Result<LogIn, Problem> {
    let mut tx = state.store.system().await?;
    let log_in = tx.redeem_chat_ticket(&hash(ticket), bot, state.now()).await?;
    tx.commit().await?;
    log_in.ok_or_else(|| {
        let detail =
            "A ticket is good once, for 30 seconds and for one bot; get a new one at POST /api/bots/{id}/chat-ticket.";
        Problem::new(Code::TicketInvalid, detail)
    })
}

async fn own(state: &ApiState, user: UserId, bot: &BotId) -> Result<(), Problem> {
    let mut tx = state.store.tenant(user).await?;
    if tx.has_bot(bot).await? { Ok(()) } else { Err(Problem::bot_not_found()) }
}

fn hash(ticket: &str) -> Vec<u8> {
    Sha256::digest(ticket.as_bytes()).to_vec()
}
