//! Frames: how a message lies on a stream.
//!
//! ```text
//! 0      4 bytes   length of the body, unsigned, big endian
//! 4      1 byte    kind: the number of the variant in `Communication`
//! 5      length    body: the variant's fields, in postcard's encoding
//! ```
//!
//! The header alone tells whether the body may come: an unknown kind or a length over the kind's
//! cap is refused before anything is allocated. A body must be used up exactly.

use crate::DecodeError;
use crate::limits::{FRAME_MAX_BYTES, FRAME_SMALL_BYTES};
use crate::message::Communication;

/// Length of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 5;
/// Length prefix and kind, in that order.
const LENGTH_BYTES: usize = 4;
/// Numbers of the kinds that carry lists, whose cap is [`FRAME_MAX_BYTES`]: announce, pages of
/// files, hashes, ranges, hits, providers, peers, manifests, packs, omissions.
const LIST_KINDS: [u8; 11] = [2, 5, 8, 9, 15, 17, 19, 28, 29, 30, 47];
/// How many kinds this version knows.
const KIND_COUNT: u8 = 48;

/// A checked frame header: the kind is known and the length within its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    body_len_bytes: u32,
}

impl Header {
    /// Checks the first [`HEADER_BYTES`] bytes of a frame.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`], or [`DecodeError::TooLarge`] over the kind's cap.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, DecodeError> {
        let [a, b, c, d, kind] = bytes;
        let body_len_bytes = u32::from_be_bytes([a, b, c, d]);
        if kind >= KIND_COUNT {
            return Err(DecodeError::UnknownKind { kind });
        }
        check_length(kind, u64::from(body_len_bytes))?;
        Ok(Self {
            kind,
            body_len_bytes,
        })
    }

    /// How many bytes of body follow.
    pub const fn body_len_bytes(&self) -> usize {
        self.body_len_bytes as usize
    }
}

/// The frame of a message, header included.
///
/// # Errors
/// [`DecodeError::TooLarge`] when a list was filled past its kind's cap: page by
/// [`BATCH_TARGET_BYTES`](crate::limits::BATCH_TARGET_BYTES) to stay below it.
pub fn encode(message: &Communication) -> Result<Vec<u8>, DecodeError> {
    // postcard writes the variant first, as a varint: one byte for the kinds below 128.
    let mut frame = postcard::to_extend(message, vec![0; LENGTH_BYTES]).map_err(|error| {
        DecodeError::Malformed {
            reason: error.to_string(),
        }
    })?;
    let body_len_bytes = frame.len() - HEADER_BYTES;
    check_length(frame[LENGTH_BYTES], body_len_bytes as u64)?;
    frame[..LENGTH_BYTES].copy_from_slice(&(body_len_bytes as u32).to_be_bytes());
    Ok(frame)
}

/// The message in a body that came behind `header`.
///
/// # Errors
/// [`DecodeError::Length`] when the body is cut or has bytes to spare, and
/// [`DecodeError::Malformed`] when a field is not valid.
pub fn decode(header: Header, body: &[u8]) -> Result<Communication, DecodeError> {
    let wrong_length = DecodeError::Length {
        len_bytes: body.len(),
    };
    if body.len() != header.body_len_bytes() {
        return Err(wrong_length);
    }
    let mut tagged = Vec::with_capacity(1 + body.len());
    tagged.push(header.kind);
    tagged.extend_from_slice(body);
    match postcard::take_from_bytes(&tagged) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(postcard::Error::DeserializeUnexpectedEnd) => Err(wrong_length),
        Err(error) => Err(DecodeError::Malformed {
            reason: error.to_string(),
        }),
    }
}

fn check_length(kind: u8, len_bytes: u64) -> Result<(), DecodeError> {
    let cap = if LIST_KINDS.contains(&kind) {
        FRAME_MAX_BYTES
    } else {
        FRAME_SMALL_BYTES
    };
    if len_bytes > u64::from(cap) {
        return Err(DecodeError::TooLarge {
            what: "message body",
            actual: len_bytes,
            limit: cap.into(),
        });
    }
    Ok(())
}
