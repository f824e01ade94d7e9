//! A walk over one root of a share: what lies in it that the rules do not hide.
//!
//! Folders are opened beneath the root's handle and never through a link. Each is looked at before
//! anything in it is: a [private](shoal_store::private) folder, and one whose rules cannot be
//! understood, is left out with all that is below it. One folder is open at a time.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use rustix::io::Errno;
use shoal_store::folder::{FileStat, Folder, Kind, Listing};
use shoal_store::partial;
use shoal_wire::SafePath;
use shoal_wire::manifest::LinkTarget;

use super::roots::Root;
use super::rules::{IGNORE_FILE, Rules, RulesError};

/// Something that the walk came to; paths begin below the root and are as the system names them.
#[derive(Debug)]
pub(super) enum Met {
    /// A regular file.
    File(Vec<u8>, FileStat),
    /// A folder, before what is in it; not the root itself.
    Folder(Vec<u8>, FileStat),
    /// A symbolic link.
    Link(Vec<u8>, FileStat, LinkTarget),
    /// A pipe, a socket or a device.
    Special(Vec<u8>),
    /// A folder that is not walked.
    LeftOut(Vec<u8>, LeftOut),
    /// The system could not show something.
    Failed(Vec<u8>, io::Error),
}

/// Why a folder is left out.
#[derive(Debug)]
pub(super) enum LeftOut {
    /// It holds a node's keys and state.
    Private,
    /// Its rules might hide anything.
    Unruled(RulesError),
}

/// A walk under way.
pub(super) struct Walk<W> {
    folder: Folder,
    hidden: bool,
    /// Only what leads to it or lies below it counts.
    below: Option<SafePath>,
    /// Told of each folder before anything in it is read.
    watch: W,
    /// Names that are still to be looked at, of a root of chosen names.
    starts: Vec<Vec<u8>>,
    pending: Vec<Pending>,
    open: Option<Open>,
    ignored: u64,
}

struct Pending {
    path: Vec<u8>,
    rules: Rules,
}

struct Open {
    path: Vec<u8>,
    listing: Listing,
    rules: Rules,
}

impl<W: Fn(&Path)> Walk<W> {
    /// Walks over what is in `root`, or only over `below` there.
    pub(super) fn new(root: &Root, hidden: bool, below: Option<SafePath>, watch: W) -> Self {
        let whole = Pending {
            path: Vec::new(),
            rules: Rules::default(),
        };
        let bytes_of = |name: &std::ffi::OsString| name.as_bytes().to_owned();
        let names = root.only.iter().flatten().map(bytes_of);
        Self {
            folder: root.folder(),
            hidden,
            below,
            watch,
            starts: names.rev().collect(),
            pending: Vec::from_iter(root.only.is_none().then_some(whole)),
            open: None,
            ignored: 0,
        }
    }

    /// How many entries the rules have hidden so far; a folder counts once.
    pub(super) fn ignored(&self) -> u64 {
        self.ignored
    }

    /// A name that was chosen: neither hidden nor subject to rules itself.
    fn begin(&mut self, name: Vec<u8>) -> Option<Met> {
        if !self.is_related(&name) {
            return None;
        }
        let looked = self.folder.listing(b"").and_then(|root| {
            let (kind, stat) = root.stat(&name)?;
            Ok((kind, stat, root.read_link(&name)))
        });
        match looked {
            Ok((Kind::Folder, ..)) => {
                self.pending.push(Pending {
                    path: name,
                    rules: Rules::default(),
                });
                None
            }
            Ok((Kind::File, stat, _)) => Some(Met::File(name, stat)),
            Ok((Kind::Link, stat, target)) => Some(Met::Link(name, stat, target?)),
            Ok((Kind::Other, ..)) => Some(Met::Special(name)),
            Err(error) => Some(Met::Failed(name, error)),
        }
    }

    fn enter(&mut self, Pending { path, rules }: Pending) -> Option<Met> {
        let entered = self.folder.listing(&path).and_then(|listing| {
            let is_private = listing.is_private()?;
            Ok((listing.own_stat()?, is_private, listing))
        });
        let (stat, listing) = match entered {
            Ok((_, true, _)) => return Some(Met::LeftOut(path, LeftOut::Private)),
            Ok((stat, false, listing)) => (stat, listing),
            Err(error) if is_gone(&error) && !path.is_empty() => return None,
            Err(error) => return Some(Met::Failed(path, error)),
        };
        if path.is_empty() {
            // The root itself may be named by a link; nothing below it may.
            (self.watch)(&self.folder.path().join("."));
        } else {
            (self.watch)(&self.folder.path().join(OsStr::from_bytes(&path)));
        }
        let rules = match rules.entering(&listing, &path) {
            Ok(rules) => rules,
            Err(error) => return Some(Met::LeftOut(path, LeftOut::Unruled(error))),
        };
        let met = (!path.is_empty()).then(|| Met::Folder(path.clone(), stat));
        self.open = Some(Open {
            path,
            listing,
            rules,
        });
        met
    }

    /// The next entry of the open folder that counts; `None` where there are no more.
    fn read_on(&mut self, open: &mut Open) -> Option<Met> {
        loop {
            let (name, kind) = match open.listing.next_entry()? {
                Ok(entry) => entry,
                Err(error) => return Some(Met::Failed(open.path.clone(), error)),
            };
            let path = match &open.path[..] {
                [] => name.clone(),
                above => [above, b"/", &name].concat(),
            };
            let is_folder = kind == Kind::Folder;
            if !self.counts(&open.rules, &path, &name, is_folder) {
                continue;
            }
            if is_folder {
                let rules = open.rules.clone();
                self.pending.push(Pending { path, rules });
                continue;
            }
            match open.listing.stat(&name) {
                Ok((Kind::File, stat)) => return Some(Met::File(path, stat)),
                Ok((Kind::Link, stat)) => {
                    if let Some(target) = open.listing.read_link(&name) {
                        return Some(Met::Link(path, stat, target));
                    }
                }
                Ok((Kind::Other, _)) => return Some(Met::Special(path)),
                // It became one since its folder was read: the next walk tells.
                Ok((Kind::Folder, _)) => {}
                // One that vanished since then is simply not there.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Some(Met::Failed(path, error)),
            }
        }
    }

    fn counts(&mut self, rules: &Rules, path: &[u8], name: &[u8], is_folder: bool) -> bool {
        if partial::is_partial_name(name) || !is_folder && name == IGNORE_FILE.as_bytes() {
            return false;
        }
        let is_shown = match rules.verdict(path, is_folder) {
            Match::Ignore(()) => {
                self.ignored += 1;
                false
            }
            Match::Whitelist(()) => true,
            Match::None => self.hidden || !name.starts_with(b"."),
        };
        is_shown && self.is_related(path)
    }

    fn is_related(&self, path: &[u8]) -> bool {
        let below = self.below.as_ref().map(SafePath::as_bytes);
        below.is_none_or(|below| is_at_or_below(path, below) || is_at_or_below(below, path))
    }
}

impl<W: Fn(&Path)> Iterator for Walk<W> {
    type Item = Met;

    fn next(&mut self) -> Option<Met> {
        loop {
            let met = if let Some(mut open) = self.open.take() {
                let met = self.read_on(&mut open);
                // After an error of the folder itself its listing has no more.
                self.open = met.is_some().then_some(open);
                met
            } else if let Some(start) = self.starts.pop() {
                self.begin(start)
            } else {
                let pending = self.pending.pop()?;
                self.enter(pending)
            };
            if met.is_some() {
                return met;
            }
        }
    }
}

/// Whether a path is another one or lies below it; the empty path is above all.
pub(super) fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    let rest = path.strip_prefix(above);
    rest.is_some_and(|rest| above.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
}

fn is_gone(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}
