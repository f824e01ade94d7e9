//! The Linux way to hear of changes: inotify.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use shoal_store::partial;
use tokio::io::unix::AsyncFd;

/// What may change what is offered. Opening and reading is left out: whoever serves a file would
/// be told of it each time.
const CHANGES: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF);
/// Folders themselves, never through a link, and nothing of files that have lost their names.
const HOW: WatchFlags = WatchFlags::ONLYDIR
    .union(WatchFlags::DONT_FOLLOW)
    .union(WatchFlags::EXCL_UNLINK);
/// Bytes of events that are read at once: some hundred.
const READ_BYTES: usize = 16 * 1024;

/// Wakes whoever waits when something in one of the watched folders changes.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Absent where the system refused.
    events: Option<AsyncFd<OwnedFd>>,
    /// Some folder is not watched: there are too many.
    is_incomplete: AtomicBool,
}

impl Watch {
    /// Starts with no folder. Where the system refuses, says so once.
    pub(crate) fn start() -> Self {
        let created = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let events = created.map_err(std::io::Error::from).and_then(register);
        if let Err(error) = &events {
            warn(error);
        }
        Self {
            events: events.ok(),
            is_incomplete: AtomicBool::new(false),
        }
    }

    /// Whether changes are noticed in every folder.
    pub(crate) fn is_live(&self) -> bool {
        self.events.is_some() && !self.is_incomplete.load(Ordering::Relaxed)
    }

    /// Watches a folder, from now on if it was not watched before.
    pub(crate) fn folder(&self, path: &Path) {
        let Some(events) = &self.events else { return };
        match inotify::add_watch(events, path, CHANGES | HOW) {
            // One that is gone or out of reach has nothing to offer either.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => {}
            Err(error) => {
                if !self.is_incomplete.swap(true, Ordering::Relaxed) {
                    warn(&error.into());
                }
            }
        }
    }

    /// Forgets what changed until now.
    pub(crate) fn forget(&self) {
        self.read();
    }

    /// Waits until something changed that was not forgotten.
    pub(crate) async fn changed(&self) {
        let Some(events) = &self.events else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = events.readable().await else {
                return std::future::pending().await;
            };
            if self.read() {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Reads whatever is queued. Tells whether any of it matters.
    fn read(&self) -> bool {
        let Some(events) = &self.events else {
            return false;
        };
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let mut reader = Reader::new(events, &mut buffer);
        let mut is_news = false;
        loop {
            match reader.next() {
                Ok(event) => is_news |= matters(&event),
                Err(Errno::INTR) => {}
                Err(_) => return is_news,
            }
        }
    }
}

/// Downloads under way are no change, and neither is the end of a watch.
fn matters(event: &Event<'_>) -> bool {
    let name = event.file_name();
    let is_download = name.is_some_and(|name| partial::is_partial_name(name.to_bytes()));
    let is_end = event.events() == ReadFlags::IGNORED;
    !is_download && !is_end
}

#[expect(
    deprecated,
    reason = "its successor has the caller promise that the descriptor stays open, which an owned one does"
)]
fn register(queue: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(queue)
}

fn warn(error: &std::io::Error) {
    tracing::warn!(%error, "cannot watch all folders for changes, scanning now and then instead");
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn changes_wake_and_reading_and_downloads_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let (file, inside) = (folder.path().join("file"), folder.path().join("inside"));
        fs::write(&file, "content").unwrap();
        fs::create_dir(&inside).unwrap();
        let watch = Watch::start();
        watch.folder(folder.path());
        watch.folder(&inside);
        watch.folder(&folder.path().join("gone"));
        assert!(watch.is_live());
        fs::read(&file).unwrap();
        fs::read_dir(&inside).unwrap().count();
        fs::write(folder.path().join(".file.shoal-part"), "half").unwrap();
        assert!(!watch.read());
        fs::write(inside.join("new"), "content").unwrap();
        watch.changed().await;
        assert!(!watch.read());
        fs::remove_file(&file).unwrap();
        watch.forget();
        assert!(!watch.read());
        fs::remove_dir_all(&inside).unwrap();
        watch.changed().await;
    }
}
