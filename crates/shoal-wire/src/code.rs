//! Codes: the short phrase by which two people find each other once, like `7-tidal-anchor`.
//!
//! A code is a **nameplate**, the public number of a mailbox, and two words of a list of 4,096,
//! which are the secret: 24 bits. The nameplate tells nothing of the words. The words are told to
//! nobody, not even as a hash: they go into a password-authenticated key exchange, in which each
//! try costs a guess. No word of the list begins with the first four letters of another, so that a
//! word may be completed or mistyped towards its end and is still the one that was meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

/// The words, sorted, one per line.
const LIST: &str = include_str!("code/words.txt");
/// How many there are: 12 bits each.
const LIST_LEN: usize = 4096;
/// Words in a code.
const WORDS: usize = 2;
/// Letters that tell each word of the list from all others.
const TELLING_LETTERS: usize = 4;
/// Longest code that is looked at, in bytes: two words with room for what people type around them.
const CODE_MAX_BYTES: usize = 64;

/// The public number of a mailbox: 1 to 999,999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Nameplate(u32);

impl Nameplate {
    /// The largest one.
    pub const MAX: u32 = 999_999;

    /// The nameplate with this number, if it may be one.
    pub const fn new(number: u32) -> Option<Self> {
        match number {
            1..=Self::MAX => Some(Self(number)),
            _ => None,
        }
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Nameplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Nameplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| de::Error::custom("no such nameplate"))
    }
}

/// Why text is not a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It has another form.
    #[error("a code is a number and two words, like 7-tidal-anchor")]
    Form,
    /// A word is not in the list; `near` begins like it.
    #[error("{word:?} is no word of a code{}, ask again for how it is spelled", near.map_or_else(String::new, |near| format!(" ('{near}' is)")))]
    Word {
        /// As it was typed.
        word: String,
        /// The word of the list that is nearest in the alphabet and begins with the same letters.
        near: Option<&'static str>,
    },
}

/// The secret half of a code. Never shown but to the person who is to tell it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CodeWords([u16; WORDS]);

impl CodeWords {
    /// The words that 24 random bits stand for; the upper eight are not looked at.
    pub const fn from_random(bits: u32) -> Self {
        let mask = LIST_LEN as u32 - 1;
        Self([(bits & mask) as u16, (bits >> 12 & mask) as u16])
    }

    /// The password of the key exchange: the words as they are printed.
    pub fn password(&self) -> String {
        self.0.map(word).join("-")
    }
}

impl fmt::Debug for CodeWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeWords(..)")
    }
}

/// A whole code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Where to ask.
    pub nameplate: Nameplate,
    /// What to prove.
    pub words: CodeWords,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.nameplate, self.words.password())
    }
}

impl FromStr for Code {
    type Err = CodeError;

    /// Reads a code as people type it: in any letter case, with spaces for hyphens, and words
    /// begun well enough to be told apart.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        if text.len() > CODE_MAX_BYTES {
            return Err(CodeError::Form);
        }
        let lower = text.to_ascii_lowercase();
        let mut parts = lower
            .split(|c: char| c == '-' || c == '_' || c.is_whitespace())
            .filter(|part| !part.is_empty());
        let nameplate = parts
            .next()
            .and_then(|number| Nameplate::new(number.parse().ok()?));
        let typed: Vec<&str> = parts.collect();
        let (Some(nameplate), [first, second]) = (nameplate, &typed[..]) else {
            return Err(CodeError::Form);
        };
        let words = CodeWords([find(first)?, find(second)?]);
        Ok(Self { nameplate, words })
    }
}

/// The words of the list that begin with `start`, at most `limit`: for completion while typing.
pub fn completions(start: &str, limit: usize) -> Vec<&'static str> {
    let start = start.to_ascii_lowercase();
    let begins = LIST.lines().filter(|word| word.starts_with(&start));
    begins.take(limit).collect()
}

fn word(position: u16) -> &'static str {
    let at = usize::from(position) % LIST_LEN;
    LIST.lines().nth(at).unwrap_or_default()
}

fn find(typed: &str) -> Result<u16, CodeError> {
    let telling = typed.get(..TELLING_LETTERS.min(typed.len()));
    let found = telling.and_then(|telling| {
        let mut begins = LIST
            .lines()
            .enumerate()
            .filter(|(_, word)| *word == typed || word.starts_with(telling));
        let only = begins.next()?;
        let is_told = telling.len() == TELLING_LETTERS && begins.next().is_none();
        (is_told || only.1 == typed).then_some(only.0 as u16)
    });
    found.ok_or_else(|| CodeError::Word {
        word: crate::escape(typed.as_bytes()),
        near: typed
            .get(..3)
            .and_then(|start| completions(start, 1).first().copied()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_is_plain_and_told_by_its_first_letters() {
        let words: Vec<&str> = LIST.lines().collect();
        assert_eq!(words.len(), LIST_LEN);
        assert!(words.is_sorted());
        let starts: BTreeSet<&str> = words.iter().map(|word| &word[..4]).collect();
        assert_eq!(starts.len(), LIST_LEN);
        let plain = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
        assert!(words.iter().all(plain));
    }

    #[test]
    fn a_code_reads_back_as_people_type_it() {
        for bits in [0, 1, 0xfff, 0xfff_fff, 0x123_456, u32::MAX] {
            let words = CodeWords::from_random(bits);
            let nameplate = Nameplate::new(bits % 999_999 + 1).unwrap();
            let code = Code { nameplate, words };
            let text = code.to_string();
            assert_eq!(text.parse(), Ok(code));
            assert_eq!(text.to_uppercase().replace('-', "  ").parse(), Ok(code));
        }
        let code: Code = "7-tidal-anchor".parse().unwrap();
        assert_eq!(code.to_string(), "7-tidal-anchor");
        assert_eq!(" 7 tida ANCHOVY ".parse::<Code>().ok(), Some(code));
    }

    #[test]
    fn what_is_no_code_is_refused_with_what_to_do() {
        for text in [
            "",
            "7",
            "7-tidal",
            "tidal-anchor",
            "0-tidal-anchor",
            "7-a-b-c",
        ] {
            assert_eq!(text.parse::<Code>(), Err(CodeError::Form), "{text}");
        }
        assert!("1000000-tidal-anchor".parse::<Code>().is_err());
        assert!("7-tidal-anchor".repeat(10).parse::<Code>().is_err());
        let wrong = "7-tidal-anqqqq".parse::<Code>().unwrap_err();
        assert!(wrong.to_string().contains("anqqqq"), "{wrong}");
        assert!("7-tidal-an\u{e9}\u{e9}".parse::<Code>().is_err());
        assert!("7-tidal-\u{1b}[31m".parse::<Code>().is_err());
    }

    #[test]
    fn words_complete_from_their_beginning() {
        assert!(completions("anc", 9).contains(&"anchor"));
        assert!(completions("zzzz", 9).is_empty());
        assert_eq!(completions("", 3).len(), 3);
    }
}
