//! The numbers that are documented are the numbers that are sent.

use shoal_wire::Refusal;

const DOCUMENT: &str = include_str!("../../../docs/protocol/refusals.md");

#[test]
fn every_refusal_is_documented_with_its_number_name_and_text() {
    for refusal in Refusal::ALL {
        let row = format!("| {} | {refusal:?} | {} |", refusal.code(), refusal.text());
        assert!(DOCUMENT.contains(&row), "missing: {row}");
    }
    let is_row = |line: &&str| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit();
    let rows = DOCUMENT.lines().filter(is_row).count();
    assert_eq!(rows, Refusal::ALL.len());
}
