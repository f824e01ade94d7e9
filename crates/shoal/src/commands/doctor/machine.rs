//! How fast this machine is by itself: its disk and its processor.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Finding, Verdict};

/// What is written, and hashed, at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that are written.
const WRITTEN_PIECES: usize = 64;
/// How long is hashed.
const HASHING_TIME: Duration = Duration::from_millis(200);
/// Below this a disk is slower than a gigabit network, in bytes per second.
const GIGABIT: f64 = 118e6;

/// A finding, with its bytes per second.
pub(super) struct Speed {
    pub(super) finding: Finding,
    bytes_per_second: Option<f64>,
}

/// How fast one core hashes what arrives.
pub(super) async fn hashing() -> Speed {
    let measured = tokio::task::spawn_blocking(|| {
        let piece = vec![0x5a; PIECE_BYTES];
        let (started, mut bytes) = (Instant::now(), 0);
        while started.elapsed() < HASHING_TIME {
            std::hint::black_box(blake3::hash(&piece));
            bytes += PIECE_BYTES;
        }
        bytes as f64 / started.elapsed().as_secs_f64()
    });
    match measured.await {
        Ok(speed) => Speed {
            finding: Finding::new(
                "hashing",
                Verdict::Ok,
                format!("{} on one core", rate(speed)),
            )
            .with(json!({ "bytes_per_second": speed })),
            bytes_per_second: Some(speed),
        },
        Err(error) => unknown("hashing", error.to_string()),
    }
}

/// How fast the disk of a folder takes bytes, durably.
pub(super) async fn disk(folder: &Path) -> Speed {
    let path = folder.to_owned();
    let measured = tokio::task::spawn_blocking(move || write(&path)).await;
    let shown = folder.display();
    match measured {
        Ok(Ok(speed)) => {
            let (verdict, more) = match speed < GIGABIT {
                true => (Verdict::Warning, ": slower than a gigabit network"),
                false => (Verdict::Ok, ""),
            };
            Speed {
                finding: Finding::new(
                    "disk",
                    verdict,
                    format!("{} written and synced in {shown}{more}", rate(speed)),
                )
                .with(json!({ "bytes_per_second": speed, "folder": folder })),
                bytes_per_second: Some(speed),
            }
        }
        Ok(Err(error)) => Speed {
            finding: Finding::new(
                "disk",
                Verdict::Failed,
                format!("{shown} cannot be written to: {error}; name another folder with --folder"),
            ),
            bytes_per_second: None,
        },
        Err(error) => unknown("disk", error.to_string()),
    }
}

fn write(folder: &PathBuf) -> std::io::Result<f64> {
    let mut file = tempfile::tempfile_in(folder)?;
    // Not zeros: some disks are fast at those alone.
    let mut piece = vec![0; PIECE_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut piece);
    let started = Instant::now();
    for _ in 0..WRITTEN_PIECES {
        file.write_all(&piece)?;
    }
    file.sync_data()?;
    Ok((WRITTEN_PIECES * PIECE_BYTES) as f64 / started.elapsed().as_secs_f64())
}

/// What slows a transfer of this machine down first: its way out, where everything is relayed, else
/// what it is slowest at itself.
pub(super) fn slowest(hashing: &Speed, disk: &Speed, is_relayed: bool) -> Finding {
    let (Some(hash), Some(written)) = (hashing.bytes_per_second, disk.bytes_per_second) else {
        return Finding::new("slowest", Verdict::Unknown, "cannot be told");
    };
    let (name, speed) = match written < hash {
        true => ("disk", written),
        false => ("processor", hash),
    };
    if is_relayed {
        let text = format!(
            "the way out: UDP is blocked, so everything goes over TCP through the relay, which all share. The machine itself receives {}",
            rate(speed)
        );
        return Finding::new("slowest", Verdict::Warning, text).with(json!({ "part": "network" }));
    }
    let text = format!(
        "the {name}: this machine receives {} at most. A transfer that is slower waits for the network or for the other side; its progress shows the path, and 'relayed' is the slowest",
        rate(speed)
    );
    Finding::new("slowest", Verdict::Ok, text)
        .with(json!({ "part": name, "bytes_per_second": speed }))
}

fn unknown(what: &'static str, reason: String) -> Speed {
    Speed {
        finding: Finding::new(what, Verdict::Unknown, reason),
        bytes_per_second: None,
    }
}

fn rate(bytes_per_second: f64) -> String {
    format!("{:.0} MB/s", bytes_per_second / 1e6)
}
