//! A stream that the server opened for an order, and what becomes of it when the order ends.
//!
//! Invariant: unless the conversation came to its end, dropping it tells the peer that the order
//! was taken back.

use shoal_link::Stream;
use shoal_wire::Refusal;

/// A conversation with a peer; dropping it before its end cancels what the peer does.
#[derive(Debug)]
pub(super) struct Conversation {
    stream: Stream,
    ended: bool,
}

impl Conversation {
    /// Watches over a stream.
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            ended: false,
        }
    }

    /// The stream.
    pub(super) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// It came to its end: there is nothing to take back.
    pub(super) fn ended(&mut self) {
        self.ended = true;
        self.stream.send.finish();
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if !self.ended {
            self.stream.send.reset(Refusal::Cancelled);
            self.stream.recv.stop(Refusal::Cancelled);
        }
    }
}
