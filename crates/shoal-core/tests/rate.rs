//! Scripts for the shaper: transfers that always want more, a clock that jumps to the next wake-up.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use shoal_core::rate::{AskId, FlowId, Limits, PIECE_MAX_BYTES, Shaper};
use shoal_wire::Rate;

const TEN_SECONDS: Duration = Duration::from_secs(10);

#[test]
fn ten_seconds_bring_what_the_limit_says_whatever_it_is_and_however_many_share_it() {
    for rate in [1_000, 33_333, 1_000_000, 12_500_000, 1_000_000_000] {
        for flows in [1, 2, 8, 64] {
            let mut script = Script::new(total(rate));
            script.flows_of_own_peers(flows);
            script.run(TEN_SECONDS);
            // What 64 flows have gathered and not been granted yet is 3 %.
            script.expect_sum(rate * 10, 0.04);
        }
    }
}

#[test]
fn late_wake_ups_cost_nothing() {
    for late_ms in [1, 10, 40] {
        let mut script = Script::new(total(10_000_000));
        script.late = Duration::from_millis(late_ms);
        script.flows_of_own_peers(3);
        script.run(TEN_SECONDS);
        script.expect_sum(100_000_000, 0.02);
    }
}

#[test]
fn two_to_eight_transfers_share_evenly_whatever_each_asks_for() {
    for flows in 2..=8 {
        let mut script = Script::new(total(10_000_000));
        script.flows_of_own_peers(flows);
        // A piece, and up to eight pieces at once.
        for (number, flow) in script.flows.iter_mut().enumerate() {
            flow.ask_bytes = PIECE_MAX_BYTES << (number % 4);
        }
        // The first one to come finds the bucket full.
        script.run(Duration::from_secs(1));
        script.forget_counts();
        script.run(TEN_SECONDS);
        script.expect_each(100_000_000 / flows as u64, 0.05);
        script.expect_sum(100_000_000, 0.05);
    }
}

#[test]
fn a_newcomer_gets_its_share_at_once_and_no_more() {
    let mut script = Script::new(total(8_000_000));
    script.flows_of_own_peers(3);
    script.run(TEN_SECONDS);
    script.forget_counts();
    script.flow(9, 9);
    script.run(TEN_SECONDS);
    script.expect_each(20_000_000, 0.05);
}

#[test]
fn short_transfers_one_after_the_other_do_not_starve_a_long_one() {
    let mut script = Script::new(total(4_000_000));
    script.flows_of_own_peers(2);
    script.flows[1].is_renewed = true;
    script.flows[1].ask_bytes = 4_000;
    script.run(TEN_SECONDS);
    assert!(script.flows[0].bytes >= 18_000_000, "{:?}", script.counts());
    script.expect_sum(40_000_000, 0.02);
}

#[test]
fn each_peer_keeps_to_its_limit_and_all_together_to_theirs() {
    // Two peers with limits of their own below the half of all.
    let mut script = Script::new(both(10_000_000, 2_000_000));
    for flow in 0..5 {
        script.flow(flow, u64::from(flow > 0));
    }
    script.run(TEN_SECONDS);
    script.expect_sum_of(0, 20_000_000, 0.02);
    script.expect_sum_of(1, 20_000_000, 0.02);
    let shares = script.counts();
    for share in &shares[1..] {
        assert!(near(*share, 5_000_000, 0.05), "{shares:?}");
    }
    // Enough peers that the limit of all is the lower one.
    let mut script = Script::new(both(10_000_000, 2_000_000));
    script.flows_of_own_peers(8);
    script.run(TEN_SECONDS);
    script.expect_each(12_500_000, 0.05);
    script.expect_sum(100_000_000, 0.02);
}

#[test]
fn a_peer_at_its_limit_holds_up_nobody() {
    let mut script = Script::new(Limits {
        total: None,
        per_peer: Some(rate(100_000)),
    });
    script.flows_of_own_peers(40);
    script.run(TEN_SECONDS);
    script.expect_each(1_000_000, 0.02);
}

#[test]
fn limits_change_while_transfers_run_and_wait() {
    let mut script = Script::new(total(1_000_000));
    script.flows_of_own_peers(2);
    script.run(TEN_SECONDS);
    for (limits, expected) in [
        (total(20_000_000), 200_000_000),
        (total(50_000), 500_000),
        (both(3_000_000, 1_000_000), 20_000_000),
        (total(7_000_000), 70_000_000),
    ] {
        script.change(limits);
        script.forget_counts();
        script.run(TEN_SECONDS);
        script.expect_sum(expected, 0.02);
        script.expect_each(expected / 2, 0.05);
    }
}

#[test]
fn lifting_the_limits_grants_all_that_waits() {
    let mut script = Script::new(both(1_000, 1_000));
    let now = script.now;
    let asks: Vec<AskId> = (0..4)
        .map(|flow| script.shaper.handle_ask((0, FlowId(flow)), 1 << 30, now))
        .collect();
    assert_eq!(script.granted(), []);
    script.shaper.handle_limits(Limits::default(), now);
    let mut granted = script.granted();
    granted.sort();
    assert_eq!(granted, asks);
    assert_eq!(script.shaper.poll_timeout(), None);
    let ask = script.shaper.handle_ask((0, FlowId(0)), u64::MAX, now);
    assert_eq!(script.granted(), [ask]);
}

#[test]
fn idleness_saves_up_a_tenth_of_a_second_and_no_more() {
    for limits in [total(1_000_000), both(500_000_000, 1_000_000)] {
        let mut script = Script::new(limits);
        script.flows_of_own_peers(1);
        script.now += Duration::from_secs(3600);
        script.run(Duration::ZERO);
        assert!(script.counts()[0] <= 100_000, "{:?}", script.counts());
        script.run(TEN_SECONDS);
        assert!(script.counts()[0] <= 10_100_000, "{:?}", script.counts());
    }
}

#[test]
fn who_left_waits_for_nothing_and_holds_up_nobody() {
    let mut script = Script::new(both(10_000, 10_000));
    let now = script.now;
    let large = script.shaper.handle_ask((0, FlowId(0)), 1 << 40, now);
    let small = script.shaper.handle_ask((0, FlowId(1)), 1_000, now);
    assert_eq!(script.granted(), []);
    script.shaper.handle_withdrawn(large, now);
    script.now = script.shaper.poll_timeout().unwrap() + Duration::from_millis(200);
    script.shaper.handle_timeout(script.now);
    assert_eq!(script.granted(), [small]);
    assert_eq!(script.shaper.poll_timeout(), None);
    // Twice, or after the grant, is no mistake.
    script.shaper.handle_withdrawn(large, script.now);
    script.shaper.handle_withdrawn(small, script.now);
    assert_eq!(script.granted(), []);
}

#[test]
fn a_clock_that_stands_still_or_steps_back_grants_nothing() {
    let mut script = Script::new(total(1_000_000));
    script.flows_of_own_peers(1);
    script.run(Duration::from_secs(1));
    script.forget_counts();
    let earlier = script.now - Duration::from_millis(500);
    for _ in 0..100 {
        script.shaper.handle_timeout(earlier);
        script.shaper.handle_timeout(script.now);
    }
    script.collect();
    assert!(script.counts()[0] <= 100_000, "{:?}", script.counts());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_mix_of_transfers_and_changes_passes_the_limits(
        changes in prop::collection::vec((1_000_u64..20_000_000, 1_000_u64..20_000_000, 1_u64..2_000), 1..6),
        flows in prop::collection::vec((0_u64..4, 1_u64..200_000), 1..12),
        late_ms in 0_u64..30,
    ) {
        let mut script = Script::new(both(1_000, 1_000));
        script.late = Duration::from_millis(late_ms);
        for (number, (peer, ask_bytes)) in flows.iter().enumerate() {
            script.flow(number as u64, *peer);
            script.flows[number].ask_bytes = *ask_bytes;
        }
        for (of_all, per_peer, length_ms) in changes {
            script.change(both(of_all, per_peer));
            script.forget_counts();
            let began = script.now;
            script.run(Duration::from_millis(length_ms));
            // What was gathered before the change comes on top: less than one ask per flow.
            let gathered: u64 = flows.iter().map(|(_, ask_bytes)| ask_bytes).sum();
            let most = |rate: u64| {
                let span = (script.now - began).as_secs_f64() + 0.1;
                (rate as f64 * span) as u64 + gathered + 1
            };
            prop_assert!(script.counts().iter().sum::<u64>() <= most(of_all));
            for peer in 0..4 {
                prop_assert!(script.sum_of(peer) <= most(per_peer));
            }
        }
    }
}

fn rate(bytes_per_second: u64) -> Rate {
    Rate::new(bytes_per_second).expect("within the limits")
}

fn total(bytes_per_second: u64) -> Limits {
    Limits {
        total: Some(rate(bytes_per_second)),
        per_peer: None,
    }
}

fn both(of_all: u64, per_peer: u64) -> Limits {
    Limits {
        total: Some(rate(of_all)),
        per_peer: Some(rate(per_peer)),
    }
}

fn near(actual: u64, expected: u64, tolerance: f64) -> bool {
    (actual as f64 - expected as f64).abs() <= expected as f64 * tolerance
}

/// A transfer that asks again as soon as it is granted.
struct Flow {
    id: FlowId,
    peer: u64,
    ask_bytes: u64,
    /// Whether it is a new transfer every time.
    is_renewed: bool,
    asked: Option<(AskId, u64)>,
    bytes: u64,
}

struct Script {
    shaper: Shaper<u64>,
    flows: Vec<Flow>,
    now: Instant,
    late: Duration,
    next_flow: u64,
}

impl Script {
    #[expect(
        clippy::disallowed_methods,
        reason = "an instant can only be had from the clock; nothing waits for it to move"
    )]
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            shaper: Shaper::new(limits, now),
            flows: Vec::new(),
            now,
            late: Duration::ZERO,
            next_flow: 1_000,
        }
    }

    fn flow(&mut self, id: u64, peer: u64) {
        let piece = self.shaper.limits().piece_bytes();
        assert!(piece <= PIECE_MAX_BYTES);
        self.flows.push(Flow {
            id: FlowId(id),
            peer,
            ask_bytes: piece,
            is_renewed: false,
            asked: None,
            bytes: 0,
        });
    }

    fn flows_of_own_peers(&mut self, count: usize) {
        for id in 0..count as u64 {
            self.flow(id, id);
        }
    }

    fn change(&mut self, limits: Limits) {
        self.shaper.handle_limits(limits, self.now);
        self.collect();
    }

    /// Lets time pass, in steps from one wake-up to the next, each a little late.
    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        self.ask();
        while let Some(due) = self.shaper.poll_timeout()
            && due + self.late <= end
        {
            assert!(due > self.now, "a wake-up that is due was not carried out");
            self.now = due + self.late;
            self.shaper.handle_timeout(self.now);
            self.ask();
        }
        self.now = end;
    }

    /// Everybody whose ask was granted asks again, until all wait.
    fn ask(&mut self) {
        loop {
            self.collect();
            let Some(at) = self.flows.iter().position(|flow| flow.asked.is_none()) else {
                return;
            };
            let flow = &mut self.flows[at];
            if flow.is_renewed {
                self.next_flow += 1;
                flow.id = FlowId(self.next_flow);
            }
            let bytes = flow.ask_bytes;
            let ask = self
                .shaper
                .handle_ask((flow.peer, flow.id), bytes, self.now);
            flow.asked = Some((ask, bytes));
        }
    }

    fn collect(&mut self) {
        while let Some(granted) = self.shaper.poll_output() {
            let mut flows = self.flows.iter_mut();
            let is_it = |flow: &&mut Flow| flow.asked.is_some_and(|(ask, _)| ask == granted);
            let flow = flows.find(is_it).expect("somebody asked");
            flow.bytes += flow.asked.take().map_or(0, |(_, bytes)| bytes);
        }
    }

    fn granted(&mut self) -> Vec<AskId> {
        std::iter::from_fn(|| self.shaper.poll_output()).collect()
    }

    fn forget_counts(&mut self) {
        self.flows.iter_mut().for_each(|flow| flow.bytes = 0);
    }

    fn counts(&self) -> Vec<u64> {
        self.flows.iter().map(|flow| flow.bytes).collect()
    }

    fn sum_of(&self, peer: u64) -> u64 {
        let flows = self.flows.iter().filter(|flow| flow.peer == peer);
        flows.map(|flow| flow.bytes).sum()
    }

    #[track_caller]
    fn expect_sum(&self, expected: u64, tolerance: f64) {
        let sum: u64 = self.counts().iter().sum();
        assert!(near(sum, expected, tolerance), "{sum} is not {expected}");
    }

    #[track_caller]
    fn expect_sum_of(&self, peer: u64, expected: u64, tolerance: f64) {
        let sum = self.sum_of(peer);
        assert!(near(sum, expected, tolerance), "{sum} is not {expected}");
    }

    #[track_caller]
    fn expect_each(&self, expected: u64, tolerance: f64) {
        for flow in &self.flows {
            let is_near = near(flow.bytes, expected, tolerance);
            assert!(is_near, "not {expected} each: {:?}", self.counts());
        }
    }
}
