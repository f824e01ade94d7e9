//! A stream of frames as a hostile peer may write it: headers, lengths and bodies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_fuzz as _;
use shoal_wire::frame::{self, HEADER_BYTES, Header};
use shoal_wire::limits::FRAME_MAX_BYTES;

fuzz_target!(|stream: &[u8]| {
    let mut rest = stream;
    while let Some((head, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let Ok(header) = Header::parse(*head) else {
            return;
        };
        let len = header.body_len_bytes();
        assert!(len <= FRAME_MAX_BYTES as usize);
        let Some((body, next)) = after.split_at_checked(len) else {
            assert!(frame::decode(header, after).is_err());
            return;
        };
        if frame::decode(header, body).is_err() {
            return;
        }
        rest = next;
    }
});
