//! What a sender is told of its receivers: who comes, how far each is, who has everything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::{Value, json};
use shoal_node::offer::{OfferEvent, Receipt, Visit, VisitId, VisitState};
use shoal_node::share::{Changes, Skipped};
use shoal_wire::{Hash, Refusal};

use super::Visits;
use crate::commands::get::left_out;
use crate::output::progress::{plain_bar, route_fields};
use crate::output::{Output, path_place, path_text, round_trip, size};

/// Time between two JSON progress events.
const EVENT_INTERVAL: Duration = Duration::from_millis(500);

/// One visit as it is shown.
struct Shown {
    visit: Arc<Visit>,
    bar: Option<ProgressBar>,
}

/// Tells one offer's course.
pub(super) struct Telling {
    output: Output,
    shown: Vec<Shown>,
    /// Receivers that wait for a person's word, the first one asked for.
    asked: VecDeque<(VisitId, Arc<Visit>)>,
    last_event: Option<Instant>,
    is_expired: bool,
}

impl Telling {
    pub(super) fn new(output: &Output) -> Self {
        Self {
            output: output.clone(),
            shown: Vec::new(),
            asked: VecDeque::new(),
            last_event: None,
            is_expired: false,
        }
    }

    /// Nobody new is let in.
    pub(super) fn expired(&mut self, is_serving: bool) {
        self.is_expired = true;
        self.output.machine("expired", json!({}));
        if is_serving {
            let text = "the offer has expired: nobody new is let in, and who has begun is served to the end";
            self.output.note(text);
        }
    }

    /// All of standard input is there.
    pub(super) fn input_ended(&self, bytes: u64) {
        let fields = json!({ "bytes": bytes });
        self.output.event("input", fields, || {
            format!("Standard input is complete: {}.", size(bytes))
        });
    }

    /// Not everything that was named can be sent.
    pub(super) fn left_out(&self, skipped: &Skipped) {
        left_out::tell_sender(&skipped.named, skipped.count, &self.output);
        if skipped.ignored > 0 {
            let fields = json!({ "entries": skipped.ignored });
            self.output
                .event("ignored", fields, || match skipped.ignored {
                    1 => "1 entry is hidden by a .shoalignore and not sent.".to_owned(),
                    hidden => {
                        format!("{hidden} entries are hidden by a .shoalignore and not sent.")
                    }
                });
        }
    }

    /// The one file can be had by its hash.
    pub(super) fn hashed(&self, hash: &Hash) {
        let fields = json!({ "hash": hash.to_string() });
        self.output.event("by_hash", fields, || {
            format!("By hash: shoal get --dht {hash}")
        });
    }

    /// Something happened.
    pub(super) fn happened(&mut self, event: &OfferEvent) {
        match event {
            OfferEvent::Code(code) => {
                let fields = json!({ "code": code.to_string() });
                self.output
                    .event("code", fields, || format!("Code:    {code}"));
            }
            OfferEvent::ServerLost { reason } => self.output.warn(&format!(
                "the server is out of reach ({reason}): the code works again when it is back, the ticket all the time"
            )),
            OfferEvent::WrongCode { left } => {
                let fields = json!({ "left": left });
                self.output.event("wrong_code", fields, || {
                    format!("Somebody tried a wrong code; {left} more and it is void.")
                });
            }
            OfferEvent::CodeBurnt => {
                self.output.event("code_burnt", json!({}), || {
                    "The code is void: three wrong ones were tried. Send again for a new one; the ticket still works.".to_owned()
                });
            }
            OfferEvent::Knocked(id, visit) => {
                self.asked.push_back((*id, Arc::clone(visit)));
                self.output.machine("knocked", who(visit));
                if self.asked.len() == 1 {
                    self.ask();
                }
            }
            OfferEvent::Opened(visit) => self.opened(visit),
            OfferEvent::Finished(visit) => self.finished(visit),
            OfferEvent::Left(visit) => self.left(visit),
            OfferEvent::Changed(changes) => self.changed(changes),
        }
    }

    /// Files are others than before.
    fn changed(&self, changes: &Changes) {
        let paths: Vec<String> = changes.first.iter().map(ToString::to_string).collect();
        let fields = json!({
            "paths": paths,
            "changed": changes.changed,
            "gone": changes.gone,
        });
        self.output
            .event("changed", fields, || changes_text(changes));
    }

    fn ask(&self) {
        if let Some((_, visit)) = self.asked.front() {
            self.output.note(&format!(
                "{} ({}) wants to receive. Let in? [y/n]",
                visit.name,
                visit.node.short()
            ));
        }
    }

    /// Whom a person's word is about, and whether it lets them in; `None` where nobody was asked
    /// for or the word is neither yes nor no.
    pub(super) fn answered(&mut self, word: &str) -> Option<(VisitId, bool)> {
        let admits = match word {
            "y" | "yes" => true,
            "n" | "no" => false,
            _ => return None,
        };
        let (id, _) = self.asked.pop_front()?;
        self.ask();
        Some((id, admits))
    }

    fn opened(&mut self, visit: &Arc<Visit>) {
        let path = visit.path();
        let mut fields = who(visit);
        fields["route"] = route_fields(&path);
        self.output.event("opened", fields, || {
            format!(
                "{} ({}) is here, {}, {}",
                visit.name,
                visit.node.short(),
                path_place(&path),
                round_trip(path.rtt)
            )
        });
        let bar = self.output.shows_bars().then(|| plain_bar(&self.output));
        self.shown.push(Shown {
            visit: Arc::clone(visit),
            bar,
        });
    }

    fn finished(&mut self, visit: &Arc<Visit>) {
        let VisitState::Finished(receipt) = visit.state() else {
            return;
        };
        let mut fields = who(visit);
        fields["files"] = receipt.files.into();
        fields["bytes"] = receipt.bytes.into();
        fields["offered_files"] = receipt.offered_files.into();
        fields["offered_bytes"] = receipt.offered_bytes.into();
        fields["has_everything"] = receipt.has_everything().into();
        fields["route"] = route_fields(&visit.path());
        self.drop_bar(visit);
        self.output.event("received", fields, || {
            format!("{} {}", visit.name, what_it_has(&receipt))
        });
    }

    fn left(&mut self, visit: &Arc<Visit>) {
        self.drop_bar(visit);
        self.shown.retain(|shown| !Arc::ptr_eq(&shown.visit, visit));
        let VisitState::Left { reason, .. } = visit.state() else {
            return;
        };
        let durable_bytes = visit.durable_bytes();
        let mut fields = who(visit);
        fields["durable_bytes"] = durable_bytes.into();
        fields["reason"] = reason.map(Refusal::text).into();
        self.output.event("left", fields, || {
            let name = &visit.name;
            let left = match reason {
                None | Some(Refusal::Cancelled) => {
                    format!("{name} left with {} so far", size(durable_bytes))
                }
                Some(reason) => format!("{name} left without everything: {}", reason.text()),
            };
            match self.is_expired {
                true => left,
                false => format!("{left}; the same code or ticket still works"),
            }
        });
    }

    fn drop_bar(&mut self, visit: &Arc<Visit>) {
        let shown = self.shown.iter_mut();
        let mut of_visit = shown.filter(|shown| Arc::ptr_eq(&shown.visit, visit));
        if let Some(bar) = of_visit.next().and_then(|shown| shown.bar.take()) {
            bar.finish_and_clear();
        }
    }

    /// Shows how far each receiver is.
    pub(super) fn show(&mut self, visits: &Visits) {
        for shown in &self.shown {
            if let Some(bar) = &shown.bar {
                let path = shown.visit.path();
                bar.set_length(shown.visit.total_bytes());
                bar.set_position(shown.visit.durable_bytes());
                bar.set_message(format!(
                    "to {} ({}, {})",
                    shown.visit.name,
                    path_text(&path),
                    round_trip(path.rtt)
                ));
            }
        }
        let is_due = self
            .last_event
            .is_none_or(|last| last.elapsed() >= EVENT_INTERVAL);
        if self.output.is_json() && is_due {
            self.last_event = Some(Instant::now());
            for visit in visits {
                if visit.state() == VisitState::Open && visit.is_there() {
                    self.output.machine("sending", standing(visit));
                }
            }
        }
    }

    /// Nothing more is told.
    pub(super) fn end(self) {
        for shown in &self.shown {
            if let Some(bar) = &shown.bar {
                bar.finish_and_clear();
            }
        }
    }
}

fn changes_text(changes: &Changes) -> String {
    let named: Vec<String> = changes.first.iter().map(ToString::to_string).collect();
    let others = changes.changed - named.len() as u64;
    let gone = match changes.gone {
        0 => None,
        1 => Some("1 file is gone and is not offered any more.".to_owned()),
        several => Some(format!(
            "{several} files are gone and are not offered any more."
        )),
    };
    let changed = match (&named[..], others) {
        ([], _) => None,
        ([one], 0) => Some(format!("{one} changed: the new version is offered.")),
        (several, 0) => Some(format!(
            "{} changed: the new versions are offered.",
            several.join(", ")
        )),
        (several, others) => Some(format!(
            "{} and {others} more changed: the new versions are offered.",
            several.join(", ")
        )),
    };
    Vec::from_iter(changed.into_iter().chain(gone)).join(" ")
}

/// What a receiver has, in words that stay true.
fn what_it_has(receipt: &Receipt) -> String {
    let Receipt {
        files,
        offered_files,
        missing,
        ..
    } = *receipt;
    let has = size(receipt.bytes);
    if receipt.has_everything() {
        return match files {
            1 => format!("has everything: 1 file, {has}, durable there"),
            files => format!("has everything: {files} files, {has}, durable there"),
        };
    }
    let total = offered_files + missing;
    let why = match missing {
        0 if files < offered_files => "all that they chose",
        0 => "and some have changed here since",
        _ => "the rest is no longer here as it was",
    };
    format!("has {files} of {total} files, {has}, {why}; durable there")
}

fn who(visit: &Visit) -> Value {
    json!({ "peer": visit.name.to_string(), "node": visit.node.to_string() })
}

fn standing(visit: &Visit) -> Value {
    let mut fields = who(visit);
    fields["sent_bytes"] = visit.moved().verified_bytes.into();
    fields["durable_bytes"] = visit.durable_bytes().into();
    fields["total_bytes"] = visit.total_bytes().into();
    fields["route"] = route_fields(&visit.path());
    fields
}
