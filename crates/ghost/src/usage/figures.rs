//! The figures of a usage report, read where they stand: a report comes with every call, so nothing is put on the heap for it.
//! Never: an error for what is no figure; it counts as none.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::TOKENS_MAX;

/// Tokens, between none and the most that is believed; `None`: it says something else, or nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count(pub(super) Option<i64>);

/// What of the tokens was cached or thought; the larger one where two names say it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Details {
    pub(super) cache_read: i64,
    pub(super) cache_write: i64,
    pub(super) reasoning: i64,
}

impl Details {
    pub(super) fn or_more(self, other: Self) -> Self {
        Self {
            cache_read: self.cache_read.max(other.cache_read),
            cache_write: self.cache_write.max(other.cache_write),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

impl<'de> Deserialize<'de> for Details {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DetailsVisitor)
    }
}

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of tokens")
    }

    fn visit_i64<E>(self, number: i64) -> Result<Count, E> {
        Ok(Count(Some(number.clamp(0, TOKENS_MAX))))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Count, E> {
        Ok(Count(Some(i64::try_from(number).unwrap_or(TOKENS_MAX).min(TOKENS_MAX))))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the range is checked by clamp; NaN becomes zero")]
    fn visit_f64<E>(self, number: f64) -> Result<Count, E> {
        Ok(Count(Some(number.clamp(0.0, TOKENS_MAX as f64) as i64)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Count, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }
}

/// A field that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Cached,
    CacheCreation,
    CacheCreationInput,
    Reasoning,
    Thinking,
    Other,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(match name {
                    "cached_tokens" => Name::Cached,
                    "cache_creation_tokens" => Name::CacheCreation,
                    "cache_creation_input_tokens" => Name::CacheCreationInput,
                    "reasoning_tokens" => Name::Reasoning,
                    "thinking_tokens" => Name::Thinking,
                    _ => Name::Other,
                })
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

struct DetailsVisitor;

impl<'de> Visitor<'de> for DetailsVisitor {
    type Value = Details;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of numbers")
    }

    fn visit_i64<E>(self, _: i64) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_unit<E>(self) -> Result<Details, E> {
        Ok(Details::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Details, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Details::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Details, A::Error> {
        let mut found = [0; Name::Other as usize];
        while let Some(name) = map.next_key::<Name>()? {
            if name == Name::Other {
                map.next_value::<IgnoredAny>()?;
            } else {
                found[name as usize] = map.next_value::<Count>()?.0.unwrap_or(0);
            }
        }
        let [cache_read, creation, creation_input, reasoning, thinking] = found;
        Ok(Details { cache_read, cache_write: creation.max(creation_input), reasoning: reasoning.max(thinking) })
    }
}
