//! Rules of what is not offered: `.shoalignore` files, with the syntax of `.gitignore`.
//!
//! The rules of a folder count for everything below it, and go before those of the folders above,
//! up to the root of the share and not beyond. Rules of which anything cannot be read or
//! understood might hide anything, so they hide everything below their folder.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use shoal_store::folder::Listing;

/// File with the rules.
pub(super) const IGNORE_FILE: &str = ".shoalignore";
/// Longest file with rules, in bytes: what its patterns are made into takes many times as much.
const RULES_MAX_BYTES: usize = 64 * 1024;
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The rules that count in a folder. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules(Option<Arc<Level>>);

/// The rules of one folder.
#[derive(Debug)]
struct Level {
    own: Gitignore,
    /// Bytes of a path before what lies in the folder.
    start: usize,
    above: Rules,
}

/// Why the rules of a folder do not count, and what is below it is hidden.
#[derive(Debug, thiserror::Error)]
pub(super) enum RulesError {
    /// They cannot be read.
    #[error("{}", unreadable(.0))]
    Unreadable(io::Error),
    #[error("it is not UTF-8 text")]
    NotText,
    #[error("line {line} is not a pattern ({reason})")]
    NotAPattern { line: usize, reason: String },
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidInput => "it is not a file".to_owned(),
        io::ErrorKind::NotFound => "it is a link that leads nowhere".to_owned(),
        io::ErrorKind::FileTooLarge => format!("it is longer than {RULES_MAX_BYTES} bytes"),
        _ => error.to_string(),
    }
}

impl Rules {
    /// The rules that count in a folder, whose path in the share is `path`; `self` are those of the
    /// folder above.
    pub(super) fn entering(&self, folder: &Listing, path: &[u8]) -> Result<Self, RulesError> {
        let read = folder.read_small(IGNORE_FILE, RULES_MAX_BYTES);
        let Some(bytes) = read.map_err(RulesError::Unreadable)? else {
            return Ok(self.clone());
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| RulesError::NotText)?;
        let start = match path.len() {
            0 => 0,
            len => len + 1,
        };
        Ok(Self(Some(Arc::new(Level {
            own: parse(text)?,
            start,
            above: self.clone(),
        }))))
    }

    /// What they say of a path in the share: the first ones that say anything, from the folder that
    /// it lies in upwards.
    pub(super) fn verdict(&self, path: &[u8], is_folder: bool) -> Match<()> {
        let mut rules = self;
        while let Some(level) = &rules.0 {
            let below = OsStr::from_bytes(path.get(level.start..).unwrap_or_default());
            let said = level.own.matched(Path::new(below), is_folder).map(drop);
            if !said.is_none() {
                return said;
            }
            rules = &level.above;
        }
        Match::None
    }
}

fn parse(text: &str) -> Result<Gitignore, RulesError> {
    let mut builder = GitignoreBuilder::new("");
    // Else a class without its end would be taken for a name that nothing has.
    builder.allow_unclosed_class(false);
    let lines = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).lines();
    for (at, line) in lines.enumerate() {
        let added = builder.add_line(None, line);
        added.map_err(|error| not_a_pattern(at + 1, &error))?;
    }
    // What single patterns are fine with can still be too much together.
    let built = builder.build();
    built.map_err(|error| not_a_pattern(text.lines().count(), &error))
}

fn not_a_pattern(line: usize, error: &ignore::Error) -> RulesError {
    RulesError::NotAPattern {
        line,
        reason: shoal_wire::escape(error.to_string().as_bytes()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str, path: &str) -> &'static str {
        let level = Level {
            own: parse(text).unwrap(),
            start: 0,
            above: Rules::default(),
        };
        let rules = Rules(Some(Arc::new(level)));
        match rules.verdict(path.as_bytes(), false) {
            Match::None => "nothing",
            Match::Ignore(()) => "hide",
            Match::Whitelist(()) => "show",
        }
    }

    #[test]
    fn the_syntax_is_that_of_gitignore() {
        assert_eq!(says("*.tmp\n!keep.tmp\n", "a/b.tmp"), "hide");
        assert_eq!(says("*.tmp\n!keep.tmp\n", "a/keep.tmp"), "show");
        assert_eq!(says("# *.tmp\n\n", "a.tmp"), "nothing");
        assert_eq!(says("\u{feff}*.tmp\r\n*.log\r\n", "a.tmp"), "hide");
        assert_eq!(says("/top\n", "a/top"), "nothing");
        assert_eq!(says("/top\n", "top"), "hide");
        assert_eq!(says("\\[a]\n", "[a]"), "hide");
    }

    #[test]
    fn a_line_that_is_no_pattern_is_named() {
        for (text, line) in [
            ("ok\n[z-a]\n", 2),
            ("a[", 1),
            ("*.log\n\n{a,b\n", 3),
            ("secret\\", 1),
        ] {
            let error = parse(text).unwrap_err();
            let said = error.to_string();
            assert!(
                said.starts_with(&format!("line {line} is not a pattern")),
                "{said}"
            );
        }
    }
}
