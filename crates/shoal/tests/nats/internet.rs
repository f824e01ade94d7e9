//! An internet of a test's own: a public network with a server, and people behind routers.
//!
//! Every machine and every router is a network namespace. Routers are the system's own, with
//! nftables rules that make each of the kinds of RFC 4787 out of them.

use crate::support::namespace::Namespace;

/// The public network: people, or their routers, are 11.77.0.1x.
pub(crate) const SERVER_V4: &str = "11.77.0.1";
const SERVER_V6: &str = "fd77::1";

/// What stands between a person and the public network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Open,
    /// Nothing, and only IPv6 is spoken.
    OnlyIpv6,
    /// A router that lets everybody in at the port that somebody inside has used.
    FullCone,
    /// One that lets in whom somebody inside has spoken to, from any port of theirs.
    AddressRestricted,
    /// One that lets in whom somebody inside has spoken to, from that very port.
    PortRestricted,
    /// One that takes another port towards everybody, too.
    Symmetric,
    /// A carrier's symmetric router with a port-restricted one at home behind it.
    Carrier,
    /// The same where the carrier's router keeps ports, too.
    CarrierKeepingPorts,
    /// A firewall that lets no UDP through.
    NoUdp,
}

/// One person's machine, with what stands before it.
pub(crate) struct Machine {
    pub(crate) host: Namespace,
    routers: Vec<Namespace>,
    /// What came to it where it was before, in bytes.
    earlier_bytes: u64,
}

/// The public network.
pub(crate) struct Internet {
    pub(crate) public: Namespace,
}

impl Internet {
    /// Makes it; `None`, said, where that is not possible.
    pub(crate) fn make() -> Option<Self> {
        let public = Namespace::make()?;
        public.ip(&["link", "add", "net", "type", "bridge"]);
        public.ip(&["link", "set", "net", "up"]);
        public.address("net", &format!("{SERVER_V4}/24"));
        public.address("net", &format!("{SERVER_V6}/64"));
        // Towards what is not there: so that everybody has an address to speak from.
        public.ip(&["route", "add", "default", "dev", "net"]);
        public.ip(&["-6", "route", "add", "default", "dev", "net"]);
        Some(Self { public })
    }

    /// Where the server listens, for people who speak IPv4 or IPv6.
    pub(crate) fn server_address() -> &'static str {
        "[::]:8080"
    }

    /// Connects person number `number`, 0 to 9.
    pub(crate) fn connect(&self, number: u8, kind: Kind) -> Machine {
        let host = Namespace::make().expect("another namespace");
        let public_ip = format!("11.77.0.{}", 10 + number);
        let mut machine = Machine {
            host,
            routers: Vec::new(),
            earlier_bytes: 0,
        };
        match kind {
            Kind::Open => {
                self.plug(&machine.host, number);
                machine.host.address("net0", &format!("{public_ip}/24"));
                let server = ["route", "add", "default", "via", SERVER_V4];
                machine.host.ip(&server);
            }
            Kind::OnlyIpv6 => {
                self.plug(&machine.host, number);
                let ip = format!("fd77::{}/64", 10 + number);
                machine.host.address("net0", &ip);
                let server = ["-6", "route", "add", "default", "via", SERVER_V6];
                machine.host.ip(&server);
            }
            Kind::Carrier | Kind::CarrierKeepingPorts => {
                let carrier = self.uplink(number);
                let home = Namespace::make().expect("another namespace");
                behind(&carrier, &home, "100.64.7");
                behind(&home, &machine.host, "192.168.7");
                let of_carrier = match kind {
                    Kind::Carrier => Kind::Symmetric,
                    _ => Kind::PortRestricted,
                };
                route(&carrier, of_carrier, "100.64.7.2");
                route(&home, Kind::PortRestricted, "192.168.7.2");
                machine.routers = vec![carrier, home];
            }
            kind => machine.routers = vec![self.router(number, kind, &machine.host)],
        }
        machine
    }

    /// Takes a person off their network, and puts them behind another router of theirs.
    pub(crate) fn move_behind(&self, machine: &mut Machine, (number, kind): (u8, Kind)) {
        machine.earlier_bytes = machine.received_bytes();
        machine.host.ip(&["link", "delete", "net0"]);
        machine.routers = vec![self.router(number, kind, &machine.host)];
    }

    /// A router with a machine behind it.
    fn router(&self, number: u8, kind: Kind, machine: &Namespace) -> Namespace {
        let router = self.uplink(number);
        let network = format!("192.168.{}", 10 + number);
        behind(&router, machine, &network);
        route(&router, kind, &format!("{network}.2"));
        router
    }

    /// What will be a router, in the public network.
    fn uplink(&self, number: u8) -> Namespace {
        let router = Namespace::make().expect("another namespace");
        self.plug(&router, number);
        router.address("net0", &format!("11.77.0.{}/24", 10 + number));
        router.ip(&["route", "add", "default", "via", SERVER_V4]);
        router
    }

    /// Plugs a machine's device `net0` into the public network.
    fn plug(&self, machine: &Namespace, number: u8) {
        let port = format!("port{number}");
        machine.cable("net0", (&self.public, &port));
        self.public.ip(&["link", "set", &port, "master", "net"]);
    }
}

impl Machine {
    /// The router that it is connected to, outermost first.
    pub(crate) fn router(&self, number: usize) -> &Namespace {
        &self.routers[number]
    }

    /// How much has come to it so far, whatever it was, in bytes.
    pub(crate) fn received_bytes(&self) -> u64 {
        let counter = "/sys/class/net/net0/statistics/rx_bytes";
        let counted = self.host.execute("cat", &[counter]);
        self.earlier_bytes + counted.trim().parse::<u64>().expect("a count")
    }
}

/// Puts a machine behind a router, in the network `a.b.c.0/24`.
fn behind(router: &Namespace, machine: &Namespace, network: &str) {
    router.cable("lan0", (machine, "net0"));
    router.address("lan0", &format!("{network}.1/24"));
    machine.address("net0", &format!("{network}.2/24"));
    let via = format!("{network}.1");
    machine.ip(&["route", "add", "default", "via", &via]);
}

/// Has a router do what its kind does, for the one machine behind it.
fn route(router: &Namespace, kind: Kind, machine: &str) {
    router.execute("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
    let rules = rules(kind, machine);
    router.execute("nft", &[&rules]);
}

/// The rules of a kind. What nobody inside has asked for is dropped before the system remembers it,
/// as routers at home do: an answer to it would take another port otherwise.
fn rules(kind: Kind, machine: &str) -> String {
    let masquerade = match kind {
        Kind::Symmetric => "masquerade fully-random",
        _ => "masquerade",
    };
    let (inward, outward) = match kind {
        Kind::FullCone => (
            format!("iifname net0 meta l4proto udp dnat to {machine}"),
            "",
        ),
        Kind::AddressRestricted => (
            format!("iifname net0 meta l4proto udp ip saddr @spoken dnat to {machine}"),
            "iifname lan0 oifname net0 update @spoken { ip daddr }",
        ),
        Kind::NoUdp => (String::new(), "meta l4proto udp drop"),
        _ => (String::new(), ""),
    };
    format!(
        "table ip nat {{
            set spoken {{ type ipv4_addr; flags dynamic, timeout; timeout 2m; }}
            chain prerouting {{ type nat hook prerouting priority -100; {inward}; }}
            chain postrouting {{ type nat hook postrouting priority 100; oifname net0 {masquerade}; }}
            chain forward {{ type filter hook forward priority 0; {outward}; }}
            chain input {{ type filter hook input priority 0; iifname net0 meta l4proto udp drop; }}
        }}"
    )
}
