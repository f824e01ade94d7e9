//! A node between a receiver and a provider that lets so many bytes through and then waits.
//!
//! Each side meets a real counterpart and nothing but time is added: the provider is paused by the
//! flow control of its link, as by a receiver that is slow.

use std::sync::Arc;

use shoal_link::{Endpoint, Link, Protocol, RecvStream, SendStream, StreamError};
use shoal_node::tasks::Tasks;
use shoal_wire::Refusal;
use tokio::sync::watch;

use super::{dial, endpoint, soon};

pub(crate) struct Gate {
    pub(crate) endpoint: Endpoint,
    limit: watch::Sender<u64>,
    passed: Arc<watch::Sender<u64>>,
    tasks: Tasks,
}

impl Gate {
    /// Lets `limit_bytes` from `provider` through until it is opened.
    pub(crate) async fn before(provider: &Endpoint, limit_bytes: u64) -> Self {
        let (near, tasks) = (endpoint(&[Protocol::Transfer]).await, Tasks::new());
        let limit = watch::Sender::new(limit_bytes);
        let passed = Arc::new(watch::Sender::new(0));
        let (accepting, provider) = (near.clone(), provider.clone());
        let (running, counting, allowed) = (tasks.clone(), Arc::clone(&passed), limit.subscribe());
        tasks.spawn(async move {
            while let Some(link) = accepting.accept().await {
                let onward = dial(&accepting, &provider).await;
                let meter = Meter {
                    allowed: allowed.clone(),
                    passed: Arc::clone(&counting),
                };
                let tasks = running.clone();
                running.spawn(async move { join(link, onward, &meter, &tasks).await });
            }
        });
        Self {
            endpoint: near,
            limit,
            passed,
            tasks,
        }
    }

    /// Waits until as much has passed as may.
    pub(crate) async fn reached(&self) {
        let limit = *self.limit.borrow();
        let mut passed = self.passed.subscribe();
        soon(passed.wait_for(|bytes| *bytes >= limit))
            .await
            .expect("the gate is there");
    }

    /// Lets everything through.
    pub(crate) fn open(&self) {
        self.limit.send_replace(u64::MAX);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

#[derive(Clone)]
struct Meter {
    allowed: watch::Receiver<u64>,
    passed: Arc<watch::Sender<u64>>,
}

impl Meter {
    /// How much may pass now, in bytes; waits until it is something.
    async fn allowance(&mut self) -> u64 {
        let passed = *self.passed.borrow();
        let allowed = self.allowed.wait_for(|limit| *limit > passed).await;
        allowed.map_or(0, |limit| *limit - passed)
    }
}

async fn join(link: Link, onward: Link, meter: &Meter, tasks: &Tasks) {
    while let Ok(asked) = link.accept().await {
        let Ok(answered) = onward.open().await else {
            return;
        };
        let meter = meter.clone();
        tasks.spawn(copy(asked.recv, answered.send, None));
        tasks.spawn(copy(answered.recv, asked.send, Some(meter)));
    }
    onward.close(Refusal::Done);
}

/// Copies one direction to its end, be it a reset.
async fn copy(mut from: RecvStream, mut to: SendStream, mut meter: Option<Meter>) {
    loop {
        let allowed = match &mut meter {
            Some(meter) => meter.allowance().await,
            None => u64::MAX,
        };
        let most = usize::try_from(allowed.min(1 << 16)).unwrap_or(1);
        match from.read_chunk(most).await {
            Ok(Some(bytes)) => {
                let len = bytes.len() as u64;
                if to.write_chunk(bytes).await.is_err() {
                    return;
                }
                if let Some(meter) = &meter {
                    meter.passed.send_modify(|passed| *passed += len);
                }
            }
            Ok(None) => {
                to.finish();
                // The stream must not be dropped before its last bytes are there.
                to.stopped().await;
                return;
            }
            Err(StreamError::Reset(refusal)) => return to.reset(refusal),
            Err(_) => return to.reset(Refusal::Unreachable),
        }
    }
}
