//! Answering for a folder: its manifest, page by page.

use shoal_link::Stream;
use shoal_store::attributes::Wanted;
use shoal_wire::limits::{BATCH_TARGET_BYTES, PAGE_MAX_ENTRIES};
use shoal_wire::manifest::Omission;
use shoal_wire::message::{Bounded, ManifestRequest};
use shoal_wire::{Communication, Refusal};

use super::{Asker, Provide, Stop, refuse};
use crate::share::Manifest;

/// What an omission takes in a frame beyond its path, in bytes, at most.
const OMISSION_BYTES: usize = 8;

impl Provide {
    /// Answers one [`ManifestRequest`] on its stream.
    pub(super) async fn serve_manifest(
        &self,
        request: ManifestRequest,
        asker: Asker,
        mut stream: Stream,
    ) {
        let told = tokio::select! {
            told = self.tell_manifest(&request, &asker, &mut stream) => told,
            () = self.tasks.cancelled() => Err(refuse(Refusal::ShuttingDown, "")),
        };
        if let Err(Stop::Refuse(refusal, detail)) = told {
            tracing::debug!(peer = %asker.name, %refusal, "manifest refused");
            let _gone = stream
                .send
                .say(&Communication::refused(refusal, &detail))
                .await;
        }
        stream.send.finish();
    }

    async fn tell_manifest(
        &self,
        request: &ManifestRequest,
        asker: &Asker,
        stream: &mut Stream,
    ) -> Result<(), Stop> {
        let scope = self.scope_of(request.grant.as_ref(), asker)?;
        if !scope.covers_folder(request.folder.as_ref()) {
            return Err(refuse(
                Refusal::NotGranted,
                "the grant does not cover this folder",
            ));
        }
        // Before the end of the first scan it would say that there is less than there is.
        self.share.ready().await;
        let wanted = Wanted {
            owner: request.owner,
            xattrs: request.xattrs,
        };
        let left_out = self.share.skipped().below(request.folder.as_ref());
        let mut is_empty = left_out.0 == 0;
        tell_omissions(left_out, stream).await?;
        let mut manifest = Manifest::new(self.share.clone(), request.folder.clone(), wanted);
        loop {
            // One page at a time, so that a slow reader holds no thread.
            let (back, (entries, more)) = self
                .tasks
                .blocking(move || {
                    let page = manifest.next_page();
                    (manifest, page)
                })
                .await;
            manifest = back;
            is_empty &= entries.is_empty();
            if is_empty && !more {
                return Err(refuse(Refusal::NotFound, "no such folder"));
            }
            if entries.is_empty() && more {
                continue;
            }
            let entries = Bounded::truncated(entries);
            let page = Communication::ManifestPage { entries, more };
            stream.send.say(&page).await?;
            if !more {
                return Ok(());
            }
        }
    }
}

/// Says what the manifest that follows does not have.
async fn tell_omissions(
    (count, named): (u64, Vec<Omission>),
    stream: &mut Stream,
) -> Result<(), Stop> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    let mut named = named.into_iter().peekable();
    while let Some(omission) = named.next() {
        bytes += omission.path.as_bytes().len() + OMISSION_BYTES;
        page.push(omission);
        let is_full = bytes >= BATCH_TARGET_BYTES || page.len() == PAGE_MAX_ENTRIES;
        if is_full || named.peek().is_none() {
            bytes = 0;
            let omissions = Bounded::truncated(std::mem::take(&mut page));
            let message = Communication::ManifestOmissions { count, omissions };
            stream.send.say(&message).await?;
        }
    }
    Ok(())
}
