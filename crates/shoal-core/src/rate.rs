//! Rate limits of one direction: who may move how many bytes, and when.
//!
//! Whoever wants to move bytes asks for them and waits until they are granted. Two limits hold at
//! once, one for all peers together and one for each peer by itself; each is a token bucket (RFC
//! 2697 calls it a committed rate with a burst) that fills at the limit's rate and holds a tenth
//! of a second of it. So the bytes granted in any stretch of `t` seconds are at most `rate ×
//! (t + 0.1)`, and as long as somebody waits at least `rate × t` less one turn.
//!
//! Those who wait are served in the order of start-time fair queueing (Goyal, Vin and Cheng,
//! SIGCOMM 1996): every transfer has a tag that grows by the bytes it gets, and the lowest tag has
//! the next turn, of at most [`TURN_MAX_BYTES`]. So transfers share evenly, whether they ask for a
//! megabyte at once or for [`Limits::piece_bytes`] again and again. Between two asks a transfer may fall behind by a tenth of a
//! second and catch up; what is not asked for longer than that is gone. A transfer whose peer has
//! used up its limit is passed over without holding up the others.
//!
//! Without limits everything is granted at once. Limits may change at any moment and hold from
//! then on, also for those who wait already; a lower one forfeits what the bucket holds above it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

use shoal_wire::Rate;

/// Most bytes that one asker gets before the next one has its turn: small enough that even the
/// shortest asks share evenly with long ones, large enough that a gigabyte is few turns.
pub const TURN_MAX_BYTES: u64 = 4096;
/// Most bytes that are asked for at a time under a limit.
pub const PIECE_MAX_BYTES: u64 = 64 * 1024;
/// A piece is at most this part of a second.
const PIECE_PART: u64 = 20;
/// A bucket holds this part of a second: late wake-ups lose nothing, and idleness saves up
/// 1 % of what ten seconds allow.
const BURST_PART: u64 = 10;
/// A turn is at most this part of a second, so that low limits move evenly too.
const TURN_PART: u64 = 50;
/// A wake-up is worth this part of a second of bytes: no more than 200 of them come in one.
const WAKE_PART: u64 = 200;
/// Parts of a byte in which a bucket counts: rate times nanoseconds needs no rounding.
const PARTS_PER_BYTE: u128 = 1_000_000_000;

/// The limits of one direction; `None` where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// For all peers together.
    pub total: Option<Rate>,
    /// For each peer by itself.
    pub per_peer: Option<Rate>,
}

impl Limits {
    /// Whether there is any.
    pub fn is_limited(&self) -> bool {
        self.total.is_some() || self.per_peer.is_some()
    }

    /// How much to ask for at a time, so that bytes move in a steady flow: a twentieth of a second
    /// of the lower limit, at most [`PIECE_MAX_BYTES`]. No bound where there is no limit.
    pub fn piece_bytes(&self) -> u64 {
        let lower = [self.total, self.per_peer].into_iter().flatten().min();
        lower.map_or(u64::MAX, |rate| {
            PIECE_MAX_BYTES.min(rate.bytes_per_second() / PIECE_PART)
        })
    }
}

/// The number of one ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(u64);

/// The number of a transfer, among which bytes are shared evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// Hands out the bytes of one direction. `Peer` tells peers apart.
///
/// The outputs are the asks that are granted in full, in the order in which they became so.
#[derive(Debug)]
pub struct Shaper<Peer> {
    limits: Limits,
    total: Option<Bucket>,
    /// Of peers that moved something lately; one that is full again is as good as none.
    peers: BTreeMap<Peer, Bucket>,
    asks: BTreeMap<AskId, Ask<Peer>>,
    /// Those who wait, by tag: the first has its turn next.
    turns: BTreeSet<(u64, AskId)>,
    /// Where the tag of each flow stands that asked lately, after all that it asked for.
    flows: BTreeMap<FlowId, u64>,
    /// The highest tag that was served.
    served_tag: u64,
    granted: VecDeque<AskId>,
    next_id: u64,
}

#[derive(Debug)]
struct Ask<Peer> {
    peer: Peer,
    missing_bytes: u64,
    tag: u64,
}

impl<Peer: Ord + Clone> Shaper<Peer> {
    /// Hands out bytes under these limits.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            total: limits.total.map(|rate| Bucket::full(rate, now)),
            peers: BTreeMap::new(),
            asks: BTreeMap::new(),
            turns: BTreeSet::new(),
            flows: BTreeMap::new(),
            served_tag: 0,
            granted: VecDeque::new(),
            next_id: 0,
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A transfer wants to move bytes to or from a peer.
    pub fn handle_ask(&mut self, (peer, flow): (Peer, FlowId), bytes: u64, now: Instant) -> AskId {
        let id = AskId(self.next_id);
        self.next_id += 1;
        if let Some(rate) = self.limits.per_peer
            && !self.peers.contains_key(&peer)
        {
            self.forget_idle_peers(now);
            self.peers.insert(peer.clone(), Bucket::full(rate, now));
        }
        let tag = self.tag_of(flow);
        self.flows.insert(flow, tag.saturating_add(bytes));
        let ask = Ask {
            peer,
            missing_bytes: bytes,
            tag,
        };
        self.turns.insert((tag, id));
        self.asks.insert(id, ask);
        self.hand_out(now);
        id
    }

    /// Somebody does not wait any more. What the ask had gathered is lost to all.
    pub fn handle_withdrawn(&mut self, id: AskId, now: Instant) {
        if let Some(ask) = self.asks.remove(&id) {
            self.turns.remove(&(ask.tag, id));
        }
        self.granted.retain(|granted| *granted != id);
        self.hand_out(now);
    }

    /// Other limits hold from now on.
    pub fn handle_limits(&mut self, limits: Limits, now: Instant) {
        self.limits = limits;
        self.total = limits.total.map(|rate| match self.total.take() {
            Some(bucket) => bucket.with_rate(rate, now),
            None => Bucket::full(rate, now),
        });
        let mut known = std::mem::take(&mut self.peers);
        if let Some(rate) = limits.per_peer {
            for ask in self.asks.values() {
                let bucket = known.entry(ask.peer.clone());
                bucket.or_insert_with(|| Bucket::full(rate, now));
            }
            let known = known.into_iter();
            self.peers = known
                .map(|(peer, bucket)| (peer, bucket.with_rate(rate, now)))
                .collect();
        }
        self.hand_out(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.hand_out(now);
    }

    /// The next ask that is granted.
    pub fn poll_output(&mut self) -> Option<AskId> {
        self.granted.pop_front()
    }

    /// When somebody who waits can be given more; `None` while nobody waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.asks.values();
        let soonest = waiting
            .map(|ask| self.peers.get(&ask.peer).map(Bucket::ready_at))
            .min()?;
        soonest.max(self.total.as_ref().map(Bucket::ready_at))
    }

    /// Where a flow's next ask stands: behind what it had, less what it may have missed between
    /// two asks. One that is new has missed nothing.
    fn tag_of(&mut self, flow: FlowId) -> u64 {
        let oldest = self.oldest_tag();
        match self.flows.get(&flow) {
            Some(tag) => oldest.max(*tag),
            None => {
                self.flows.retain(|_, tag| *tag > oldest);
                self.served_tag
            }
        }
    }

    /// The lowest tag that counts, as of now.
    fn oldest_tag(&self) -> u64 {
        let rates = [self.limits.total, self.limits.per_peer];
        let slowest = rates.into_iter().flatten().min();
        let behind = slowest.map_or(0, |rate| rate.bytes_per_second() / BURST_PART);
        self.served_tag.saturating_sub(behind)
    }

    /// Gives turns until nobody waits or nothing is left for those who do.
    fn hand_out(&mut self, now: Instant) {
        if let Some(total) = &mut self.total {
            total.fill(now);
        }
        // Who is behind one that its peer's bucket is too empty for waits too: short asks must not
        // drain what a long one waits for.
        let mut empty_peers = BTreeSet::new();
        let mut passed_over = None;
        loop {
            let next = match passed_over {
                None => self.turns.first(),
                Some(last) => self.turns.range((Excluded(last), Unbounded)).next(),
            };
            let Some(&(tag, id)) = next else { return };
            match self.give_turn(id, &empty_peers, now) {
                Turn::Granted => {
                    self.turns.remove(&(tag, id));
                    self.served_tag = self.served_tag.max(tag);
                    self.granted.push_back(id);
                }
                Turn::Taken { tag: next_tag } => {
                    self.turns.remove(&(tag, id));
                    self.turns.insert((next_tag, id));
                    self.served_tag = self.served_tag.max(tag);
                }
                Turn::PeerEmpty(peer) => {
                    empty_peers.insert(peer);
                    passed_over = Some((tag, id));
                }
                Turn::AllEmpty => return,
            }
        }
    }

    fn give_turn(&mut self, id: AskId, empty: &BTreeSet<Peer>, now: Instant) -> Turn<Peer> {
        let oldest = self.oldest_tag();
        let Some(ask) = self.asks.get_mut(&id) else {
            return Turn::Granted;
        };
        let mut bucket = self.peers.get_mut(&ask.peer);
        let buckets = [self.total.as_ref(), bucket.as_deref()];
        let turn = buckets.into_iter().flatten().map(Bucket::turn_bytes).min();
        let bytes = turn.map_or(ask.missing_bytes, |turn| turn.min(ask.missing_bytes));
        if self.total.as_ref().is_some_and(|total| !total.has(bytes)) {
            return Turn::AllEmpty;
        }
        if let Some(bucket) = &mut bucket {
            bucket.fill(now);
            if empty.contains(&ask.peer) || !bucket.has(bytes) {
                return Turn::PeerEmpty(ask.peer.clone());
            }
            bucket.take(bytes);
        }
        if let Some(total) = &mut self.total {
            total.take(bytes);
        }
        ask.missing_bytes -= bytes;
        if ask.missing_bytes == 0 {
            self.asks.remove(&id);
            return Turn::Granted;
        }
        ask.tag = ask.tag.max(oldest).saturating_add(bytes);
        Turn::Taken { tag: ask.tag }
    }

    fn forget_idle_peers(&mut self, now: Instant) {
        let waiting: BTreeSet<&Peer> = self.asks.values().map(|ask| &ask.peer).collect();
        self.peers.retain(|peer, bucket| {
            bucket.fill(now);
            !bucket.is_full() || waiting.contains(peer)
        });
    }
}

/// What became of a turn.
enum Turn<Peer> {
    /// The ask has all that it wanted.
    Granted,
    /// It got something, and stands here then.
    Taken { tag: u64 },
    /// Its peer's bucket has too little.
    PeerEmpty(Peer),
    /// The bucket of all has too little.
    AllEmpty,
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    /// What may be handed out, in [`PARTS_PER_BYTE`].
    parts: u128,
    filled_at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        let mut bucket = Self {
            rate: rate.bytes_per_second(),
            parts: 0,
            filled_at: now,
        };
        bucket.parts = bucket.capacity_parts();
        bucket
    }

    fn with_rate(mut self, rate: Rate, now: Instant) -> Self {
        self.fill(now);
        self.rate = rate.bytes_per_second();
        self.parts = self.parts.min(self.capacity_parts());
        self
    }

    fn capacity_parts(&self) -> u128 {
        u128::from(self.rate / BURST_PART) * PARTS_PER_BYTE
    }

    fn is_full(&self) -> bool {
        self.parts == self.capacity_parts()
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        let grown = u128::from(self.rate) * since.as_nanos();
        self.parts = (self.parts + grown).min(self.capacity_parts());
    }

    /// How much one turn takes at most: something that the bucket can hold.
    fn turn_bytes(&self) -> u64 {
        TURN_MAX_BYTES.min(self.rate / TURN_PART)
    }

    fn has(&self, bytes: u64) -> bool {
        self.parts >= u128::from(bytes) * PARTS_PER_BYTE
    }

    fn take(&mut self, bytes: u64) {
        self.parts -= u128::from(bytes) * PARTS_PER_BYTE;
    }

    /// When it holds enough to be worth a wake-up.
    fn ready_at(&self) -> Instant {
        let worth = self.turn_bytes().max(self.rate / WAKE_PART);
        let wanted = u128::from(worth) * PARTS_PER_BYTE;
        let missing = wanted.saturating_sub(self.parts);
        let nanoseconds = missing.div_ceil(u128::from(self.rate));
        let wait = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.filled_at + wait
    }
}
