//! One file a noun. `api()` has every route that `openapi.json` describes, `plain()` the pages and files.
//! Never: a route outside these two lists.

mod chat;
mod conversations;
mod events;
mod health;

use axum::Router;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Info, OpenApi};
use utoipa_axum::router::OpenApiRouter;

use crate::state::ApiState;

/// The described routes.
pub(crate) fn api() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .merge(health::routes())
        .merge(conversations::routes())
        .merge(chat::routes())
        .merge(events::routes())
}

/// Pages, files and the description itself.
pub(crate) fn plain() -> Router<ApiState> {
    Router::new()
}

/// Adds what the handlers can't say for themselves: the title and how to log in.
pub(crate) fn describe(mut api: OpenApi) -> OpenApi {
    let mut info = Info::new("Molt", env!("CARGO_PKG_VERSION"));
    info.description = Some("A personal AI assistant of one's own: sign up, answer three questions, chat.".to_owned());
    api.info = info;
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    api.components.get_or_insert_default().add_security_scheme("session", SecurityScheme::Http(scheme));
    api
}
