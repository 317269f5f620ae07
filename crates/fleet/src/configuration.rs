//! A bot's settings as the runtime's configuration.
//! Never: the runtime's own format; `bot::render` makes that.

use molt_bot::{ModelFacts, RenderInputs, render};
use molt_model::{Catalog, Personality, Settings, Vertical};
use serde_json::Value;

/// Renders the settings. A model that this installation doesn't offer any more gives way to the default one.
pub(crate) fn configuration(settings: &Settings, vertical: Vertical, catalog: &Catalog) -> Value {
    let offered = |id: &str| catalog.find(id).is_some_and(|model| !model.embedding);
    let default_model = if offered(&settings.default_model) { &settings.default_model } else { &catalog.default_model };
    render(&RenderInputs {
        bot_name: settings.bot_name.clone(),
        personality_text: personality(settings.personality).to_owned(),
        timezone: settings.timezone.clone(),
        default_model: default_model.clone(),
        fallback_model: settings.fallback_model.clone().filter(|id| offered(id)),
        vertical,
        models: catalog.chat_models().map(facts).collect(),
        embedding_model: catalog.embedding_model.clone().unwrap_or_default(),
    })
}

fn facts(model: &molt_model::ModelFacts) -> ModelFacts {
    ModelFacts {
        id: model.id.clone(),
        name: model.name.clone(),
        context_window: model.context_window,
        max_output: model.output_max,
        reasoning: model.reasoning,
        vision: model.vision,
    }
}

const fn personality(personality: Personality) -> &'static str {
    match personality {
        Personality::Friendly => {
            "You are warm and easy to talk to. You use plain words, notice how the other person is doing, and never push."
        }
        Personality::Professional => {
            "You are courteous and precise. You come to the point, state what is certain and what is not, and leave small talk to others."
        }
        Personality::Concise => {
            "You are brief. You answer in as few words as do the job, use lists where they help, and add nothing that was not asked for."
        }
        Personality::Playful => {
            "You are light-hearted and curious. You enjoy a good turn of phrase, and you drop the jokes at once when something is serious."
        }
    }
}
