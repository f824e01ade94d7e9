//! Orders that move files: into the server's folder, out of it, and between two peers.
//!
//! A folder is moved file by file, each under the path that it has at its source, and stops at
//! the first that fails; what arrived stays.

use std::time::Duration;

use shoal_node::fetch::{FetchJob, FetchPolicy, Source};
use shoal_node::requests::{RequestError, answer, converse};
use shoal_node::transfers::{Direction, Transfer};
use shoal_wire::message::{FileOffer, Matched, Outcome, Provider, TransferProgress, Wanted};
use shoal_wire::{Communication, Refusal, SafePath, ShortText};

use super::conversation::Conversation;
use super::{Orders, Reached, path_text, tell};
use crate::catalog::Nodes;
use crate::control::socket::{Events, Failure};
use crate::control::{ControlEvent, TransferOutcome};
use crate::lookup::{Asker, Found};
use crate::refused::refused;

/// How long a receiver may go without a word: it reports while bytes arrive, and may then verify
/// and sync a large file in silence.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// A file or folder at one node, looked up page by page.
struct Wish<'a> {
    nodes: Nodes,
    file: &'a str,
    asker: Asker,
    after: Option<SafePath>,
    over: bool,
}

impl Orders {
    pub(super) async fn fetch(
        &self,
        peer: &str,
        file: &str,
        overwrite: bool,
        events: &Events,
    ) -> Result<(), Failure> {
        let peer = self.reach(peer).await?;
        let mut wish = Wish::new(&peer, file, self.own_asker());
        while let Some(providers) = self.next_page(&mut wish).await? {
            for provider in providers {
                self.fetch_one(&peer, provider, overwrite, events).await?;
            }
        }
        Ok(())
    }

    async fn fetch_one(
        &self,
        peer: &Reached,
        mut provider: Provider,
        overwrite: bool,
        events: &Events,
    ) -> Result<(), Failure> {
        provider.grant = None;
        let target = provider.entry.path.clone();
        let coordinator = &self.coordinator;
        let transfer =
            coordinator
                .transfers
                .begin(Direction::Receiving, target.clone(), peer.name.clone());
        let _taken_back = CancelOnDrop(transfer.clone());
        let fetched = coordinator.fetcher.fetch(FetchJob {
            further: None,
            sources: vec![Source {
                provider,
                link: Some(peer.link.clone()),
            }],
            folder: coordinator.share.folder().clone(),
            target: target.clone(),
            range: None,
            overwrite,
            policy: FetchPolicy::default(),
            transfer: transfer.clone(),
        });
        let mut fetched = std::pin::pin!(fetched);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut fetched => break result,
                () = transfer.changed() => {
                    let progress = transfer.snapshot().progress();
                    tell(events, progress_event(&target, &progress)).await?;
                }
            }
        };
        let fetched = result.map_err(|error| Failure {
            refusal: error.refusal(),
            message: format!("{target}: {error}"),
        })?;
        let event = transferred_event(&target, fetched.outcome, fetched.total_bytes);
        tell(events, event).await
    }

    pub(super) async fn push(
        &self,
        file: &str,
        peer: &str,
        overwrite: bool,
        events: &Events,
    ) -> Result<(), Failure> {
        let peer = self.reach(peer).await?;
        let mut wish = Wish {
            nodes: Nodes::from([self.coordinator.node()]),
            file,
            asker: asker(&peer),
            after: None,
            over: false,
        };
        while let Some(providers) = self.next_page(&mut wish).await? {
            for mut provider in providers {
                if let Some(current) = self.coordinator.share.file(&provider.entry.path) {
                    provider.entry = current.entry;
                }
                offer(&peer, provider, overwrite, events).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn transfer(
        &self,
        from: &str,
        file: &str,
        (to, overwrite): (&str, bool),
        events: &Events,
    ) -> Result<(), Failure> {
        let from = self.reach(from).await?;
        let to = self.reach(to).await?;
        if from.node == to.node {
            return Err(refused(Refusal::Denied, "a peer has its own files already").into());
        }
        let mut wish = Wish::new(&from, file, asker(&to));
        while let Some(providers) = self.next_page(&mut wish).await? {
            for provider in providers {
                offer(&to, provider, overwrite, events).await?;
            }
        }
        Ok(())
    }

    /// The next files of what is wished for, `None` after the last.
    async fn next_page(&self, wish: &mut Wish<'_>) -> Result<Option<Vec<Provider>>, Failure> {
        if wish.over {
            return Ok(None);
        }
        let wanted = Wanted::Text(ShortText::new(wish.file));
        let after = wish.after.take();
        let found = self
            .coordinator
            .find(wish.asker, &wish.nodes, wanted, after)
            .await
            .map_err(|report| match report.refusal {
                Refusal::NotFound => refused(Refusal::NotFound, wish.file),
                _ => report,
            })?;
        let Found {
            matched,
            mut providers,
            more,
        } = found;
        match matched {
            Matched::File => {
                providers.truncate(1);
                wish.over = true;
            }
            Matched::Folder(_) => {
                wish.after = providers.last().map(|last| last.entry.path.clone());
                wish.over = !more || wish.after.is_none();
            }
            Matched::Several => {
                let shown = providers.iter().take(4);
                let paths: Vec<String> = shown.map(|one| one.entry.path.to_string()).collect();
                let detail = format!("{} matches {}", wish.file, paths.join(", "));
                return Err(refused(Refusal::Ambiguous, detail).into());
            }
        }
        Ok(Some(providers))
    }
}

impl<'a> Wish<'a> {
    fn new(at: &Reached, file: &'a str, asker: Asker) -> Self {
        Self {
            nodes: Nodes::from([at.node]),
            file,
            asker,
            after: None,
            over: false,
        }
    }
}

/// Offers a file to a peer and relays what the peer says of it until it has it.
async fn offer(
    to: &Reached,
    provider: Provider,
    overwrite: bool,
    events: &Events,
) -> Result<(), Failure> {
    let target = provider.entry.path.clone();
    let named = |error: RequestError| Failure {
        refusal: error.refusal(),
        message: format!("{target}: {error}"),
    };
    let offer = Communication::FileOffer(FileOffer {
        provider,
        target: target.clone(),
        overwrite,
    });
    let stream = converse(&to.link, &offer).await.map_err(named)?;
    let mut conversation = Conversation::new(stream);
    loop {
        let heard = answer(conversation.stream(), PROGRESS_DEADLINE).await;
        let Communication::TransferProgress(progress) = heard.map_err(named)? else {
            return Err(named(RequestError::Unexpected));
        };
        tell(events, progress_event(&target, &progress)).await?;
        if let Some(outcome) = progress.outcome {
            conversation.ended();
            let event = transferred_event(&target, outcome, progress.total_bytes);
            return tell(events, event).await;
        }
    }
}

/// Stops a transfer that nobody waits for.
struct CancelOnDrop(Transfer);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn asker(peer: &Reached) -> Asker {
    Asker {
        node: peer.node,
        observed: peer.link.path().remote.ip(),
    }
}

fn progress_event(path: &SafePath, progress: &TransferProgress) -> ControlEvent {
    ControlEvent::Progress {
        path: path_text(path),
        total_bytes: progress.total_bytes,
        verified_bytes: progress.verified_bytes,
        durable_bytes: progress.durable_bytes,
    }
}

fn transferred_event(path: &SafePath, outcome: Outcome, total_bytes: u64) -> ControlEvent {
    let (outcome, hash) = match outcome {
        Outcome::Fetched(hash) => (TransferOutcome::Fetched, hash),
        Outcome::UpToDate(hash) => (TransferOutcome::UpToDate, hash),
    };
    ControlEvent::Transferred {
        path: path_text(path),
        outcome,
        hash: hash.to_string(),
        total_bytes,
    }
}
