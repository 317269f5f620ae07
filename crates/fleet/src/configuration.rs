//! A bot's settings as the runtime's configuration.
//! Never: the runtime's own format; `bot::render` makes that.

use molt_bot::{ModelFacts, RenderInputs, render};
use molt_model::{Catalog, Personality, Settings, Vertical};
use serde_json::Value;

/// Renders the settings. A model that this installation doesn't offer any more gives way to the default one.
pub(crate) fn configuration(settings: &Settings, vertical: Vertical, catalog: &Catalog) -> Value {
    let offered = |id: &str| catalog.find(id).filter(|model| !model.embedding);
    let fallback = settings.fallback_model.as_deref().and_then(offered);
    let default = offered(&settings.default_model).or_else(|| offered(&catalog.default_model));
    // What nobody lists can be chosen by its name, and the runtime knows only what stands in its configuration.
    let mut models: Vec<&molt_model::ModelFacts> = catalog.chat_models().collect();
    for chosen in [default, fallback].into_iter().flatten() {
        if !models.iter().any(|model| model.id == chosen.id) {
            models.push(chosen);
        }
    }
    render(&RenderInputs {
        bot_name: settings.bot_name.clone(),
        personality_text: personality(settings.personality).to_owned(),
        timezone: settings.timezone.clone(),
        default_model: default.map_or_else(|| catalog.default_model.clone(), |model| model.id.clone()),
        fallback_model: fallback.map(|model| model.id.clone()),
        vertical,
        models: models.into_iter().map(facts).collect(),
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
