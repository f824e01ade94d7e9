//! The numbered reasons for which a node refuses, resets or closes.
//!
//! The numbers travel in [`Error`](crate::message::Communication::Error) messages, as QUIC stream
//! reset codes and as connection close codes; `docs/protocol/refusals.md` lists them. A number is
//! never reused.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why a request, a stream or a connection was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
            /// A number from a later version.
            Unknown(u32),
        }

        impl Refusal {
            /// Every refusal this version knows, in the order of their numbers.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name,)*];

            /// The number on the wire.
            pub const fn code(self) -> u32 {
                match self {
                    $(Refusal::$name => $code,)*
                    Refusal::Unknown(code) => code,
                }
            }

            /// The refusal behind a number from the wire.
            pub const fn from_code(code: u64) -> Refusal {
                match code {
                    $($code => Refusal::$name,)*
                    other if other <= u32::MAX as u64 => Refusal::Unknown(other as u32),
                    _ => Refusal::Unknown(u32::MAX),
                }
            }

            /// One sentence for a person.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Refusal::$name => $text,)*
                    Refusal::Unknown(_) => "refused for a reason this version does not know",
                }
            }
        }
    };
}

refusals! {
    /// Nothing is wrong: the work is done, the node says goodbye.
    Done = 0, "finished";
    /// A frame could not be decoded.
    Malformed = 1, "the other side sent a message that cannot be decoded";
    /// A length or count over its cap.
    TooLarge = 2, "the message is larger than its kind may be";
    /// A message that does not belong at this point of the conversation.
    Unexpected = 3, "the message does not belong here";
    /// A deadline passed.
    TimedOut = 4, "the other side took too long";
    /// Too many streams, or streams opened and reset too fast.
    Flooded = 5, "too many requests at once";
    /// The node is shutting down.
    ShuttingDown = 6, "the other side is shutting down";
    /// The request was cancelled by whoever made it.
    Cancelled = 7, "cancelled";
    /// The verb is switched off, or not for this role.
    Denied = 8, "not allowed here";
    /// No valid grant for this file.
    NotGranted = 9, "the server did not vouch for this request";
    /// The grant is over.
    GrantExpired = 10, "the permission has expired, ask the server again";
    /// No such file or folder is announced.
    NotFound = 11, "no such file is announced";
    /// No such peer is connected.
    PeerNotConnected = 12, "the peer is not connected";
    /// The file changed while it was served.
    SourceChanged = 13, "the file changed at its source";
    /// The file could not be read.
    SourceUnreadable = 14, "the file cannot be read at its source";
    /// A chunk did not match its hash.
    BadChunk = 15, "a chunk did not match its hash";
    /// Another running node has the same identity.
    IdentityInUse = 16, "another running node uses the same identity";
    /// A newer connection of the same node took over.
    Replaced = 17, "a newer connection of this node took over";
    /// An announce that is older than one already taken.
    StaleAnnounce = 18, "the announce is older than one already taken";
    /// A quota is used up; try again later.
    QuotaExceeded = 19, "the quota is used up";
    /// An operator ended the connection.
    Disconnected = 20, "disconnected by the operator";
    /// The receiver has no room.
    NoSpace = 21, "not enough space at the receiver";
    /// The receiver could not write.
    WriteFailed = 22, "the receiver could not write the file";
    /// The target exists and differs, and nobody asked to overwrite it.
    TargetExists = 23, "a different file is already there";
    /// The name stands for several files or peers.
    Ambiguous = 24, "the name is ambiguous";
    /// No provider could be reached.
    Unreachable = 25, "no provider can be reached";
    /// A failure inside the node that says so.
    Internal = 26, "the other side failed inside, its log says more";
    /// The identity does not prove who it claims to be.
    WrongIdentity = 27, "the identity could not be proven";
    /// A version of the protocol that is not spoken here.
    VersionUnsupported = 28, "the protocol version is not spoken here";
    /// The words of the code are not the right ones.
    WrongCode = 29, "the code is wrong";
    /// Too many wrong codes were tried.
    CodeBurnt = 30, "too many wrong codes were tried, ask for a new one";
    /// A person said no.
    Declined = 31, "the other side declined";
    /// The offer has ended, or its ticket was revoked or has expired.
    OfferOver = 32, "the offer is over";
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {})", self.text(), self.code())
    }
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.code().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Refusal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_code(u64::from(u32::deserialize(deserializer)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_reads_back_as_its_refusal() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(refusal.code().into()), *refusal);
        }
        assert_eq!(Refusal::from_code(1 << 40), Refusal::Unknown(u32::MAX));
    }
}
