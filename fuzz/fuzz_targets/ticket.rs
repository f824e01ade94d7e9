//! A join ticket: as text that somebody pastes, and as the bytes behind a right prefix.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_fuzz as _;
use shoal_wire::JoinTicket;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fuzz_target!(|input: &[u8]| {
    let pasted = String::from_utf8_lossy(input);
    let body = base32(input);
    for text in [
        pasted.into_owned(),
        format!("shoaljoin1{body}"),
        format!("shoaljoin2{body}"),
    ] {
        if let Ok(ticket) = text.parse::<JoinTicket>() {
            assert_eq!(ticket.to_string().parse(), Ok(ticket));
        }
    }
});

fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(5) {
        let mut padded = [0; 8];
        padded[3..3 + group.len()].copy_from_slice(group);
        let bits = u64::from_be_bytes(padded);
        let digits = (group.len() * 8).div_ceil(5);
        for digit in 0..digits {
            let at = (bits >> (35 - 5 * digit)) & 31;
            text.push(char::from(ALPHABET[at as usize]));
        }
    }
    text
}
