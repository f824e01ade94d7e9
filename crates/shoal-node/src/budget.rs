//! Memory for content on its way between disk and network, bounded for the whole process.
//!
//! Whoever sends or receives content reserves room first, and waits while the others have it, so any
//! number of transfers stays within the budget and each gets its turn. The two directions have
//! budgets of their own (that of senders is [`crate::provide`]'s), and nobody waits for room while
//! others wait for what he holds: a sender reserves in the order in which it sends, and gives a
//! block's room back once the network has let go of it; a receiver has a pool before it asks for the
//! file, which lends it its buffers.
//! Blocks of the usual size are used again instead of being asked of the system.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Content in memory that is being received, in bytes: a dozen transfers at once with the two
/// blocks that each needs, and many more of small files.
const RECEIVING_BYTES: usize = 24 << 20;
/// What is left for transfers that have yet to begin when others take more than they need: one of
/// so many parts.
const SPARED_FRACTION: usize = 3;
/// The usual buffer, in bytes: one chunk of the smallest kind.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
/// Buffers begin at a multiple of this, in bytes, like the pages they are copied from and to: the
/// kernel's copy takes three times as long on some processors when the two are out of step.
const ALIGN_BYTES: usize = 4096;
/// Idle blocks that are kept for the next transfer.
const KEPT_BLOCKS: usize = 8;
/// What is counted, in bytes: permits are 32-bit numbers.
const UNIT_BYTES: usize = 1024;

/// Room for what is being received.
pub(crate) static RECEIVING: LazyLock<Budget> = LazyLock::new(|| Budget::of(RECEIVING_BYTES));

static IDLE_BLOCKS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A bound on memory that transfers share.
#[derive(Debug)]
pub(crate) struct Budget {
    units: usize,
    free: Arc<Semaphore>,
}

/// Room that is lent out in buffers, again and again, to those who work on one transfer.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    free: Arc<Semaphore>,
    room: Arc<Mutex<Vec<OwnedSemaphorePermit>>>,
}

impl Budget {
    fn of(bytes: usize) -> Self {
        let units = units(bytes);
        Self {
            units,
            free: Arc::new(Semaphore::new(units)),
        }
    }

    /// Waits for room for `len_bytes`; more than the whole budget is taken for the whole budget.
    async fn reserve(&self, len_bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(units(len_bytes).min(self.units)).unwrap_or(u32::MAX);
        // The semaphore is never closed; without a permit a buffer would only go uncounted.
        Arc::clone(&self.free).acquire_many_owned(units).await.ok()
    }

    /// Waits as [`Budget::reserve`] does.
    pub(crate) async fn pool(&self, len_bytes: usize) -> Pool {
        let pool = Pool {
            free: Arc::new(Semaphore::new(0)),
            room: Arc::default(),
        };
        pool.add(self.reserve(len_bytes).await);
        pool
    }

    /// Makes a pool larger, if there is room at once and enough is left for others to begin. Tells
    /// whether it did.
    pub(crate) fn enlarge(&self, pool: &Pool, len_bytes: usize) -> bool {
        let spared = self.units / SPARED_FRACTION;
        if self.free.available_permits() < units(len_bytes) + spared {
            return false;
        }
        let wanted = u32::try_from(units(len_bytes)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.free).try_acquire_many_owned(wanted).ok();
        let is_enlarged = room.is_some();
        pool.add(room);
        is_enlarged
    }
}

impl Pool {
    fn add(&self, room: Option<OwnedSemaphorePermit>) {
        let Some(room) = room else { return };
        self.free.add_permits(room.num_permits());
        self.rooms().push(room);
    }

    /// Waits for a buffer; one that is longer than the whole pool takes all of it.
    pub(crate) async fn lend(&self, len_bytes: usize) -> Buffer {
        let [buffer] = self.lend_all([len_bytes]).await;
        buffer
    }

    /// Waits for several buffers at once, so that nobody who has one waits for another.
    pub(crate) async fn lend_all<const N: usize>(&self, lens_bytes: [usize; N]) -> [Buffer; N] {
        let all: usize = self.rooms().iter().map(|room| room.num_permits()).sum();
        let wanted: usize = lens_bytes.iter().map(|len_bytes| units(*len_bytes)).sum();
        let wanted = u32::try_from(wanted.min(all)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let free = Arc::clone(&self.free).acquire_many_owned(wanted).await.ok();
        let loan = Arc::new(Loan {
            _free: free,
            _pool: self.clone(),
        });
        lens_bytes.map(|len_bytes| Buffer::new(len_bytes, Hold::Loan(Arc::clone(&loan))))
    }

    fn rooms(&self) -> std::sync::MutexGuard<'_, Vec<OwnedSemaphorePermit>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn units(len_bytes: usize) -> usize {
    len_bytes.div_ceil(UNIT_BYTES)
}

fn idle_blocks() -> std::sync::MutexGuard<'static, Vec<Vec<u8>>> {
    IDLE_BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Content in memory. Its bytes are whatever was there before until they are written.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Where in `bytes` it begins.
    start: usize,
    len_bytes: usize,
    _hold: Hold,
}

/// What is given back when a buffer is dropped.
#[expect(dead_code, reason = "held for its drop")]
enum Hold {
    Room(Box<dyn Send + Sync>),
    Loan(Arc<Loan>),
}

/// A part of a pool, which stays reserved while any of it is lent.
struct Loan {
    _free: Option<OwnedSemaphorePermit>,
    _pool: Pool,
}

impl Buffer {
    /// One that somebody else counts, until `room` is dropped with it.
    pub(crate) fn held_by(len_bytes: usize, room: impl Send + Sync + 'static) -> Self {
        Self::new(len_bytes, Hold::Room(Box::new(room)))
    }

    fn new(len_bytes: usize, hold: Hold) -> Self {
        // Smaller ones come from the allocator without a system call.
        let is_usual = (BLOCK_BYTES / 8..=BLOCK_BYTES).contains(&len_bytes);
        let bytes = if is_usual {
            let idle = idle_blocks().pop();
            idle.unwrap_or_else(|| vec![0; BLOCK_BYTES + ALIGN_BYTES])
        } else {
            vec![0; len_bytes + ALIGN_BYTES]
        };
        // Where that cannot be told, alignment is given up, not room.
        let start = bytes.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
        Self {
            bytes,
            start,
            len_bytes,
            _hold: hold,
        }
    }
}

impl Buffer {
    /// Makes it shorter; it keeps its room.
    pub(crate) fn truncate(&mut self, len_bytes: usize) {
        self.len_bytes = self.len_bytes.min(len_bytes);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len_bytes]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len_bytes]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == BLOCK_BYTES + ALIGN_BYTES {
            let mut idle = idle_blocks();
            if idle.len() < KEPT_BLOCKS {
                idle.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_budget_is_never_passed_and_goes_round() {
        let budget = Arc::new(Budget::of(4 * BLOCK_BYTES));
        let all = budget.pool(100 * BLOCK_BYTES).await;
        assert_eq!(budget.free.available_permits(), 0);
        let line = Arc::clone(&budget);
        let waiting = tokio::spawn(async move { line.pool(BLOCK_BYTES).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(all);
        let second = waiting.await.unwrap();
        let small = second.lend(10).await;
        assert_eq!(
            (small.len(), small.as_ptr().align_offset(ALIGN_BYTES)),
            (10, 0)
        );
        drop((small, second));
        assert_eq!(budget.free.available_permits(), budget.units);
    }

    #[tokio::test]
    async fn a_pool_lends_no_more_than_it_has_and_keeps_it_while_it_is_lent() {
        let budget = Budget::of(4 * BLOCK_BYTES);
        let pool = budget.pool(BLOCK_BYTES).await;
        assert!(budget.enlarge(&pool, BLOCK_BYTES) && !budget.enlarge(&pool, BLOCK_BYTES));
        let [first, second] = pool.lend_all([BLOCK_BYTES, BLOCK_BYTES]).await;
        let line = pool.clone();
        let waiting = tokio::spawn(async move { line.lend(9 * BLOCK_BYTES).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop((first, second));
        let third = waiting.await.unwrap();
        assert_eq!(third.len(), 9 * BLOCK_BYTES);
        drop(pool);
        assert_eq!(
            budget.free.available_permits(),
            2 * (BLOCK_BYTES / UNIT_BYTES)
        );
        drop(third);
        assert_eq!(budget.free.available_permits(), budget.units);
    }
}
