//! Files moved by the operator's orders between the server and real peers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bench;

use std::path::{Path, PathBuf};

use bench::Bench;
use shoal_link::{Endpoint, EndpointConfig, Identity, Protocol};
use shoal_node::peer::{Event, Peer, PeerOptions};
use shoal_node::relays::Relays;
use shoal_node::share::{Roots, Share, ShareOptions};
use shoal_node::state::{ServerRef, TrustChoice};
use shoal_node::tasks::Tasks;
use shoal_node::throttle::LimitSettings;
use shoal_server::control::{ControlEvent, ControlRequest, TransferOutcome};
use shoal_store::folder::Folder;
use shoal_store::index::Index;
use shoal_wire::ShortText;

#[tokio::test(flavor = "multi_thread")]
async fn files_and_folders_move_by_order_in_every_direction() {
    let bench = Bench::new().await;
    let anna = Member::join(
        &bench,
        "anna",
        &[("photos/1.jpg", 3_000_000), ("photos/2.jpg", 5)],
    );
    let anna = anna.await;
    let bert = Member::join(&bench, "bert", &[]).await;

    let fetch = ControlRequest::Fetch {
        peer: "anna".into(),
        file: "photos".into(),
        overwrite: false,
    };
    assert_eq!(outcomes(&bench.order(&fetch).await), ["fetched", "fetched"]);
    let own = bench.folder.path().join("server_files");
    same(&anna.files.join("photos/1.jpg"), &own.join("photos/1.jpg"));
    same(&anna.files.join("photos/2.jpg"), &own.join("photos/2.jpg"));
    assert_eq!(
        outcomes(&bench.order(&fetch).await),
        ["up to date", "up to date"]
    );

    let transfer = ControlRequest::Transfer {
        from: "anna".into(),
        file: "1.jpg".into(),
        to: "bert".into(),
        overwrite: false,
    };
    assert_eq!(outcomes(&bench.order(&transfer).await), ["fetched"]);
    same(
        &anna.files.join("photos/1.jpg"),
        &bert.files.join("photos/1.jpg"),
    );

    let push = ControlRequest::Push {
        file: "own.txt".into(),
        peer: "bert".into(),
        overwrite: false,
    };
    assert_eq!(outcomes(&bench.order(&push).await), ["fetched"]);
    same(&own.join("own.txt"), &bert.files.join("own.txt"));

    std::fs::write(anna.files.join("own.txt"), "another text").unwrap();
    let events = bench
        .order(&ControlRequest::Push {
            file: "own.txt".into(),
            peer: "anna".into(),
            overwrite: false,
        })
        .await;
    assert_eq!(outcomes(&events), ["failed 23"]);

    let rescan = ControlRequest::Rescan {
        peer: "anna".into(),
    };
    let events = bench.order(&rescan).await;
    assert!(
        matches!(events[0], ControlEvent::Rescanned { files: 3, .. }),
        "{events:?}"
    );
}

struct Member {
    _folder: tempfile::TempDir,
    files: PathBuf,
    _peer: Peer,
}

impl Member {
    /// A peer that has announced its files.
    async fn join(bench: &Bench, name: &str, files: &[(&str, usize)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files_dir = folder.path().join("files");
        std::fs::create_dir(&files_dir).unwrap();
        for (path, len_bytes) in files {
            let path = files_dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let content: Vec<u8> = (0..*len_bytes).map(|at| (at % 251) as u8).collect();
            std::fs::write(path, content).unwrap();
        }
        let tasks = Tasks::new();
        let index = Index::open(&folder.path().join("index")).await.unwrap();
        let options = ShareOptions {
            roots: Roots::whole(Folder::open(&files_dir).unwrap()),
            hidden: false,
        };
        let share = Share::start(options, index, &tasks);
        share.all_hashed().await;
        let endpoint = Endpoint::bind(EndpointConfig {
            bind: "127.0.0.1:0".parse().unwrap(),
            identity: Identity::generate(),
            certificate: None,
            accept: vec![Protocol::Transfer],
            roaming: None,
        })
        .await
        .unwrap();
        let (peer, mut events) = Peer::start(PeerOptions {
            endpoint,
            server: ServerRef {
                addresses: vec![bench.server.local_addr().to_string()],
                trust: TrustChoice::Pinned(bench.server.node_id()),
                relay_pass: None,
            },
            name: name.parse().unwrap(),
            agent: ShortText::new("shoal test"),
            share,
            accepts_offers: true,
            relays: Relays::new(),
            notices: None,
            limits: LimitSettings::default(),
            tasks,
        })
        .await
        .unwrap();
        while peer.status().announced_files < files.len() as u64 {
            let event: Event = events.recv().await.unwrap();
            assert!(!matches!(event, Event::Disconnected { .. }), "{event:?}");
        }
        Self {
            _folder: folder,
            files: files_dir,
            _peer: peer,
        }
    }
}

fn same(left: &Path, right: &Path) {
    let (left, right) = (std::fs::read(left).unwrap(), std::fs::read(right).unwrap());
    assert!(left == right);
}

fn outcomes(events: &[ControlEvent]) -> Vec<String> {
    let told = events.iter().filter_map(|event| match event {
        ControlEvent::Transferred { outcome, .. } => Some(match outcome {
            TransferOutcome::Fetched => "fetched".to_owned(),
            TransferOutcome::UpToDate => "up to date".to_owned(),
        }),
        ControlEvent::Failed { code, message } => {
            assert!(!message.is_empty());
            Some(format!("failed {code}"))
        }
        _ => None,
    });
    told.collect()
}
