//! The Linux way to hear of changes: inotify.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// Some folder is not watched: there are too many, or one may not be.
    is_incomplete: AtomicBool,
    /// The names that count in folders of which some were named, by the system's number of each
    /// watch; `None` where everything counts all the same.
    only: Mutex<BTreeMap<i32, Option<BTreeSet<OsString>>>>,
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
            only: Mutex::default(),
        }
    }

    /// Whether changes are noticed in every folder.
    pub(crate) fn is_live(&self) -> bool {
        self.events.is_some() && !self.is_incomplete.load(Ordering::Relaxed)
    }

    /// Watches all of a folder, from now on if it was not watched before.
    pub(crate) fn folder(&self, path: &Path) {
        match self.add(path) {
            Some(Ok(number)) => {
                if let Some(named) = self.only().get_mut(&number) {
                    *named = None;
                }
            }
            // One that may not be read has nothing to offer.
            None | Some(Err(Errno::ACCESS)) => {}
            Some(Err(error)) => self.incomplete(error),
        }
    }

    /// Watches some names in a folder. It comes before the same folder is watched as a whole.
    pub(crate) fn names(&self, path: &Path, names: &[OsString]) {
        match self.add(path) {
            Some(Ok(number)) => {
                let mut only = self.only();
                let named = only.entry(number).or_insert_with(|| Some(BTreeSet::new()));
                if let Some(named) = named {
                    named.extend(names.iter().cloned());
                }
            }
            None => {}
            Some(Err(error)) => self.incomplete(error),
        }
    }

    /// Has the system tell of a folder; `None` where there is none.
    fn add(&self, path: &Path) -> Option<Result<i32, Errno>> {
        let events = self.events.as_ref()?;
        match inotify::add_watch(events, path, CHANGES | HOW) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            added => Some(added),
        }
    }

    fn incomplete(&self, error: Errno) {
        if !self.is_incomplete.swap(true, Ordering::Relaxed) {
            warn(&error.into());
        }
    }

    fn only(&self) -> MutexGuard<'_, BTreeMap<i32, Option<BTreeSet<OsString>>>> {
        self.only.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Downloads under way are no change, and neither is the end of a watch or a name that nobody
    /// named.
    fn matters(&self, event: &Event<'_>) -> bool {
        if event.events() == ReadFlags::IGNORED {
            return false;
        }
        let Some(name) = event.file_name().map(|name| name.to_bytes()) else {
            return true;
        };
        let only = self.only();
        let named = only.get(&event.wd()).and_then(Option::as_ref);
        let is_named = |named: &BTreeSet<OsString>| named.contains(OsStr::from_bytes(name));
        !partial::is_partial_name(name) && named.is_none_or(is_named)
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
                Ok(event) => is_news |= self.matters(&event),
                Err(Errno::INTR) => {}
                Err(_) => return is_news,
            }
        }
    }
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

    #[tokio::test]
    async fn of_a_folder_with_named_files_only_these_wake_until_all_of_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), "content").unwrap();
        let watch = Watch::start();
        watch.names(folder.path(), &["note".into()]);
        watch.names(folder.path(), &["other".into()]);
        write("elsewhere");
        assert!(!watch.read());
        write("other");
        watch.changed().await;
        fs::rename(folder.path().join("elsewhere"), folder.path().join("note")).unwrap();
        watch.changed().await;
        watch.forget();
        watch.folder(folder.path());
        watch.names(folder.path(), &["note".into()]);
        write("elsewhere");
        watch.changed().await;
    }
}
