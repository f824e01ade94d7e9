//! Memory for what is being sent: how much of it one node may hold.
//!
//! What waits for a receiver holds its room until the network has let go of it, also where that
//! receiver reads nothing, or acknowledges nothing. So that nobody else waits for him, a node may
//! take more only while it holds no more than is left: one alone has half of the room, the next one
//! half of what is left, and somebody who holds nothing may take what there is. It takes five nodes
//! that take nothing to hold all of it, and what is said to one has a deadline.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use shoal_wire::NodeId;
use tokio::sync::Notify;

use crate::budget::Buffer;

/// Content in memory that is being sent, in bytes. Together with what is being received it is
/// well below the 64 MB that a process may need in all: the windows of the network count too.
const SENDING_BYTES: usize = 16 << 20;

/// The room of this process.
pub(super) static ROOMS: LazyLock<Rooms> = LazyLock::new(|| Rooms::of(SENDING_BYTES));

/// A bound on memory that all nodes share to whom something is sent. Cheap to clone.
#[derive(Clone)]
pub(super) struct Rooms(Arc<Shared>);

struct Shared {
    all_bytes: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    bytes: usize,
    by_node: BTreeMap<NodeId, usize>,
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
            taken: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// Waits for room for `len_bytes` that are sent to `node`; more than there is in all is taken
    /// for all.
    pub(super) async fn reserve(&self, node: NodeId, len_bytes: usize) -> Room {
        let bytes = len_bytes.min(self.0.all_bytes);
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            // From here on what is given back is not missed.
            freed.as_mut().enable();
            if self.take(node, bytes) {
                return Room(Part {
                    rooms: self.clone(),
                    node,
                    bytes,
                });
            }
            freed.await;
        }
    }

    /// Whether there was room that this node may take.
    fn take(&self, node: NodeId, bytes: usize) -> bool {
        let mut taken = self.taken();
        let free = self.0.all_bytes - taken.bytes;
        let held = taken.by_node.get(&node).copied().unwrap_or(0);
        // Whoever holds nothing may take whatever there is: one block may be larger than a share.
        if bytes > free || held > 0 && held + bytes > free - bytes {
            return false;
        }
        taken.bytes += bytes;
        *taken.by_node.entry(node).or_default() += bytes;
        true
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
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
            *held -= self.bytes;
            if *held == 0 {
                taken.by_node.remove(&self.node);
            }
        }
        drop(taken);
        self.rooms.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    const fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    /// Takes all that a node may have, in blocks.
    fn hog(rooms: &Rooms, number: u8) -> Vec<Buffer> {
        let mut held = Vec::new();
        while rooms.take(node(number), MIB) {
            let part = Part {
                rooms: rooms.clone(),
                node: node(number),
                bytes: MIB,
            };
            held.push(Room(part).take(MIB));
        }
        held
    }

    #[test]
    fn who_holds_much_takes_no_more_and_the_next_ones_are_served() {
        let rooms = Rooms::of(16 * MIB);
        let mut hogs = Vec::new();
        for number in 0..5 {
            hogs.push(hog(&rooms, number));
        }
        let held: Vec<usize> = hogs.iter().map(Vec::len).collect();
        assert_eq!(held, [8, 4, 2, 1, 1]);
        // Who had most has nothing more before it has given back as much as all others have.
        drop(hogs.split_off(2));
        assert!(!rooms.take(node(0), MIB));
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
        let line = rooms.clone();
        let waiting = tokio::spawn(async move { line.reserve(node(2), 2 * MIB).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(blocks);
        drop(waiting.await.unwrap());
        assert_eq!(rooms.taken().bytes, 0);
    }
}
