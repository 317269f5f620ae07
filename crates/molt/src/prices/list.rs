//! A list of what providers ask for their models, as a file: the built-in one, and those that operators import.
//! Never: a figure that went through binary rounding, or a model whose price can't be billed.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use molt_model::catalog::ALIAS_PROVIDER;
use molt_model::{ModelFacts, Nanos, Price, Tier};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Origin and licence stand in the file itself.
const BUILT_IN: &str = include_str!("../../prices/2026-07-02.json");
/// Ten times the longest list known; a larger file is something else.
pub const LIST_BYTES_MAX: u64 = 8 * 1024 * 1024;
const UNIT: &str = "US dollars per million tokens";
/// Where a list doesn't say: what nearly every model of the last years reads and writes.
const CONTEXT_UNSAID: u32 = 128_000;
const OUTPUT_UNSAID: u32 = 16_384;

/// A dated list. What it says of a provider replaces everything that an earlier list said of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceList {
    pub date: NaiveDate,
    /// Where the figures are from.
    pub source: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub licence: String,
    unit: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The version of the list below, for the providers that this one didn't name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    pub models: Vec<Listed>,
}

/// One model of a list. What else a list says of it isn't read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub provider: String,
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    usd_per_million_tokens: Rates,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usd_per_request: Option<Usd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<Limits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modalities: Option<Modalities>,
}

/// Strict: a price that isn't understood would be a price that isn't charged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rates {
    input: Usd,
    output: Usd,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_read: Option<Usd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_write: Option<Usd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<Usd>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tiers: Vec<TierRates>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TierRates {
    tier: Above,
    input: Usd,
    output: Usd,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_read: Option<Usd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_write: Option<Usd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<Usd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Above {
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    kind: Option<TierKind>,
    size: i64,
}

/// The only kind that there is: by the length of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TierKind {
    Context,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Modalities {
    #[serde(default)]
    input: Vec<String>,
    #[serde(default)]
    output: Vec<String>,
}

/// US dollars, written as a number or as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usd(Nanos);

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Usd {
    /// A number is read as the decimal that stands there: the shortest text of a double is that for up to 15 digits.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Whole(i64),
            Decimal(f64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Whole(dollars) => dollars.to_string(),
            Written::Decimal(dollars) => dollars.to_string(),
            Written::Text(text) => text,
        };
        let fault = |error| serde::de::Error::custom(format!("\"{text}\" is {error}"));
        text.parse().map(Self).map_err(fault)
    }
}

/// Everything wrong with a list, a line each.
#[derive(Debug, thiserror::Error)]
#[error("this list of prices can't be used:\n{}", .0.iter().map(|fault| format!("  - {fault}")).collect::<Vec<_>>().join("\n"))]
pub struct ListFaults(pub Vec<String>);

/// How one model's price differs from the list before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Added(Price),
    Removed(Price),
    Changed(Price, Price),
}

impl PriceList {
    /// The list that this program came with.
    #[must_use]
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test reads it")
    }

    /// Reads a file. Every fault comes in one message.
    pub fn parse(text: &str) -> Result<Self, ListFaults> {
        let list: Self = serde_json::from_str(text).map_err(|error| ListFaults(vec![error.to_string()]))?;
        let mut faults = Vec::new();
        if list.unit != UNIT {
            faults.push(format!("unit: must be \"{UNIT}\""));
        }
        if list.source.trim().is_empty() {
            faults.push("source: say where the prices are from".to_owned());
        }
        if list.models.is_empty() {
            faults.push("models: there are none".to_owned());
        }
        let mut seen = BTreeSet::new();
        for model in &list.models {
            let id = model.id();
            if !is_name(&model.provider) || model.provider == ALIAS_PROVIDER {
                faults.push(format!("{id}: \"{}\" can't be a provider's name", model.provider));
            }
            if !model.model.bytes().all(|byte| byte.is_ascii_graphic()) || model.model.is_empty() {
                faults.push(format!("{id}: a model's name has no blanks and no letters beyond ASCII"));
            }
            if let Err(error) = model.own_price().validate() {
                faults.push(format!("{id}: {error}"));
            }
            if !seen.insert(id.clone()) {
                faults.push(format!("{id}: stands there twice"));
            }
        }
        if faults.is_empty() { Ok(list) } else { Err(ListFaults(faults)) }
    }

    /// A list as the database keeps it.
    pub fn stored(list: serde_json::Value) -> anyhow::Result<Self> {
        Ok(Self::parse(&list.to_string())?)
    }

    /// The day and a short hash of what is charged: equal lists have equal versions.
    #[must_use]
    pub fn version(&self) -> String {
        let mut models: Vec<&Listed> = self.models.iter().collect();
        models.sort_by_key(|model| model.id());
        let text = serde_json::to_string(&models).expect("names and numbers");
        format!("{}-{}", self.date, hex::encode(&Sha256::digest(text)[..4]))
    }

    /// This list in force over an earlier one: providers that it doesn't name keep what they had.
    #[must_use]
    pub fn over(mut self, earlier: &Self) -> Self {
        let named: BTreeSet<String> = self.models.iter().map(|model| model.provider.clone()).collect();
        let kept: Vec<_> = earlier.models.iter().filter(|model| !named.contains(&model.provider)).cloned().collect();
        self.over = (!kept.is_empty()).then(|| earlier.version());
        self.models.extend(kept);
        self
    }

    /// The models of one provider that can be billed, by the provider's own names.
    pub fn models_of<'a>(&'a self, provider: &'a str) -> impl Iterator<Item = &'a Listed> {
        self.models.iter().filter(move |model| model.provider == provider && model.price().is_some())
    }

    /// What can be billed, by `provider/model`.
    #[must_use]
    pub fn prices(&self) -> BTreeMap<String, Price> {
        self.models.iter().filter_map(|model| Some((model.id(), model.price()?))).collect()
    }

    /// Models that the list names and that can't be called: no text comes out of them, or no price is known.
    pub fn left_out(&self) -> impl Iterator<Item = String> {
        self.models.iter().filter(|model| model.price().is_none()).map(Listed::id)
    }

    /// What is different from an earlier list, by model.
    #[must_use]
    pub fn changes_since(&self, earlier: &Self) -> BTreeMap<String, Change> {
        let (mut before, now) = (earlier.prices(), self.prices());
        let mut changes = BTreeMap::new();
        for (id, price) in now {
            match before.remove(&id) {
                None => changes.insert(id, Change::Added(price)),
                Some(old) if old != price => changes.insert(id, Change::Changed(old, price)),
                Some(_) => None,
            };
        }
        changes.extend(before.into_iter().map(|(id, price)| (id, Change::Removed(price))));
        changes
    }
}

impl Listed {
    fn id(&self) -> String {
        format!("{}/{}", self.provider, self.model)
    }

    /// None: it can't be called. Sources write zeros where they know no price; a model that really costs nothing is
    /// written out in the settings by somebody who means it.
    fn price(&self) -> Option<Price> {
        let limit = self.limit.clone().unwrap_or_default();
        let speaks = self
            .modalities
            .as_ref()
            .is_none_or(|kinds| kinds.output.is_empty() || kinds.output.iter().any(|k| k == "text"));
        let price = self.own_price();
        (speaks && limit.input != Some(0) && limit.output != Some(0) && !price.is_free()).then_some(price)
    }

    fn own_price(&self) -> Price {
        let rates = &self.usd_per_million_tokens;
        let known = |rate: Option<Usd>, full: Usd| rate.filter(|rate| rate.0 != Nanos::ZERO || full == *rate);
        let nanos = |rate: Option<Usd>, full: Usd| known(rate, full).map(|rate| rate.0.0);
        let tier = |tier: &TierRates| Tier {
            above_input_tokens: tier.tier.size,
            input: tier.input.0.0,
            output: tier.output.0.0,
            cache_read: nanos(tier.cache_read, tier.input),
            cache_write: nanos(tier.cache_write, tier.input),
            reasoning: nanos(tier.reasoning, tier.output),
        };
        Price {
            input: rates.input.0.0,
            output: rates.output.0.0,
            cache_read: nanos(rates.cache_read, rates.input),
            cache_write: nanos(rates.cache_write, rates.input),
            reasoning: nanos(rates.reasoning, rates.output),
            per_request: self.usd_per_request.map_or(0, |usd| usd.0.0),
            tiers: rates.tiers.iter().map(tier).collect(),
        }
    }

    /// Unlisted: the settings say what people are shown.
    #[must_use]
    pub fn facts(&self) -> Option<ModelFacts> {
        let price = self.price()?;
        let limit = self.limit.clone().unwrap_or_default();
        // What is said and not thought is what every model that talks is paid for.
        let embedding = price.output == 0;
        let reads = |kind: &str| self.modalities.as_ref().is_some_and(|kinds| kinds.input.iter().any(|k| k == kind));
        Some(ModelFacts {
            id: self.id(),
            name: self.name.clone().unwrap_or_else(|| self.model.clone()),
            price,
            context_window: limit.input.or(limit.context).unwrap_or(CONTEXT_UNSAID),
            output_max: limit.output.unwrap_or(OUTPUT_UNSAID),
            reasoning: self.reasoning.unwrap_or(false),
            vision: reads("image"),
            strengths: String::new(),
            embedding,
            listed: false,
        })
    }
}

/// What a provider may be called.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(models: &str) -> Result<PriceList, ListFaults> {
        PriceList::parse(&format!(
            r#"{{"date": "2026-11-01", "source": "here", "unit": "{UNIT}", "models": [{models}]}}"#
        ))
    }

    fn model(provider: &str, name: &str, rates: &str) -> String {
        format!(r#"{{"provider": "{provider}", "model": "{name}", "usd_per_million_tokens": {rates}}}"#)
    }

    #[test]
    fn the_built_in_list_is_whole_and_names_its_origin() {
        let list = PriceList::built_in();
        assert_eq!((list.date.to_string().as_str(), list.models.len()), ("2026-07-02", 146));
        assert!(list.source.contains("models.dev at f3fc692") && list.licence.starts_with("MIT"));
        assert_eq!(list.left_out().collect::<Vec<_>>(), ["openai/gpt-image-2"]);
        let facts: BTreeMap<String, ModelFacts> =
            list.models.iter().filter_map(Listed::facts).map(|facts| (facts.id.clone(), facts)).collect();
        let gpt = &facts["openai/gpt-5.4"];
        let tier = Tier {
            above_input_tokens: 272_000,
            input: 5_000_000_000,
            output: 22_500_000_000,
            cache_read: Some(500_000_000),
            ..Tier::default()
        };
        let price = Price { tiers: vec![tier], ..Price::flat(2_500_000_000, 15_000_000_000) };
        assert_eq!(gpt.price, price.with_cache_read(250_000_000));
        assert_eq!((gpt.context_window, gpt.output_max, gpt.reasoning, gpt.vision), (922_000, 128_000, true, true));
        assert_eq!(facts["venice/arcee-trinity-large-thinking"].price.input, 312_500_000);
        assert_eq!(facts["openai/gpt-3.5-turbo"].price.cache_read, None, "a zero of the source is no gift");
        let embedding: Vec<_> = facts.values().filter(|facts| facts.embedding).map(|facts| &*facts.id).collect();
        assert_eq!(embedding.len(), 3, "{embedding:?}");
        assert!(facts.values().all(|facts| !facts.price.is_free() && !facts.listed));
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(PriceList::parse(&text).unwrap(), list);
    }

    #[test]
    fn every_fault_of_a_list_is_named() {
        let models = [
            model("a", "minus", r#"{"input": -1, "output": 1}"#),
            model("a", "dear", r#"{"input": 1, "output": 2000000}"#),
            model("a", "twice", r#"{"input": 1, "output": 1}"#),
            model("a", "twice", r#"{"input": 1, "output": 1}"#),
            model("A B", "x", r#"{"input": 1, "output": 1}"#),
            model("molt", "x", r#"{"input": 1, "output": 1}"#),
            model(
                "a",
                "tiers",
                r#"{"input": 1, "output": 1, "tiers": [{"tier": {"size": 0}, "input": 1, "output": 1}]}"#,
            ),
        ];
        let said = list(&models.join(",")).unwrap_err().to_string();
        for part in ["a/minus", "a/dear", "a/twice: stands", "\"A B\"", "\"molt\"", "a/tiers"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        for (rates, part) in [
            (r#"{"input": 1}"#, "output"),
            (r#"{"input": 1, "output": 1, "input_audio": 3}"#, "input_audio"),
            (r#"{"input": 0.00000000001, "output": 1}"#, "nine decimals"),
            (r#"{"input": "free", "output": 1}"#, "free"),
        ] {
            let said = list(&model("a", "m", rates)).unwrap_err().to_string();
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(list("").unwrap_err().to_string().contains("there are none"));
        let other = BUILT_IN.replace(UNIT, "euros per token");
        assert!(PriceList::parse(&other).unwrap_err().to_string().contains("unit"));
    }

    #[test]
    fn a_list_replaces_the_providers_that_it_names() {
        let old = [
            model("a", "one", r#"{"input": 1, "output": 2}"#),
            model("a", "two", r#"{"input": 1, "output": 2}"#),
            model("b", "one", r#"{"input": 1, "output": 2}"#),
        ];
        let old = list(&old.join(",")).unwrap();
        let new = [
            model("a", "one", r#"{"input": "1.0", "output": 2.50}"#),
            model("a", "three", r#"{"input": 0, "output": 0}"#),
            model("a", "four", r#"{"input": 3, "output": 0}"#),
        ];
        let new = list(&new.join(",")).unwrap().over(&old);
        assert_eq!(new.over.as_deref(), Some(&*old.version()));
        let dollars = |input: i64, output: i64| Price::flat(input * 1_000_000_000, output * 500_000_000);
        assert_eq!(
            new.changes_since(&old),
            BTreeMap::from([
                ("a/one".to_owned(), Change::Changed(dollars(1, 4), dollars(1, 5))),
                ("a/two".to_owned(), Change::Removed(dollars(1, 4))),
                ("a/four".to_owned(), Change::Added(dollars(3, 0))),
            ])
        );
        assert_eq!(new.left_out().collect::<Vec<_>>(), ["a/three"]);
        assert_eq!(new.changes_since(&new), BTreeMap::new());
        assert!(new.version() != old.version() && new.version().starts_with("2026-11-01-"));
        assert_eq!(old.clone().over(&old).version(), old.version());
    }
}
