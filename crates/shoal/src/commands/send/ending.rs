//! How an offer ends: whether as many receivers have everything as was asked for, and the exit code
//! that says so.

use serde_json::json;

use crate::exit::{Code, Failure};
use crate::output::Output;

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// As many receivers as were wanted have everything.
    Enough,
    /// Its time is over.
    Expired,
    /// Its user said so at the prompt.
    Quit,
    /// By a signal.
    Interrupted,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub(super) ending: Ending,
    /// Who have everything that could be offered.
    pub(super) receivers: usize,
    /// How many were asked for; any one where `None`.
    pub(super) receivers_wanted: Option<u32>,
    /// Who have all that they chose, and not everything.
    pub(super) partly: usize,
    /// Files that were named and could not be offered: nobody has them.
    pub(super) left_out: u64,
}

impl Account {
    /// Tells it, and whether that is what was asked for.
    pub(super) fn settle(self, output: &Output) -> Result<(), Failure> {
        let fields = json!({
            "receivers": self.receivers,
            "receivers_wanted": self.receivers_wanted,
            "partly": self.partly,
            "left_out": self.left_out,
        });
        match self.failure() {
            None => {
                output.event("done", fields, || {
                    let mut text = format!("{}.", self.standing());
                    text[..1].make_ascii_uppercase();
                    text
                });
                Ok(())
            }
            Some(failure) => {
                output.machine("done", fields);
                Err(failure)
            }
        }
    }

    fn failure(&self) -> Option<Failure> {
        let standing = self.standing();
        if self.receivers >= self.receivers_wanted.unwrap_or(1) as usize {
            let text = match self.left_out {
                0 => return None,
                1 => format!("{standing} that could be sent, but 1 entry was left out"),
                count => {
                    format!("{standing} that could be sent, but {count} entries were left out")
                }
            };
            return Some(Failure::new(Code::TooFewReceived, text));
        }
        let (code, why) = match self.ending {
            Ending::Interrupted => (Code::Interrupted, "interrupted"),
            Ending::Expired => (Code::TooFewReceived, "the offer has expired"),
            Ending::Enough | Ending::Quit => (Code::TooFewReceived, "the offer has ended"),
        };
        let text = format!("{why}: {standing}; send again for whoever is to have it");
        Some(Failure::new(code, text))
    }

    /// Who has what.
    fn standing(&self) -> String {
        let everything = match (self.receivers, self.receivers_wanted) {
            (receivers, Some(wanted)) if wanted > 1 => {
                format!("{receivers} of {wanted} receivers have everything")
            }
            (0, _) => "nobody has received everything".to_owned(),
            (1, _) => "one receiver has everything".to_owned(),
            (receivers, _) => format!("{receivers} receivers have everything"),
        };
        match self.partly {
            0 => everything,
            1 => format!("{everything}, and one has only a part"),
            partly => format!("{everything}, and {partly} have only a part"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(ending: Ending, receivers: usize, receivers_wanted: Option<u32>) -> Account {
        Account {
            ending,
            receivers,
            receivers_wanted,
            partly: 0,
            left_out: 0,
        }
    }

    #[test]
    fn fewer_than_were_asked_for_are_never_success() {
        use Ending::{Enough, Expired, Interrupted, Quit};
        for (ending, receivers, wanted, code) in [
            (Enough, 1, Some(1), None),
            (Enough, 3, Some(2), None),
            (Expired, 1, None, None),
            (Interrupted, 1, None, None),
            (Interrupted, 2, Some(2), None),
            (Expired, 0, None, Some(Code::TooFewReceived)),
            (Expired, 1, Some(2), Some(Code::TooFewReceived)),
            (Quit, 0, Some(1), Some(Code::TooFewReceived)),
            (Interrupted, 0, None, Some(Code::Interrupted)),
            (Interrupted, 1, Some(2), Some(Code::Interrupted)),
        ] {
            let ended = account(ending, receivers, wanted);
            let is = ended.failure().map(|failure| failure.code());
            assert_eq!(is, code, "{ended:?}");
        }
    }

    #[test]
    fn a_file_that_was_left_out_is_received_by_nobody() {
        let ended = Account {
            left_out: 2,
            ..account(Ending::Enough, 1, Some(1))
        };
        let failure = ended.failure().expect("not all was sent");
        assert_eq!(failure.code(), Code::TooFewReceived);
        assert!(failure.message().contains("2 entries were left out"));
    }

    #[test]
    fn who_has_what_is_said_in_words() {
        let of = |receivers, wanted| account(Ending::Expired, receivers, wanted).standing();
        assert_eq!(of(1, Some(2)), "1 of 2 receivers have everything");
        assert_eq!(of(0, Some(1)), "nobody has received everything");
        assert_eq!(of(3, None), "3 receivers have everything");
        let partly = Account {
            partly: 1,
            ..account(Ending::Quit, 0, None)
        };
        let said = "nobody has received everything, and one has only a part";
        assert_eq!(partly.standing(), said);
    }
}
