//! The speed of a counter over the last seconds.

#![expect(clippy::disallowed_methods, reason = "a test has a clock")]

use std::time::{Duration, Instant};

use shoal_core::speed::Speed;

#[test]
fn what_was_long_ago_does_not_count() {
    let (mut speed, begin) = (Speed::default(), Instant::now());
    let mut bytes = 0;
    for tenth in 0..600_u32 {
        bytes += if tenth < 300 { 1_000_000 } else { 10_000 };
        speed.handle_count(bytes, begin + Duration::from_millis(100) * tenth);
        let now = speed.bytes_per_second();
        match tenth {
            1..300 => assert_eq!(now, 10_000_000),
            360.. => assert_eq!(now, 100_000),
            _ => {}
        }
    }
}

#[test]
fn a_counter_that_rests_comes_to_nothing_and_one_that_goes_back_begins_anew() {
    let (mut speed, begin) = (Speed::default(), Instant::now());
    assert_eq!(speed.bytes_per_second(), 0);
    speed.handle_count(0, begin);
    speed.handle_count(9_000, begin + Duration::from_secs(1));
    assert_eq!(speed.bytes_per_second(), 9_000);
    speed.handle_count(9_000, begin + Duration::from_secs(8));
    speed.handle_count(9_000, begin + Duration::from_secs(14));
    assert_eq!(speed.bytes_per_second(), 0);
    speed.handle_count(10, begin + Duration::from_secs(15));
    assert_eq!(speed.bytes_per_second(), 0);
}

#[test]
fn looks_in_quick_succession_do_not_drive_out_the_window() {
    let (mut speed, begin) = (Speed::default(), Instant::now());
    for millisecond in 0..3_000_u32 {
        let now = begin + Duration::from_millis(1) * millisecond;
        speed.handle_count(u64::from(millisecond) * 1_000, now);
    }
    // Had the window shrunk to the last looks, a pause would not be seen in it.
    speed.handle_count(2_999_000, begin + Duration::from_secs(4));
    assert!(
        (600_000..900_000).contains(&speed.bytes_per_second()),
        "{}",
        speed.bytes_per_second()
    );
}
