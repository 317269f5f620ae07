//! What people and apps may ask of Molt: the HTTP API, the landing pages and the app, as one router.
//! Never: an outside call that is not named in ARCHITECTURE.md, a row read without the caller's own transaction, or an
//! error that is not a `Problem`.

mod caller;
mod chat;
mod config;
mod extract;
mod lines;
mod middleware;
mod pages;
mod problem;
mod routes;
mod state;

use axum::Router;
use utoipa::openapi::OpenApi;

pub use caller::{Caller, Operator, OwnBot};
pub use chat::Relays;
pub use config::{Config, Egress};
pub use problem::{Code, Problem};
pub use routes::billing::CHECKOUT_LIFE;
pub use state::{ApiState, Readiness};

/// Everything that this crate serves. The state is shared by all requests and cheap to clone.
pub fn router(state: ApiState) -> Router {
    let (api, _) = routes::api().split_for_parts();
    let router = api.merge(routes::plain());
    middleware::around(router, &state).with_state(state)
}

/// The description of the API, generated from the handlers.
#[must_use]
pub fn openapi() -> OpenApi {
    routes::describe(routes::api().split_for_parts().1)
}

/// The description as it is kept in the repository's `openapi.json`.
#[must_use]
pub fn openapi_json() -> String {
    routes::openapi_json()
}
