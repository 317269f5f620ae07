//! Caps below the person's own: of an assistant and of a key; and the keys themselves, as their owner sees them.
//! Never: a key in clear, or a cap above what the operator allows.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use http::StatusCode;
use molt_model::money::InvalidAmount;
use molt_model::{BotId, Event, EventKind, KeyId, Nanos};
use molt_store::ghost::{KeyCapSet, KeyRow};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::{Caller, OwnBot};
use crate::extract::{self, Path};
use crate::pages::Page;
use crate::problem::{Code, Problem, sentence};
use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(read_bot_cap, set_bot_cap))
        .routes(routes!(keys))
        .routes(routes!(set_key_cap))
        .routes(routes!(revoke))
}

/// A person has a handful; a bot that is restarted all day adds one a time until the period ends.
const KEYS_SHOWN_MAX: i64 = 200;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CapBody {
    /// US dollars as a decimal string, such as `"12.50"`; null takes this cap away, and the next wider one holds.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required = true)]
    cap_usd: Option<String>,
}

impl CapBody {
    /// The cap, if it is one that this installation allows.
    pub(crate) fn checked(self, cap_max: Nanos) -> Result<Option<Nanos>, Problem> {
        let cap: Option<Nanos> =
            self.cap_usd.map(|text| text.parse()).transpose().map_err(|error: InvalidAmount| {
                Problem::field("cap_usd", sentence(&format!("send the cap as text: {error}")))
            })?;
        if cap.is_some_and(|cap| cap < Nanos::ZERO || cap > cap_max) {
            return Err(Problem::field("cap_usd", format!("Choose a cap between 0 and {cap_max} dollars.")));
        }
        Ok(cap)
    }
}

/// The cap of one assistant in the current period. Amounts are US dollars as decimals.
#[derive(Serialize, ToSchema)]
struct BotCapView {
    /// Null: only the person's own cap holds.
    cap_usd: Option<String>,
    /// The highest cap that can be set.
    cap_max_usd: String,
    /// What the assistant has used of it.
    spent_usd: String,
}

/// A Ghost Key, without the key itself, which is shown once when it is made. Amounts are US dollars as decimals.
#[derive(Serialize, ToSchema)]
struct KeyView {
    id: String,
    label: String,
    /// The assistant whose key it is; null: a program's.
    bot_id: Option<String>,
    /// Where its use stops in a period; null: only the wider caps hold.
    cap_usd: Option<String>,
    /// In the current period.
    spent_usd: String,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
    /// Set: it opens nothing until it is resumed.
    paused_at: Option<DateTime<Utc>>,
    paused_reason: Option<String>,
}

impl KeyView {
    fn of(key: KeyRow) -> Self {
        Self {
            id: key.id.to_string(),
            cap_usd: key.cap().map(|cap| cap.to_string()),
            spent_usd: key.spent().to_string(),
            label: key.label,
            bot_id: key.bot_id,
            created_at: key.created_at,
            revoked_at: key.revoked_at,
            paused_at: key.paused_at,
            paused_reason: key.paused_reason,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct KeyCapView {
    cap_usd: Option<String>,
    cap_max_usd: String,
}

/// Where the assistant's use stops in a period, and how far it is.
#[utoipa::path(get, path = "/api/bots/{id}/cap", operation_id = "readBotCap", tag = "bots",
    params(("id" = String, Path)), responses((status = 200, body = BotCapView)))]
async fn read_bot_cap(State(state): State<ApiState>, own: OwnBot) -> Result<Json<BotCapView>, Problem> {
    bot_cap(&state, own.caller, &own.id).await
}

/// Sets where the assistant's use stops in a period. In force within a second.
#[utoipa::path(put, path = "/api/bots/{id}/cap", operation_id = "setBotCap", tag = "bots",
    request_body = CapBody, params(("id" = String, Path)), responses((status = 200, body = BotCapView)))]
async fn set_bot_cap(
    State(state): State<ApiState>,
    own: OwnBot,
    extract::Json(body): extract::Json<CapBody>,
) -> Result<Json<BotCapView>, Problem> {
    let cap = body.checked(state.config.monthly_cap)?;
    let mut tx = own.caller.tx(&state).await?;
    if !tx.set_bot_cap(&own.id, cap, state.now()).await? {
        return Err(Problem::bot_not_found());
    }
    tx.commit().await?;
    bot_cap(&state, own.caller, &own.id).await
}

async fn bot_cap(state: &ApiState, caller: Caller, id: &BotId) -> Result<Json<BotCapView>, Problem> {
    let mut tx = caller.tx(state).await?;
    let bot = tx.bot(id).await?.ok_or_else(Problem::bot_not_found)?;
    let spent = tx.bot_spent(id, state.now()).await?;
    Ok(Json(BotCapView {
        cap_usd: bot.cap.map(|cap| cap.to_string()),
        cap_max_usd: state.config.monthly_cap.to_string(),
        spent_usd: spent.to_string(),
    }))
}

/// The caller's Ghost Keys, newest first: all in force, and those revoked in the current period.
#[utoipa::path(get, path = "/api/keys", operation_id = "listKeys", tag = "keys",
    responses((status = 200, body = Page<KeyView>)))]
async fn keys(State(state): State<ApiState>, caller: Caller) -> Result<Json<Page<KeyView>>, Problem> {
    let keys = caller.tx(&state).await?.ghost_keys(state.now(), KEYS_SHOWN_MAX).await?;
    Ok(Json(Page::whole(keys.into_iter().map(KeyView::of).collect())))
}

/// Sets where the use of a program's key stops in a period. In force within a second.
#[utoipa::path(put, path = "/api/keys/{id}/cap", operation_id = "setKeyCap", tag = "keys",
    request_body = CapBody, params(("id" = String, Path)), responses((status = 200, body = KeyCapView)))]
async fn set_key_cap(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    extract::Json(body): extract::Json<CapBody>,
) -> Result<Json<KeyCapView>, Problem> {
    let (id, cap_max) = (key_id(&id)?, state.config.monthly_cap);
    let mut tx = caller.tx(&state).await?;
    if !tx.has_key(id).await? {
        return Err(key_not_found());
    }
    let cap = body.checked(cap_max)?;
    match tx.set_key_cap(id, cap).await? {
        KeyCapSet::Done => {}
        KeyCapSet::NotFound => return Err(key_not_found()),
        KeyCapSet::BotsOwn => {
            let detail = "This key is made anew whenever its assistant starts; set the assistant's cap instead.";
            return Err(Problem::new(Code::NotInThisState, detail));
        }
    }
    tx.append_event(&changed(json!({ "key_id": id, "cap_usd": cap })), state.now()).await?;
    tx.commit().await?;
    Ok(Json(KeyCapView { cap_usd: cap.map(|cap| cap.to_string()), cap_max_usd: cap_max.to_string() }))
}

/// Revokes a key: within a second it opens nothing, and it can't be brought back. Twice is once. An assistant whose own key
/// it was starts afresh with a new one.
#[utoipa::path(delete, path = "/api/keys/{id}", operation_id = "revokeKey", tag = "keys",
    params(("id" = String, Path)), responses((status = 204)))]
async fn revoke(State(state): State<ApiState>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let id = key_id(&id)?;
    let mut tx = caller.tx(&state).await?;
    if !tx.revoke_own_key(id, state.now()).await? {
        return Err(key_not_found());
    }
    tx.append_event(&changed(json!({ "key_id": id, "revoked": true })), state.now()).await?;
    tx.commit().await?;
    tracing::info!(user.id = %caller.user, key.id = %id, "a key was revoked by its owner");
    Ok(StatusCode::NO_CONTENT)
}

fn changed(body: serde_json::Value) -> Event {
    Event { kind: EventKind::KeyChanged, bot: None, conversation: None, run: None, body }
}

/// A text that can't be a key's id names no key of the caller's.
fn key_id(text: &str) -> Result<KeyId, Problem> {
    text.parse().map_err(|_| key_not_found())
}

fn key_not_found() -> Problem {
    Problem::new(Code::KeyNotFound, "None of your keys in force has this id; GET /api/keys lists them.")
}
