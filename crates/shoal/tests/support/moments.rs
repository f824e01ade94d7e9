//! Random moments of transfers, for those who kill at them: by a seed that is printed, so that a
//! run can be repeated.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::DEADLINE;

/// A random moment of transfers that write into one folder.
pub(crate) enum Moment {
    /// So many bytes are on the disk.
    Written(u64),
    /// So much time has passed since the start; early enough to meet the look-up too.
    Passed(Duration),
}

impl Moment {
    /// One of transfers of so many bytes.
    pub(crate) fn random(random: &mut StdRng, total_bytes: u64) -> Self {
        if random.random_bool(0.75) {
            Self::Written(random.random_range(1..=total_bytes))
        } else {
            Self::Passed(Duration::from_micros(random.random_range(0..60_000)))
        }
    }

    /// Waits for it, or until `look` says that all is over.
    pub(crate) fn wait(&self, folder: &Path, mut look: impl FnMut() -> bool) {
        let started = Instant::now();
        loop {
            let is_over = look();
            let is_now = match self {
                Self::Written(bytes) => written_bytes(folder) >= *bytes,
                Self::Passed(time) => started.elapsed() >= *time,
            };
            if is_over || is_now {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "nothing moves");
            std::thread::yield_now();
        }
    }
}

/// The random numbers of one part of a test.
#[expect(
    clippy::print_stdout,
    reason = "a test that fails shows it, and with it how to repeat the failure"
)]
pub(crate) fn seeded(part: &str) -> StdRng {
    let given = std::env::var("SHOAL_TEST_SEED").ok();
    let seed = given.map_or_else(rand::random, |text| text.parse().expect("a number"));
    println!("SHOAL_TEST_SEED={seed} repeats the moments of '{part}'");
    StdRng::seed_from_u64(seed)
}

/// What is in a folder, sorted; nothing where it is missing.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = entries(folder)
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

/// Every file below a folder by its path in it, hidden ones included.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inside) = folders.pop() {
        for path in entries(&inside) {
            if path.symlink_metadata().is_ok_and(|it| it.is_dir()) {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(folder) {
                files.push(relative.to_owned());
            }
        }
    }
    files.sort();
    files
}

/// What the files below a folder take on the disk, in bytes.
pub(crate) fn written_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let blocks = |path: PathBuf| folder.join(path).metadata().map_or(0, |file| file.blocks());
    files_below(folder)
        .into_iter()
        .map(|path| blocks(path) * 512)
        .sum()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}
