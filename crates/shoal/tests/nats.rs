//! Every pair of networks: what a person sends arrives, and by the path that the two allow.
//!
//! Everything runs in network namespaces of the test's own. Only root can make them, and `nft` must
//! be there.

#[path = "nats/internet.rs"]
mod internet;
mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use internet::{Internet, Kind, Machine, SERVER_V4};
use serde_json::Value;
use support::{Daemon, Ended, World, argument, b3sum, eventually, noise, text};

/// Long enough, at the rate below, for the two to find each other's ports meanwhile.
const FILE_BYTES: usize = 2 << 20;
/// The same, with something that happens in the middle.
const LONG_BYTES: usize = 9 << 20;
/// Less than that with the third of it that is verified before something happens twice; headers,
/// and what was on its way when it happened, are a small part of it.
const CAME_MAX_BYTES: u64 = LONG_BYTES as u64 * 5 / 4;
const RATE: &str = "1500k";

/// Names the pairs: who sends, who receives, and the path at the end.
macro_rules! pairs {
    ($($name:ident: $sender:ident to $receiver:ident is $path:literal,)*) => {
        $(#[test]
        fn $name() {
            arrives(Kind::$sender, Kind::$receiver, $path);
        })*
    };
}

pairs! {
    open_to_open: Open to Open is "direct",
    open_to_full_cone: Open to FullCone is "direct",
    open_to_port_restricted: Open to PortRestricted is "direct",
    open_to_symmetric: Open to Symmetric is "direct",
    open_to_carrier: Open to Carrier is "direct",
    port_restricted_to_open: PortRestricted to Open is "punched",
    symmetric_to_open: Symmetric to Open is "punched",
    carrier_to_open: Carrier to Open is "punched",
    full_cone_to_full_cone: FullCone to FullCone is "direct",
    full_cone_to_address_restricted: FullCone to AddressRestricted is "direct",
    full_cone_to_port_restricted: FullCone to PortRestricted is "direct",
    full_cone_to_symmetric: FullCone to Symmetric is "direct",
    address_restricted_to_full_cone: AddressRestricted to FullCone is "punched",
    address_restricted_to_address_restricted: AddressRestricted to AddressRestricted is "punched",
    address_restricted_to_port_restricted: AddressRestricted to PortRestricted is "punched",
    address_restricted_to_symmetric: AddressRestricted to Symmetric is "punched",
    port_restricted_to_full_cone: PortRestricted to FullCone is "punched",
    port_restricted_to_address_restricted: PortRestricted to AddressRestricted is "punched",
    port_restricted_to_port_restricted: PortRestricted to PortRestricted is "punched",
    port_restricted_to_symmetric: PortRestricted to Symmetric is "relayed",
    symmetric_to_full_cone: Symmetric to FullCone is "punched",
    symmetric_to_address_restricted: Symmetric to AddressRestricted is "punched",
    symmetric_to_port_restricted: Symmetric to PortRestricted is "relayed",
    symmetric_to_symmetric: Symmetric to Symmetric is "relayed",
    carrier_to_port_restricted: Carrier to PortRestricted is "relayed",
    carrier_to_carrier: Carrier to Carrier is "relayed",
    carrier_to_full_cone: Carrier to FullCone is "punched",
    carrier_keeping_ports_to_port_restricted: CarrierKeepingPorts to PortRestricted is "punched",
    carrier_keeping_ports_to_the_same: CarrierKeepingPorts to CarrierKeepingPorts is "punched",
    symmetric_to_carrier_keeping_ports: Symmetric to CarrierKeepingPorts is "relayed",
    no_udp_to_open: NoUdp to Open is "relayed",
    open_to_no_udp: Open to NoUdp is "relayed",
    no_udp_to_symmetric: NoUdp to Symmetric is "relayed",
    no_udp_to_no_udp: NoUdp to NoUdp is "relayed",
    only_ipv6_to_only_ipv6: OnlyIpv6 to OnlyIpv6 is "direct",
    only_ipv6_to_only_ipv4: OnlyIpv6 to Open is "relayed",
    only_ipv4_to_only_ipv6: PortRestricted to OnlyIpv6 is "relayed",
    open_to_address_restricted: Open to AddressRestricted is "direct",
    address_restricted_to_carrier: AddressRestricted to Carrier is "punched",
    symmetric_to_carrier: Symmetric to Carrier is "relayed",
    no_udp_to_full_cone: NoUdp to FullCone is "relayed",
    no_udp_to_address_restricted: NoUdp to AddressRestricted is "relayed",
    no_udp_to_port_restricted: NoUdp to PortRestricted is "relayed",
    carrier_to_no_udp: Carrier to NoUdp is "relayed",
    only_ipv6_to_full_cone: OnlyIpv6 to FullCone is "relayed",
    only_ipv6_to_address_restricted: OnlyIpv6 to AddressRestricted is "relayed",
    only_ipv6_to_carrier: OnlyIpv6 to Carrier is "relayed",
    only_ipv6_to_no_udp: OnlyIpv6 to NoUdp is "relayed",
    symmetric_to_only_ipv6: Symmetric to OnlyIpv6 is "relayed",
}

fn arrives(sender: Kind, receiver: Kind, path: &str) {
    let Some(scene) = Scene::new(sender, receiver) else {
        return;
    };
    let mut anna = scene.send();
    let offer = anna.event("offer");
    let mut bob = scene.receive(&text(&offer, "code"));
    if path == "direct" {
        let is_router_less = |kind| matches!(kind, Kind::Open | Kind::OnlyIpv6);
        let route = &bob.event("opened")["route"];
        assert_eq!(route["is_on_lan"], is_router_less(receiver), "{route}");
    }
    let done = bob.event("done");
    assert_eq!(done["fetched"], 1, "{}\n{}", bob.log(), anna.log());
    assert_eq!(b3sum(&scene.world.path("got/data.bin")), scene.hash);
    let received = anna.event("received");
    assert_eq!(received["route"]["kind"], path, "{received}");
    assert_eq!(bob.wait(), 0);
    assert_eq!(anna.wait(), 0);
}

#[test]
fn a_receiver_that_moves_to_another_network_goes_on() {
    goes_on((Kind::Open, Kind::Open), |scene| {
        let bob = &scene.bob.host;
        bob.ip(&["address", "flush", "dev", "net0"]);
        bob.address("net0", "11.77.0.112/24");
        bob.ip(&["route", "add", "default", "via", SERVER_V4]);
    });
}

#[test]
fn a_sender_that_moves_to_another_network_is_found_again() {
    goes_on((Kind::Open, Kind::Open), |scene| {
        let anna = &scene.anna.host;
        anna.ip(&["address", "flush", "dev", "net0"]);
        anna.address("net0", "11.77.0.111/24");
        anna.ip(&["route", "add", "default", "via", SERVER_V4]);
    });
}

#[test]
fn a_router_that_gets_another_address_and_forgets_all_ports_interrupts_nothing() {
    goes_on((Kind::PortRestricted, Kind::PortRestricted), |scene| {
        let router = scene.anna.router(0);
        router.ip(&["address", "flush", "dev", "net0"]);
        router.address("net0", "11.77.0.111/24");
        router.ip(&["route", "add", "default", "via", SERVER_V4]);
    });
}

#[test]
fn a_receiver_behind_a_symmetric_router_that_gets_another_address_goes_on() {
    goes_on((Kind::Symmetric, Kind::Symmetric), |scene| {
        let router = scene.bob.router(0);
        router.ip(&["address", "flush", "dev", "net0"]);
        router.address("net0", "11.77.0.112/24");
        router.ip(&["route", "add", "default", "via", SERVER_V4]);
    });
}

#[test]
fn a_receiver_that_moves_behind_another_router_goes_on() {
    goes_on((Kind::PortRestricted, Kind::AddressRestricted), |scene| {
        let another = (3, Kind::PortRestricted);
        scene.internet.move_behind(&mut scene.bob, another);
    });
}

#[test]
fn a_router_that_restarts_and_takes_other_ports_interrupts_nothing() {
    goes_on((Kind::Symmetric, Kind::FullCone), |scene| {
        let router = scene.anna.router(0);
        // What was masqueraded there is forgotten with it; the address stays.
        router.ip(&["link", "set", "net0", "down"]);
        router.ip(&["link", "set", "net0", "up"]);
        router.ip(&["route", "add", "default", "via", SERVER_V4]);
    });
}

#[test]
fn a_relay_that_is_killed_and_comes_back_interrupts_nothing() {
    goes_on((Kind::Symmetric, Kind::Symmetric), |scene| {
        scene.server.kill();
        scene.internet.public.enter();
        scene.server = scene
            .world
            .server_with(Internet::server_address(), &[])
            .daemon;
    });
}

#[test]
fn a_peer_without_udp_notices_a_killed_server_and_finds_it_again() {
    let Some(mut scene) = Scene::new(Kind::Open, Kind::NoUdp) else {
        return;
    };
    scene.world.write("bob", "b.txt", "b");
    scene.bob.host.enter();
    let mut bob = scene.world.start_peer("bob", &["--join", &scene.join]);
    assert_eq!(bob.event("announced")["files"], 1);
    scene.server.kill();
    scene.internet.public.enter();
    let server = scene.world.server_with(Internet::server_address(), &[]);
    scene.server = server.daemon;
    bob.event("disconnected");
    assert_eq!(bob.event("announced")["files"], 1);
}

#[test]
fn what_was_punched_through_needs_the_server_no_more() {
    goes_on((Kind::PortRestricted, Kind::AddressRestricted), |scene| {
        scene.server.kill();
    });
}

#[test]
fn a_relay_passes_on_no_more_than_it_may_in_a_day() {
    let of_server = ["--relay-budget", "1M"];
    let pair = (Kind::Symmetric, Kind::Symmetric);
    let Some(scene) = Scene::with_server(pair, LONG_BYTES, &of_server) else {
        return;
    };
    let mut anna = scene.send();
    let offer = anna.event("offer");
    let _bob = scene.receive(&text(&offer, "code"));
    let mut relay = Value::Null;
    eventually("the budget is used up", || {
        let status = scene.world.ctl_json(&["status"]).expect(0);
        relay = status.event("status")["relay"].clone();
        relay["is_used_up"] == true
    });
    eventually("nobody is let in", || {
        let status = scene.world.ctl_json(&["status"]).expect(0);
        status.event("status")["relay"]["refused"].as_u64() > Some(0)
    });
    let passed = relay["sent_bytes"].as_u64().unwrap();
    assert!((500_000..=1_000_000).contains(&passed), "{relay}");
}

#[test]
fn a_peer_that_relayed_what_it_may_stops_and_the_others_go_on() {
    let of_server = ["--relay-peer-budget", "4M"];
    let pair = (Kind::Symmetric, Kind::Symmetric);
    let Some(scene) = Scene::with_server(pair, LONG_BYTES, &of_server) else {
        return;
    };
    let mut anna = scene.send();
    let offer = anna.event("offer");
    let _bob = scene.receive(&text(&offer, "code"));
    let standing = || {
        let status = scene.world.ctl_json(&["status"]).expect(0);
        status.event("status")["relay"].clone()
    };
    eventually("anna is not let in", || {
        standing()["refused"].as_u64() > Some(0)
    });
    let relay = standing();
    assert_eq!(relay["is_used_up"], false, "{relay}");
    // What anna and bob have sent, each with its own budget, and the server's few words.
    let passed = relay["sent_bytes"].as_u64().unwrap();
    assert!((2_000_000..=9_000_000).contains(&passed), "{relay}");
}

#[test]
fn the_doctor_tells_nats_and_firewalls_apart() {
    for (kind, verdict, nat) in [
        (Kind::Open, "ok", "none"),
        (Kind::FullCone, "ok", "cone"),
        (Kind::AddressRestricted, "ok", "cone"),
        (Kind::PortRestricted, "ok", "port_restricted"),
        (Kind::Symmetric, "warning", "symmetric"),
        (Kind::Carrier, "warning", "symmetric"),
    ] {
        let Some(scene) = Scene::new(Kind::Open, kind) else {
            return;
        };
        let told = scene.doctor();
        let found = check(&told, "nat");
        assert_eq!(found["verdict"], verdict, "{found}");
        assert_eq!(found["kind"], nat, "{found}");
        assert_eq!(check(&told, "relay")["verdict"], "ok");
    }
    let Some(scene) = Scene::new(Kind::Open, Kind::NoUdp) else {
        return;
    };
    let told = scene.doctor();
    let server = check(&told, "server");
    assert_eq!(server["udp_blocked"], true, "{server}");
    assert_eq!(check(&told, "slowest")["part"], "network");
    assert_eq!(server["verdict"], "warning", "{server}");
}

fn check(told: &Ended, what: &str) -> Value {
    let found = told.events().into_iter().find(|one| one["what"] == what);
    found.expect("it was looked at")
}

/// Something happens in the middle of a transfer, and it goes on: no byte that was verified is
/// fetched again, as far as the system's own count of what came can tell.
fn goes_on((sender, receiver): (Kind, Kind), happens: impl FnOnce(&mut Scene)) {
    let Some(mut scene) = Scene::with((sender, receiver), LONG_BYTES) else {
        return;
    };
    let mut anna = scene.send();
    let offer = anna.event("offer");
    let mut bob = scene.receive(&text(&offer, "code"));
    let has = |event: &Value, bytes| event["verified_bytes"].as_u64() >= Some(bytes);
    // So late that a path straight through the NATs has been found, where there is one.
    bob.event_where("a third of it", |event| has(event, LONG_BYTES as u64 / 3));
    happens(&mut scene);
    let (mut grew, mut pause) = (Instant::now(), Duration::ZERO);
    let mut least = LONG_BYTES as u64 / 3;
    let done = bob.event_where("the end", |event| {
        if event["event"] == "progress" {
            let verified = event["verified_bytes"].as_u64().unwrap_or_default();
            assert!(verified >= least, "{event}");
            if verified > least {
                pause = pause.max(grew.elapsed());
                (least, grew) = (verified, Instant::now());
            }
        }
        event["event"] == "done"
    });
    let came = scene.bob.received_bytes();
    // For bench/moves.py.
    let _shown = writeln!(
        std::io::stderr(),
        "the longest pause was {:.1} s, {came} bytes came for {LONG_BYTES}",
        pause.as_secs_f64()
    );
    assert!(came < CAME_MAX_BYTES, "{came}");
    assert_eq!(done["fetched"], 1, "{}\n{}", bob.log(), anna.log());
    assert_eq!(b3sum(&scene.world.path("got/data.bin")), scene.hash);
    assert_eq!(bob.wait(), 0);
}

/// A server in public, anna and bob somewhere.
struct Scene {
    world: World,
    join: String,
    hash: String,
    server: Daemon,
    // Last: they go when nobody is in them any more.
    anna: Machine,
    bob: Machine,
    internet: Internet,
}

impl Scene {
    fn new(sender: Kind, receiver: Kind) -> Option<Self> {
        Self::with((sender, receiver), FILE_BYTES)
    }

    fn with(pair: (Kind, Kind), bytes: usize) -> Option<Self> {
        Self::with_server(pair, bytes, &[])
    }

    fn with_server(
        (sender, receiver): (Kind, Kind),
        bytes: usize,
        of_server: &[&str],
    ) -> Option<Self> {
        let internet = Internet::make()?;
        let (anna, bob) = (internet.connect(1, sender), internet.connect(2, receiver));
        let world = World::new();
        let file = world.write("anna", "data.bin", noise(bytes, 1));
        internet.public.enter();
        let server = world.server_with(Internet::server_address(), of_server);
        Some(Self {
            hash: b3sum(&file),
            world,
            join: server.join,
            server: server.daemon,
            anna,
            bob,
            internet,
        })
    }

    fn send(&self) -> Daemon {
        self.anna.host.enter();
        let state = self.world.state("anna");
        let file = self.world.files("anna").join("data.bin");
        let mut command = self
            .world
            .command(&["--json", "send", "--as", "anna", "--once"]);
        command.arg("--state-dir").arg(state).arg(argument(&file));
        command.args(["--join", &self.join, "--up", RATE]);
        Daemon::start("anna", command, self.world.path("anna.log"))
    }

    /// What bob's `shoal doctor` finds.
    fn doctor(&self) -> Ended {
        self.bob.host.enter();
        let mut command = self.world.command(&["--json", "doctor", "--folder"]);
        command.arg(self.world.path("."));
        command.arg("--state-dir").arg(self.world.state("bob"));
        command.args(["--join", &self.join]);
        Ended::of(&mut command).expect(0)
    }

    fn receive(&self, code: &str) -> Daemon {
        self.bob.host.enter();
        let state = self.world.state("bob");
        let mut command = self
            .world
            .command(&["--json", "receive", "--as", "bob", "-y"]);
        command.arg("--state-dir").arg(state);
        command.arg("-o").arg(self.world.path("got"));
        command.args(["--join", &self.join]).env("SHOAL_CODE", code);
        Daemon::start("bob", command, self.world.path("bob.log"))
    }
}
