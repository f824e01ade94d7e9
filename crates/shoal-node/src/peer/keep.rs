//! Keeps the session with the server: announces, serves, and connects again when it is lost.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_core::backoff::Backoff;
use shoal_link::LinkError;
use shoal_wire::message::{Bounded, ErrorReport, FileAnnounce};
use shoal_wire::{Communication, Refusal};

use super::answers::{Answers, ToServer};
use super::{Event, Shared};
use crate::requests::{RequestError, serve_streams};
use crate::session::Session;
use crate::share::Batch;

/// Wait after the first failure, doubled with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two tries.
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// A session that lasted this long was a success: after a shorter one the waits go on growing, so
/// that a server that ends every session at once is not stormed.
const SESSION_LASTED: Duration = Duration::from_secs(30);
/// Shortest and longest wait before an announce that was turned down for the time being is tried
/// again, whatever the server says.
const RETRY_PAUSE: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(300);

/// Time between two requests for a pass to the relay, which holds for a day.
const PASS_RENEWAL: Duration = Duration::from_secs(6 * 3600);

/// Runs sessions one after the other until the node shuts down.
pub(super) async fn keep_session(shared: Arc<Shared>, first: Session) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    let mut session = first;
    loop {
        let began = Instant::now();
        let end = run(&shared, &session).await;
        if began.elapsed() >= SESSION_LASTED {
            backoff.handle_success();
        }
        shared.disconnected();
        if end == LinkError::ClosedHere(Refusal::ShuttingDown) {
            return;
        }
        let mut reason = end.to_string();
        session = loop {
            let retry_in = backoff.handle_failure(&mut rand::rng());
            tracing::warn!(%reason, ?retry_in, "not connected to the server");
            shared.tell(Event::Disconnected {
                reason: reason.clone(),
                retry_in,
            });
            tokio::time::sleep(retry_in).await;
            match Session::connect(&shared.connect).await {
                Ok(session) => break session,
                Err(error) => reason = error.to_string(),
            }
        };
        shared.connected(&session);
    }
}

/// Serves and announces on one session until its link ends.
async fn run(shared: &Arc<Shared>, session: &Session) -> LinkError {
    let link = session.link();
    let answers = Arc::new(Answers::new(Arc::clone(shared), ToServer));
    tokio::select! {
        end = serve_streams(link, &shared.tasks, answers) => end,
        end = announce(shared, session) => end,
        end = stay_at_the_relay(shared, session) => end,
    }
}

/// Can be reached at the server's relay, and reaches others there, while the session lasts.
async fn stay_at_the_relay(shared: &Shared, session: &Session) -> LinkError {
    while let Some((relay, _)) = session.relay().await {
        if let Err(error) = shared.connect.endpoint.join_relay(&relay).await {
            tracing::warn!(%error, "this peer cannot be reached through the relay");
        }
        shared.relays.set(vec![relay]);
        tokio::time::sleep(PASS_RENEWAL).await;
    }
    session.link().closed().await
}

/// Announces the share and then its changes.
async fn announce(shared: &Shared, session: &Session) -> LinkError {
    let mut feed = shared.share.feed();
    let mut sequence = 0;
    let mut is_whole = false;
    loop {
        let batch = feed.next().await;
        let is_complete = batch.complete;
        let message = message(batch, sequence);
        match deliver(shared, session, &message, sequence).await {
            // Whoever heard of the wait hears of its end.
            Ok(has_waited) => is_whole &= !has_waited,
            Err(error) => {
                tracing::warn!(%error, "announcing failed");
                session.link().close(error.refusal());
                return session.link().closed().await;
            }
        }
        sequence += 1;
        let files = shared.share.totals().files;
        shared.live().status.announced_files = files;
        if is_complete && !is_whole {
            is_whole = true;
            tracing::info!(files, "announced");
            shared.tell(Event::Announced { files });
        }
    }
}

fn message(batch: Batch, sequence: u64) -> Communication {
    Communication::FileAnnounce(FileAnnounce {
        sequence,
        snapshot: batch.snapshot,
        complete: batch.complete,
        added: Bounded::truncated(batch.added),
        removed: Bounded::truncated(batch.removed),
    })
}

/// Announces one batch; waits and repeats it where the server says when it may be tried again.
/// Tells whether it had to wait.
async fn deliver(
    shared: &Shared,
    session: &Session,
    message: &Communication,
    sequence: u64,
) -> Result<bool, RequestError> {
    let mut told: Option<ErrorReport> = None;
    loop {
        match session.request(message).await {
            Ok(Communication::FileAcknowledge { sequence: taken }) if taken == sequence => {
                return Ok(told.is_some());
            }
            Ok(_) => return Err(RequestError::Unexpected),
            Err(RequestError::Refused(report)) => {
                let Some(pause_ms) = report.retry_after_ms else {
                    return Err(RequestError::Refused(report));
                };
                let pause = Duration::from_millis(pause_ms.into());
                let pause = pause.clamp(*RETRY_PAUSE.start(), *RETRY_PAUSE.end());
                if told.as_ref() != Some(&report) {
                    announcing_waits(shared, &report, pause);
                    told = Some(report);
                }
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn announcing_waits(shared: &Shared, report: &ErrorReport, retry_in: Duration) {
    let detail = report.detail.to_string();
    let reason = if detail.is_empty() {
        report.refusal.text().to_owned()
    } else {
        detail
    };
    tracing::warn!(%reason, ?retry_in, "the server takes no announcements at the moment");
    shared.tell(Event::Waiting { reason, retry_in });
}
