//! The conversations of a bot. `main` is there from the start; each is a session of its own in the runtime.
//! Never: the frames of a deleted conversation.

use std::collections::HashMap;

use axum::extract::{FromRequestParts, State};
use http::StatusCode;
use http::request::Parts;
use molt_model::{ConversationId, Time};
use molt_store::conversations::{ConversationChange, ConversationRow, Created};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::OwnBot;
use crate::extract::{Json, Path};
use crate::problem::{Code, Problem, ProblemBody};
use crate::state::ApiState;

/// Enough for years of one person; the list is answered as one page.
const CONVERSATIONS_MAX: i64 = 500;
/// A title fits two lines of a phone.
const TITLE_CHARACTERS_MAX: usize = 80;
/// What a conversation is called before its first message.
const UNTITLED: &str = "New conversation";

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(change, delete))
}

#[derive(Serialize, ToSchema)]
struct Conversation {
    id: String,
    /// The first words of its first message, until somebody gives it another.
    title: String,
    archived: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// When it was last written in.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Time,
}

impl From<ConversationRow> for Conversation {
    fn from(row: ConversationRow) -> Self {
        let title = if row.title.is_empty() { UNTITLED.to_owned() } else { row.title };
        let ConversationRow { id, archived, created_at, updated_at, .. } = row;
        Self { id, title, archived, created_at, updated_at }
    }
}

#[derive(Serialize, ToSchema)]
struct Conversations {
    items: Vec<Conversation>,
    /// Always null: the list is one page.
    next: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewConversation {
    /// Left out: the first words of the first message.
    title: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConversationEdit {
    title: Option<String>,
    archived: Option<bool>,
}

/// `{cid}` of the path. A text that can't be a conversation's id names none.
struct ConversationPath(ConversationId);

impl<S: Send + Sync> FromRequestParts<S> for ConversationPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(names) = Path::<HashMap<String, String>>::from_request_parts(parts, state).await?;
        names.get("cid").and_then(|id| id.parse().ok()).map(Self).ok_or_else(not_found)
    }
}

/// Lists the bot's conversations, the one written in last first.
#[utoipa::path(
    get, path = "/api/bots/{id}/conversations", tag = "chat", operation_id = "listConversations",
    params(("id" = String, Path, description = "The bot's id")),
    responses((status = 200, body = Conversations), (status = "4XX", body = ProblemBody)),
    security(("session" = []))
)]
async fn list(
    State(state): State<ApiState>,
    OwnBot { caller, id: bot }: OwnBot,
) -> Result<axum::Json<Conversations>, Problem> {
    let mut tx = caller.tx(&state).await?;
    let rows = tx.conversations(&bot).await?.ok_or_else(Problem::bot_not_found)?;
    tx.commit().await?;
    Ok(axum::Json(Conversations { items: rows.into_iter().map(Conversation::from).collect(), next: None }))
}

/// Starts a conversation. It knows nothing of what was said in others, apart from what the assistant has noted down.
#[utoipa::path(
    post, path = "/api/bots/{id}/conversations", tag = "chat", operation_id = "createConversation",
    params(("id" = String, Path, description = "The bot's id")), request_body = NewConversation,
    responses((status = 201, body = Conversation), (status = "4XX", body = ProblemBody)),
    security(("session" = []))
)]
async fn create(
    State(state): State<ApiState>,
    OwnBot { caller, id: bot }: OwnBot,
    Json(body): Json<NewConversation>,
) -> Result<(StatusCode, axum::Json<Conversation>), Problem> {
    let title = body.title.map(checked_title).transpose()?.unwrap_or_default();
    let mut tx = caller.tx(&state).await?;
    let row = match tx.create_conversation(&bot, &title, CONVERSATIONS_MAX, state.now()).await? {
        Created::Conversation(row) => row,
        Created::UnknownBot => return Err(Problem::bot_not_found()),
        Created::TooMany => {
            let detail = format!("An assistant has at most {CONVERSATIONS_MAX} conversations; delete one first.");
            return Err(Problem::new(Code::NotInThisState, detail));
        }
    };
    tx.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(row.into())))
}

/// Renames a conversation, archives it, or brings it back.
#[utoipa::path(
    patch, path = "/api/bots/{id}/conversations/{cid}", tag = "chat", operation_id = "changeConversation",
    params(
        ("id" = String, Path, description = "The bot's id"),
        ("cid" = String, Path, description = "The conversation's id"),
    ),
    request_body = ConversationEdit,
    responses((status = 200, body = Conversation), (status = "4XX", body = ProblemBody)),
    security(("session" = []))
)]
async fn change(
    State(state): State<ApiState>,
    OwnBot { caller, id: bot }: OwnBot,
    ConversationPath(conversation): ConversationPath,
    Json(body): Json<ConversationEdit>,
) -> Result<axum::Json<Conversation>, Problem> {
    let title = body.title.map(checked_title).transpose()?;
    let change = ConversationChange { title, archived: body.archived };
    let mut tx = caller.tx(&state).await?;
    let row = tx.change_conversation(&bot, &conversation, &change, state.now()).await?.ok_or_else(not_found)?;
    tx.commit().await?;
    Ok(axum::Json(row.into()))
}

/// Deletes a conversation with everything that was said in it. The assistant forgets it too, as soon as it is up.
#[utoipa::path(
    delete, path = "/api/bots/{id}/conversations/{cid}", tag = "chat", operation_id = "deleteConversation",
    params(
        ("id" = String, Path, description = "The bot's id"),
        ("cid" = String, Path, description = "The conversation's id"),
    ),
    responses((status = 204, description = "It is gone"), (status = "4XX", body = ProblemBody)),
    security(("session" = []))
)]
async fn delete(
    State(state): State<ApiState>,
    OwnBot { caller, id: bot }: OwnBot,
    ConversationPath(conversation): ConversationPath,
) -> Result<StatusCode, Problem> {
    if conversation == ConversationId::main() {
        let detail = "The main conversation stays as long as the assistant; delete others, or start a new one.";
        return Err(Problem::new(Code::NotInThisState, detail));
    }
    let mut tx = caller.tx(&state).await?;
    if !tx.delete_conversation(&bot, &conversation, state.now()).await? {
        return Err(not_found());
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn checked_title(title: String) -> Result<String, Problem> {
    let title = title.trim();
    let fits = (1..=TITLE_CHARACTERS_MAX).contains(&title.chars().count()) && !title.chars().any(char::is_control);
    if fits {
        return Ok(title.to_owned());
    }
    Err(Problem::field("title", format!("Give the conversation a title of 1 to {TITLE_CHARACTERS_MAX} characters.")))
}

fn not_found() -> Problem {
    let detail = "This assistant has no such conversation; GET /api/bots/{id}/conversations lists them.";
    Problem::new(Code::ConversationNotFound, detail)
}
