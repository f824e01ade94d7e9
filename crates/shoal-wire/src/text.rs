//! Text from other machines: bounded when it is read, escaped when it is shown.

use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::limits::{NODE_NAME_MAX_BYTES, SHORT_TEXT_MAX_BYTES};

/// Escapes what a terminal, a log or a person could be fooled by: control characters (ESC, CSI,
/// newline), bidirectional and zero-width marks, and bytes that are not UTF-8.
pub fn escape(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        for c in piece.valid().chars() {
            match c {
                '\n' => shown.push_str("\\n"),
                '\r' => shown.push_str("\\r"),
                '\t' => shown.push_str("\\t"),
                c if is_misleading(c) => {
                    let _infallible = write!(shown, "\\u{{{:x}}}", u32::from(c));
                }
                c => shown.push(c),
            }
        }
        for byte in piece.invalid() {
            let _infallible = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

fn is_misleading(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Why text is not a node's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a node name has 1 to {NODE_NAME_MAX_BYTES} bytes, no control characters, no ':' or '/' and no space at either end"
)]
pub struct NameError;

/// The name that a node goes by; not unique, not proof of anything.
///
/// 1 to [`NODE_NAME_MAX_BYTES`] bytes of UTF-8 that prints as itself, with neither `:` nor `/`
/// (both separate a peer from a path on the command line).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NodeName(String);

impl NodeName {
    /// The name as text, safe to print.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let length_fits = (1..=NODE_NAME_MAX_BYTES).contains(&text.len());
        let plain = text.trim() == text
            && !text
                .chars()
                .any(|c| is_misleading(c) || matches!(c, ':' | '/'));
        (length_fits && plain)
            .then_some(Self(text))
            .ok_or(NameError)
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text.to_owned())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(capped_string::<D, NODE_NAME_MAX_BYTES>(deserializer)?)
            .map_err(de::Error::custom)
    }
}

/// Free text of at most [`SHORT_TEXT_MAX_BYTES`] bytes, escaped when displayed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ShortText(String);

impl ShortText {
    /// Takes the text, cut at the limit (on a character boundary).
    pub fn new(text: &str) -> Self {
        Self(text[..text.floor_char_boundary(SHORT_TEXT_MAX_BYTES)].to_owned())
    }

    /// The text as it was said: to compare, never to show.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(self.0.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for ShortText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        capped_string::<D, SHORT_TEXT_MAX_BYTES>(deserializer).map(Self)
    }
}

fn capped_string<'de, D: Deserializer<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<String, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    if text.len() > MAX {
        return Err(de::Error::invalid_length(text.len(), &"shorter text"));
    }
    Ok(text.to_owned())
}

/// Reads a sequence of at most `MAX` items; the announced count is compared before anything is
/// set aside for it.
pub(crate) fn capped_seq<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Capped<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> de::Visitor<'de> for Capped<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} items")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let announced = seq.size_hint().unwrap_or(0);
            if announced > MAX {
                return Err(de::Error::invalid_length(announced, &self));
            }
            // Small items are allocated at once, large counts grow only as items really arrive.
            let mut items = Vec::with_capacity(announced.min(1024));
            while let Some(item) = seq.next_element()? {
                if items.len() == MAX {
                    return Err(de::Error::invalid_length(MAX + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    deserializer.deserialize_seq(Capped::<T, MAX>(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_and_bidi_tricks_are_shown_not_obeyed() {
        assert_eq!(escape(b"a\x1b[31mred\n"), "a\\u{1b}[31mred\\n");
        assert_eq!(
            escape("exe\u{202e}gpj.txt".as_bytes()),
            "exe\\u{202e}gpj.txt"
        );
        assert_eq!(escape(b"bad\xff"), "bad\\xff");
        assert_eq!(
            escape("žluťoučký 🐟 <script>".as_bytes()),
            "žluťoučký 🐟 <script>"
        );
    }

    #[test]
    fn a_node_name_prints_as_itself() {
        assert!("anna's laptop".parse::<NodeName>().is_ok());
        for bad in [
            "",
            " a",
            "a:b",
            "a/b",
            "a\nb",
            "a\u{202e}b",
            &"x".repeat(65),
        ] {
            assert_eq!(bad.parse::<NodeName>(), Err(NameError), "{bad:?}");
        }
    }

    #[test]
    fn short_text_is_cut_on_a_character() {
        let text = ShortText::new(&"é".repeat(400));
        assert_eq!(text.0.len(), 512);
    }
}
