//! What a call can cost at most, and how much of it the budget still allows.
//! Never: a call sent with a limit whose cost isn't set aside.

use std::sync::Arc;

use molt_model::{Nanos, Target};

use crate::Inner;
use crate::admission::purse::Reservation;
use crate::admission::{Declined, KeyEntry};
use crate::request::Asked;
use crate::surface::Surface;
use crate::usage::estimate;

/// The output limit of a call that names none, where the model allows as much: longer than any ordinary answer, and not so
/// long that a few calls at once tie up a month's budget.
const OUTPUT_TOKENS_DEFAULT: i64 = 16_384;
/// Below this an answer isn't worth beginning.
const OUTPUT_TOKENS_LEAST: i64 = 256;

/// The bounds of one call, whichever of its models answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorstCase<'a> {
    asked: &'a Asked,
    body_bytes: usize,
    /// By the caller's wish, or the proxy's.
    output_limit: i64,
    /// What may be asked for when the budget is short; equal to `output_limit` where the caller chose it.
    output_least: i64,
    /// What such a call uses on the average, for limits and estimates.
    pub(crate) input_tokens_estimate: i64,
    pub(crate) likely_tokens: i64,
    is_free: bool,
}

impl<'a> WorstCase<'a> {
    pub(crate) fn of(asked: &'a Asked, surface: Surface, targets: &[Target<'_>], body_bytes: usize) -> Self {
        let model_max = targets.iter().map(|target| i64::from(target.facts.output_max)).max().unwrap_or(0);
        let (output_limit, output_least) = match asked.output_limit {
            _ if !surface.speaks() => (0, 0),
            // A model doesn't say more than it can, whatever the caller allows; a ceiling's limits are a guess.
            Some(limit) if targets.iter().all(|target| !target.ceiling) => (limit.min(model_max), limit.min(model_max)),
            Some(limit) => (limit, limit),
            None => {
                let limit = model_max.min(OUTPUT_TOKENS_DEFAULT);
                (limit, limit.min(OUTPUT_TOKENS_LEAST))
            }
        };
        let input_tokens_estimate = estimate(body_bytes);
        let likely_tokens = input_tokens_estimate.saturating_add(output_limit.min(OUTPUT_TOKENS_LEAST));
        let is_free = surface.is_free();
        Self { asked, body_bytes, output_limit, output_least, input_tokens_estimate, likely_tokens, is_free }
    }

    /// With answers of at most so many tokens each.
    fn cost(&self, targets: &[Target<'_>], output_limit: i64) -> Nanos {
        if self.is_free {
            return Nanos::ZERO;
        }
        let output = output_limit.saturating_mul(self.asked.n);
        let of = |target: &Target<'_>| {
            let input = self.asked.input_tokens_max(self.body_bytes, target.facts.context_window);
            target.facts.price.worst_case(input, output)
        };
        targets.iter().map(of).max().unwrap_or_default()
    }

    /// The longest answers that this amount pays for.
    fn output_within(&self, targets: &[Target<'_>], amount: Nanos) -> i64 {
        let (mut fits, mut too_long) = (self.output_least, self.output_limit);
        while fits + 1 < too_long {
            let middle = fits + (too_long - fits) / 2;
            if self.cost(targets, middle) <= amount { fits = middle } else { too_long = middle }
        }
        fits
    }
}

/// Sets the worst case aside: the money, and the output limit that it pays for.
pub(crate) async fn reserve(
    inner: &Inner,
    entry: &Arc<KeyEntry>,
    worst: &WorstCase<'_>,
    targets: &[Target<'_>],
) -> Result<(Reservation, i64), Declined> {
    let most = worst.cost(targets, worst.output_limit);
    let least = if worst.output_least == worst.output_limit { most } else { worst.cost(targets, worst.output_least) };
    let reservation = inner.admission.reserve(entry, most, least).await?;
    let limit = match reservation.amount() {
        amount if amount >= most => worst.output_limit,
        amount => worst.output_within(targets, amount),
    };
    Ok((reservation, limit))
}
