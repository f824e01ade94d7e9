//! What is left when all files are there: folders with their attributes, and symbolic links.

use std::sync::Arc;

use shoal_store::attributes::finish_folder;
use shoal_store::folder::Folder;
use shoal_store::partial::PartialError;
use shoal_store::staging::{PlaceError, Staging};
use shoal_wire::SafePath;

use super::ending::{Ending, EndingFolder, EndingLink};
use super::landing::Folders;
use super::{Lost, Tree, TreeEvent, TreeOptions};
use crate::fetch::FetchError;

/// What came of finishing.
#[derive(Default)]
struct Finished {
    lost: Vec<(SafePath, Lost)>,
    failed: Vec<(SafePath, FetchError)>,
}

impl Tree<'_> {
    /// Makes folders and links, and makes all of it durable. One that cannot be made fails alone.
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
                let mut finished = Finished::default();
                finished.make(&folder, ending, &staging, &options);
                if options.syncs() {
                    let synced = staging.sync();
                    synced.map_err(|error| PartialError::of(&folder, 0, error))?;
                }
                Ok::<_, FetchError>(finished)
            })
            .await?;
        for (target, what) in finished.lost {
            self.tell(TreeEvent::NotKept { target, what }).await;
        }
        for (target, error) in finished.failed {
            let result = Err(error);
            self.tell(TreeEvent::Ended { target, result }).await;
        }
        Ok(())
    }
}

impl Finished {
    fn make(&mut self, root: &Folder, ending: Ending, staging: &Staging, options: &TreeOptions) {
        let is_wanted = |folder: &EndingFolder<'_>| folder.is_chosen || root.exists(&folder.target);
        let mut made = Vec::new();
        for at in 0..ending.folder_count() {
            let Some(folder) = ending.folder(at).filter(&is_wanted) else {
                continue;
            };
            match root.make_subfolder(&folder.target) {
                Ok(_) => made.push(at),
                Err(error) => {
                    let error = FetchError::Partial(error.into());
                    self.failed.push((folder.target, error));
                }
            }
        }
        let mut holding = Folders::new(root.clone());
        for link in (0..ending.link_count()).filter_map(|at| ending.link(at)) {
            if !options.links {
                self.lost.push((link.target, Lost::Link));
                continue;
            }
            if let Err(error) = make_link(&mut holding, staging, &link, options.overwrite) {
                self.failed.push((link.target, error));
            }
        }
        // The deepest first: what is made inside a folder changes its time.
        for folder in made.into_iter().rev().filter_map(|at| ending.folder(at)) {
            let Ok(open) = root.subfolder(&folder.target) else {
                continue;
            };
            for lost in finish_folder(&open, folder.mode, folder.mtime_ns, folder.extras) {
                let lost = Lost::Attribute(lost);
                self.lost.push((folder.target.clone(), lost));
            }
        }
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

fn is_same(folder: &Folder, name: &[u8], link: &EndingLink) -> bool {
    let path = SafePath::new(name).ok();
    let held = path.and_then(|path| folder.read_link(&path));
    held.as_ref() == Some(&link.points_to)
}
