//! What tokens cost, and the one place where a charge is computed and rounded.
//! Never: round twice, or in the platform's favour.

use serde::{Deserialize, Serialize};

use crate::money::Nanos;
use crate::usage::TokenUsage;

/// The price book that a usage row was charged at: its day and a short hash of its content, so that equal books are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PriceVersion(pub String);

/// A million dollars per million tokens, in nano-dollars: more than that is a slip of the pen.
pub const RATE_MAX: i64 = 1_000_000_000_000_000;
/// Providers have one or two; the limit keeps a price small enough to copy around.
pub const TIERS_MAX: usize = 8;
/// Prices stand per this many tokens.
const TOKENS_PER_PRICE: i128 = 1_000_000;
/// The markup of 20 %, as a fraction of whole numbers.
const MARKUP: (i128, i128) = (12, 10);

/// Nano-dollars per million tokens, before the markup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Output that is thought and not said. Absent: charged as `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<i64>,
    /// Nano-dollars of each call, whatever its tokens.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub per_request: i64,
    /// By rising threshold. The last one that the call's input passes sets the prices of the whole call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<Tier>,
}

/// The prices of calls whose input is long. They replace the base prices for the whole call, not only for the tokens
/// above the threshold: so the providers bill ("prompts above 272K tokens cost twice the input price").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// In force for calls with more input tokens than this, cached ones included.
    pub above_input_tokens: i64,
    pub input: i64,
    pub output: i64,
    /// Absent, here and below: as `input` or `output` of this tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<i64>,
}

/// Why figures aren't a price. The sentence follows the model's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrice {
    #[error("a price can't be negative")]
    Negative,
    #[error("a price above a million dollars per million tokens is surely a slip")]
    TooHigh,
    #[error("tiers must stand by rising thresholds above zero")]
    TierOrder,
    #[error("there are more than {TIERS_MAX} tiers")]
    TooManyTiers,
}

impl Price {
    /// One price for input and one for output.
    #[must_use]
    pub const fn flat(input: i64, output: i64) -> Self {
        Self { input, output, cache_read: None, cache_write: None, reasoning: None, per_request: 0, tiers: Vec::new() }
    }

    #[must_use]
    pub const fn with_cache_read(mut self, rate: i64) -> Self {
        self.cache_read = Some(rate);
        self
    }

    /// The charge for a call, markup of 20 % included, in nano-dollars, rounded down once:
    /// `floor((Σ tokens · price + per_request · 10⁶) · 12 / 10⁷)`, at the tier of the call's input.
    /// Negative counts, which no honest provider reports, charge nothing.
    #[must_use]
    pub fn charge(&self, usage: &TokenUsage) -> Nanos {
        let (input, output) = (count(usage.input), count(usage.output));
        let cache_read = count(usage.cache_read).min(input);
        let cache_write = count(usage.cache_write).min(input - cache_read);
        let reasoning = count(usage.reasoning).min(output);
        let rates = self.rates(usage.input);
        let parts = [
            (input - cache_read - cache_write, rates.input),
            (cache_read, rates.cache_read),
            (cache_write, rates.cache_write),
            (output - reasoning, rates.output),
            (reasoning, rates.reasoning),
        ];
        self.total(parts.into_iter())
    }

    /// The most that a call can be charged whose input and output stay within these counts, whatever part of them is
    /// cached or thought: `charge(usage) <= worst_case(i, o)` for all usage with `input <= i` and `output <= o`.
    #[must_use]
    pub fn worst_case(&self, input_tokens_max: i64, output_tokens_max: i64) -> Nanos {
        let input_max = input_tokens_max.max(0);
        let passed = self.tiers.iter().map(|tier| tier.above_input_tokens).filter(|&above| above < input_max);
        // Each tier's dearest call is the longest one that is still in it.
        passed
            .chain([input_max])
            .map(|input| {
                let rates = self.rates(input);
                let dearest_input = rates.input.max(rates.cache_read).max(rates.cache_write);
                let dearest_output = rates.output.max(rates.reasoning);
                self.total([(count(input), dearest_input), (count(output_tokens_max), dearest_output)].into_iter())
            })
            .max()
            .unwrap_or_default()
    }

    /// Whether a call can cost anything at all.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.worst_case(i64::MAX, i64::MAX) == Nanos::ZERO
    }

    /// Checks figures that come from outside.
    pub fn validate(&self) -> Result<(), InvalidPrice> {
        let of_tier =
            |tier: &Tier| [Some(tier.input), Some(tier.output), tier.cache_read, tier.cache_write, tier.reasoning];
        let own = [Some(self.input), Some(self.output), self.cache_read, self.cache_write, self.reasoning];
        let rates = own.into_iter().chain([Some(self.per_request)]).chain(self.tiers.iter().flat_map(of_tier));
        for rate in rates.flatten() {
            if rate < 0 {
                return Err(InvalidPrice::Negative);
            }
            if rate > RATE_MAX {
                return Err(InvalidPrice::TooHigh);
            }
        }
        if self.tiers.len() > TIERS_MAX {
            return Err(InvalidPrice::TooManyTiers);
        }
        let thresholds: Vec<i64> = self.tiers.iter().map(|tier| tier.above_input_tokens).collect();
        let rising = thresholds.first().is_none_or(|&first| first > 0) && thresholds.is_sorted_by(|a, b| a < b);
        if rising { Ok(()) } else { Err(InvalidPrice::TierOrder) }
    }

    fn rates(&self, input_tokens: i64) -> Rates {
        match self.tiers.iter().rev().find(|tier| input_tokens > tier.above_input_tokens) {
            Some(tier) => Rates::new(tier.input, tier.output, tier.cache_read, tier.cache_write, tier.reasoning),
            None => Rates::new(self.input, self.output, self.cache_read, self.cache_write, self.reasoning),
        }
    }

    /// Sums up, adds the markup and rounds down. Whatever is beyond an amount of money stops at the largest one.
    fn total(&self, parts: impl Iterator<Item = (i128, i128)>) -> Nanos {
        let calls = count(self.per_request) * TOKENS_PER_PRICE;
        let sum = parts.fold(calls, |sum, (tokens, rate)| sum.saturating_add(tokens.saturating_mul(rate)));
        let charged = sum.saturating_mul(MARKUP.0) / (MARKUP.1 * TOKENS_PER_PRICE);
        Nanos(i64::try_from(charged).unwrap_or(i64::MAX))
    }
}

/// The prices that one call is charged at.
struct Rates {
    input: i128,
    output: i128,
    cache_read: i128,
    cache_write: i128,
    reasoning: i128,
}

impl Rates {
    fn new(input: i64, output: i64, cache_read: Option<i64>, cache_write: Option<i64>, reasoning: Option<i64>) -> Self {
        Self {
            input: count(input),
            output: count(output),
            cache_read: count(cache_read.unwrap_or(input)),
            cache_write: count(cache_write.unwrap_or(input)),
            reasoning: count(reasoning.unwrap_or(output)),
        }
    }
}

/// Wide enough to multiply; a negative number counts as none.
fn count(number: i64) -> i128 {
    i128::from(number.max(0))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_is_charged_to_the_nano_dollar() {
        // $2 and $8 per million tokens
        let price = Price::flat(2_000_000_000, 8_000_000_000).with_cache_read(500_000_000);
        let usage = TokenUsage { input: 1_000, output: 100, ..TokenUsage::default() };
        assert_eq!(price.charge(&usage), Nanos(3_360_000));
        let cached = TokenUsage { cache_read: 400, ..usage };
        assert_eq!(price.charge(&cached), Nanos(2_640_000));
        assert_eq!(price.charge(&TokenUsage { input: -5, output: -5, ..TokenUsage::default() }), Nanos::ZERO);
        let cheap = Price::flat(10_000_000, 10_000_000);
        assert_eq!(cheap.charge(&TokenUsage { input: 1, ..TokenUsage::default() }), Nanos(12));
        // thinking at half the price of words, and a cent for the call
        let thinking = Price { reasoning: Some(4_000_000_000), per_request: 10_000_000, ..price.clone() };
        assert_eq!(thinking.charge(&TokenUsage { reasoning: 60, ..usage }), Nanos(15_072_000));
        assert_eq!(price.charge(&TokenUsage { reasoning: 60, ..usage }), Nanos(3_360_000));
        assert_eq!(thinking.charge(&TokenUsage { reasoning: 900, ..usage }), Nanos(14_880_000));
    }

    #[test]
    fn a_long_call_is_charged_wholly_at_its_tier() {
        // GPT-5.4: $2.5 and $15, above 272,000 tokens $5 and $22.5
        let price = Price {
            cache_read: Some(250_000_000),
            tiers: vec![Tier {
                above_input_tokens: 272_000,
                input: 5_000_000_000,
                output: 22_500_000_000,
                cache_read: Some(500_000_000),
                ..Tier::default()
            }],
            ..Price::flat(2_500_000_000, 15_000_000_000)
        };
        let call = |input, cache_read| TokenUsage { input, output: 1_000, cache_read, ..TokenUsage::default() };
        assert_eq!(price.charge(&call(272_000, 0)), Nanos(834_000_000));
        assert_eq!(price.charge(&call(272_001, 0)), Nanos(1_659_006_000));
        assert_eq!(price.charge(&call(272_001, 272_000)), Nanos(190_206_000));
        assert_eq!(price.worst_case(272_000, 1_000), Nanos(834_000_000));
        assert_eq!(price.worst_case(272_001, 1_000), Nanos(1_659_006_000));
    }

    #[test]
    fn prices_keep_their_form_in_books_and_journals() {
        let flat = Price::flat(1, 2);
        assert_eq!(serde_json::to_string(&flat).unwrap(), r#"{"input":1,"output":2}"#);
        let full = Price {
            cache_read: Some(3),
            cache_write: Some(4),
            reasoning: Some(5),
            per_request: 6,
            tiers: vec![Tier { above_input_tokens: 7, input: 8, output: 9, ..Tier::default() }],
            ..flat
        };
        let text = r#"{"input":1,"output":2,"cache_read":3,"cache_write":4,"reasoning":5,"per_request":6,"tiers":[{"above_input_tokens":7,"input":8,"output":9}]}"#;
        assert_eq!(serde_json::to_string(&full).unwrap(), text);
        assert_eq!(serde_json::from_str::<Price>(text).unwrap(), full);
        assert!(serde_json::from_str::<Price>(r#"{"input":1,"output":2,"cache_raed":3}"#).is_err());
    }

    #[test]
    fn figures_that_are_no_price_are_refused() {
        let tier = |above| Tier { above_input_tokens: above, ..Tier::default() };
        let tiers =
            |list: &[i64]| Price { tiers: list.iter().map(|&above| tier(above)).collect(), ..Price::flat(1, 1) };
        for (price, result) in [
            (Price::flat(0, 0), Ok(())),
            (tiers(&[1, 2, 3]), Ok(())),
            (Price::flat(-1, 0), Err(InvalidPrice::Negative)),
            (Price { per_request: -1, ..Price::flat(1, 1) }, Err(InvalidPrice::Negative)),
            (Price { reasoning: Some(RATE_MAX + 1), ..Price::flat(1, 1) }, Err(InvalidPrice::TooHigh)),
            (tiers(&[2, 2]), Err(InvalidPrice::TierOrder)),
            (tiers(&[0]), Err(InvalidPrice::TierOrder)),
            (tiers(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), Err(InvalidPrice::TooManyTiers)),
        ] {
            assert_eq!(price.validate(), result, "{price:?}");
        }
        assert!(Price::flat(0, 0).is_free() && !Price { per_request: 1, ..Price::flat(0, 0) }.is_free());
    }

    fn rate() -> impl Strategy<Value = i64> {
        prop_oneof![0i64..=RATE_MAX, 0i64..10_000_000_000]
    }

    fn optional() -> impl Strategy<Value = Option<i64>> {
        proptest::option::of(rate())
    }

    fn prices() -> impl Strategy<Value = Price> {
        let tier = (rate(), rate(), optional(), optional(), optional());
        let tiers = proptest::collection::btree_map(1i64..400_000, tier, 0..4);
        (rate(), rate(), optional(), optional(), optional(), rate(), tiers).prop_map(
            |(input, output, cache_read, cache_write, reasoning, per_request, tiers)| {
                let tiers = tiers.into_iter().map(|(above_input_tokens, (input, output, read, write, reasoning))| {
                    Tier { above_input_tokens, input, output, cache_read: read, cache_write: write, reasoning }
                });
                Price { input, output, cache_read, cache_write, reasoning, per_request, tiers: tiers.collect() }
            },
        )
    }

    fn usages() -> impl Strategy<Value = TokenUsage> {
        let tokens = || prop_oneof![-10i64..500_000, any::<i64>()];
        (tokens(), tokens(), tokens(), tokens(), tokens()).prop_map(
            |(input, output, cache_read, cache_write, reasoning)| TokenUsage {
                input,
                output,
                cache_read,
                cache_write,
                reasoning,
            },
        )
    }

    proptest! {
        #[test]
        fn splitting_a_call_never_costs_more(a in 0i64..1_000_000, b in 0i64..1_000_000, p in 0i64..1_000_000_000_000) {
            let price = Price::flat(p, p);
            let call = |n| price.charge(&TokenUsage { input: n, ..TokenUsage::default() });
            let whole = call(a + b);
            let parts = call(a) + call(b);
            prop_assert!(parts <= whole && whole.0 - parts.0 <= 1);
        }

        #[test]
        fn no_call_costs_more_than_its_worst_case(
            price in prices(), usage in usages(), more in (0i64..1_000_000, 0i64..1_000_000),
        ) {
            prop_assert!(price.validate().is_ok());
            let bounds = (usage.input.saturating_add(more.0), usage.output.saturating_add(more.1));
            prop_assert!(price.charge(&usage) <= price.worst_case(bounds.0, bounds.1));
            prop_assert!(price.charge(&usage) >= Nanos::ZERO);
        }

        #[test]
        fn the_worst_case_is_reached_by_a_call(price in prices(), input in 0i64..500_000, output in 0i64..500_000) {
            let worst = price.worst_case(input, output);
            let thresholds = price.tiers.iter().map(|tier| tier.above_input_tokens).filter(|&above| above < input);
            let reached = thresholds.chain([input]).any(|input| {
                [(0, 0), (input, 0), (0, input)].into_iter().any(|(cache_read, cache_write)| {
                    [0, output].into_iter().any(|reasoning| {
                        price.charge(&TokenUsage { input, output, cache_read, cache_write, reasoning }) == worst
                    })
                })
            });
            prop_assert!(reached);
        }

        #[test]
        fn prices_survive_text(price in prices()) {
            let text = serde_json::to_string(&price).unwrap();
            prop_assert_eq!(serde_json::from_str::<Price>(&text).unwrap(), price);
        }
    }
}
