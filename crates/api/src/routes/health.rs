//! Whether this program is alive, and whether it can do its work.
//! Never: a secret, an address or a version that helps a stranger.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(alive)).routes(routes!(ready))
}

#[derive(Serialize, ToSchema)]
struct Ready {
    ready: bool,
    /// What isn't ready, one sentence each.
    waiting_for: Vec<String>,
}

/// Answers as long as the program runs.
#[utoipa::path(get, path = "/healthz", operation_id = "readAlive", tag = "health",
    security(()), responses((status = 200, body = String)))]
async fn alive() -> &'static str {
    "ok\n"
}

/// Whether requests can be answered; 503 with what is missing otherwise.
#[utoipa::path(get, path = "/readyz", operation_id = "readReady", tag = "health", security(()),
    responses((status = 200, body = Ready), (status = 503, body = Ready)))]
async fn ready(State(state): State<ApiState>) -> (StatusCode, Json<Ready>) {
    let mut waiting_for = (state.readiness)();
    if state.store.ping().await.is_err() {
        waiting_for.insert(0, "The database doesn't answer.".to_owned());
    }
    let ready = waiting_for.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, waiting_for }))
}
