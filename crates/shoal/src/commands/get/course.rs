//! What a `get` has done so far, and what is said of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use shoal_link::LivePath;
use shoal_node::fetch::{FetchError, Fetched, Lost, Planned as PlannedFile, TreeEvent};
use shoal_node::plan::Planned;
use shoal_node::transfers::{Snapshot, State, Transfer};
use shoal_store::attributes::NotKept;
use shoal_wire::message::Outcome;
use shoal_wire::{NodeName, Refusal, SafePath};

use super::interrupted;
use super::left_out::{self, LeftOut};
use crate::exit::{Code, Failure};
use crate::output::progress::Standing;
use crate::output::{Output, duration, size};

/// Files up to which each gets a line of its own.
const LINES_MAX: usize = 20;
/// Failed files that are named one by one.
const FAILURES_NAMED: u64 = 20;

/// What a command has fetched so far.
pub(crate) struct Course {
    output: Output,
    folder: String,
    sources: Vec<NodeName>,
    /// Lines that wait until it is known whether there are few enough to show.
    lines: Vec<String>,
    has_trees: bool,
    is_range: bool,
    transfers: Vec<Transfer>,
    /// By transfers that are over.
    past: Moved,
    files: u64,
    total_bytes: u64,
    fetched: u64,
    up_to_date: u64,
    failed: u64,
    /// Of the files that are there, fetched or not.
    there_bytes: u64,
    planned: BTreeMap<&'static str, (u64, u64)>,
    lost: BTreeMap<Lost, u64>,
    left_out: LeftOut,
    first_failure: Option<Failure>,
}

/// What is there after all, fetched or not.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct There {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Entries that their provider leaves out.
    pub(crate) left_out: u64,
}

/// Bytes of several transfers together.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    verified_bytes: u64,
    durable_bytes: u64,
    received_bytes: u64,
    reused_bytes: u64,
}

impl Moved {
    fn add(&mut self, transfer: &Transfer, snapshot: &Snapshot) {
        self.verified_bytes += snapshot.verified_bytes;
        self.durable_bytes += snapshot.durable_bytes;
        self.received_bytes += transfer.received_bytes();
        self.reused_bytes += transfer.reused_bytes();
    }
}

impl Course {
    pub(crate) fn new(planned: &[Planned], folder: String, output: &Output) -> Self {
        let mut sources: Vec<NodeName> = Vec::new();
        let (mut files, mut total_bytes) = (0, 0);
        for item in planned {
            let source = match item {
                Planned::File(file) => file.sources.first(),
                Planned::Tree(tree) => Some(&tree.source),
            };
            let Some(source) = source else { continue };
            if !sources.contains(&source.provider.name) {
                sources.push(source.provider.name.clone());
            }
            if matches!(item, Planned::File(_)) {
                files += 1;
                total_bytes += source.provider.entry.size.bytes();
            }
        }
        Self {
            output: output.clone(),
            folder,
            sources,
            lines: Vec::new(),
            has_trees: planned.iter().any(|item| matches!(item, Planned::Tree(_))),
            is_range: false,
            transfers: Vec::new(),
            past: Moved::default(),
            files,
            total_bytes,
            fetched: 0,
            up_to_date: 0,
            failed: 0,
            there_bytes: 0,
            planned: BTreeMap::new(),
            lost: BTreeMap::new(),
            left_out: LeftOut::default(),
            first_failure: None,
        }
    }

    /// Of what one sender offers, in one or several trees.
    pub(crate) fn of_offer(sender: &NodeName, folder: String, output: &Output) -> Self {
        Self {
            sources: vec![sender.clone()],
            has_trees: true,
            ..Self::new(&[], folder, output)
        }
    }

    /// Of its one file only a range is fetched, which takes this much, in bytes.
    pub(crate) fn narrowed(&mut self, moved_bytes: u64) {
        self.is_range = true;
        self.total_bytes = moved_bytes;
    }

    /// A transfer counts from now on.
    pub(crate) fn began(&mut self, transfer: Transfer) {
        self.transfers.push(transfer);
    }

    /// Asks everything under way to stop.
    pub(crate) fn cancel(&self) {
        self.transfers.iter().for_each(Transfer::cancel);
    }

    pub(crate) fn standing(&mut self) -> Standing {
        self.fold_ended();
        let mut now = self.past;
        let mut routes: Vec<(NodeName, LivePath)> = Vec::new();
        for transfer in &self.transfers {
            let snapshot = transfer.snapshot();
            now.add(transfer, &snapshot);
            if let (Some(peer), Some(route)) = (snapshot.peers.last(), snapshot.route)
                && routes.iter().all(|(known, _)| known != peer)
            {
                routes.push((peer.clone(), route));
            }
        }
        Standing {
            verified_bytes: now.verified_bytes,
            durable_bytes: now.durable_bytes,
            received_bytes: now.received_bytes,
            total_bytes: self.total_bytes,
            files_ended: self.fetched + self.up_to_date + self.failed,
            files: self.files,
            sources: self.sources.clone(),
            routes,
        }
    }

    fn fold_ended(&mut self) {
        let past = &mut self.past;
        self.transfers.retain(|transfer| {
            let snapshot = transfer.snapshot();
            let is_active = snapshot.state == State::Active;
            if !is_active {
                past.add(transfer, &snapshot);
            }
            is_active
        });
    }

    /// Something happened in a folder.
    pub(crate) fn happened(&mut self, event: TreeEvent) {
        match event {
            TreeEvent::Listed { files, bytes } => {
                self.files += files;
                self.total_bytes += bytes;
            }
            TreeEvent::Started(transfer) => self.began(transfer),
            TreeEvent::Ended { target, result } => self.ended(&target, &result),
            TreeEvent::NotKept { target, what } => {
                *self.lost.entry(what).or_default() += 1;
                let fields = json!({ "path": path_text(&target), "what": lost_word(what) });
                self.output.machine("not_kept", fields);
            }
            TreeEvent::LeftOut(omission) => {
                let fields = left_out::fields(&omission);
                if self.left_out.add(omission) {
                    self.output.machine("left_out", fields);
                }
            }
            TreeEvent::LeftOutUnnamed(count) => self.left_out.add_unnamed(count),
            TreeEvent::PlannedFolder { .. } => {}
            TreeEvent::Planned {
                target,
                bytes,
                planned,
            } => self.would(&target, bytes, planned),
        }
    }

    fn would(&mut self, target: &SafePath, bytes: u64, planned: PlannedFile) {
        let word = match planned {
            PlannedFile::Fetch => "fetch",
            PlannedFile::Replace => "replace",
            PlannedFile::UpToDate => "up to date",
            PlannedFile::Differs => "differs",
        };
        let counted = self.planned.entry(word).or_default();
        counted.0 += 1;
        counted.1 += bytes;
        let fields =
            json!({ "path": path_text(target), "action": word.replace(' ', "_"), "size": bytes });
        self.output.event("planned", fields, || {
            format!("{word:<11} {target}  {}", size(bytes))
        });
    }

    /// Whether nothing failed so far.
    pub(crate) fn has_all(&self) -> bool {
        self.failed == 0
    }

    /// So many files that were to come are no longer listed, or not as they were.
    pub(crate) fn missed(&mut self, files: u64) {
        self.files += files;
        self.failed += files;
        let text = match files {
            1 => "a file that you accepted has changed or is gone at the sender: receive again to see what there is now".to_owned(),
            files => format!("{files} files that you accepted have changed or are gone at the sender: receive again to see what there is now"),
        };
        let failure = Failure::new(Code::TransferFailed, text);
        let failure = failure.told_as(Refusal::SourceChanged);
        self.first_failure.get_or_insert(failure);
    }

    /// A folder was not fetched to its end.
    pub(crate) fn broke_off(&mut self, target: &SafePath, error: &FetchError) {
        self.files += 1;
        self.file_failed(target, Failure::from(error));
    }

    /// A file is over.
    pub(crate) fn ended(&mut self, target: &SafePath, result: &Result<Fetched, FetchError>) {
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(error) => return self.file_failed(target, Failure::from(error)),
        };
        let (word, hash) = match fetched.outcome {
            Outcome::Fetched(hash) => ("fetched", hash),
            Outcome::UpToDate(hash) => ("up to date", hash),
        };
        *match fetched.outcome {
            Outcome::Fetched(_) => &mut self.fetched,
            Outcome::UpToDate(_) => &mut self.up_to_date,
        } += 1;
        self.there_bytes += fetched.total_bytes;
        // Not even put together where nobody reads it: there may be a million of them.
        if self.output.is_json() {
            let fields = json!({
                "path": path_text(target),
                "outcome": word.replace(' ', "_"),
                "hash": hash.to_string(),
                "size": fetched.total_bytes,
                "reused": fetched.reused_bytes,
            });
            self.output.machine("got", fields);
            return;
        }
        let of = if self.is_range { "of " } else { "" };
        let line = || {
            format!(
                "{word:<11} {target}  {}  {of}{hash}",
                size(fetched.total_bytes)
            )
        };
        if self.has_trees {
            if self.lines.len() <= LINES_MAX {
                self.lines.push(line());
            }
        } else if self.files <= LINES_MAX as u64 {
            self.output.event("got", json!({}), line);
        }
    }

    fn file_failed(&mut self, target: &SafePath, failure: Failure) {
        self.failed += 1;
        if failure.code() != Code::Interrupted {
            let fields = json!({
                "path": path_text(target),
                "code": failure.code() as u8,
                "message": failure.message(),
            });
            self.output.machine("failed", fields);
            if self.files > 1 && self.failed <= FAILURES_NAMED {
                self.output
                    .note(&format!("failed      {target}: {}", failure.message()));
            }
        }
        self.first_failure.get_or_insert(failure);
    }

    /// Says what became of it all; what is there.
    pub(crate) fn conclude(
        mut self,
        took: Duration,
        is_interrupted: bool,
    ) -> Result<There, Failure> {
        self.fold_ended();
        self.show_lines();
        self.show_lost();
        let left_out = self.left_out.count();
        if left_out > 0 && !is_interrupted {
            let lines = self.left_out.lines();
            self.output
                .note(&format!("left out by the sender:\n{lines}"));
        }
        let fields = json!({
            "fetched": self.fetched,
            "up_to_date": self.up_to_date,
            "failed": self.failed,
            "left_out": left_out,
            "bytes": self.past.received_bytes,
            "reused": self.past.reused_bytes,
            "seconds": took.as_secs_f64(),
            "folder": self.folder,
        });
        if self.failed == 0 && !is_interrupted {
            let output = self.output.clone();
            output.event("done", fields, || self.summary(took));
            return Ok(There {
                files: self.fetched + self.up_to_date,
                bytes: self.there_bytes,
                left_out,
            });
        }
        self.output.machine("done", fields);
        if is_interrupted {
            return Err(interrupted());
        }
        let (failed, files) = (self.failed, self.files);
        match self.first_failure {
            Some(failure) if files > 1 => {
                let (first, refusal) = (failure.message(), failure.refusal());
                let text = format!("{failed} of {files} files failed, the first: {first}");
                Err(Failure::new(failure.code(), text).told_as(refusal))
            }
            Some(failure) => Err(failure),
            None => Err(Failure::new(Code::Other, "a file failed without a reason")),
        }
    }

    /// Says what a dry run found, and whether it would fit.
    pub(crate) fn conclude_dry(self, free_bytes: Option<u64>) -> Result<(), Failure> {
        self.show_lost();
        let of = |word| self.planned.get(word).copied().unwrap_or_default();
        let (fetch, replace) = (of("fetch"), of("replace"));
        let (there, differs) = (of("up to date"), of("differs"));
        let needed_bytes = fetch.1 + replace.1;
        let fields = json!({
            "fetch": fetch.0, "replace": replace.0, "up_to_date": there.0, "differs": differs.0,
            "left_out": self.left_out.count(),
            "bytes": needed_bytes, "free_bytes": free_bytes, "folder": self.folder,
        });
        self.output.event("plan", fields, || {
            let mut text = format!("would fetch {} file(s)", fetch.0 + replace.0);
            for (count, what) in [
                (replace.0, "replacing others"),
                (there.0, "more are there already"),
                (self.left_out.count(), "left out by the sender"),
                (
                    differs.0,
                    "would fail: a different file is there (see --overwrite)",
                ),
            ] {
                if count > 0 {
                    text.push_str(&format!(", {count} {what}"));
                }
            }
            let free =
                free_bytes.map_or_else(String::new, |free| format!(" of {} free", size(free)));
            format!(
                "{text}; needs {}{free} in {}",
                size(needed_bytes),
                self.folder
            )
        });
        match self.first_failure {
            Some(failure) => Err(failure),
            None if free_bytes.is_some_and(|free| free < needed_bytes) => Err(Failure::new(
                Code::NoSpace,
                "there is too little space: make room or name another folder",
            )),
            None => Ok(()),
        }
    }

    fn show_lines(&mut self) {
        if self.lines.len() <= LINES_MAX {
            for line in self.lines.drain(..) {
                self.output.event("got", json!({}), || line);
            }
        }
    }

    fn show_lost(&self) {
        for (what, count) in &self.lost {
            let (word, hint) = match what {
                Lost::Link => ("symbolic link(s) not made", "use --links to make them"),
                Lost::Attribute(NotKept::Owner) => ("owner(s) not kept", "only root can"),
                Lost::Attribute(NotKept::Xattr) => (
                    "file(s) without all of their extended attributes",
                    "the disk or the permissions do not allow them",
                ),
                Lost::Attribute(NotKept::Mode) => ("permission(s) not kept", "the disk refused"),
                Lost::Attribute(NotKept::Time) => ("time(s) not kept", "the disk refused"),
            };
            self.output.note(&format!("{count} {word}: {hint}"));
        }
    }

    fn summary(&self, took: Duration) -> String {
        let bytes = self.past.received_bytes;
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
        let reused = match self.past.reused_bytes {
            0 => String::new(),
            bytes => format!(", {} reused from files here", size(bytes)),
        };
        format!(
            "{files} file(s){there}, {} in {seconds} ({rate}/s){reused}, in {}",
            size(bytes),
            self.folder
        )
    }
}

fn lost_word(what: Lost) -> &'static str {
    match what {
        Lost::Link => "link",
        Lost::Attribute(NotKept::Owner) => "owner",
        Lost::Attribute(NotKept::Xattr) => "xattr",
        Lost::Attribute(NotKept::Mode) => "mode",
        Lost::Attribute(NotKept::Time) => "mtime",
    }
}

fn path_text(path: &SafePath) -> String {
    String::from_utf8_lossy(path.as_bytes()).into_owned()
}
