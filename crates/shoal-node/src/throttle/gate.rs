//! One direction's shaper, driven by those who wait at it.
//!
//! There is no task of its own: the first of those who wait takes the driver's seat, sleeps until
//! the next bytes are due and hands them out; when it has what it wanted, or leaves, the seat goes
//! to the next one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shoal_core::rate::{AskId, FlowId, Limits, Shaper};
use shoal_wire::NodeId;
use tokio::sync::{Notify, Semaphore, oneshot};

/// Where the bytes of one direction pass.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Whether there is any limit: read without the lock.
    is_limited: AtomicBool,
    state: Mutex<State>,
    seat: Semaphore,
    /// What is due next may have changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    shaper: Shaper<NodeId>,
    waiting: BTreeMap<AskId, oneshot::Sender<()>>,
}

/// An ask that waits; withdrawn when it is dropped before it is granted.
struct Waiting<'a> {
    gate: &'a Gate,
    id: AskId,
    granted: oneshot::Receiver<()>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            is_limited: AtomicBool::new(false),
            state: Mutex::new(State {
                shaper: Shaper::new(Limits::default(), Instant::now()),
                waiting: BTreeMap::new(),
            }),
            seat: Semaphore::new(1),
            changed: Notify::new(),
        }
    }
}

impl Gate {
    pub(super) fn limits(&self) -> Limits {
        self.state().shaper.limits()
    }

    /// Other limits hold from now on, also for those who wait.
    pub(super) fn set(&self, limits: Limits) {
        let mut state = self.state();
        if state.shaper.limits() == limits {
            return;
        }
        self.is_limited
            .store(limits.is_limited(), Ordering::Relaxed);
        state.shaper.handle_limits(limits, Instant::now());
        state.tell_granted();
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until a transfer may move some of `most_bytes` to or from a peer, and returns how
    /// many; all of them, at once, where there is no limit. Dropping the future withdraws the ask.
    pub(crate) async fn take(&self, peer: NodeId, flow: FlowId, most_bytes: usize) -> usize {
        if most_bytes == 0 || !self.is_limited.load(Ordering::Relaxed) {
            return most_bytes;
        }
        let (bytes, waiting) = self.ask(peer, flow, most_bytes);
        if let Some(mut waiting) = waiting {
            tokio::select! {
                biased;
                _granted = &mut waiting.granted => {}
                () = self.drive() => {}
            }
        }
        bytes
    }

    /// Asks for a piece. `None` where it is granted at once.
    fn ask(&self, peer: NodeId, flow: FlowId, most: usize) -> (usize, Option<Waiting<'_>>) {
        let mut state = self.state();
        let piece = state.shaper.limits().piece_bytes().max(1);
        let bytes = most.min(usize::try_from(piece).unwrap_or(usize::MAX));
        let now = Instant::now();
        let id = state.shaper.handle_ask((peer, flow), bytes as u64, now);
        let (sender, granted) = oneshot::channel();
        state.waiting.insert(id, sender);
        state.tell_granted();
        let waits = state.waiting.contains_key(&id);
        drop(state);
        if !waits {
            return (bytes, None);
        }
        self.changed.notify_one();
        let gate = self;
        (bytes, Some(Waiting { gate, id, granted }))
    }

    /// Hands out what is due, for everybody, until dropped; one of those who wait at a time.
    async fn drive(&self) {
        let Ok(_seat) = self.seat.acquire().await else {
            return;
        };
        loop {
            let due = self.state().shaper.poll_timeout();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.changed.notified() => {}
            }
            let mut state = self.state();
            state.shaper.handle_timeout(Instant::now());
            state.tell_granted();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell_granted(&mut self) {
        while let Some(id) = self.shaper.poll_output() {
            if let Some(waiting) = self.waiting.remove(&id) {
                // Whoever waited may have left.
                let _ = waiting.send(());
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if state.waiting.remove(&self.id).is_some() {
            state.shaper.handle_withdrawn(self.id, Instant::now());
            state.tell_granted();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use shoal_wire::Rate;

    use super::*;

    fn limited(bytes_per_second: u64) -> Limits {
        Limits {
            total: Some(Rate::new(bytes_per_second).unwrap()),
            per_peer: None,
        }
    }

    async fn take_all(gate: &Gate, flow: u64, mut bytes: usize) {
        let peer = NodeId::new([flow as u8; 32]);
        while bytes > 0 {
            bytes -= gate.take(peer, FlowId(flow), bytes).await;
        }
    }

    #[tokio::test]
    async fn without_a_limit_everything_passes_at_once() {
        let gate = Gate::default();
        let peer = NodeId::new([1; 32]);
        assert_eq!(gate.take(peer, FlowId(1), usize::MAX).await, usize::MAX);
        gate.set(limited(1_000));
        assert_eq!(gate.take(peer, FlowId(1), 0).await, 0);
    }

    #[tokio::test]
    async fn several_that_wait_take_as_long_as_they_must_and_all_end() {
        let gate = Gate::default();
        gate.set(limited(1_000_000));
        let began = Instant::now();
        tokio::join!(
            take_all(&gate, 1, 100_000),
            take_all(&gate, 2, 100_000),
            take_all(&gate, 3, 200_000),
        );
        // 400 kB less the 100 kB that the bucket holds.
        assert!(began.elapsed() >= Duration::from_millis(295));
        assert!(gate.state().waiting.is_empty());
    }

    #[tokio::test]
    async fn who_leaves_the_drivers_seat_leaves_it_to_the_next() {
        let gate = Arc::new(Gate::default());
        gate.set(limited(1_000));
        take_all(&gate, 0, 100).await;
        let waits = |flow, bytes| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { take_all(&gate, flow, bytes).await })
        };
        let driver = waits(1, 1_000_000_000);
        while gate.seat.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let others = [waits(2, 60), waits(3, 60)];
        driver.abort();
        assert!(driver.await.unwrap_err().is_cancelled());
        for other in others {
            other.await.unwrap();
        }
        assert!(gate.state().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_change_reaches_those_who_wait() {
        let gate = Arc::new(Gate::default());
        gate.set(limited(1_000));
        let changing = Arc::clone(&gate);
        // At the first limit this takes a million seconds.
        let waiting = tokio::spawn(async move { take_all(&gate, 1, 1_000_000_000).await });
        while changing.state().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        changing.set(Limits::default());
        waiting.await.unwrap();
    }
}
