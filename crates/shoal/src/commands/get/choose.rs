//! Which entries of a folder are fetched: `--include` and `--exclude`.
//!
//! A pattern without `/` is matched against names, at any depth; one with `/` against the whole
//! path below the folder that is fetched. What a pattern says of a folder holds for all in it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use shoal_node::fetch::Choose;
use shoal_wire::SafePath;
use shoal_wire::manifest::EntryKind;

use crate::exit::{Code, Failure};

/// Patterns of one kind.
struct Patterns {
    of_names: GlobSet,
    of_paths: GlobSet,
}

/// The choice that the patterns make; `None` where there are none.
pub(crate) fn choice(include: &[String], exclude: &[String]) -> Result<Option<Choose>, Failure> {
    if include.is_empty() && exclude.is_empty() {
        return Ok(None);
    }
    let takes_all = include.is_empty();
    let (include, exclude) = (Patterns::new(include)?, Patterns::new(exclude)?);
    Ok(Some(Arc::new(move |path, kind| {
        // Folders are kept as what they hold is chosen.
        *kind == EntryKind::Folder || (takes_all || include.fit(path)) && !exclude.fit(path)
    })))
}

impl Patterns {
    fn new(texts: &[String]) -> Result<Self, Failure> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for text in texts {
            let pattern = text.trim_start_matches("./").trim_end_matches('/');
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            let glob = glob.map_err(|error| malformed(&error))?;
            if pattern.contains('/') {
                paths.add(glob);
            } else {
                names.add(glob);
            }
        }
        Ok(Self {
            of_names: names.build().map_err(|error| malformed(&error))?,
            of_paths: paths.build().map_err(|error| malformed(&error))?,
        })
    }

    /// Whether the entry, or a folder around it, fits.
    fn fit(&self, path: &SafePath) -> bool {
        let whole = Path::new(OsStr::from_bytes(path.as_bytes()));
        let mut around = whole
            .ancestors()
            .filter(|part| !part.as_os_str().is_empty());
        around.any(|part| {
            let name = part.file_name().map(Path::new);
            self.of_paths.is_match(part) || name.is_some_and(|name| self.of_names.is_match(name))
        })
    }
}

fn malformed(error: &globset::Error) -> Failure {
    let text = format!("{error}: patterns are like those of a shell: '*.jpg', 'raw/**'");
    Failure::new(Code::Usage, text)
}

#[cfg(test)]
mod tests {
    use shoal_wire::FileSize;

    use super::*;

    fn chosen(include: &[&str], exclude: &[&str]) -> Vec<&'static str> {
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let choose = choice(&texts(include), &texts(exclude)).ok().flatten();
        let file = EntryKind::File {
            size: FileSize::new(1).unwrap(),
            hash: None,
        };
        let all = ["a.jpg", "raw/b.jpg", "raw/deep/c.png", "notes.txt"];
        all.into_iter()
            .filter(|path| {
                choose
                    .as_ref()
                    .is_none_or(|choose| choose(&path.parse().unwrap(), &file))
            })
            .collect()
    }

    #[test]
    fn names_fit_at_any_depth_and_paths_from_the_top() {
        assert_eq!(chosen(&["*.jpg"], &[]), ["a.jpg", "raw/b.jpg"]);
        assert_eq!(chosen(&["raw/*.jpg"], &[]), ["raw/b.jpg"]);
        assert_eq!(chosen(&["raw/"], &["*.png"]), ["raw/b.jpg"]);
        assert_eq!(chosen(&[], &["raw/**"]), ["a.jpg", "notes.txt"]);
        assert_eq!(chosen(&[], &[]).len(), 4);
        assert!(choice(&["[".to_owned()], &[]).is_err());
    }
}
