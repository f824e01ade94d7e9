//! `shoal receive -o -`: one file, verified and whole, to standard output. It is received once all of
//! it is written there, and not before.

use std::io;
use std::path::Path;

use shoal_store::folder::Folder;
use shoal_wire::NodeName;

use super::Receiving;
use super::accepting::{Accepted, Placement};
use super::listing::Listing;
use crate::commands::get::course::There;
use crate::commands::get::interrupted;
use crate::commands::get::left_out::LeftOut;
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::unwritable;

impl Receiving<'_> {
    /// Fetches the one file of the offer beside the state, verified and whole, and writes it out.
    pub(super) async fn write_out(
        mut self,
        beside: &Path,
        interrupt: &mut Interrupt,
    ) -> Result<NodeName, Failure> {
        if self.output.is_json() {
            let text = "standard output cannot take both the file and JSON: leave one out";
            return Err(Failure::new(Code::Usage, text));
        }
        let kept = tempfile::Builder::new()
            .prefix("stdout-")
            .tempdir_in(beside)
            .map_err(|error| Failure::local(format!("cannot keep the file: {error}")))?;
        let folder =
            Folder::open_own(kept.path()).map_err(|error| Failure::local(error.to_string()))?;
        let (offer, listing) = tokio::select! {
            listed = self.list(&folder) => listed?,
            () = interrupt.received() => return Err(interrupted()),
        };
        let silent = self.output.quiet();
        let mut quiet = Receiving {
            output: &silent,
            ..self
        };
        let received = quiet.take_out(&folder, listing, interrupt).await;
        quiet.tell(&offer, &received, interrupt).await;
        LeftOut::settle(received?.left_out)?;
        Ok(quiet.source.provider.name)
    }

    /// Takes the one file that is listed, and writes it out.
    async fn take_out(
        &mut self,
        folder: &Folder,
        listing: Listing,
        interrupt: &mut Interrupt,
    ) -> Result<There, Failure> {
        let only = listing.only().cloned().ok_or_else(|| {
            let text = "only a single file goes to standard output: choose one with --include, or a folder with -o";
            Failure::new(Code::Usage, text)
        })?;
        let accepted = Accepted::new(listing, Placement::default());
        let there = self.fetch(folder, &accepted, interrupt).await?;
        let path = folder.path_of(&only);
        let output = self.output.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut file = std::fs::File::open(path)?;
            output.content(&mut file)
        });
        let written = tokio::select! {
            written = writing => written.map_err(io::Error::other).flatten(),
            () = interrupt.received() => return Err(interrupted()),
        };
        written.map_err(|error| unwritable(&error))?;
        Ok(there)
    }
}
