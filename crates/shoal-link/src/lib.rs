//! How nodes reach each other: QUIC links between nodes that know each other by key.
//!
//! Two lanes lead to a link. The direct one is one UDP socket per process and goes to addresses; the
//! roaming one goes to node ids, through NATs and relays. Which of them carries a link makes no
//! difference to anything above.
//!
//! Owns the node's [`Identity`], the handshake (TLS 1.3 both ways, Ed25519 node certificates, or
//! a server's X.509 certificate), the transport settings chosen per path, and the framing of
//! messages on a stream. It does not decide whom to talk to, what to ask, or what to do with the
//! answer. It alone names the QUIC library.
//!
//! Invariant: a [`Link`] that exists has proven who is at its other end, in the way that the
//! dialer's [`Trust`] asked for; whoever dials has always shown a node certificate.
//!
//! Start at [`Endpoint::bind`], then [`Endpoint::dial`] and [`Endpoint::accept`].

mod accept;
mod certificate;
mod congestion;
mod dial;
mod directory;
mod endpoint;
mod homing;
mod https;
mod identity;
mod link;
mod networks;
mod relay;
mod roaming;
mod socket;
mod stream;
mod tls;
mod transport;
mod trust;

pub use certificate::{CertificateError, RootSet, ServerCertificate, self_signed};
pub use dial::{Dial, DialError};
pub use endpoint::{Endpoint, EndpointConfig};
pub use https::Https;
pub use identity::{Identity, IdentityError};
pub use link::{Link, LinkError, LivePath, PathKind};
pub use relay::{Admission, Meter, RELAY_PATHS, RelayFigures, RelayServer, Visitor};
pub use roaming::{Relay, RoamingConfig};
pub use socket::BindError;
pub use stream::{HearError, RecvStream, SayError, SendStream, Stream, StreamError, StreamName};
pub use tls::Protocol;
pub use trust::Trust;
