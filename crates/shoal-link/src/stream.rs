//! Streams: bytes in order in both directions, and messages framed on them.
//!
//! Owns the reading of a frame from hostile bytes: the header is checked before anything is
//! allocated for the body, the body grows only as its bytes arrive, and the whole frame must come
//! within a deadline. What a message means is not looked at.
//!
//! A `SendStream` that is dropped counts as finished, a `RecvStream` that is dropped stops the
//! other side with [`Refusal::Done`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use noq::{ReadError, VarInt, WriteError};
use shoal_wire::frame::{self, HEADER_BYTES, Header};
use shoal_wire::{Communication, DecodeError, Refusal};

use crate::link::{Goodbye, Lane, Link, LinkError, refusal_of};

/// Why bytes could not be sent or received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The other side gave up sending, and says why.
    #[error("the other side gave up sending: {0}")]
    Reset(Refusal),
    /// The other side does not want more, and says why.
    #[error("the other side stopped reading: {0}")]
    Stopped(Refusal),
    /// The link is over.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The stream had ended already, or ended before all that was asked for had come.
    #[error("the stream has ended")]
    Ended,
}

/// Why a message could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SayError {
    /// The message is longer than its kind may be.
    #[error(transparent)]
    Encode(DecodeError),
    /// The stream does not take it.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Why no message could be received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HearError {
    /// The bytes are no message of this version.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The message did not arrive whole within the deadline.
    #[error("no whole message came in time")]
    TimedOut,
    /// The stream or the link failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The stream ended inside a message.
    #[error("the stream ended inside a message")]
    Cut,
}

impl HearError {
    /// The number to answer with.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Decode(DecodeError::TooLarge { .. }) => Refusal::TooLarge,
            Self::Decode(_) | Self::Cut => Refusal::Malformed,
            Self::TimedOut => Refusal::TimedOut,
            Self::Stream(StreamError::Reset(refusal) | StreamError::Stopped(refusal)) => *refusal,
            Self::Stream(StreamError::Link(error)) => {
                error.refusal().unwrap_or(Refusal::Unreachable)
            }
            Self::Stream(StreamError::Ended) => Refusal::Unexpected,
        }
    }
}

/// Which stream of which link, among all of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamName {
    link: (Lane, usize),
    id: u64,
}

impl StreamName {
    /// Its QUIC stream id, by which the other side knows it too.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The stream with this id on the same link.
    #[must_use]
    pub fn sibling(&self, id: u64) -> Self {
        Self { id, ..*self }
    }
}

/// Both directions of a stream.
#[derive(Debug)]
pub struct Stream {
    link: Link,
    id: u64,
    /// What this side says.
    pub send: SendStream,
    /// What the other side says.
    pub recv: RecvStream,
}

impl Stream {
    pub(crate) fn new(
        link: Link,
        (send, recv): (noq::SendStream, noq::RecvStream),
        goodbye: &Arc<Goodbye>,
    ) -> Self {
        let id = send.id().into();
        Self {
            link,
            id,
            send: SendStream {
                inner: send,
                goodbye: Arc::clone(goodbye),
            },
            recv: RecvStream {
                inner: recv,
                goodbye: Arc::clone(goodbye),
                partial: Partial::default(),
            },
        }
    }

    /// Which one it is.
    pub fn name(&self) -> StreamName {
        StreamName {
            link: self.link.number(),
            id: self.id,
        }
    }

    /// What it is a stream of.
    pub fn link(&self) -> &Link {
        &self.link
    }
}

/// The direction from here to the other side.
#[derive(Debug)]
pub struct SendStream {
    inner: noq::SendStream,
    goodbye: Arc<Goodbye>,
}

impl SendStream {
    /// Copies all bytes into the stream, waiting while its window is full.
    ///
    /// # Errors
    /// When the other side stopped reading, the stream was ended, or the link is over.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let outcome = self.inner.write_all(bytes).await;
        outcome.map_err(|error| self.explain(error))
    }

    /// Hands a buffer to the stream without copying it, waiting while its window is full.
    ///
    /// # Errors
    /// As [`write_all`](Self::write_all).
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        let outcome = self.inner.write_chunk(chunk).await;
        outcome.map_err(|error| self.explain(error))
    }

    /// Hands several buffers to the stream, as [`write_chunk`](Self::write_chunk) does one. Each is
    /// let go of by itself.
    ///
    /// # Errors
    /// As [`write_all`](Self::write_all).
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), StreamError> {
        let outcome = self.inner.write_all_chunks(chunks).await;
        outcome.map_err(|error| self.explain(error))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`SayError::Encode`] when it is over its cap, else as [`write_all`](Self::write_all).
    pub async fn say(&mut self, message: &Communication) -> Result<(), SayError> {
        let frame = frame::encode(message).map_err(SayError::Encode)?;
        Ok(self.write_chunk(frame.into()).await?)
    }

    /// Marks the end: the other side reads all that was written, then the end. Harmless when the
    /// stream has ended already.
    pub fn finish(&mut self) {
        let _ = self.inner.finish();
    }

    /// Gives up sending; what is not acknowledged yet is dropped. Harmless when the stream has
    /// ended already.
    pub fn reset(&mut self, refusal: Refusal) {
        let _ = self.inner.reset(VarInt::from_u32(refusal.code()));
    }

    /// Waits until the other side stops reading (`Some`), or has acknowledged everything up to
    /// the end, or the link is over (`None`).
    pub async fn stopped(&mut self) -> Option<Refusal> {
        self.inner.stopped().await.ok().flatten().map(refusal_of)
    }

    /// Sets how urgent the stream is among those of the link: higher goes first, 0 is usual.
    pub fn set_priority(&self, priority: i32) {
        let _ = self.inner.set_priority(priority);
    }

    fn explain(&self, error: WriteError) -> StreamError {
        match error {
            WriteError::Stopped(code) => StreamError::Stopped(refusal_of(code)),
            WriteError::ConnectionLost(error) => self.goodbye.explain(error).into(),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Ended,
        }
    }
}

/// The direction from the other side to here.
#[derive(Debug)]
pub struct RecvStream {
    inner: noq::RecvStream,
    goodbye: Arc<Goodbye>,
    partial: Partial,
}

/// What has come of the frame that is being read, kept so that a dropped `hear` loses nothing.
#[derive(Debug, Default)]
struct Partial {
    header: Option<Header>,
    bytes: BytesMut,
}

impl RecvStream {
    /// The next bytes in order, at most `max_bytes` of them; `None` after the end. May be dropped
    /// and called again.
    ///
    /// # Errors
    /// When the other side reset the stream, it was stopped here, or the link is over.
    pub async fn read_chunk(&mut self, max_bytes: usize) -> Result<Option<Bytes>, StreamError> {
        let outcome = self.inner.read_chunk(max_bytes).await;
        outcome.map_err(|error| self.explain(error))
    }

    /// Fills the buffer.
    ///
    /// # Errors
    /// [`StreamError::Ended`] when the stream ends first, else as
    /// [`read_chunk`](Self::read_chunk).
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), StreamError> {
        use noq::ReadExactError;
        match self.inner.read_exact(buffer).await {
            Ok(()) => Ok(()),
            Err(ReadExactError::FinishedEarly(_)) => Err(StreamError::Ended),
            Err(ReadExactError::ReadError(error)) => Err(self.explain(error)),
        }
    }

    /// Tells the other side that no more is wanted, and drops what has come.
    pub fn stop(&mut self, refusal: Refusal) {
        let _ = self.inner.stop(VarInt::from_u32(refusal.code()));
    }

    /// Receives one message, which must arrive whole within `deadline` from now; `None` when the
    /// stream ended before it began. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// See [`HearError`]; after any but [`HearError::TimedOut`] the stream is of no more use.
    pub async fn hear(&mut self, deadline: Duration) -> Result<Option<Communication>, HearError> {
        tokio::time::timeout(deadline, self.next_frame())
            .await
            .unwrap_or(Err(HearError::TimedOut))
    }

    async fn next_frame(&mut self) -> Result<Option<Communication>, HearError> {
        let header = match self.partial.header {
            Some(header) => header,
            None => {
                if !self.fill(HEADER_BYTES).await? {
                    let is_clean = self.partial.bytes.is_empty();
                    return if is_clean {
                        Ok(None)
                    } else {
                        Err(HearError::Cut)
                    };
                }
                let mut bytes = [0; HEADER_BYTES];
                bytes.copy_from_slice(&self.partial.bytes.split_to(HEADER_BYTES));
                *self.partial.header.insert(Header::parse(bytes)?)
            }
        };
        if !self.fill(header.body_len_bytes()).await? {
            return Err(HearError::Cut);
        }
        let body = std::mem::take(&mut self.partial).bytes;
        Ok(Some(frame::decode(header, &body)?))
    }

    /// Reads until `len_bytes` of the frame are there; false when the stream ends first.
    async fn fill(&mut self, len_bytes: usize) -> Result<bool, StreamError> {
        while self.partial.bytes.len() < len_bytes {
            let missing_bytes = len_bytes - self.partial.bytes.len();
            match self.read_chunk(missing_bytes).await? {
                Some(chunk) => self.partial.bytes.extend_from_slice(&chunk),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn explain(&self, error: ReadError) -> StreamError {
        match error {
            ReadError::Reset(code) => StreamError::Reset(refusal_of(code)),
            ReadError::ConnectionLost(error) => self.goodbye.explain(error).into(),
            ReadError::ClosedStream | ReadError::ZeroRttRejected => StreamError::Ended,
        }
    }
}
