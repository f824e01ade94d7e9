//! The coordinator: who is connected, who announced what, and the requests it makes by itself.
//!
//! [`server::Server`] puts it together: the roster of connected peers, the [`catalog`] of what
//! everybody announced, the answers to nodes that look something up, the server's own files, and
//! the [`control`] socket of its operator. It never sees content that peers give each other; it
//! names providers and signs grants.
//!
//! Peers transfer directly; what is decided about connections is decided by the pure registry of
//! `shoal-core`, what moves bytes is `shoal-node`'s.

mod addresses;
mod answers;
pub mod catalog;
mod connection;
pub mod control;
mod coordinator;
mod http;
mod lookup;
mod mailbox;
pub mod metrics;
mod nat;
mod orders;
mod places;
mod refused;
pub mod relay;
mod roster;
pub mod server;

pub use control::socket::SocketError;
pub use coordinator::Limits;
pub use server::{Server, ServerOptions, StartError};
