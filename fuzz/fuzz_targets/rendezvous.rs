//! What people give each other and strangers keep: codes, tickets of offers, passes, whereabouts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_fuzz as _;
use shoal_wire::whereabouts::Whereabouts;
use shoal_wire::{Code, OfferTicket, RelayPass};

fuzz_target!(|input: &[u8]| {
    let typed = String::from_utf8_lossy(input);
    if let Ok(code) = typed.parse::<Code>() {
        assert_eq!(code.to_string().parse(), Ok(code));
    }
    if let Ok(ticket) = typed.parse::<OfferTicket>() {
        assert_eq!(ticket.to_string().parse(), Ok(ticket));
    }
    // As a stranger's check sum would let it through.
    if let Ok(ticket) = postcard::from_bytes::<OfferTicket>(input) {
        assert_eq!(ticket.url().parse(), Ok(ticket));
    }
    if let Some(pass) = RelayPass::new(&typed) {
        let _ends = pass.expires_at_s();
    }
    if let Some(said) = Whereabouts::decode(input) {
        let record = said.encode().expect("what was read fits");
        assert_eq!(Whereabouts::decode(&record), Some(said));
    }
});
