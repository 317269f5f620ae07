//! The models that this installation can call, with what a person must know to choose and what the proxy needs to bill.
//! Never: a model without a price.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::price::{Price, PriceVersion};

/// The provider's name in the ids of aliases (`molt/best`); no real provider may have it.
pub const ALIAS_PROVIDER: &str = "molt";
/// Stands for the name of a model that isn't known, where the operator set a ceiling for the provider: `openai/*`.
const ANY_MODEL: &str = "*";
/// Longer names are no model's; they end in rows of the books.
const MODEL_NAME_BYTES_MAX: usize = 128;

/// One model, named `provider/model`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// `provider/model`, as everywhere in the product.
    pub id: String,
    /// As a person calls it.
    pub name: String,
    pub price: Price,
    /// Tokens that it reads at most.
    pub context_window: u32,
    /// Tokens of one answer at most.
    pub output_max: u32,
    #[serde(default)]
    pub reasoning: bool,
    #[serde(default)]
    pub vision: bool,
    /// One sentence: what it is good at.
    pub strengths: String,
    /// For embeddings only, not for chat.
    #[serde(default)]
    pub embedding: bool,
    /// Shown where people choose. One that isn't can be called by its name all the same.
    #[serde(default)]
    pub listed: bool,
}

/// Where a call may go, and what it costs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub facts: &'a ModelFacts,
    /// `provider/model` for the books: the model's own name, also where an alias or a ceiling led here.
    pub id: &'a str,
    pub provider: &'a str,
    /// As the provider calls it.
    pub model: &'a str,
    /// Nobody knows this model: `facts` are the operator's ceiling, and don't say whether it embeds or chats.
    pub ceiling: bool,
}

/// All models, and the version of the prices that they carry.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub version: PriceVersion,
    /// What a new bot starts with.
    pub default_model: String,
    /// What memory search uses.
    pub embedding_model: Option<String>,
    /// With the ceilings (`openai/*`) among them.
    models: Vec<ModelFacts>,
    by_id: HashMap<String, usize>,
    aliases: Vec<Alias>,
}

/// A name of the operator's for an ordered list of models.
#[derive(Clone, Debug)]
struct Alias {
    /// What a person sees of it: the narrowest limits of all its models, the price of the first.
    facts: ModelFacts,
    targets: Vec<usize>,
}

impl Catalog {
    /// Models whose id is `provider/*` are ceilings: what a name costs that isn't known otherwise.
    #[must_use]
    pub fn new(
        version: PriceVersion,
        models: Vec<ModelFacts>,
        default_model: String,
        embedding_model: Option<String>,
    ) -> Self {
        let by_id = models.iter().enumerate().map(|(at, model)| (model.id.clone(), at)).collect();
        Self { version, default_model, embedding_model, models, by_id, aliases: Vec::new() }
    }

    /// Adds names for ordered lists of models. Targets that aren't there are left out, and so is an alias without any:
    /// the settings are checked before.
    #[must_use]
    pub fn with_aliases(mut self, aliases: &BTreeMap<String, Vec<String>>) -> Self {
        for (name, targets) in aliases {
            let targets: Vec<usize> = targets.iter().filter_map(|id| self.by_id.get(id).copied()).collect();
            let Some(facts) = self.alias_facts(name, &targets) else { continue };
            self.aliases.push(Alias { facts, targets });
        }
        self
    }

    /// A model or an alias by its name; aliases with or without `molt/` before them.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&ModelFacts> {
        match self.by_id.get(id) {
            Some(&at) => Some(&self.models[at]).filter(|model| !is_ceiling(model)),
            None => self.alias(id).map(|alias| &alias.facts),
        }
    }

    /// Where a call that names `name` may go, best first. Empty: there is no such model, so the call is refused.
    #[must_use]
    pub fn resolve<'a>(&'a self, name: &'a str) -> Vec<Target<'a>> {
        if let Some(&at) = self.by_id.get(name).filter(|&&at| !is_ceiling(&self.models[at])) {
            return target(&self.models[at], None).into_iter().collect();
        }
        if let Some(alias) = self.alias(name) {
            return alias.targets.iter().filter_map(|&at| target(&self.models[at], None)).collect();
        }
        let Some((provider, model)) = name.split_once('/').filter(|(_, model)| is_model_name(model)) else {
            return Vec::new();
        };
        let ceiling = self.models.iter().filter(|known| is_ceiling(known));
        let mut of_provider =
            ceiling.filter(|known| known.id.split_once('/').is_some_and(|(name, _)| name == provider));
        of_provider.next().and_then(|known| target(known, Some((name, model)))).into_iter().collect()
    }

    /// All models that can be called by their name, listed or not.
    pub fn models(&self) -> impl Iterator<Item = &ModelFacts> {
        self.models.iter().filter(|model| !is_ceiling(model))
    }

    /// What people choose from to talk to: aliases first, then the listed models.
    pub fn chat_models(&self) -> impl Iterator<Item = &ModelFacts> {
        let aliases = self.aliases.iter().map(|alias| &alias.facts);
        aliases.chain(self.models()).filter(|model| model.listed && !model.embedding)
    }

    /// What is charged, by model, ceilings included (`openai/*`): the content of a price book.
    #[must_use]
    pub fn prices(&self) -> BTreeMap<&str, &Price> {
        self.models.iter().map(|model| (model.id.as_str(), &model.price)).collect()
    }

    fn alias(&self, name: &str) -> Option<&Alias> {
        let wanted = name.strip_prefix(ALIAS_PROVIDER).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
        self.aliases.iter().find(|alias| alias.name() == wanted)
    }

    fn alias_facts(&self, name: &str, targets: &[usize]) -> Option<ModelFacts> {
        let models: Vec<&ModelFacts> = targets.iter().map(|&at| &self.models[at]).collect();
        let first = *models.first()?;
        let narrowest = |limit: fn(&ModelFacts) -> u32| models.iter().map(|model| limit(model)).min();
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        let strengths = match names.as_slice() {
            [only] => format!("Chosen for you here: {only}."),
            [first, rest @ ..] => {
                format!("Chosen for you here: {first}; when it can't be had, {}.", rest.join(", then "))
            }
            [] => return None,
        };
        Some(ModelFacts {
            id: format!("{ALIAS_PROVIDER}/{name}"),
            name: capitalized(name),
            price: first.price.clone(),
            context_window: narrowest(|model| model.context_window)?,
            output_max: narrowest(|model| model.output_max)?,
            reasoning: models.iter().all(|model| model.reasoning),
            vision: models.iter().all(|model| model.vision),
            strengths,
            embedding: first.embedding,
            listed: true,
        })
    }
}

impl Alias {
    fn name(&self) -> &str {
        self.facts.id.split_once('/').map_or("", |(_, name)| name)
    }
}

/// The catalogue that is in force just now. Clones see the same one, also after it was replaced.
#[derive(Clone, Debug)]
pub struct CatalogInForce(Arc<RwLock<Arc<Catalog>>>);

impl CatalogInForce {
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(catalog))))
    }

    /// Hold it for one call or one request, so that its figures don't change in between.
    #[must_use]
    pub fn current(&self) -> Arc<Catalog> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on for every new call.
    pub fn replace(&self, catalog: Catalog) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }
}

impl From<Catalog> for CatalogInForce {
    fn from(catalog: Catalog) -> Self {
        Self::new(catalog)
    }
}

/// `asked`: the whole name and the provider's own, where they aren't those of the facts.
fn target<'a>(facts: &'a ModelFacts, asked: Option<(&'a str, &'a str)>) -> Option<Target<'a>> {
    let (provider, own) = facts.id.split_once('/')?;
    let (id, model) = asked.unwrap_or((facts.id.as_str(), own));
    Some(Target { facts, id, provider, model, ceiling: asked.is_some() })
}

fn is_ceiling(model: &ModelFacts) -> bool {
    model.id.split_once('/').is_some_and(|(_, name)| name == ANY_MODEL)
}

/// What a name may hold that nobody knows yet: no address, no blank, nothing that means something elsewhere.
fn is_model_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-@/+".contains(&byte);
    (1..=MODEL_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) && !name.contains("//")
}

fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(id: &str, price: i64, limits: (u32, u32)) -> ModelFacts {
        ModelFacts {
            id: id.to_owned(),
            name: id.to_uppercase(),
            price: Price::flat(price, price),
            context_window: limits.0,
            output_max: limits.1,
            reasoning: true,
            vision: false,
            strengths: String::new(),
            embedding: id.contains("embed"),
            listed: !id.contains("old"),
        }
    }

    fn catalog() -> Catalog {
        let models = vec![
            model("a/one", 1, (100, 10)),
            model("b/org/two", 2, (50, 20)),
            model("a/old", 3, (10, 1)),
            model("a/embed", 4, (10, 1)),
            model("b/*", 9, (10, 1)),
        ];
        let list = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let aliases = BTreeMap::from([
            ("best".to_owned(), list(&["b/org/two", "a/one"])),
            ("gone".to_owned(), list(&["c/none"])),
        ]);
        Catalog::new(PriceVersion("v".to_owned()), models, "a/one".to_owned(), None).with_aliases(&aliases)
    }

    #[test]
    fn names_lead_to_models_in_order() {
        let catalog = catalog();
        for (name, expected) in [
            ("a/one", vec![("a/one", "a", "one", 1, false)]),
            ("a/old", vec![("a/old", "a", "old", 3, false)]),
            ("best", vec![("b/org/two", "b", "org/two", 2, false), ("a/one", "a", "one", 1, false)]),
            ("molt/best", vec![("b/org/two", "b", "org/two", 2, false), ("a/one", "a", "one", 1, false)]),
            ("b/new", vec![("b/new", "b", "new", 9, true)]),
            ("b/*", vec![]),
            ("a/new", vec![]),
            ("b/http://evil", vec![]),
            ("b/", vec![]),
            ("b/a b", vec![]),
            ("one", vec![]),
            ("gone", vec![]),
            ("molt/a/one", vec![]),
            ("", vec![]),
        ] {
            let targets = catalog.resolve(name);
            let found: Vec<_> =
                targets.iter().map(|t| (t.id, t.provider, t.model, t.facts.price.input, t.ceiling)).collect();
            assert_eq!(found, expected, "{name}");
        }
        assert!(catalog.resolve(&format!("b/{}", "x".repeat(129))).is_empty());
    }

    #[test]
    fn people_choose_among_what_is_listed() {
        let catalog = catalog();
        let ids: Vec<&str> = catalog.chat_models().map(|model| model.id.as_str()).collect();
        assert_eq!(ids, ["molt/best", "a/one", "b/org/two"]);
        let best = catalog.find("best").unwrap();
        assert_eq!((best.context_window, best.output_max, best.price.input), (50, 10, 2));
        assert_eq!(best.strengths, "Chosen for you here: B/ORG/TWO; when it can't be had, A/ONE.");
        assert_eq!(catalog.find("molt/best"), Some(best));
        assert!(catalog.find("b/*").is_none() && catalog.find("b/new").is_none() && catalog.find("a/old").is_some());
        assert_eq!(catalog.models().count(), 4);
        assert_eq!(
            catalog.prices().keys().copied().collect::<Vec<_>>(),
            ["a/embed", "a/old", "a/one", "b/*", "b/org/two"]
        );
    }

    #[test]
    fn a_new_catalogue_is_seen_by_everybody() {
        let here = CatalogInForce::new(catalog());
        let there = here.clone();
        let held = there.current();
        here.replace(Catalog::new(PriceVersion("w".to_owned()), Vec::new(), String::new(), None));
        assert_eq!((held.version.0.as_str(), there.current().version.0.as_str()), ("v", "w"));
    }
}
