//! A provider that does as a script says, message by message.

use std::sync::{Arc, Mutex};

use shoal_link::{Endpoint, Protocol, Stream};
use shoal_node::fetch::Source;
use shoal_node::provide::is_about_files;
use shoal_node::tasks::Tasks;
use shoal_wire::message::{Addresses, Bounded, Encoding, FileChunk, FileResponse, Provider};
use shoal_wire::{ChunkIndex, Communication, FileEntry, Hash, NodeId, Refusal};

use super::content::Content;
use super::{DEADLINE, endpoint};

/// A node that answers every request for a file by its script.
pub(crate) struct Scripted {
    name: String,
    endpoint: Endpoint,
    tasks: Tasks,
    asked: Asked,
}

/// What was asked for, one list of positions per `FileGet`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<Vec<u32>>>>);

impl Asked {
    pub(crate) fn all(&self) -> Vec<Vec<u32>> {
        self.0.lock().expect("no panic before").clone()
    }

    fn note(&self, positions: Vec<u32>) {
        self.0.lock().expect("no panic before").push(positions);
    }
}

/// One stream on which a file was requested.
pub(crate) struct Requested {
    /// What it was requested with.
    pub(crate) first: Communication,
    pub(crate) stream: Stream,
    asked: Asked,
}

impl Scripted {
    /// Runs `script` for each request; nobody may join one.
    pub(crate) async fn start<Running>(
        name: &str,
        script: impl Fn(Requested) -> Running + Send + Sync + 'static,
    ) -> Self
    where
        Running: Future<Output = Option<()>> + Send + 'static,
    {
        Self::run(name, false, script).await
    }

    /// Runs `script` for each request and for each stream that joins one.
    pub(crate) async fn start_with_lanes<Running>(
        name: &str,
        script: impl Fn(Requested) -> Running + Send + Sync + 'static,
    ) -> Self
    where
        Running: Future<Output = Option<()>> + Send + 'static,
    {
        Self::run(name, true, script).await
    }

    async fn run<Running>(
        name: &str,
        takes_joins: bool,
        script: impl Fn(Requested) -> Running + Send + Sync + 'static,
    ) -> Self
    where
        Running: Future<Output = Option<()>> + Send + 'static,
    {
        let (endpoint, tasks) = (endpoint(&[Protocol::Transfer]).await, Tasks::new());
        let asked = Asked::default();
        let (accepting, noting, running) = (endpoint.clone(), asked.clone(), tasks.clone());
        let script = Arc::new(script);
        tasks.spawn(async move {
            while let Some(link) = accepting.accept().await {
                let (noting, tasks) = (noting.clone(), running.clone());
                let script = Arc::clone(&script);
                running.spawn(async move {
                    while let Ok(mut stream) = link.accept().await {
                        let Ok(Some(first)) = stream.recv.hear(DEADLINE).await else {
                            continue;
                        };
                        assert!(is_about_files(&first), "{first:?}");
                        if matches!(first, Communication::FileJoin { .. }) && !takes_joins {
                            let refused = Communication::refused(Refusal::Unexpected, "");
                            let _gone = stream.send.say(&refused).await;
                            stream.send.finish();
                            continue;
                        }
                        let asked = noting.clone();
                        let run = script(Requested {
                            first,
                            stream,
                            asked,
                        });
                        tasks.spawn(async move {
                            let _left = run.await;
                        });
                    }
                });
            }
        });
        Self {
            name: name.to_owned(),
            endpoint,
            tasks,
            asked,
        }
    }

    /// One that serves `content` as it should.
    pub(crate) async fn honest(name: &str, content: &Content) -> Self {
        let content = content.clone();
        Self::start(name, move |requested| {
            let content = content.clone();
            async move { requested.serve(&content).await }
        })
        .await
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.endpoint.local_addr()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.endpoint.node_id()
    }

    /// What a server says of this node.
    pub(crate) fn source(&self, entry: &FileEntry) -> Source {
        let provider = Provider {
            node: self.node(),
            name: self.name.parse().expect("a name"),
            addresses: Addresses::truncated(vec![self.endpoint.local_addr()]),
            entry: entry.clone(),
            grant: None,
        };
        Source {
            provider,
            link: None,
        }
    }

    pub(crate) fn asked(&self) -> Vec<Vec<u32>> {
        self.asked.all()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// Each step ends the script with `None` when the receiver has left.
impl Requested {
    /// The whole conversation, honestly.
    pub(crate) async fn serve(mut self, content: &Content) -> Option<()> {
        self.describe(content).await?;
        while let Some(positions) = self.hear_wanted(content).await {
            for index in positions {
                self.send_chunk(content, index).await?;
            }
            self.complete(Some(content.list.root())).await?;
        }
        Some(())
    }

    pub(crate) async fn say(&mut self, message: &Communication) -> Option<()> {
        self.stream.send.say(message).await.ok()
    }

    pub(crate) async fn respond(&mut self, entry: &FileEntry) -> Option<()> {
        let entry = entry.clone();
        self.say(&Communication::FileResponse(FileResponse { entry }))
            .await
    }

    pub(crate) async fn page(&mut self, hashes: &[Hash]) -> Option<()> {
        let page = Bounded::truncated(hashes.to_vec());
        self.say(&Communication::HashListPage(page)).await
    }

    /// The entry and the hash list.
    pub(crate) async fn describe(&mut self, content: &Content) -> Option<()> {
        self.respond(&content.entry).await?;
        let hashes = content.list.as_slice();
        if hashes.len() > 1 {
            self.page(hashes).await?;
        }
        Some(())
    }

    /// The next `FileGet`, with whatever else the receiver says heard and left.
    pub(crate) async fn hear_wanted(&mut self, content: &Content) -> Option<Vec<ChunkIndex>> {
        loop {
            match self.stream.recv.hear(DEADLINE).await.ok()?? {
                Communication::FileGet(ranges) => {
                    let indexes: Vec<_> = ranges.indexes(&content.list.layout())?.collect();
                    let positions = indexes.iter().map(|index| index.get());
                    self.asked.note(positions.collect());
                    return Some(indexes);
                }
                _ => continue,
            }
        }
    }

    pub(crate) async fn head(&mut self, index: u32, len_bytes: u64, hash: Hash) -> Option<()> {
        let head = FileChunk {
            index,
            len_bytes,
            hash,
            encoding: Encoding::Raw,
        };
        self.say(&Communication::FileChunk(head)).await
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.send.write_all(bytes).await.ok()
    }

    /// A chunk as it should be.
    pub(crate) async fn send_chunk(&mut self, content: &Content, index: ChunkIndex) -> Option<()> {
        let bytes = content.chunk(index);
        let hash = content.list.chunk(index);
        self.head(index.get(), bytes.len() as u64, hash).await?;
        self.bytes(bytes).await
    }

    pub(crate) async fn complete(&mut self, root: Option<Hash>) -> Option<()> {
        self.say(&Communication::FileTransferComplete { root })
            .await
    }

    /// Keeps the stream open until the receiver leaves it.
    pub(crate) async fn wait(mut self) -> Option<()> {
        while let Ok(Some(_)) = self.stream.recv.hear(DEADLINE).await {}
        Some(())
    }
}
