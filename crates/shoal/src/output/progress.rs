//! How far a command is: a moving bar on a terminal, JSON events for programs, nothing else.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shoal_core::speed::Speed;
use shoal_link::LivePath;
use shoal_wire::NodeName;

use super::text::path_text;
use super::{Output, path_kind, round_trip};

/// Time between two JSON progress events.
const EVENT_INTERVAL: Duration = Duration::from_millis(500);
/// Most names of sources on the bar.
const SOURCES_SHOWN: usize = 3;

/// What a bar looks like.
const TEMPLATE: &str = "{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg}";

/// What there is to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// Bytes verified.
    pub(crate) verified_bytes: u64,
    /// Of these, durable.
    pub(crate) durable_bytes: u64,
    /// Received by this command: verified, less what was there before.
    pub(crate) received_bytes: u64,
    /// Bytes in all.
    pub(crate) total_bytes: u64,
    /// Files that are over.
    pub(crate) files_ended: u64,
    /// Files in all.
    pub(crate) files: u64,
    /// From whom.
    pub(crate) sources: Vec<NodeName>,
    /// How it comes from those who send now.
    pub(crate) routes: Vec<(NodeName, LivePath)>,
}

/// The progress of one command.
#[derive(Debug)]
pub(crate) struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    started: Instant,
    last_event: Option<Instant>,
    /// Whether the first verified bytes have been told.
    has_begun: bool,
    speed: Speed,
}

impl Progress {
    /// Begins with nothing shown.
    pub(crate) fn start(output: &Output) -> Self {
        let bar = output.shows_bars().then(|| plain_bar(output));
        Self {
            output: output.clone(),
            bar,
            started: Instant::now(),
            last_event: None,
            has_begun: false,
            speed: Speed::default(),
        }
    }

    /// Shows where the command stands.
    pub(crate) fn show(&mut self, standing: &Standing) {
        self.speed
            .handle_count(standing.received_bytes, Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_length(standing.total_bytes);
            bar.set_position(standing.verified_bytes);
            bar.set_message(message(standing));
        }
        let begins = !self.has_begun && standing.verified_bytes > 0;
        let is_due = begins
            || self
                .last_event
                .is_none_or(|last| last.elapsed() >= EVENT_INTERVAL);
        if self.output.is_json() && is_due {
            self.has_begun |= begins;
            self.last_event = Some(Instant::now());
            let rate = self.speed.bytes_per_second();
            let left = standing.total_bytes.saturating_sub(standing.verified_bytes);
            let seconds_left = (rate > 0).then(|| left.div_ceil(rate));
            self.output.machine(
                "progress",
                json!({
                    "verified_bytes": standing.verified_bytes,
                    "durable_bytes": standing.durable_bytes,
                    "total_bytes": standing.total_bytes,
                    "files_ended": standing.files_ended,
                    "files": standing.files,
                    "bytes_per_second": rate,
                    "seconds_left": seconds_left,
                    "sources": names(standing),
                    "paths": paths(standing),
                }),
            );
        }
    }

    /// Removes the bar; what took how long.
    pub(crate) fn end(self) -> Duration {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}

fn names(standing: &Standing) -> Vec<String> {
    standing.sources.iter().map(ToString::to_string).collect()
}

fn paths(standing: &Standing) -> Vec<Value> {
    let routes = standing.routes.iter();
    routes
        .map(|(name, path)| {
            let mut route = route_fields(path);
            route["peer"] = name.to_string().into();
            route
        })
        .collect()
}

/// A bar that only its owner moves, below those that are there.
pub(crate) fn plain_bar(output: &Output) -> ProgressBar {
    let bar = output.bars.add(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style.progress_chars("━━─"));
    }
    bar
}

/// How a transfer travels, for programs.
pub(crate) fn route_fields(path: &LivePath) -> Value {
    json!({
        "kind": path_kind(path),
        "remote": path.remote.to_string(),
        "is_on_lan": path.is_on_lan,
        "rtt_us": path.rtt.as_micros() as u64,
    })
}

fn message(standing: &Standing) -> String {
    let mut message = String::new();
    if standing.files > 1 {
        message = format!("{}/{} files  ", standing.files_ended, standing.files);
    }
    let shown = names(standing);
    let more = shown.len().saturating_sub(SOURCES_SHOWN);
    if !shown.is_empty() {
        let first = &shown[..shown.len() - more];
        message.push_str(&format!("from {}", first.join(", ")));
    }
    if more > 0 {
        message.push_str(&format!(" and {more} more"));
    }
    if let [(_, path)] = &standing.routes[..] {
        message.push_str(&format!(" ({}, {})", path_text(path), round_trip(path.rtt)));
    }
    message
}
