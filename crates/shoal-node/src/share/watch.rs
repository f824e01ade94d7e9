//! Notices that something in a share's folder changed.
//!
//! What changed is not kept: a wake-up leads to a scan, which alone decides. A scan has each folder
//! watched before it reads it, so nothing can be missed in between; an overflow of the system's
//! queue costs nothing but another scan. Files that are only read tell nothing.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod portable;

#[cfg(target_os = "linux")]
pub(super) use self::linux::Watch;
#[cfg(not(target_os = "linux"))]
pub(super) use self::portable::Watch;
