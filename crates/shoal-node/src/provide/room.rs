//! Memory for what is being sent: how much of it one node may hold, and who is next.
//!
//! What waits for a receiver holds its room until the network has let go of it, also where that
//! receiver reads nothing, or acknowledges nothing. So that nobody else waits for him, a node may
//! take more only while it holds no more than is left: one alone has half of the room, the next one
//! half of what is left, and somebody who holds nothing may take what there is. It takes five nodes
//! that take nothing to hold all of it, and where others wait, one of which nothing moves is
//! [stuck](Rooms::stuck).
//!
//! Who waits is served in the order of coming. One that holds nothing keeps those behind it waiting
//! until it has its room, half of the time: a large piece would never find enough free otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_wire::NodeId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::budget::Buffer;

/// Content in memory that is being sent, in bytes. Together with what is being received it is
/// well below the 64 MB that a process may need in all: the windows of the network count too.
const SENDING_BYTES: usize = 16 << 20;
/// How long one that waits may keep others waiting, who could go on with what there is; for as long
/// they go first then.
const PRECEDENCE: Duration = Duration::from_secs(10);
/// How long a node may hold memory of which nothing moves, before it counts as gone where others wait.
const STUCK_AFTER: Duration = Duration::from_secs(300);
/// Time between two looks at whether others wait.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The room of this process.
pub(super) static ROOMS: LazyLock<Rooms> = LazyLock::new(|| Rooms::of(SENDING_BYTES));

/// A bound on memory that all nodes share to whom something is sent. Cheap to clone.
#[derive(Clone)]
pub(super) struct Rooms(Arc<Shared>);

struct Shared {
    all_bytes: usize,
    began: Instant,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    bytes: usize,
    by_node: BTreeMap<NodeId, Held>,
    line: VecDeque<Waiting>,
}

/// What a node holds.
struct Held {
    bytes: usize,
    /// When it last took or let go of any of it.
    moved: Instant,
}

struct Waiting {
    node: NodeId,
    bytes: usize,
    served: oneshot::Sender<Part>,
}

/// Room that nobody else has, until this and the buffers out of it are dropped.
pub(super) struct Room(Part);

/// So much of it, for one node.
struct Part {
    rooms: Rooms,
    node: NodeId,
    bytes: usize,
}

impl Rooms {
    fn of(all_bytes: usize) -> Self {
        Self(Arc::new(Shared {
            all_bytes,
            began: Instant::now(),
            taken: Mutex::default(),
        }))
    }

    /// Waits for room for `len_bytes` that are sent to `node`; more than there is in all is taken
    /// for all. Dropping the future leaves the line.
    pub(super) async fn reserve(&self, node: NodeId, len_bytes: usize) -> Room {
        let bytes = len_bytes.min(self.0.all_bytes);
        // Dropped last: whoever stood behind this one is served then.
        let _leaving = Leaving(self);
        loop {
            let (served, mut serving) = oneshot::channel();
            self.taken().line.push_back(Waiting {
                node,
                bytes,
                served,
            });
            self.serve();
            loop {
                tokio::select! {
                    served = &mut serving => match served {
                        Ok(part) => return Room(part),
                        // Never so: who is taken out of the line is served.
                        Err(_) => break,
                    },
                    // Others need not wait for those in front any longer, or have to again.
                    () = tokio::time::sleep_until(self.phase().1) => self.serve(),
                }
            }
        }
    }

    /// Gives room to those in line that may have it.
    fn serve(&self) {
        // What was meant for one that is gone is given back when the lock is, and goes to the next.
        drop(self.serve_line());
    }

    /// What was meant for those that have just left the line.
    fn serve_line(&self) -> Vec<Part> {
        let mut left = Vec::new();
        let (has_precedence, _) = self.phase();
        let mut taken = self.taken();
        let mut passed = BTreeSet::new();
        let mut at = 0;
        while let Some(waiting) = taken.line.get(at) {
            let (node, bytes) = (waiting.node, waiting.bytes);
            if waiting.served.is_closed() {
                taken.line.remove(at);
                continue;
            }
            let is_first = !passed.contains(&node);
            let may_take = is_first && taken.may_take(self.0.all_bytes, node, bytes);
            if may_take && let Some(waiting) = taken.line.remove(at) {
                let part = taken.take(self, node, bytes);
                left.extend(waiting.served.send(part).err());
                continue;
            }
            if is_first && has_precedence && !taken.by_node.contains_key(&node) {
                break;
            }
            passed.insert(node);
            at += 1;
        }
        left
    }

    /// Notes that the network took something that is sent to `node`.
    pub(super) fn moved(&self, node: NodeId) {
        if let Some(held) = self.taken().by_node.get_mut(&node) {
            held.moved = Instant::now();
        }
    }

    /// Whether those that hold nothing have precedence now, and until when. It is the same for all:
    /// else two of them could take turns in holding everybody up.
    fn phase(&self) -> (bool, Instant) {
        let count = self.0.began.elapsed().as_secs() / PRECEDENCE.as_secs();
        let passed = PRECEDENCE * u32::try_from(count).unwrap_or(u32::MAX);
        (count.is_multiple_of(2), self.0.began + passed + PRECEDENCE)
    }

    /// Waits until `node` has held memory for long of which nothing moved, and others wait for some.
    pub(super) async fn stuck(&self, node: NodeId) {
        loop {
            let (until, others_wait) = {
                let taken = self.taken();
                let held = taken.by_node.get(&node);
                let moved = held.map_or_else(Instant::now, |held| held.moved);
                let others_wait = taken.line.iter().any(|waiting| waiting.node != node);
                (moved + STUCK_AFTER, others_wait)
            };
            let now = Instant::now();
            match until > now {
                true => tokio::time::sleep_until(until).await,
                false if others_wait => return,
                false => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the others served when it is dropped.
struct Leaving<'a>(&'a Rooms);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.serve();
    }
}

impl Taken {
    /// Whether there is room that this node may take.
    fn may_take(&self, all_bytes: usize, node: NodeId, bytes: usize) -> bool {
        let free = all_bytes - self.bytes;
        let held = self.by_node.get(&node).map_or(0, |held| held.bytes);
        // Whoever holds nothing may take whatever there is: one block may be larger than a share.
        bytes <= free && (held == 0 || held + bytes <= free - bytes)
    }

    fn take(&mut self, rooms: &Rooms, node: NodeId, bytes: usize) -> Part {
        self.bytes += bytes;
        let moved = Instant::now();
        let held = self.by_node.entry(node);
        let held = held.or_insert(Held { bytes: 0, moved });
        held.bytes += bytes;
        Part {
            rooms: rooms.clone(),
            node,
            bytes,
        }
    }
}

impl Room {
    /// Takes a buffer out of the room, which becomes smaller; the buffer's drop frees its part.
    pub(super) fn take(&mut self, len_bytes: usize) -> Buffer {
        let bytes = len_bytes.min(self.0.bytes);
        self.0.bytes -= bytes;
        let part = Part {
            rooms: self.0.rooms.clone(),
            bytes,
            ..self.0
        };
        Buffer::held_by(len_bytes, part)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut taken = self.rooms.taken();
        taken.bytes -= self.bytes;
        if let Some(held) = taken.by_node.get_mut(&self.node) {
            held.bytes -= self.bytes;
            held.moved = Instant::now();
            if held.bytes == 0 {
                taken.by_node.remove(&self.node);
            }
        }
        let is_waited_for = !taken.line.is_empty();
        drop(taken);
        if is_waited_for {
            self.rooms.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    const fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    /// Room that is to be had at once.
    fn at_once(rooms: &Rooms, number: u8, bytes: usize) -> Option<Room> {
        rooms.reserve(node(number), bytes).now_or_never()
    }

    /// Takes all that a node may have, in blocks.
    fn hog(rooms: &Rooms, number: u8) -> Vec<Room> {
        std::iter::from_fn(|| at_once(rooms, number, MIB)).collect()
    }

    /// Waits in line, until the time stands still.
    async fn waits(rooms: &Rooms, number: u8, bytes: usize) -> tokio::task::JoinHandle<Room> {
        let line = rooms.clone();
        let waiting = tokio::spawn(async move { line.reserve(node(number), bytes).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        waiting
    }

    #[tokio::test]
    async fn who_holds_much_takes_no_more_and_the_next_ones_are_served() {
        let rooms = Rooms::of(16 * MIB);
        let mut hogs: Vec<_> = (0..5).map(|number| hog(&rooms, number)).collect();
        let held: Vec<usize> = hogs.iter().map(Vec::len).collect();
        assert_eq!(held, [8, 4, 2, 1, 1]);
        // Who had most has nothing more before it has given back as much as all others have.
        drop(hogs.split_off(2));
        assert!(at_once(&rooms, 0, MIB).is_none());
        drop(hogs);
        assert_eq!(rooms.taken().bytes, 0);
        assert!(rooms.taken().by_node.is_empty());
    }

    #[tokio::test]
    async fn what_waits_goes_on_when_something_is_given_back() {
        let rooms = Rooms::of(4 * MIB);
        let mut all = rooms.reserve(node(1), 100 * MIB).await;
        let blocks: Vec<Buffer> = (0..4).map(|_| all.take(MIB)).collect();
        assert_eq!(all.take(10).len(), 10);
        drop(all);
        assert_eq!(rooms.taken().bytes, 4 * MIB);
        let waiting = waits(&rooms, 2, 2 * MIB).await;
        drop(blocks);
        drop(waiting.await.unwrap());
        assert_eq!(rooms.taken().bytes, 0);
    }

    #[tokio::test]
    async fn a_large_piece_has_its_turn_before_those_that_came_later() {
        let rooms = Rooms::of(16 * MIB);
        let (mut first, mut second) = (hog(&rooms, 1), hog(&rooms, 2));
        let large = waits(&rooms, 3, 8 * MIB).await;
        // Whoever goes on all the time would always find enough for a small one.
        first.truncate(5);
        assert!(at_once(&rooms, 1, MIB).is_none());
        first.truncate(2);
        second.truncate(2);
        let large = large.await.unwrap();
        assert!(at_once(&rooms, 1, MIB).is_some());
        drop(large);
        // Within one node too: what came first is not overtaken.
        let again = waits(&rooms, 1, 9 * MIB).await;
        assert!(at_once(&rooms, 1, MIB).is_none());
        drop(first);
        again.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_holds_others_up_for_a_while_only() {
        let rooms = Rooms::of(16 * MIB);
        let hogs = [hog(&rooms, 1), hog(&rooms, 2)];
        let started = Instant::now();
        let in_vain = waits(&rooms, 3, 8 * MIB).await;
        // Another one that comes when the first has had its time does not begin anew.
        tokio::time::sleep(PRECEDENCE - Duration::from_millis(1)).await;
        let also = waits(&rooms, 4, 8 * MIB).await;
        let small = waits(&rooms, 5, MIB).await.await;
        assert!(small.is_ok() && started.elapsed() >= PRECEDENCE);
        assert!(started.elapsed() < 2 * PRECEDENCE && !in_vain.is_finished());
        // Who leaves the line keeps nothing in it.
        for waiting in [in_vain, also] {
            waiting.abort();
            assert!(waiting.await.is_err());
        }
        drop((small, hogs));
        assert!(at_once(&rooms, 6, 16 * MIB).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_of_which_nothing_moves_is_stuck() {
        let rooms = Rooms::of(16 * MIB);
        let started = Instant::now();
        let _held = hog(&rooms, 1);
        let half = STUCK_AFTER / 2;
        tokio::time::sleep(half).await;
        rooms.moved(node(1));
        // Nobody is in need of it.
        let unneeded = tokio::time::timeout(2 * STUCK_AFTER, rooms.stuck(node(1)));
        assert!(unneeded.await.is_err());
        rooms.moved(node(1));
        let _waiting = waits(&rooms, 2, 9 * MIB).await;
        rooms.stuck(node(1)).await;
        assert!(started.elapsed() >= half + 3 * STUCK_AFTER);
        // One that holds nothing never is.
        let idle = tokio::time::timeout(10 * STUCK_AFTER, rooms.stuck(node(3)));
        assert!(idle.await.is_err());
    }
}
