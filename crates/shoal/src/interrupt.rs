//! Ctrl-C and SIGTERM: the wish to stop, as something to wait for.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Failure;

/// Resolves when the process is asked to stop.
pub(crate) struct Interrupt {
    ctrl_c: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// Starts to listen; from here on the signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let handler = |kind| {
            signal(kind).map_err(|error| Failure::local(format!("cannot handle signals: {error}")))
        };
        Ok(Self {
            ctrl_c: handler(SignalKind::interrupt())?,
            terminate: handler(SignalKind::terminate())?,
        })
    }

    /// Waits for SIGINT or SIGTERM.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.ctrl_c.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
