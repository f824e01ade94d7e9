//! What is already at a target.

use shoal_store::folder::{Folder, OpenError};
use shoal_store::hashing::hash_file;
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

/// Looks at the target; reads all of it where only that can tell.
pub(super) fn look(
    folder: &Folder,
    target: &SafePath,
    size: FileSize,
    root: Option<Hash>,
) -> Target {
    let (file, stat) = match folder.open_file(target) {
        Ok(opened) => opened,
        Err(OpenError::NotFound) => return Target::Absent,
        // Opening the partial says what is in the way; nothing is replaced unasked by its end.
        Err(OpenError::TooManyOpen | OpenError::Other(_)) => return Target::Absent,
        Err(OpenError::Symlink) if is_behind_a_link(folder, target) => return Target::Absent,
        Err(_) => return Target::Different,
    };
    if stat.size != size.bytes() {
        return Target::Different;
    }
    let Some(root) = root else {
        return Target::SameSize;
    };
    match hash_file(&file, size, &|| false) {
        Ok(hashes) if hashes.root() == root => {
            remove_left_state(folder, target);
            Target::Same(root)
        }
        _ => Target::Different,
    }
}

fn is_behind_a_link(folder: &Folder, target: &SafePath) -> bool {
    let parent = target.parent();
    parent.is_some_and(|parent| matches!(folder.stat(&parent), Err(OpenError::Symlink)))
}
