//! What a peer answers: to its server, and to other peers. Whatever is not listed is denied.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoal_link::{Link, Stream};
use shoal_wire::grant::GrantParties;
use shoal_wire::limits::PAGE_MAX_ENTRIES;
use shoal_wire::message::{Bounded, FileList, FileOffer};
use shoal_wire::{Communication, NodeId, NodeName, OfferTicket, Refusal, SignedGrant};
use tokio::sync::SetOnce;

use super::Shared;
use crate::fetch::{FetchJob, FetchPolicy, Source};
use crate::plan::SERVER;
use crate::provide::{Asker, Permission, grant_in, is_about_files};
use crate::requests::Handler;
use crate::transfers::Direction;

/// How long a goodbye on a stream may take to arrive.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// Answers on the control link.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToServer;

/// Answers on a link of another peer.
#[derive(Debug)]
pub(super) struct ToPeers {
    /// Set by the first request that this node's server vouches for.
    vouched: Arc<SetOnce<()>>,
}

impl ToPeers {
    /// Answers a stranger, and says in `vouched` when it is none any more.
    pub(super) fn new(vouched: Arc<SetOnce<()>>) -> Self {
        Self { vouched }
    }
}

/// Answers requests of one kind of asker.
#[derive(Debug)]
pub(super) struct Answers<Who> {
    shared: Arc<Shared>,
    who: Who,
}

impl<Who> Answers<Who> {
    pub(super) fn new(shared: Arc<Shared>, who: Who) -> Self {
        Self { shared, who }
    }
}

impl Handler for Answers<ToServer> {
    async fn handle(&self, first: Communication, mut stream: Stream, link: &Link) {
        let ToServer = self.who;
        match first {
            Communication::FileList(list) => say(&mut stream, &self.page(list)).await,
            first if is_about_files(&first) => {
                let server = self.shared.live().server;
                let asker = server.zip(SERVER.parse().ok());
                let asker = asker.map(|(node, name)| Asker {
                    node,
                    name,
                    permission: Permission::Link,
                });
                self.serve(first, asker, stream).await;
            }
            Communication::FileOffer(offer) => self.accept_offer(offer, stream, link).await,
            Communication::Rescan => {
                let answer = self.rescan().await;
                say(&mut stream, &answer).await;
            }
            Communication::LimitRequest(changes) => {
                let in_force = self.shared.transfers.throttle().change(&changes);
                say(&mut stream, &Communication::LimitsInForce(in_force)).await;
            }
            Communication::OfferNotice { to, ticket } => {
                let answer = self.notice(to, ticket);
                say(&mut stream, &answer).await;
            }
            _ => deny(&mut stream, "a peer does not answer this to its server").await,
        }
    }
}

impl Handler for Answers<ToPeers> {
    async fn handle(&self, first: Communication, mut stream: Stream, link: &Link) {
        if !is_about_files(&first) {
            deny(&mut stream, "peers only ask each other for files").await;
            return;
        }
        let server = self.shared.live().server;
        let asker = link.remote_id().zip(server).and_then(|(node, server)| {
            let name: NodeName = node.short().parse().ok()?;
            self.welcome(grant_in(&first), (server, node), link);
            let permission = Permission::Grant { server };
            Some(Asker {
                node,
                name,
                permission,
            })
        });
        self.serve(first, asker, stream).await;
    }
}

impl Answers<ToPeers> {
    /// Gives a link the windows of a known peer at its first request that is vouched for. What
    /// may be had is for [`crate::provide`] to say, at every request.
    fn welcome(
        &self,
        grant: Option<&SignedGrant>,
        (server, holder): (NodeId, NodeId),
        link: &Link,
    ) {
        if self.who.vouched.initialized() {
            return;
        }
        let parties = GrantParties {
            server,
            provider: self.shared.connect.endpoint.node_id(),
            holder,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = now.map_or(0, |now| now.as_millis() as u64);
        let is_vouched = grant.is_some_and(|grant| grant.scope_for(&parties, now_ms).is_ok());
        if is_vouched && self.who.vouched.set(()).is_ok() {
            link.widen();
        }
    }
}

impl<Who> Answers<Who> {
    async fn serve(&self, first: Communication, asker: Option<Asker>, mut stream: Stream) {
        let Some(asker) = asker else {
            deny(&mut stream, "this node does not know who asks").await;
            return;
        };
        self.shared.provide.answer(first, asker, stream).await;
    }

    fn page(&self, list: FileList) -> Communication {
        let limit = (list.limit as usize).clamp(1, PAGE_MAX_ENTRIES);
        let share = &self.shared.share;
        let (files, more) = share.page(list.prefix.as_ref(), list.after.as_ref(), limit);
        Communication::FileListPage {
            files: Bounded::truncated(files),
            more,
        }
    }

    async fn rescan(&self) -> Communication {
        match self.shared.share.rescan().await {
            Ok(found) => Communication::RescanDone {
                files: found.files,
                changed: found.changed,
                removed: found.removed,
            },
            Err(error) => Communication::refused(Refusal::SourceUnreadable, &error.to_string()),
        }
    }

    /// Tells whoever listens that somebody offers something.
    fn notice(&self, to: NodeId, ticket: OfferTicket) -> Communication {
        let is_own = to == self.shared.connect.endpoint.node_id();
        let heard = match &self.shared.notices {
            Some(notices) if is_own => (notices.0)(ticket),
            _ => Err(Refusal::Declined),
        };
        match heard {
            Ok(()) => Communication::FileAcknowledge { sequence: 0 },
            Err(refusal) => Communication::refused(refusal, ""),
        }
    }

    /// Fetches what the server offers, and reports how far it is until it is over.
    async fn accept_offer(&self, offer: FileOffer, mut stream: Stream, link: &Link) {
        if !self.shared.accepts_offers {
            deny(
                &mut stream,
                "this peer takes no files that it did not ask for",
            )
            .await;
            return;
        }
        let server = self.shared.live().server;
        let is_push = Some(offer.provider.node) == server;
        let transfer = self.shared.transfers.begin(
            Direction::Receiving,
            offer.target.clone(),
            offer.provider.name.clone(),
        );
        let job = FetchJob {
            further: None,
            sources: vec![Source {
                link: is_push.then(|| link.clone()),
                provider: offer.provider,
            }],
            folder: self.shared.share.folder(),
            target: offer.target,
            range: None,
            overwrite: offer.overwrite,
            policy: FetchPolicy::default(),
            transfer: transfer.clone(),
        };
        let mut fetching = std::pin::pin!(self.shared.fetcher.fetch(job));
        let result = loop {
            let Stream { send, .. } = &mut stream;
            tokio::select! {
                result = &mut fetching => break result,
                // Once, because it is over for good: asking again would hold up the whole process.
                _ = send.stopped() => {
                    transfer.cancel();
                    break fetching.await;
                }
                () = transfer.changed() => {
                    let progress = transfer.snapshot().progress();
                    if send.say(&Communication::TransferProgress(progress)).await.is_err() {
                        transfer.cancel();
                        break fetching.await;
                    }
                }
            }
        };
        let last = match &result {
            Ok(_) => Communication::TransferProgress(transfer.snapshot().progress()),
            Err(error) => Communication::refused(error.refusal(), &error.to_string()),
        };
        say(&mut stream, &last).await;
    }
}

async fn deny(stream: &mut Stream, detail: &str) {
    say(stream, &Communication::refused(Refusal::Denied, detail)).await;
}

/// Says the last message of a stream; an asker that is gone hears nothing.
async fn say(stream: &mut Stream, message: &Communication) {
    if stream.send.say(message).await.is_ok() {
        stream.send.finish();
        let _ = tokio::time::timeout(FAREWELL_DEADLINE, stream.send.stopped()).await;
    }
}
