//! Links, pipes and swapped folders, each refused.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

#[test]
fn a_file_beneath_is_opened_and_described() {
    let (root, folder) = fresh();
    fs::create_dir(root.path().join("a")).expect("made");
    fs::write(root.path().join("a/file"), "content").expect("written");
    let (file, stat) = folder.open_file(&path("a/file")).expect("opened");
    assert_eq!(stat.size, 7);
    assert_eq!(stat_of(&file).expect("asked"), stat);
    assert_eq!(folder.stat(&path("a/file")).expect("asked"), stat);
    assert_eq!(stat.entry_size(), FileSize::new(7));
    assert!(folder.exists(&path("a/file")));
    assert!(!folder.exists(&path("a/other")));
    assert!(folder.free_bytes().expect("asked") > 0);
}

#[test]
fn no_link_is_followed_wherever_it_stands_or_points() {
    let (root, folder) = fresh();
    fs::create_dir(root.path().join("real")).expect("made");
    fs::write(root.path().join("real/file"), "content").expect("written");
    symlink("real", root.path().join("inner")).expect("linked");
    symlink("/etc", root.path().join("outer")).expect("linked");
    symlink("real/file", root.path().join("last")).expect("linked");
    symlink("nowhere", root.path().join("dangling")).expect("linked");
    for through in ["inner/file", "outer/passwd", "last", "dangling"] {
        let opened = folder.open_file(&path(through));
        assert!(matches!(opened, Err(OpenError::Symlink)), "{through}");
        let asked = folder.stat(&path(through));
        assert!(matches!(asked, Err(OpenError::Symlink)), "{through}");
        assert!(folder.exists(&path(through)), "{through}");
    }
    let created = folder.create_dirs(&path("inner/new"));
    assert!(matches!(created, Err(FolderError::NotAFolder { .. })));
    assert!(!root.path().join("real/new").exists());
}

#[test]
fn a_pipe_a_socket_and_a_folder_are_refused_without_waiting() {
    let (root, folder) = fresh();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket"));
    fs::create_dir(root.path().join("folder")).expect("made");
    for name in ["pipe", "socket", "folder"] {
        let opened = folder.open_file(&path(name));
        assert!(matches!(opened, Err(OpenError::NotRegular)), "{name}");
        let asked = folder.stat(&path(name));
        assert!(matches!(asked, Err(OpenError::NotRegular)), "{name}");
    }
}

#[test]
fn a_folder_that_is_replaced_by_a_link_still_leads_to_itself() {
    let (root, _) = fresh();
    let elsewhere = tempfile::tempdir().expect("temporary folder");
    fs::write(elsewhere.path().join("file"), "elsewhere").expect("written");
    let place = root.path().join("share");
    fs::create_dir(&place).expect("made");
    let folder = Folder::open(&place).expect("opened");
    fs::rename(&place, root.path().join("moved")).expect("moved");
    symlink(elsewhere.path(), &place).expect("linked");
    let opened = folder.open_file(&path("file"));
    assert!(matches!(opened, Err(OpenError::NotFound)));
    folder.create_dirs(&path("new/deep")).expect("made");
    assert!(root.path().join("moved/new/deep").is_dir());
}

#[test]
fn each_way_a_folder_can_be_unusable_has_its_own_error() {
    let (root, folder) = fresh();
    fs::write(root.path().join("file"), "").expect("written");
    let open = |name: &str| Folder::open(&root.path().join(name));
    assert!(matches!(open("none"), Err(FolderError::Missing { .. })));
    assert!(matches!(open("file"), Err(FolderError::NotAFolder { .. })));
    let create = |name: &str| folder.create_dirs(&path(name));
    assert!(matches!(
        create("file"),
        Err(FolderError::NotAFolder { .. })
    ));
    assert!(matches!(
        create("file/below"),
        Err(FolderError::NotAFolder { .. })
    ));
    assert!(Folder::create(&root.path().join("x/y")).is_ok());
    fs::remove_dir_all(root.path()).expect("removed");
    assert!(matches!(create("new"), Err(FolderError::Missing { .. })));
}

fn fresh() -> (TempDir, Folder) {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = Folder::open(root.path()).expect("opened");
    (root, folder)
}

fn path(text: &str) -> SafePath {
    text.parse().expect("safe")
}
