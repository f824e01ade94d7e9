//! What is already at a target.

use shoal_store::folder::{FileStat, Folder, OpenError};
use shoal_store::hashing::HashList;
use shoal_store::partial::remove_left_state;
use shoal_wire::{FileSize, Hash, SafePath};

/// What lies at a target, compared with what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Nothing.
    Absent,
    /// The wanted content.
    Same(Hash),
    /// A file of the wanted size, where the wanted hash is not known.
    SameSize,
    /// Something else.
    Different,
}

/// What was seen at a target, and of which version of what lies there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) target: Target,
    stat: Option<FileStat>,
}

/// Looks at the target; reads as much of it as is needed to tell.
pub(super) fn look(
    (folder, path): (&Folder, &SafePath),
    size: FileSize,
    list: Option<&HashList>,
    cancelled: &dyn Fn() -> bool,
) -> Seen {
    let only = |target| Seen { target, stat: None };
    let (file, stat) = match folder.open_file(path) {
        Ok(opened) => opened,
        Err(OpenError::NotFound) => return only(Target::Absent),
        // Opening the partial says what is in the way; nothing is replaced unasked by its end.
        Err(OpenError::TooManyOpen | OpenError::Other(_)) => return only(Target::Absent),
        Err(OpenError::Symlink) if is_behind_a_link(folder, path) => {
            return only(Target::Absent);
        }
        Err(_) => return only(Target::Different),
    };
    let target = match list {
        _ if stat.size != size.bytes() => Target::Different,
        None => Target::SameSize,
        Some(list) => match list.is_of(&file, cancelled) {
            Ok(true) => {
                remove_left_state(folder, path);
                Target::Same(list.root())
            }
            Ok(false) | Err(_) => Target::Different,
        },
    };
    let stat = Some(stat);
    Seen { target, stat }
}

/// Looks again, for the same content: reads only what was not seen before.
pub(super) fn look_again(
    before: &Seen,
    (folder, target): (&Folder, &SafePath),
    list: &HashList,
) -> Target {
    let is_settled = before.target == Target::Different && before.stat.is_some();
    if is_settled && folder.stat(target).ok() == before.stat {
        return Target::Different;
    }
    look((folder, target), list.layout().size(), Some(list), &|| {
        false
    })
    .target
}

fn is_behind_a_link(folder: &Folder, target: &SafePath) -> bool {
    let parent = target.parent();
    parent.is_some_and(|parent| matches!(folder.stat(&parent), Err(OpenError::Symlink)))
}
