//! Offers between two people: the secret that opens one, the ticket that carries it, and what is
//! said on the way from a code to a ticket.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::id::NodeId;
use crate::limits::{RELAY_PASS_MAX_BYTES, SEALED_MAX_BYTES};
use crate::message::{Addresses, Bounded};
use crate::text::NodeName;
use crate::ticket::{self, TicketError};

/// First characters of an offer's ticket: what it is and its version.
const OFFER_PREFIX: &str = "shoalsend1";
/// First characters of a relay's ticket.
const RELAY_PREFIX: &str = "shoalrelay1";
/// Scheme of a ticket as a URL.
const URL_SCHEME: &str = "shoal:";

/// What opens an offer: 128 random bits. Printed nowhere but inside a ticket.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct OfferSecret([u8; 16]);

impl OfferSecret {
    /// Wraps 16 random bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl PartialEq for OfferSecret {
    /// Takes the same time wherever the two differ.
    fn eq(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(other.0).map(|(a, b)| a ^ b);
        std::hint::black_box(differing.fold(0, |all, bits| all | bits)) == 0
    }
}

impl Eq for OfferSecret {}

impl fmt::Debug for OfferSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfferSecret(..)")
    }
}

/// What admits its holder to a server's relay: at most [`RELAY_PASS_MAX_BYTES`] letters, digits,
/// `-`, `_` and `.`, which only that server makes and understands.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct RelayPass(String);

impl RelayPass {
    /// Takes a pass, `None` where it has other characters or is too long.
    pub fn new(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let fits = (1..=RELAY_PASS_MAX_BYTES).contains(&text.len());
        (fits && text.bytes().all(is_plain)).then(|| Self(text.to_owned()))
    }

    /// When it ends, in seconds since 1970-01-01 UTC by the clock of the server that made it;
    /// `None` where it has another form than ours.
    pub fn expires_at_s(&self) -> Option<u64> {
        let bytes = BASE32_NOPAD.decode(self.0.as_bytes()).ok()?;
        let (_kind, rest) = bytes.split_first()?;
        let (expires, _rest) = rest.split_first_chunk::<8>()?;
        Some(u64::from_be_bytes(*expires))
    }

    /// The pass as it is shown to the relay; never to anybody else.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RelayPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayPass(..)")
    }
}

impl<'de> Deserialize<'de> for RelayPass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        Self::new(text).ok_or_else(|| de::Error::custom("no relay pass"))
    }
}

/// The server through which a node can be found and relayed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Via {
    /// Its id.
    pub server: NodeId,
    /// Where it listens, over UDP and, as a relay, over TCP.
    pub addresses: Addresses,
    /// What admits the holder of the ticket to its relay; `None` where it has none.
    pub pass: Option<RelayPass>,
}

/// All that is needed to open an offer: what `shoal send` prints and `shoal receive` takes.
///
/// Text form: `shoalsend1` and base32 (lower case, no padding) of the postcard body with a 32-bit
/// check sum; as a URL, `shoal:` before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferTicket {
    /// The node that offers: nobody else can pretend to be it.
    pub sender: NodeId,
    /// What opens the offer.
    pub secret: OfferSecret,
    /// Where the sender may be reached directly.
    pub addresses: Addresses,
    /// Through which server else.
    pub via: Option<Via>,
    /// When it ends, in seconds since 1970-01-01 UTC.
    pub expires_at_s: u64,
}

impl OfferTicket {
    /// The ticket as a URL.
    pub fn url(&self) -> String {
        format!("{URL_SCHEME}{self}")
    }
}

impl fmt::Display for OfferTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ticket::encode(OFFER_PREFIX, self).ok_or(fmt::Error)?)
    }
}

impl FromStr for OfferTicket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let scheme = text.get(..URL_SCHEME.len());
        let is_url = scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(URL_SCHEME));
        let bare = if is_url {
            &text[URL_SCHEME.len()..]
        } else {
            text
        };
        ticket::decode(OFFER_PREFIX, bare)
    }
}

/// What the receiver of a code tells the sender, sealed, once the code is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The name that it goes by.
    pub name: NodeName,
    /// Where it may be reached.
    pub addresses: Addresses,
}

/// A message of the key exchange: one group element of SPAKE2 with its side.
pub type CodeElement = Bounded<u8, 33>;
/// Bytes that only the two ends of a key exchange can read.
pub type Sealed = Bounded<u8, SEALED_MAX_BYTES>;

/// What is on offer, as the sender describes it to a receiver that has opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferDescription {
    /// The name that the sender goes by.
    pub name: NodeName,
    /// How many files.
    pub files: u64,
    /// Their size, in bytes.
    pub total_bytes: u64,
}

/// Where a server's relay is, and what admits to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayPlace {
    /// The TCP port of the relay, at the addresses of the server.
    pub port: u16,
    /// The UDP port at which it tells nodes their addresses, 0 where it does not.
    pub address_discovery_port: u16,
    /// What admits the node that asked.
    pub pass: RelayPass,
    /// What admits those to whom that node gives a ticket.
    pub guest_pass: RelayPass,
    /// How long the first of them holds, in seconds; the other one longer.
    pub lifetime_s: u32,
    /// Where the relay is, if it is not the server's own.
    pub apart: Option<RelayApart>,
}

/// A relay that is a process of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayApart {
    /// Its id.
    pub relay: NodeId,
    /// Where it listens.
    pub addresses: Addresses,
}

/// The secret with which servers make passes for a relay apart.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayKey([u8; 32]);

impl RelayKey {
    /// The key with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for those who make passes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for RelayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayKey(..)")
    }
}

/// All that a server needs to use a relay apart: what `shoal relay` prints and `shoal server
/// --relay` takes. Secret: whoever has it lets in whom they like.
///
/// Text form: `shoalrelay1` and base32 (lower case, no padding) of the postcard body with a 32-bit
/// check sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayTicket {
    /// The relay.
    pub relay: NodeId,
    /// Where it listens.
    pub addresses: Addresses,
    /// With what passes for it are made.
    pub key: RelayKey,
}

impl fmt::Display for RelayTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = ticket::encode(RELAY_PREFIX, self).ok_or(fmt::Error)?;
        f.write_str(&text)
    }
}

impl FromStr for RelayTicket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        ticket::decode(RELAY_PREFIX, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> OfferTicket {
        let addresses = || {
            let texts = ["192.0.2.7:8080", "[2001:db8::1]:443"];
            Addresses::truncated(texts.iter().map(|text| text.parse().unwrap()).collect())
        };
        OfferTicket {
            sender: NodeId::new([5; 32]),
            secret: OfferSecret::new([7; 16]),
            addresses: addresses(),
            via: Some(Via {
                server: NodeId::new([6; 32]),
                addresses: addresses(),
                pass: RelayPass::new("abc.DEF-1_2"),
            }),
            expires_at_s: 1_800_000_000,
        }
    }

    #[test]
    fn a_ticket_reads_back_as_text_and_as_a_url() {
        let text = ticket().to_string();
        assert_eq!(text.parse(), Ok(ticket()));
        assert_eq!(ticket().url().to_uppercase().parse(), Ok(ticket()));
        assert!(text.len() < 400, "{}", text.len());
    }

    #[test]
    fn a_changed_or_cut_ticket_is_refused() {
        let text = ticket().to_string();
        for at in 0..text.len() {
            let mut changed: Vec<u8> = text.clone().into_bytes();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).unwrap();
            if changed != text {
                assert_ne!(changed.parse(), Ok(ticket()), "{at}");
            }
            assert!(text[..at].parse::<OfferTicket>().is_err(), "{at}");
        }
        assert!(
            format!("shoal:{}", "é".repeat(9))
                .parse::<OfferTicket>()
                .is_err()
        );
    }

    #[test]
    fn secrets_are_compared_whole_and_never_shown() {
        let secret = OfferSecret::new([1; 16]);
        let mut other = [1; 16];
        other[15] = 2;
        assert_ne!(secret, OfferSecret::new(other));
        assert_eq!(secret, OfferSecret::new([1; 16]));
        let shown = format!("{:?}", ticket());
        assert!(!shown.contains("[7") && !shown.contains("DEF"), "{shown}");
    }

    #[test]
    fn a_pass_holds_nothing_that_could_end_a_header() {
        for text in [
            "",
            "a b",
            "a\r\nb",
            "é",
            &"a".repeat(RELAY_PASS_MAX_BYTES + 1),
        ] {
            assert_eq!(RelayPass::new(text), None, "{text:?}");
        }
    }
}
