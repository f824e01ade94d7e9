//! The stepwise forms, which Linux only uses when a kernel refuses the single calls.

use std::io::Read;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn the_walk_opens_what_lies_beneath_and_follows_no_link() {
    let root = tempfile::tempdir().expect("temporary folder");
    std::fs::create_dir_all(root.path().join("a/b")).expect("made");
    std::fs::write(root.path().join("a/b/file"), "inside").expect("written");
    symlink("a", root.path().join("link")).expect("linked");
    symlink("b/file", root.path().join("a/last")).expect("linked");
    let folder = File::open(root.path()).expect("opened");

    let walk = |path: &str| walk_beneath(folder.as_fd(), path.as_bytes(), OFlags::RDONLY);
    let mut text = String::new();
    let mut file = File::from(walk("a/b/file").expect("opened"));
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "inside");
    for path in ["link/b/file", "a/last"] {
        let error = walk(path).expect_err("a link");
        assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP), "{path}");
    }
    let error = walk("a/b/file/x").expect_err("not a folder");
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOTDIR));
}

#[test]
fn a_rename_in_two_steps_does_not_replace() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = File::open(root.path()).expect("opened");
    std::fs::write(root.path().join("new"), "new").expect("written");
    std::fs::write(root.path().join("old"), "old").expect("written");
    let error =
        link_then_unlink(folder.as_fd(), b"new", folder.as_fd(), b"old").expect_err("taken");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    link_then_unlink(folder.as_fd(), b"new", folder.as_fd(), b"free").expect("renamed");
    let names = |name: &str| std::fs::read_to_string(root.path().join(name)).ok();
    assert_eq!(names("old").as_deref(), Some("old"));
    assert_eq!(names("free").as_deref(), Some("new"));
    assert_eq!(names("new"), None);
}
