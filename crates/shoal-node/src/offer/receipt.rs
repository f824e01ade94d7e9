//! What a receiver says that it has, beside what is on offer when it says so.
//!
//! It is the receiver's word: a sender sees what it serves, and cannot see what was there before.

use std::sync::Arc;

use super::visits::Visit;
use super::{OfferEvent, Shared};
use crate::share::Share;

/// What a receiver has of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Files that it has.
    pub files: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Files on offer.
    pub offered_files: u64,
    /// Their size, in bytes.
    pub offered_bytes: u64,
    /// How many of the chosen files and folders are not on offer any more.
    pub missing: u64,
}

impl Receipt {
    /// Whether it has all that was to be sent, and not only what it chose or what was still there.
    pub fn has_everything(&self) -> bool {
        self.missing == 0 && self.files >= self.offered_files && self.bytes >= self.offered_bytes
    }
}

impl Shared {
    /// A receiver has all that it wanted: so many files and bytes, as it says.
    pub(super) fn has_finished(&self, visit: &Arc<Visit>, (files, bytes): (u64, u64)) {
        let receipt = self.receipt(files, bytes);
        let finished = {
            let mut issued = self.issued();
            if receipt.has_everything() {
                issued.partly.remove(&visit.node);
                issued.finished.insert(visit.node);
            } else if !issued.finished.contains(&visit.node) {
                issued.partly.insert(visit.node);
            }
            issued.finished.len()
        };
        let is_enough = |wanted: u32| finished >= wanted as usize;
        if self.receivers.is_some_and(is_enough) {
            self.enough.cancel();
        }
        // Last: while its visit is open, the offer is not over.
        visit.finish(receipt);
        self.tell(OfferEvent::Finished(Arc::clone(visit)));
    }

    /// Compares what a receiver has with what is on offer. At once: its link may end any moment.
    fn receipt(&self, files: u64, bytes: u64) -> Receipt {
        let totals = self.share.totals();
        Receipt {
            files,
            bytes,
            offered_files: totals.files,
            offered_bytes: totals.total_bytes,
            missing: missing_of(&self.share),
        }
    }
}

/// How many of the chosen names are not on offer; a folder may be empty.
fn missing_of(share: &Share) -> u64 {
    let roots = share.roots();
    let mut names = roots.chosen_names();
    names.retain(|name| {
        let is_offered = !share.page(Some(name), None, 1).0.is_empty();
        !is_offered && !roots.folder_of(name).path_of(name).is_dir()
    });
    names.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_all_that_was_to_be_sent_and_no_part_of_it() {
        let all = Receipt {
            files: 2,
            bytes: 10,
            offered_files: 2,
            offered_bytes: 10,
            missing: 0,
        };
        assert!(all.has_everything());
        let offered_files = 1;
        assert!(
            Receipt {
                offered_files,
                ..all
            }
            .has_everything(),
            "one was deleted since"
        );
        for (what, part) in [
            ("a choice", Receipt { files: 1, ..all }),
            ("an older version", Receipt { bytes: 9, ..all }),
            ("what is left", Receipt { missing: 1, ..all }),
        ] {
            assert!(!part.has_everything(), "{what}");
        }
    }
}
