//! The two namespaces: made, addressed and, when this value is dropped, removed.
//!
//! Names that are taken are left alone: they belong to somebody else.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::tun::DEVICE;

/// Packets that may wait between the kernel and this program: more than any burst, so that only
/// the emulated queue drops.
const DEVICE_QUEUE: &str = "10000";

/// One end of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) fn address(self) -> Ipv4Addr {
        match self {
            Side::A => Ipv4Addr::new(10, 77, 0, 1),
            Side::B => Ipv4Addr::new(10, 77, 0, 2),
        }
    }

    fn address_v6(self) -> Ipv6Addr {
        match self {
            Side::A => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1),
            Side::B => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2),
        }
    }

    fn other(self) -> Self {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// The two namespaces of one link.
#[derive(Debug)]
pub(crate) struct Namespaces {
    base: String,
    made: Vec<Side>,
}

impl Namespaces {
    pub(crate) fn create(base: &str) -> anyhow::Result<Self> {
        let mut namespaces = Self {
            base: base.to_owned(),
            made: Vec::new(),
        };
        for side in [Side::A, Side::B] {
            let name = namespaces.name(side);
            ip(&["netns", "add", &name]).with_context(|| {
                format!(
                    "the namespace {name} cannot be made; if it is a leftover: ip netns del {name}"
                )
            })?;
            namespaces.made.push(side);
        }
        Ok(namespaces)
    }

    pub(crate) fn name(&self, side: Side) -> String {
        format!("{}{side:?}", self.base)
    }

    /// A handle by which a thread can enter the namespace.
    pub(crate) fn handle(&self, side: Side) -> anyhow::Result<File> {
        let path = Path::new("/run/netns").join(self.name(side));
        File::open(&path).with_context(|| format!("{} cannot be opened", path.display()))
    }

    /// Gives the device of one side its addresses and brings it up.
    pub(crate) fn configure(&self, side: Side, mtu: u16) -> anyhow::Result<()> {
        let name = self.name(side);
        let inside = |arguments: &[&str]| ip(&[&["-n", &name], arguments].concat());
        let (own, peer) = (
            side.address().to_string(),
            side.other().address().to_string(),
        );
        let own_v6 = format!("{}/64", side.address_v6());
        inside(&["link", "set", "lo", "up"])?;
        inside(&[
            "link",
            "set",
            DEVICE,
            "mtu",
            &mtu.to_string(),
            "txqueuelen",
            DEVICE_QUEUE,
            "up",
        ])?;
        inside(&["address", "add", &own, "peer", &peer, "dev", DEVICE])?;
        inside(&["route", "add", "default", "via", &peer, "dev", DEVICE])?;
        if Path::new("/proc/net/if_inet6").exists() {
            inside(&["-6", "address", "add", &own_v6, "dev", DEVICE, "nodad"])?;
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for side in &self.made {
            // Nothing can be done about a failure here: the name is told by the next start.
            let _failed = ip(&["netns", "del", &self.name(*side)]);
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let command = || format!("ip {}", arguments.join(" "));
    let output = match Command::new("ip").args(arguments).output() {
        Ok(output) => output,
        Err(error) => bail!(
            "{} cannot be run, is iproute2 installed? {error}",
            command()
        ),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", command(), said.trim());
    Ok(())
}
