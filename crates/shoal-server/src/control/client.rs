//! The other end of the control socket, for the command line and for tests.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::{ControlEvent, ControlRequest, LineError, read_line};

/// Why an order could not be given, or its answer not be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no server runs with the control socket {}: start `shoal server`, or name its --state-dir", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is another user's.
    #[error("the control socket {} belongs to another user: give orders as the user that runs the server", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The connection ended before the order did.
    #[error("the server went away before the order was carried out: {reason}")]
    Broken {
        /// What was seen.
        reason: String,
    },
}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> Self {
        Self::Broken {
            reason: error.to_string(),
        }
    }
}

impl From<LineError> for ControlError {
    fn from(error: LineError) -> Self {
        Self::Broken {
            reason: error.to_string(),
        }
    }
}

/// Gives an order to the server behind `socket` and hands each event of the answer to `on_event`,
/// the last one included. Dropping the future takes the order back.
///
/// # Errors
/// When nobody listens there, the user may not, or the server goes away meanwhile. An order that
/// fails is no error here, but a last event of [`ControlEvent::Failed`].
pub async fn send(
    socket: &Path,
    request: &ControlRequest,
    mut on_event: impl FnMut(ControlEvent),
) -> Result<(), ControlError> {
    let mut stream = connect(socket).await?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
    line.push(b'\n');
    match stream.write_all(&line).await {
        // Whoever may give no orders is told so before one is read.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    let mut reader = BufReader::new(stream);
    while let Some(line) = read_line(&mut reader).await? {
        let event: ControlEvent = serde_json::from_slice(&line).map_err(io::Error::from)?;
        let last = event.is_last();
        on_event(event);
        if last {
            return Ok(());
        }
    }
    Err(ControlError::Broken {
        reason: "the answer has no end".to_owned(),
    })
}

async fn connect(socket: &Path) -> Result<UnixStream, ControlError> {
    let path = socket.to_owned();
    UnixStream::connect(socket)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ControlError::NotRunning { path }
            }
            io::ErrorKind::PermissionDenied => ControlError::Denied { path },
            _ => error.into(),
        })
}
