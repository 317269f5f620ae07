//! The models that this installation offers, with what a person must know to choose and what the proxy needs to bill.
//! Never: a model without a price (`Catalog::new` refuses it).

use serde::{Deserialize, Serialize};

use crate::price::{Price, PriceVersion};

/// One model that can be chosen, named `provider/model`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// `provider/model`, as everywhere in the product.
    pub id: String,
    /// As a person calls it.
    pub name: String,
    pub price: Price,
    /// Tokens.
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
}

/// All models, and the version of the prices that they carry.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub version: PriceVersion,
    pub models: Vec<ModelFacts>,
    /// What a new bot starts with.
    pub default_model: String,
    /// What memory search uses.
    pub embedding_model: Option<String>,
}

impl Catalog {
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&ModelFacts> {
        self.models.iter().find(|model| model.id == id)
    }

    /// Models a person can talk to.
    pub fn chat_models(&self) -> impl Iterator<Item = &ModelFacts> {
        self.models.iter().filter(|model| !model.embedding)
    }
}
