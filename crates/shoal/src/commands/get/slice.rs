//! `shoal get --range`: which bytes of which file, and what their file is called.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use shoal_node::plan::Planned;
use shoal_wire::{ChunkLayout, SafePath};

use crate::exit::{Code, Failure};
use crate::range::ByteRange;

/// A range that is asked for, and its file's name where one was given.
pub(crate) struct Slice {
    range: ByteRange,
    name: Option<SafePath>,
}

/// A range of a file whose size is known.
pub(super) struct Narrowed {
    pub(super) bytes: Range<u64>,
    /// What is fetched for it, in bytes: whole chunks.
    pub(super) moved_bytes: u64,
}

impl Slice {
    /// Reads what `-o` says: a folder that is there or ends in `/`, or a file in a folder.
    pub(super) fn at(range: ByteRange, output: &Path) -> Result<(PathBuf, Self), Failure> {
        let is_folder = output.is_dir() || output.as_os_str().as_bytes().ends_with(b"/");
        let name = output.file_name().filter(|_| !is_folder);
        let Some(name) = name else {
            return Ok((output.to_owned(), Self { range, name: None }));
        };
        let name = SafePath::new(name.as_bytes()).map_err(|error| {
            let text = format!("'{}' is no name for a file: {error}", output.display());
            Failure::new(Code::Usage, text)
        })?;
        let folder = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let name = Some(name);
        Ok((folder, Self { range, name }))
    }

    /// Finds the range in the one file that is planned, and gives that its name here.
    pub(super) fn narrow(&self, planned: &mut [Planned]) -> Result<Narrowed, Failure> {
        let usage = |text: String| Failure::new(Code::Usage, text);
        let [Planned::File(file)] = planned else {
            let text = "--range is for one file: name just one, by PEER:PATH, and no folder";
            return Err(usage(text.to_owned()));
        };
        let size = file
            .sources
            .first()
            .map(|source| source.provider.entry.size);
        let layout = size.map(ChunkLayout::of);
        let bytes = size.and_then(|size| self.range.within(size.bytes()));
        let Some((layout, bytes)) = layout.zip(bytes) else {
            let size = size.map_or(0, |size| size.bytes());
            return Err(usage(format!(
                "{} has {size} bytes, and none of them is in the range: choose another",
                file.target
            )));
        };
        let named = format!("{}-{}", bytes.start, bytes.end - 1);
        let own_name = [file.target.file_name(), b".", named.as_bytes()].concat();
        file.target = match &self.name {
            Some(name) => name.clone(),
            None => SafePath::new(&own_name)
                .map_err(|error| usage(format!("name the file with -o: {error}")))?,
        };
        let chunk = layout.chunk_len_bytes();
        let start = bytes.start - bytes.start % chunk;
        let end = bytes.end.next_multiple_of(chunk).min(layout.size().bytes());
        Ok(Narrowed {
            bytes,
            moved_bytes: end - start,
        })
    }
}
