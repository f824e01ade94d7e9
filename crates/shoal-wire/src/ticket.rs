//! Tickets: one line of text that a person pastes.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::limits::TICKET_MAX_CHARS;
use crate::message::Addresses;
use crate::offer::RelayPass;

/// First characters of a join ticket: what it is and its version.
const JOIN_PREFIX: &str = "shoaljoin1";
/// Those of one that also admits to the server's relay.
const JOIN_BY_RELAY_PREFIX: &str = "shoaljoin2";

/// Why text is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Another kind of text.
    #[error("not such a ticket: it should start with {0:?}")]
    Prefix(&'static str),
    /// Cut, mistyped or made by another version.
    #[error("the ticket is incomplete or mistyped, copy it again")]
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct JoinByRelayBody {
    server: NodeId,
    addresses: Addresses,
    pass: RelayPass,
}

#[derive(Serialize, Deserialize)]
struct JoinBody {
    server: NodeId,
    addresses: Addresses,
    check: u32,
}

/// What `shoal server` prints and `shoal peer --join` takes: the server's key and addresses.
///
/// The key is pinned, so that a machine in between cannot pretend to be the server. Text form:
/// `shoaljoin1` (`shoaljoin2` with a pass) and base32 (lower case, no padding) of the postcard body
/// with a 32-bit check sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTicket {
    /// The server's key.
    pub server: NodeId,
    /// Where it listens.
    pub addresses: Addresses,
    /// What admits to its relay, where it has one.
    pub pass: Option<RelayPass>,
}

impl fmt::Display for JoinTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pass) = &self.pass {
            let body = JoinByRelayBody {
                server: self.server,
                addresses: self.addresses.clone(),
                pass: pass.clone(),
            };
            let text = encode(JOIN_BY_RELAY_PREFIX, &body).ok_or(fmt::Error)?;
            return f.write_str(&text);
        }
        let body = JoinBody {
            server: self.server,
            addresses: self.addresses.clone(),
            check: join_check_sum(&self.server, &self.addresses),
        };
        f.write_str(&text_of(
            JOIN_PREFIX,
            &postcard::to_stdvec(&body).map_err(|_| fmt::Error)?,
        ))
    }
}

impl FromStr for JoinTicket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let start = text.trim().get(..JOIN_BY_RELAY_PREFIX.len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(JOIN_BY_RELAY_PREFIX)) {
            let body: JoinByRelayBody = decode(JOIN_BY_RELAY_PREFIX, text)?;
            return Ok(Self {
                server: body.server,
                addresses: body.addresses,
                pass: Some(body.pass),
            });
        }
        let bytes = bytes_of(JOIN_PREFIX, text)?;
        let (body, rest): (JoinBody, _) =
            postcard::take_from_bytes(&bytes).map_err(|_| TicketError::Damaged)?;
        let intact = rest.is_empty() && body.check == join_check_sum(&body.server, &body.addresses);
        intact
            .then_some(Self {
                server: body.server,
                addresses: body.addresses,
                pass: None,
            })
            .ok_or(TicketError::Damaged)
    }
}

/// A body with its check sum as the text of a ticket; `None` where it would be too long.
pub(crate) fn encode(prefix: &str, body: &impl Serialize) -> Option<String> {
    let mut bytes = postcard::to_stdvec(body).ok()?;
    bytes.extend(check_sum(bytes.iter()).to_be_bytes());
    let text = text_of(prefix, &bytes);
    (text.len() <= TICKET_MAX_CHARS).then_some(text)
}

/// The body in the text of a ticket.
pub(crate) fn decode<Body: DeserializeOwned>(
    prefix: &'static str,
    text: &str,
) -> Result<Body, TicketError> {
    let bytes = bytes_of(prefix, text)?;
    let (body, check) = bytes.split_last_chunk().ok_or(TicketError::Damaged)?;
    if u32::from_be_bytes(*check) != check_sum(body.iter()) {
        return Err(TicketError::Damaged);
    }
    match postcard::take_from_bytes(body) {
        Ok((body, [])) => Ok(body),
        Ok(_) | Err(_) => Err(TicketError::Damaged),
    }
}

fn text_of(prefix: &str, bytes: &[u8]) -> String {
    let body = BASE32_NOPAD.encode(bytes).to_ascii_lowercase();
    format!("{prefix}{body}")
}

fn bytes_of(prefix: &'static str, text: &str) -> Result<Vec<u8>, TicketError> {
    let text = text.trim();
    if text.len() > TICKET_MAX_CHARS {
        return Err(TicketError::Damaged);
    }
    let lower = text.to_ascii_lowercase();
    let body = lower
        .strip_prefix(prefix)
        .ok_or(TicketError::Prefix(prefix))?;
    BASE32_NOPAD
        .decode(body.to_ascii_uppercase().as_bytes())
        .map_err(|_| TicketError::Damaged)
}

fn join_check_sum(server: &NodeId, addresses: &Addresses) -> u32 {
    let text = addresses
        .iter()
        .map(SocketAddr::to_string)
        .collect::<String>();
    check_sum(server.as_bytes().iter().chain(text.as_bytes()))
}

/// FNV-1a, 32 bits: catches typing errors, proves nothing.
fn check_sum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets() -> [JoinTicket; 2] {
        [None, RelayPass::new("a-pass")].map(|pass| JoinTicket {
            server: NodeId::new([5; 32]),
            addresses: Addresses::truncated(vec!["127.0.0.1:8080".parse().expect("address")]),
            pass,
        })
    }

    #[test]
    fn a_ticket_reads_back_in_either_case() {
        for ticket in tickets() {
            let text = ticket.to_string();
            assert_eq!(text.parse().as_ref(), Ok(&ticket));
            assert_eq!(text.to_uppercase().parse().as_ref(), Ok(&ticket));
        }
    }

    #[test]
    fn a_changed_or_cut_ticket_is_refused() {
        for ticket in tickets() {
            let text = ticket.to_string();
            for at in JOIN_PREFIX.len()..text.len() {
                let mut changed: Vec<u8> = text.clone().into_bytes();
                changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
                let changed = String::from_utf8(changed).expect("ascii");
                assert_ne!(changed.parse().as_ref(), Ok(&ticket), "{at}");
                assert!(text[..at].parse::<JoinTicket>().is_err(), "{at}");
            }
        }
    }
}
