//! The catalog against announces, odd names, look-ups and a damaged file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use shoal_server::catalog::{Catalog, Located, Question, Sought};
use shoal_wire::message::{Bounded, FileAnnounce};
use shoal_wire::{FileEntry, FileSize, Hash, NodeId, NodeName, SafePath};

const ANNA: NodeId = NodeId::new([1; 32]);
const BERT: NodeId = NodeId::new([2; 32]);
const CARA: NodeId = NodeId::new([3; 32]);

#[tokio::test]
async fn a_new_snapshot_replaces_the_old_one_once_it_is_complete() {
    let shelf = Shelf::new().await;
    shelf.tell(ANNA, &[file("a", None), file("b", None)]).await;
    let started = batch(true, false, vec![file("b", Some(7))], &[]);
    shelf.apply(ANNA, &started).await;
    assert_eq!(shelf.paths(ANNA).await, ["a", "b"]);
    let ended = batch(false, true, vec![file("c", None)], &[]);
    let totals = shelf.apply(ANNA, &ended).await;
    assert_eq!(shelf.paths(ANNA).await, ["b", "c"]);
    assert_eq!((totals.files, totals.total_bytes), (2, 20));
}

#[tokio::test]
async fn a_snapshot_that_was_cut_off_is_cleared_by_the_next() {
    let shelf = Shelf::new().await;
    shelf.tell(ANNA, &[file("a", None)]).await;
    let cut = batch(true, false, vec![file("b", None)], &[]);
    shelf.apply(ANNA, &cut).await;
    shelf.tell(ANNA, &[file("c", None)]).await;
    assert_eq!(shelf.paths(ANNA).await, ["c"]);
    assert_eq!(shelf.search("b").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_change_adds_replaces_and_removes_for_its_own_node_only() {
    let shelf = Shelf::new().await;
    shelf.tell(ANNA, &[file("a", None), file("b", None)]).await;
    shelf.tell(BERT, &[file("a", None)]).await;
    let mut grown = file("b", Some(1));
    grown.size = FileSize::new(100).unwrap();
    let totals = shelf
        .apply(ANNA, &batch(false, true, vec![grown], &["a"]))
        .await;
    assert_eq!((totals.files, totals.total_bytes), (1, 100));
    assert_eq!(shelf.paths(ANNA).await, ["b"]);
    assert_eq!(shelf.paths(BERT).await, ["a"]);
    let all = shelf.catalog.totals().await.unwrap();
    assert_eq!((all.files, all.total_bytes), (2, 110));
}

#[tokio::test]
async fn odd_characters_in_a_search_mean_only_themselves() {
    let shelf = Shelf::new().await;
    let names = ["100%.txt", "it's", "a_b", "aXb", "x AND y", "(paren)"];
    let files: Vec<FileEntry> = names.iter().map(|name| file(name, None)).collect();
    shelf.tell(ANNA, &files).await;
    for (text, found) in [
        ("%", vec!["100%.txt"]),
        ("00%", vec!["100%.txt"]),
        ("'", vec!["it's"]),
        ("t's", vec!["it's"]),
        ("_", vec!["a_b"]),
        ("a_b", vec!["a_b"]),
        ("x and y", vec!["x AND y"]),
        ("(paren", vec!["(paren)"]),
        ("\"", vec![]),
        ("\"\"\"", vec![]),
        ("***", vec![]),
        ("abc\0def", vec![]),
        ("NEAR(a b)", vec![]),
        ("-txt", vec![]),
    ] {
        assert_eq!(shelf.search(text).await, found, "{text:?}");
    }
}

#[tokio::test]
async fn a_search_ignores_case_and_composition_and_names_the_connected_first() {
    let shelf = Shelf::new().await;
    shelf.tell(ANNA, &[file("z/Čaj.TXT", None)]).await;
    shelf.tell(BERT, &[file("a/c\u{30c}aj.txt", None)]).await;
    let online = BTreeSet::from([ANNA]);
    let (rows, more) = shelf.catalog.search("čAJ.t", &online, 10).await.unwrap();
    let nodes: Vec<NodeId> = rows.iter().map(|row| row.node).collect();
    assert_eq!((nodes, more), (vec![ANNA, BERT], false));
    let (rows, more) = shelf.catalog.search("aj", &online, 1).await.unwrap();
    assert_eq!((rows.len(), more), (1, true));
}

#[tokio::test]
async fn a_listing_goes_on_after_a_path_and_stays_below_its_folder() {
    let shelf = Shelf::new().await;
    let files: Vec<FileEntry> = ["d", "d-x", "d/a", "d/b", "d/c/e", "d0", "f"]
        .iter()
        .map(|name| file(name, None))
        .collect();
    shelf.tell(ANNA, &files).await;
    assert_eq!(
        shelf.page(Some("d"), None).await,
        ["d", "d/a", "d/b", "d/c/e"]
    );
    assert_eq!(shelf.page(Some("d"), Some("d/a")).await, ["d/b", "d/c/e"]);
    assert_eq!(shelf.page(None, Some("d0")).await, ["f"]);
    assert_eq!(shelf.page(Some("d/c/e"), None).await, ["d/c/e"]);
    assert!(shelf.page(Some("nothing"), None).await.is_empty());
}

#[tokio::test]
async fn a_path_is_looked_up_as_a_file_or_a_folder() {
    let shelf = Shelf::new().await;
    shelf
        .tell(ANNA, &[file("m/one", None), file("m/two", None)])
        .await;
    assert_eq!(
        shelf.locate(Sought::Path(path("m/one"))).await,
        Found::File(vec![(ANNA, "m/one".into())])
    );
    assert_eq!(
        shelf.locate(Sought::Path(path("m"))).await,
        Found::Folder("m".into(), vec!["m/one".into(), "m/two".into()])
    );
    assert_eq!(
        shelf.locate(Sought::Path(path("one"))).await,
        Found::Nothing
    );
}

#[tokio::test]
async fn text_is_a_path_then_last_names_then_the_beginning_of_a_hash() {
    let shelf = Shelf::new().await;
    shelf
        .tell(
            ANNA,
            &[
                file("deep/down/report.pdf", Some(0xab)),
                file("deep/down/data/x", None),
            ],
        )
        .await;
    let report = Found::File(vec![(ANNA, "deep/down/report.pdf".into())]);
    for text in [
        "deep/down/report.pdf",
        "report.pdf",
        "down/report.pdf",
        "ababab",
        "ABABABA",
    ] {
        assert_eq!(
            shelf.locate(Sought::Text(text.into())).await,
            report,
            "{text}"
        );
    }
    for text in ["data", "down/data/", "deep/down/data"] {
        assert_eq!(
            shelf.locate(Sought::Text(text.into())).await,
            Found::Folder("deep/down/data".into(), vec!["deep/down/data/x".into()]),
            "{text}"
        );
    }
    for text in ["eport.pdf", "ababa", "abababc", "", "/", "../x"] {
        assert_eq!(
            shelf.locate(Sought::Text(text.into())).await,
            Found::Nothing,
            "{text}"
        );
    }
}

#[tokio::test]
async fn equal_content_is_one_file_with_every_provider_and_unknown_content_is_several() {
    let shelf = Shelf::new().await;
    shelf.tell(ANNA, &[file("a.bin", Some(9))]).await;
    shelf.tell(BERT, &[file("a.bin", Some(9))]).await;
    shelf.tell(CARA, &[file("other/name", Some(9))]).await;
    let Found::File(providers) = shelf.locate(Sought::Text("a.bin".into())).await else {
        panic!("one content is one file");
    };
    let nodes: Vec<NodeId> = providers.iter().map(|provider| provider.0).collect();
    assert_eq!(nodes, [ANNA, BERT, CARA]);
    let Found::File(providers) = shelf.locate(Sought::Blob(Hash::new([9; 32]))).await else {
        panic!("a hash names one content");
    };
    assert_eq!(providers.len(), 3);

    shelf.tell(BERT, &[file("a.bin", None)]).await;
    let found = shelf.locate(Sought::Text("a.bin".into())).await;
    assert!(matches!(found, Found::Several(rows) if rows.len() == 2));
}

#[tokio::test]
async fn equal_folders_at_two_nodes_are_several_named_by_their_first_file() {
    let shelf = Shelf::new().await;
    shelf
        .tell(ANNA, &[file("p/m/1", None), file("p/m/2", None)])
        .await;
    shelf.tell(BERT, &[file("p/m/1", None)]).await;
    for text in ["p/m", "m"] {
        assert_eq!(
            shelf.locate(Sought::Text(text.into())).await,
            Found::Several(vec![(ANNA, "p/m/1".into()), (BERT, "p/m/1".into())]),
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_absent_are_not_named_and_the_asking_node_is_told_that_only_it_has_it() {
    let shelf = Shelf::new().await;
    shelf.tell(ANNA, &[file("a", Some(1))]).await;
    shelf.tell(BERT, &[file("a", Some(2))]).await;
    let ask = async |nodes: BTreeSet<NodeId>, asker| {
        let question = Question {
            sought: Sought::Path(path("a")),
            nodes: &nodes,
            asker: Some(asker),
            after: None,
        };
        Found::from(shelf.catalog.locate(&question).await.unwrap())
    };
    assert_eq!(
        ask([ANNA, BERT].into(), ANNA).await,
        Found::File(vec![(BERT, "a".into())])
    );
    assert_eq!(ask([ANNA].into(), ANNA).await, Found::OnlyAsker);
    assert_eq!(ask([CARA].into(), ANNA).await, Found::Nothing);
}

#[tokio::test]
async fn a_long_folder_is_answered_page_by_page() {
    let shelf = Shelf::new().await;
    let files: Vec<FileEntry> = (0..1500)
        .map(|number| file(&format!("d/{number:04}"), None))
        .collect();
    shelf.tell(ANNA, &files).await;
    let nodes = BTreeSet::from([ANNA]);
    let mut question = Question {
        sought: Sought::Path(path("d")),
        nodes: &nodes,
        asker: None,
        after: None,
    };
    let mut sizes = Vec::new();
    loop {
        let Located::Folder { files, more, .. } = shelf.catalog.locate(&question).await.unwrap()
        else {
            panic!("a folder stays a folder");
        };
        sizes.push(files.len());
        if !more {
            break;
        }
        question.after = files.last().map(|file| file.path.clone());
    }
    assert_eq!(sizes, [1024, 476]);
}

#[tokio::test]
async fn the_catalog_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let shelf = Shelf::new().await;
    shelf.tell(ANNA, &[file("a", None)]).await;
    for entry in std::fs::read_dir(shelf.folder.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn what_was_announced_is_there_after_a_restart() {
    let shelf = Shelf::new().await;
    shelf.tell(ANNA, &[file("a", None)]).await;
    shelf.catalog.close().await;
    let again = Catalog::open(&shelf.file()).await.unwrap();
    let (files, more) = again.list(&ANNA, None, None, 10).await.unwrap();
    assert_eq!((files, more), (vec![file("a", None)], false));
}

#[tokio::test]
async fn a_damaged_catalog_is_moved_aside_and_made_anew() {
    for damage in [
        b"not a database at all".repeat(400),
        vec![0; 3],
        vec![0xff; 9000],
    ] {
        let shelf = Shelf::new().await;
        shelf.tell(ANNA, &[file("a", None)]).await;
        shelf.catalog.close().await;
        std::fs::write(shelf.file(), &damage).unwrap();
        let again = Catalog::open(&shelf.file()).await.unwrap();
        assert_eq!(again.totals().await.unwrap().files, 0);
        let kept = shelf.folder.path().join("catalog.sqlite.damaged");
        assert_eq!(std::fs::read(kept).unwrap(), damage);
    }
}

#[tokio::test]
async fn damage_inside_the_file_is_found_when_it_is_opened() {
    let shelf = Shelf::new().await;
    let files: Vec<FileEntry> = (0..2000)
        .map(|number| file(&format!("folder/{number}"), None))
        .collect();
    shelf.tell(ANNA, &files).await;
    shelf.catalog.close().await;
    let mut bytes = std::fs::read(shelf.file()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0x5a);
    std::fs::write(shelf.file(), &bytes).unwrap();
    let again = Catalog::open(&shelf.file()).await.unwrap();
    assert_eq!(again.totals().await.unwrap().files, 0);
}

#[tokio::test]
async fn a_hundred_thousand_files_of_one_node_are_taken_and_found() {
    let shelf = Shelf::new().await;
    for at in 0..50 {
        let entries = (0..2000)
            .map(|number| {
                file(
                    &format!("photos/2026/holiday-{at:03}/IMG_{number:05}.jpg"),
                    None,
                )
            })
            .collect();
        shelf
            .apply(ANNA, &batch(at == 0, at == 49, entries, &[]))
            .await;
    }
    assert_eq!(shelf.catalog.totals().await.unwrap().files, 100_000);
    assert_eq!(
        shelf.search("holiday-031/img_00007").await,
        ["photos/2026/holiday-031/IMG_00007.jpg"]
    );
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    File(Vec<(NodeId, String)>),
    Folder(String, Vec<String>),
    Several(Vec<(NodeId, String)>),
    OnlyAsker,
    Nothing,
}

impl From<Located> for Found {
    fn from(located: Located) -> Self {
        let named = |rows: Vec<shoal_server::catalog::Row>| {
            rows.into_iter()
                .map(|row| (row.node, row.entry.path.to_string()))
                .collect()
        };
        match located {
            Located::File(rows) => Self::File(named(rows)),
            Located::Folder { path, files, .. } => Self::Folder(path.to_string(), shown(&files)),
            Located::Several(rows) => Self::Several(named(rows)),
            Located::OnlyAsker => Self::OnlyAsker,
            Located::Nothing => Self::Nothing,
        }
    }
}

struct Shelf {
    folder: tempfile::TempDir,
    catalog: Catalog,
}

impl Shelf {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.sqlite"))
            .await
            .unwrap();
        Self { folder, catalog }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("catalog.sqlite")
    }

    async fn apply(&self, node: NodeId, announce: &FileAnnounce) -> shoal_server::catalog::Totals {
        let name: NodeName = "somebody".parse().unwrap();
        self.catalog.apply(&node, &name, announce).await.unwrap()
    }

    async fn tell(&self, node: NodeId, files: &[FileEntry]) {
        self.apply(node, &batch(true, true, files.to_vec(), &[]))
            .await;
    }

    async fn paths(&self, node: NodeId) -> Vec<String> {
        let (files, _more) = self.catalog.list(&node, None, None, 10_000).await.unwrap();
        shown(&files)
    }

    async fn page(&self, prefix: Option<&str>, after: Option<&str>) -> Vec<String> {
        let prefix = prefix.map(path);
        let after = after.map(path);
        let page = self
            .catalog
            .list(&ANNA, prefix.as_ref(), after.as_ref(), 10);
        shown(&page.await.unwrap().0)
    }

    async fn search(&self, text: &str) -> Vec<String> {
        let (rows, _more) = self
            .catalog
            .search(text, &BTreeSet::from([ANNA]), 100)
            .await
            .unwrap();
        rows.iter().map(|row| row.entry.path.to_string()).collect()
    }

    async fn locate(&self, sought: Sought) -> Found {
        let nodes = BTreeSet::from([ANNA, BERT, CARA]);
        let question = Question {
            sought,
            nodes: &nodes,
            asker: None,
            after: None,
        };
        self.catalog.locate(&question).await.unwrap().into()
    }
}

fn shown(files: &[FileEntry]) -> Vec<String> {
    files.iter().map(|file| file.path.to_string()).collect()
}

fn path(text: &str) -> SafePath {
    text.parse().unwrap()
}

fn file(name: &str, hash: Option<u8>) -> FileEntry {
    FileEntry {
        path: path(name),
        size: FileSize::new(10).unwrap(),
        mtime_ns: -5,
        mode: 0o644,
        hash: hash.map(|byte| Hash::new([byte; 32])),
    }
}

fn batch(snapshot: bool, complete: bool, added: Vec<FileEntry>, removed: &[&str]) -> FileAnnounce {
    FileAnnounce {
        sequence: 0,
        snapshot,
        complete,
        added: Bounded::new(added).unwrap(),
        removed: Bounded::new(removed.iter().map(|text| path(text)).collect()).unwrap(),
    }
}
