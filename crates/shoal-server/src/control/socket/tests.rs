use super::*;
use crate::control::client::{self, ControlError};

#[test]
fn only_the_servers_own_user_and_root_may_order() {
    assert!(may_order(1000, 1000));
    assert!(may_order(0, 1000));
    assert!(!may_order(1001, 1000));
    assert!(!may_order(1000, 0));
}

#[tokio::test]
async fn an_order_brings_its_events_and_one_end() {
    let bench = Bench::new().await;
    let events = bench.ask(&ControlRequest::Peers).await;
    assert_eq!(events, [disconnected("first"), ControlEvent::Done]);
    let events = bench.ask(&ControlRequest::Status).await;
    let failure = failed(Refusal::NotFound, "nothing here");
    assert_eq!(events, [disconnected("first"), failure]);
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_goes_with_the_server() {
    let bench = Bench::new().await;
    let mode = std::fs::metadata(&bench.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    bench.tasks.shutdown(Duration::from_secs(10)).await;
    assert!(!bench.path.exists());
    let nobody = client::send(&bench.path, &ControlRequest::Peers, |_| {}).await;
    assert!(matches!(nobody, Err(ControlError::NotRunning { .. })));
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let bench = Bench::new().await;
    let second = ControlSocket::bind(&bench.path).await;
    assert!(matches!(second, Err(SocketError::InUse { .. })));
    let long = bench.folder.path().join("d".repeat(SOCKET_PATH_MAX_BYTES));
    let refused = ControlSocket::bind(&long).await;
    assert!(matches!(refused, Err(SocketError::TooLong { .. })));

    let stale = bench.folder.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(ControlSocket::bind(&stale).await.is_ok());
}

#[tokio::test]
async fn garbage_and_lines_without_end_are_answered_with_their_number() {
    let bench = Bench::new().await;
    for (sent, refusal) in [
        (b"what?\n".to_vec(), Refusal::Malformed),
        (b"\xff\xfe\n".to_vec(), Refusal::Malformed),
        (b"{\"order\":\"reboot\"}\n".to_vec(), Refusal::Malformed),
        (vec![b'x'; 65_537], Refusal::TooLarge),
    ] {
        let mut stream = UnixStream::connect(&bench.path).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        let line = read_line(&mut BufReader::new(stream)).await.unwrap();
        let event: ControlEvent = serde_json::from_slice(&line.unwrap()).unwrap();
        assert!(
            matches!(event, ControlEvent::Failed { code, .. } if code == refusal.code()),
            "{event:?}"
        );
    }
    assert_eq!(bench.ask(&ControlRequest::Peers).await.len(), 2);
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_its_order_back() {
    let bench = Bench::new().await;
    let stream = UnixStream::connect(&bench.path).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let endless = ControlRequest::Files { text: None };
    let line = serde_json::to_string(&endless).unwrap();
    writer.write_all(line.as_bytes()).await.unwrap();
    writer.write_all(b"\n").await.unwrap();
    let mut reader = BufReader::new(reader);
    assert!(read_line(&mut reader).await.unwrap().is_some());
    drop((reader, writer));
    bench.dropped.acquire().await.unwrap().forget();
}

#[tokio::test]
async fn more_clients_than_there_are_places_wait_for_one() {
    let bench = Bench::new().await;
    let mut idle = Vec::new();
    for _ in 0..CLIENTS_MAX {
        idle.push(UnixStream::connect(&bench.path).await.unwrap());
    }
    let waiting = bench.ask(&ControlRequest::Peers);
    drop(idle);
    assert_eq!(waiting.await.len(), 2);
}

/// Answers `Peers`, fails `Status`, and never ends anything else.
struct Script(Arc<Semaphore>);

/// Tells that the order it belongs to was dropped.
struct Dropped(Arc<Semaphore>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

impl Obeys for Script {
    async fn obey(&self, request: ControlRequest, events: Events) -> Result<(), Failure> {
        let _ = events.send(disconnected("first")).await;
        match request {
            ControlRequest::Peers => Ok(()),
            ControlRequest::Status => Err(Failure {
                refusal: Refusal::NotFound,
                message: "nothing here".into(),
            }),
            _ => {
                let _dropped = Dropped(Arc::clone(&self.0));
                std::future::pending().await
            }
        }
    }
}

struct Bench {
    folder: tempfile::TempDir,
    path: PathBuf,
    tasks: Tasks,
    dropped: Arc<Semaphore>,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let tasks = Tasks::new();
        let dropped = Arc::new(Semaphore::new(0));
        let socket = ControlSocket::bind(&path).await.unwrap();
        let script = Arc::new(Script(Arc::clone(&dropped)));
        tasks.spawn(socket.serve(script, tasks.clone()));
        Self {
            folder,
            path,
            tasks,
            dropped,
        }
    }

    async fn ask(&self, request: &ControlRequest) -> Vec<ControlEvent> {
        let mut events = Vec::new();
        client::send(&self.path, request, |event| events.push(event))
            .await
            .unwrap();
        events
    }
}

fn disconnected(name: &str) -> ControlEvent {
    ControlEvent::Disconnected { name: name.into() }
}
