//! Rates: how many bytes a second a limit lets through, as a number and as people write it.
//!
//! ```text
//! 1500000   1500k   1.5M   1.5MB/s   1.5 mb/s      all the same: decimal, bytes, per second
//! unlimited                                        no rate at all
//! ```
//!
//! Binary units and bits are refused and not guessed at: `10Mbit` is `1.25M`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::limits::{RATE_MAX_BYTES_PER_SECOND, RATE_MIN_BYTES_PER_SECOND};

/// Decimal units, largest first.
const UNITS: [(u64, char); 4] = [
    (1_000_000_000_000, 'T'),
    (1_000_000_000, 'G'),
    (1_000_000, 'M'),
    (1_000, 'k'),
];
/// Digits behind the point that can matter: the largest unit has twelve zeros.
const FRACTION_MAX_DIGITS: usize = 12;
/// Digits before the point: enough for the highest rate in bytes.
const WHOLE_MAX_DIGITS: usize = 16;

/// A rate in bytes per second, from [`RATE_MIN_BYTES_PER_SECOND`] to
/// [`RATE_MAX_BYTES_PER_SECOND`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Rate(u64);

/// Why a number or text is not a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// Not a number with a unit that is known.
    #[error(
        "a rate is a number of bytes per second with k, M, G or T, such as 10M, 1.5MB/s or 500k, or 'unlimited'"
    )]
    Malformed,
    /// Too low to keep a transfer alive, or too high to mean anything.
    #[error("a rate is at least 1k and at most 1000T bytes per second; write 'unlimited' for none")]
    OutOfRange,
}

impl Rate {
    /// Takes a number of bytes per second.
    ///
    /// # Errors
    /// [`RateError::OutOfRange`].
    pub const fn new(bytes_per_second: u64) -> Result<Self, RateError> {
        if bytes_per_second < RATE_MIN_BYTES_PER_SECOND
            || bytes_per_second > RATE_MAX_BYTES_PER_SECOND
        {
            return Err(RateError::OutOfRange);
        }
        Ok(Self(bytes_per_second))
    }

    /// Bytes per second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0
    }

    /// Reads a rate, or `unlimited` as `None`.
    ///
    /// # Errors
    /// As [`FromStr`].
    pub fn parse_limit(text: &str) -> Result<Option<Self>, RateError> {
        if text.trim().eq_ignore_ascii_case("unlimited") {
            return Ok(None);
        }
        text.parse().map(Some)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let text = text.trim().to_ascii_lowercase();
        let bytes = parse_bytes(text.strip_suffix("/s").unwrap_or(&text));
        Self::new(bytes.ok_or(RateError::Malformed)?)
    }
}

/// Reads a number of bytes with a decimal unit: `500`, `64k`, `1.5MB`, `2 g`. `None` for anything
/// else.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim_start().to_ascii_lowercase();
    let factor = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        _ => return None,
    };
    scaled(number, factor)
}

/// A decimal number times a factor, rounded down to whole bytes.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_short = whole.len() <= WHOLE_MAX_DIGITS && fraction.len() <= FRACTION_MAX_DIGITS;
    let is_number = !whole.is_empty() && !fraction.contains('.') && !number.ends_with('.');
    if !is_short || !is_number {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_u128.pow(fraction.len() as u32);
    let bytes = digits.checked_mul(u128::from(factor))? / scale;
    Some(u64::try_from(bytes).unwrap_or(u64::MAX))
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(factor, _)| self.0 >= *factor);
        let Some((factor, letter)) = unit else {
            return f.pad(&format!("{}B/s", self.0));
        };
        let (whole, rest) = (self.0 / factor, self.0 % factor);
        let digits = factor.ilog10() as usize;
        let fraction = format!("{rest:0digits$}");
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        f.pad(&format!("{whole}{point}{fraction}{letter}B/s"))
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_people_write_it() {
        for text in [
            "1500000",
            "1500k",
            "1.5M",
            "1.5MB/s",
            " 1.5 mb/s ",
            "0.0015G",
        ] {
            assert_eq!(text.parse(), Rate::new(1_500_000), "{text}");
        }
        assert_eq!(Rate::parse_limit("Unlimited"), Ok(None));
        assert_eq!(Rate::parse_limit("1k"), Rate::new(1_000).map(Some));
        assert_eq!("1000T".parse(), Rate::new(RATE_MAX_BYTES_PER_SECOND));
    }

    #[test]
    fn what_is_not_a_rate_is_refused_and_not_guessed() {
        for text in [
            "", "fast", "M", ".5M", "1.", "1.M", "1..5M", "1.5.5M", "-1M", "10Mbit", "10MiB",
            "10 M B", "1e6", "10M/h", "١٠M",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(RateError::Malformed), "{text}");
        }
        for text in ["0", "999", "0.0009M", "1001T", "9999999999999999T"] {
            assert_eq!(text.parse::<Rate>(), Err(RateError::OutOfRange), "{text}");
        }
        let endless = "9".repeat(5_000);
        assert_eq!(endless.parse::<Rate>(), Err(RateError::Malformed));
    }

    #[test]
    fn a_rate_reads_back_as_it_is_shown() {
        for (bytes, shown) in [
            (1_000, "1kB/s"),
            (1_234, "1.234kB/s"),
            (1_500_000, "1.5MB/s"),
            (10_000_001, "10.000001MB/s"),
            (RATE_MAX_BYTES_PER_SECOND, "1000TB/s"),
        ] {
            let rate = Rate::new(bytes).unwrap();
            assert_eq!(rate.to_string(), shown);
            assert_eq!(shown.parse(), Ok(rate));
        }
    }
}
