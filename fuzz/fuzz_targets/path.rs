//! A remote name: whatever is accepted stays below the folder that it is joined to.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use shoal_fuzz as _;
use shoal_wire::SafePath;

fuzz_target!(|input: &[u8]| {
    if let Ok(path) = postcard::from_bytes::<SafePath>(input) {
        check(&path);
    }
    let Ok(path) = SafePath::new(input) else {
        return;
    };
    assert_eq!(path.as_bytes(), input);
    check(&path);
    let said = postcard::to_stdvec(&path).expect("it can be said");
    assert_eq!(postcard::from_bytes::<SafePath>(&said).as_ref(), Ok(&path));
    if let Some(parent) = path.parent() {
        let name = SafePath::new(path.file_name()).expect("one name of a path");
        assert_eq!(parent.join(&name).as_ref(), Ok(&path));
        assert_eq!(path.below(&parent), Some(name));
    }
});

fn check(path: &SafePath) {
    use std::os::unix::ffi::OsStrExt;
    let local = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    assert!(local.components().all(is_plain));
    assert_eq!(local.components().count(), path.names().count());
    for name in path.names() {
        assert!(!name.is_empty() && name != b"." && name != b"..");
        assert!(!name.iter().any(|byte| matches!(byte, 0 | b'/' | b'\\')));
    }
    let _key = path.collision_key();
}
