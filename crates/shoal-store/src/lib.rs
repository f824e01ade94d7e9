//! What machines keep: hashing, hash lists, partial downloads, the hash index, crash-safe writes.
//!
//! Every remote name becomes a local file through [`folder::Folder`], beneath an open directory
//! and never through a link, nor into a [`private`] folder. What [`partial::Partial`] calls durable has been synced, and nothing
//! received is deleted because of an error. All disk functions block; callers run them on a
//! bounded pool. Only [`index::Index`] and the [`database`] beneath it are asynchronous. This crate
//! owns no socket and no task.

pub mod attributes;
pub mod database;
pub mod durable;
pub mod folder;
pub mod hashing;
pub mod index;
pub mod partial;
mod platform;
pub mod private;
pub mod staging;
