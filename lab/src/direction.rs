//! One direction of a link: what is lost, what waits, when it arrives.
//!
//! A pure machine: packets and the time go in, due packets are taken out. Loss comes first, then
//! the queue before the rate cap, then the delay. Packets stay in order.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a direction does to packets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    /// From the cap to the other end.
    pub(crate) delay: Duration,
    /// Uniform additional delay, from zero to this.
    pub(crate) jitter: Duration,
    /// The cap; `None` for none.
    pub(crate) bytes_per_second: Option<f64>,
    /// How much may wait at the cap; what comes on top is dropped.
    pub(crate) queue_bytes: u64,
    /// Share of packets lost, each on its own, from 0 to 1.
    pub(crate) loss: f64,
}

/// What became of the packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) entered: u64,
    pub(crate) lost: u64,
    pub(crate) dropped: u64,
    pub(crate) carried: u64,
    pub(crate) carried_bytes: u64,
    /// The most that a packet left after it was due.
    pub(crate) most_late: Duration,
}

/// One direction of a link. Times count from any fixed moment.
#[derive(Debug)]
pub(crate) struct Direction {
    shape: Shape,
    random: StdRng,
    under_way: VecDeque<(Duration, Vec<u8>)>,
    /// When the cap has sent all that was let in.
    cap_free_at: Duration,
    last_due: Duration,
    counts: Counts,
}

impl Direction {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: StdRng::seed_from_u64(seed),
            under_way: VecDeque::new(),
            cap_free_at: Duration::ZERO,
            last_due: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes a packet in, or loses it.
    pub(crate) fn handle_packet(&mut self, packet: &[u8], now: Duration) {
        self.counts.entered += 1;
        if self.random.random_bool(self.shape.loss) {
            self.counts.lost += 1;
            return;
        }
        let Some(sent_at) = self.pass_cap(packet.len(), now) else {
            self.counts.dropped += 1;
            return;
        };
        let jitter = self.shape.jitter.mul_f64(self.random.random::<f64>());
        self.last_due = self.last_due.max(sent_at + self.shape.delay + jitter);
        self.under_way.push_back((self.last_due, packet.to_vec()));
    }

    /// The next packet that has arrived.
    pub(crate) fn poll_arrived(&mut self, now: Duration) -> Option<Vec<u8>> {
        let (due, packet) = self.under_way.pop_front_if(|(due, _)| *due <= now)?;
        self.counts.carried += 1;
        self.counts.carried_bytes += packet.len() as u64;
        self.counts.most_late = self.counts.most_late.max(now - due);
        Some(packet)
    }

    /// When the next packet arrives.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.under_way.front().map(|(due, _)| *due)
    }

    /// When the cap has sent a packet that comes now; `None` when the queue is full.
    fn pass_cap(&mut self, len: usize, now: Duration) -> Option<Duration> {
        let Some(rate) = self.shape.bytes_per_second else {
            return Some(now);
        };
        let waiting_bytes = self.cap_free_at.saturating_sub(now).as_secs_f64() * rate;
        if waiting_bytes as u64 + len as u64 > self.shape.queue_bytes {
            return None;
        }
        let sending = Duration::from_secs_f64(len as f64 / rate);
        self.cap_free_at = self.cap_free_at.max(now) + sending;
        Some(self.cap_free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: [u8; 1000] = [7; 1000];

    fn shape() -> Shape {
        Shape {
            delay: Duration::from_millis(25),
            jitter: Duration::ZERO,
            bytes_per_second: Some(1e6),
            queue_bytes: 10_000,
            loss: 0.0,
        }
    }

    #[test]
    fn a_packet_arrives_after_its_sending_time_and_the_delay() {
        let mut direction = Direction::new(shape(), 1);
        direction.handle_packet(&PACKET, Duration::from_millis(100));
        assert_eq!(direction.poll_timeout(), Some(Duration::from_millis(126)));
        assert_eq!(direction.poll_arrived(Duration::from_millis(125)), None);
        let arrived = direction.poll_arrived(Duration::from_millis(126));
        assert_eq!(arrived.as_deref(), Some(&PACKET[..]));
    }

    #[test]
    fn packets_leave_the_cap_one_after_the_other_and_a_full_queue_drops() {
        let mut direction = Direction::new(shape(), 1);
        for _ in 0..15 {
            direction.handle_packet(&PACKET, Duration::ZERO);
        }
        let mut arrivals = Vec::new();
        while let Some(due) = direction.poll_timeout() {
            direction.poll_arrived(due);
            arrivals.push(due.as_millis());
        }
        assert_eq!(arrivals, (26..36).collect::<Vec<_>>());
        assert_eq!(direction.counts().dropped, 5);
    }

    #[test]
    fn the_same_seed_loses_the_same_packets() {
        let lost_of = |seed| {
            let loss = 0.1;
            let mut direction = Direction::new(Shape { loss, ..shape() }, seed);
            let lost = |at: u64| {
                let before = direction.counts().lost;
                direction.handle_packet(&PACKET, Duration::from_millis(at));
                direction.counts().lost > before
            };
            (0..10_000).map(lost).collect::<Vec<_>>()
        };
        assert_eq!(lost_of(1), lost_of(1));
        assert_ne!(lost_of(1), lost_of(2));
        let lost = lost_of(1).iter().filter(|lost| **lost).count();
        assert!((900..1100).contains(&lost), "{lost} of 10,000");
    }

    #[test]
    fn jitter_delays_but_keeps_the_order() {
        let jitter = Duration::from_millis(20);
        let mut direction = Direction::new(Shape { jitter, ..shape() }, 1);
        for at in 0..100 {
            direction.handle_packet(&[at], Duration::from_millis(at.into()));
        }
        let mut order = Vec::new();
        while let Some(due) = direction.poll_timeout() {
            let packet = direction.poll_arrived(due).expect("due");
            let sent = Duration::from_millis(packet[0].into());
            assert!((25..46).contains(&(due - sent).as_millis()));
            order.push(packet[0]);
        }
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
