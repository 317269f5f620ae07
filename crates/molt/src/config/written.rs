//! A provider and its models as `molt.toml` writes them.
//! Never: half a price. Either all of it stands there, or the list's is meant.

use std::collections::BTreeSet;
use std::path::PathBuf;

use molt_model::{ModelFacts, Nanos, Price, Tier};
use serde::Deserialize;
use url::Url;

use super::keys::{KeySource, Names};
use super::models::{Provider, ProviderKind};

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
pub(super) struct ModelSettings {
    pub(super) name: String,
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

impl ProviderSettings {
    pub(super) fn provider(
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
    pub(super) fn facts(&self, provider: &str, listed: Option<ModelFacts>) -> Result<Option<ModelFacts>, String> {
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
