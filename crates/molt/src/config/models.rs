//! Which providers and models the settings name, and the catalogue that they make with a list of prices.
//! Never: a model without a price, or a price that nobody wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use molt_model::catalog::ALIAS_PROVIDER;
use molt_model::{Catalog, ModelFacts, Nanos, Price, PriceVersion, Tier};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use super::Faults;
use super::keys::{KeySource, MasterKey, Names};
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
    only_with_key: bool,
    models: Vec<ModelSettings>,
    ceiling: Option<Price>,
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

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderSettings {
    kind: ProviderKind,
    #[serde(default)]
    base_url: String,
    #[serde(default)]
    api_key_env: Names,
    #[serde(default, alias = "api_keys_file")]
    api_key_file: PathBuf,
    #[serde(default)]
    only_with_key: bool,
    ceiling_input_usd: Option<Nanos>,
    ceiling_output_usd: Option<Nanos>,
    #[serde(default)]
    models: Vec<ModelSettings>,
}

/// A model of the settings. What isn't said is taken from the list of prices.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelSettings {
    name: String,
    title: Option<String>,
    input_usd: Option<Nanos>,
    output_usd: Option<Nanos>,
    cache_read_usd: Option<Nanos>,
    cache_write_usd: Option<Nanos>,
    reasoning_usd: Option<Nanos>,
    request_usd: Option<Nanos>,
    #[serde(default)]
    tiers: Vec<TierSettings>,
    context_window: Option<u32>,
    output_max: Option<u32>,
    reasoning: Option<bool>,
    vision: Option<bool>,
    embedding: Option<bool>,
    #[serde(default = "yes")]
    listed: bool,
    #[serde(default)]
    strengths: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TierSettings {
    above_input_tokens: i64,
    input_usd: Nanos,
    output_usd: Nanos,
    cache_read_usd: Option<Nanos>,
    cache_write_usd: Option<Nanos>,
    reasoning_usd: Option<Nanos>,
}

const fn yes() -> bool {
    true
}

impl Settings {
    /// The offer, or every fault that shows without a list of prices, as a sentence. `keys`: this process holds them.
    pub(super) fn resolve(
        self,
        keys: bool,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Offer, Vec<String>> {
        let mut faults = Vec::new();
        let mut providers = Vec::new();
        for (name, settings) in self.providers {
            if !is_name(&name) || name == ALIAS_PROVIDER {
                faults
                    .push(format!("providers.{name}: a name has small letters, digits and dashes, and isn't \"molt\""));
            }
            match settings.provider(&name, keys, environment) {
                Ok(provider) => providers.push(provider),
                Err(fault) => faults.push(fault),
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
        if faults.is_empty() {
            faults.extend(offer.faults());
        }
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

    /// What is wrong whatever the prices are.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |setting: &str, id: &str| {
            let provider = id.split_once('/').and_then(|(name, _)| self.providers.iter().find(|p| p.name == name));
            match provider {
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

impl ProviderSettings {
    fn provider(
        self,
        name: &str,
        keys: bool,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Provider, String> {
        let fault = |text: &str| format!("providers.{name}: {text}");
        let key_source = KeySource::new(&self.api_key_env, &self.api_key_file);
        let held = if keys { key_source.read(environment).map_err(|text| fault(&text))? } else { Vec::new() };
        let needed = keys && !self.only_with_key && key_source != KeySource::None;
        if needed && held.is_empty() {
            return Err(fault(&key_source.wanted()));
        }
        let address = || {
            let url = Url::parse(self.base_url.trim_end_matches('/')).ok();
            let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
            url.ok_or_else(|| fault("base_url must be an address with http:// or https://"))
        };
        let base_url = if self.kind == ProviderKind::Practice { None } else { Some(address()?) };
        let ceiling = match (self.ceiling_input_usd, self.ceiling_output_usd) {
            (None, None) => None,
            (Some(input), Some(output)) => {
                let price = Price::flat(input.0, output.0);
                price.validate().map_err(|error| fault(&format!("the ceiling: {error}")))?;
                Some(price)
            }
            _ => return Err(fault("a ceiling is both: ceiling_input_usd and ceiling_output_usd")),
        };
        let mut names = BTreeSet::new();
        for model in &self.models {
            if !names.insert(&model.name) {
                return Err(fault(&format!("{} stands there twice", model.name)));
            }
            if model.name.is_empty() || !model.name.bytes().all(|byte| byte.is_ascii_graphic()) || model.name == "*" {
                return Err(fault(&format!("\"{}\" can't be a model's name", model.name)));
            }
            model.own_price().map_err(|text| fault(&format!("{}: {text}", model.name)))?;
        }
        Ok(Provider {
            name: name.to_owned(),
            kind: self.kind,
            base_url,
            keys: held,
            key_source,
            only_with_key: self.only_with_key,
            models: self.models,
            ceiling,
        })
    }
}

impl ModelSettings {
    /// With what the list says of it. None: nobody wrote a price down.
    fn facts(&self, provider: &str, listed: Option<ModelFacts>) -> Result<Option<ModelFacts>, String> {
        let Some(price) = self.own_price()?.or_else(|| listed.as_ref().map(|facts| facts.price.clone())) else {
            return Ok(None);
        };
        let from_list = |of: fn(&ModelFacts) -> u32| listed.as_ref().map(of);
        let said = |of: fn(&ModelFacts) -> bool| listed.as_ref().is_some_and(of);
        let context_window = self.context_window.or_else(|| from_list(|facts| facts.context_window));
        let output_max = self.output_max.or_else(|| from_list(|facts| facts.output_max));
        let title = self.title.clone().or_else(|| listed.as_ref().map(|facts| facts.name.clone()));
        Ok(Some(ModelFacts {
            id: format!("{provider}/{}", self.name),
            name: title.unwrap_or_else(|| self.name.clone()),
            price,
            context_window: context_window.ok_or("context_window is missing, and the list of prices doesn't say it")?,
            output_max: output_max.ok_or("output_max is missing, and the list of prices doesn't say it")?,
            reasoning: self.reasoning.unwrap_or_else(|| said(|facts| facts.reasoning)),
            vision: self.vision.unwrap_or_else(|| said(|facts| facts.vision)),
            strengths: self.strengths.clone(),
            embedding: self.embedding.unwrap_or_else(|| said(|facts| facts.embedding)),
            listed: self.listed,
        }))
    }

    /// The price that stands in the settings. None: the list's is meant.
    fn own_price(&self) -> Result<Option<Price>, String> {
        let nanos = |usd: Option<Nanos>| usd.map(|usd| usd.0);
        let (input, output) = match (self.input_usd, self.output_usd) {
            (Some(input), Some(output)) => (input, output),
            (None, None) => {
                let more = [self.cache_read_usd, self.cache_write_usd, self.reasoning_usd, self.request_usd];
                let alone = more.iter().all(Option::is_none) && self.tiers.is_empty();
                return if alone { Ok(None) } else { Err("a price needs input_usd and output_usd".to_owned()) };
            }
            _ => return Err("a price is both: input_usd and output_usd".to_owned()),
        };
        let tier = |tier: &TierSettings| Tier {
            above_input_tokens: tier.above_input_tokens,
            input: tier.input_usd.0,
            output: tier.output_usd.0,
            cache_read: nanos(tier.cache_read_usd),
            cache_write: nanos(tier.cache_write_usd),
            reasoning: nanos(tier.reasoning_usd),
        };
        let price = Price {
            input: input.0,
            output: output.0,
            cache_read: nanos(self.cache_read_usd),
            cache_write: nanos(self.cache_write_usd),
            reasoning: nanos(self.reasoning_usd),
            per_request: nanos(self.request_usd).unwrap_or_default(),
            tiers: self.tiers.iter().map(tier).collect(),
        };
        price.validate().map_err(|error| error.to_string())?;
        Ok(Some(price))
    }
}
