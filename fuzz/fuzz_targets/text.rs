//! Text of strangers: what is shown of it cannot steer a terminal, and names keep their rules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_fuzz as _;
use shoal_wire::{NodeName, ShortText, escape};

fuzz_target!(|input: &[u8]| {
    let shown = escape(input);
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    let _short = postcard::from_bytes::<ShortText>(input);
    if let Ok(name) = postcard::from_bytes::<NodeName>(input) {
        assert!(!name.as_str().is_empty());
        assert!(!name.as_str().chars().any(char::is_control));
    }
    let text = String::from_utf8_lossy(input);
    if let Ok(name) = text.parse::<NodeName>() {
        let said = postcard::to_stdvec(&name).expect("it can be said");
        assert_eq!(postcard::from_bytes::<NodeName>(&said), Ok(name));
    }
    let short = ShortText::new(&text);
    let said = postcard::to_stdvec(&short).expect("it can be said");
    assert_eq!(postcard::from_bytes::<ShortText>(&said), Ok(short));
});
