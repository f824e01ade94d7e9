//! Compressed chunks: taken where they were accepted, refused where they are not what they say.

mod support;

use std::time::Duration;

use shoal_node::fetch::{FetchError, FetchPolicy};
use shoal_node::requests::{answer, converse};
use shoal_wire::manifest::{PackFile, PackFiles};
use shoal_wire::message::{Encoding, FileChunk, FileRequest, Outcome, PackGet};
use shoal_wire::{ChunkRanges, Communication, Scope};
use support::content::{CHUNK, Content, path};
use support::provider::{Sharing, signed};
use support::receiver::Receiver;
use support::scripted::{Requested, Scripted};
use support::{DEADLINE, dial, endpoint};

/// How a provider sends a chunk.
#[derive(Debug, Clone, Copy)]
enum Frame {
    /// As one frame of the chunk.
    Good,
    /// A frame that grows to a hundred times the chunk.
    Bomb,
    /// A frame of a byte less.
    Short,
    /// A frame of a byte more.
    Long,
    /// Bytes that are no frame.
    Noise,
    /// A frame of other bytes of the same length.
    Other,
    /// A frame that is said to be as long as the chunk.
    NotShorter,
}

#[tokio::test]
async fn a_compressed_chunk_is_taken_and_one_that_is_not_what_it_says_is_not() {
    let content = compressible(2 * CHUNK + 100);
    for frame in [
        Frame::Good,
        Frame::Bomb,
        Frame::Short,
        Frame::Long,
        Frame::Noise,
        Frame::Other,
        Frame::NotShorter,
    ] {
        let provider = provider(&content, frame).await;
        let receiver = Receiver::new().await;
        let fetched = receiver
            .fetch(vec![provider.source(&content.entry)], "a.bin")
            .await;
        match (frame, fetched) {
            (Frame::Good, Ok(fetched)) => {
                assert_eq!(fetched.outcome, Outcome::Fetched(content.list.root()));
                assert!(receiver.read("a.bin") == content.bytes);
            }
            (Frame::Other, Err(FetchError::BadChunk { .. })) => {}
            (
                Frame::Bomb | Frame::Short | Frame::Long | Frame::Noise | Frame::NotShorter,
                Err(FetchError::Misbehaved { .. }),
            ) => {}
            (_, other) => panic!("{frame:?}: {other:?}"),
        }
        assert_eq!(receiver.has("a.bin"), matches!(frame, Frame::Good));
    }
}

#[tokio::test]
async fn a_compressed_chunk_that_was_not_accepted_is_refused() {
    let content = compressible(2 * CHUNK);
    let provider = provider(&content, Frame::Good).await;
    let receiver = Receiver::new().await;
    let mut job = receiver.job(vec![provider.source(&content.entry)], "a.bin");
    job.policy = FetchPolicy {
        accepts_compressed: false,
        ..FetchPolicy::default()
    };
    let error = receiver.run(job).await.unwrap_err();
    assert!(error.to_string().contains("not accepted"), "{error}");
}

#[tokio::test]
async fn a_receiver_behind_a_slow_link_gets_compressed_chunks_once_the_link_is_measured() {
    const LEN: usize = 32 * CHUNK;
    let text = b"a line that comes again and again\n".repeat(LEN / 34 + 1);
    let sharing = Sharing::of(|files| {
        std::fs::write(files.join("log.txt"), &text[..LEN]).unwrap();
    })
    .await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    let grant = sharing.grant(visitor.node_id(), Scope::Share);
    let request = Communication::FileRequest(FileRequest {
        path: path("log.txt"),
        hash: None,
        grant: Some(signed(&sharing.server, grant)),
        accepts_zstd: true,
    });
    let mut stream = converse(&link, &request).await.unwrap();
    let response = answer(&mut stream, DEADLINE).await.unwrap();
    assert!(matches!(response, Communication::FileResponse(_)));
    let list = answer(&mut stream, DEADLINE).await.unwrap();
    assert!(matches!(list, Communication::HashListPage(_)));
    let all = ChunkRanges::new(std::iter::once(0..(LEN / CHUNK) as u32).collect()).unwrap();
    let wanted = Communication::FileGet(all);
    stream.send.say(&wanted).await.unwrap();
    // Six megabytes a second.
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    loop {
        let heard = stream.recv.hear(DEADLINE).await.unwrap();
        let Some(Communication::FileChunk(head)) = heard else {
            panic!("{heard:?} before any compressed chunk");
        };
        match head.encoding {
            Encoding::Raw => {}
            Encoding::Zstd { len_bytes } => {
                let mut frame = vec![0; len_bytes as usize];
                stream.recv.read_exact(&mut frame).await.unwrap();
                let chunk = zstd::bulk::decompress(&frame, CHUNK).unwrap();
                let start = head.index as usize * CHUNK;
                assert!(chunk == text[start..start + CHUNK]);
                return;
            }
        }
        let mut block = vec![0; CHUNK / 16];
        for _ in 0..16 {
            pace.tick().await;
            stream.recv.read_exact(&mut block).await.unwrap();
        }
    }
}

#[tokio::test]
async fn packs_are_compressed_once_the_link_is_measured_and_slower_than_the_compressor() {
    let text = b"a line that comes again and again\n".repeat(600);
    let sharing = Sharing::of(|files| {
        for number in 0..40 {
            std::fs::write(files.join(format!("{number}.txt")), &text).unwrap();
        }
    })
    .await;
    let visitor = endpoint(&[]).await;
    let link = dial(&visitor, &sharing.endpoint).await;
    let grant = sharing.grant(visitor.node_id(), Scope::Share);
    let files: Vec<PackFile> = (0..40)
        .map(|number| {
            let shared = sharing.share.file(&path(&format!("{number}.txt"))).unwrap();
            PackFile {
                path: shared.entry.path,
                size: shared.entry.size,
                mtime_ns: shared.entry.mtime_ns,
            }
        })
        .collect();
    let content = text.repeat(40);
    let get = Communication::PackGet(PackGet {
        files: PackFiles::new(files).unwrap(),
        accepts_zstd: true,
        grant: Some(signed(&sharing.server, grant)),
    });
    let mut stream = converse(&link, &get).await.unwrap();
    // Six megabytes a second.
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    loop {
        stream.send.say(&get).await.unwrap();
        let heard = stream.recv.hear(DEADLINE).await.unwrap();
        let Some(Communication::Pack(pack)) = heard else {
            panic!("{heard:?} before any compressed pack");
        };
        if let Encoding::Zstd { len_bytes } = pack.encoding {
            let mut frame = vec![0; len_bytes as usize];
            stream.recv.read_exact(&mut frame).await.unwrap();
            let unpacked = zstd::bulk::decompress(&frame, content.len()).unwrap();
            assert!(unpacked == content && frame.len() < content.len() / 10);
            return;
        }
        let mut read = vec![0; content.len()];
        for block in read.chunks_mut(1 << 16) {
            pace.tick().await;
            stream.recv.read_exact(block).await.unwrap();
        }
        assert!(read == content);
    }
}

/// Content whose chunks shrink.
fn compressible(len: usize) -> Content {
    Content::of(
        "a.bin",
        b"0123456789abcdefghijklmnopqrstuvw\n".repeat(len / 34 + 1)[..len].to_vec(),
    )
}

/// A provider that sends its first chunk in a frame, and says what it is asked for the rest.
async fn provider(content: &Content, frame: Frame) -> Scripted {
    let content = content.clone();
    Scripted::start("anna", move |mut requested: Requested| {
        let content = content.clone();
        async move {
            requested.describe(&content).await?;
            for index in requested.hear_wanted(&content).await? {
                if index.get() == 0 {
                    send_framed(&mut requested, &content, frame).await?;
                } else {
                    requested.send_chunk(&content, index).await?;
                }
            }
            requested.complete(Some(content.list.root())).await?;
            requested.wait().await
        }
    })
    .await
}

async fn send_framed(requested: &mut Requested, content: &Content, frame: Frame) -> Option<()> {
    let first = content.index(0);
    let compress = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).expect("compressed");
    let bytes = match frame {
        Frame::Good | Frame::NotShorter => compress(content.chunk(first)),
        Frame::Bomb => compress(&vec![0; 100 * CHUNK]),
        Frame::Short => compress(&vec![0; CHUNK - 1]),
        Frame::Long => compress(&vec![0; CHUNK + 1]),
        Frame::Noise => vec![0xa5; 1000],
        Frame::Other => compress(&vec![0; CHUNK]),
    };
    let len_bytes = match frame {
        Frame::NotShorter => CHUNK as u32,
        _ => bytes.len() as u32,
    };
    let head = FileChunk {
        index: 0,
        len_bytes: CHUNK as u64,
        hash: content.list.chunk(first),
        encoding: Encoding::Zstd { len_bytes },
    };
    requested.say(&Communication::FileChunk(head)).await?;
    requested.bytes(&bytes).await
}
