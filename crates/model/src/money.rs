//! Money as whole nano-dollars (10⁻⁹ US dollars), so that no call rounds to zero and no sum drifts.
//! Never: floating point.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Nano-dollars. An i64 holds nine billion dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub i64);

/// Nano-dollars in a dollar.
pub const NANOS_PER_DOLLAR: i64 = 1_000_000_000;
/// A dollar amount has at most this many decimals; more would be below a nano-dollar.
const DECIMALS_MAX: usize = 9;
/// Amounts are shown with at least the six decimals of a micro-dollar, and with more only where they are needed.
const DECIMALS_SHOWN_MIN: usize = 6;

impl Nanos {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub const fn dollars(dollars: i64) -> Self {
        Self(dollars * NANOS_PER_DOLLAR)
    }

    /// As `Add`, but stops at the largest amount instead of overflowing.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Nanos {
    /// US dollars as a decimal, exact: `0.000123`, `50.000000`, `0.000000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        let per_dollar = NANOS_PER_DOLLAR.unsigned_abs();
        let fraction = format!("{:09}", magnitude % per_dollar);
        let needed = fraction.trim_end_matches('0').len().max(DECIMALS_SHOWN_MIN);
        write!(f, "{sign}{}.{}", magnitude / per_dollar, &fraction[..needed])
    }
}

/// The text isn't an amount of dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an amount in US dollars with at most nine decimals, such as \"12.50\"")]
pub struct InvalidAmount;

impl FromStr for Nanos {
    type Err = InvalidAmount;

    /// Reads US dollars: digits, optionally a point and one to nine decimals, optionally a leading minus.
    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || fraction.is_some_and(|f| !all_digits(f) || f.len() > DECIMALS_MAX) {
            return Err(InvalidAmount);
        }
        let whole: i64 = whole.parse().map_err(|_| InvalidAmount)?;
        let fraction: i64 = format!("{:0<9}", fraction.unwrap_or("")).parse().map_err(|_| InvalidAmount)?;
        let nanos = whole.checked_mul(NANOS_PER_DOLLAR).and_then(|n| n.checked_add(fraction)).ok_or(InvalidAmount)?;
        Ok(Self(if negative { -nanos } else { nanos }))
    }
}

impl Serialize for Nanos {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Add for Nanos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Nanos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sum for Nanos {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        for (text, nanos) in [("0", 0), ("50", 50_000_000_000), ("0.000123", 123_000), ("-1.5", -1_500_000_000)] {
            assert_eq!(text.parse(), Ok(Nanos(nanos)), "{text}");
        }
        for wrong in ["", ".", "1.", ".5", "1e3", "1,5", "+1", "$1", "1.0000000001", "99999999999", "NaN"] {
            assert_eq!(wrong.parse::<Nanos>(), Err(InvalidAmount), "{wrong}");
        }
        assert_eq!(Nanos(123_000).to_string(), "0.000123");
        assert_eq!(Nanos(1).to_string(), "0.000000001");
        assert_eq!(Nanos::dollars(50).to_string(), "50.000000");
    }

    proptest! {
        #[test]
        fn every_amount_survives_text(nanos in (i64::MIN + 1)..=i64::MAX) {
            prop_assert_eq!(Nanos(nanos).to_string().parse(), Ok(Nanos(nanos)));
        }
    }
}
