//! What an app must know before anybody logs in.
//! Never: anything about a person, or a setting that helps a stranger.

use axum::Json;
use axum::extract::State;
use molt_identity::SignUp;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(client_config))
}

#[derive(Serialize, ToSchema)]
struct ClientConfig {
    /// Who signs session tokens: `local` or `clerk`.
    #[schema(example = "local")]
    identity: &'static str,
    /// Who takes payments: `local` (nobody is charged) or `stripe`.
    #[schema(example = "local")]
    payments: &'static str,
    /// Who may make an account: `open`, `invite` or `closed`.
    #[schema(example = "open")]
    signup: &'static str,
    /// Where people reach this installation.
    public_url: String,
    /// The plan's price each month, in US dollars.
    plan_usd: String,
    /// What is added to the price of models, in percent.
    markup_percent: u8,
    /// Assistants that one person may have.
    bots_per_user: u32,
    version: &'static str,
}

/// The product's markup on the providers' prices; `molt_model::Price::charge` applies it.
const MARKUP_PERCENT: u8 = 20;

/// Which identity, payments and sign-up rule are in force.
#[utoipa::path(get, path = "/api/client-config", operation_id = "readClientConfig", tag = "who",
    security(()), responses((status = 200, body = ClientConfig)))]
async fn client_config(State(state): State<ApiState>) -> Json<ClientConfig> {
    let local = state.local_identity.as_ref();
    Json(ClientConfig {
        identity: if local.is_some() { "local" } else { "clerk" },
        payments: state.payments.name(),
        signup: local.map_or(SignUp::Open, |local| local.config().signup).as_str(),
        public_url: state.config.address(""),
        plan_usd: state.config.plan_price.to_string(),
        markup_percent: MARKUP_PERCENT,
        bots_per_user: state.config.bots_per_user,
        version: env!("CARGO_PKG_VERSION"),
    })
}
