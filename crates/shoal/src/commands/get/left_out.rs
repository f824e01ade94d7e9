//! What should have come with a folder and did not, because its provider leaves it out.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shoal_wire::manifest::{Omission, OmissionReason, OmittedPath};

use crate::exit::{Code, Failure};
use crate::output::Output;

/// Entries that are named one by one; `--json` names all.
const NAMED_MAX: usize = 10;

/// What is left out, each entry once.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeftOut {
    named: BTreeMap<OmittedPath, OmissionReason>,
    unnamed: u64,
}

impl LeftOut {
    /// An entry is left out. Tells whether that is news.
    pub(crate) fn add(&mut self, omission: Omission) -> bool {
        self.named.insert(omission.path, omission.reason).is_none()
    }

    /// So many more are left out.
    pub(crate) fn add_unnamed(&mut self, count: u64) {
        self.unnamed = self.unnamed.max(count);
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.named.len() as u64 + self.unnamed
    }

    /// The first of them by name, each on a line with its reason.
    pub(crate) fn lines(&self) -> String {
        let shown = self.named.iter().take(NAMED_MAX);
        let mut lines: Vec<String> = shown
            .map(|(path, reason)| format!("  {path}: {reason}"))
            .collect();
        let rest = self.count() - lines.len() as u64;
        if rest > 0 {
            lines.push(format!("  and {rest} more (--json names them)"));
        }
        lines.join("\n")
    }

    /// Success, unless something is left out.
    pub(crate) fn settle(count: u64) -> Result<(), Failure> {
        let text = match count {
            0 => return Ok(()),
            1 => "1 entry was left out by its sender; everything else is here".to_owned(),
            count => {
                format!("{count} entries were left out by their sender; everything else is here")
            }
        };
        Err(Failure::new(Code::SomeLeftOut, text))
    }
}

/// The entry for programs.
pub(crate) fn fields(omission: &Omission) -> Value {
    json!({
        "path": String::from_utf8_lossy(omission.path.as_bytes()),
        "reason": omission.reason.word(),
    })
}

/// Says at its sender what is left out.
pub(crate) fn tell_sender(named: &[Omission], count: u64, output: &Output) {
    let mut left_out = LeftOut::default();
    for omission in named {
        output.machine("left_out", fields(omission));
        left_out.add(omission.clone());
    }
    left_out.add_unnamed(count - named.len() as u64);
    match count {
        0 => {}
        1 => output.warn(&format!(
            "1 entry cannot be sent and is left out:\n{}",
            left_out.lines()
        )),
        count => output.warn(&format!(
            "{count} entries cannot be sent and are left out:\n{}",
            left_out.lines()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_counts_once_and_the_first_are_named() {
        let mut left_out = LeftOut::default();
        for number in 0..12 {
            let path = format!("mail/{number:02}:2,S");
            let path = OmittedPath::truncated(path.as_bytes()).unwrap();
            let omission = Omission {
                path,
                reason: OmissionReason::Name,
            };
            assert!(left_out.add(omission.clone()) && !left_out.add(omission));
        }
        left_out.add_unnamed(5);
        left_out.add_unnamed(5);
        assert_eq!(left_out.count(), 17);
        let lines = left_out.lines();
        assert!(lines.contains("09:2,S: its name") && !lines.contains("10:2,S"));
        assert!(lines.ends_with("and 7 more (--json names them)"), "{lines}");
        assert!(LeftOut::settle(0).is_ok());
        let failure = LeftOut::settle(left_out.count()).unwrap_err();
        assert_eq!(failure.code(), Code::SomeLeftOut);
    }
}
