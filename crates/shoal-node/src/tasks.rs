//! Every task and every piece of blocking work of a process, tracked and cancellable.
//!
//! The only module that spawns. A [`Tasks`] is a branch of one tree: cancelling it cancels what
//! hangs below it, and [`Tasks::shutdown`] waits until all of it has ended. Blocking work (disk,
//! hashing) shares a fixed number of threads, so that no flood of requests starves the runtime.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Threads for blocking work beyond one per core: disks answer several requests at once.
const EXTRA_THREADS: usize = 6;

/// A branch of the tree of tasks. Cheap to clone; clones are the same branch.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    blocking: Arc<Semaphore>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// The root of a process's tasks.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            blocking: Arc::new(Semaphore::new(cores + EXTRA_THREADS)),
        }
    }

    /// Runs `work` until it ends or this branch is cancelled.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            let _cancelled = stop.run_until_cancelled(work).await;
        });
    }

    /// A branch that can be cancelled alone and is cancelled with this one.
    pub fn child(&self) -> Tasks {
        Self {
            tracker: self.tracker.clone(),
            stop: self.stop.child_token(),
            blocking: Arc::clone(&self.blocking),
        }
    }

    /// Asks everything on this branch to stop.
    pub fn cancel(&self) {
        self.stop.cancel();
    }

    /// Waits until this branch is cancelled.
    pub async fn cancelled(&self) {
        self.stop.cancelled().await;
    }

    /// Whether this branch is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Cancels and waits for the whole tree, at most `deadline`. Tells whether all of it ended.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok()
    }

    /// Runs blocking work on the bounded pool and gives its result. The work goes on to its end
    /// even when nobody waits for the result any more.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.start_blocking(work).await.result().await
    }

    /// Begins blocking work on the bounded pool, once it has a free thread.
    pub async fn start_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Running<T> {
        let permit = Arc::clone(&self.blocking).acquire_owned().await;
        let handle = self.tracker.spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        Running {
            handle,
            result: None,
        }
    }
}

/// Blocking work that has begun; it goes on to its end even when this is dropped.
#[derive(Debug)]
pub struct Running<T> {
    handle: JoinHandle<T>,
    result: Option<T>,
}

impl<T> Running<T> {
    /// Waits until it has ended. May be dropped and called again.
    pub async fn ended(&mut self) {
        if self.result.is_none() {
            self.result = Some(joined(&mut self.handle).await);
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.result.is_some() || self.handle.is_finished()
    }

    /// Waits for its result.
    pub async fn result(mut self) -> T {
        match self.result.take() {
            Some(result) => result,
            None => joined(&mut self.handle).await,
        }
    }
}

async fn joined<T>(handle: &mut JoinHandle<T>) -> T {
    match handle.await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away: nobody is left to hear the result.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cancelled_branch_leaves_its_parent_alone() {
        let tasks = Tasks::new();
        let child = tasks.child();
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        child.spawn(async move {
            let _held = done;
            std::future::pending::<()>().await;
        });
        child.cancel();
        assert!(ended.await.is_err());
        assert!(!tasks.is_cancelled());
        assert!(tasks.shutdown(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn shutdown_waits_for_blocking_work() {
        let tasks = Tasks::new();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let worker = tasks.clone();
        tasks.spawn(async move {
            worker
                .blocking(move || {
                    let _ = started.send(());
                    gone.recv().unwrap();
                })
                .await;
        });
        has_started.await.unwrap();
        assert!(!tasks.shutdown(Duration::from_millis(10)).await);
        go.send(()).unwrap();
        assert!(tasks.shutdown(Duration::from_secs(10)).await);
    }
}
