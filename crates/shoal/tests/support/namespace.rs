//! Network namespaces of a test's own: only for root, and only where `nft` and `ip` are there.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::disk::{run, skipped};

/// A network namespace; removed when it is dropped.
pub(crate) struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes one with nothing but loopback; says so and gives `None` where that is not possible.
    pub(crate) fn make() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("shoal-test-{}-{number}", std::process::id());
        let made = Self::named(name);
        made.map_err(|reason| skipped(&reason)).ok()
    }

    fn named(name: String) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may make a network namespace".to_owned());
        }
        run("nft", &["--version"])?;
        run("ip", &["netns", "add", &name])?;
        let handle = File::open(Path::new("/run/netns").join(&name));
        let handle = handle.map_err(|error| error.to_string())?;
        let namespace = Self { name, handle };
        namespace.ip(&["link", "set", "lo", "up"]);
        Ok(namespace)
    }

    /// From now on this thread, and whatever it starts, is in it.
    pub(crate) fn enter(&self) {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.handle.as_fd(), network).expect("the namespace is there");
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, arguments: &[&str]) {
        let inside = [&["-n", &self.name], arguments].concat();
        run("ip", &inside).expect("ip");
    }

    /// Joins it with another by a cable: a device at either end, up, without an address.
    pub(crate) fn cable(&self, device: &str, (other, at_other): (&Self, &str)) {
        let far_end = ["peer", "name", at_other, "netns", &other.name];
        self.ip(&[&["link", "add", device, "type", "veth"][..], &far_end].concat());
        for (end, device) in [(self, device), (other, at_other)] {
            end.ip(&["link", "set", device, "up"]);
        }
    }

    /// Gives a device an address, `1.2.3.4/24`, at once.
    pub(crate) fn address(&self, device: &str, address: &str) {
        let mut add = vec!["address", "add", address, "dev", device];
        if address.contains(':') {
            add.push("nodad");
        }
        self.ip(&add);
    }

    /// Runs a command in it.
    pub(crate) fn execute(&self, program: &str, arguments: &[&str]) -> String {
        let inside = [&["netns", "exec", &self.name, program], arguments].concat();
        run("ip", &inside).expect(program)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its processes are gone, or about to be.
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}
