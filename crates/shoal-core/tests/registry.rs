//! Scripts for the registry: one input, its exact outputs, time that jumps, repeat.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use shoal_core::registry::{ConnectionId, Output, PROBE_DEADLINE, Presence, Registry};
use shoal_wire::{NodeId, Refusal, ShortText};

#[test]
fn a_peer_comes_and_goes() {
    let mut script = Script::new();
    script.connect(1, node(1), 10);
    script.expect(&[welcome(1)]);
    assert!(script.registry.peer(&node(1)).is_some());
    script
        .registry
        .handle_disconnected(ConnectionId(1), script.now);
    script.expect(&[Output::PeerGone { node: node(1) }]);
    assert!(script.registry.is_empty());
}

#[test]
fn a_reconnect_of_the_same_process_replaces_at_once() {
    let mut script = Script::new();
    script.connect(1, node(1), 10);
    script.connect(2, node(1), 10);
    script.expect(&[welcome(1), replaced(1), welcome(2)]);
    script
        .registry
        .handle_disconnected(ConnectionId(1), script.now);
    script.expect(&[]);
    assert_eq!(script.registry.len(), 1);
}

#[test]
fn a_second_host_is_refused_while_the_first_answers() {
    let mut script = Script::new();
    script.connect(1, node(1), 10);
    script.connect(2, node(1), 20);
    script.expect(&[welcome(1), probe(1)]);
    script
        .registry
        .handle_probe_answer(ConnectionId(1), true, script.now);
    script.expect(&[in_use(2)]);
    assert_eq!(script.connection_of(node(1)), Some(ConnectionId(1)));
    script
        .registry
        .handle_disconnected(ConnectionId(2), script.now);
    script.expect(&[]);
}

#[test]
fn a_second_host_takes_over_from_one_that_is_silent() {
    let mut script = Script::new();
    script.connect(1, node(1), 10);
    script.connect(2, node(1), 20);
    script.expect(&[welcome(1), probe(1)]);
    assert_eq!(
        script.registry.poll_timeout(),
        Some(script.now + PROBE_DEADLINE)
    );
    script.pass(PROBE_DEADLINE);
    script.expect(&[replaced(1), welcome(2)]);
    assert_eq!(script.registry.poll_timeout(), None);
    script
        .registry
        .handle_probe_answer(ConnectionId(1), true, script.now);
    script.expect(&[]);
}

#[test]
fn a_second_host_takes_over_when_the_first_leaves_while_probed() {
    let mut script = Script::new();
    script.connect(1, node(1), 10);
    script.connect(2, node(1), 20);
    script.expect(&[welcome(1), probe(1)]);
    script
        .registry
        .handle_disconnected(ConnectionId(1), script.now);
    script.expect(&[welcome(2)]);
}

#[test]
fn a_third_host_pushes_out_the_second_that_still_waits() {
    let mut script = Script::new();
    script.connect(1, node(1), 10);
    script.connect(2, node(1), 20);
    script.connect(3, node(1), 30);
    script.expect(&[welcome(1), probe(1), in_use(2)]);
    script
        .registry
        .handle_probe_answer(ConnectionId(1), true, script.now);
    script.expect(&[in_use(3)]);
}

#[test]
fn the_first_process_reconnecting_refuses_the_one_that_waits() {
    let mut script = Script::new();
    script.connect(1, node(1), 10);
    script.connect(2, node(1), 20);
    script.connect(3, node(1), 10);
    script.expect(&[welcome(1), probe(1), replaced(1), in_use(2), welcome(3)]);
}

#[test]
fn announces_count_up_by_one_within_a_connection() {
    let mut script = Script::new();
    script.connect(1, node(1), 10);
    script.expect(&[welcome(1)]);
    let announce = |script: &mut Script, connection, sequence| {
        script
            .registry
            .handle_announce(ConnectionId(connection), sequence)
    };
    assert_eq!(announce(&mut script, 1, 1), Err(Refusal::StaleAnnounce));
    // One that could not be taken is expected again.
    for _ in 0..2 {
        let expected = script.registry.expects_announce(ConnectionId(1), 0);
        assert_eq!(expected, Ok(()));
    }
    assert_eq!(announce(&mut script, 1, 0), Ok(()));
    assert_eq!(announce(&mut script, 1, 0), Err(Refusal::StaleAnnounce));
    assert_eq!(announce(&mut script, 1, 1), Ok(()));
    assert_eq!(announce(&mut script, 9, 2), Err(Refusal::Unexpected));
    script.connect(2, node(1), 10);
    script.expect(&[replaced(1), welcome(2)]);
    assert_eq!(announce(&mut script, 1, 2), Err(Refusal::Unexpected));
    assert_eq!(announce(&mut script, 2, 0), Ok(()));
}

proptest! {
    /// Whatever happens in whatever order: a connection is welcomed at most once and told at most
    /// once that it is over, an identity has at most one connection, and nobody waits for ever.
    #[test]
    fn every_connection_gets_one_answer(steps in prop::collection::vec(step(), 1..80)) {
        let mut script = Script::new();
        let mut fate: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Connect { who, instance } => {
                    fate.insert(number as u64, (0, 0));
                    script.connect(number as u64, node(who), instance);
                }
                Step::Leave(connection) => {
                    script.registry.handle_disconnected(ConnectionId(connection), script.now);
                    fate.remove(&connection);
                }
                Step::Answer(connection, alive) => {
                    script.registry.handle_probe_answer(ConnectionId(connection), alive, script.now);
                }
                Step::Pass => script.pass(PROBE_DEADLINE),
            }
            while let Some(output) = script.registry.poll_output() {
                let (connection, ending) = match output {
                    Output::Welcome { connection } => (connection, false),
                    Output::Refuse { connection, .. } | Output::Close { connection, .. } => (connection, true),
                    Output::Probe { .. } | Output::PeerGone { .. } => continue,
                };
                if let Some((welcomes, endings)) = fate.get_mut(&connection.0) {
                    if ending { *endings += 1 } else { *welcomes += 1 }
                    prop_assert!(*welcomes <= 1 && *endings <= 1);
                }
            }
        }
        script.pass(PROBE_DEADLINE);
        while let Some(output) = script.registry.poll_output() {
            match output {
                Output::Welcome { connection } => fate.entry(connection.0).or_default().0 += 1,
                Output::Refuse { connection, .. } | Output::Close { connection, .. } => {
                    fate.entry(connection.0).or_default().1 += 1;
                }
                Output::Probe { .. } | Output::PeerGone { .. } => {}
            }
        }
        prop_assert!(fate.values().all(|(welcomes, endings)| welcomes + endings >= 1));
        let live = fate.values().filter(|(welcomes, endings)| *welcomes == 1 && *endings == 0).count();
        prop_assert_eq!(live, script.registry.len());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Connect { who: u8, instance: u64 },
    Leave(u64),
    Answer(u64, bool),
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, 0..3_u64).prop_map(|(who, instance)| Step::Connect { who, instance }),
        2 => (0..80_u64).prop_map(Step::Leave),
        2 => (0..80_u64, any::<bool>()).prop_map(|(connection, alive)| Step::Answer(connection, alive)),
        1 => Just(Step::Pass),
    ]
}

struct Script {
    registry: Registry,
    now: Instant,
}

impl Script {
    #[expect(
        clippy::disallowed_methods,
        reason = "any moment does as the start of a script"
    )]
    fn new() -> Self {
        Self {
            registry: Registry::new(),
            now: Instant::now(),
        }
    }

    fn connect(&mut self, connection: u64, node: NodeId, instance: u64) {
        let presence = Presence {
            node,
            name: "anna".to_owned().try_into().expect("a valid name"),
            instance,
            addresses: Vec::new(),
            observed: SocketAddr::from(([127, 0, 0, 1], 4000)),
            agent: ShortText::new("test"),
        };
        self.registry
            .handle_connected(ConnectionId(connection), presence, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.registry.handle_timeout(self.now);
    }

    fn expect(&mut self, outputs: &[Output]) {
        let got: Vec<Output> = std::iter::from_fn(|| self.registry.poll_output()).collect();
        assert_eq!(got, outputs);
    }

    fn connection_of(&self, node: NodeId) -> Option<ConnectionId> {
        self.registry.peer(&node).map(|peer| peer.connection)
    }
}

fn node(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

fn welcome(connection: u64) -> Output {
    Output::Welcome {
        connection: ConnectionId(connection),
    }
}

fn probe(connection: u64) -> Output {
    Output::Probe {
        connection: ConnectionId(connection),
    }
}

fn replaced(connection: u64) -> Output {
    Output::Close {
        connection: ConnectionId(connection),
        refusal: Refusal::Replaced,
    }
}

fn in_use(connection: u64) -> Output {
    Output::Refuse {
        connection: ConnectionId(connection),
        refusal: Refusal::IdentityInUse,
    }
}
