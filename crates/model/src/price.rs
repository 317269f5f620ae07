//! What tokens cost, and the one place where a charge is computed and rounded.
//! Never: round twice, or in the platform's favour.

use serde::{Deserialize, Serialize};

use crate::money::Nanos;
use crate::usage::TokenUsage;

/// The price book that a usage row was charged at: a short hash of its content, so that equal books are one book.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PriceVersion(pub String);

/// Nano-dollars per million tokens, before the markup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input: i64,
    pub output: i64,
    /// Input read from the provider's cache. Absent: charged as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<i64>,
    /// Input written to the provider's cache. Absent: charged as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<i64>,
}

impl Price {
    /// The charge for a call, markup of 20 % included: `floor(Σ tokens · price · 12 / 10⁷)` nano-dollars.
    /// Negative counts, which no honest provider reports, charge nothing.
    #[must_use]
    pub fn charge(&self, usage: &TokenUsage) -> Nanos {
        let count = |tokens: i64| i128::from(tokens.max(0));
        let cache_read = count(usage.cache_read).min(count(usage.input));
        let cache_write = count(usage.cache_write).min(count(usage.input) - cache_read);
        let plain = count(usage.input) - cache_read - cache_write;
        let total = plain * i128::from(self.input)
            + cache_read * i128::from(self.cache_read.unwrap_or(self.input))
            + cache_write * i128::from(self.cache_write.unwrap_or(self.input))
            + count(usage.output) * i128::from(self.output);
        Nanos(i64::try_from(total * 12 / 10_000_000).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_is_charged_to_the_nano_dollar() {
        // $2 and $8 per million tokens
        let price =
            Price { input: 2_000_000_000, output: 8_000_000_000, cache_read: Some(500_000_000), cache_write: None };
        let usage = TokenUsage { input: 1_000, output: 100, ..TokenUsage::default() };
        assert_eq!(price.charge(&usage), Nanos(3_360_000));
        let cached = TokenUsage { cache_read: 400, ..usage };
        assert_eq!(price.charge(&cached), Nanos(2_640_000));
        assert_eq!(price.charge(&TokenUsage { input: -5, output: -5, ..TokenUsage::default() }), Nanos::ZERO);
        let cheap = Price { input: 10_000_000, output: 10_000_000, ..Price::default() };
        assert_eq!(cheap.charge(&TokenUsage { input: 1, ..TokenUsage::default() }), Nanos(12));
    }

    proptest! {
        #[test]
        fn splitting_a_call_never_costs_more(a in 0i64..1_000_000, b in 0i64..1_000_000, p in 0i64..1_000_000_000_000) {
            let price = Price { input: p, output: p, ..Price::default() };
            let call = |n| price.charge(&TokenUsage { input: n, ..TokenUsage::default() });
            let whole = call(a + b);
            let parts = call(a) + call(b);
            prop_assert!(parts <= whole && whole.0 - parts.0 <= 1);
        }
    }
}
