//! What the fuzz targets share: a cap on memory.
//!
//! Linking this crate makes an allocation beyond [`MEMORY_MAX_BYTES`] fail, which ends the target:
//! a decoder that allocates for what it was only promised is found like any other crash.

use std::alloc::System;

use cap::Cap;

/// Far more than any decoder needs for the inputs given here, far less than a hostile length asks
/// for.
pub const MEMORY_MAX_BYTES: usize = 64 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY_MAX_BYTES);
