//! Whereabouts: what a node publishes of itself where no server knows it.
//!
//! The record is kept by strangers, under the node's own key: they check its signature and its
//! size, whoever finds it checks all. It holds addresses and a time, nothing else.

use serde::{Deserialize, Serialize};

use crate::message::Addresses;

/// The form of these records, their first byte.
const VERSION: u8 = 1;
/// Longest record, in bytes: what a value of BEP 44 may have.
pub const WHEREABOUTS_MAX_BYTES: usize = 1000;

/// Where a node says that it can be reached.
///
/// Bytes: a version (1), then the postcard body of the fields in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// When it was said, in seconds since 1970-01-01 UTC.
    pub said_at_s: u64,
    /// Where the node can be dialled.
    pub addresses: Addresses,
}

impl Whereabouts {
    /// The record; `None` where it would be too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let body = postcard::to_stdvec(self).ok()?;
        let record = [&[VERSION], &body[..]].concat();
        (record.len() <= WHEREABOUTS_MAX_BYTES).then_some(record)
    }

    /// What a record says; `None` where it has another form, or something behind its end.
    pub fn decode(record: &[u8]) -> Option<Self> {
        if record.len() > WHEREABOUTS_MAX_BYTES {
            return None;
        }
        let (&VERSION, body) = record.split_first()? else {
            return None;
        };
        let (whereabouts, rest) = postcard::take_from_bytes(body).ok()?;
        rest.is_empty().then_some(whereabouts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Whereabouts {
        let texts = ["192.0.2.7:8080", "[2001:db8::1]:443"];
        let addresses = texts.iter().map(|text| text.parse().unwrap()).collect();
        Whereabouts {
            said_at_s: 1_800_000_000,
            addresses: Addresses::truncated(addresses),
        }
    }

    #[test]
    fn a_record_says_what_was_put_in() {
        let record = sample().encode().unwrap();
        assert_eq!(Whereabouts::decode(&record), Some(sample()));
        assert_eq!(record[0], VERSION);
        for length in 0..record.len() {
            assert_eq!(Whereabouts::decode(&record[..length]), None);
        }
        assert_eq!(Whereabouts::decode(&[&record[..], &[0]].concat()), None);
        assert_eq!(Whereabouts::decode(&[0; 2000]), None);
    }

    #[test]
    fn the_fullest_record_fits() {
        let longest = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        let all = vec![longest.parse().unwrap(); crate::limits::ADDRESSES_MAX];
        let full = Whereabouts {
            said_at_s: u64::MAX,
            addresses: Addresses::truncated(all),
        };
        assert!(full.encode().is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_valid(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            let mut record = bytes;
            for _ in 0..2 {
                if let Some(said) = Whereabouts::decode(&record) {
                    prop_assert!(said.addresses.len() <= crate::limits::ADDRESSES_MAX);
                }
                record.insert(0, VERSION);
            }
        }
    }
}
