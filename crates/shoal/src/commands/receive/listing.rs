//! What is in an offer, as a person is shown it before anything is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;

use serde_json::json;
use shoal_node::fetch::Planned;
use shoal_store::folder::Folder;
use shoal_wire::{NodeName, SafePath};

use super::accepting::{Placement, top_of};
use crate::commands::get::left_out::LeftOut;
use crate::exit::{Code, Failure};
use crate::output::{Output, size, table};
use crate::typed::typed_lines;

/// Entries that are shown one by one; more are shown by what they lie in, and all when asked for.
const LINES_MAX: usize = 40;

/// One file of the offer.
pub(super) struct Listed {
    pub(super) path: SafePath,
    pub(super) bytes: u64,
    planned: Planned,
}

/// All of them.
#[derive(Default)]
pub(super) struct Listing {
    files: Vec<Listed>,
    folders: Vec<SafePath>,
    /// What the sender does not send of it.
    pub(super) left_out: LeftOut,
}

impl Listing {
    pub(super) fn push(&mut self, path: SafePath, bytes: u64, planned: Planned) {
        self.files.push(Listed {
            path,
            bytes,
            planned,
        });
    }

    pub(super) fn push_folder(&mut self, path: SafePath) {
        self.folders.push(path);
    }

    pub(super) fn files(&self) -> &[Listed] {
        &self.files
    }

    /// Every folder of it, empty or not.
    pub(super) fn folders(&self) -> &[SafePath] {
        &self.folders
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.folders.is_empty()
    }

    /// How many folders hold neither a file nor another folder of it.
    fn empty_folders(&self) -> usize {
        let files = self.files.iter().map(|file| &file.path);
        let holding: BTreeSet<SafePath> = files
            .chain(&self.folders)
            .filter_map(SafePath::parent)
            .collect();
        let folders = self.folders.iter();
        folders.filter(|folder| !holding.contains(folder)).count()
    }

    /// What is offered, in words.
    fn contents(&self) -> String {
        let files = match self.files.len() {
            1 => "1 file".to_owned(),
            files => format!("{files} files"),
        };
        match self.empty_folders() {
            0 => files,
            1 => format!("{files} and 1 empty folder"),
            folders => format!("{files} and {folders} empty folders"),
        }
    }

    /// The one file, where there is one.
    pub(super) fn only(&self) -> Option<&SafePath> {
        match &self.files[..] {
            [only] => Some(&only.path),
            _ => None,
        }
    }

    /// What is to come at most, in bytes.
    pub(super) fn needed_bytes(&self) -> u64 {
        let coming = self
            .files
            .iter()
            .filter(|file| file.planned != Planned::UpToDate);
        coming.map(|file| file.bytes).sum()
    }

    /// Shows what there is, where it goes and what is there already.
    pub(super) fn show(
        &self,
        placement: &Placement,
        (folder, sender): (&Folder, &NodeName),
        output: &Output,
    ) {
        for file in self.files.iter().filter(|_| output.is_json()) {
            let fields = json!({
                "path": String::from_utf8_lossy(file.path.as_bytes()),
                "size": file.bytes,
                "action": word(file.planned).replace(' ', "_"),
            });
            output.machine("offered", fields);
        }
        let total_bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        let fields = json!({
            "files": self.files.len(),
            "empty_folders": self.empty_folders(),
            "left_out": self.left_out.count(),
            "bytes": total_bytes,
            "needed_bytes": self.needed_bytes(),
            "free_bytes": folder.free_bytes().ok(),
        });
        output.event("listed", fields, || {
            let mut text = format!(
                "{sender} offers {}, {}:\n",
                self.contents(),
                size(total_bytes)
            );
            if self.files.len() <= LINES_MAX {
                text.push_str(&self.lines());
            } else {
                text.push_str(&self.tops());
            }
            match self.left_out.count() {
                0 => {}
                1 => text.push_str(&format!(
                    "\n1 entry is left out by {sender}:\n{}",
                    self.left_out.lines()
                )),
                count => text.push_str(&format!(
                    "\n{count} entries are left out by {sender}:\n{}",
                    self.left_out.lines()
                )),
            }
            for (top, placed) in placement.moved() {
                text.push_str(&format!(
                    "\n{top} goes into '{placed}': other files are in the {top} that is there"
                ));
            }
            text.push_str(&format!("\n{}", self.standing(folder)));
            text
        });
    }

    fn lines(&self) -> String {
        let row = |file: &Listed| {
            let word = match file.planned {
                Planned::Fetch => "",
                other => word(other),
            };
            vec![
                format!("  {}", file.path),
                size(file.bytes),
                word.to_owned(),
            ]
        };
        let rows: Vec<_> = self.files.iter().map(row).collect();
        table(&rows)
    }

    /// By what lies at the top: nothing is left out of the sums.
    fn tops(&self) -> String {
        let mut tops: BTreeMap<SafePath, (u64, u64)> = BTreeMap::new();
        for file in &self.files {
            let sums = tops.entry(top_of(&file.path)).or_default();
            sums.0 += 1;
            sums.1 += file.bytes;
        }
        let shown = tops.iter().take(LINES_MAX);
        let mut rows: Vec<Vec<String>> = shown
            .map(|(top, (files, bytes))| {
                vec![format!("  {top}"), format!("{files} file(s)"), size(*bytes)]
            })
            .collect();
        if tops.len() > LINES_MAX {
            let rest = tops.values().skip(LINES_MAX);
            let (files, bytes) = rest.fold((0, 0), |sum, top| (sum.0 + top.0, sum.1 + top.1));
            let more = format!("  … and {} more", tops.len() - LINES_MAX);
            rows.push(vec![more, format!("{files} file(s)"), size(bytes)]);
        }
        table(&rows)
    }

    fn standing(&self, folder: &Folder) -> String {
        let count = |planned| {
            self.files
                .iter()
                .filter(|file| file.planned == planned)
                .count()
        };
        let mut text = format!("{} to come", size(self.needed_bytes()));
        for (count, what) in [
            (count(Planned::UpToDate), "there already"),
            (count(Planned::Replace), "replace others"),
            (
                count(Planned::Differs),
                "differ from what is there and stay out (see --overwrite)",
            ),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        if let Ok(free_bytes) = folder.free_bytes() {
            text.push_str(&format!(
                "; {} free in {}",
                size(free_bytes),
                folder.path().display()
            ));
        }
        text
    }

    /// Asks whether it is wanted.
    pub(super) async fn ask(&self, placement: &Placement, output: &Output) -> Result<(), Failure> {
        if !std::io::stdin().is_terminal() {
            let text = "there is nobody to ask: use -y to take it without a question";
            return Err(Failure::new(Code::Usage, text));
        }
        let mut lines = typed_lines();
        loop {
            output.note("Receive it? [Y]es, [n]o, [l]ist all");
            let line = lines.recv().await.unwrap_or_else(|| "n".to_owned());
            match line.trim().to_ascii_lowercase().as_str() {
                "" | "y" | "yes" => return Ok(()),
                "l" | "list" => {
                    for file in &self.files {
                        let target = placement.target_of(&file.path);
                        output.note(&format!(
                            "  {target}  {}  {}",
                            size(file.bytes),
                            word(file.planned)
                        ));
                    }
                }
                "n" | "no" | "q" => {
                    let text = "nothing was taken";
                    return Err(Failure::new(Code::Interrupted, text));
                }
                _ => {}
            }
        }
    }
}

fn word(planned: Planned) -> &'static str {
    match planned {
        Planned::Fetch => "fetch",
        Planned::Replace => "replaces another",
        Planned::UpToDate => "there already",
        Planned::Differs => "differs from what is there",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_one_by_one_is_counted() {
        let mut listing = Listing::default();
        for number in 0..100 {
            let path = format!("{number:02}.txt").parse().unwrap();
            listing.push(path, 1_000_000, Planned::Fetch);
        }
        let shown = listing.tops();
        assert!(shown.contains("39.txt") && !shown.contains("40.txt"));
        let last = shown.lines().last().unwrap();
        for told in ["… and 60 more", "60 file(s)", "57.22 MiB"] {
            assert!(last.contains(told), "{told} in {last:?}");
        }
    }
}
