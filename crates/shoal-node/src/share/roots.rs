//! Where the files of a share lie: one folder, or chosen files and folders of several.
//!
//! A share's paths begin with a name that lies in exactly one of its roots. A root is an open
//! folder; of a chosen one only the chosen names count, and its other files are not even listed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use shoal_store::folder::{Folder, FolderError};
use shoal_wire::{PathError, SafePath};

/// Why something cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    /// It is not there, or may not be looked at.
    #[error("{} cannot be sent: {source}", shoal_wire::escape(path.as_os_str().as_bytes()))]
    Unreadable {
        /// As it was named.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// It is neither a file nor a folder.
    #[error("{} is neither a file nor a folder", shoal_wire::escape(path.as_os_str().as_bytes()))]
    NeitherFileNorFolder {
        /// As it was named.
        path: PathBuf,
    },
    /// Its name cannot travel.
    #[error("{} cannot be sent under its name: {reason}", shoal_wire::escape(path.as_os_str().as_bytes()))]
    Name {
        /// As it was named.
        path: PathBuf,
        /// What is wrong with it.
        reason: PathError,
    },
    /// Two of them have one name.
    #[error("two of them are called {name}: rename one, or send them one after the other")]
    Twins {
        /// The name.
        name: SafePath,
    },
    /// The folder in which it lies cannot be opened.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Nothing was named.
    #[error("nothing to send")]
    Nothing,
}

/// One open folder with what counts in it.
#[derive(Debug)]
pub(super) struct Root {
    folder: RwLock<Folder>,
    /// How the folder is opened: a private one only where it is this program's own.
    open: fn(&Path) -> Result<Folder, FolderError>,
    /// The names in it that count, in order; all where `None`.
    pub(super) only: Option<Vec<OsString>>,
}

impl Root {
    pub(super) fn new(folder: Folder, only: Option<Vec<OsString>>) -> Self {
        Self {
            folder: RwLock::new(folder),
            open: Folder::open,
            only,
        }
    }

    pub(super) fn folder(&self) -> Folder {
        self.folder
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The paths in the share at which it begins.
    pub(super) fn names(&self) -> Vec<Vec<u8>> {
        match &self.only {
            None => vec![Vec::new()],
            Some(names) => names
                .iter()
                .map(|name| name.as_bytes().to_owned())
                .collect(),
        }
    }

    /// Opens the folder that has its path, where that is another one than before. Blocks.
    ///
    /// # Errors
    /// When there is none that may be read, or it has become private.
    pub(super) fn open_anew(&self) -> Result<(), FolderError> {
        let before = self.folder();
        let opened = (self.open)(before.path())?;
        if !opened.is_same(&before) {
            *self.folder.write().unwrap_or_else(PoisonError::into_inner) = opened;
        }
        Ok(())
    }
}

/// Where the files of a share lie. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Roots(Arc<Vec<Root>>);

impl Roots {
    /// All of one folder; the paths of the share begin below it.
    pub fn whole(folder: Folder) -> Self {
        Self(Arc::new(vec![Root::new(folder, None)]))
    }

    /// Files and folders that a person named, each under its own name. Links in what is named are
    /// the person's and are followed. `own` is a file among them that this program made for itself.
    /// Blocks.
    ///
    /// # Errors
    /// The first one that cannot be offered.
    pub fn chosen(paths: &[PathBuf], own: Option<&Path>) -> Result<Self, ChooseError> {
        let mut names: BTreeMap<SafePath, ()> = BTreeMap::new();
        let mut parents: BTreeMap<(PathBuf, bool), Vec<OsString>> = BTreeMap::new();
        for path in paths {
            let (parent, name) = resolve(path)?;
            let safe = SafePath::new(name.as_bytes()).map_err(|reason| ChooseError::Name {
                path: path.clone(),
                reason,
            })?;
            if names.insert(safe.clone(), ()).is_some() {
                return Err(ChooseError::Twins { name: safe });
            }
            let is_own = own == Some(path);
            parents.entry((parent, is_own)).or_default().push(name);
        }
        if parents.is_empty() {
            return Err(ChooseError::Nothing);
        }
        let opened = parents.into_iter().map(|((parent, is_own), mut names)| {
            names.sort_unstable();
            let open = if is_own {
                Folder::open_own
            } else {
                Folder::open
            };
            Ok(Root {
                open,
                ..Root::new(open(&parent)?, Some(names))
            })
        });
        Ok(Self(Arc::new(opened.collect::<Result<_, FolderError>>()?)))
    }

    /// The folder beneath which a path of the share is opened.
    pub fn folder_of(&self, path: &SafePath) -> Folder {
        let first = path.as_bytes().split(|byte| *byte == b'/').next();
        let holds = |root: &&Root| match (&root.only, first) {
            (Some(names), Some(first)) => names
                .binary_search_by(|name| name.as_bytes().cmp(first))
                .is_ok(),
            _ => true,
        };
        self.0.iter().find(holds).unwrap_or(&self.0[0]).folder()
    }

    /// The names that a person chose; none where all of a folder counts.
    pub(crate) fn chosen_names(&self) -> Vec<SafePath> {
        let names = self
            .0
            .iter()
            .filter_map(|root| root.only.as_ref())
            .flatten();
        let names = names.filter_map(|name| SafePath::new(name.as_bytes()).ok());
        names.collect()
    }

    pub(super) fn each(&self) -> &[Root] {
        &self.0
    }
}

/// The folder in which something lies, and its name there.
fn resolve(path: &Path) -> Result<(PathBuf, OsString), ChooseError> {
    let unreadable = |source| ChooseError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let real = path.canonicalize().map_err(unreadable)?;
    let kind = real.metadata().map_err(unreadable)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        let path = path.to_owned();
        return Err(ChooseError::NeitherFileNorFolder { path });
    }
    if kind.is_dir()
        && let Err(error @ FolderError::Private { .. }) = Folder::open(&real)
    {
        return Err(error.into());
    }
    match (real.parent(), real.file_name()) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_owned())),
        _ => Err(unreadable(std::io::Error::other(
            "the root of the file system has no name, send what is in it",
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_found_under_its_own_name_in_its_own_folder() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir_all(at("a/album")).unwrap();
        std::fs::create_dir(at("b")).unwrap();
        std::fs::write(at("b/note"), "x").unwrap();
        std::os::unix::fs::symlink(at("b/note"), at("a/link")).unwrap();
        let roots = Roots::chosen(&[at("a/album/../album/"), at("b/note")], None).unwrap();
        let folder = |path: &str| roots.folder_of(&path.parse().unwrap()).path().to_owned();
        assert_eq!(folder("album/x"), at("a").canonicalize().unwrap());
        assert_eq!(folder("note"), at("b").canonicalize().unwrap());
        let names = ["album", "note"].map(|name| name.parse().unwrap());
        assert_eq!(roots.chosen_names(), names);
        let twins = Roots::chosen(&[at("b/note"), at("a/link")], None);
        assert!(matches!(twins, Err(ChooseError::Twins { .. })));
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        let place = tempfile::tempdir().unwrap();
        let gone = Roots::chosen(&[place.path().join("gone")], None).unwrap_err();
        assert!(gone.to_string().contains("gone"), "{gone}");
        let device = Roots::chosen(&["/dev/null".into()], None);
        assert!(matches!(
            device,
            Err(ChooseError::NeitherFileNorFolder { .. })
        ));
        assert!(Roots::chosen(&["/".into()], None).is_err());
        assert!(matches!(
            Roots::chosen(&[], None),
            Err(ChooseError::Nothing)
        ));
        std::fs::write(place.path().join("CON"), "x").unwrap();
        let name = Roots::chosen(&[place.path().join("CON")], None);
        assert!(matches!(name, Err(ChooseError::Name { .. })));
    }
}
