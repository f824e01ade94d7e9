//! One message of any kind, whose frame has the right length: the first byte is the kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_fuzz as _;
use shoal_wire::Communication;
use shoal_wire::frame::{self, HEADER_BYTES, Header};

fuzz_target!(|input: &[u8]| {
    let Some((kind, body)) = input.split_first() else {
        return;
    };
    let len = u32::try_from(body.len()).expect("inputs are small");
    let Some(message) = decode(*kind, len, body) else {
        return;
    };
    // What was understood can be said again, and means the same.
    let said = frame::encode(&message).expect("no longer than it came");
    let (head, body) = said.split_first_chunk::<HEADER_BYTES>().expect("a header");
    let again = Header::parse(*head).and_then(|header| frame::decode(header, body));
    assert_eq!(again.as_ref(), Ok(&message));
});

fn decode(kind: u8, len: u32, body: &[u8]) -> Option<Communication> {
    let [a, b, c, d] = len.to_be_bytes();
    let header = Header::parse([a, b, c, d, kind]).ok()?;
    frame::decode(header, body).ok()
}
