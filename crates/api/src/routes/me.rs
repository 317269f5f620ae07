//! The person who is logged in: what they are called, everything we keep of them, and how they leave.
//! Never: another person's data in an export.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use molt_model::settings::validate_timezone;
use molt_store::StoreError;
use molt_store::billing::BillingRow;
use molt_store::event::EventRow;
use molt_store::users::UserRow;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::forget_cookie;
use super::bots::BotView;
use super::egress;
use crate::caller::Caller;
use crate::extract;
use crate::problem::{Code, Problem};
use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(me, update, erase)).routes(routes!(export))
}

/// Longer names break mails and screens.
const NAME_CHARACTERS_MAX: usize = 80;
/// Events read at a time for an export, so that a long history never stands in memory whole.
const EXPORT_BATCH: i64 = 500;
/// Pieces that wait for a slow reader.
const EXPORT_PIECES_MAX: usize = 4;

/// A person, as they see themselves.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    id: String,
    email: String,
    name: Option<String>,
    timezone: String,
    /// `user` or `operator`.
    role: &'static str,
    created_at: DateTime<Utc>,
    /// None: no plan was ever accepted.
    plan: Option<Plan>,
}

#[derive(Serialize, ToSchema)]
struct Plan {
    /// Whether assistants run and answer.
    in_force: bool,
    status: Option<String>,
    period_start: Option<DateTime<Utc>>,
    period_end: Option<DateTime<Utc>>,
    /// Set: it was cancelled and ends then, or has ended then. Otherwise it goes on after the period.
    ends_at: Option<DateTime<Utc>>,
}

impl Me {
    pub(crate) fn of(user: &UserRow, plan: Option<&BillingRow>) -> Self {
        Self {
            id: user.id().to_string(),
            email: user.email.clone(),
            name: user.name.clone(),
            timezone: user.timezone.clone(),
            role: user.role().as_str(),
            created_at: user.created_at,
            plan: plan.map(|plan| Plan {
                in_force: plan.in_force(),
                status: plan.subscription_status.clone(),
                period_start: plan.current_period_start,
                period_end: plan.current_period_end,
                ends_at: plan.ends_at(),
            }),
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MeChanges {
    /// 1 to 80 characters.
    name: Option<String>,
    /// An IANA name, such as `Europe/Berlin`.
    timezone: Option<String>,
}

/// The person who is logged in.
#[utoipa::path(get, path = "/api/me", operation_id = "readMe", tag = "who", responses((status = 200, body = Me)))]
async fn me(State(state): State<ApiState>, caller: Caller) -> Result<Json<Me>, Problem> {
    let mut tx = caller.tx(&state).await?;
    let user = tx.me().await?.ok_or_else(gone)?;
    let plan = tx.billing().await?;
    Ok(Json(Me::of(&user, plan.as_ref())))
}

/// Changes what is given; the rest stays.
#[utoipa::path(patch, path = "/api/me", operation_id = "changeMe", tag = "who",
    request_body = MeChanges, responses((status = 200, body = Me)))]
async fn update(
    State(state): State<ApiState>,
    caller: Caller,
    extract::Json(body): extract::Json<MeChanges>,
) -> Result<Json<Me>, Problem> {
    let name = body.name.as_deref().map(str::trim);
    if let Some(name) = name {
        let fits = (1..=NAME_CHARACTERS_MAX).contains(&name.chars().count()) && !name.chars().any(char::is_control);
        if !fits {
            let detail = format!("Write a name of 1 to {NAME_CHARACTERS_MAX} characters, on one line.");
            return Err(Problem::field("name", detail));
        }
    }
    if let Some(timezone) = &body.timezone {
        validate_timezone(timezone)?;
    }
    let mut tx = caller.tx(&state).await?;
    let user = tx.update_me(name, body.timezone.as_deref(), state.now()).await?.ok_or_else(gone)?;
    let plan = tx.billing().await?;
    tx.commit().await?;
    Ok(Json(Me::of(&user, plan.as_ref())))
}

/// Erases the person: every session ends now, every assistant is removed with its memory, then the account. The books
/// keep what was used under a number that leads to nobody.
#[utoipa::path(delete, path = "/api/me", operation_id = "eraseMe", tag = "who", responses((status = 202)))]
async fn erase(State(state): State<ApiState>, caller: Caller) -> Result<Response, Problem> {
    let now = state.now();
    let mut tx = caller.tx(&state).await?;
    tx.end_all_sessions(now).await?;
    tx.request_erase(now).await?;
    tx.commit().await?;
    tracing::info!(user.id = %caller.user, "a person asked to be erased");
    Ok(match state.local_identity.as_deref() {
        Some(local) => (StatusCode::ACCEPTED, [forget_cookie(local)]).into_response(),
        None => StatusCode::ACCEPTED.into_response(),
    })
}

/// Everything that we keep of the person, as one JSON document.
#[utoipa::path(get, path = "/api/me/export", operation_id = "exportMe", tag = "who",
    responses((status = 200, description = "`{exported_at, user, bots, egress, usage, events}`", body = Object)))]
async fn export(State(state): State<ApiState>, caller: Caller) -> Result<Response, Problem> {
    let head = export_head(&state, caller).await?;
    let (sender, pieces) = mpsc::channel::<Result<Bytes, StoreError>>(EXPORT_PIECES_MAX);
    tokio::spawn(async move {
        if let Err(error) = export_events(&state, caller, head, &sender).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "an export broke off");
            // The reader may be gone as well; a broken transfer is what it sees otherwise.
            let _ = sender.send(Err(error)).await;
        }
    });
    let headers =
        [(CONTENT_TYPE, "application/json"), (CONTENT_DISPOSITION, "attachment; filename=\"molt-export.json\"")];
    Ok((headers, Body::from_stream(ReceiverStream::new(pieces))).into_response())
}

/// The document up to its list of events, which is left open.
async fn export_head(state: &ApiState, caller: Caller) -> Result<String, Problem> {
    let now = state.now();
    let mut tx = caller.tx(state).await?;
    let user = tx.me().await?.ok_or_else(gone)?;
    let plan = tx.billing().await?;
    let bots: Vec<BotView> = tx.bots().await?.into_iter().map(BotView::of).collect();
    let mut ways_out = Vec::new();
    for bot in &bots {
        ways_out.push(egress::kept(bot.id(), &tx.egress(bot.id()).await?));
    }
    let usage = tx.usage_summary(user.created_at, now).await?;
    let by_day: Vec<Value> = usage.by_day.iter().map(|day| {
        json!({ "day": day.day, "tokens_in": day.tokens_in, "tokens_out": day.tokens_out, "cost_usd": day.cost })
    }).collect();
    let head = json!({
        "exported_at": now,
        "user": Me::of(&user, plan.as_ref()),
        "bots": bots,
        "egress": ways_out,
        "usage": { "cost_usd": usage.cost, "tokens_in": usage.tokens_in, "tokens_out": usage.tokens_out, "by_day": by_day },
    })
    .to_string();
    let open = head.strip_suffix('}').unwrap_or(&head);
    Ok(format!("{open},\"events\":["))
}

async fn export_events(
    state: &ApiState,
    caller: Caller,
    head: String,
    sender: &mpsc::Sender<Result<Bytes, StoreError>>,
) -> Result<(), StoreError> {
    let mut piece = head;
    let mut after = 0;
    loop {
        let rows = state.store.tenant(caller.user).await?.events_after(after, EXPORT_BATCH).await?;
        for row in &rows {
            if after > 0 {
                piece.push(',');
            }
            after = row.id;
            piece.push_str(&event_json(row).to_string());
        }
        let last = rows.is_empty();
        if last {
            piece.push_str("]}");
        }
        if sender.send(Ok(Bytes::from(std::mem::take(&mut piece)))).await.is_err() || last {
            return Ok(());
        }
    }
}

fn event_json(row: &EventRow) -> Value {
    json!({
        "id": row.id, "kind": row.kind, "bot_id": row.bot_id, "conversation": row.conversation, "run_id": row.run_id,
        "seq": row.seq, "body": row.body, "at": row.at,
    })
}

fn gone() -> Problem {
    Problem::new(Code::Unauthenticated, "This account is gone; log in again.")
}
