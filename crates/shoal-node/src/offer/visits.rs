//! The visits of receivers: each link from its first words to its end.
//!
//! A link is a stranger's, with a stranger's windows and deadline, until it has opened the offer.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use shoal_link::{HearError, Link, Protocol, Stream};
use shoal_wire::offer::OfferDescription;
use shoal_wire::{Communication, NodeId, NodeName, OfferSecret, Refusal};
use tokio::sync::{Semaphore, SetOnce, oneshot};

use super::codes::claimed;
use super::receipt::Receipt;
use super::{OfferEvent, Shared};
use crate::provide::{Asker, Permission, Provide, is_about_files};
use crate::requests::{Handler, serve_streams};
use crate::transfers::{Moved, Transfers};

/// Links of receivers at once.
const LINKS_MAX: usize = 256;
/// How long a link may go on without having opened the offer.
const STRANGER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a person may take to let a receiver in.
const DECISION_DEADLINE: Duration = Duration::from_secs(300);
/// How long the stream of a visit may be silent: it is, until the receiver has everything.
const VISIT_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a visit may go on without anything moving once nobody new is let in: a receiver may have
/// to read for long what it has already.
const QUIET_MAX: Duration = Duration::from_secs(600);
/// How long a receiver that left without a word is expected back: it tries for as long.
const RETURN_MAX: Duration = Duration::from_secs(60);
/// How long a refusal may take to arrive.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// How a visit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisitState {
    /// It waits to be let in.
    Waiting,
    /// It is there.
    Open,
    /// It has everything that it wanted.
    Finished(Receipt),
    /// It was not let in.
    TurnedAway,
    /// It left before it had everything.
    Left {
        /// When.
        at: Instant,
        /// Why, where it said so; it comes back otherwise, if it can.
        reason: Option<Refusal>,
    },
}

/// The visit of one receiver.
#[derive(Debug)]
pub struct Visit {
    /// The receiver.
    pub node: NodeId,
    /// The name that it goes by.
    pub name: NodeName,
    link: Link,
    transfers: Transfers,
    provide: Provide,
    /// What it got in earlier visits, in bytes.
    before_bytes: u64,
    total_bytes: AtomicU64,
    state: Mutex<VisitState>,
}

impl Visit {
    /// How it is.
    pub fn state(&self) -> VisitState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What moved in this visit.
    pub fn moved(&self) -> Moved {
        self.transfers.moved()
    }

    /// What it has durably so far, in bytes, with what it got before it left and came back.
    pub fn durable_bytes(&self) -> u64 {
        let durable_bytes = self.before_bytes + self.moved().durable_bytes;
        match self.total_bytes() {
            0 => durable_bytes,
            total_bytes => durable_bytes.min(total_bytes),
        }
    }

    /// What is on offer to it, in bytes; 0 until it is let in.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Whether its link lives.
    pub fn is_there(&self) -> bool {
        self.link.close_reason().is_none()
    }

    pub(super) fn is_finished(&self) -> bool {
        matches!(self.state(), VisitState::Finished(_))
    }

    /// Whether it was let in at all.
    pub(super) fn was_let_in(&self) -> bool {
        !matches!(self.state(), VisitState::Waiting | VisitState::TurnedAway)
    }

    /// Whether its receiver is there, or waits to be let in.
    pub(super) fn is_under_way(&self) -> bool {
        let has_left = matches!(
            self.state(),
            VisitState::TurnedAway | VisitState::Left { .. }
        );
        !has_left && self.is_there()
    }

    /// Whether its receiver had begun, and may come back to go on.
    pub(super) fn is_resumable(&self) -> bool {
        match self.state() {
            VisitState::Open => true,
            VisitState::Left { at, reason: None } => at.elapsed() < RETURN_MAX,
            _ => false,
        }
    }

    pub(super) fn finish(&self, receipt: Receipt) {
        self.set(VisitState::Finished(receipt));
    }

    fn leave(&self, reason: Option<Refusal>) {
        let at = Instant::now();
        self.set(VisitState::Left { at, reason });
    }

    fn set(&self, state: VisitState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Accepts links until the endpoint closes.
pub(super) async fn accept(shared: Arc<Shared>) {
    let endpoint = shared.endpoint.clone();
    let places = Arc::new(Semaphore::new(LINKS_MAX));
    while let Some(link) = endpoint.accept().await {
        if link.protocol() != Protocol::Transfer {
            link.close(Refusal::Denied);
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            link.close(Refusal::QuotaExceeded);
            continue;
        };
        let serving = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            serve(serving, link).await;
            drop(place);
        });
    }
}

async fn serve(shared: Arc<Shared>, link: Link) {
    let visitor = Arc::new(Visitor {
        shared: Arc::clone(&shared),
        visit: OnceLock::new(),
        known: Arc::new(SetOnce::new()),
    });
    let known = Arc::clone(&visitor.known);
    let tasks = shared.tasks.clone();
    let mut served = pin!(serve_streams(&link, &tasks, visitor));
    let end = tokio::select! {
        end = &mut served => end,
        () = overdue(&known) => {
            link.close(Refusal::TimedOut);
            served.await
        }
    };
    tracing::debug!(peer = ?link.remote_id(), %end, "link ended");
}

/// Ends when a stranger has been one for too long; never for one that is known in time.
async fn overdue(known: &SetOnce<()>) {
    let waited = tokio::time::timeout(STRANGER_DEADLINE, known.wait()).await;
    if waited.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Answers on one link.
struct Visitor {
    shared: Arc<Shared>,
    /// Set once it is let in.
    visit: OnceLock<Arc<Visit>>,
    /// Set once it has shown what is good for a visit.
    known: Arc<SetOnce<()>>,
}

impl Handler for Visitor {
    async fn handle(&self, first: Communication, mut stream: Stream, link: &Link) {
        match first {
            Communication::OfferOpen { secret, name } => {
                self.open((secret, name), &mut stream, link).await;
            }
            Communication::CodeClaim {
                nameplate,
                claimant,
            } if link.remote_id() == Some(claimant) => {
                claimed(&self.shared, &mut stream, nameplate, claimant).await;
            }
            first if is_about_files(&first) => match self.visit.get() {
                Some(visit) => {
                    let asker = Asker {
                        node: visit.node,
                        name: visit.name.clone(),
                        permission: Permission::Link,
                    };
                    visit.provide.answer(first, asker, stream).await;
                }
                None => refuse(&mut stream, Refusal::NotGranted).await,
            },
            _ => refuse(&mut stream, Refusal::Denied).await,
        }
    }
}

impl Visitor {
    /// A receiver asks to be let in; the visit lasts until its stream ends.
    async fn open(
        &self,
        (secret, name): (OfferSecret, NodeName),
        stream: &mut Stream,
        link: &Link,
    ) {
        let shared = &self.shared;
        let Some(node) = link.remote_id() else {
            return refuse(stream, Refusal::WrongIdentity).await;
        };
        let refusal = if !shared.may_come(node) {
            Some(Refusal::OfferOver)
        } else if !shared.admits(node, &secret) {
            Some(Refusal::NotGranted)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            tracing::info!(node = %node.short(), %refusal, "a receiver was turned away");
            return refuse(stream, refusal).await;
        }
        let _again = self.known.set(());
        let visit = Arc::new(self.enter(node, name, link));
        let id = shared.issued().enter(&visit);
        if shared.asks && !self.is_let_in(id, &visit, stream).await {
            visit.set(VisitState::TurnedAway);
            shared.issued().waiting.remove(&id);
            return refuse(stream, Refusal::Declined).await;
        }
        let is_second = self.visit.set(Arc::clone(&visit)).is_err();
        if is_second {
            visit.set(VisitState::TurnedAway);
            return refuse(stream, Refusal::Unexpected).await;
        }
        link.widen();
        visit.set(VisitState::Open);
        shared.tell(OfferEvent::Opened(Arc::clone(&visit)));
        {
            let _presence = Presence {
                shared,
                visit: &visit,
            };
            self.stay(&visit, stream).await;
        }
        if visit.is_finished() {
            // It goes by itself; one that does not holds nothing up.
            let _ = tokio::time::timeout(FAREWELL_DEADLINE, link.closed()).await;
            link.close(Refusal::Done);
        }
    }

    fn enter(&self, node: NodeId, name: NodeName, link: &Link) -> Visit {
        let shared = &self.shared;
        let transfers = Transfers::limited(shared.throttle.clone());
        let own = shared.endpoint.node_id();
        let provide = Provide::new(
            shared.share.clone(),
            transfers.clone(),
            own,
            shared.tasks.clone(),
        );
        Visit {
            node,
            name,
            link: link.clone(),
            transfers,
            provide,
            before_bytes: shared.issued().got_before(node),
            total_bytes: AtomicU64::new(0),
            state: Mutex::new(VisitState::Waiting),
        }
    }

    /// Waits for a person's word.
    async fn is_let_in(&self, id: super::VisitId, visit: &Arc<Visit>, stream: &mut Stream) -> bool {
        let (decide, decided) = oneshot::channel();
        self.shared.issued().waiting.insert(id, decide);
        self.shared.tell(OfferEvent::Knocked(id, Arc::clone(visit)));
        tokio::select! {
            decided = decided => decided.unwrap_or(false),
            _ = stream.send.stopped() => false,
            () = tokio::time::sleep(DECISION_DEADLINE) => false,
        }
    }

    /// Describes the offer and hears what becomes of the visit.
    async fn stay(&self, visit: &Arc<Visit>, stream: &mut Stream) {
        let shared = &self.shared;
        // Before the end of the first scan it would say that there is less than there is.
        shared.share.ready().await;
        shared.share.refresh().await;
        let totals = shared.share.totals();
        visit
            .total_bytes
            .store(totals.total_bytes, Ordering::Relaxed);
        let described = Communication::OfferDescribed(OfferDescription {
            name: shared.name.clone(),
            files: totals.files,
            total_bytes: totals.total_bytes,
        });
        if stream.send.say(&described).await.is_err() {
            return;
        }
        tokio::select! {
            () = self.hear_out(visit, stream) => {}
            () = self.outstayed(visit) => {
                visit.leave(Some(Refusal::TimedOut));
                visit.link.close(Refusal::OfferOver);
            }
        }
    }

    /// Hears what becomes of a visit: one last word, or its end without one.
    async fn hear_out(&self, visit: &Arc<Visit>, stream: &mut Stream) {
        match stream.recv.hear(VISIT_DEADLINE).await {
            Ok(Some(Communication::OfferDone { files, bytes })) => {
                self.shared.has_finished(visit, (files, bytes));
            }
            Ok(Some(Communication::Error(report))) => visit.leave(Some(report.refusal)),
            Ok(None) | Err(HearError::Stream(_)) => return,
            Ok(Some(_)) | Err(_) => return visit.link.close(Refusal::Unexpected),
        }
        stream.send.finish();
        if let Ok(Some(_)) = stream.recv.hear(FAREWELL_DEADLINE).await {
            visit.link.close(Refusal::Unexpected);
        }
    }

    /// Ends once nobody new is let in and nothing has moved for long: the offer would last for as
    /// long as that receiver pleases.
    async fn outstayed(&self, visit: &Visit) {
        self.shared.closed().await;
        loop {
            let moved = visit.moved();
            tokio::time::sleep(QUIET_MAX).await;
            if visit.moved() == moved {
                return;
            }
        }
    }
}

/// A receiver that was let in; it is told when it leaves, however the visit ends.
struct Presence<'a> {
    shared: &'a Shared,
    visit: &'a Arc<Visit>,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if self.visit.state() == VisitState::Open {
            self.visit.leave(None);
        }
        self.shared.tell(OfferEvent::Left(Arc::clone(self.visit)));
    }
}

async fn refuse(stream: &mut Stream, refusal: Refusal) {
    let report = Communication::refused(refusal, "");
    if stream.send.say(&report).await.is_ok() {
        stream.send.finish();
        let _ = tokio::time::timeout(FAREWELL_DEADLINE, stream.send.stopped()).await;
    }
}
