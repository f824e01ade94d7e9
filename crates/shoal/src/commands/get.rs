//! `shoal get`: fetches files and folders directly from the peers that have them.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shoal_node::fetch::{Durability, FetchError, FetchJob, FetchPolicy, Fetched, Fetcher};
use shoal_node::plan::{Candidate, PlanError, PlannedFile, plan};
use shoal_node::session::Session;
use shoal_node::tasks::Tasks;
use shoal_node::transfers::{Direction, Transfer, Transfers};
use shoal_store::folder::Folder;
use shoal_wire::message::Outcome;
use shoal_wire::{NodeName, SafePath};

use crate::args::GetArguments;
use crate::connect::Joined;
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::progress::{Progress, Standing};
use crate::output::{Output, duration, size, table};

/// Time between two looks at the counters.
const TICK: Duration = Duration::from_millis(100);
/// Files up to which each gets a line of its own.
const LINES_MAX: usize = 20;
/// How long disk work may take to end after the last transfer.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the command.
pub(super) async fn run(arguments: GetArguments, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let folder =
        Folder::create(&arguments.output_dir).map_err(|error| Failure::local(error.to_string()))?;
    let joined = tokio::select! {
        joined = Joined::connect(&arguments.joined, output) => joined?,
        () = interrupt.received() => return Err(interrupted()),
    };
    let tasks = Tasks::new();
    let getting = Getting {
        session: &joined.session,
        fetcher: &Fetcher::new(joined.endpoint.clone(), tasks.clone(), None),
        transfers: &Transfers::new(),
        folder,
        overwrite: arguments.overwrite,
        policy: policy(&arguments),
    };
    let got = getting.run(&arguments.wanted, &mut interrupt, output).await;
    joined.close().await;
    tasks.shutdown(SHUTDOWN_DEADLINE).await;
    got
}

/// What a fetch works with.
pub(crate) struct Getting<'a> {
    pub(crate) session: &'a Session,
    pub(crate) fetcher: &'a Fetcher,
    pub(crate) transfers: &'a Transfers,
    pub(crate) folder: Folder,
    pub(crate) overwrite: bool,
    pub(crate) policy: FetchPolicy,
}

fn policy(arguments: &GetArguments) -> FetchPolicy {
    FetchPolicy {
        durability: if arguments.no_sync {
            Durability::Unsynced
        } else {
            Durability::Synced
        },
        accepts_compressed: !arguments.no_compress,
    }
}

impl Getting<'_> {
    /// Finds out what all the words mean, then fetches it, telling how far it is.
    pub(crate) async fn run(
        &self,
        wanted: &[String],
        interrupt: &mut Interrupt,
        output: &Output,
    ) -> Result<(), Failure> {
        let planned = tokio::select! {
            planned = self.plan_all(wanted, output) => planned?,
            () = interrupt.received() => return Err(interrupted()),
        };
        let mut course = Course::new(&planned, self.folder.path(), output);
        let jobs: Vec<FetchJob> = planned.into_iter().map(|file| self.job(file)).collect();
        course.transfers = jobs.iter().map(|job| job.transfer.clone()).collect();
        let transfers = course.transfers.clone();
        let mut progress = Progress::start(output);
        let mut is_interrupted = false;
        {
            let course = std::sync::Mutex::new(&mut course);
            let lock = || {
                course
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
            };
            let mut fetching = std::pin::pin!(self.fetcher.fetch_all(jobs, |position, result| {
                lock().ended(position, &result);
            }));
            let mut ticks = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    () = &mut fetching => break,
                    _ = ticks.tick() => progress.show(&lock().standing()),
                    () = interrupt.received() => {
                        is_interrupted = true;
                        transfers.iter().for_each(Transfer::cancel);
                    }
                }
            }
        }
        progress.show(&course.standing());
        let took = progress.end();
        course.conclude(took, is_interrupted)
    }

    async fn plan_all(
        &self,
        wanted: &[String],
        output: &Output,
    ) -> Result<Vec<PlannedFile>, Failure> {
        let mut all = Vec::new();
        for typed in wanted {
            match plan(self.session, typed, self.folder.path()).await {
                Ok(planned) => all.extend(planned),
                Err(error) => {
                    if let PlanError::Ambiguous { candidates, .. } = &error {
                        show_candidates(candidates, output);
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(all)
    }

    fn job(&self, file: PlannedFile) -> FetchJob {
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
            folder: self.folder.clone(),
            target: file.target,
            overwrite: self.overwrite,
            policy: self.policy,
        }
    }
}

fn interrupted() -> Failure {
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

/// What a command has fetched so far.
struct Course {
    output: Output,
    targets: Vec<SafePath>,
    folder: String,
    transfers: Vec<Transfer>,
    sources: Vec<NodeName>,
    total_bytes: u64,
    fetched: u64,
    up_to_date: u64,
    failed: u64,
    first_failure: Option<Failure>,
}

impl Course {
    fn new(planned: &[PlannedFile], folder: &Path, output: &Output) -> Self {
        let mut sources: Vec<NodeName> = Vec::new();
        for source in planned.iter().filter_map(|file| file.sources.first()) {
            if !sources.contains(&source.provider.name) {
                sources.push(source.provider.name.clone());
            }
        }
        let sizes = planned.iter().filter_map(|file| file.sources.first());
        Self {
            output: output.clone(),
            targets: planned.iter().map(|file| file.target.clone()).collect(),
            folder: folder.display().to_string(),
            transfers: Vec::new(),
            total_bytes: sizes.map(|source| source.provider.entry.size.bytes()).sum(),
            sources,
            fetched: 0,
            up_to_date: 0,
            failed: 0,
            first_failure: None,
        }
    }

    fn standing(&self) -> Standing {
        Standing {
            verified_bytes: self.transfers.iter().map(Transfer::verified_bytes).sum(),
            received_bytes: self.received_bytes(),
            total_bytes: self.total_bytes,
            files_ended: self.fetched + self.up_to_date + self.failed,
            files: self.targets.len() as u64,
            sources: self.sources.clone(),
        }
    }

    fn received_bytes(&self) -> u64 {
        self.transfers.iter().map(Transfer::received_bytes).sum()
    }

    fn ended(&mut self, position: usize, result: &Result<Fetched, FetchError>) {
        let target = &self.targets[position];
        let path = String::from_utf8_lossy(target.as_bytes());
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(error) => {
                self.failed += 1;
                let failure = Failure::from(error);
                if failure.code() != Code::Interrupted {
                    let fields = json!({ "path": path, "code": failure.code() as u8, "message": failure.message() });
                    self.output.machine("failed", fields);
                    if self.targets.len() > 1 {
                        self.output
                            .note(&format!("failed      {target}: {}", failure.message()));
                    }
                }
                self.first_failure.get_or_insert(failure);
                return;
            }
        };
        let (word, hash) = match fetched.outcome {
            Outcome::Fetched(hash) => ("fetched", hash),
            Outcome::UpToDate(hash) => ("up to date", hash),
        };
        *match fetched.outcome {
            Outcome::Fetched(_) => &mut self.fetched,
            Outcome::UpToDate(_) => &mut self.up_to_date,
        } += 1;
        let fields = json!({
            "path": path,
            "outcome": word.replace(' ', "_"),
            "hash": hash.to_string(),
            "size": fetched.total_bytes,
        });
        self.output.machine("got", fields);
        if !self.output.is_json() && self.targets.len() <= LINES_MAX {
            let bytes = size(fetched.total_bytes);
            self.output.event("got", json!({}), || {
                format!("{word:<11} {target}  {bytes}  {hash}")
            });
        }
    }

    fn conclude(self, took: Duration, is_interrupted: bool) -> Result<(), Failure> {
        let bytes = self.received_bytes();
        let fields = json!({
            "fetched": self.fetched,
            "up_to_date": self.up_to_date,
            "failed": self.failed,
            "bytes": bytes,
            "seconds": took.as_secs_f64(),
            "folder": self.folder,
        });
        if self.failed == 0 {
            self.output.event("done", fields, || {
                let files = self.fetched + self.up_to_date;
                let rate = size((bytes as f64 / took.as_secs_f64().max(0.001)) as u64);
                let seconds = match took.as_secs() {
                    0..60 => format!("{:.1} s", took.as_secs_f64()),
                    _ => duration(took),
                };
                let there = match self.up_to_date {
                    0 => String::new(),
                    count => format!(" ({count} were there already)"),
                };
                format!(
                    "{files} file(s){there}, {} in {seconds} ({rate}/s), in {}",
                    size(bytes),
                    self.folder
                )
            });
            return Ok(());
        }
        self.output.machine("done", fields);
        if is_interrupted {
            return Err(interrupted());
        }
        let (failed, files) = (self.failed, self.targets.len());
        match self.first_failure {
            Some(failure) if files > 1 => Err(Failure::new(
                failure.code(),
                format!(
                    "{failed} of {files} files failed, the first: {}",
                    failure.message()
                ),
            )),
            Some(failure) => Err(failure),
            None => Err(Failure::new(Code::Other, "a file failed without a reason")),
        }
    }
}
