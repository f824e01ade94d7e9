//! A node that fetches, into a temporary folder.

use std::path::{Path, PathBuf};

use shoal_node::fetch::{
    FetchError, FetchJob, FetchPolicy, Fetched, Fetcher, Source, TreeEvent, TreeJob, TreeOptions,
};
use shoal_node::tasks::Tasks;
use shoal_node::transfers::{Direction, Transfer, Transfers};
use shoal_store::folder::Folder;
use shoal_wire::{NodeId, SafePath};
use tokio::sync::mpsc;

use super::content::path;
use super::{endpoint, soon};

pub(crate) struct Receiver {
    root: tempfile::TempDir,
    transfers: Transfers,
    fetcher: Fetcher,
    node: NodeId,
}

impl Receiver {
    pub(crate) async fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(root.path().join("in")).expect("a folder");
        std::fs::create_dir(root.path().join("outside")).expect("a folder");
        let endpoint = endpoint(&[]).await;
        Self {
            root,
            transfers: Transfers::new(),
            node: endpoint.node_id(),
            fetcher: Fetcher::new(endpoint, Tasks::new(), None),
        }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// The folder that it receives into.
    pub(crate) fn folder(&self) -> PathBuf {
        self.root.path().join("in")
    }

    /// A folder beside it, in which nothing has any business.
    pub(crate) fn outside(&self) -> PathBuf {
        self.root.path().join("outside")
    }

    pub(crate) fn job(&self, sources: Vec<Source>, target: &str) -> FetchJob {
        let name = "somebody".parse().expect("a name");
        let target = path(target);
        let transfer = self
            .transfers
            .begin(Direction::Receiving, target.clone(), name);
        FetchJob {
            sources,
            further: None,
            folder: Folder::open(&self.folder()).expect("a folder"),
            target,
            range: None,
            overwrite: false,
            policy: FetchPolicy::default(),
            transfer,
        }
    }

    /// Fetches the folder `remote` of a source as a tree under the same name, and gives what
    /// became of each file.
    pub(crate) async fn fetch_tree(
        &self,
        source: Source,
        remote: &str,
        options: TreeOptions,
    ) -> (
        Result<(), FetchError>,
        Vec<(SafePath, Result<Fetched, FetchError>)>,
    ) {
        let name = "somebody".parse().expect("a name");
        let job = TreeJob {
            source,
            remote: Some(path(remote)),
            folder: Folder::open(&self.folder()).expect("a folder"),
            target: Some(path(remote)),
            options,
            transfer: self
                .transfers
                .begin(Direction::Receiving, path(remote), name),
            transfers: self.transfers.clone(),
        };
        let (events, mut told) = mpsc::channel(8);
        let mut ended = Vec::new();
        let listening = async {
            while let Some(event) = told.recv().await {
                if let TreeEvent::Ended { target, result } = event {
                    ended.push((target, result));
                }
            }
        };
        let fetching = self.fetcher.fetch_tree(job, events);
        let (fetched, ()) = soon(async { tokio::join!(fetching, listening) }).await;
        (fetched, ended)
    }

    /// Has a source show that it has what its entry names.
    pub(crate) async fn prove(&self, source: &Source) -> Result<(), FetchError> {
        let folder = Folder::open(&self.folder()).expect("a folder");
        soon(self.fetcher.prove(source, (&folder, &self.transfers))).await
    }

    pub(crate) async fn run(&self, job: FetchJob) -> Result<Fetched, FetchError> {
        soon(self.fetcher.fetch(job)).await
    }

    /// Fetches to a path that is also the name of the file at its source.
    pub(crate) async fn fetch(
        &self,
        sources: Vec<Source>,
        target: &str,
    ) -> Result<Fetched, FetchError> {
        self.run(self.job(sources, target)).await
    }

    /// Fetches with something done meanwhile, which gets what counts the progress.
    pub(crate) async fn fetch_while<Done>(
        &self,
        job: FetchJob,
        meanwhile: impl FnOnce(Transfer) -> Done,
    ) -> Result<Fetched, FetchError>
    where
        Done: Future<Output = ()>,
    {
        let doing = meanwhile(job.transfer.clone());
        let (fetched, ()) = tokio::join!(self.run(job), doing);
        fetched
    }

    pub(crate) fn read(&self, target: &str) -> Vec<u8> {
        std::fs::read(self.folder().join(target)).expect("a received file")
    }

    pub(crate) fn has(&self, target: &str) -> bool {
        self.folder().join(target).symlink_metadata().is_ok()
    }

    /// What lies outside its folder, by name.
    pub(crate) fn strays(&self) -> Vec<PathBuf> {
        let beside = names(self.root.path()).into_iter();
        let beside =
            beside.filter(|name| *name != Path::new("in") && *name != Path::new("outside"));
        beside.chain(names(&self.outside())).collect()
    }
}

/// The names in a folder, in order.
pub(crate) fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").file_name().into())
        .collect();
    names.sort();
    names
}
