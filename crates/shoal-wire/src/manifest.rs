//! Manifests: what lies below a folder, page by page.
//!
//! A manifest lists files, folders and symbolic links with what is worth keeping of each. Small
//! files are fetched in packs: runs of them whose content together is at most one chunk of the
//! smallest kind. A [`PackFiles`] that exists keeps to that bound.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::file::FileSize;
use crate::id::Hash;
use crate::limits::{
    LINK_TARGET_MAX_BYTES, OMITTED_PATH_MAX_BYTES, PACK_MAX_BYTES, PACK_MAX_FILES,
    XATTR_NAME_MAX_BYTES, XATTR_VALUE_MAX_BYTES, XATTRS_MAX,
};
use crate::message::Bounded;
use crate::path::SafePath;
use crate::text::escape;

/// Where a symbolic link points: the bytes that the link holds, 1 to [`LINK_TARGET_MAX_BYTES`],
/// without NUL. They are stored, never followed. Displays escaped.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct LinkTarget(#[serde(serialize_with = "as_bytes")] Box<[u8]>);

impl LinkTarget {
    /// Takes the bytes of a link; `None` where no link can hold them.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let fits = (1..=LINK_TARGET_MAX_BYTES).contains(&bytes.len()) && !bytes.contains(&0);
        fits.then(|| Self(bytes.into()))
    }

    /// The bytes that the link holds.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape(&self.0))
    }
}

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkTarget({self})")
    }
}

impl<'de> Deserialize<'de> for LinkTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(<&[u8]>::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("no symbolic link holds this"))
    }
}

/// One extended attribute. Its name has 1 to [`XATTR_NAME_MAX_BYTES`] bytes without NUL, its value
/// at most [`XATTR_VALUE_MAX_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Xattr {
    #[serde(serialize_with = "as_bytes")]
    name: Box<[u8]>,
    #[serde(serialize_with = "as_bytes")]
    value: Box<[u8]>,
}

impl Xattr {
    /// Takes a name and a value; `None` where they break a limit.
    pub fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        let is_name = (1..=XATTR_NAME_MAX_BYTES).contains(&name.len()) && !name.contains(&0);
        (is_name && value.len() <= XATTR_VALUE_MAX_BYTES).then(|| Self {
            name: name.into(),
            value: value.into(),
        })
    }

    /// The name, with its namespace: `user.mime_type`.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

impl<'de> Deserialize<'de> for Xattr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (name, value) = <(&[u8], &[u8])>::deserialize(deserializer)?;
        Self::new(name, value)
            .ok_or_else(|| de::Error::custom("an extended attribute is over a limit"))
    }
}

/// Who owns a file, as the numbers of its own system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What is kept of an entry only on request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extras {
    /// Its owner, where that was asked for.
    pub owner: Option<Owner>,
    /// Its extended attributes, where they were asked for; those over a limit are left out.
    pub xattrs: Bounded<Xattr, XATTRS_MAX>,
    /// How many extended attributes were left out.
    pub xattrs_left_out: u32,
}

/// What lies at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its size.
        size: FileSize,
        /// BLAKE3 of its content, once the provider has hashed it.
        hash: Option<Hash>,
    },
    /// A folder, empty or not.
    Folder,
    /// A symbolic link.
    Symlink {
        /// What it holds.
        target: LinkTarget,
    },
}

/// One entry of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Where it lies in its share.
    pub path: SafePath,
    /// What it is.
    pub kind: EntryKind,
    /// Last modification, in nanoseconds since 1970-01-01 UTC; negative before.
    pub mtime_ns: i64,
    /// POSIX permission bits (`0o7777`); others are ignored by the receiver.
    pub mode: u32,
    /// What was asked for besides.
    pub extras: Option<Extras>,
}

/// A file of a pack, as the manifest described it: another version is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackFile {
    /// Where it lies in its share.
    pub path: SafePath,
    /// Its size.
    pub size: FileSize,
    /// Last modification, in nanoseconds since 1970-01-01 UTC.
    pub mtime_ns: i64,
}

/// The files of one pack: at most [`PACK_MAX_FILES`], and [`PACK_MAX_BYTES`] of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PackFiles(Bounded<PackFile, PACK_MAX_FILES>);

impl PackFiles {
    /// Takes the files, `None` if they are too many or too large for one pack.
    pub fn new(files: Vec<PackFile>) -> Option<Self> {
        Self::checked(Bounded::new(files)?)
    }

    /// Size of their content, in bytes.
    pub fn content_bytes(&self) -> u64 {
        self.0.iter().map(|file| file.size.bytes()).sum()
    }

    fn checked(files: Bounded<PackFile, PACK_MAX_FILES>) -> Option<Self> {
        let packed = Self(files);
        (packed.content_bytes() <= PACK_MAX_BYTES).then_some(packed)
    }
}

impl Deref for PackFiles {
    type Target = [PackFile];

    fn deref(&self) -> &[PackFile] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for PackFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::checked(Bounded::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("a pack is over its size"))
    }
}

/// Where an entry lies that is left out of a manifest: 1 to [`OMITTED_PATH_MAX_BYTES`] bytes. It is
/// shown, escaped, and never opened: it may be a path that no [`SafePath`] can hold.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OmittedPath(#[serde(serialize_with = "as_bytes")] Box<[u8]>);

impl OmittedPath {
    /// Takes the bytes of a path, at most so many as may travel; `None` where there are none.
    pub fn truncated(bytes: &[u8]) -> Option<Self> {
        let kept = &bytes[..bytes.len().min(OMITTED_PATH_MAX_BYTES)];
        (!kept.is_empty()).then(|| Self(kept.into()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is `folder` or lies below it.
    pub fn is_below(&self, folder: &SafePath) -> bool {
        let rest = self.0.strip_prefix(folder.as_bytes());
        matches!(rest, Some([] | [b'/', ..]))
    }
}

impl fmt::Display for OmittedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape(&self.0))
    }
}

impl fmt::Debug for OmittedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OmittedPath({self})")
    }
}

impl<'de> Deserialize<'de> for OmittedPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        let fits = bytes.len() <= OMITTED_PATH_MAX_BYTES;
        let path = Self::truncated(bytes).filter(|_| fits);
        path.ok_or_else(|| de::Error::custom("a path that is left out is empty or too long"))
    }
}

/// Why an entry is left out of a manifest. New reasons are only ever appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OmissionReason {
    /// Its name cannot be stored on every system.
    Name,
    /// The provider may not read it, or cannot.
    Unreadable,
    /// It is a pipe, a socket or a device.
    Special,
    /// It is larger than the largest file.
    TooLarge,
    /// The rules of what is offered from this folder do not parse, or cannot be read.
    Rules,
    /// It holds keys and state of a node.
    Private,
}

impl OmissionReason {
    /// One word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Unreadable => "unreadable",
            Self::Special => "special",
            Self::TooLarge => "too_large",
            Self::Rules => "rules",
            Self::Private => "private",
        }
    }
}

impl fmt::Display for OmissionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Name => "its name cannot be stored on every system",
            Self::Unreadable => "it cannot be read",
            Self::Special => "it is a pipe, a socket or a device",
            Self::TooLarge => "it is larger than the largest file",
            Self::Rules => "the .shoalignore in it cannot be understood",
            Self::Private => "it holds keys and state of shoal",
        })
    }
}

/// An entry that is left out of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Omission {
    /// Where it lies in its share.
    pub path: OmittedPath,
    /// Why it is left out.
    pub reason: OmissionReason,
}

fn as_bytes<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack_file(bytes: u64) -> PackFile {
        PackFile {
            path: "a".parse().expect("path"),
            size: FileSize::new(bytes).expect("within the limit"),
            mtime_ns: 0,
        }
    }

    #[test]
    fn a_pack_over_its_size_or_count_does_not_decode() {
        let fits = PackFiles::new(vec![pack_file(PACK_MAX_BYTES)]).expect("fits");
        let mut bytes = postcard::to_stdvec(&fits).expect("encodes");
        assert_eq!(postcard::from_bytes::<PackFiles>(&bytes), Ok(fits));
        let over = vec![pack_file(PACK_MAX_BYTES), pack_file(1)];
        assert!(PackFiles::new(over.clone()).is_none());
        bytes = postcard::to_stdvec(&over).expect("encodes");
        assert!(postcard::from_bytes::<PackFiles>(&bytes).is_err());
        assert!(PackFiles::new(vec![pack_file(0); PACK_MAX_FILES + 1]).is_none());
    }

    #[test]
    fn a_path_that_is_left_out_is_bounded_shown_escaped_and_told_from_its_neighbours() {
        let long = vec![b'x'; OMITTED_PATH_MAX_BYTES + 1];
        for bytes in [b"".as_slice(), &long] {
            let encoded = postcard::to_stdvec(bytes).expect("encodes");
            assert!(postcard::from_bytes::<OmittedPath>(&encoded).is_err());
        }
        assert_eq!(OmittedPath::truncated(b""), None);
        let cut = OmittedPath::truncated(&long).expect("some of it");
        assert_eq!(cut.as_bytes().len(), OMITTED_PATH_MAX_BYTES);
        let path = OmittedPath::truncated(b"mail/\x1b[2J:2,S").expect("a path");
        assert_eq!(path.to_string(), "mail/\\u{1b}[2J:2,S");
        let is_below = |folder: &str| path.is_below(&folder.parse().expect("a path"));
        assert!(is_below("mail") && !is_below("mai") && !is_below("mail/x"));
    }

    #[test]
    fn what_no_link_or_attribute_holds_does_not_decode() {
        for bytes in [b"".as_slice(), b"a\0b", &[b'x'; LINK_TARGET_MAX_BYTES + 1]] {
            assert!(LinkTarget::new(bytes).is_none());
            let encoded = postcard::to_stdvec(bytes).expect("encodes");
            assert!(postcard::from_bytes::<LinkTarget>(&encoded).is_err());
        }
        assert!(Xattr::new(b"", b"v").is_none());
        assert!(Xattr::new(b"user.x", &[0; XATTR_VALUE_MAX_BYTES + 1]).is_none());
        let target = LinkTarget::new(b"../\x1b[2Jelsewhere").expect("a link can hold it");
        assert_eq!(target.to_string(), "../\\u{1b}[2Jelsewhere");
    }
}
