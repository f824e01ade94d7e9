//! The demo's files: this very repository where it is at hand, and one large generated file.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Bounds on what is copied of the repository: it is a demonstration, not a backup.
const REPOSITORY_MAX_FILES: usize = 5_000;
const REPOSITORY_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Block in which files are made and hashed, in bytes.
const BLOCK_BYTES: usize = 1024 * 1024;

/// Fills `folder` with the repository around the current folder, or with generated files where
/// there is none. Returns whether it was the repository.
pub(super) fn fill_with_repository(folder: &Path) -> anyhow::Result<bool> {
    let here = std::env::current_dir().context("find the current folder")?;
    if here.join("crates/shoal-wire").is_dir() {
        let mut budget = Budget {
            files: REPOSITORY_MAX_FILES,
            bytes: REPOSITORY_MAX_BYTES,
        };
        copy_tree(&here, folder, &mut budget)?;
        return Ok(true);
    }
    for number in 0..200_u64 {
        let file = folder
            .join(format!("chapter-{:02}", number / 20))
            .join(format!("{number}.txt"));
        fs::create_dir_all(file.parent().context("the file lies in a folder")?)?;
        let length = 100 + 977 * number;
        write_generated(&file, length, number)?;
    }
    Ok(false)
}

struct Budget {
    files: usize,
    bytes: u64,
}

/// Copies regular, visible files; build output is left out.
fn copy_tree(from: &Path, to: &Path, budget: &mut Budget) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let is_unwanted = name.to_string_lossy().starts_with('.')
            || ["target", "files", "server_files", "server.key"]
                .iter()
                .any(|skip| name == *skip);
        let kind = entry.file_type()?;
        if is_unwanted {
            continue;
        }
        if kind.is_dir() {
            copy_tree(&entry.path(), &to.join(&name), budget)?;
        } else if kind.is_file() {
            let length = entry.metadata()?.len();
            if budget.files == 0 || length > budget.bytes {
                continue;
            }
            budget.files -= 1;
            budget.bytes -= length;
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

/// Writes `length` bytes that no compressor shrinks, the same for the same seed.
pub(super) fn write_generated(file: &Path, length: u64, seed: u64) -> anyhow::Result<()> {
    let mut random = blake3::Hasher::new_derive_key("shoal demo generated file")
        .update(&seed.to_le_bytes())
        .finalize_xof();
    let mut out = BufWriter::new(File::create(file)?);
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = length;
    while left > 0 {
        let take = usize::try_from(left).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        random.fill(&mut block[..take]);
        out.write_all(&block[..take])?;
        left -= take as u64;
    }
    out.flush()?;
    Ok(())
}

/// Compares the BLAKE3 of a file, or of every file below a folder, with its copy. Returns how
/// many files and bytes were compared.
pub(super) fn compare(original: &Path, copy: &Path) -> anyhow::Result<(u64, u64)> {
    let mut compared = (0, 0);
    let mut pending: Vec<(PathBuf, PathBuf)> = vec![(original.to_owned(), copy.to_owned())];
    while let Some((original, copy)) = pending.pop() {
        if original.is_dir() {
            for entry in fs::read_dir(&original)? {
                let name = entry?.file_name();
                pending.push((original.join(&name), copy.join(&name)));
            }
            continue;
        }
        let (expected, found) = (hash(&original)?, hash(&copy)?);
        ensure!(
            expected == found,
            "{} differs from {}",
            copy.display(),
            original.display()
        );
        compared.0 += 1;
        compared.1 += fs::metadata(&copy)?.len();
    }
    Ok(compared)
}

fn hash(file: &Path) -> anyhow::Result<blake3::Hash> {
    let mut input = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match input.read(&mut block)? {
            0 => return Ok(hasher.finalize()),
            length => hasher.update(&block[..length]),
        };
    }
}
