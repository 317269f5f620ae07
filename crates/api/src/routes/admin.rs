//! What operators may see and do. Every action is in the audit log.
//! Never: open to anybody without the operator role, or silent.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, SecondsFormat, Utc};
use molt_model::bot::operators_reason;
use molt_model::{Observed, Time, UserId};
use molt_store::mail::MailRow;
use molt_store::suspend::Resumed;
use molt_store::users::{Role, UserRow};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::caller::Operator;
use crate::extract::{self, BotPath, Path, Query};
use crate::pages::{Page, PageQuery};
use crate::problem::{Code, Problem, sentence};
use crate::routes::bots::SuspendedView;
use crate::state::ApiState;

/// Stands in the place of a text that can't be opened.
const UNREADABLE: &str = "(This mail was sealed under a key that this installation no longer has.)";
/// Of the suspended assistants, the newest ones are named.
const SUSPENDED_NAMED_MAX: i64 = 100;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(mails))
        .routes(routes!(users))
        .routes(routes!(set_role))
        .routes(routes!(fleet))
        .routes(routes!(suspend))
        .routes(routes!(resume))
}

/// A mail that built-in mail kept instead of sending it.
#[derive(Serialize, ToSchema)]
struct MailView {
    id: String,
    to: String,
    subject: String,
    text: String,
    at: DateTime<Utc>,
}

/// A person, as operators see them.
#[derive(Serialize, ToSchema)]
struct UserView {
    id: String,
    email: String,
    name: Option<String>,
    /// `user` or `operator`.
    role: &'static str,
    created_at: DateTime<Utc>,
}

/// How many assistants are in which state, and which ones don't get on.
#[derive(Serialize, ToSchema)]
struct FleetView {
    states: Vec<StateCount>,
    /// The one that is stuck for longest first; up to a hundred of each kind.
    stuck: Vec<StuckView>,
    /// What operators suspended, newest first; up to a hundred.
    suspended: Vec<SuspendedBotView>,
    /// How long the one that is stuck for longest has been so.
    oldest_overdue_seconds: i64,
}

#[derive(Serialize, ToSchema)]
struct StateCount {
    state: &'static str,
    phase: &'static str,
    count: i64,
}

#[derive(Serialize, ToSchema)]
struct StuckView {
    bot_id: String,
    user_id: String,
    state: &'static str,
    phase: &'static str,
    since: DateTime<Utc>,
    /// `overdue`, `loops`, `leased` or `unattended`.
    why: &'static str,
    sentence: String,
}

/// An assistant that an operator suspended.
#[derive(Serialize, ToSchema)]
struct SuspendedBotView {
    bot_id: String,
    user_id: String,
    reason: String,
    since: DateTime<Utc>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SuspendBody {
    /// For the assistant's owner: 1 to 300 characters, on one line.
    reason: String,
}

/// What keeps an assistant from running now.
#[derive(Serialize, ToSchema)]
struct Standing {
    bot_id: String,
    /// Null: nothing; it is as its owner wants it.
    suspended: Option<SuspendedView>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RoleWord {
    User,
    Operator,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleBody {
    role: RoleWord,
}

/// What built-in mail kept, newest first.
#[utoipa::path(get, path = "/api/admin/mails", operation_id = "listMails", tag = "operators", params(PageQuery),
    responses((status = 200, body = Page<MailView>)))]
async fn mails(
    State(state): State<ApiState>,
    operator: Operator,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<MailView>>, Problem> {
    let before = query.after.as_deref().map(|text| mail_cursor(text).ok_or_else(bad_cursor)).transpose()?;
    let limit = query.limit()?;
    let mut tx = state.store.system().await?;
    let rows = tx.mails_before(before, limit, state.store.seal()).await?;
    let actor = operator.0.user.to_string();
    tx.audit(&actor, "mails.read", "mails", &json!({ "count": rows.len() }), state.now()).await?;
    tx.commit().await?;
    let full = i64::try_from(rows.len()).is_ok_and(|count| count == limit);
    let next = rows.last().filter(|_| full).map(cursor_of);
    let items = rows.into_iter().map(|row| MailView {
        id: row.id.to_string(),
        to: row.to_address,
        subject: row.subject,
        text: row.text.map_or_else(|| UNREADABLE.to_owned(), |text| text.expose_secret().to_owned()),
        at: row.created_at,
    });
    Ok(Json(Page { items: items.collect(), next }))
}

/// Everybody who has an account here.
#[utoipa::path(get, path = "/api/admin/users", operation_id = "listUsers", tag = "operators", params(PageQuery),
    responses((status = 200, body = Page<UserView>)))]
async fn users(
    State(state): State<ApiState>,
    operator: Operator,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<UserView>>, Problem> {
    let after: Option<UserId> =
        query.after.as_deref().map(|text| text.parse().map_err(|_| bad_cursor())).transpose()?;
    let limit = query.limit()?;
    let mut tx = state.store.system().await?;
    let rows = tx.users_after(after, limit).await?;
    let actor = operator.0.user.to_string();
    tx.audit(&actor, "users.read", "users", &json!({ "count": rows.len() }), state.now()).await?;
    tx.commit().await?;
    let full = i64::try_from(rows.len()).is_ok_and(|count| count == limit);
    let next = rows.last().filter(|_| full).map(|row| row.id().to_string());
    Ok(Json(Page { items: rows.iter().map(user_view).collect(), next }))
}

/// Gives or takes the operator role.
#[utoipa::path(put, path = "/api/admin/users/{id}/role", operation_id = "setRole", tag = "operators",
    params(("id" = String, Path)),
    request_body = RoleBody, responses((status = 200, body = UserView)))]
async fn set_role(
    State(state): State<ApiState>,
    operator: Operator,
    Path(id): Path<String>,
    extract::Json(body): extract::Json<RoleBody>,
) -> Result<Json<UserView>, Problem> {
    let not_found = || Problem::new(Code::UserNotFound, "Nobody has this id; GET /api/admin/users lists everybody.");
    let id: UserId = id.parse().map_err(|_| not_found())?;
    let role = match body.role {
        RoleWord::User => Role::User,
        RoleWord::Operator => Role::Operator,
    };
    if id == operator.0.user && role == Role::User {
        let detail = "Nobody takes the role from themselves, so that one operator is always left; ask another one.";
        return Err(Problem::new(Code::NotInThisState, detail));
    }
    let mut tx = state.store.system().await?;
    let user = tx.user(id).await?.ok_or_else(not_found)?;
    tx.set_role(&user.email, role, &operator.0.user.to_string(), state.now()).await?;
    let user = tx.user(id).await?.ok_or_else(not_found)?;
    tx.commit().await?;
    Ok(Json(user_view(&user)))
}

/// The fleet at one moment.
#[utoipa::path(get, path = "/api/admin/fleet", operation_id = "readFleet", tag = "operators",
    responses((status = 200, body = FleetView)))]
async fn fleet(State(state): State<ApiState>, operator: Operator) -> Result<Json<FleetView>, Problem> {
    let now = state.now();
    let mut tx = state.store.system().await?;
    let overview = tx.fleet_overview(now).await?;
    let suspended = tx.suspended_bots(SUSPENDED_NAMED_MAX).await?;
    let actor = operator.0.user.to_string();
    tx.audit(&actor, "fleet.read", "fleet", &json!({ "stuck": overview.stuck.len() }), now).await?;
    tx.commit().await?;
    let count = |(observed, count): &(Observed, i64)| StateCount {
        state: observed.word(),
        phase: observed.phase(),
        count: *count,
    };
    let oldest_overdue_seconds = overview.oldest_overdue(now).num_seconds();
    let stuck = overview.stuck.iter().map(|stuck| StuckView {
        bot_id: stuck.bot.to_string(),
        user_id: stuck.user.to_string(),
        state: stuck.observed.word(),
        phase: stuck.observed.phase(),
        since: stuck.since,
        why: stuck.why.as_str(),
        sentence: stuck.sentence(now),
    });
    let suspended = suspended.into_iter().map(|one| SuspendedBotView {
        bot_id: one.bot.to_string(),
        user_id: one.user.to_string(),
        reason: one.suspension.reason,
        since: one.suspension.since,
    });
    Ok(Json(FleetView {
        states: overview.counts.iter().map(count).collect(),
        stuck: stuck.collect(),
        suspended: suspended.collect(),
        oldest_overdue_seconds,
    }))
}

/// Suspends anybody's assistant until an operator resumes it: it is stopped, keeps everything, and its owner reads why. They
/// can still delete it. Once more with another reason, it keeps its date.
#[utoipa::path(post, path = "/api/admin/bots/{id}/suspend", operation_id = "suspendBot", tag = "operators",
    params(("id" = String, Path)),
    request_body = SuspendBody, responses((status = 200, body = Standing)))]
async fn suspend(
    State(state): State<ApiState>,
    operator: Operator,
    BotPath(bot): BotPath,
    extract::Json(body): extract::Json<SuspendBody>,
) -> Result<Json<Standing>, Problem> {
    let reason = operators_reason(&body.reason).map_err(|problem| Problem::field("reason", sentence(&problem)))?;
    let now = state.now();
    let mut tx = state.store.system().await?;
    let suspension = tx.suspend_bot(&bot, &reason, now).await?.ok_or_else(no_such_bot)?;
    let actor = operator.0.user.to_string();
    tx.audit(&actor, "bot.suspend", bot.as_str(), &json!({ "reason": reason }), now).await?;
    tx.commit().await?;
    tracing::info!(user.id = %operator.0.user, bot.id = %bot, "an assistant was suspended by an operator");
    Ok(Json(Standing { bot_id: bot.to_string(), suspended: Some(SuspendedView::of(suspension)) }))
}

/// Lifts what an operator decided, and a pause because of unusual use: the assistant is again as its owner wants it. Where the
/// plan has ended, the answer says so.
#[utoipa::path(post, path = "/api/admin/bots/{id}/resume", operation_id = "resumeAnybodysBot", tag = "operators",
    params(("id" = String, Path)), responses((status = 200, body = Standing)))]
async fn resume(
    State(state): State<ApiState>,
    operator: Operator,
    BotPath(bot): BotPath,
) -> Result<Json<Standing>, Problem> {
    let now = state.now();
    let mut tx = state.store.system().await?;
    let Resumed { resumed, left } = tx.resume_for_operator(&bot, now).await?.ok_or_else(no_such_bot)?;
    let actor = operator.0.user.to_string();
    tx.audit(&actor, "bot.resume", bot.as_str(), &json!({ "resumed": resumed }), now).await?;
    tx.commit().await?;
    tracing::info!(user.id = %operator.0.user, bot.id = %bot, "an assistant was resumed by an operator");
    Ok(Json(Standing { bot_id: bot.to_string(), suspended: left.map(SuspendedView::of) }))
}

fn no_such_bot() -> Problem {
    Problem::new(Code::BotNotFound, "No assistant has this id; its owner finds it in the address of its page.")
}

fn user_view(row: &UserRow) -> UserView {
    UserView {
        id: row.id().to_string(),
        email: row.email.clone(),
        name: row.name.clone(),
        role: row.role().as_str(),
        created_at: row.created_at,
    }
}

fn cursor_of(row: &MailRow) -> String {
    format!("{}_{}", row.created_at.to_rfc3339_opts(SecondsFormat::Micros, true), row.id)
}

fn mail_cursor(text: &str) -> Option<(Time, Uuid)> {
    let (at, id) = text.split_once('_')?;
    Some((DateTime::parse_from_rfc3339(at).ok()?.with_timezone(&Utc), id.parse().ok()?))
}

fn bad_cursor() -> Problem {
    Problem::new(Code::InvalidQuery, "Send as `after` what the page before gave as `next`.")
}
