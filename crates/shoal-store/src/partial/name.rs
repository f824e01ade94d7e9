//! The names beside a target: its part, its state, and the state about to replace it.
//!
//! All begin with a dot and end in a suffix that [`is_partial_name`] knows. The target's own name
//! stands between, or, where 255 bytes do not suffice, its beginning and a hash of it.

use shoal_wire::limits::NAME_MAX_BYTES;

/// The end of the name of a file that is about to replace another.
pub(crate) const TEMPORARY_SUFFIX: &[u8] = b".shoal-temp";
const PART_SUFFIX: &[u8] = b".shoal-part";
const STATE_SUFFIX: &[u8] = b".shoal-state";

/// How much of a long name is kept, in bytes; the dot, a hash of 17 and any suffix fit after it.
const KEPT_BYTES: usize = 200;

/// Whether a name is one that this crate gives to unfinished files.
///
/// Scans skip such names, and no download may have one: it could be another download's state.
pub fn is_partial_name(name: &[u8]) -> bool {
    let suffixes = [PART_SUFFIX, STATE_SUFFIX, TEMPORARY_SUFFIX];
    let ends_in = |suffix: &[u8]| {
        let at = name.len().checked_sub(suffix.len());
        at.is_some_and(|at| name[at..].eq_ignore_ascii_case(suffix))
    };
    name.starts_with(b".") && suffixes.into_iter().any(ends_in)
}

/// The three names that belong to one target.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) target: Vec<u8>,
    pub(super) part: Vec<u8>,
    pub(super) state: Vec<u8>,
    pub(super) temporary: Vec<u8>,
}

impl Names {
    pub(super) fn of(target: &[u8]) -> Self {
        let stem = stem_of(target);
        let with = |suffix: &[u8]| [b".", stem.as_slice(), suffix].concat();
        Self {
            target: target.to_vec(),
            part: with(PART_SUFFIX),
            state: with(STATE_SUFFIX),
            temporary: with(TEMPORARY_SUFFIX),
        }
    }
}

fn stem_of(target: &[u8]) -> Vec<u8> {
    if 1 + target.len() + STATE_SUFFIX.len() <= NAME_MAX_BYTES {
        return target.to_vec();
    }
    let mut kept = KEPT_BYTES;
    // Some file systems refuse a name that ends inside a UTF-8 character.
    while kept > 0 && target[kept] & 0xc0 == 0x80 {
        kept -= 1;
    }
    let digest = blake3::hash(target).to_hex();
    [&target[..kept], b"~", &digest.as_bytes()[..16]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_made_here_is_short_enough_known_and_different() {
        let long = "ž".repeat(127);
        for target in [
            "a",
            "file.tar.gz",
            &"n".repeat(242),
            &"n".repeat(255),
            &long,
        ] {
            let names = Names::of(target.as_bytes());
            let made = [&names.part, &names.state, &names.temporary];
            for name in made {
                assert!(is_partial_name(name) && name.len() <= NAME_MAX_BYTES);
                assert!(std::str::from_utf8(name).is_ok());
            }
            assert!(made[0] != made[1] && made[1] != made[2] && made[0] != made[2]);
        }
        let twins = ["a", "b"].map(|end| Names::of(format!("{long}{end}").as_bytes()).part);
        assert_ne!(twins[0], twins[1]);
    }

    #[test]
    fn ordinary_names_are_not_taken_for_partials() {
        for name in ["a", ".hidden", "x.shoal-part", ".shoal-parts", ""] {
            assert!(!is_partial_name(name.as_bytes()), "{name}");
        }
        assert!(is_partial_name(b".x.SHOAL-State"));
    }
}
