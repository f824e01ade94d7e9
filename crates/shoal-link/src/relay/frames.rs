//! The frames of one connection of the relay: counted and slowed down where they come in.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use iroh_relay::ExportKeyingMaterial;
use iroh_relay::protos::streams::StreamError;
use iroh_relay::server::streams::Bucket;
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_websockets::{Limits, Message, Payload, ServerBuilder, WebSocketStream};

use super::Meter;

/// The largest frame: a batch of datagrams of 64 KiB and its head.
const FRAME_BYTES_MAX: usize = 64 * 1024 + 256;
/// What one node may send per second, in bytes: half of what one core relays, so that one node
/// leaves room for others.
const BYTES_PER_SECOND: i64 = 128 * 1024 * 1024;
/// What it may send at once, in bytes.
const BURST_BYTES: i64 = 16 * 1024 * 1024;
/// How often it may send more.
const REFILL_INTERVAL: Duration = Duration::from_millis(100);
/// What every frame counts beside its content, in bytes, so that empty ones are no gift.
const FRAME_COST_BYTES: usize = 8;

/// Frames from and to one node.
pub(super) struct Frames {
    io: WebSocketStream<TlsStream<TcpStream>>,
    /// What it may still send for now.
    rate: Option<Bucket>,
    /// What it sent beyond that, and until when it waits.
    waiting: Option<(Pin<Box<Sleep>>, Option<Bytes>)>,
    /// Where it counts; not while it is being admitted.
    meter: Option<Arc<dyn Meter>>,
    _place: Box<dyn Any + Send>,
}

impl Frames {
    pub(super) fn new(stream: TlsStream<TcpStream>, place: Box<dyn Any + Send>) -> Self {
        let limits = Limits::default().max_payload_len(Some(FRAME_BYTES_MAX));
        Self {
            io: ServerBuilder::new().limits(limits).serve(stream),
            rate: Bucket::new(BURST_BYTES, BYTES_PER_SECOND, REFILL_INTERVAL).ok(),
            waiting: None,
            meter: None,
            _place: place,
        }
    }

    /// Counts with `meter` from here on.
    pub(super) fn count_with(&mut self, meter: Arc<dyn Meter>) {
        self.meter = Some(meter);
    }
}

impl Stream for Frames {
    type Item = Result<Bytes, StreamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some((until, _)) = &mut this.waiting {
                ready!(until.as_mut().poll(context));
                if let Some((_, Some(frame))) = this.waiting.take() {
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
            let message = match ready!(Pin::new(&mut this.io).poll_next(context)) {
                Some(Ok(message)) if !message.is_close() => message,
                Some(Err(error)) => return Poll::Ready(Some(Err(StreamError::from_std(error)))),
                _ => return Poll::Ready(None),
            };
            // Others than binary frames are the WebSocket's own, and count like them.
            let is_frame = message.is_binary();
            let frame = Bytes::from(message.into_payload());
            let cost = frame.len() + FRAME_COST_BYTES;
            if let Some(meter) = &this.meter
                && !meter.take(cost as u64)
            {
                return Poll::Ready(None);
            }
            let frame = is_frame.then_some(frame);
            match this.rate.as_mut().map_or(Ok(()), |rate| rate.consume(cost)) {
                Err(until) => {
                    let until = tokio::time::sleep_until(until);
                    this.waiting = Some((Box::pin(until), frame));
                }
                Ok(()) => {
                    if let Some(frame) = frame {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
            }
        }
    }
}

impl Sink<Bytes> for Frames {
    type Error = StreamError;

    fn poll_ready(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Self::Error>> {
        let io = Pin::new(&mut self.get_mut().io);
        io.poll_ready(context).map_err(StreamError::from_std)
    }

    fn start_send(self: Pin<&mut Self>, frame: Bytes) -> Result<(), Self::Error> {
        let message = Message::binary(Payload::from(frame));
        let io = Pin::new(&mut self.get_mut().io);
        io.start_send(message).map_err(StreamError::from_std)
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Self::Error>> {
        let io = Pin::new(&mut self.get_mut().io);
        io.poll_flush(context).map_err(StreamError::from_std)
    }

    fn poll_close(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Self::Error>> {
        let io = Pin::new(&mut self.get_mut().io);
        io.poll_close(context).map_err(StreamError::from_std)
    }
}

impl ExportKeyingMaterial for Frames {
    fn export_keying_material<T: AsMut<[u8]>>(
        &self,
        output: T,
        label: &[u8],
        context: Option<&[u8]>,
    ) -> Option<T> {
        let (_, tls) = self.io.get_ref().get_ref();
        tls.export_keying_material(output, label, context).ok()
    }
}
