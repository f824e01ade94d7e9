//! The chunks of one file from one source: asked for, heard, stored.
//!
//! A **lane** is a stream that carries chunks. On a short path there is one, and it asks for
//! everything at once. On a long one a lost packet holds up the stream that it was on for a round
//! trip, and a stream's window is less than the path holds: there further lanes join the request
//! on streams of their own, and each asks for a few chunks at a time.
//!
//! What is heard goes to the disk over a short queue, so that the next piece is read while those
//! before it are hashed, written and synced.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use shoal_link::{Link, RecvStream, SendStream, Stream, StreamName};
use shoal_store::hashing::{HashList, PIECE_BYTES};
use shoal_wire::{ChunkLayout, ChunkRanges, Communication, Hash};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::disk::{Disk, Piece, StoreError, WRITES_AT_ONCE};
use super::error::FetchError;
use super::pieces::Chunks;
use super::receive::{Attempt, WORD_INTERVAL, acknowledge};
use super::wanted::Wanted;
use crate::budget::{self, Pool};

/// From this round trip on a path is long: one stream's window each round trip is 400 MB/s, and
/// half of that after a loss.
const LONG_PATH_RTT: Duration = Duration::from_millis(5);
/// Lanes on a long path: each has a window of 2 MiB, together they have what a link may have.
const LONG_PATH_LANES: usize = 8;
/// Requests that a lane of several has made and not yet heard: about a stream's window.
const REQUESTS_AHEAD: usize = 3;
/// Chunks that a lane of several asks for at a time.
const CHUNKS_AT_A_TIME: u32 = 1;

/// A future that lives as long as what it borrows.
type Lane<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the lanes of one file share.
struct Course<'a> {
    wanted: &'a Wanted,
    list: Option<&'a HashList>,
    pool: &'a Pool,
    pieces: mpsc::Sender<Piece>,
    is_alone: bool,
}

/// What a lane has asked for.
#[derive(Default)]
struct Asked {
    /// Oldest first, and not yet heard to its end.
    open: VecDeque<ChunkRanges>,
    /// Whether any of it has come.
    has_answer: bool,
}

impl Attempt<'_> {
    /// The memory that receiving takes: waits for the least with which it goes on, and takes as
    /// much as is of use where that is free.
    pub(super) async fn reserve(&self, layout: &ChunkLayout) -> Pool {
        let pool = budget::RECEIVING.pool(self.lane_bytes(layout)).await;
        let chunk_bytes = layout.chunk_len_bytes().min(layout.size().bytes());
        let rest_bytes = layout.size().bytes() - chunk_bytes;
        let queue_bytes = WRITES_AT_ONCE as u64 * chunk_bytes.min(PIECE_BYTES);
        let more_bytes = bytes(rest_bytes.min(queue_bytes));
        // Without it the transfer only waits for its disk more often.
        let _is_enlarged = more_bytes > 0 && budget::RECEIVING.enlarge(&pool, more_bytes);
        pool
    }

    /// Makes sure of the memory for a file that is larger than was announced.
    pub(super) fn suffice(&self, pool: &Pool, layout: &ChunkLayout) -> Result<(), FetchError> {
        let announced = ChunkLayout::of(self.provider.entry.size);
        let lacking = self
            .lane_bytes(layout)
            .saturating_sub(self.lane_bytes(&announced));
        if lacking > 0 && !budget::RECEIVING.enlarge(pool, lacking) {
            return Err(self.source_changed());
        }
        Ok(())
    }

    /// The memory with which a lane always goes on: one piece is stored while the next is read, or
    /// a chunk beside the frame that it came in.
    fn lane_bytes(&self, layout: &ChunkLayout) -> usize {
        let chunk_bytes = layout.chunk_len_bytes().min(layout.size().bytes());
        if self.accepts_compressed(layout) {
            bytes(2 * chunk_bytes)
        } else {
            bytes(2 * chunk_bytes.min(PIECE_BYTES))
        }
    }

    /// Fetches every chunk that is missing. The root, where the source said it.
    pub(super) async fn receive_chunks(
        &self,
        (link, stream): (&Link, &mut Stream),
        disk: &mut Disk,
        list: Option<&HashList>,
        pool: &Pool,
    ) -> Result<Option<Hash>, FetchError> {
        let wanted = Wanted::of(disk.layout(), |index| disk.lacks(index));
        let further = self.further_lanes(link, &wanted, pool);
        let mut root = self
            .run_lanes((link, stream), disk, (list, pool), (&wanted, further))
            .await?;
        while wanted.count() > 0 {
            // What nobody was left to ask for: a lane that was refused gave it back, or the disk
            // turned out not to have it.
            let alone = self.run_lanes((link, stream), disk, (list, pool), (&wanted, 0));
            root = root.or(alone.await?);
        }
        Ok(root.or(list.map(HashList::root)))
    }

    async fn run_lanes(
        &self,
        (link, stream): (&Link, &mut Stream),
        disk: &mut Disk,
        (list, pool): (Option<&HashList>, &Pool),
        (wanted, further): (&Wanted, usize),
    ) -> Result<Option<Hash>, FetchError> {
        let request = stream.name();
        let (pieces, heard) = mpsc::channel(1);
        let Stream { send, recv, .. } = stream;
        let send = Mutex::new(send);
        let course = Course {
            wanted,
            list,
            pool,
            pieces,
            is_alone: further == 0,
        };
        // Only a failure to store ends the other half: a source cannot put off that its wrong
        // chunk is noticed, and what was heard before it failed is stored.
        let hearing = async {
            let course = course;
            let mut asked = Asked::default();
            let first = self.lane(&course, &send, recv, &mut asked);
            let mut lanes: Vec<Lane<'_, _>> = vec![Box::pin(first)];
            for _ in 0..further {
                lanes.push(Box::pin(self.further_lane(&course, link, request)));
            }
            Ok(all(lanes).await)
        };
        let storing = self.store_pieces(disk, wanted, &send, heard);
        let (heard, ()) = tokio::try_join!(hearing, storing)?;
        Ok(heard?.into_iter().flatten().next())
    }

    /// How many lanes are of use beside the first, as far as there is memory for them.
    fn further_lanes(&self, link: &Link, wanted: &Wanted, pool: &Pool) -> usize {
        if link.path().smallest_rtt < LONG_PATH_RTT {
            return 0;
        }
        let useful = LONG_PATH_LANES.min(wanted.count());
        let lane_bytes = self.lane_bytes(&wanted.layout());
        (1..useful)
            .take_while(|_| budget::RECEIVING.enlarge(pool, lane_bytes))
            .count()
    }

    /// Joins the request on a stream of its own, unless everything is asked for by then. A source
    /// that does not take it is asked on the other streams.
    async fn further_lane(
        &self,
        course: &Course<'_>,
        link: &Link,
        request: StreamName,
    ) -> Result<Option<Hash>, FetchError> {
        let opened = tokio::select! {
            opened = link.open() => opened,
            () = course.wanted.exhausted() => return Ok(None),
        };
        let Stream {
            mut send, mut recv, ..
        } = opened.map_err(|error| FetchError::lost(self.provider, &error))?;
        let join = Communication::FileJoin {
            stream: request.id(),
        };
        let said = self.in_time(send.say(&join)).await?;
        said.map_err(|error| FetchError::lost(self.provider, &error))?;
        let mut asked = Asked::default();
        let ended = self
            .lane(course, &Mutex::new(&mut send), &mut recv, &mut asked)
            .await;
        match &ended {
            Ok(_) => send.finish(),
            Err(FetchError::Refused { .. }) if !asked.has_answer => {
                for ranges in asked.open {
                    course.wanted.give_back(&ranges);
                }
                return Ok(None);
            }
            Err(error) => {
                send.reset(error.refusal());
                recv.stop(error.refusal());
            }
        }
        ended
    }

    /// Asks for chunks on one stream and hears them, until all are asked for and heard. The root,
    /// where the source said it.
    async fn lane(
        &self,
        course: &Course<'_>,
        send: &Mutex<&mut SendStream>,
        recv: &mut RecvStream,
        asked: &mut Asked,
    ) -> Result<Option<Hash>, FetchError> {
        let (chunks_at_a_time, ahead) = if course.is_alone {
            (u32::MAX, 1)
        } else {
            (CHUNKS_AT_A_TIME, REQUESTS_AHEAD)
        };
        let mut root = None;
        loop {
            while asked.open.len() < ahead
                && let Some(ranges) = course.wanted.take(chunks_at_a_time)
            {
                let get = Communication::FileGet(ranges.clone());
                let saying = async { send.lock().await.say(&get).await };
                let said = self.in_time(saying).await?;
                said.map_err(|error| FetchError::lost(self.provider, &error))?;
                asked.open.push_back(ranges);
            }
            let Some(ranges) = asked.open.front() else {
                return Ok(root);
            };
            let layout = course.wanted.layout();
            let indexes = ranges.indexes(&layout).into_iter().flatten();
            let mut chunks = Chunks::new(layout, indexes, course.pool);
            while let Some(piece) = self.hear_piece(recv, &mut chunks, course.list).await? {
                asked.has_answer = true;
                if course.pieces.send(piece).await.is_err() {
                    // Storing has failed, and says why.
                    return Ok(root);
                }
            }
            let Communication::FileTransferComplete { root: said } = self.hear(recv).await? else {
                return Err(FetchError::misbehaved(self.provider, "no completion"));
            };
            asked.open.pop_front();
            root = root.or(said);
        }
    }

    /// Stores what is heard until the last of it is stored, and tells the source what is durable.
    async fn store_pieces(
        &self,
        disk: &mut Disk,
        wanted: &Wanted,
        send: &Mutex<&mut SendStream>,
        mut heard: mpsc::Receiver<Piece>,
    ) -> Result<(), FetchError> {
        let mut is_open = true;
        let mut next_word = Instant::now() + WORD_INTERVAL;
        loop {
            if self.job.transfer.is_cancelled() {
                return Err(FetchError::Cancelled);
            }
            let before = disk.durable_chunks();
            disk.tend().await.map_err(|error| self.not_stored(error))?;
            wanted.add(disk.take_damaged());
            self.job.transfer.verified(disk.take_stored_bytes());
            self.job.transfer.resumed(disk.take_resumed_bytes());
            self.job.transfer.durable(disk.durable_bytes());
            let durable_chunks = disk.durable_chunks();
            if durable_chunks > before || Instant::now() >= next_word {
                next_word = Instant::now() + WORD_INTERVAL;
                let saying = async {
                    let mut send = send.lock().await;
                    acknowledge(&mut send, durable_chunks).await;
                };
                self.in_time(saying).await?;
            }
            if !is_open && disk.is_idle() {
                return Ok(());
            }
            tokio::select! {
                piece = heard.recv(), if is_open && disk.has_place() => match piece {
                    Some(piece) => disk.begin(piece).await?,
                    None => is_open = false,
                },
                () = disk.news() => {}
                () = tokio::time::sleep_until(next_word) => {}
            }
        }
    }

    fn not_stored(&self, error: StoreError) -> FetchError {
        match error {
            StoreError::BadChunk(index) => self.bad_chunk(index),
            StoreError::Partial(error) => error.into(),
        }
    }
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Waits for all, or for the first error.
async fn all<T, E>(mut lanes: Vec<Lane<'_, Result<T, E>>>) -> Result<Vec<T>, E> {
    let mut ended = Vec::with_capacity(lanes.len());
    std::future::poll_fn(|context| {
        let mut at = 0;
        while let Some(lane) = lanes.get_mut(at) {
            match lane.as_mut().poll(context) {
                std::task::Poll::Ready(Ok(value)) => {
                    ended.push(value);
                    drop(lanes.swap_remove(at));
                }
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => at += 1,
            }
        }
        if lanes.is_empty() {
            std::task::Poll::Ready(Ok(std::mem::take(&mut ended)))
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}
