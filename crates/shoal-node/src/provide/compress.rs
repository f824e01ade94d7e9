//! Whether compressing the next chunk pays, and doing it.
//!
//! It pays where the link takes bytes more slowly than the compressor gives them, and the content
//! shrinks. Both are measured: the link over the last second, the compressor on single chunks that
//! are tried now and then. Until the link has been measured nothing is tried, so a fast link and a
//! small file never see the compressor.

use std::io::{self, Cursor, Write};
use std::time::{Duration, Instant};

use crate::budget::Buffer;

/// Longest chunk that is compressed, in bytes: it is held whole, twice. Chunks of files up to
/// 64 GiB fit.
pub(super) const COMPRESS_MAX_BYTES: u64 = 4 << 20;
/// Level of the compressor: the fastest of the usual ones.
const LEVEL: i32 = 1;
/// Largest part of a chunk that may be left for it to be worth the work of both ends.
const WORTH_RATIO: f64 = 0.9;
/// Time over which the link is measured.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// Chunks from one try that did not pay to the next: the content may change within a file.
const CHUNKS_BETWEEN_TRIES: u32 = 64;
/// How much the newest of the compressor's measurements counts.
const NEWEST_WEIGHT: f64 = 0.3;

/// How one chunk was compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub(super) content_bytes: usize,
    /// As long as the content where it did not shrink enough.
    pub(super) frame_bytes: usize,
    pub(super) took: Duration,
}

/// What is known of a stream's link and content.
#[derive(Debug)]
pub(super) struct Probe {
    is_accepted: bool,
    window_began: Instant,
    window_bytes: u64,
    /// What the link takes, in bytes per second.
    link_rate: Option<f64>,
    compressor: Option<Compressor>,
    chunks_since_try: u32,
}

#[derive(Debug, Clone, Copy)]
struct Compressor {
    /// What comes out, in bytes per second.
    output_rate: f64,
    /// What is left of the content.
    ratio: f64,
}

impl Probe {
    /// Nothing is known; `is_accepted` says whether the receiver takes compressed chunks at all.
    pub(super) fn new(is_accepted: bool, now: Instant) -> Self {
        Self {
            is_accepted,
            window_began: now,
            window_bytes: 0,
            link_rate: None,
            compressor: None,
            chunks_since_try: 0,
        }
    }

    /// So many bytes were taken by the link since the last call.
    pub(super) fn sent(&mut self, wire_bytes: u64, now: Instant) {
        self.window_bytes += wire_bytes;
        let elapsed = now.saturating_duration_since(self.window_began);
        if elapsed >= RATE_WINDOW {
            self.link_rate = Some(self.window_bytes as f64 / elapsed.as_secs_f64());
            self.window_began = now;
            self.window_bytes = 0;
        }
    }

    /// Whether to compress the chunk that is read next.
    pub(super) fn wants(&mut self, chunk_bytes: u64) -> bool {
        let Some(link_rate) = self.link_rate else {
            return false;
        };
        if !self.is_accepted || chunk_bytes > COMPRESS_MAX_BYTES {
            return false;
        }
        let pays = self.compressor.is_none_or(|compressor| {
            compressor.ratio < WORTH_RATIO && compressor.output_rate > link_rate
        });
        self.chunks_since_try += 1;
        pays || self.chunks_since_try > CHUNKS_BETWEEN_TRIES
    }

    /// What became of a chunk for which [`Probe::wants`] said yes.
    pub(super) fn tried(&mut self, trial: Trial) {
        self.chunks_since_try = 0;
        let newest = Compressor {
            output_rate: trial.frame_bytes as f64 / trial.took.as_secs_f64().max(1e-6),
            ratio: trial.frame_bytes as f64 / trial.content_bytes.max(1) as f64,
        };
        let blend = |old: f64, new: f64| old + NEWEST_WEIGHT * (new - old);
        self.compressor = Some(match self.compressor {
            Some(old) if newest.ratio < WORTH_RATIO => Compressor {
                output_rate: blend(old.output_rate, newest.output_rate),
                ratio: blend(old.ratio, newest.ratio),
            },
            _ => newest,
        });
    }
}

/// Compresses a chunk into `frame`; `None` where less than a tenth would be saved.
pub(super) fn compress(blocks: &[Buffer], frame: &mut Buffer) -> (Option<usize>, Trial) {
    let began = Instant::now();
    let content_bytes = blocks.iter().map(|block| block.len()).sum::<usize>();
    let limit = (content_bytes as f64 * WORTH_RATIO) as usize;
    let written = write_frame(blocks, content_bytes, &mut frame[..limit]).ok();
    let trial = Trial {
        content_bytes,
        frame_bytes: written.unwrap_or(content_bytes),
        took: began.elapsed(),
    };
    (written, trial)
}

/// Fails when the frame does not fit.
fn write_frame(blocks: &[Buffer], content_bytes: usize, frame: &mut [u8]) -> io::Result<usize> {
    let mut encoder = zstd::stream::write::Encoder::new(Cursor::new(frame), LEVEL)?;
    encoder.set_pledged_src_size(Some(content_bytes as u64))?;
    for block in blocks {
        encoder.write_all(block)?;
    }
    let written = encoder.finish()?.position();
    Ok(usize::try_from(written).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn trial(ratio: f64, output_rate: f64) -> Trial {
        let frame_bytes = (MIB as f64 * ratio) as usize;
        Trial {
            content_bytes: MIB as usize,
            frame_bytes,
            took: Duration::from_secs_f64(frame_bytes as f64 / output_rate),
        }
    }

    fn measured(link_rate: u64) -> Probe {
        let now = Instant::now();
        let mut probe = Probe::new(true, now);
        assert!(!probe.wants(MIB), "the link is not measured yet");
        probe.sent(link_rate / 2, now + Duration::from_millis(500));
        assert!(!probe.wants(MIB));
        probe.sent(link_rate / 2, now + Duration::from_secs(1));
        probe
    }

    #[test]
    fn a_slow_link_with_content_that_shrinks_is_compressed_for() {
        let mut probe = measured(20_000_000);
        assert!(probe.wants(MIB));
        for _ in 0..1000 {
            probe.tried(trial(0.4, 150e6));
            assert!(probe.wants(MIB));
        }
        assert!(!probe.wants(COMPRESS_MAX_BYTES + 1));
    }

    #[test]
    fn a_link_faster_than_the_compressor_and_content_that_does_not_shrink_are_left_alone() {
        for (link_rate, ratio) in [(400_000_000, 0.4), (20_000_000, 1.0)] {
            let mut probe = measured(link_rate);
            assert!(probe.wants(MIB));
            probe.tried(trial(ratio, 150e6));
            let tries = (0..1000).filter(|_| {
                let wants = probe.wants(MIB);
                if wants {
                    probe.tried(trial(ratio, 150e6));
                }
                wants
            });
            assert_eq!(tries.count(), 1000 / (CHUNKS_BETWEEN_TRIES as usize + 1));
        }
    }

    #[test]
    fn a_receiver_that_does_not_accept_it_never_gets_it() {
        let now = Instant::now();
        let mut probe = Probe::new(false, now);
        probe.sent(10, now + RATE_WINDOW);
        assert!(!probe.wants(MIB));
    }

    #[tokio::test]
    async fn what_shrinks_becomes_a_frame_and_what_does_not_is_left_as_it_is() {
        let node = shoal_wire::NodeId::new([1; 32]);
        let mut room = super::super::room::ROOMS.reserve(node, 3 << 20).await;
        let mut blocks = vec![room.take(1 << 20), room.take(1000)];
        blocks.iter_mut().for_each(|block| block.fill(7));
        let mut frame = room.take((1 << 20) + 1000);
        let (written, trial) = compress(&blocks, &mut frame);
        let content = zstd::bulk::decompress(&frame[..written.unwrap()], 2 << 20).unwrap();
        assert_eq!(content, vec![7; (1 << 20) + 1000]);
        assert!(trial.frame_bytes < 1000);
        let mut state = 1_u64;
        for byte in blocks.iter_mut().flat_map(|block| block.iter_mut()) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        let (written, trial) = compress(&blocks, &mut frame);
        assert!(written.is_none() && trial.frame_bytes == trial.content_bytes);
    }
}
