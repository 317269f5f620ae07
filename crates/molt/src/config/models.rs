//! Which providers and models are offered, from the settings and the keys that are really there.
//! Never: a model without a price, or a provider whose key is missing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use molt_model::{Catalog, ModelFacts, Nanos, Price, PriceVersion};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

/// The protocol that a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// Anything that speaks OpenAI's protocol.
    Openai,
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
    pub api_key: Option<SecretString>,
}

pub(super) struct Settings {
    pub(super) providers: BTreeMap<String, ProviderSettings>,
    pub(super) default_model: String,
    pub(super) embedding_model: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderSettings {
    kind: ProviderKind,
    #[serde(default)]
    base_url: String,
    #[serde(default)]
    api_key_env: String,
    #[serde(default)]
    api_key_file: PathBuf,
    #[serde(default)]
    only_with_key: bool,
    #[serde(default)]
    models: Vec<ModelSettings>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelSettings {
    name: String,
    title: String,
    input_usd: Nanos,
    output_usd: Nanos,
    cache_read_usd: Option<Nanos>,
    cache_write_usd: Option<Nanos>,
    context_window: u32,
    output_max: u32,
    #[serde(default)]
    reasoning: bool,
    #[serde(default)]
    vision: bool,
    #[serde(default)]
    embedding: bool,
    strengths: String,
}

/// What stands in while faults are collected.
pub(super) fn empty() -> Catalog {
    Catalog::new(PriceVersion(String::new()), Vec::new(), String::new(), None)
}

impl Settings {
    /// The catalogue and the providers behind it, or every fault as a sentence.
    pub(super) fn resolve(
        self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Catalog, Vec<Provider>), Vec<String>> {
        let mut faults = Vec::new();
        let mut providers = Vec::new();
        let mut models = Vec::new();
        for (name, settings) in &self.providers {
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
                faults.push(format!("providers.{name}: a name has small letters, digits and dashes only"));
            }
            match settings.provider(name, environment) {
                Ok(Some(provider)) => {
                    models.extend(settings.models.iter().map(|model| model.facts(name)));
                    providers.push(provider);
                }
                Ok(None) => {}
                Err(fault) => faults.push(fault),
            }
        }
        // The practice model is the last resort of everything that chooses by itself.
        providers.sort_by_key(|provider| provider.kind == ProviderKind::Practice);
        let chosen = |wish: &str, setting: &str, embedding: bool| choose(&providers, &models, wish, setting, embedding);
        let default_model = chosen(&self.default_model, "default_model", false);
        let embedding_model = chosen(&self.embedding_model, "embedding_model", true);
        if default_model == Ok(None) && faults.is_empty() {
            faults.push("providers: no model to talk to is left; allow at least one provider".to_owned());
        }
        faults.extend([&default_model, &embedding_model].into_iter().filter_map(|choice| choice.clone().err()));
        let (Ok(Some(default_model)), Ok(embedding_model), true) = (default_model, embedding_model, faults.is_empty())
        else {
            return Err(faults);
        };
        let version = version(&models);
        Ok((Catalog::new(version, models, default_model, embedding_model), providers))
    }
}

/// The wish if it is there; without one, the first fitting model of the first provider.
fn choose(
    providers: &[Provider],
    models: &[ModelFacts],
    wish: &str,
    setting: &str,
    embedding: bool,
) -> Result<Option<String>, String> {
    let fits = |model: &&ModelFacts| model.embedding == embedding;
    if !wish.is_empty() {
        let found = models.iter().filter(fits).find(|model| model.id == wish);
        let fault = || format!("{setting}: there is no such model \"{wish}\", or its provider has no key");
        return found.map(|model| Some(model.id.clone())).ok_or_else(fault);
    }
    let of = |provider: &Provider| {
        let prefix = format!("{}/", provider.name);
        models.iter().filter(fits).find(|model| model.id.starts_with(&prefix))
    };
    Ok(providers.iter().find_map(of).map(|model| model.id.clone()))
}

/// A short hash of all prices: equal books are one book.
fn version(models: &[ModelFacts]) -> PriceVersion {
    let mut prices: Vec<(&str, &Price)> = models.iter().map(|model| (model.id.as_str(), &model.price)).collect();
    prices.sort_by_key(|(id, _)| *id);
    let text = serde_json::to_string(&prices).expect("names and numbers");
    PriceVersion(hex::encode(&Sha256::digest(text)[..6]))
}

impl ProviderSettings {
    /// `None`: not offered, since its key is not there and it may be left out then.
    fn provider(&self, name: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<Provider>, String> {
        let api_key = self.api_key(name, environment)?;
        if api_key.is_none() && self.only_with_key {
            return Ok(None);
        }
        if api_key.is_none() && !self.api_key_env.is_empty() {
            return Err(format!("providers.{name}: the variable {} is not set", self.api_key_env));
        }
        let base_url = match self.kind {
            ProviderKind::Practice => None,
            ProviderKind::Openai => Some(
                Url::parse(self.base_url.trim_end_matches('/'))
                    .ok()
                    .filter(|url| matches!(url.scheme(), "http" | "https"))
                    .ok_or_else(|| format!("providers.{name}: base_url must be an address with http:// or https://"))?,
            ),
        };
        Ok(Some(Provider { name: name.to_owned(), kind: self.kind, base_url, api_key }))
    }

    fn api_key(
        &self,
        name: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<SecretString>, String> {
        let text =
            if !self.api_key_file.as_os_str().is_empty() {
                let read = std::fs::read_to_string(&self.api_key_file);
                Some(read.map_err(|error| {
                    format!("providers.{name}: {} can't be read: {error}", self.api_key_file.display())
                })?)
            } else if self.api_key_env.is_empty() {
                None
            } else {
                environment(&self.api_key_env)
            };
        Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).map(SecretString::from))
    }
}

impl ModelSettings {
    fn facts(&self, provider: &str) -> ModelFacts {
        ModelFacts {
            id: format!("{provider}/{}", self.name),
            name: self.title.clone(),
            price: Price {
                input: self.input_usd.0,
                output: self.output_usd.0,
                cache_read: self.cache_read_usd.map(|price| price.0),
                cache_write: self.cache_write_usd.map(|price| price.0),
                ..Price::default()
            },
            context_window: self.context_window,
            output_max: self.output_max,
            reasoning: self.reasoning,
            vision: self.vision,
            strengths: self.strengths.clone(),
            embedding: self.embedding,
            listed: true,
        }
    }
}
