//! A signed grant, decoded and then checked for the very parties that it names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_fuzz as _;
use shoal_wire::grant::GrantParties;
use shoal_wire::{SafePath, Scope, SignedGrant};

fuzz_target!(|input: &[u8]| {
    let Ok(signed) = postcard::from_bytes::<SignedGrant>(input) else {
        return;
    };
    let said = postcard::to_stdvec(&signed).expect("it can be said");
    assert_eq!(
        postcard::from_bytes::<SignedGrant>(&said).as_ref(),
        Ok(&signed)
    );
    let grant = &signed.grant;
    let parties = GrantParties {
        server: grant.issuer,
        provider: grant.provider,
        holder: grant.holder,
    };
    let path = match &grant.scope {
        Scope::Path(path) => path.clone(),
        Scope::Share | Scope::Blob(_) => SafePath::new(b"a").expect("a name"),
    };
    // Nobody here has a private key, and bytes do not sign themselves.
    assert!(signed.check(&parties, &path, None, 0).is_err());
});
