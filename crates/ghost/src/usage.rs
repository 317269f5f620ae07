//! Reads the provider's usage report, whatever it looks like, and estimates where there is none.
//! Never: trust in a figure's sign or size; a provider that lies may not overflow the books.

use molt_model::TokenUsage;
use serde::Deserialize;
use serde_json::Value;

/// A hundred million tokens in one call: no model has such a window, so a larger figure is a fault.
const TOKENS_MAX: i64 = 100_000_000;
/// English text and JSON have about four bytes a token. An estimate, marked as one wherever it is used.
const BYTES_PER_TOKEN: usize = 4;

/// OpenAI's report. Fields that a provider leaves out, or spells as something else, count as nothing.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Report {
    #[serde(default)]
    prompt_tokens: Value,
    #[serde(default)]
    completion_tokens: Value,
    #[serde(default)]
    prompt_tokens_details: Value,
    #[serde(default)]
    completion_tokens_details: Value,
}

impl Report {
    /// `None`: it says nothing at all.
    pub(crate) fn tokens(&self) -> Option<TokenUsage> {
        let input = count(&self.prompt_tokens);
        let output = count(&self.completion_tokens);
        if input.is_none() && output.is_none() {
            return None;
        }
        Some(TokenUsage {
            input: input.unwrap_or(0),
            output: output.unwrap_or(0),
            cache_read: detail(&self.prompt_tokens_details, "cached_tokens"),
            cache_write: detail(&self.prompt_tokens_details, "cache_creation_tokens"),
            reasoning: detail(&self.completion_tokens_details, "reasoning_tokens"),
        })
    }
}

fn detail(details: &Value, name: &str) -> i64 {
    details.get(name).and_then(count).unwrap_or(0)
}

fn count(value: &Value) -> Option<i64> {
    let number = value.as_i64().or_else(|| value.as_u64().map(|_| TOKENS_MAX));
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked by clamp; NaN becomes zero")]
    let number = number.or_else(|| value.as_f64().map(|float| float.clamp(0.0, TOKENS_MAX as f64) as i64));
    number.map(|number| number.clamp(0, TOKENS_MAX))
}

/// Tokens of that many bytes of text, rounded up.
pub(crate) fn estimate(bytes: usize) -> i64 {
    i64::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(TOKENS_MAX).min(TOKENS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(report: Value) -> Option<TokenUsage> {
        serde_json::from_value::<Report>(report).unwrap().tokens()
    }

    #[test]
    fn reports_are_read_as_they_come() {
        let details = json!({ "prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": { "cached_tokens": 64 },
                              "completion_tokens_details": { "reasoning_tokens": 3 } });
        let full = TokenUsage { input: 100, output: 7, cache_read: 64, cache_write: 0, reasoning: 3 };
        assert_eq!(read(details), Some(full));
        let plain = |input, output| Some(TokenUsage { input, output, ..TokenUsage::default() });
        for (report, tokens) in [
            (json!({ "prompt_tokens": 5, "total_tokens": 5 }), plain(5, 0)),
            (json!({ "prompt_tokens": -5, "completion_tokens": 1e300 }), plain(0, TOKENS_MAX)),
            (json!({ "prompt_tokens": u64::MAX, "completion_tokens": 2.0 }), plain(TOKENS_MAX, 2)),
            (json!({ "prompt_tokens": "many", "prompt_tokens_details": 3 }), None),
            (json!({}), None),
        ] {
            assert_eq!(read(report.clone()), tokens, "{report}");
        }
    }

    proptest! {
        #[test]
        fn no_figure_escapes_its_bounds(input in any::<f64>(), output in any::<i64>()) {
            let tokens = read(json!({ "prompt_tokens": input, "completion_tokens": output })).unwrap();
            prop_assert!((0..=TOKENS_MAX).contains(&tokens.input) && (0..=TOKENS_MAX).contains(&tokens.output));
        }
    }
}
