//! Saying and hearing on the streams of a folder's provider, with its errors named.

use std::time::Duration;

use shoal_link::RecvStream;
use shoal_wire::Communication;
use shoal_wire::message::Provider;

use crate::fetch::FetchError;
use crate::transfers::Transfer;

/// How long a source may send nothing before it counts as lost.
const STALL_DEADLINE: Duration = Duration::from_secs(20);

/// Hears the next message; an early end is one that is missing.
pub(super) async fn hear(
    recv: &mut RecvStream,
    provider: &Provider,
    transfer: &Transfer,
) -> Result<Communication, FetchError> {
    let heard = tokio::select! {
        heard = recv.hear(STALL_DEADLINE) => heard,
        () = transfer.cancelled() => return Err(FetchError::Cancelled),
    };
    match heard.map_err(|error| FetchError::of_hearing(provider, error))? {
        Some(Communication::Error(report)) => {
            let detail = report.detail.to_string();
            Err(FetchError::refused(provider, report.refusal, &detail))
        }
        Some(message) => Ok(message),
        None => Err(FetchError::misbehaved(provider, "an early end")),
    }
}

/// Reads raw bytes until `buffer` has `len_bytes`, as fast as the limits let it.
pub(super) async fn read(
    recv: &mut RecvStream,
    (provider, transfer): (&Provider, &Transfer),
    buffer: &mut Vec<u8>,
    len_bytes: usize,
) -> Result<(), FetchError> {
    buffer.clear();
    buffer.reserve(len_bytes);
    let mut allowed = 0;
    while buffer.len() < len_bytes {
        if allowed == 0 {
            allowed = tokio::select! {
                allowed = transfer.take(provider.node, len_bytes - buffer.len()) => allowed,
                () = transfer.cancelled() => return Err(FetchError::Cancelled),
            };
        }
        let reading = recv.read_chunk(allowed);
        let read = tokio::select! {
            read = tokio::time::timeout(STALL_DEADLINE, reading) => read,
            () = transfer.cancelled() => return Err(FetchError::Cancelled),
        };
        let read = read.map_err(|_| FetchError::stalled(provider))?;
        match read.map_err(|error| FetchError::of_stream(provider, error))? {
            Some(bytes) => {
                allowed -= bytes.len();
                buffer.extend_from_slice(&bytes);
            }
            None => return Err(FetchError::misbehaved(provider, "a pack cut short")),
        }
    }
    Ok(())
}
