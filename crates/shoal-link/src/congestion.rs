//! Congestion control chosen by measured round-trip time: Cubic on short paths, BBR3 on long ones.
//!
//! BBR3 cannot pace below a millisecond and moves a fraction of what Cubic does on a LAN; Cubic
//! gives most of a long path away at 0.1 % loss. So a path starts with Cubic, with BBR3 listening
//! in, and goes over to BBR3 once a few rounds have shown that it is long. A shorter round trip
//! seen later brings Cubic back: the smallest one only ever falls.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use noq::congestion::{Bbr3Config, Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use noq_proto::RttEstimator;

/// At and above this smallest round trip a path is long: below, timers are too coarse for BBR3.
const LONG_PATH_RTT: Duration = Duration::from_millis(2);
/// Batches of acknowledgements to see before a path counts as long. The first of them hold the
/// cryptography of the handshake, which is slower than a LAN.
const ROUNDS_BEFORE_CHOICE: u32 = 4;

/// First congestion window between hosts, in bytes: 32 of the smallest datagrams, as common servers
/// of the web have it. Ten of them (RFC 6928) take a round trip more to fill a long path.
const FIRST_WINDOW_BYTES: u64 = 32 * 1200;

/// Builds a controller that chooses for itself.
#[derive(Debug, Default)]
pub(crate) struct ByRoundTrip;

/// Builds a controller for a path that never leaves the host: Cubic, whatever the round trip of a
/// busy machine, with this first window in bytes.
#[derive(Debug)]
pub(crate) struct SameHost {
    pub(crate) first_window_bytes: u64,
}

impl ControllerFactory for SameHost {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let mut config = CubicConfig::default();
        config.initial_window(self.first_window_bytes);
        Box::new(Chooser {
            active: Arc::new(config).build(now, current_mtu),
            listening: None,
            is_long: false,
            rounds: 0,
            smallest_rtt: Duration::MAX,
            mtu_bytes: current_mtu,
        })
    }
}

/// The smallest round trip that a controller of these has seen, if it has seen one.
pub(crate) fn smallest_rtt(controller: Box<dyn Controller>) -> Option<Duration> {
    let chooser = controller.into_any().downcast::<Chooser>().ok()?;
    Some(chooser.smallest_rtt).filter(|rtt| *rtt < Duration::MAX)
}

impl ControllerFactory for ByRoundTrip {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Chooser {
            active: cubic(now, current_mtu),
            listening: Some(bbr3(now, current_mtu)),
            is_long: false,
            rounds: 0,
            smallest_rtt: Duration::MAX,
            mtu_bytes: current_mtu,
        })
    }
}

/// The controller in charge and, until the choice is made, the one that may take over.
#[derive(Debug)]
struct Chooser {
    active: Box<dyn Controller>,
    listening: Option<Box<dyn Controller>>,
    is_long: bool,
    rounds: u32,
    smallest_rtt: Duration,
    mtu_bytes: u16,
}

impl Chooser {
    fn each(&mut self, mut event: impl FnMut(&mut dyn Controller)) {
        event(self.active.as_mut());
        if let Some(listening) = &mut self.listening {
            event(listening.as_mut());
        }
    }

    fn choose(&mut self, now: Instant) {
        if self.smallest_rtt < LONG_PATH_RTT {
            self.listening = None;
            if self.is_long {
                self.active = cubic(now, self.mtu_bytes);
                self.is_long = false;
            }
        } else if self.rounds >= ROUNDS_BEFORE_CHOICE
            && let Some(bbr3) = self.listening.take()
        {
            self.active = bbr3;
            self.is_long = true;
        }
    }
}

impl Controller for Chooser {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.each(|controller| controller.on_sent(now, bytes, largest_pn));
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.each(|controller| controller.on_packet_sent(now, bytes, pn));
    }

    fn on_cwnd_limited(&mut self) {
        self.each(|controller| controller.on_cwnd_limited());
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.smallest_rtt = rtt.min();
        self.each(|controller| controller.on_ack(now, sent, bytes, pn, app_limited, rtt));
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.each(|controller| {
            controller.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        });
        self.rounds = self.rounds.saturating_add(1);
        self.choose(now);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        self.each(|controller| {
            controller.on_congestion_event(
                now,
                sent,
                is_persistent_congestion,
                is_ecn,
                lost_bytes,
                largest_lost_pn,
            );
        });
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.each(|controller| controller.on_packet_lost(lost_bytes, pn, now));
    }

    fn on_spurious_congestion_event(&mut self) {
        self.each(|controller| controller.on_spurious_congestion_event());
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu_bytes = new_mtu;
        self.each(|controller| controller.on_mtu_update(new_mtu));
    }

    fn on_ack_frequency_update(
        &mut self,
        ack_eliciting_threshold: u64,
        requested_max_ack_delay: Duration,
    ) {
        self.each(|controller| {
            controller.on_ack_frequency_update(ack_eliciting_threshold, requested_max_ack_delay);
        });
    }

    fn window(&self) -> u64 {
        self.active.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.active.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            active: self.active.clone_box(),
            listening: self.listening.as_ref().map(|other| other.clone_box()),
            ..*self
        })
    }

    fn initial_window(&self) -> u64 {
        self.active.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn cubic(now: Instant, mtu_bytes: u16) -> Box<dyn Controller> {
    let mut config = CubicConfig::default();
    config.initial_window(FIRST_WINDOW_BYTES);
    Arc::new(config).build(now, mtu_bytes)
}

fn bbr3(now: Instant, mtu_bytes: u16) -> Box<dyn Controller> {
    let mut config = Bbr3Config::default();
    config.initial_window(FIRST_WINDOW_BYTES);
    Arc::new(config).build(now, mtu_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_goes_over_to_bbr3_after_a_few_rounds() {
        let mut chooser = chooser();
        chooser.smallest_rtt = Duration::from_millis(40);
        for _ in 0..ROUNDS_BEFORE_CHOICE {
            assert!(!chooser.is_long);
            chooser.on_end_acks(Instant::now(), 0, true, None);
        }
        assert!(chooser.is_long && chooser.listening.is_none());
        assert!(chooser.metrics().pacing_rate.is_some(), "BBR3 paces");
    }

    #[test]
    fn a_short_path_stays_with_cubic_from_the_first_sample() {
        let mut chooser = chooser();
        chooser.smallest_rtt = Duration::from_micros(300);
        chooser.on_end_acks(Instant::now(), 0, true, None);
        assert!(!chooser.is_long && chooser.listening.is_none());
    }

    #[test]
    fn a_shorter_round_trip_seen_later_brings_cubic_back() {
        let mut chooser = chooser();
        chooser.smallest_rtt = Duration::from_millis(3);
        for _ in 0..ROUNDS_BEFORE_CHOICE {
            chooser.on_end_acks(Instant::now(), 0, true, None);
        }
        assert!(chooser.is_long);
        chooser.smallest_rtt = Duration::from_micros(200);
        chooser.on_end_acks(Instant::now(), 0, true, None);
        assert!(!chooser.is_long);
    }

    fn chooser() -> Chooser {
        let controller = Arc::new(ByRoundTrip).build(Instant::now(), 1200);
        *controller.into_any().downcast().unwrap()
    }
}
