//! Writes that leave runs of zeros as holes.
//!
//! Only for ranges that are known to read as zeros already; [`crate::partial`] keeps account of
//! that. A block is skipped only whole and aligned, so what is written is never less than asked.

use std::io;

/// The unit in which common file systems leave holes, in bytes.
const BLOCK_BYTES: usize = 4096;

/// Writes `bytes` at `at` by `write`, but for whole aligned blocks of zeros.
pub(super) fn write(
    at: u64,
    bytes: &[u8],
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    let beyond_boundary = (at % BLOCK_BYTES as u64) as usize;
    let first_block = (BLOCK_BYTES - beyond_boundary) % BLOCK_BYTES;
    let mut written = 0;
    let mut block = first_block;
    while block + BLOCK_BYTES <= bytes.len() {
        let end = block + BLOCK_BYTES;
        if bytes[block..end] == ZEROS {
            if written < block {
                write(&bytes[written..block], at + written as u64)?;
            }
            written = end;
        }
        block = end;
    }
    if written < bytes.len() {
        write(&bytes[written..], at + written as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_file_reads_as_what_was_written(
            at in 0u64..10_000,
            runs in prop::collection::vec((any::<bool>(), 1usize..9_000), 0..8),
        ) {
            let mut bytes = Vec::new();
            for (is_zero, len) in runs {
                let value = if is_zero { 0 } else { 0xa5 };
                bytes.resize(bytes.len() + len, value);
            }
            let file = tempfile::tempfile().expect("temporary file");
            file.set_len(at + bytes.len() as u64).expect("set");
            write(at, &bytes, |bytes, at| file.write_all_at(bytes, at)).expect("written");
            let mut read = vec![1; bytes.len()];
            file.read_exact_at(&mut read, at).expect("read");
            prop_assert!(read == bytes);
        }
    }
}
