//! Fetching one file: the receiver's half of a transfer.
//!
//! [`Fetcher::fetch`] tries the sources of a file one after the other until it is whole. What a
//! source sends is verified chunk by chunk, kept in a partial beside the target, acknowledged once
//! it is durable, and given its final name at the end. A source that sends a wrong chunk is named
//! and not asked again; one that falls silent is dialled anew once. Whatever ends a fetch early, the
//! next one goes on where it stopped.

mod disk;
mod donors;
mod error;
mod lanes;
mod links;
mod pieces;
mod proof;
mod range;
mod receive;
mod reuse;
mod target;
mod tree;
mod wanted;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shoal_link::{Endpoint, Link};
use shoal_store::folder::{Folder, FolderError};
use shoal_store::partial::PartialError;
use shoal_wire::message::{Addresses, Outcome, Provider};
use shoal_wire::{FileEntry, FileSize, NodeId, Refusal, SafePath};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};

use self::donors::Known;
use self::links::Links;
use self::receive::{Attempt, LeftOpen};
use crate::open_files::fetches_at_once;
use crate::relays::Relays;
use crate::share::Share;
use crate::tasks::Tasks;
use crate::transfers::{EndOnDrop, State, Transfer};

pub use error::FetchError;
pub use links::{Greeting, OfferKey, OpenOffer};
pub use tree::{Choose, ChooseOmitted, Lost, Planned, TreeEvent, TreeJob, TreeOptions};

/// Files fetched at once: enough to hide a round trip and a disk sync per small file.
const FILES_AT_ONCE: usize = 16;
/// Wait before sources that were lost are tried again, as long as each round brings something.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// Where a file can be had.
#[derive(Debug, Clone)]
pub struct Source {
    /// The node, its addresses, its version of the file and the grant for it.
    pub provider: Provider,
    /// A link that is already there (the server's); without it the node is dialed.
    pub link: Option<Link>,
}

impl Source {
    /// A node of which nothing is known but where it is: not yet what of it is fetched.
    pub fn at(node: NodeId, addresses: Addresses) -> Self {
        let short = node.short();
        let entry = FileEntry {
            path: short.parse().expect("hex digits are a path"),
            size: FileSize::new(0).expect("an empty file is none too large"),
            mtime_ns: 0,
            mode: 0,
            hash: None,
        };
        let provider = Provider {
            node,
            name: short.parse().expect("hex digits are a name"),
            addresses,
            entry,
            grant: None,
        };
        Self {
            provider,
            link: None,
        }
    }
}

/// Where further sources come from once all that are known have failed: whoever holds the other end
/// looks for them when it is [asked](Finder::asked). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Further {
    wanted: Arc<Notify>,
    found: Arc<Mutex<mpsc::Receiver<Vec<Source>>>>,
}

/// The other end of [`Further`], for whoever looks for them. Dropping it says that there are no more.
#[derive(Debug)]
pub struct Finder {
    wanted: Arc<Notify>,
    found: mpsc::Sender<Vec<Source>>,
}

impl Further {
    /// Both ends.
    pub fn new() -> (Finder, Self) {
        let wanted = Arc::new(Notify::new());
        let (found, finding) = mpsc::channel(1);
        let further = Self {
            wanted: Arc::clone(&wanted),
            found: Arc::new(Mutex::new(finding)),
        };
        (Finder { wanted, found }, further)
    }

    /// The next ones; `None` where there are no more.
    async fn next(&self) -> Option<Vec<Source>> {
        self.wanted.notify_one();
        self.found.lock().await.recv().await
    }
}

impl Finder {
    /// Waits until more sources are wanted.
    pub async fn asked(&self) {
        self.wanted.notified().await;
    }

    /// Gives them; none where there are no more.
    pub async fn give(&self, sources: Vec<Source>) {
        // Whoever wanted them may be gone.
        let _ = self.found.send(sources).await;
    }
}

/// When a fetched file counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it is synced: a loss of power does not take it back.
    #[default]
    Synced,
    /// When it is verified and has its name, as most tools do it: the system writes it to the disk
    /// in its own time.
    Unsynced,
}

/// How a file is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPolicy {
    /// When it counts as done.
    pub durability: Durability,
    /// Whether chunks may come compressed.
    pub accepts_compressed: bool,
    /// Whether nobody vouches for the sources. Each has to show the hashes of all chunks, which lead
    /// to the file's, before anything is taken; that it calls the file executable is not believed.
    pub of_strangers: bool,
}

impl Default for FetchPolicy {
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
            accepts_compressed: true,
            of_strangers: false,
        }
    }
}

/// One file to fetch.
#[derive(Debug, Clone)]
pub struct FetchJob {
    /// Who has it, best first: all of the same content.
    pub sources: Vec<Source>,
    /// Who else may have it, asked when none of these is left.
    pub further: Option<Further>,
    /// The folder that receives it.
    pub folder: Folder,
    /// Where in that folder.
    pub target: SafePath,
    /// Only these bytes of it, which then are a file of their own; they lie within its size.
    pub range: Option<Range<u64>>,
    /// Whether a different file that is there is replaced.
    pub overwrite: bool,
    /// How it is fetched.
    pub policy: FetchPolicy,
    /// What counts its progress and can cancel it.
    pub transfer: Transfer,
}

/// A file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Whether it had to be fetched.
    pub outcome: Outcome,
    /// Its size, in bytes.
    pub total_bytes: u64,
    /// How much of it was found on this machine and not fetched, in bytes.
    pub reused_bytes: u64,
}

/// Fetches files for this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    links: Arc<Links>,
    tasks: Tasks,
    share: Option<Share>,
    known: Option<Known>,
}

impl Fetcher {
    /// Dials from `endpoint`. `share`, if any, learns the hashes of what arrives, and gives what it
    /// has of a content that is fetched.
    pub fn new(endpoint: Endpoint, tasks: Tasks, share: Option<Share>) -> Self {
        Self {
            links: Arc::new(Links::new(endpoint, None, Relays::new())),
            tasks,
            share,
            known: None,
        }
    }

    /// Also takes content from files in the folder that it is fetched into, where the cache of
    /// hashes at `index_path` knows them.
    #[must_use]
    pub fn with_index(mut self, index_path: PathBuf) -> Self {
        self.known = Some(Known::new(index_path));
        self
    }

    /// Opens an offer on every link before it asks for anything.
    #[must_use]
    pub fn opening(mut self, greeting: Greeting) -> Self {
        self.links = Arc::new(self.links.but(Some(greeting), None));
        self
    }

    /// Also reaches nodes by these relays.
    #[must_use]
    pub fn by_relays(mut self, relays: Relays) -> Self {
        self.links = Arc::new(self.links.but(None, Some(relays)));
        self
    }

    /// Opens the offer of `provider`, and keeps it open while what is returned lives.
    ///
    /// # Errors
    /// Why the sender cannot be reached, or does not let this node in.
    pub async fn visit(&self, provider: &Provider) -> Result<OpenOffer, FetchError> {
        let visited = self.links.visit(provider).await;
        visited.map_err(|error| error.of(provider))
    }

    /// Fetches one file, to the end or to the first reason that no source can mend. What became
    /// of it is also said to the job's transfer.
    ///
    /// # Errors
    /// What stands in the way; whatever has arrived stays on disk for the next try.
    pub async fn fetch(&self, job: FetchJob) -> Result<Fetched, FetchError> {
        let _ended = EndOnDrop(job.transfer.clone());
        let fetched = match self.check_target(&job).await {
            Ok(()) => self.try_sources(&job).await,
            Err(error) => Err(error),
        };
        job.transfer.ended(match &fetched {
            Ok(fetched) => State::Done(fetched.outcome),
            Err(error) => State::Failed(error.refusal()),
        });
        fetched
    }

    /// Fetches many files, some at a time, and tells of each as it ends, by its position.
    pub async fn fetch_all(
        &self,
        jobs: Vec<FetchJob>,
        ended: mpsc::Sender<(usize, Result<Fetched, FetchError>)>,
    ) {
        let slots = Arc::new(Semaphore::new(fetches_at_once(FILES_AT_ONCE)));
        for (position, job) in jobs.into_iter().enumerate() {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let (fetcher, ended) = (self.clone(), ended.clone());
            self.tasks.spawn(async move {
                let result = fetcher.fetch(job).await;
                // Whoever asked may have stopped listening.
                let _ = ended.send((position, result)).await;
                drop(slot);
            });
        }
    }

    /// What lies in a private folder is not even compared with anything.
    async fn check_target(&self, job: &FetchJob) -> Result<(), FetchError> {
        let (folder, target) = (job.folder.clone(), job.target.clone());
        let checking = move || match folder.check_target(&target) {
            Err(error @ FolderError::Private { .. }) => Err(PartialError::from(error).into()),
            // Whoever opens it says what else is in the way.
            Ok(()) | Err(_) => Ok(()),
        };
        self.tasks.blocking(checking).await
    }

    async fn try_sources(&self, job: &FetchJob) -> Result<Fetched, FetchError> {
        let mut sources = job.sources.clone();
        let mut last = FetchError::NoSource;
        let left = LeftOpen::default();
        loop {
            let before = job.transfer.snapshot().durable_bytes;
            let mut remaining = Vec::new();
            for source in sources {
                let mut result = self.try_source(job, &source, &left).await;
                if let Err(FetchError::Stalled { .. }) = result {
                    // The path may have died without a word: once more over a new link.
                    self.links.forget(source.provider.node);
                    result = self.try_source(job, &source, &left).await;
                }
                let error = match result {
                    Ok(fetched) => return Ok(fetched),
                    Err(error) => error,
                };
                if error.is_final() {
                    return Err(error);
                }
                let provider = &source.provider;
                tracing::warn!(peer = %provider.name, node = %provider.node, path = %provider.entry.path, %error, "source failed");
                if error.may_pass() {
                    remaining.push(source);
                }
                last = error;
            }
            let progressed = job.transfer.snapshot().durable_bytes > before;
            if remaining.is_empty() || !progressed {
                sources = self.further(job).await?;
                if sources.is_empty() {
                    return Err(last);
                }
                // Those that were only lost may be back by the time that the others are tried.
                sources.extend(remaining);
                continue;
            }
            sources = remaining;
            tokio::select! {
                () = tokio::time::sleep(ROUND_PAUSE) => {}
                () = job.transfer.cancelled() => return Err(FetchError::Cancelled),
            }
        }
    }

    /// Who else has it.
    async fn further(&self, job: &FetchJob) -> Result<Vec<Source>, FetchError> {
        let Some(further) = &job.further else {
            return Ok(Vec::new());
        };
        tokio::select! {
            found = further.next() => Ok(found.unwrap_or_default()),
            () = job.transfer.cancelled() => Err(FetchError::Cancelled),
        }
    }

    async fn try_source(
        &self,
        job: &FetchJob,
        source: &Source,
        left: &LeftOpen,
    ) -> Result<Fetched, FetchError> {
        let provider = &source.provider;
        job.transfer.joined(&provider.name);
        job.transfer.sized(provider.entry.size.bytes());
        let attempt = Attempt {
            job,
            provider,
            tasks: &self.tasks,
            share: self.share.as_ref(),
            known: self.known.as_ref(),
            left,
        };
        if let Some(link) = &source.link {
            return attempt.run(link).await;
        }
        let leased = tokio::select! {
            leased = self.links.lease(provider) => leased,
            () = job.transfer.cancelled() => return Err(FetchError::Cancelled),
        };
        let lease = leased.map_err(|error| error.of(provider))?;
        match lease.link() {
            Some(link) => {
                link.widen();
                attempt.run(link).await
            }
            None => Err(FetchError::refused(provider, Refusal::Unreachable, "")),
        }
    }
}
