//! The models that an assistant can think with.
//! Never: a model without its price.

use axum::Json;
use axum::extract::State;
use molt_model::{ModelFacts, Nanos};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::pages::Page;
use crate::problem::Problem;
use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A model.
#[derive(Serialize, ToSchema)]
struct ModelView {
    /// `provider/model`, as settings name it.
    id: String,
    name: String,
    /// One sentence: what it is good at.
    strengths: String,
    price: PriceView,
    /// Tokens that it can read at once.
    context_window: u32,
    /// Tokens of one answer at most.
    output_max: u32,
    reasoning: bool,
    vision: bool,
    /// What a new assistant starts with.
    default: bool,
}

/// US dollars per million tokens, before the markup that `GET /api/client-config` names.
#[derive(Serialize, ToSchema)]
struct PriceView {
    input_usd: String,
    output_usd: String,
    /// Input that the provider had in its cache; none: as `input_usd`.
    cache_read_usd: Option<String>,
    /// Input that the provider put into its cache; none: as `input_usd`.
    cache_write_usd: Option<String>,
}

/// The models that settings may name, with price and strengths.
#[utoipa::path(get, path = "/api/models", operation_id = "listModels", tag = "bots",
    responses((status = 200, body = Page<ModelView>)))]
async fn list(State(state): State<ApiState>, _: Caller) -> Result<Json<Page<ModelView>>, Problem> {
    let catalog = state.catalog.current();
    let models = catalog.chat_models().map(|model| view(model, model.id == catalog.default_model));
    Ok(Json(Page::whole(models.collect())))
}

fn view(model: &ModelFacts, default: bool) -> ModelView {
    let usd = |nanos: i64| Nanos(nanos).to_string();
    ModelView {
        id: model.id.clone(),
        name: model.name.clone(),
        strengths: model.strengths.clone(),
        price: PriceView {
            input_usd: usd(model.price.input),
            output_usd: usd(model.price.output),
            cache_read_usd: model.price.cache_read.map(usd),
            cache_write_usd: model.price.cache_write.map(usd),
        },
        context_window: model.context_window,
        output_max: model.output_max,
        reasoning: model.reasoning,
        vision: model.vision,
        default,
    }
}
