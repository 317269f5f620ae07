//! What assistants can be taught: a curated catalogue. It holds nothing yet, and says so.
//! Never: a skill that nobody reviewed.

use std::collections::BTreeMap;

use molt_model::egress::Entry;

/// A skill of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skill {
    pub id: String,
    pub name: String,
    /// Where it must be able to go.
    pub domains: Vec<Entry>,
}

/// Every skill that can be installed.
#[must_use]
pub fn catalogue() -> Vec<Skill> {
    Vec::new()
}

/// Where each skill of the catalogue must be able to go, by its id.
#[must_use]
pub fn domains() -> BTreeMap<String, Vec<Entry>> {
    catalogue().into_iter().map(|skill| (skill.id, skill.domains)).collect()
}
