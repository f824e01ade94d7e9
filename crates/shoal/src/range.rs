//! Ranges of bytes as they are typed: `0-499`, `1M-`, `-64k`, both ends included as in HTTP.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use shoal_wire::rate::parse_bytes;

/// A stretch of a file whose size is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteRange {
    /// From one byte to another, both included.
    Between(u64, u64),
    /// From a byte to the end.
    From(u64),
    /// So many bytes before the end.
    Last(u64),
}

/// Why a text is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeError {
    /// It cannot be read.
    Malformed,
    /// It ends before it begins.
    Backwards,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => {
                "a range is START-END, START- or -LAST in bytes, counted from 0, with k, M, G or T \
                 where wanted: 0-499 are the first 500 bytes, 1M- is all from byte 1,000,000, -64k \
                 the last 64,000"
            }
            Self::Backwards => "the range ends before it begins: write the smaller number first",
        })
    }
}

impl std::error::Error for RangeError {}

impl FromStr for ByteRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (start, end) = text.trim().split_once('-').ok_or(RangeError::Malformed)?;
        let number = |text: &str| parse_bytes(text).ok_or(RangeError::Malformed);
        match (start, end) {
            ("", "") => Err(RangeError::Malformed),
            ("", last) => match number(last)? {
                0 => Err(RangeError::Malformed),
                last => Ok(Self::Last(last)),
            },
            (start, "") => Ok(Self::From(number(start)?)),
            (start, end) => {
                let (start, end) = (number(start)?, number(end)?);
                if end < start {
                    return Err(RangeError::Backwards);
                }
                Ok(Self::Between(start, end))
            }
        }
    }
}

/// A size as people write it: `500k`, `20G`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "give a number of bytes, with k, M, G or T".to_owned())
}

impl ByteRange {
    /// The bytes of a file of this size, the end excluded; `None` where it has none of them. An end
    /// behind the file's is the file's.
    pub(crate) fn within(self, size_bytes: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Between(first, last) => first..last.saturating_add(1).min(size_bytes),
            Self::From(first) => first..size_bytes,
            Self::Last(count) => size_bytes.saturating_sub(count)..size_bytes,
        };
        (range.start < range.end).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_as_in_http_with_decimal_units() {
        let parse = |text: &str| text.parse::<ByteRange>();
        assert_eq!(parse("0-499"), Ok(ByteRange::Between(0, 499)));
        assert_eq!(parse("1k-1.5M"), Ok(ByteRange::Between(1_000, 1_500_000)));
        assert_eq!(parse("2G-"), Ok(ByteRange::From(2_000_000_000)));
        assert_eq!(parse("-64k"), Ok(ByteRange::Last(64_000)));
        for text in ["", "-", "5", "a-b", "1-2-3", "-0", "1Mi-", "--5", "1x-2"] {
            assert_eq!(parse(text), Err(RangeError::Malformed), "{text}");
        }
        assert_eq!(parse("9-3"), Err(RangeError::Backwards));
    }

    #[test]
    fn a_range_stays_within_the_file() {
        let within = |text: &str, size| text.parse::<ByteRange>().unwrap().within(size);
        assert_eq!(within("0-499", 1000), Some(0..500));
        assert_eq!(within("0-499", 100), Some(0..100));
        assert_eq!(within("7-7", 8), Some(7..8));
        assert_eq!(within("100-", 100), None);
        assert_eq!(within("99-", 100), Some(99..100));
        assert_eq!(within("-64k", 100), Some(0..100));
        assert_eq!(within("-3", 100), Some(97..100));
        assert_eq!(within("-3", 0), None);
        assert_eq!(within("0-999999T", 9), Some(0..9));
    }
}
