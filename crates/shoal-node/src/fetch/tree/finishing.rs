//! What is left when all files are there: folders with their attributes, and symbolic links.

use std::sync::Arc;

use shoal_store::attributes::finish_folder;
use shoal_store::partial::PartialError;
use shoal_store::staging::{PlaceError, Staging};
use shoal_wire::SafePath;
use shoal_wire::manifest::{Extras, LinkTarget};

use super::landing::Folders;
use super::{Lost, Tree, TreeEvent};
use crate::fetch::FetchError;

/// A folder of the manifest.
#[derive(Debug)]
pub(super) struct EndingFolder {
    pub(super) target: SafePath,
    pub(super) mode: u32,
    pub(super) mtime_ns: i64,
    pub(super) extras: Option<Extras>,
}

/// A symbolic link of the manifest.
#[derive(Debug)]
pub(super) struct EndingLink {
    pub(super) target: SafePath,
    pub(super) points_to: LinkTarget,
    pub(super) mtime_ns: i64,
}

/// What waits for the files.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) folders: Vec<EndingFolder>,
    pub(super) links: Vec<EndingLink>,
}

impl Tree<'_> {
    /// Makes folders and links, and makes all of it durable.
    pub(super) async fn finish(
        &self,
        ending: Ending,
        staging: Arc<Staging>,
    ) -> Result<(), FetchError> {
        let options = self.job.options.clone();
        let folder = self.job.folder.clone();
        let finished = self
            .fetcher
            .tasks
            .blocking(move || {
                let mut lost = Vec::new();
                let mut folders = Folders::new(folder.clone());
                let Ending {
                    folders: made,
                    links,
                } = ending;
                // With a choice, a folder from which nothing was chosen is not wanted either.
                let is_wanted =
                    |target: &SafePath| options.choose.is_none() || folder.exists(target);
                for wanted in made.iter().filter(|made| is_wanted(&made.target)) {
                    folder
                        .make_subfolder(&wanted.target)
                        .map_err(PartialError::from)?;
                }
                for link in links {
                    if !options.links {
                        lost.push((link.target, Lost::Link));
                        continue;
                    }
                    make_link(&mut folders, &staging, &link, options.overwrite)?;
                }
                // The deepest first: what is made inside a folder changes its time.
                for wanted in made.iter().rev().filter(|made| is_wanted(&made.target)) {
                    let made = folder
                        .subfolder(&wanted.target)
                        .map_err(PartialError::from)?;
                    let extras = wanted.extras.as_ref();
                    let not_kept = finish_folder(&made, wanted.mode, wanted.mtime_ns, extras);
                    let each = not_kept.into_iter().map(Lost::Attribute);
                    lost.extend(each.map(|what| (wanted.target.clone(), what)));
                }
                if options.syncs() {
                    let synced = staging.sync();
                    synced.map_err(|error| PartialError::of(&folder, 0, error))?;
                }
                Ok::<_, FetchError>(lost)
            })
            .await;
        for (target, what) in finished? {
            self.tell(TreeEvent::NotKept { target, what }).await;
        }
        Ok(())
    }
}

fn make_link(
    folders: &mut Folders,
    staging: &Staging,
    link: &EndingLink,
    overwrite: bool,
) -> Result<(), FetchError> {
    let folder = folders.holding(&link.target).map_err(PartialError::from)?;
    let name = link.target.file_name();
    let staged = staging
        .link(&link.points_to, link.mtime_ns)
        .map_err(|error| PartialError::of(&folder, 0, error))?;
    match staging.place(&staged, &folder, (name, overwrite)) {
        Ok(()) => Ok(()),
        Err(PlaceError::TargetExists) if is_same(&folder, name, link) => Ok(()),
        Err(error) => Err(folders.named(error, &link.target)),
    }
}

fn is_same(folder: &shoal_store::folder::Folder, name: &[u8], link: &EndingLink) -> bool {
    let path = SafePath::new(name).ok();
    let held = path.and_then(|path| folder.read_link(&path));
    held.as_ref() == Some(&link.points_to)
}
