//! Room for what is being sent: how much of it one node may have, and who gives way.
//!
//! What waits for a receiver that takes nothing keeps its room. So that nobody else waits for that
//! receiver, one node has three quarters of the room at most; and where others wait all the same,
//! those are dropped that have taken nothing for long, the longest first. One that nothing is heard
//! of meanwhile is gone, most likely, and gives way sooner.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use shoal_link::Link;
use shoal_wire::NodeId;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::budget::{self, Budget, Room};

/// What one node may have of the room, in bytes.
const NODE_BYTES: usize = 12 << 20;
/// How long a receiver may take nothing while others wait for room.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// The same where nothing at all is heard of it: a machine that lives answers within its round trip.
const GONE_AFTER: Duration = Duration::from_secs(2);
/// Time between two looks at who gives way.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The room of this process.
pub(super) static ROOMS: LazyLock<Rooms> = LazyLock::new(|| Rooms::of(&budget::SENDING));

/// Room for what is being sent, and those who have it.
pub(super) struct Rooms {
    all: &'static Budget,
    nodes: Mutex<BTreeMap<NodeId, Weak<Semaphore>>>,
    waits: Mutex<Waits>,
}

/// Receivers that are waited for.
#[derive(Default)]
struct Waits {
    next: u64,
    begun: BTreeMap<u64, Begun>,
}

/// One that is waited for.
struct Begun {
    node: NodeId,
    since: Instant,
    /// The link, and what had been heard on it.
    heard: Option<(Link, u64)>,
    gives_way: CancellationToken,
}

impl Begun {
    fn is_overdue(&self) -> bool {
        let is_silent = |(link, heard): &(Link, u64)| link.heard() == *heard;
        let waited = self.since.elapsed();
        waited >= STALLED_AFTER
            || waited >= GONE_AFTER && self.heard.as_ref().is_some_and(is_silent)
    }
}

/// A receiver took nothing while others waited for room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GaveWay;

impl Rooms {
    fn of(all: &'static Budget) -> Self {
        Self {
            all,
            nodes: Mutex::default(),
            waits: Mutex::default(),
        }
    }

    /// Waits for room for `len_bytes` that are sent to `node`.
    pub(super) async fn reserve(&self, node: NodeId, len_bytes: usize) -> Room {
        let own = self.budget_of(node);
        let own = self.unblock(own.reserve(len_bytes), |one| one == node);
        let own = own.await;
        let room = self.unblock(self.all.reserve(len_bytes), |_| true);
        room.await.within(own)
    }

    /// Waits for room, and has those give way who hold it up, of the nodes that count.
    async fn unblock(
        &self,
        reserving: impl Future<Output = Room>,
        counts: impl Fn(NodeId) -> bool,
    ) -> Room {
        let mut reserving = pin!(reserving);
        loop {
            if let Ok(room) = timeout(LOOK_INTERVAL, &mut reserving).await {
                return room;
            }
            self.drop_slowest(&counts);
        }
    }

    /// Waits until the receiver at `node` has taken something.
    ///
    /// # Errors
    /// When it has to give way to others.
    pub(super) async fn taking<T>(
        &self,
        (node, link): (NodeId, Option<Link>),
        taken: impl Future<Output = T>,
    ) -> Result<T, GaveWay> {
        let gives_way = CancellationToken::new();
        let begun = Begun {
            node,
            since: Instant::now(),
            heard: link.map(|link| (link.clone(), link.heard())),
            gives_way: gives_way.clone(),
        };
        let wait = Wait {
            rooms: self,
            number: self.waits().enter(begun),
        };
        let taken = tokio::select! {
            taken = taken => Ok(taken),
            () = gives_way.cancelled() => Err(GaveWay),
        };
        drop(wait);
        taken
    }

    /// What one node may have; it lasts while the node has any of it.
    fn budget_of(&self, node: NodeId) -> Budget {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = nodes.get(&node).and_then(Weak::upgrade);
        let budget = Budget::with(NODE_BYTES, known);
        nodes.retain(|_, one| one.strong_count() > 0);
        nodes.insert(node, Arc::downgrade(budget.free()));
        budget
    }

    fn drop_slowest(&self, counts: impl Fn(NodeId) -> bool) {
        let waits = self.waits();
        let of_these = waits.begun.values().filter(|one| counts(one.node));
        let overdue = of_these.filter(|one| one.is_overdue());
        if let Some(slowest) = overdue.min_by_key(|one| one.since) {
            slowest.gives_way.cancel();
        }
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waits {
    fn enter(&mut self, begun: Begun) -> u64 {
        self.next += 1;
        self.begun.insert(self.next, begun);
        self.next
    }
}

/// One receiver that is waited for, until this is dropped.
struct Wait<'a> {
    rooms: &'a Rooms,
    number: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.rooms.waits().begun.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(bytes: usize) -> Arc<Rooms> {
        let all = Box::leak(Box::new(Budget::with(bytes, None)));
        Arc::new(Rooms::of(all))
    }

    const fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    #[tokio::test]
    async fn one_node_never_has_all() {
        let rooms = rooms(16 << 20);
        let mut held = rooms.reserve(node(1), 8 << 20).await;
        let block = held.take(8 << 20);
        drop(held);
        let second = rooms.reserve(node(1), 4 << 20).await;
        let mut third = pin!(rooms.reserve(node(1), 1 << 20));
        let waits = timeout(Duration::from_millis(10), &mut third).await;
        assert!(waits.is_err(), "more than one node may have");
        drop(rooms.reserve(node(2), 4 << 20).await);
        drop(block);
        drop(third.await);
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_gives_way_once_others_wait() {
        let rooms = rooms(16 << 20);
        let stalled = |number: u8| {
            let rooms = Arc::clone(&rooms);
            async move {
                let room = rooms.reserve(node(number), 8 << 20).await;
                let receiver = (node(number), None);
                let taken = rooms.taking(receiver, std::future::pending::<()>()).await;
                drop(room);
                taken
            }
        };
        let (first, second) = (tokio::spawn(stalled(1)), tokio::spawn(stalled(2)));
        tokio::time::sleep(3 * STALLED_AFTER).await;
        assert!(
            !first.is_finished() && !second.is_finished(),
            "nobody waits"
        );
        drop(rooms.reserve(node(3), 12 << 20).await);
        assert_eq!(first.await.unwrap(), Err(GaveWay));
        assert_eq!(second.await.unwrap(), Err(GaveWay));
        assert_eq!(rooms.taking((node(1), None), async { 7 }).await, Ok(7));
    }
}
