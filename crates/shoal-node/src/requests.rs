//! Requests on a link, in both directions.
//!
//! [`request`] and [`converse`] open a stream and ask; [`serve_streams`] hears what the other side
//! asks and hands each request to a [`Handler`] in a task of its own. Here are the limits that
//! hold for every request whatever it is about: how many at once, how soon its first message must
//! be there, and how fast streams may be opened and thrown away.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_link::{HearError, Link, LinkError, SayError, Stream};
use shoal_wire::message::ErrorReport;
use shoal_wire::{Communication, Refusal};
use tokio::sync::Semaphore;

use crate::tasks::Tasks;

/// How long an answer may take.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long the other side may take to let a question through: a stream is to be opened, and what is
/// said on it taken.
const ASKING_DEADLINE: Duration = Duration::from_secs(20);
/// How soon the first message of a stream must be there: it is sent with the stream's opening.
const FIRST_MESSAGE_DEADLINE: Duration = Duration::from_secs(10);
/// Requests of one link that are worked on at once; more wait in the link's own flow control.
const CONCURRENT_REQUESTS: usize = 64;
/// Streams that brought no valid request, per [`CHURN_WINDOW`], before the link is closed.
const CHURN_LIMIT: u32 = 64;
/// Time over which they are counted.
const CHURN_WINDOW: Duration = Duration::from_secs(10);

/// Why a request brought no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// The other side said no.
    #[error("{}", sentence(.0))]
    Refused(ErrorReport),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The connection ended.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// An answer that does not belong to the question.
    #[error("the other side gave an answer that does not belong to the question")]
    Unexpected,
}

fn sentence(report: &ErrorReport) -> String {
    let detail = report.detail.to_string();
    if detail.is_empty() {
        report.refusal.text().to_owned()
    } else {
        format!("{}: {detail}", report.refusal.text())
    }
}

impl RequestError {
    /// The number that tells another node of it.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(report) => report.refusal,
            Self::TimedOut => Refusal::TimedOut,
            Self::Lost(_) => Refusal::Unreachable,
            Self::Unexpected => Refusal::Unexpected,
        }
    }
}

impl From<LinkError> for RequestError {
    fn from(error: LinkError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<SayError> for RequestError {
    fn from(error: SayError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<HearError> for RequestError {
    fn from(error: HearError) -> Self {
        match error {
            HearError::TimedOut => Self::TimedOut,
            HearError::Decode(_) => Self::Unexpected,
            other => Self::Lost(other.to_string()),
        }
    }
}

/// Opens a stream and says `message` on it, for answers that come in several messages.
///
/// # Errors
/// When the link is gone, or the other side takes no question.
pub async fn converse(link: &Link, message: &Communication) -> Result<Stream, RequestError> {
    let asking = async {
        let mut stream = link.open().await?;
        stream.send.say(message).await?;
        Ok(stream)
    };
    tokio::time::timeout(ASKING_DEADLINE, asking)
        .await
        .unwrap_or(Err(RequestError::TimedOut))
}

/// Asks `message` and hears the one answer. Dropping the future takes the question back.
///
/// # Errors
/// The other side's refusal, or why there is no answer.
pub async fn request(
    link: &Link,
    message: &Communication,
    deadline: Duration,
) -> Result<Communication, RequestError> {
    let asked = async {
        let mut stream = converse(link, message).await?;
        stream.send.finish();
        answer(&mut stream, deadline).await
    };
    tokio::time::timeout(deadline, asked)
        .await
        .unwrap_or(Err(RequestError::TimedOut))
}

/// Hears the next answer on a stream.
///
/// # Errors
/// The other side's refusal, or why there is no answer.
pub async fn answer(
    stream: &mut Stream,
    deadline: Duration,
) -> Result<Communication, RequestError> {
    match stream.recv.hear(deadline).await? {
        Some(Communication::Error(report)) => Err(RequestError::Refused(report)),
        Some(message) => Ok(message),
        None => Err(RequestError::Unexpected),
    }
}

/// What is done with a request.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request whose first message is `first`, on its `stream`. Whatever goes wrong is
    /// said on the stream; a stream that is dropped tells the other side by a reset.
    fn handle(
        &self,
        first: Communication,
        stream: Stream,
        link: &Link,
    ) -> impl Future<Output = ()> + Send;
}

/// Hears requests on `link` until it ends, and gives the reason of its end.
pub async fn serve_streams<H: Handler>(link: &Link, tasks: &Tasks, handler: Arc<H>) -> LinkError {
    let requests = tasks.child();
    let slots = Arc::new(Semaphore::new(CONCURRENT_REQUESTS));
    let churn = Arc::new(Churn::default());
    let end = loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            break link.closed().await;
        };
        let stream = match link.accept().await {
            Ok(stream) => stream,
            Err(end) => break end,
        };
        if churn.is_excessive() {
            link.close(Refusal::Flooded);
            continue;
        }
        let (link, handler, churn) = (link.clone(), Arc::clone(&handler), Arc::clone(&churn));
        requests.spawn(async move {
            serve(stream, &link, &*handler, &churn).await;
            drop(slot);
        });
    };
    requests.cancel();
    end
}

async fn serve<H: Handler>(mut stream: Stream, link: &Link, handler: &H, churn: &Churn) {
    match stream.recv.hear(FIRST_MESSAGE_DEADLINE).await {
        Ok(Some(first)) => handler.handle(first, stream, link).await,
        Ok(None) => churn.count(),
        Err(error) => {
            churn.count();
            let refusal = error.refusal();
            tracing::debug!(peer = ?link.remote_id(), %error, "request not understood");
            if matches!(error, HearError::Decode(_)) {
                // What follows on this link cannot be trusted to be framed either.
                link.close(refusal);
            } else {
                stream.send.reset(refusal);
                stream.recv.stop(refusal);
            }
        }
    }
}

/// Counts streams that brought nothing.
#[derive(Debug, Default)]
struct Churn(std::sync::Mutex<Option<(Instant, u32)>>);

impl Churn {
    fn count(&self) {
        let mut window = self.lock();
        let now = Instant::now();
        match &mut *window {
            Some((since, count)) if now - *since < CHURN_WINDOW => *count += 1,
            other => *other = Some((now, 1)),
        }
    }

    fn is_excessive(&self) -> bool {
        self.lock()
            .is_some_and(|(since, count)| count > CHURN_LIMIT && since.elapsed() < CHURN_WINDOW)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, u32)>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
