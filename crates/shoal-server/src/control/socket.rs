//! The listening side of the control socket: who may connect, lines in, events out.
//!
//! Knows nothing of what orders mean: an [`Obeys`] carries them out. One task per client, a fixed
//! number of clients; a client that neither asks nor reads is dropped.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use shoal_node::tasks::Tasks;
use shoal_wire::Refusal;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::{ControlEvent, ControlRequest, LineError, read_line};

/// Clients served at once: a few terminals and scripts, each with one order.
const CLIENTS_MAX: usize = 16;
/// Events that wait for a client: enough to fill a few writes, and an order waits when it is full.
const EVENT_QUEUE: usize = 64;
/// How long a client may take to ask its next order.
const ASK_DEADLINE: Duration = Duration::from_secs(60);
/// How long a client may take to read an event.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// Longest path of a socket, in bytes (Linux `sun_path`, less the closing NUL).
const SOCKET_PATH_MAX_BYTES: usize = 107;

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another server listens there.
    #[error("another server runs with the control socket {}: stop it, or choose another --state-dir", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Its path is longer than sockets may have.
    #[error("the control socket's path {} is over {SOCKET_PATH_MAX_BYTES} bytes: choose a shorter --state-dir", path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("the control socket {} cannot be made: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The number.
    pub(crate) refusal: Refusal,
    /// The sentence.
    pub(crate) message: String,
}

/// Where an order's events go; full while the client does not read.
pub(crate) type Events = mpsc::Sender<ControlEvent>;

/// What carries orders out.
pub(crate) trait Obeys: Send + Sync + 'static {
    /// Carries one out. Dropping the future takes the order back.
    fn obey(
        &self,
        request: ControlRequest,
        events: Events,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, readable by nobody else. What a dead server left there is replaced.
    pub(crate) async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |error| SocketError::Io {
            path: path.to_owned(),
            error,
        };
        if path.as_os_str().len() > SOCKET_PATH_MAX_BYTES {
            let path = path.to_owned();
            return Err(SocketError::TooLong { path });
        }
        match UnixStream::connect(path).await {
            Ok(_answered) => {
                return Err(SocketError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, owner_only).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves clients until the task is cancelled.
    pub(crate) async fn serve<O: Obeys>(self, obeys: Arc<O>, tasks: Tasks) {
        let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _address)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept, trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let obeys = Arc::clone(&obeys);
            tasks.spawn(async move {
                if let Err(error) = serve_client(stream, &*obeys).await {
                    tracing::debug!(%error, "a control client was dropped");
                }
                drop(slot);
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was gone already");
        }
    }
}

async fn serve_client(stream: UnixStream, obeys: &impl Obeys) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (reader, mut writer) = stream.into_split();
    if !may_order(uid, rustix::process::geteuid().as_raw()) {
        tracing::warn!(
            uid,
            "a user without the right to it used the control socket"
        );
        let message = "orders are taken from the user that runs the server";
        return write(&mut writer, &failed(Refusal::Denied, message)).await;
    }
    let mut reader = BufReader::new(reader);
    loop {
        let line = match timeout(ASK_DEADLINE, read_line(&mut reader)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(LineError::TooLong)) => {
                let event = failed(Refusal::TooLarge, &LineError::TooLong.to_string());
                return write(&mut writer, &event).await;
            }
            Ok(Err(LineError::Cut)) => return Ok(()),
            Ok(Err(LineError::Read(error))) => return Err(error),
        };
        match serde_json::from_slice(&line) {
            Ok(request) => {
                let Some(last) = carry_out(request, obeys, &mut reader, &mut writer).await? else {
                    return Ok(());
                };
                write(&mut writer, &last).await?;
            }
            Err(error) => {
                let message = format!("this is not an order: {error}");
                return write(&mut writer, &failed(Refusal::Malformed, &message)).await;
            }
        }
    }
}

/// Carries an order out while its events are written, and gives the last one; `None` when the
/// client went away meanwhile.
async fn carry_out(
    request: ControlRequest,
    obeys: &impl Obeys,
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Option<ControlEvent>> {
    let (events, mut queue) = mpsc::channel(EVENT_QUEUE);
    let mut order = pin!(obeys.obey(request, events));
    let mut gone = pin!(gone(reader));
    let result = loop {
        tokio::select! {
            biased;
            () = &mut gone => return Ok(None),
            Some(event) = queue.recv() => write(writer, &event).await?,
            result = &mut order => break result,
        }
    };
    while let Ok(event) = queue.try_recv() {
        write(writer, &event).await?;
    }
    Ok(Some(match result {
        Ok(()) => ControlEvent::Done,
        Err(failure) => failed(failure.refusal, &failure.message),
    }))
}

/// Waits until the client hangs up. One that has sent its next order already is there to stay.
async fn gone(reader: &mut (impl AsyncBufRead + Unpin)) {
    match reader.fill_buf().await {
        Ok(waiting) if !waiting.is_empty() => std::future::pending().await,
        Ok(_) | Err(_) => {}
    }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), event: &ControlEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    timeout(READ_DEADLINE, writer.write_all(&line))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn may_order(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

fn failed(refusal: Refusal, message: &str) -> ControlEvent {
    ControlEvent::Failed {
        code: refusal.code(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
