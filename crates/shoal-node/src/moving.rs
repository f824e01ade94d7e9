//! Whether content is moving in this process, and how work that can wait gives way to it.
//!
//! Whoever moves content says so each time it takes its turn at the rate limits. Work in the
//! background then goes on with a bounded share of the time: it is slow while others need the
//! processor and the disk, and ends all the same.

use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Content counts as moving for so long after the last of it: longer than a round trip.
const MOVING: Duration = Duration::from_millis(500);
/// While content moves, work of `t` is followed by a pause of this many `t`.
const PAUSE_FACTOR: u32 = 9;
/// Longest pause between two looks at whether content still moves.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Work shorter than this is not worth a pause yet.
const WORK_MIN: Duration = Duration::from_millis(2);

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// Milliseconds from `BEGAN` to the end of the moment that counts as moving.
static UNTIL_MS: AtomicU64 = AtomicU64::new(0);

/// Content moves.
pub(crate) fn moves() {
    let until = BEGAN.elapsed() + MOVING;
    UNTIL_MS.store(until.as_millis() as u64, Ordering::Relaxed);
}

fn is_moving() -> bool {
    BEGAN.elapsed().as_millis() < u128::from(UNTIL_MS.load(Ordering::Relaxed))
}

/// One thread's work in the background.
#[derive(Debug)]
pub(crate) struct Yielding {
    /// When it last came back from a pause.
    since: Cell<Instant>,
}

impl Yielding {
    /// Work begins.
    pub(crate) fn new() -> Self {
        Self {
            since: Cell::new(Instant::now()),
        }
    }

    /// Pauses for what was done since the last pause, unless nothing moves or `stop` says so.
    /// Blocks.
    pub(crate) fn give_way(&self, stop: &dyn Fn() -> bool) {
        let worked = self.since.get().elapsed();
        if worked < WORK_MIN {
            return;
        }
        let mut left = worked * PAUSE_FACTOR;
        while !left.is_zero() && is_moving() && !stop() {
            let pause = left.min(LOOK_INTERVAL);
            std::thread::sleep(pause);
            left -= pause;
        }
        self.since.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_pauses_while_content_moves_and_not_otherwise() {
        let looks = Cell::new(0);
        let stop = || {
            looks.set(looks.get() + 1);
            false
        };
        let long_ago = Instant::now() - 3 * WORK_MIN;
        let yielding = Yielding {
            since: Cell::new(long_ago),
        };
        yielding.give_way(&stop);
        assert_eq!(looks.get(), 0);
        moves();
        yielding.since.set(long_ago);
        yielding.give_way(&stop);
        assert!(looks.get() > 0);
        // Content that moves without end costs a bounded pause, and none where it is to stop.
        yielding.since.set(long_ago);
        yielding.give_way(&|| true);
    }
}
