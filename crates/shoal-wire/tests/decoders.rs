//! Hostile bytes: no decoder panics, allocates for what it was only promised, or accepts a value
//! that its type forbids (faults 1, 2, 3, 11).

mod samples;

use proptest::prelude::*;
use shoal_wire::frame::{self, HEADER_BYTES, Header};
use shoal_wire::limits::{FRAME_MAX_BYTES, FRAME_SMALL_BYTES};
use shoal_wire::{Communication, DecodeError, FileEntry, JoinTicket, NodeName, SafePath};

/// Header and body as a stream would give them.
fn decode(bytes: &[u8]) -> Result<Communication, DecodeError> {
    let short = DecodeError::Length {
        len_bytes: bytes.len(),
    };
    let (head, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(short.clone())?;
    let header = Header::parse(head.try_into().map_err(|_| short)?)?;
    frame::decode(header, body)
}

fn header_of(length: u32, kind: u8) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes[4] = kind;
    bytes
}

#[test]
fn a_length_over_the_cap_of_its_kind_is_refused_by_its_header() {
    for (length, kind) in [
        (FRAME_SMALL_BYTES + 1, 0),
        (FRAME_MAX_BYTES + 1, 5),
        (u32::MAX, 2),
        (1 << 31, 13),
    ] {
        let refused = Header::parse(header_of(length, kind));
        assert!(
            matches!(refused, Err(DecodeError::TooLarge { .. })),
            "{length} {kind}"
        );
    }
    assert!(Header::parse(header_of(FRAME_MAX_BYTES, 5)).is_ok());
}

#[test]
fn an_unknown_kind_is_refused_by_its_header() {
    for kind in [48, 49, 127, 128, 255] {
        assert_eq!(
            Header::parse(header_of(0, kind)),
            Err(DecodeError::UnknownKind { kind })
        );
    }
}

#[test]
fn every_kind_has_a_sample_and_no_sample_is_out_of_range() {
    let mut kinds: Vec<u8> = samples::all()
        .iter()
        .map(|(_, message)| frame::encode(message).expect("small")[4])
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, (0..48).collect::<Vec<u8>>());
}

#[test]
fn truncated_or_padded_frames_are_refused_at_every_length() {
    for (name, message) in samples::all() {
        let whole = frame::encode(&message).expect("small");
        for cut in 0..whole.len() {
            assert!(decode(&whole[..cut]).is_err(), "{name} cut at {cut}");
            // A header that admits the cut still leaves a body that does not parse.
            if cut >= HEADER_BYTES {
                let mut admitted = whole[..cut].to_vec();
                let length = u32::try_from(cut - HEADER_BYTES).expect("small");
                admitted[..4].copy_from_slice(&length.to_be_bytes());
                assert!(decode(&admitted).is_err(), "{name} honestly cut at {cut}");
            }
        }
        let mut padded = whole.clone();
        padded.push(0);
        assert!(decode(&padded).is_err(), "{name} padded");
    }
}

#[test]
fn a_huge_count_fails_without_its_items() {
    // Kind 5 (a page of files) whose count claims 2^62 entries, then 2^32 - 1.
    for count in [
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f].as_slice(),
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
    ] {
        let mut bytes = header_of(u32::try_from(count.len()).expect("short"), 5).to_vec();
        bytes.extend_from_slice(count);
        assert!(decode(&bytes).is_err());
    }
}

#[test]
fn a_rate_out_of_range_refuses_its_message() {
    // Kind 32 with one rate: 0, 999 and 1,000 bytes per second, and more than there can be.
    for (rate, is_valid) in [
        ([0x00].as_slice(), false),
        (&[0xe7, 0x07], false),
        (&[0xe8, 0x07], true),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], false),
    ] {
        let body = [&[1], rate, &[0, 0, 0]].concat();
        let mut bytes = header_of(u32::try_from(body.len()).expect("short"), 32).to_vec();
        bytes.extend_from_slice(&body);
        assert_eq!(decode(&bytes).is_ok(), is_valid, "{rate:?}");
    }
}

#[test]
fn one_unsafe_path_refuses_the_whole_message() {
    for (name, message) in samples::all() {
        let bytes = frame::encode(&message).expect("small");
        let safe = b"docs/a file.txt";
        let Some(at) = bytes.windows(safe.len()).position(|window| window == safe) else {
            continue;
        };
        for unsafe_path in [
            b"../s/a file.txt",
            b"/ocs/a file.txt",
            b"docs//file.txt\0",
            b"docs\\a file.txt",
        ] {
            let mut changed = bytes.clone();
            changed[at..at + safe.len()].copy_from_slice(unsafe_path);
            assert!(
                matches!(decode(&changed), Err(DecodeError::Malformed { .. })),
                "{name}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_048)) {
        let _outcome = decode(&bytes);
        let _path = SafePath::new(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        let _ticket = text.parse::<JoinTicket>();
        let _name = text.parse::<NodeName>();
    }

    #[test]
    fn arbitrary_bodies_of_every_kind_never_panic(kind in 0_u8..47, body in prop::collection::vec(any::<u8>(), 0..512)) {
        let length = u32::try_from(body.len()).expect("short");
        let header = Header::parse(header_of(length, kind)).expect("known and short");
        if let Ok(message) = frame::decode(header, &body) {
            let again = frame::encode(&message).expect("what was decoded fits its cap");
            prop_assert_eq!(decode(&again), Ok(message));
        }
    }

    #[test]
    fn flipped_bits_never_panic_and_what_decodes_is_valid(
        sample in 0_usize..64, at in any::<prop::sample::Index>(), bit in 0_u8..8,
    ) {
        let samples = samples::all();
        let (_, message) = &samples[sample % samples.len()];
        let mut bytes = frame::encode(message).expect("small");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(Communication::FileListPage { files, .. }) = decode(&bytes) {
            for FileEntry { path, .. } in files.iter() {
                prop_assert!(SafePath::new(path.as_bytes()).is_ok());
            }
        }
    }
}
