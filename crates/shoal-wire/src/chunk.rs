//! Chunks: the unit of request, verification, acknowledgement and bitfield.
//!
//! A file is cut into slices of one power of two, from 1 MiB up, that grows with the file so that
//! it has at most [`CHUNKS_MAX`] of them. Power-of-two slices are whole subtrees of the BLAKE3
//! tree, so each has a hash of its own that leads to the root. A [`ChunkIndex`] made by a
//! [`ChunkLayout`] is always inside its file.

use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::file::FileSize;
use crate::limits::{CHUNK_MAX_LOG2, CHUNK_MIN_LOG2, CHUNK_RANGES_MAX, CHUNKS_MAX};

/// The position of a chunk in its file, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(u32);

impl ChunkIndex {
    /// The position as a number, below the layout's chunk count.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// How a file of one size is cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkLayout {
    size: FileSize,
    chunk_log2: u8,
}

impl ChunkLayout {
    /// The layout that every node derives from the size alone.
    pub fn of(size: FileSize) -> Self {
        let mut chunk_log2 = CHUNK_MIN_LOG2;
        while chunk_log2 < CHUNK_MAX_LOG2 && size.bytes() > CHUNKS_MAX << chunk_log2 {
            chunk_log2 += 1;
        }
        Self { size, chunk_log2 }
    }

    /// A layout with another chunk length, for tests of boundaries: `chunk_log2` from 10 (the
    /// BLAKE3 leaf, 1 KiB) to [`CHUNK_MAX_LOG2`]. `None` outside, or with over [`CHUNKS_MAX`] chunks.
    pub fn with_chunk_log2(size: FileSize, chunk_log2: u8) -> Option<Self> {
        let fits =
            (10..=CHUNK_MAX_LOG2).contains(&chunk_log2) && size.bytes() <= CHUNKS_MAX << chunk_log2;
        fits.then_some(Self { size, chunk_log2 })
    }

    /// Size of the file.
    pub const fn size(&self) -> FileSize {
        self.size
    }

    /// Length of every chunk but the last, in bytes.
    pub const fn chunk_len_bytes(&self) -> u64 {
        1 << self.chunk_log2
    }

    /// The chunk length as a power of two.
    pub const fn chunk_log2(&self) -> u8 {
        self.chunk_log2
    }

    /// How many chunks the file has; an empty file has one, of no bytes.
    pub fn chunk_count(&self) -> u32 {
        let count = self.size.bytes().div_ceil(self.chunk_len_bytes()).max(1);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The chunk at a position from outside, if the file has it.
    pub fn index(&self, position: u32) -> Option<ChunkIndex> {
        (position < self.chunk_count()).then_some(ChunkIndex(position))
    }

    /// Every chunk, in order.
    pub fn indexes(&self) -> impl Iterator<Item = ChunkIndex> + use<> {
        (0..self.chunk_count()).map(ChunkIndex)
    }

    /// The bytes of the file that a chunk holds.
    pub fn range(&self, index: ChunkIndex) -> Range<u64> {
        let start = u64::from(index.0) << self.chunk_log2;
        let end = start
            .saturating_add(self.chunk_len_bytes())
            .min(self.size.bytes());
        start.min(end)..end
    }

    /// Length of one chunk, in bytes.
    pub fn len_bytes(&self, index: ChunkIndex) -> u64 {
        let range = self.range(index);
        range.end - range.start
    }
}

/// Chunks asked for: ascending, disjoint, non-empty ranges of positions.
///
/// At most [`CHUNK_RANGES_MAX`] ranges; they are checked against a layout by
/// [`ChunkRanges::indexes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRanges(Vec<Range<u32>>);

impl ChunkRanges {
    /// Takes ranges that are ascending, disjoint and not empty; `None` for others or too many.
    pub fn new(ranges: Vec<Range<u32>>) -> Option<Self> {
        let each_holds = ranges.iter().all(|range| range.start < range.end);
        let ascending = ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
        (each_holds && ascending && ranges.len() <= CHUNK_RANGES_MAX).then_some(Self(ranges))
    }

    /// The chunks of a file for which `wanted` holds. Past [`CHUNK_RANGES_MAX`] ranges it stops,
    /// and the rest is left for another request.
    pub fn of_wanted(layout: &ChunkLayout, wanted: impl Fn(ChunkIndex) -> bool) -> Self {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for index in layout.indexes().filter(|index| wanted(*index)) {
            let full = ranges.len() == CHUNK_RANGES_MAX;
            match ranges.last_mut() {
                Some(last) if last.end == index.0 => last.end += 1,
                _ if full => break,
                _ => ranges.push(index.0..index.0 + 1),
            }
        }
        Self(ranges)
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many chunks are asked for.
    pub fn count(&self) -> u64 {
        self.0
            .iter()
            .map(|range| u64::from(range.end - range.start))
            .sum()
    }

    /// The chunks of `layout` in the order asked for; `None` if one lies outside the file.
    pub fn indexes(
        &self,
        layout: &ChunkLayout,
    ) -> Option<impl Iterator<Item = ChunkIndex> + use<>> {
        let end = self.0.last().map_or(0, |range| range.end);
        (end <= layout.chunk_count()).then(|| self.0.clone().into_iter().flatten().map(ChunkIndex))
    }
}

impl Serialize for ChunkRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|range| (range.start, range.end)))
    }
}

impl<'de> Deserialize<'de> for ChunkRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = crate::text::capped_seq::<_, (u32, u32), CHUNK_RANGES_MAX>(deserializer)?;
        Self::new(pairs.into_iter().map(|(start, end)| start..end).collect())
            .ok_or_else(|| de::Error::custom("chunk ranges are not ascending and disjoint"))
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::single_range_in_vec_init,
        reason = "one range is meant, not its members"
    )]

    use super::*;
    use crate::limits::FILE_MAX_BYTES;
    use proptest::prelude::*;

    fn layout(bytes: u64) -> ChunkLayout {
        ChunkLayout::of(FileSize::new(bytes).expect("within the limit"))
    }

    #[test]
    fn an_empty_file_has_one_empty_chunk() {
        let layout = layout(0);
        assert_eq!(layout.chunk_count(), 1);
        assert_eq!(layout.range(layout.index(0).expect("first")), 0..0);
    }

    #[test]
    fn the_chunk_grows_so_that_there_are_at_most_16_ki() {
        assert_eq!(layout(16 << 30).chunk_log2(), 20);
        assert_eq!(layout((16 << 30) + 1).chunk_log2(), 21);
        assert_eq!(u64::from(layout(FILE_MAX_BYTES).chunk_count()), CHUNKS_MAX);
    }

    proptest! {
        #[test]
        fn chunks_cover_the_file_without_gap_or_overlap(bytes in 0..=FILE_MAX_BYTES) {
            let layout = layout(bytes);
            let mut at = 0;
            for index in layout.indexes() {
                let range = layout.range(index);
                prop_assert_eq!(range.start, at);
                at = range.end;
            }
            prop_assert_eq!(at, bytes);
            prop_assert!(layout.index(layout.chunk_count()).is_none());
        }

        #[test]
        fn ranges_of_wanted_chunks_name_exactly_those(wanted in prop::collection::vec(any::<bool>(), 1..200)) {
            let layout = layout((wanted.len() as u64) << 20);
            let ranges = ChunkRanges::of_wanted(&layout, |index| wanted[index.get() as usize]);
            let named: Vec<u32> = ranges.indexes(&layout).expect("inside").map(ChunkIndex::get).collect();
            let expected: Vec<u32> = (0..wanted.len() as u32).filter(|at| wanted[*at as usize]).collect();
            prop_assert_eq!(ranges.count(), named.len() as u64);
            prop_assert_eq!(named, expected);
        }
    }

    #[test]
    fn overlapping_descending_or_outside_ranges_are_refused() {
        for ranges in [vec![0..2, 1..3], vec![3..4, 0..1], vec![2..2]] {
            assert!(ChunkRanges::new(ranges).is_none());
        }
        let outside = ChunkRanges::new(vec![0..2]).expect("well formed");
        assert!(outside.indexes(&layout(10)).is_none());
    }
}
