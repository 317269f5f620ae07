//! Which providers and models the settings name, and the catalogue that they make with a list of prices.
//! Never: a model without a price, or a price that nobody wrote down.

use std::collections::{BTreeMap, BTreeSet};

use molt_ghost::MasterKey;
use molt_model::catalog::ALIAS_PROVIDER;
use molt_model::{Catalog, ModelFacts, Price, PriceVersion};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use super::Faults;
use super::keys::KeySource;
use super::written::{ModelSettings, ProviderSettings};
use crate::prices::list::{PriceList, is_name};

/// A model that nobody knows, behind a ceiling: the proxy asks for answers of this length where the caller doesn't say.
const CEILING_OUTPUT_MAX: u32 = 16_384;
/// The longest input of any model that is known, roughly; counts where a call's input isn't in its body.
const CEILING_CONTEXT: u32 = 1_000_000;

/// The protocol that a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// Anything that speaks OpenAI's protocol.
    Openai,
    /// Anthropic's own.
    Anthropic,
    /// The built-in practice model.
    Practice,
}

/// A provider that can be used as it is.
#[derive(Clone, Debug)]
pub struct Provider {
    pub name: String,
    pub kind: ProviderKind,
    /// Without a trailing slash; absent for the practice model.
    pub base_url: Option<Url>,
    /// Empty for a provider that needs none, and in a process that isn't the proxy.
    pub keys: Vec<MasterKey>,
    pub key_source: KeySource,
    /// Offered only where there is a key.
    pub(super) only_with_key: bool,
    pub(super) models: Vec<ModelSettings>,
    pub(super) ceiling: Option<Price>,
}

/// What the settings say of models; a list of prices makes a catalogue of it.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// All that are configured. The practice model comes last: it is the last resort of everything that chooses.
    providers: Vec<Provider>,
    default_model: String,
    embedding_model: String,
    aliases: BTreeMap<String, Vec<String>>,
    /// This process is a proxy: what has no key here has none.
    holds_keys: bool,
}

pub(super) struct Settings {
    pub(super) providers: BTreeMap<String, ProviderSettings>,
    pub(super) default_model: String,
    pub(super) embedding_model: String,
    pub(super) aliases: BTreeMap<String, Vec<String>>,
}

impl Settings {
    /// The offer, or every fault that shows without a list of prices, as a sentence. `keys`: this process holds them.
    pub(super) fn resolve(
        self,
        keys: bool,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Offer, Vec<String>> {
        let mut faults = Vec::new();
        let (mut providers, mut broken) = (Vec::new(), BTreeSet::new());
        for (name, settings) in self.providers {
            if !is_name(&name) || name == ALIAS_PROVIDER {
                faults
                    .push(format!("providers.{name}: a name has small letters, digits and dashes, and isn't \"molt\""));
            }
            match settings.provider(&name, keys, environment) {
                Ok(provider) => providers.push(provider),
                Err(fault) => {
                    faults.push(fault);
                    broken.insert(name);
                }
            }
        }
        providers.sort_by_key(|provider| provider.kind == ProviderKind::Practice);
        let offer = Offer {
            providers,
            default_model: self.default_model,
            embedding_model: self.embedding_model,
            aliases: self.aliases,
            holds_keys: keys,
        };
        faults.extend(offer.faults(&broken));
        if faults.is_empty() { Ok(offer) } else { Err(faults) }
    }
}

impl Offer {
    /// The providers that this process can call. Only meaningful where it holds the keys.
    pub fn providers(&self) -> impl Iterator<Item = &Provider> {
        self.providers.iter().filter(|provider| !provider.only_with_key || !provider.keys.is_empty())
    }

    /// The names of those that need a key and have one here.
    #[must_use]
    pub fn keyed(&self) -> BTreeSet<String> {
        self.providers
            .iter()
            .filter(|provider| !provider.keys.is_empty())
            .map(|provider| provider.name.clone())
            .collect()
    }

    /// Sentences about keys that others can read.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let held = self.providers.iter().filter(|provider| !provider.keys.is_empty());
        held.filter_map(|provider| provider.key_source.warning()).collect()
    }

    /// The catalogue at these prices. `keyed`: the providers that have keys, here or in the proxies.
    pub fn catalog(&self, list: &PriceList, keyed: &BTreeSet<String>) -> Result<Catalog, Faults> {
        let offered: Vec<&Provider> = self.providers.iter().filter(|provider| self.offers(provider, keyed)).collect();
        let mut faults = Vec::new();
        let mut models: Vec<ModelFacts> = Vec::new();
        for provider in &offered {
            models.extend(provider.models(list, &mut faults));
        }
        let default_model = choose(&offered, &models, &self.default_model, "default_model", false, &mut faults);
        let embedding_model = choose(&offered, &models, &self.embedding_model, "embedding_model", true, &mut faults);
        for (name, targets) in &self.aliases {
            faults.extend(alias_faults(name, targets, &models));
        }
        let Some(default_model) = default_model.filter(|_| faults.is_empty()) else {
            if faults.is_empty() {
                faults.push("providers: no model to talk to is left; allow at least one provider".to_owned());
            }
            return Err(Faults(faults));
        };
        // What everything starts with must be there to choose.
        for model in models.iter_mut().filter(|model| model.id == default_model) {
            model.listed = true;
        }
        let version = version(list, &models);
        Ok(Catalog::new(version, models, default_model, embedding_model).with_aliases(&self.aliases))
    }

    /// A provider that the operator names as the default or in an alias is meant, whoever has its key.
    fn offers(&self, provider: &Provider, keyed: &BTreeSet<String>) -> bool {
        let of_it = |id: &String| id.split_once('/').is_some_and(|(name, _)| name == provider.name);
        let named = || {
            let aliased = self.aliases.values().flatten();
            aliased.chain([&self.default_model, &self.embedding_model]).any(of_it)
        };
        !provider.only_with_key || keyed.contains(&provider.name) || named()
    }

    /// What is wrong whatever the prices are. `broken`: providers whose own faults are told already.
    fn faults(&self, broken: &BTreeSet<String>) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |setting: &str, id: &str| {
            let provider = id.split_once('/').and_then(|(name, _)| self.providers.iter().find(|p| p.name == name));
            match provider {
                None if id.split_once('/').is_some_and(|(name, _)| broken.contains(name)) => {}
                None => faults.push(format!("{setting}: \"{id}\" isn't provider/model of a provider in the settings")),
                Some(provider)
                    if provider.is_whole()
                        && !provider
                            .models
                            .iter()
                            .any(|own| id.split_once('/').is_some_and(|(_, name)| name == own.name)) =>
                {
                    faults.push(format!("{setting}: there is no model \"{id}\""));
                }
                Some(provider) if self.holds_keys && provider.only_with_key && provider.keys.is_empty() => {
                    faults.push(format!("{setting}: \"{id}\": {}", provider.key_source.wanted()));
                }
                Some(_) => {}
            }
        };
        for (setting, id) in [("default_model", &self.default_model), ("embedding_model", &self.embedding_model)] {
            if !id.is_empty() {
                check(setting, id);
            }
        }
        for (name, targets) in &self.aliases {
            targets.iter().for_each(|id| check(&format!("aliases.{name}"), id));
        }
        for (name, targets) in &self.aliases {
            if !is_name(name) {
                faults.push(format!("aliases.{name}: a name has small letters, digits and dashes only"));
            }
            if targets.is_empty() {
                faults.push(format!("aliases.{name}: name at least one model"));
            }
        }
        faults
    }
}

/// The wish if it is there; without one, the first fitting model that people are shown, of the first provider.
fn choose(
    providers: &[&Provider],
    models: &[ModelFacts],
    wish: &str,
    setting: &str,
    embedding: bool,
    faults: &mut Vec<String>,
) -> Option<String> {
    let fits = |model: &&ModelFacts| model.embedding == embedding;
    if !wish.is_empty() {
        let found = models.iter().filter(fits).find(|model| model.id == wish);
        if found.is_none() {
            let kind = if embedding { "model for embeddings" } else { "model to talk to" };
            faults.push(format!("{setting}: \"{wish}\" is no {kind} whose price is known"));
        }
        return Some(wish.to_owned());
    }
    let of = |provider: &&Provider| {
        let prefix = format!("{}/", provider.name);
        models.iter().filter(fits).find(|model| model.listed && model.id.starts_with(&prefix))
    };
    providers.iter().find_map(of).map(|model| model.id.clone())
}

fn alias_faults(name: &str, targets: &[String], models: &[ModelFacts]) -> Vec<String> {
    let find = |id: &String| models.iter().find(|model| model.id == *id);
    let unknown = targets.iter().filter(|id| find(id).is_none());
    let mut faults: Vec<String> =
        unknown.map(|id| format!("aliases.{name}: \"{id}\" is no model whose price is known")).collect();
    let kinds: BTreeSet<bool> = targets.iter().filter_map(find).map(|model| model.embedding).collect();
    if kinds.len() > 1 {
        faults.push(format!("aliases.{name}: models to talk to and models for embeddings can't stand for each other"));
    }
    faults
}

/// The list's day and a short hash of all prices: equal books are one book.
fn version(list: &PriceList, models: &[ModelFacts]) -> PriceVersion {
    let prices: BTreeMap<&str, &Price> = models.iter().map(|model| (model.id.as_str(), &model.price)).collect();
    let text = serde_json::to_string(&prices).expect("names and numbers");
    PriceVersion(format!("{}-{}", list.date, hex::encode(&Sha256::digest(text)[..6])))
}

impl Provider {
    /// No list of prices names its models: those of the settings are all.
    fn is_whole(&self) -> bool {
        self.kind == ProviderKind::Practice
    }

    /// Its models: those of the settings first, then what else the list prices, then the ceiling.
    fn models(&self, list: &PriceList, faults: &mut Vec<String>) -> Vec<ModelFacts> {
        let mut listed: BTreeMap<&str, ModelFacts> =
            list.models_of(&self.name).filter_map(|model| Some((model.model.as_str(), model.facts()?))).collect();
        let mut models = Vec::new();
        for own in &self.models {
            match own.facts(&self.name, listed.remove(own.name.as_str())) {
                Ok(Some(facts)) => models.push(facts),
                // Lists change; only what somebody starts with or names must be there, and that is checked by name.
                Ok(None) => {
                    tracing::warn!(provider = self.name, model = own.name, "a model has no price; it isn't offered")
                }
                Err(fault) => faults.push(format!("providers.{}: {}: {fault}", self.name, own.name)),
            }
        }
        models.extend(listed.into_values());
        models.extend(self.ceiling.as_ref().map(|price| ModelFacts {
            id: format!("{}/*", self.name),
            name: format!("Any model of {}", self.name),
            price: price.clone(),
            context_window: CEILING_CONTEXT,
            output_max: CEILING_OUTPUT_MAX,
            reasoning: false,
            vision: false,
            strengths: String::new(),
            embedding: false,
            listed: false,
        }));
        models
    }
}

#[cfg(test)]
#[expect(clippy::result_large_err, reason = "figment's jail asks for its error by value")]
mod tests {
    use super::super::{Config, Overrides};
    use super::*;
    use figment::Jail;
    use molt_model::Tier;

    /// What the settings come to, in a proxy or elsewhere, with these variables set.
    fn read(text: &str, holds_keys: bool, variables: &[(&str, &str)]) -> Result<Config, Faults> {
        let mut read = None;
        Jail::expect_with(|jail| {
            jail.create_file("molt.toml", text)?;
            read = Some(Config::read(&Overrides { holds_keys, ..Overrides::default() }, &|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            }));
            Ok(())
        });
        read.expect("read in the jail")
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn catalog(config: &Config, keyed: &[&str]) -> Result<Catalog, Faults> {
        config.offer.catalog(&PriceList::built_in(), &names(keyed))
    }

    #[test]
    fn every_priced_model_can_be_called_and_a_few_are_shown() {
        let config = read("", true, &[("OPENAI_API_KEY", "sk-1"), ("ANTHROPIC_API_KEY", "sk-2")]).unwrap();
        assert_eq!(config.offer.keyed(), names(&["anthropic", "openai"]));
        let catalog = config.own_catalog().unwrap();
        let shown: Vec<&str> = catalog.chat_models().map(|model| model.id.as_str()).collect();
        assert_eq!(shown.len(), 8, "{shown:?}");
        assert!(catalog.chat_models().all(|model| !model.strengths.is_empty()));
        let deprecated = catalog.find("anthropic/claude-3-haiku-20240307").unwrap();
        assert_eq!((deprecated.price.input, deprecated.listed), (250_000_000, false));
        assert!(catalog.find("venice/llama-3.3-70b").is_none(), "no key");
        assert!(catalog.resolve("openai/gpt-99").is_empty(), "no price");
        assert!(catalog.version.0.starts_with("2026-07-02-"));
        assert_eq!(catalog.find("openai/gpt-5.4").unwrap().price.tiers.len(), 1);
    }

    #[test]
    fn only_a_proxy_needs_the_keys() {
        let text = "default_model = \"venice/llama-3.3-70b\"\n[providers.mine]\nkind = \"openai\"\n\
                    base_url = \"http://127.0.0.1:1\"\napi_key_file = \"/nowhere/key\"\n";
        let said = read(text, true, &[]).unwrap_err().to_string();
        assert!(said.contains("/nowhere/key"), "{said}");
        let said = read("default_model = \"venice/llama-3.3-70b\"", true, &[]).unwrap_err().to_string();
        assert!(said.contains("VENICE_API_KEY"), "{said}");
        let config = read(text, false, &[("OPENAI_API_KEY", "sk-1")]).unwrap();
        assert_eq!(config.offer.keyed(), names(&[]), "not even one that is there is read");
        let before = catalog(&config, &[]).unwrap();
        assert_eq!(before.default_model, "venice/llama-3.3-70b");
        assert!(before.find("openai/gpt-5.4").is_none());
        assert!(catalog(&config, &["openai"]).unwrap().find("openai/gpt-5.4").is_some(), "as the proxy says");
    }

    #[test]
    fn the_settings_win_over_the_list() {
        let text = "[providers.openai]\nkind = \"openai\"\nceiling_input_usd = \"30\"\nceiling_output_usd = \"180\"\n\
            [[providers.openai.models]]\nname = \"gpt-5.4\"\ninput_usd = \"1\"\noutput_usd = \"2\"\nreasoning_usd = \"3\"\n\
            request_usd = \"0.01\"\ntiers = [{ above_input_tokens = 10, input_usd = \"4\", output_usd = \"5\" }]\n\
            [[providers.openai.models]]\nname = \"gone-by-now\"\n\
            [aliases]\nbest = [\"openai/gpt-5.4\", \"openai/o3\"]\n";
        let config = read(text, true, &[("OPENAI_API_KEY", "sk-1")]).unwrap();
        let catalog = config.own_catalog().unwrap();
        let tier = Tier { above_input_tokens: 10, input: 4_000_000_000, output: 5_000_000_000, ..Tier::default() };
        let price = Price {
            reasoning: Some(3_000_000_000),
            per_request: 10_000_000,
            tiers: vec![tier],
            ..Price::flat(1_000_000_000, 2_000_000_000)
        };
        let own = catalog.find("openai/gpt-5.4").unwrap();
        assert_eq!((&own.price, own.context_window, &*own.name), (&price, 922_000, "GPT-5.4"));
        let best: Vec<_> = catalog.resolve("best").into_iter().map(|target| target.id).collect();
        assert_eq!(best, ["openai/gpt-5.4", "openai/o3"]);
        let unknown = catalog.resolve("openai/gpt-99");
        assert_eq!((unknown[0].facts.price.output, unknown[0].ceiling), (180_000_000_000, true));
        assert!(catalog.prices().contains_key("openai/*"));
    }

    #[test]
    fn faults_of_models_are_named_at_once() {
        let text = "[providers.a]\nkind = \"openai\"\nbase_url = \"http://a\"\nceiling_input_usd = \"1\"\n\
            [providers.b]\nkind = \"openai\"\nbase_url = \"http://b\"\n\
            [[providers.b.models]]\nname = \"half\"\ninput_usd = \"1\"\n\
            [providers.molt]\nkind = \"practice\"\n";
        let said = read(text, true, &[]).unwrap_err().to_string();
        for part in ["ceiling_output_usd", "providers.b: half", "providers.molt"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let text = "[aliases]\nbest = [\"nobody/x\"]\nFast = [\"practice/practice-1\"]\nnone = []\n";
        let said = read(text, true, &[]).unwrap_err().to_string();
        for part in ["aliases.best", "aliases.Fast", "aliases.none"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let text = "embedding_model = \"openai/gpt-5.4\"\n\
            [aliases]\nbest = [\"openai/gpt-99\"]\nmixed = [\"openai/gpt-5.4\", \"openai/text-embedding-3-small\"]\n";
        let config = read(text, true, &[("OPENAI_API_KEY", "sk-1")]).unwrap();
        let said = config.own_catalog().unwrap_err().to_string();
        for part in ["embedding_model", "aliases.best", "aliases.mixed"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
