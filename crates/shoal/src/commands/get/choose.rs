//! Which entries of a folder are fetched: `--include` and `--exclude`.
//!
//! A pattern without `/` is matched against names, at any depth; one with `/` against the whole
//! path below the folder that is fetched. What a pattern says of a folder holds for all in it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use shoal_node::fetch::{Choose, ChooseOmitted};

use crate::exit::{Code, Failure};

/// Patterns of one kind.
struct Patterns {
    of_names: GlobSet,
    of_paths: GlobSet,
}

/// What the patterns choose.
#[derive(Clone)]
pub(crate) struct Selection(Arc<(Option<Patterns>, Patterns)>);

impl Selection {
    /// By the patterns of what is included, where there are any, and of what is not; `None` where all
    /// is chosen.
    pub(crate) fn of(include: &[String], exclude: &[String]) -> Result<Option<Self>, Failure> {
        if include.is_empty() && exclude.is_empty() {
            return Ok(None);
        }
        let include = match include {
            [] => None,
            include => Some(Patterns::new(include)?),
        };
        Ok(Some(Self(Arc::new((include, Patterns::new(exclude)?)))))
    }

    /// Of what there is. A folder that is not chosen comes along for what is in it.
    pub(crate) fn choose(&self) -> Choose {
        let selection = self.clone();
        Arc::new(move |path, _kind| selection.takes(path.as_bytes()))
    }

    /// Of what is left out.
    pub(crate) fn choose_omitted(&self) -> ChooseOmitted {
        let selection = self.clone();
        Arc::new(move |path| selection.takes(path))
    }

    fn takes(&self, path: &[u8]) -> bool {
        let (include, exclude) = &*self.0;
        include.as_ref().is_none_or(|include| include.fit(path)) && !exclude.fit(path)
    }
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
    fn fit(&self, path: &[u8]) -> bool {
        let whole = Path::new(OsStr::from_bytes(path));
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
    use shoal_wire::manifest::EntryKind;

    use super::*;

    fn chosen(include: &[&str], exclude: &[&str]) -> Vec<&'static str> {
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let selection = Selection::of(&texts(include), &texts(exclude)).ok();
        let choose = selection.flatten().map(|selection| selection.choose());
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
        assert!(Selection::of(&["[".to_owned()], &[]).is_err());
    }
}
