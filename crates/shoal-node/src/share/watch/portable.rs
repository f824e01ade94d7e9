//! Where the system tells of no changes: scans happen now and then.

use std::ffi::OsString;
use std::path::Path;

/// Watches nothing.
#[derive(Debug)]
pub(crate) struct Watch;

impl Watch {
    /// Says so.
    pub(crate) fn start() -> Self {
        tracing::warn!("cannot watch for changes here, scanning now and then instead");
        Self
    }

    /// Never.
    pub(crate) fn is_live(&self) -> bool {
        false
    }

    /// Does nothing.
    pub(crate) fn folder(&self, _path: &Path) {}

    /// Does nothing.
    pub(crate) fn names(&self, _path: &Path, _names: &[OsString]) {}

    /// Does nothing.
    pub(crate) fn forget(&self) {}

    /// Waits for ever.
    pub(crate) async fn changed(&self) {
        std::future::pending().await
    }
}
