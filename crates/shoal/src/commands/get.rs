//! `shoal get`: fetches files and folders directly from the peers that have them.

mod by_dht;
pub(crate) mod choose;
pub(crate) mod course;
pub(crate) mod left_out;
mod slice;

use std::time::Duration;

use serde_json::json;
use shoal_node::fetch::{
    Durability, FetchError, FetchJob, FetchPolicy, Fetched, Fetcher, TreeEvent, TreeJob,
    TreeOptions,
};
use shoal_node::plan::{Candidate, PlanError, Planned, PlannedFile, PlannedTree, plan};
use shoal_node::session::Session;
use shoal_node::tasks::Tasks;
use shoal_node::transfers::{Direction, Transfer, Transfers};
use shoal_store::attributes::Wanted;
use shoal_store::folder::Folder;
use shoal_wire::{NodeName, SafePath};
use tokio::sync::mpsc;

use self::choose::Selection;
use self::course::{Course, There};
use self::left_out::LeftOut;
use self::slice::{Narrowed, Slice};
use crate::args::GetArguments;
use crate::connect::Joined;
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::limits;
use crate::output::progress::Progress;
use crate::output::{Output, size, table};

/// Time between two looks at the counters.
const TICK: Duration = Duration::from_millis(100);
/// How long disk work may take to end after the last transfer.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// Events that may wait to be told: what is printed holds a fetch up, not the memory.
const EVENTS_WAITING: usize = 1024;

/// Runs the command.
pub(super) async fn run(arguments: GetArguments, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    if arguments.dht.dht {
        return by_dht::run(&arguments, &mut interrupt, output).await;
    }
    let (folder, slice) = destination(&arguments)?;
    let joined = tokio::select! {
        joined = Joined::connect(&arguments.joined, output) => joined?,
        () = interrupt.received() => return Err(interrupted()),
    };
    let tasks = Tasks::new();
    let throttle = limits::receiving(&arguments.down, &joined.limits, &tasks)?;
    let getting = Getting {
        fetcher: &Fetcher::new(joined.endpoint.clone(), tasks.clone(), None)
            .with_index(joined.index_path.clone())
            .by_relays(joined.relays().await),
        transfers: &Transfers::limited(throttle),
        folder,
        options: options(&arguments)?,
        slice,
    };
    let got = getting
        .run((&joined.session, &arguments.wanted), &mut interrupt, output)
        .await;
    joined.close().await;
    tasks.shutdown(SHUTDOWN_DEADLINE).await;
    got
}

/// Where it goes, and what of it where not all of it.
fn destination(arguments: &GetArguments) -> Result<(Folder, Option<Slice>), Failure> {
    let (folder, slice) = match arguments.range {
        Some(range) => {
            Slice::at(range, &arguments.output_dir).map(|(folder, slice)| (folder, Some(slice)))?
        }
        None => (arguments.output_dir.clone(), None),
    };
    let folder = Folder::create(&folder).map_err(|error| Failure::local(error.to_string()))?;
    Ok((folder, slice))
}

fn options(arguments: &GetArguments) -> Result<TreeOptions, Failure> {
    let selection = Selection::of(&arguments.include, &arguments.exclude)?;
    Ok(TreeOptions {
        overwrite: arguments.overwrite,
        links: arguments.links,
        wanted: Wanted {
            owner: arguments.owner,
            xattrs: arguments.xattrs,
        },
        policy: FetchPolicy {
            durability: if arguments.no_sync {
                Durability::Unsynced
            } else {
                Durability::Synced
            },
            accepts_compressed: !arguments.no_compress,
            ..FetchPolicy::default()
        },
        choose: selection.as_ref().map(Selection::choose),
        choose_omitted: selection.as_ref().map(Selection::choose_omitted),
        dry_run: arguments.dry_run,
    })
}

/// What a fetch works with.
pub(crate) struct Getting<'a> {
    pub(crate) fetcher: &'a Fetcher,
    pub(crate) transfers: &'a Transfers,
    pub(crate) folder: Folder,
    pub(crate) options: TreeOptions,
    /// What of one file, where not all of it.
    pub(crate) slice: Option<Slice>,
}

/// What is to be fetched.
struct Jobs {
    files: Vec<FetchJob>,
    trees: Vec<TreeJob>,
}

/// What the fetches tell.
enum Told {
    File(SafePath, Result<Fetched, FetchError>),
    Tree(TreeEvent),
    BrokeOff(SafePath, FetchError),
}

impl Getting<'_> {
    /// Finds out what all the words mean, then fetches it, telling how far it is.
    pub(crate) async fn run(
        &self,
        (session, wanted): (&Session, &[String]),
        interrupt: &mut Interrupt,
        output: &Output,
    ) -> Result<(), Failure> {
        let planned = tokio::select! {
            planned = self.plan_all(session, wanted, output) => planned?,
            () = interrupt.received() => return Err(interrupted()),
        };
        let there = self.fetch(planned, interrupt, output).await?;
        LeftOut::settle(there.left_out)
    }

    /// Fetches what is planned, telling how far it is; what is there then.
    async fn fetch(
        &self,
        mut planned: Vec<Planned>,
        interrupt: &mut Interrupt,
        output: &Output,
    ) -> Result<There, Failure> {
        let narrowed = match &self.slice {
            Some(slice) => Some(slice.narrow(&mut planned)?),
            None => None,
        };
        let mut course = Course::new(&planned, self.folder.path().display().to_string(), output);
        if let Some(narrowed) = &narrowed {
            course.narrowed(narrowed.moved_bytes);
        }
        let jobs = self.jobs(planned, narrowed.as_ref());
        let files = jobs.files.iter().map(|job| &job.transfer);
        let trees = jobs.trees.iter().map(|job| &job.transfer);
        for transfer in files.chain(trees) {
            course.began(Transfer::clone(transfer));
        }
        let mut progress = Progress::start(output);
        let (tell, mut told) = mpsc::channel(EVENTS_WAITING);
        let mut is_interrupted = false;
        let mut fetching = std::pin::pin!(self.fetch_all(jobs, tell));
        let mut is_over = false;
        let mut ticks = tokio::time::interval(TICK);
        let mut happened = Vec::new();
        loop {
            tokio::select! {
                count = told.recv_many(&mut happened, EVENTS_WAITING) => {
                    if count == 0 {
                        break;
                    }
                    for told in happened.drain(..) {
                        match told {
                            Told::File(target, result) => course.ended(&target, &result),
                            Told::Tree(event) => course.happened(event),
                            Told::BrokeOff(target, error) => course.broke_off(&target, &error),
                        }
                    }
                }
                () = &mut fetching, if !is_over => is_over = true,
                _ = ticks.tick() => progress.show(&course.standing()),
                () = interrupt.received() => {
                    is_interrupted = true;
                    course.cancel();
                }
            }
        }
        progress.show(&course.standing());
        let took = progress.end();
        if self.options.dry_run && !is_interrupted {
            let concluded = course.conclude_dry(self.folder.free_bytes().ok());
            return concluded.map(|()| There::default());
        }
        course.conclude(took, is_interrupted)
    }

    /// Fetches everything, and is over when the last has been told.
    async fn fetch_all(&self, jobs: Jobs, tell: mpsc::Sender<Told>) {
        let targets: Vec<SafePath> = jobs.files.iter().map(|job| job.target.clone()).collect();
        let (ended, mut results) = mpsc::channel(EVENTS_WAITING);
        let fetching = self.fetcher.fetch_all(jobs.files, ended);
        let telling = async {
            while let Some((position, result)) = results.recv().await {
                let target: &SafePath = &targets[position];
                // Whoever listens does so to the end.
                let _ = tell.send(Told::File(target.clone(), result)).await;
            }
        };
        tokio::join!(fetching, telling);
        for tree in jobs.trees {
            self.fetch_tree(tree, &tell).await;
        }
    }

    async fn fetch_tree(&self, tree: TreeJob, tell: &mpsc::Sender<Told>) {
        let target = tree.transfer.snapshot().path;
        let (events, mut happened) = mpsc::channel(EVENTS_WAITING);
        let fetching = self.fetcher.fetch_tree(tree, events);
        let telling = async {
            let mut some = Vec::new();
            while happened.recv_many(&mut some, EVENTS_WAITING).await > 0 {
                for event in some.drain(..) {
                    let _ = tell.send(Told::Tree(event)).await;
                }
            }
        };
        let (fetched, ()) = tokio::join!(fetching, telling);
        if let Err(error) = fetched {
            let _ = tell.send(Told::BrokeOff(target, error)).await;
        }
    }

    async fn plan_all(
        &self,
        session: &Session,
        wanted: &[String],
        output: &Output,
    ) -> Result<Vec<Planned>, Failure> {
        let planned = plan(session, wanted, self.folder.path()).await;
        if let Err(PlanError::Ambiguous { candidates, .. }) = &planned {
            show_candidates(candidates, output);
        }
        Ok(planned?)
    }

    fn jobs(&self, planned: Vec<Planned>, narrowed: Option<&Narrowed>) -> Jobs {
        let mut jobs = Jobs {
            files: Vec::new(),
            trees: Vec::new(),
        };
        // What only manifests tell makes a tree of a single file too.
        let by_manifest = self.options.wanted.any() || self.options.dry_run;
        for item in planned {
            match item {
                Planned::File(file) if by_manifest => jobs.trees.extend(self.tree_of(file)),
                Planned::File(file) => jobs.files.push(self.file_job(file, narrowed)),
                Planned::Tree(tree) => jobs.trees.push(self.tree_job(*tree)),
            }
        }
        jobs
    }

    fn tree_of(&self, file: PlannedFile) -> Option<TreeJob> {
        let source = file.sources.into_iter().next()?;
        Some(self.tree_job(PlannedTree {
            remote: source.provider.entry.path.clone(),
            source,
            target: file.target,
        }))
    }

    fn tree_job(&self, tree: PlannedTree) -> TreeJob {
        let name = tree.source.provider.name.clone();
        TreeJob {
            transfer: self
                .transfers
                .begin(Direction::Receiving, tree.target.clone(), name),
            source: tree.source,
            remote: Some(tree.remote),
            folder: self.folder.clone(),
            target: Some(tree.target),
            options: self.options.clone(),
            transfers: self.transfers.clone(),
        }
    }

    fn file_job(&self, file: PlannedFile, narrowed: Option<&Narrowed>) -> FetchJob {
        let nobody = || NodeName::try_from("nobody".to_owned()).ok();
        let name = file
            .sources
            .first()
            .map(|source| source.provider.name.clone());
        let name = name
            .or_else(nobody)
            .expect("the alternative is a valid name");
        FetchJob {
            transfer: self
                .transfers
                .begin(Direction::Receiving, file.target.clone(), name),
            sources: file.sources,
            further: file.further,
            folder: self.folder.clone(),
            target: file.target,
            range: narrowed.map(|narrowed| narrowed.bytes.clone()),
            overwrite: self.options.overwrite,
            policy: self.options.policy,
        }
    }
}

pub(crate) fn interrupted() -> Failure {
    Failure::new(
        Code::Interrupted,
        "interrupted: run the same command again to go on",
    )
}

fn show_candidates(candidates: &[Candidate], output: &Output) {
    for candidate in candidates {
        let fields = json!({
            "peer_name": candidate.peer.as_str(),
            "path": String::from_utf8_lossy(candidate.path.as_bytes()),
            "size": candidate.size_bytes,
            "hash": candidate.hash.map(|hash| hash.to_string()),
        });
        output.machine("candidate", fields);
    }
    if !output.is_json() {
        let row = |candidate: &Candidate| {
            vec![
                format!("  {}:{}", candidate.peer, candidate.path),
                size(candidate.size_bytes),
                candidate.hash.map_or_else(String::new, |hash| hash.short()),
            ]
        };
        let rows: Vec<_> = candidates.iter().map(row).collect();
        output.event("candidates", json!({}), || table(&rows));
    }
}
