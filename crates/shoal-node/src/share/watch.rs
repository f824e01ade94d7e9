//! Notices that something in a share's folder changed.
//!
//! What changed is not kept: a wake-up leads to a scan, which alone decides. So an overflow of
//! the kernel's queue costs nothing but that scan, and nothing can be missed or seen twice.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use shoal_store::partial;
use tokio::sync::Notify;

/// Wakes whoever waits when something below a folder changes.
#[derive(Debug)]
pub(super) struct Watch {
    changed: Arc<Notify>,
    // Watches until it is dropped; absent where the system refused.
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Starts to watch. Where the system refuses (too many watches), says so once.
    pub(super) fn start(folder: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        let started = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| matters(&event)) {
                wake.notify_one();
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(folder, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        let watcher = match started {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot watch for changes, scanning now and then instead");
                None
            }
        };
        Self { changed, watcher }
    }

    /// Whether changes are noticed at all.
    pub(super) fn is_live(&self) -> bool {
        self.watcher.is_some()
    }

    /// Waits until something changed since the last wait.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Reading is no change, and neither are downloads under way.
fn matters(event: &Event) -> bool {
    let is_change = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    };
    let only_partials = !event.paths.is_empty()
        && event.paths.iter().all(|path| {
            path.file_name()
                .is_some_and(|name| partial::is_partial_name(name.as_bytes()))
        });
    event.need_rescan() || (is_change && !only_partials)
}
