//! Fetching what was accepted: past interruptions, and changes of the sender's address.

use std::time::{Duration, Instant};

use shoal_node::fetch::{FetchError, TreeEvent, TreeJob, TreeOptions};
use shoal_store::folder::Folder;
use tokio::sync::mpsc;

use super::accepting::Accepted;
use super::{EVENTS_WAITING, Receiving};
use crate::commands::get::choose::Selection;
use crate::commands::get::course::{Course, There};
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::progress::Progress;

/// Time between two looks at the counters.
const TICK: Duration = Duration::from_millis(100);
/// How long a sender that was lost is tried to be reached again while nothing comes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Wait before the first new try, doubled with each further one that brings nothing.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two tries.
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// What was accepted, and how far it is.
struct Account<'a> {
    accepted: &'a Accepted,
    course: Course,
    progress: Progress,
}

impl Account<'_> {
    fn happened(&mut self, event: TreeEvent) {
        if let TreeEvent::Ended {
            target,
            result: Ok(fetched),
        } = &event
        {
            self.accepted.arrived(target, fetched.total_bytes);
        }
        self.course.happened(event);
    }

    fn show(&mut self) {
        self.progress.show(&self.course.standing());
    }
}

impl Receiving<'_> {
    /// Fetches what was accepted, also past interruptions of the network; what is there then.
    pub(super) async fn fetch(
        &mut self,
        folder: &Folder,
        accepted: &Accepted,
        interrupt: &mut Interrupt,
    ) -> Result<There, Failure> {
        let shown = folder.path().display().to_string();
        let mut account = Account {
            accepted,
            course: Course::of_offer(&self.source.provider.name, shown, self.output),
            progress: Progress::start(self.output),
        };
        let (mut since, mut pause) = (Instant::now(), RETRY_FIRST);
        let mut is_interrupted = false;
        for (remote, target) in accepted.trees() {
            let mut before = None;
            loop {
                let options = TreeOptions {
                    choose: Some(accepted.choose(
                        remote.as_ref(),
                        self.how.selection.as_ref().map(Selection::choose),
                    )),
                    ..self.how.options()
                };
                let job = self.job(folder, (remote.clone(), target.clone()), options);
                let of_job = job.transfer.snapshot().path;
                let Some(fetched) = self.follow(job, &mut account, interrupt).await else {
                    is_interrupted = true;
                    break;
                };
                let Err(error) = fetched else { break };
                let moved = Some(account.course.standing().verified_bytes);
                if moved > before {
                    (before, since, pause) = (moved, Instant::now(), RETRY_FIRST);
                }
                if !error.may_pass() || since.elapsed() > PATIENCE {
                    account.course.broke_off(&of_job, &error);
                    break;
                }
                self.output.note(&format!(
                    "{error}; trying again while the sender may be there"
                ));
                let waited = async {
                    tokio::time::sleep(pause).await;
                    // At first it is dialled where it was, and by its relay, as a new look takes time.
                    if pause > RETRY_FIRST {
                        let _found = self.look_around().await;
                    }
                };
                tokio::select! {
                    () = waited => pause = RETRY_LONGEST.min(2 * pause),
                    () = interrupt.received() => {
                        is_interrupted = true;
                        break;
                    }
                }
            }
            if is_interrupted {
                break;
            }
        }
        accepted.warn_of_others(self.output);
        let Account {
            mut course,
            progress,
            ..
        } = account;
        let took = progress.end();
        let missing = accepted.missing();
        if missing > 0 && course.has_all() && !is_interrupted {
            course.missed(missing);
        }
        course.conclude(took, is_interrupted)
    }

    /// One try at one tree; `None` where it was interrupted.
    async fn follow(
        &self,
        job: TreeJob,
        account: &mut Account<'_>,
        interrupt: &mut Interrupt,
    ) -> Option<Result<(), FetchError>> {
        account.course.began(job.transfer.clone());
        let (events, mut happened) = mpsc::channel(EVENTS_WAITING);
        let mut fetching = std::pin::pin!(self.fetcher.fetch_tree(job, events));
        let mut ticks = tokio::time::interval(TICK);
        let (mut some, mut ended) = (Vec::new(), None);
        let (mut is_drained, mut is_interrupted) = (false, false);
        while !is_drained || ended.is_none() {
            tokio::select! {
                count = happened.recv_many(&mut some, EVENTS_WAITING), if !is_drained => {
                    is_drained = count == 0;
                    some.drain(..).for_each(|event| account.happened(event));
                }
                result = &mut fetching, if ended.is_none() => ended = Some(result),
                _ = ticks.tick() => account.show(),
                () = interrupt.received() => {
                    is_interrupted = true;
                    account.course.cancel();
                }
            }
        }
        account.show();
        if is_interrupted { None } else { ended }
    }
}
