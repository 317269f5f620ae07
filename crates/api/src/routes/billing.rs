//! The plan, what was used, and the cap.
//! Never: a plan put in force by a request; the payment's event does it.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use molt_billing::{CHECKOUT_ACCEPTED, PLAN_CANCELLED};
use molt_model::{BotId, CheckoutId, Event, EventKind, Intent, Nanos};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::caller::Caller;
use crate::extract::{self, Path};
use crate::problem::{Code, Problem};
use crate::routes::caps::CapBody;
use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(checkout))
        .routes(routes!(accept))
        .routes(routes!(portal))
        .routes(routes!(cancel))
        .routes(routes!(usage))
        .routes(routes!(set_cap))
        .routes(routes!(webhook))
}

/// A person who comes back the next day starts anew.
pub const CHECKOUT_LIFE: TimeDelta = TimeDelta::hours(24);

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckoutBody {
    /// The assistant that the plan is for; the person returns to it afterwards.
    bot_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Link {
    url: String,
}

#[derive(Serialize, ToSchema)]
struct Accepted {
    /// The assistant that will start, if there is one.
    #[schema(value_type = Option<String>)]
    bot_id: Option<BotId>,
    /// Where to go now.
    return_url: String,
}

#[derive(Serialize, ToSchema)]
struct Cancelled {
    /// Until then everything goes on.
    ends_at: Option<DateTime<Utc>>,
}

/// The current period. Amounts are US dollars as decimals.
#[derive(Serialize, ToSchema)]
struct UsageView {
    period_start: DateTime<Utc>,
    period_end: DateTime<Utc>,
    /// The plan's price; zero while no plan is in force.
    base_usd: String,
    /// What models cost, the markup of 20 % included.
    usage_usd: String,
    total_usd: String,
    /// Where `usage_usd` stops: the person's own cap, or the installation's.
    cap_usd: String,
    /// The highest cap that the person can set.
    cap_max_usd: String,
    tokens_in: i64,
    tokens_out: i64,
    /// Dearest first.
    by_model: Vec<ModelUsageView>,
    /// Oldest first, in UTC; days without use are left out.
    by_day: Vec<DayUsageView>,
}

#[derive(Serialize, ToSchema)]
struct ModelUsageView {
    model: String,
    tokens_in: i64,
    tokens_out: i64,
    cost_usd: String,
    calls: i64,
}

#[derive(Serialize, ToSchema)]
struct DayUsageView {
    #[schema(value_type = String, format = Date)]
    day: NaiveDate,
    tokens_in: i64,
    tokens_out: i64,
    cost_usd: String,
    calls: i64,
}

#[derive(Serialize, ToSchema)]
struct CapView {
    cap_usd: String,
    cap_max_usd: String,
}

/// Begins to buy the plan: go to `url`. With built-in payments it is a page of ours that charges nobody, and an
/// authenticated `POST` to the same url accepts the plan.
#[utoipa::path(post, path = "/api/billing/checkout", operation_id = "beginCheckout", tag = "billing",
    request_body = Option<CheckoutBody>,
    responses((status = 200, body = Link)))]
async fn checkout(
    State(state): State<ApiState>,
    caller: Caller,
    body: extract::OptionalJson<CheckoutBody>,
) -> Result<Json<Link>, Problem> {
    let wanted = body.0.unwrap_or_default().bot_id;
    let mut tx = caller.tx(&state).await?;
    let bot: Option<BotId> = wanted.map(|id| id.parse().map_err(|_| Problem::bot_not_found())).transpose()?;
    if let Some(bot) = &bot
        && !tx.has_bot(bot).await?
    {
        return Err(Problem::bot_not_found());
    }
    let (id, now) = (CheckoutId::random(), state.now());
    // Somebody is about to accept: what takes long may begin.
    tx.plan_is_wanted(bot.as_ref(), now).await?;
    tx.insert_checkout(id, bot.as_ref(), state.payments.name(), now, now + CHECKOUT_LIFE).await?;
    tx.commit().await?;
    let url = state.payments.checkout(caller.user, id).await.map_err(payments_away)?;
    Ok(Json(Link { url }))
}

/// Accepts the plan on the page of built-in payments. Twice is once.
#[utoipa::path(post, path = "/checkout/{id}", operation_id = "acceptCheckout", tag = "billing",
    params(("id" = String, Path)),
    responses((status = 202, body = Accepted)))]
async fn accept(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(http::StatusCode, Json<Accepted>), Problem> {
    let not_found = || Problem::new(Code::CheckoutNotFound, "Begin again at POST /api/billing/checkout.");
    let id: CheckoutId = id.parse().map_err(|_| not_found())?;
    if state.payments.name() != "local" {
        return Err(not_found());
    }
    let now = state.now();
    let mut tx = caller.tx(&state).await?;
    let row = tx.checkout(id).await?.ok_or_else(not_found)?;
    if row.state != "completed" && row.expires_at <= now {
        return Err(Problem::new(Code::CheckoutExpired, "Begin again at POST /api/billing/checkout."));
    }
    let bots = tx.bots().await?;
    drop(tx);
    let named = bots.iter().find(|bot| row.bot_id.as_deref() == Some(bot.id.as_str()));
    let waiting = bots.iter().find(|bot| bot.intent == Intent::AwaitingPlan);
    let bot_id = named.or(waiting).or(bots.last()).map(|bot| bot.id.clone());
    if row.state != "completed" {
        let mut tx = state.store.system().await?;
        let body = json!({ "checkout_id": id, "user_id": caller.user });
        tx.insert_inbox("local", &id.to_string(), CHECKOUT_ACCEPTED, &body, now).await?;
        tx.commit().await?;
    }
    let path = bot_id.as_ref().map_or("/app/".to_owned(), |bot| format!("/app/bots/{bot}"));
    Ok((http::StatusCode::ACCEPTED, Json(Accepted { bot_id, return_url: state.config.address(&path) })))
}

/// Where the person sees and ends their plan.
#[utoipa::path(get, path = "/api/billing/portal", operation_id = "openPortal", tag = "billing",
    responses((status = 200, body = Link)))]
async fn portal(State(state): State<ApiState>, caller: Caller) -> Result<Json<Link>, Problem> {
    let url = state.payments.portal(caller.user).await.map_err(payments_away)?;
    Ok(Json(Link { url }))
}

/// Cancels the plan of built-in payments: it stays in force until its period ends, then the person's assistants are suspended
/// and keep everything. Twice is once. Accepting a checkout takes it back, or renews what has ended.
#[utoipa::path(post, path = "/api/billing/cancel", operation_id = "cancelPlan", tag = "billing",
    responses((status = 202, body = Cancelled)))]
async fn cancel(State(state): State<ApiState>, caller: Caller) -> Result<(http::StatusCode, Json<Cancelled>), Problem> {
    if state.payments.name() != "local" {
        let detail = "Plans are cancelled with the payment provider; GET /api/billing/portal says where.";
        return Err(Problem::not_configured(detail));
    }
    let now = state.now();
    let plan = caller.tx(&state).await?.billing().await?.filter(|plan| plan.in_force());
    let Some(plan) = plan else {
        return Err(Problem::new(Code::NotInThisState, "No plan is in force, so there is nothing to cancel."));
    };
    if !plan.cancel_at_period_end {
        let mut tx = state.store.system().await?;
        let body = json!({ "user_id": caller.user });
        tx.insert_inbox("local", &Uuid::new_v4().to_string(), PLAN_CANCELLED, &body, now).await?;
        tx.commit().await?;
    }
    Ok((http::StatusCode::ACCEPTED, Json(Cancelled { ends_at: plan.current_period_end })))
}

/// What was used in the current period, to the nano-dollar.
#[utoipa::path(get, path = "/api/billing/usage", operation_id = "readUsage", tag = "billing",
    responses((status = 200, body = UsageView)))]
async fn usage(State(state): State<ApiState>, caller: Caller) -> Result<Json<UsageView>, Problem> {
    let mut tx = caller.tx(&state).await?;
    let (period_start, period_end) = tx.usage_period(state.now()).await?;
    let summary = tx.usage_summary(period_start, period_end).await?;
    let in_force = tx.billing().await?.is_some_and(|billing| billing.in_force());
    let base = if in_force { state.config.plan_price } else { Nanos::ZERO };
    let own_cap = tx.me().await?.and_then(|user| user.cap());
    let cap_max = state.config.monthly_cap;
    let by_model = summary.by_model.into_iter().map(|row| ModelUsageView {
        model: row.model,
        tokens_in: row.tokens_in,
        tokens_out: row.tokens_out,
        cost_usd: row.cost.to_string(),
        calls: row.calls,
    });
    let by_day = summary.by_day.into_iter().map(|row| DayUsageView {
        day: row.day,
        tokens_in: row.tokens_in,
        tokens_out: row.tokens_out,
        cost_usd: row.cost.to_string(),
        calls: row.calls,
    });
    Ok(Json(UsageView {
        period_start,
        period_end,
        base_usd: base.to_string(),
        usage_usd: summary.cost.to_string(),
        total_usd: base.saturating_add(summary.cost).to_string(),
        cap_usd: own_cap.map_or(cap_max, |cap| cap.min(cap_max)).to_string(),
        cap_max_usd: cap_max.to_string(),
        tokens_in: summary.tokens_in,
        tokens_out: summary.tokens_out,
        by_model: by_model.collect(),
        by_day: by_day.collect(),
    }))
}

/// Sets where the person's usage stops in a period.
#[utoipa::path(put, path = "/api/billing/cap", operation_id = "setCap", tag = "billing",
    request_body = CapBody, responses((status = 200, body = CapView)))]
async fn set_cap(
    State(state): State<ApiState>,
    caller: Caller,
    extract::Json(body): extract::Json<CapBody>,
) -> Result<Json<CapView>, Problem> {
    let cap_max = state.config.monthly_cap;
    let cap = body.checked(cap_max)?;
    let now = state.now();
    let cap_usd = cap.unwrap_or(cap_max).to_string();
    let mut tx = caller.tx(&state).await?;
    tx.set_cap(cap, now).await?;
    let body = json!({ "cap_usd": cap_usd });
    let event = Event { kind: EventKind::CapChanged, bot: None, conversation: None, run: None, body };
    tx.append_event(&event, now).await?;
    tx.commit().await?;
    Ok(Json(CapView { cap_usd, cap_max_usd: cap_max.to_string() }))
}

/// Where an outside payment provider says what happened. Built-in payments have no use for it.
#[utoipa::path(post, path = "/api/billing/webhook", operation_id = "receivePaymentWebhook", tag = "billing",
    security(()), responses((status = 204)))]
async fn webhook() -> Problem {
    Problem::not_configured("Payments are built in here, so there is nothing to receive.")
}

fn payments_away(error: anyhow::Error) -> Problem {
    tracing::warn!(error = &*error, "the payment provider did not give an address");
    Problem::new(Code::Unavailable, "The payment provider did not answer. Please try again shortly.").retry_after_s(5)
}
