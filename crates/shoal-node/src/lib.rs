//! A node: it offers a share, serves and fetches files, and keeps a session with its server.
//!
//! Drives `shoal-store` (disk) and `shoal-link` (network); what to do when is decided by the pure
//! machines of `shoal-core`. [`peer::Peer`] puts the parts together as the peer daemon; the server
//! and one-shot commands use the same parts by themselves. Only [`tasks`] spawns.

mod budget;
pub mod contacts;
pub mod dht;
pub mod fetch;
pub mod lan;
mod moving;
pub mod offer;
pub mod open_files;
pub mod peer;
pub mod plan;
pub mod provide;
pub mod providers;
pub mod relays;
pub mod rendezvous;
pub mod requests;
pub mod session;
pub mod share;
pub mod state;
pub mod tasks;
pub mod throttle;
pub mod transfers;
