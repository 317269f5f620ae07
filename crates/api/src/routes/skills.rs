//! What an assistant can be taught. The catalogue is empty so far, and these routes say so honestly.
//! Never: a skill that isn't in the catalogue.

use axum::Json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::{Caller, OwnBot};
use crate::extract;
use crate::pages::Page;
use crate::problem::{Code, Problem};
use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(catalogue)).routes(routes!(of_bot, install)).routes(routes!(change, uninstall))
}

/// A skill of the catalogue.
#[derive(Serialize, ToSchema)]
struct Skill {
    id: String,
    name: String,
}

/// A skill that a bot has.
#[derive(Serialize, ToSchema)]
struct BotSkill {
    id: String,
    skill_id: String,
    name: String,
    enabled: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is checked, the catalogue is empty")]
struct InstallBody {
    skill_id: String,
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the shape is checked, the catalogue is empty")]
struct SkillChanges {
    enabled: Option<bool>,
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
}

/// The skills that can be installed.
#[utoipa::path(get, path = "/api/skills", operation_id = "listSkills", tag = "skills",
    responses((status = 200, body = Page<Skill>)))]
async fn catalogue(_: Caller) -> Result<Json<Page<Skill>>, Problem> {
    let skills = molt_skills::catalogue().into_iter().map(|skill| Skill { id: skill.id, name: skill.name });
    Ok(Json(Page::whole(skills.collect())))
}

/// The skills of an assistant.
#[utoipa::path(get, path = "/api/bots/{id}/skills", operation_id = "listBotSkills", tag = "skills",
    params(("id" = String, Path)),
    responses((status = 200, body = Page<BotSkill>)))]
async fn of_bot(_: OwnBot) -> Result<Json<Page<BotSkill>>, Problem> {
    Ok(Json(Page::whole(Vec::new())))
}

/// Teaches an assistant a skill of the catalogue.
#[utoipa::path(post, path = "/api/bots/{id}/skills", operation_id = "installSkill", tag = "skills",
    params(("id" = String, Path)),
    request_body = InstallBody, responses((status = 201, body = BotSkill)))]
async fn install(_: OwnBot, _: extract::Json<InstallBody>) -> Problem {
    unknown()
}

/// Turns a skill on or off, or sets it up.
#[utoipa::path(patch, path = "/api/bots/{id}/skills/{sid}", operation_id = "changeSkill", tag = "skills",
    params(("id" = String, Path), ("sid" = String, Path)), request_body = SkillChanges,
    responses((status = 200, body = BotSkill)))]
async fn change(_: OwnBot, _: extract::Json<SkillChanges>) -> Problem {
    unknown()
}

/// Takes a skill away.
#[utoipa::path(delete, path = "/api/bots/{id}/skills/{sid}", operation_id = "uninstallSkill", tag = "skills",
    params(("id" = String, Path), ("sid" = String, Path)), responses((status = 204)))]
async fn uninstall(_: OwnBot) -> Problem {
    unknown()
}

fn unknown() -> Problem {
    Problem::new(Code::UnknownSkill, "No skill has this id; GET /api/skills lists what there is.")
}
