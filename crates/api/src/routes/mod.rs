//! One file a noun. `api()` has every route that `openapi.json` describes, `plain()` the pages and files.
//! Never: a route outside these two lists.

mod admin;
mod auth;
pub(crate) mod billing;
mod bots;
mod caps;
mod chat;
mod client_config;
mod conversations;
mod docs;
mod egress;
mod events;
mod files;
mod health;
mod me;
mod models;
mod skills;

pub(crate) use events::LAST_EVENT_ID;

use axum::Router;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Info, OpenApi, Ref, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use crate::problem::ProblemBody;
use crate::state::ApiState;

/// The described routes.
pub(crate) fn api() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .merge(health::routes())
        .merge(client_config::routes())
        .merge(auth::routes())
        .merge(me::routes())
        .merge(bots::routes())
        .merge(caps::routes())
        .merge(egress::routes())
        .merge(models::routes())
        .merge(skills::routes())
        .merge(billing::routes())
        .merge(admin::routes())
        .merge(conversations::routes())
        .merge(chat::routes())
        .merge(events::routes())
}

/// Pages, files and the description itself.
pub(crate) fn plain() -> Router<ApiState> {
    Router::new().merge(docs::routes()).merge(files::routes())
}

/// Adds what the handlers can't say for themselves: the title, how to log in, and that any of them may refuse.
pub(crate) fn describe(mut api: OpenApi) -> OpenApi {
    let mut info = Info::new("Molt", env!("CARGO_PKG_VERSION"));
    info.description = Some("A personal AI assistant of one's own: sign up, answer three questions, chat.".to_owned());
    api.info = info;
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("session", SecurityScheme::Http(scheme));
    let mut schemas = vec![(ProblemBody::name().into_owned(), ProblemBody::schema())];
    ProblemBody::schemas(&mut schemas);
    components.schemas.extend(schemas);
    api.security = Some(vec![SecurityRequirement::new("session", Vec::<String>::new())]);
    let problem = Content::new(Some(Ref::from_schema_name(ProblemBody::name())));
    let refusal = ResponseBuilder::new()
        .description("A Problem (RFC 9457); `code` says which")
        .content("application/problem+json", problem)
        .build();
    for item in api.paths.paths.values_mut() {
        for operation in operations(item) {
            operation.responses.responses.insert("default".to_owned(), refusal.clone().into());
        }
    }
    api
}

/// The description as text, the same as `GET /api/openapi.json`.
pub(crate) fn openapi_json() -> String {
    docs::pretty(&crate::openapi())
}

/// The operations of an address.
fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete].into_iter().flatten()
}
