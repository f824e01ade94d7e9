//! Golden vectors: the bytes of one sample of every message, held fast.
//!
//! `docs/protocol/vectors/messages.txt` has a line per sample: a name and the frame in hex. A
//! reordered variant or field changes the bytes and fails here. New kinds add lines; lines that
//! are there never change within a major version.

mod samples;

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use shoal_wire::frame::{self, HEADER_BYTES, Header};

const VECTORS: &str = include_str!("../../../docs/protocol/vectors/messages.txt");

#[test]
fn every_message_has_the_bytes_that_are_documented() {
    let documented: BTreeMap<&str, &str> = VECTORS
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once(' ').expect("a name and hex digits"))
        .collect();
    let samples = samples::all();
    let mut current = String::new();
    for (name, message) in &samples {
        let hex = HEXLOWER.encode(&frame::encode(message).expect("samples are small"));
        current.push_str(&format!("{name} {hex}\n"));
    }
    for (name, message) in &samples {
        let bytes = frame::encode(message).expect("samples are small");
        let hex = documented.get(name).copied();
        assert_eq!(
            hex,
            Some(HEXLOWER.encode(&bytes).as_str()),
            "{name}; all samples:\n{current}"
        );
    }
    assert_eq!(
        documented.len(),
        samples.len(),
        "a documented vector has no sample"
    );
}

#[test]
fn documented_bytes_decode_to_the_sample() {
    let samples: BTreeMap<_, _> = samples::all().into_iter().collect();
    for line in VECTORS
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let (name, hex) = line.split_once(' ').expect("a name and hex digits");
        let bytes = HEXLOWER.decode(hex.as_bytes()).expect("hex");
        let (head, body) = bytes.split_at(HEADER_BYTES);
        let header = Header::parse(head.try_into().expect("header")).expect(name);
        assert_eq!(
            Some(&frame::decode(header, body).expect(name)),
            samples.get(name),
            "{name}"
        );
    }
}
