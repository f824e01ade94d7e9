//! Answering for a folder: its manifest, page by page.

use shoal_link::Stream;
use shoal_store::attributes::Wanted;
use shoal_wire::message::{Bounded, ManifestRequest};
use shoal_wire::{Communication, Refusal};

use super::{Asker, Provide, Stop, refuse};
use crate::share::Manifest;

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
        let mut manifest = Manifest::new(self.share.clone(), request.folder.clone(), wanted);
        let mut is_empty = true;
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
