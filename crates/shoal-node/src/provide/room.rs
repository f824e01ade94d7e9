//! Room for what is being sent: how much of it one node may have, and who gives way.
//!
//! What waits for a receiver that takes nothing keeps its room. So that nobody else waits for that
//! receiver, one node has three quarters of the room at most; and where others wait all the same,
//! those are dropped that have taken nothing for long, the longest first.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use shoal_wire::NodeId;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::budget::{self, Budget, Room};

/// What one node may have of the room, in bytes.
const NODE_BYTES: usize = 12 << 20;
/// How long a receiver may take nothing while others wait for room.
const STALLED_AFTER: Duration = Duration::from_secs(10);
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
    begun: BTreeMap<u64, (Instant, CancellationToken)>,
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
        let own = self.budget_of(node).reserve(len_bytes).await;
        let mut reserving = pin!(self.all.reserve(len_bytes));
        loop {
            if let Ok(room) = timeout(LOOK_INTERVAL, &mut reserving).await {
                return room.within(own);
            }
            self.drop_slowest();
        }
    }

    /// Waits until a receiver has taken something.
    ///
    /// # Errors
    /// When it has to give way to others.
    pub(super) async fn taking<T>(&self, taken: impl Future<Output = T>) -> Result<T, GaveWay> {
        let gives_way = CancellationToken::new();
        let wait = Wait {
            rooms: self,
            number: self.waits().enter(&gives_way),
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

    fn drop_slowest(&self) {
        let waits = self.waits();
        let slowest = waits.begun.values().min_by_key(|(since, _)| *since);
        if let Some((since, gives_way)) = slowest
            && since.elapsed() >= STALLED_AFTER
        {
            gives_way.cancel();
        }
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waits {
    fn enter(&mut self, gives_way: &CancellationToken) -> u64 {
        self.next += 1;
        let entry = (Instant::now(), gives_way.clone());
        self.begun.insert(self.next, entry);
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
                let taken = rooms.taking(std::future::pending::<()>()).await;
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
        assert_eq!(rooms.taking(async { 7 }).await, Ok(7));
    }
}
