//! `SafePath`: a relative path that names the same file, or none, on every system.
//!
//! Whatever a manifest, an announce or a person calls a file goes through here, and the one
//! function that opens local files (`shoal-store`'s folder) takes nothing else. A path is kept
//! byte for byte; it need not be UTF-8 on systems whose names are bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use unicode_normalization::UnicodeNormalization;

use crate::limits::{NAME_MAX_BYTES, PATH_MAX_BYTES, PATH_MAX_DEPTH};
use crate::text::escape;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No name at all, or an empty name between two slashes.
    #[error("a path may not be empty nor contain an empty name")]
    Empty,
    /// Over [`PATH_MAX_BYTES`], [`NAME_MAX_BYTES`] or [`PATH_MAX_DEPTH`].
    #[error("a path or name in it is too long or too deep")]
    TooLong,
    /// Starts at a root: `/a`.
    #[error("a path must be relative")]
    Absolute,
    /// `.` or `..`.
    #[error("a path may not contain '.' or '..'")]
    Dots,
    /// A byte that some system takes for something else: NUL, controls, `\`, `:`, `< > " | ? *`.
    #[error("a name contains a character that other systems cannot store")]
    Character,
    /// A name that Windows keeps for devices: `CON`, `NUL`, `COM1`, also with an extension.
    #[error("a name is reserved on other systems")]
    Reserved,
    /// A name that ends in a dot or a space, which Windows drops.
    #[error("a name ends in a dot or a space")]
    Trailing,
}

/// A checked relative path: `/`-separated names, each storable on every system.
///
/// At most [`PATH_MAX_BYTES`] bytes, [`PATH_MAX_DEPTH`] names of at most [`NAME_MAX_BYTES`] bytes.
/// Displays escaped; compares by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafePath(Box<[u8]>);

impl SafePath {
    /// Checks the bytes of a `/`-separated path.
    ///
    /// # Errors
    /// The first rule that the path breaks.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes.len() > PATH_MAX_BYTES {
            return Err(PathError::TooLong);
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute);
        }
        let mut depth = 0;
        for name in bytes.split(|byte| *byte == b'/') {
            check_name(name)?;
            depth += 1;
        }
        if depth > PATH_MAX_DEPTH {
            return Err(PathError::TooLong);
        }
        Ok(Self(bytes.into()))
    }

    /// The path's bytes, `/`-separated.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names from the outermost folder to the file.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// The last name.
    pub fn file_name(&self) -> &[u8] {
        self.names().next_back().unwrap_or_default()
    }

    /// The folder that holds it, if it is not at the top.
    pub fn parent(&self) -> Option<SafePath> {
        let at = self.0.iter().rposition(|byte| *byte == b'/')?;
        Some(Self(self.0[..at].into()))
    }

    /// This path with another below it.
    ///
    /// # Errors
    /// [`PathError::TooLong`] when both together pass a limit.
    pub fn join(&self, below: &SafePath) -> Result<SafePath, PathError> {
        let depth = self.names().count() + below.names().count();
        let joined = [&self.0, b"/".as_slice(), &below.0].concat();
        if joined.len() > PATH_MAX_BYTES || depth > PATH_MAX_DEPTH {
            return Err(PathError::TooLong);
        }
        Ok(Self(joined.into()))
    }

    /// What is left of this path below `folder`, if it lies there.
    pub fn below(&self, folder: &SafePath) -> Option<SafePath> {
        let rest = self.0.strip_prefix(&*folder.0)?.strip_prefix(b"/")?;
        Some(Self(rest.into()))
    }

    /// The form under which two names collide on some system: composed (NFC), lower case.
    pub fn collision_key(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        if text.is_ascii() {
            return text.to_ascii_lowercase();
        }
        text.nfc().flat_map(char::to_lowercase).nfc().collect()
    }
}

impl fmt::Display for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape(&self.0))
    }
}

impl fmt::Debug for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SafePath({self})")
    }
}

impl FromStr for SafePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::new(text.as_bytes())
    }
}

impl Serialize for SafePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SafePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(<&[u8]>::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// For each byte whether some system takes it for something else than a part of a name.
const UNSTORABLE: [bool; 256] = {
    let mut unstorable = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        unstorable[byte] = true;
        byte += 1;
    }
    unstorable[0x7f] = true;
    let others = b"\\:<>\"|?*";
    let mut at = 0;
    while at < others.len() {
        unstorable[others[at] as usize] = true;
        at += 1;
    }
    unstorable
};

fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        [] => return Err(PathError::Empty),
        b"." | b".." => return Err(PathError::Dots),
        [.., b'.' | b' '] => return Err(PathError::Trailing),
        _ => {}
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(PathError::TooLong);
    }
    if name.iter().any(|byte| UNSTORABLE[usize::from(*byte)]) {
        return Err(PathError::Character);
    }
    let stem = name.split(|byte| *byte == b'.').next().unwrap_or_default();
    if is_device_name(stem.trim_ascii_end()) {
        return Err(PathError::Reserved);
    }
    Ok(())
}

fn is_device_name(stem: &[u8]) -> bool {
    const PLAIN: [&[u8]; 6] = [b"con", b"prn", b"aux", b"nul", b"conin$", b"conout$"];
    if !(3..=7).contains(&stem.len()) {
        return false;
    }
    let lower = stem.to_ascii_lowercase();
    let numbered = || {
        let rest = lower.strip_prefix(b"com").or(lower.strip_prefix(b"lpt"));
        // Windows also reserves the superscript digits 1 to 3 (U+00B9, U+00B2, U+00B3).
        rest.is_some_and(|digit| matches!(digit, [b'0'..=b'9'] | [0xc2, 0xb9 | 0xb2 | 0xb3]))
    };
    PLAIN.contains(&lower.as_slice()) || numbered()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_mean_something_else_somewhere_are_refused() {
        for bad in [
            "",
            "/a",
            "..",
            "a/../b",
            ".",
            "a/./b",
            "a//b",
            "a/",
            "C:",
            "C:\\x",
            "a\\b",
            "a\0b",
            "a\nb",
            "\u{1b}[2J",
            "CON",
            "con.txt",
            "a/NUL",
            "COM1",
            "lpt9.log",
            "COM¹",
            "a.",
            "a ",
            "a:b",
            "a?",
            "aux .txt",
        ] {
            assert!(bad.parse::<SafePath>().is_err(), "{bad:?}");
        }
        assert!(SafePath::new(&[b'a'; 256]).is_err());
        assert!(SafePath::new("a/".repeat(129).trim_end_matches('/').as_bytes()).is_err());
    }

    #[test]
    fn ordinary_names_in_any_script_are_taken_byte_for_byte() {
        for good in [
            "a",
            "a/b.txt",
            ".hidden",
            "console.log",
            "žluť/🐟.txt",
            "com10",
            "a b/c",
        ] {
            let path: SafePath = good.parse().expect(good);
            assert_eq!(path.as_bytes(), good.as_bytes());
        }
        assert_eq!(
            SafePath::new(b"caf\xe9").expect("bytes").to_string(),
            "caf\\xe9"
        );
    }

    #[test]
    fn twins_share_a_collision_key() {
        let key = |text: &str| text.parse::<SafePath>().expect(text).collision_key();
        assert_eq!(key("caf\u{e9}"), key("cafe\u{301}"));
        assert_eq!(key("README"), key("ReadMe"));
        assert_ne!(key("a"), key("b"));
    }

    #[test]
    fn below_and_join_are_inverse() {
        let folder: SafePath = "a/b".parse().expect("path");
        let file: SafePath = "c/d".parse().expect("path");
        let joined = folder.join(&file).expect("short");
        assert_eq!(joined.below(&folder), Some(file));
        assert_eq!(
            "a/bc".parse::<SafePath>().expect("path").below(&folder),
            None
        );
    }

    proptest! {
        #[test]
        fn whatever_parses_stays_inside_and_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = SafePath::new(&bytes) {
                prop_assert!(path.names().all(|name| !name.is_empty() && name != b".." && name != b"."));
                prop_assert!(!bytes.contains(&0) && bytes[0] != b'/');
                let encoded = postcard::to_stdvec(&path).expect("encodes");
                prop_assert_eq!(postcard::from_bytes::<SafePath>(&encoded).expect("decodes"), path);
            }
        }
    }
}
