//! How fast something moves now: over the last seconds, not since it began.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What counts as now.
const WINDOW: Duration = Duration::from_secs(5);
/// Looks that are remembered at most; looks that come faster than they spread over the window are
/// not all kept.
const SAMPLES_MAX: usize = 20;

/// A counter that is looked at from time to time.
#[derive(Debug, Clone, Default)]
pub struct Speed {
    /// Oldest first: when it was looked at, and what it had counted, in bytes.
    samples: VecDeque<(Instant, u64)>,
}

impl Speed {
    /// The counter stands at `bytes`. One that went back begins anew.
    pub fn handle_count(&mut self, bytes: u64, now: Instant) {
        if self.samples.back().is_some_and(|(_, last)| *last > bytes) {
            self.samples.clear();
        }
        let spacing = WINDOW / SAMPLES_MAX as u32;
        if let [.., (before, _), last] = self.samples.make_contiguous()
            && last.0.duration_since(*before) < spacing
        {
            *last = (now, bytes);
        } else {
            self.samples.push_back((now, bytes));
        }
        // One from before the window is kept, so that it is always covered.
        while self.samples.len() > SAMPLES_MAX
            || self
                .samples
                .get(1)
                .is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Bytes per second over the last 5 s, or over as much of them as was looked at.
    pub fn bytes_per_second(&self) -> u64 {
        let (Some((begin, first)), Some((end, last))) = (self.samples.front(), self.samples.back())
        else {
            return 0;
        };
        let seconds = end.duration_since(*begin).as_secs_f64();
        if seconds > 0.0 {
            ((last - first) as f64 / seconds) as u64
        } else {
            0
        }
    }
}
