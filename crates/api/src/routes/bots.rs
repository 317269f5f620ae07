//! Assistants: made, looked at, set up, restarted and removed, all by writing what is wanted.
//! Never: wait for a cell, or say that something happened which the fleet has yet to do.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use http::HeaderName;
use http::StatusCode;
use http::header::{ETAG, LOCATION};
use molt_model::bot::{Cause, StepView, Suspension, Verb};
use molt_model::{BotId, Caution, Intent, Personality, Settings, Status, Vertical};
use molt_store::bots::{Bot, Made, NewBot, RequestKey, Written};
use molt_store::watch::Unusual;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::{Caller, OwnBot};
use crate::extract::{self, IdempotencyKey, IfMatch};
use crate::pages::Page;
use crate::problem::{Code, Problem};
use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, delete))
        .routes(routes!(configure))
        .routes(routes!(restart))
        .routes(routes!(stop))
        .routes(routes!(resume))
}

/// What the wizard asks.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBotBody {
    /// 1 to 40 characters.
    bot_name: String,
    vertical: Vertical,
    /// An IANA name, such as `Europe/Berlin`.
    timezone: String,
    personality: Option<Personality>,
}

/// An assistant.
#[derive(Serialize, ToSchema)]
pub(crate) struct BotView {
    #[schema(value_type = String)]
    id: BotId,
    bot_name: String,
    vertical: Vertical,
    status: Status,
    /// Finer than `status`: `awaiting_plan`, `queued`, …, `running`, `suspended`.
    phase: String,
    /// Since when it is in the phase that was seen last.
    phase_since: DateTime<Utc>,
    /// Why it isn't as wanted, in a sentence.
    reason: Option<String>,
    /// Set: somebody else than its owner keeps it from running.
    suspended: Option<SuspendedView>,
    /// What was done for it, oldest first.
    steps: Vec<StepView>,
    settings: Settings,
    /// Counts changes of the settings; send it as `If-Match`.
    revision: i64,
    /// The newest revision that the assistant lives by.
    applied_revision: i64,
    /// Set: something about its use stands out, and what was done about it.
    unusual: Option<UnusualView>,
    /// Where its use stops in a period, in US dollars; null: only the person's own cap holds.
    cap_usd: Option<String>,
    created_at: DateTime<Utc>,
    running_since: Option<DateTime<Utc>>,
}

impl BotView {
    pub(crate) fn id(&self) -> &BotId {
        &self.id
    }

    pub(crate) fn of(bot: Bot) -> Self {
        let status = Status::of(bot.intent, bot.observed);
        let state = bot.observed.under(bot.intent, bot.suspension.is_some());
        let why = bot.suspension.as_ref().map(|suspension| suspension.reason.clone());
        Self {
            id: bot.id,
            bot_name: bot.settings.bot_name.clone(),
            vertical: bot.vertical,
            status,
            phase: state.phase().to_owned(),
            phase_since: bot.phase_since,
            reason: why.or(bot.reason),
            suspended: bot.suspension.map(SuspendedView::of),
            steps: bot.steps,
            settings: bot.settings,
            revision: bot.revision,
            applied_revision: bot.applied_revision,
            unusual: bot.unusual.map(UnusualView::of),
            cap_usd: bot.cap.map(|cap| cap.to_string()),
            created_at: bot.created_at,
            running_since: bot.running_since,
        }
    }
}

/// Why somebody else than its owner keeps an assistant from running. Its memory, its files and its chats stay.
#[derive(Serialize, ToSchema)]
pub(crate) struct SuspendedView {
    cause: Cause,
    /// In a sentence.
    reason: String,
    since: DateTime<Utc>,
    /// What lifts it, in a sentence for its owner.
    mend: &'static str,
}

impl SuspendedView {
    pub(crate) fn of(suspension: Suspension) -> Self {
        let Suspension { cause, reason, since } = suspension;
        Self { cause, reason, since, mend: cause.mend() }
    }
}

/// What was noticed about an assistant's use. `POST /api/bots/{id}/resume` says that all is well.
#[derive(Serialize, ToSchema)]
struct UnusualView {
    caution: Caution,
    /// In sentences; may be empty.
    reason: String,
    since: DateTime<Utc>,
}

impl UnusualView {
    fn of(unusual: Unusual) -> Self {
        Self { caution: unusual.caution, reason: unusual.reason, since: unusual.since }
    }
}

#[derive(Serialize, ToSchema)]
struct Revision {
    revision: i64,
}

/// The caller's assistants, oldest first.
#[utoipa::path(get, path = "/api/bots", operation_id = "listBots", tag = "bots",
    responses((status = 200, body = Page<BotView>)))]
async fn list(State(state): State<ApiState>, caller: Caller) -> Result<Json<Page<BotView>>, Problem> {
    let bots = caller.tx(&state).await?.bots().await?;
    Ok(Json(Page::whole(bots.into_iter().map(BotView::of).collect())))
}

/// Makes an assistant from the wizard's answers. It starts as soon as a plan is in force. Sent again with the same
/// `Idempotency-Key` it answers with the assistant that the first one made.
#[utoipa::path(post, path = "/api/bots", operation_id = "createBot", tag = "bots",
    request_body = NewBotBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "A key of your own, new for each assistant")),
    responses((status = 201, body = BotView)))]
async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    extract::Json(body): extract::Json<NewBotBody>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<BotView>), Problem> {
    let request = key.map(|key| request_key(key, &body)).transpose()?;
    let personality = body.personality.unwrap_or_default();
    let settings = Settings::new(body.bot_name.trim().to_owned(), personality, body.timezone, &state.catalog.current());
    settings.validate(&state.catalog.current())?;
    let new = NewBot { id: BotId::random(), vertical: body.vertical, settings };
    let count_max = state.config.bots_per_user;
    let mut tx = caller.tx(&state).await?;
    let made = tx.insert_bot(&new, request.as_ref(), i64::from(count_max), state.now()).await?;
    let id = match made {
        Made::New(id) => {
            tracing::info!(user.id = %caller.user, bot.id = %id, "an assistant was asked for");
            id
        }
        Made::Before(id) => id,
        refused => return Err(not_made(&refused, count_max)),
    };
    let bot = tx.bot(&id).await?.ok_or_else(Problem::bot_not_found)?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, [(LOCATION, format!("/api/bots/{id}"))], Json(BotView::of(bot))))
}

fn not_made(refused: &Made, count_max: u32) -> Problem {
    match refused {
        Made::KeyOfAnother => {
            let detail = "Another request came with this Idempotency-Key before; send a new key with a new request.";
            Problem::new(Code::IdempotencyKeyReused, detail)
        }
        Made::Deleted => {
            let detail = "This request made an assistant before, which was removed; send a new Idempotency-Key.";
            Problem::new(Code::NotInThisState, detail)
        }
        _ => {
            let detail =
                format!("One person may have {count_max} here. Remove one of yours, or ask whoever runs this.");
            Problem::new(Code::BotLimitReached, detail)
        }
    }
}

/// The hash is of what was understood, so that spaces and the order of fields make no difference.
fn request_key(key: String, body: &NewBotBody) -> Result<RequestKey, Problem> {
    let understood = serde_json::to_vec(body).map_err(|error| Problem::unexpected(&error))?;
    Ok(RequestKey { key, hash: Sha256::digest(understood).to_vec() })
}

/// One assistant. The header `ETag` carries its revision.
#[utoipa::path(get, path = "/api/bots/{id}", operation_id = "readBot", tag = "bots", params(("id" = String, Path)),
    responses((status = 200, body = BotView)))]
async fn read(
    State(state): State<ApiState>,
    own: OwnBot,
) -> Result<([(HeaderName, String); 1], Json<BotView>), Problem> {
    let bot = own.caller.tx(&state).await?.bot(&own.id).await?.ok_or_else(Problem::bot_not_found)?;
    Ok(([(ETAG, format!("\"{}\"", bot.revision))], Json(BotView::of(bot))))
}

/// Replaces the settings, whole. `If-Match` carries the revision that the caller has seen; the answer comes before the
/// assistant lives by them: `applied_revision` and the event `bot.applied` say when.
#[utoipa::path(post, path = "/api/bots/{id}/config", operation_id = "configureBot", tag = "bots",
    request_body = Settings,
    params(("id" = String, Path), ("If-Match" = String, Header, description = "The revision seen, such as `7`")),
    responses((status = 202, body = Revision)))]
async fn configure(
    State(state): State<ApiState>,
    own: OwnBot,
    IfMatch(seen): IfMatch,
    extract::Json(settings): extract::Json<Settings>,
) -> Result<(StatusCode, Json<Revision>), Problem> {
    settings.validate(&state.catalog.current())?;
    let mut tx = own.caller.tx(&state).await?;
    match tx.write_settings(&own.id, seen, &settings, state.now()).await? {
        Written::Done { revision } => {
            tx.commit().await?;
            Ok((StatusCode::ACCEPTED, Json(Revision { revision })))
        }
        Written::Stale { revision } => {
            let detail = format!("The newest revision is {revision}. Read the assistant again, then send your change.");
            Err(Problem::new(Code::RevisionStale, detail))
        }
        Written::NotFound => Err(Problem::bot_not_found()),
    }
}

/// Starts the assistant afresh; also the way to try again after a failure.
#[utoipa::path(post, path = "/api/bots/{id}/restart", operation_id = "restartBot", tag = "bots",
    params(("id" = String, Path)),
    responses((status = 202, body = BotView)))]
async fn restart(State(state): State<ApiState>, own: OwnBot) -> Result<(StatusCode, Json<BotView>), Problem> {
    let mut tx = own.caller.tx(&state).await?;
    let restarted = tx.restart_bot(&own.id, state.now()).await?;
    let bot = tx.bot(&own.id).await?.ok_or_else(Problem::bot_not_found)?;
    if !restarted {
        return Err(not_now(&bot, Verb::Restart));
    }
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(BotView::of(bot))))
}

/// Stops the assistant until it is resumed; its memory, its files and its chats stay. Twice is once.
#[utoipa::path(post, path = "/api/bots/{id}/stop", operation_id = "stopBot", tag = "bots",
    params(("id" = String, Path)),
    responses((status = 202, body = BotView)))]
async fn stop(State(state): State<ApiState>, own: OwnBot) -> Result<(StatusCode, Json<BotView>), Problem> {
    let mut tx = own.caller.tx(&state).await?;
    let stopped = tx.stop_bot(&own.id, state.now()).await?;
    let bot = tx.bot(&own.id).await?.ok_or_else(Problem::bot_not_found)?;
    let already = bot.intent == Intent::Stopped && bot.suspension.is_none();
    if !stopped && !already {
        return Err(not_now(&bot, Verb::Stop));
    }
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(BotView::of(bot))))
}

/// The verb was refused by the row; the state says why.
fn not_now(bot: &Bot, verb: Verb) -> Problem {
    if let Some(suspension) = &bot.suspension {
        return Problem::new(Code::BotSuspended, suspension.sentence(&bot.settings.bot_name));
    }
    let state = bot.observed.under(bot.intent, false);
    let why = state.allows(verb).err().unwrap_or("The assistant has just changed; read it again.");
    Problem::new(Code::NotInThisState, why)
}

/// Starts an assistant that its owner stopped; and says that all is well with an assistant's use: a pause or a slower pace
/// ends within a second, and what was noticed before counts no more. Twice is once. A suspension is not theirs to lift.
#[utoipa::path(post, path = "/api/bots/{id}/resume", operation_id = "resumeBot", tag = "bots",
    params(("id" = String, Path)),
    responses((status = 200, body = BotView)))]
async fn resume(State(state): State<ApiState>, own: OwnBot) -> Result<Json<BotView>, Problem> {
    let mut tx = own.caller.tx(&state).await?;
    let started = tx.start_stopped_bot(&own.id, state.now()).await?;
    let resumed = tx.resume_bot(&own.id, state.now()).await? || started;
    let bot = tx.bot(&own.id).await?.ok_or_else(Problem::bot_not_found)?;
    if bot.suspension.is_some() {
        return Err(not_now(&bot, Verb::Resume));
    }
    tx.commit().await?;
    if resumed {
        tracing::info!(user.id = %own.caller.user, bot.id = %own.id, "an assistant was resumed by its owner");
    }
    Ok(Json(BotView::of(bot)))
}

/// Removes the assistant with its memory, its files and its chats. It can't be brought back.
#[utoipa::path(delete, path = "/api/bots/{id}", operation_id = "deleteBot", tag = "bots",
    params(("id" = String, Path)), responses((status = 204)))]
async fn delete(State(state): State<ApiState>, own: OwnBot) -> Result<StatusCode, Problem> {
    let mut tx = own.caller.tx(&state).await?;
    if !tx.delete_bot(&own.id, state.now()).await? {
        return Err(Problem::bot_not_found());
    }
    tx.commit().await?;
    tracing::info!(user.id = %own.caller.user, bot.id = %own.id, "an assistant is to be removed");
    Ok(StatusCode::NO_CONTENT)
}
