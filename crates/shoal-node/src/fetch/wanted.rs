//! What of a file is still to be asked for, handed out to whoever asks.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use shoal_wire::limits::CHUNK_RANGES_MAX;
use shoal_wire::{ChunkIndex, ChunkLayout, ChunkRanges};
use tokio_util::sync::CancellationToken;

/// Chunks that nobody has asked for.
pub(super) struct Wanted {
    layout: ChunkLayout,
    /// Ascending and disjoint.
    rest: Mutex<VecDeque<Range<u32>>>,
    exhausted: CancellationToken,
}

impl Wanted {
    /// The chunks for which `is_wanted` holds.
    pub(super) fn of(layout: ChunkLayout, is_wanted: impl Fn(ChunkIndex) -> bool) -> Self {
        let mut rest: VecDeque<Range<u32>> = VecDeque::new();
        for index in layout.indexes().filter(|index| is_wanted(*index)) {
            let at = index.get();
            match rest.back_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => rest.push_back(at..at + 1),
            }
        }
        Self {
            layout,
            rest: Mutex::new(rest),
            exhausted: CancellationToken::new(),
        }
    }

    pub(super) fn layout(&self) -> ChunkLayout {
        self.layout
    }

    /// How many chunks nobody has asked for.
    pub(super) fn count(&self) -> usize {
        self.lock().iter().map(ExactSizeIterator::len).sum()
    }

    /// Takes the next chunks, at most so many and no more ranges than a request holds.
    pub(super) fn take(&self, most_chunks: u32) -> Option<ChunkRanges> {
        let mut rest = self.lock();
        let mut taken = Vec::new();
        let mut left = most_chunks;
        while left > 0
            && taken.len() < CHUNK_RANGES_MAX
            && let Some(first) = rest.front_mut()
        {
            let end = first.end.min(first.start.saturating_add(left));
            taken.push(first.start..end);
            left -= end - first.start;
            first.start = end;
            if first.start == first.end {
                rest.pop_front();
            }
        }
        if rest.is_empty() {
            self.exhausted.cancel();
        }
        ChunkRanges::new(taken).filter(|ranges| !ranges.is_empty())
    }

    /// Takes chunks back that were handed out and not fetched.
    pub(super) fn give_back(&self, ranges: &ChunkRanges) {
        self.add(ranges.indexes(&self.layout).into_iter().flatten());
    }

    /// Takes chunks that turned out to be needed too.
    pub(super) fn add(&self, chunks: impl IntoIterator<Item = ChunkIndex>) {
        let mut rest = self.lock();
        for at in chunks.into_iter().map(ChunkIndex::get) {
            let place = rest.partition_point(|range| range.end <= at);
            rest.insert(place, at..at + 1);
        }
    }

    /// Waits until everything was asked for once.
    pub(super) async fn exhausted(&self) {
        self.exhausted.cancelled().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Range<u32>>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shoal_wire::FileSize;

    use super::*;

    proptest! {
        #[test]
        fn every_wanted_chunk_is_handed_out_once_and_in_order(
            wanted in prop::collection::vec(any::<bool>(), 1..200),
            most in prop::collection::vec(1_u32..9, 1..9),
        ) {
            let layout = ChunkLayout::of(FileSize::new((wanted.len() as u64) << 20).unwrap());
            let rest = Wanted::of(layout, |index| wanted[index.get() as usize]);
            let expected: Vec<u32> = (0..).zip(&wanted).filter(|(_, is)| **is).map(|(at, _)| at).collect();
            prop_assert_eq!(rest.count(), expected.len());
            let mut taken = Vec::new();
            for most in most.iter().cycle() {
                let Some(ranges) = rest.take(*most) else { break };
                prop_assert!(ranges.count() <= u64::from(*most));
                taken.extend(ranges.indexes(&layout).unwrap().map(ChunkIndex::get));
            }
            prop_assert_eq!(&taken, &expected);
            prop_assert!(rest.exhausted.is_cancelled());
            let back = ChunkRanges::of_wanted(&layout, |index| expected.contains(&index.get()));
            rest.give_back(&back);
            prop_assert_eq!(rest.count(), expected.len());
            let again = rest.take(u32::MAX).map_or(Vec::new(), |ranges| {
                ranges.indexes(&layout).unwrap().map(ChunkIndex::get).collect()
            });
            prop_assert_eq!(again, expected);
        }
    }
}
