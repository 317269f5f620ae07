//! What assistants can be taught: a curated catalogue. It holds nothing yet, and says so.
//! Never: a skill that nobody reviewed.

/// A skill of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skill {
    pub id: String,
    pub name: String,
}

/// Every skill that can be installed.
#[must_use]
pub fn catalogue() -> Vec<Skill> {
    Vec::new()
}
