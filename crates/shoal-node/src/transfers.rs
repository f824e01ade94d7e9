//! The transfers of a node, as its user sees them: how far, from whom, how they ended.
//!
//! Whoever moves bytes holds a [`Transfer`] and counts into it; whoever shows progress reads
//! [`Transfers::list`] or waits on [`Transfer::changed`]. Counting takes no lock. Finished
//! transfers stay in the list until [`KEPT_FINISHED`] newer ones have finished.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_core::rate::FlowId;
use shoal_core::speed::Speed;
use shoal_link::{Link, LivePath};
use shoal_wire::message::{Outcome, TransferProgress};
use shoal_wire::{NodeId, NodeName, Refusal, SafePath};
use tokio_util::sync::CancellationToken;

use crate::moving;
use crate::throttle::Throttle;

/// Finished transfers that are remembered: a screenful for a person who looks back.
const KEPT_FINISHED: usize = 100;
/// Time between two looks at the counters by whoever reports progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Which way the bytes go, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// This node fetches.
    Receiving,
    /// This node serves.
    Sending,
}

/// What became of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It goes on.
    Active,
    /// It ended well, with one file.
    Done(Outcome),
    /// It ended well, with many files.
    Complete,
    /// It ended otherwise; what arrived is kept.
    Failed(Refusal),
}

/// One transfer at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its number in this process.
    pub id: u64,
    /// Which way.
    pub direction: Direction,
    /// The file.
    pub path: SafePath,
    /// The other sides, by name.
    pub peers: Vec<NodeName>,
    /// Size of the file, in bytes; 0 until it is known.
    pub total_bytes: u64,
    /// Verified here (when receiving) or handed to the network (when sending), in bytes.
    pub verified_bytes: u64,
    /// Verified and durable at the receiver, in bytes.
    pub durable_bytes: u64,
    /// What became of it.
    pub state: State,
    /// How long it took, or has taken so far.
    pub elapsed: Duration,
    /// Moved over the network per second, in bytes, over the last seconds; 0 when it is over.
    pub bytes_per_second: u64,
    /// How it travels, once that is known.
    pub route: Option<LivePath>,
}

impl Snapshot {
    /// How long the rest takes at the present speed, if it moves.
    pub fn left(&self) -> Option<Duration> {
        let rest_bytes = self.total_bytes.saturating_sub(self.verified_bytes);
        let seconds = rest_bytes.div_ceil(self.bytes_per_second.max(1));
        (self.bytes_per_second > 0).then(|| Duration::from_secs(seconds))
    }

    /// The message that tells another node how far this is.
    pub fn progress(&self) -> TransferProgress {
        let outcome = match self.state {
            State::Done(outcome) => Some(outcome),
            State::Active | State::Complete | State::Failed(_) => None,
        };
        TransferProgress {
            total_bytes: self.total_bytes,
            verified_bytes: self.verified_bytes,
            durable_bytes: self.durable_bytes,
            outcome,
        }
    }
}

/// One transfer, counted into by whoever moves its bytes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transfer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: u64,
    direction: Direction,
    path: SafePath,
    total_bytes: AtomicU64,
    verified_bytes: AtomicU64,
    durable_bytes: AtomicU64,
    /// Taken by the network, in small steps: shows that a slow transfer lives.
    handed_bytes: AtomicU64,
    /// Content that came or went, in bytes: only ever grows.
    moved_bytes: AtomicU64,
    reused_bytes: AtomicU64,
    throttle: Throttle,
    stop: CancellationToken,
    started: Instant,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    peers: Vec<NodeName>,
    state: State,
    ended: Option<Instant>,
    speed: Speed,
    via: Via,
}

/// How it travels.
#[derive(Debug)]
enum Via {
    Unknown,
    /// Asked when somebody looks.
    Link(Link),
    /// As it was at the end: nobody keeps a link for the list's sake.
    Past(LivePath),
}

impl Transfer {
    /// Its number in this process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// How it is now.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.0;
        let mut told = shared.told();
        let verified_bytes = shared.verified_bytes.load(Ordering::Relaxed);
        let bytes_per_second = if told.state == State::Active {
            let moved_bytes = shared.moved_bytes.load(Ordering::Relaxed);
            told.speed.handle_count(moved_bytes, Instant::now());
            told.speed.bytes_per_second()
        } else {
            0
        };
        let route = match &told.via {
            Via::Unknown => None,
            Via::Link(link) => Some(link.path()),
            Via::Past(path) => Some(*path),
        };
        let elapsed = told.ended.unwrap_or_else(Instant::now) - shared.started;
        Snapshot {
            id: shared.id,
            direction: shared.direction,
            path: shared.path.clone(),
            peers: told.peers.clone(),
            total_bytes: shared.total_bytes.load(Ordering::Relaxed),
            verified_bytes,
            durable_bytes: shared.durable_bytes.load(Ordering::Relaxed),
            state: told.state,
            elapsed,
            bytes_per_second,
            route,
        }
    }

    /// How much is verified, in bytes.
    pub fn verified_bytes(&self) -> u64 {
        self.0.verified_bytes.load(Ordering::Relaxed)
    }

    /// How much content came over the network, in bytes, what had to come twice included.
    pub fn received_bytes(&self) -> u64 {
        self.0.moved_bytes.load(Ordering::Relaxed)
    }

    /// How much was found on this machine and not fetched, in bytes.
    pub fn reused_bytes(&self) -> u64 {
        self.0.reused_bytes.load(Ordering::Relaxed)
    }

    /// Asks it to stop; what arrived is kept.
    pub fn cancel(&self) {
        self.0.stop.cancel();
    }

    /// Waits until somebody asked it to stop.
    pub async fn cancelled(&self) {
        self.0.stop.cancelled().await;
    }

    /// Whether somebody asked it to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.stop.is_cancelled()
    }

    /// Waits for the next moment at which progress is worth a report.
    pub async fn changed(&self) {
        tokio::time::sleep(REPORT_INTERVAL).await;
    }

    /// Waits until the limits of its direction let some of `most_bytes` of content move to or from
    /// a peer, and returns how many; all of them, at once, where there is no limit. Ask again for
    /// the rest. Dropping the future takes the wish back.
    pub async fn take(&self, peer: NodeId, most_bytes: usize) -> usize {
        let gate = match self.0.direction {
            Direction::Receiving => self.0.throttle.down(),
            Direction::Sending => self.0.throttle.up(),
        };
        let taken = gate.take(peer, FlowId(self.0.id), most_bytes).await;
        moving::moves();
        taken
    }

    /// The size is known.
    pub fn sized(&self, total_bytes: u64) {
        self.0.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// So many bytes more are known to belong to it.
    pub fn enlarged(&self, bytes: u64) {
        self.0.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Another node takes part.
    pub fn joined(&self, peer: &NodeName) {
        let mut told = self.0.told();
        told.peers.retain(|known| known != peer);
        told.peers.push(peer.clone());
    }

    /// It travels by this link from now on.
    pub fn travels(&self, link: &Link) {
        let mut told = self.0.told();
        if told.state == State::Active {
            told.via = Via::Link(link.clone());
        }
    }

    /// So many bytes more came, or went, and are verified.
    pub fn verified(&self, bytes: u64) {
        self.0.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.resumed(bytes);
    }

    /// So many bytes more are verified that an earlier try had fetched.
    pub fn resumed(&self, bytes: u64) {
        self.0.verified_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes more are verified that were on this machine already.
    pub fn reused(&self, bytes: u64) {
        self.0.reused_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.resumed(bytes);
    }

    /// The network took so many bytes more, as they travel.
    pub(crate) fn handed(&self, bytes: u64) {
        self.0.handed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many bytes the network has taken, as they travel.
    pub(crate) fn handed_bytes(&self) -> u64 {
        self.0.handed_bytes.load(Ordering::Relaxed)
    }

    /// So many bytes are durable in all; what is durable is verified.
    pub fn durable(&self, bytes: u64) {
        self.0.durable_bytes.store(bytes, Ordering::Relaxed);
        self.0.verified_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// It counts from `bytes` again: that much is there, and nothing more.
    pub fn restarted(&self, bytes: u64) {
        self.0.durable_bytes.store(bytes, Ordering::Relaxed);
        self.0.verified_bytes.store(bytes, Ordering::Relaxed);
        let moved_bytes = self.0.moved_bytes.load(Ordering::Relaxed);
        self.0.told().speed = speed_from(moved_bytes);
    }

    /// It is over; the first end counts.
    pub fn ended(&self, state: State) {
        let mut told = self.0.told();
        if told.state == State::Active {
            told.state = state;
            told.ended = Some(Instant::now());
            if let Via::Link(link) = &told.via {
                told.via = Via::Past(link.path());
            }
        }
    }
}

/// Counts from here: the first look has something to compare with.
fn speed_from(bytes: u64) -> Speed {
    let mut speed = Speed::default();
    speed.handle_count(bytes, Instant::now());
    speed
}

/// Ends a transfer when it is dropped, unless it has ended: whoever ran it was dropped too.
#[derive(Debug)]
pub(crate) struct EndOnDrop(pub(crate) Transfer);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.ended(State::Failed(Refusal::Unreachable));
    }
}

impl Shared {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What transfers have moved, together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Verified here (when receiving) or handed to the network (when sending), in bytes.
    pub verified_bytes: u64,
    /// Verified and durable at the receiver, in bytes.
    pub durable_bytes: u64,
}

impl Moved {
    fn add(&mut self, transfer: &Transfer) {
        let shared = &transfer.0;
        self.verified_bytes += shared.verified_bytes.load(Ordering::Relaxed);
        self.durable_bytes += shared.durable_bytes.load(Ordering::Relaxed);
    }
}

/// All transfers of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Transfers(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    throttle: Throttle,
    next_id: u64,
    transfers: BTreeMap<u64, Transfer>,
    /// By those that are forgotten.
    past: Moved,
}

impl Transfers {
    /// None yet, and no limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet, and those that come keep to limits.
    pub fn limited(throttle: Throttle) -> Self {
        let table = Table {
            throttle,
            ..Table::default()
        };
        Self(Arc::new(Mutex::new(table)))
    }

    /// The limits that its transfers keep to.
    pub fn throttle(&self) -> Throttle {
        self.table().throttle.clone()
    }

    /// A transfer begins with one other node.
    pub fn begin(&self, direction: Direction, path: SafePath, peer: NodeName) -> Transfer {
        let mut table = self.table();
        table.next_id += 1;
        let transfer = Transfer(Arc::new(Shared {
            id: table.next_id,
            direction,
            path,
            total_bytes: AtomicU64::new(0),
            verified_bytes: AtomicU64::new(0),
            durable_bytes: AtomicU64::new(0),
            handed_bytes: AtomicU64::new(0),
            moved_bytes: AtomicU64::new(0),
            reused_bytes: AtomicU64::new(0),
            throttle: table.throttle.clone(),
            stop: CancellationToken::new(),
            started: Instant::now(),
            told: Mutex::new(Told {
                peers: vec![peer],
                state: State::Active,
                ended: None,
                speed: speed_from(0),
                via: Via::Unknown,
            }),
        }));
        table.transfers.insert(transfer.id(), transfer.clone());
        table.forget_oldest();
        transfer
    }

    /// What all of them have moved so far, those that are forgotten too.
    pub fn moved(&self) -> Moved {
        let table = self.table();
        let mut moved = table.past;
        table
            .transfers
            .values()
            .for_each(|transfer| moved.add(transfer));
        moved
    }

    /// Every transfer that is remembered, oldest first.
    pub fn list(&self) -> Vec<Snapshot> {
        self.table()
            .transfers
            .values()
            .map(Transfer::snapshot)
            .collect()
    }

    /// Asks one to stop. Tells whether it was there and active.
    pub fn cancel(&self, id: u64) -> bool {
        let transfer = self.table().transfers.get(&id).cloned();
        let active = transfer.filter(|transfer| transfer.0.told().state == State::Active);
        if let Some(transfer) = &active {
            transfer.cancel();
        }
        active.is_some()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget_oldest(&mut self) {
        // Active transfers are bounded by the streams and fetches that run them.
        let excess = self.transfers.len().saturating_sub(KEPT_FINISHED);
        if excess < KEPT_FINISHED {
            return;
        }
        let over: Vec<u64> = self
            .transfers
            .values()
            .filter(|transfer| transfer.0.told().state != State::Active)
            .map(Transfer::id)
            .take(excess)
            .collect();
        for id in over {
            if let Some(forgotten) = self.transfers.remove(&id) {
                self.past.add(&forgotten);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(transfers: &Transfers) -> Transfer {
        let name = "anna".parse().unwrap();
        transfers.begin(Direction::Receiving, "a.txt".parse().unwrap(), name)
    }

    #[test]
    fn finished_transfers_are_forgotten_and_active_ones_never() {
        let transfers = Transfers::new();
        let first = begin(&transfers);
        for _ in 0..5 * KEPT_FINISHED {
            begin(&transfers).ended(State::Failed(Refusal::Cancelled));
        }
        let list = transfers.list();
        assert!(list.len() <= 2 * KEPT_FINISHED + 1);
        assert!(list.iter().any(|snapshot| snapshot.id == first.id()));
    }

    #[test]
    fn only_an_active_transfer_can_be_cancelled() {
        let transfers = Transfers::new();
        let transfer = begin(&transfers);
        assert!(transfers.cancel(transfer.id()) && transfer.is_cancelled());
        transfer.ended(State::Failed(Refusal::Cancelled));
        transfer.ended(State::Failed(Refusal::BadChunk));
        assert_eq!(transfer.snapshot().state, State::Failed(Refusal::Cancelled));
        assert!(!transfers.cancel(transfer.id()));
        assert!(!transfers.cancel(77));
    }
}
