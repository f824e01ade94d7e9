//! A TUN device inside a namespace: whole IP packets in and out.
//!
//! The one module with unsafe code. The ioctl that names a device is in no safe interface, and a
//! device must be named by the process that carries its packets.
#![allow(unsafe_code, reason = "TUNSETIFF is the only way to name a TUN device")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;
use rustix::fs::OFlags;
use rustix::ioctl::{Opcode, Setter, opcode};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What the device is called in each namespace.
pub(crate) const DEVICE: &str = "wan0";

/// `IFF_TUN` and `IFF_NO_PI` of linux/if_tun.h: IP packets with nothing before them.
const FLAGS: u16 = 0x0001 | 0x1000;

/// `TUNSETIFF` of linux/if_tun.h: `_IOW('T', 202, int)`.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);

/// `struct ifreq` of linux/if.h: a name, and a union of which the flags are the part used here.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// An open TUN device. It disappears when this is dropped.
#[derive(Debug)]
pub(crate) struct Tun {
    device: File,
}

impl Tun {
    /// Makes the device in a namespace; the calling thread is back in its own afterwards.
    pub(crate) fn open(namespace: &File) -> anyhow::Result<Self> {
        let own = File::open("/proc/thread-self/ns/net").context("the own namespace is unknown")?;
        enter(namespace).context("the namespace cannot be entered, is this root?")?;
        let device = open_device();
        enter(&own).context("the own namespace cannot be entered again")?;
        device.context("/dev/net/tun cannot be used")
    }

    /// Reads one packet; `None` when none waits.
    pub(crate) fn read(&self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.device).read(packet) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one packet; whether the kernel took it.
    pub(crate) fn write(&self, packet: &[u8]) -> bool {
        (&self.device)
            .write(packet)
            .is_ok_and(|len| len == packet.len())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    let network = Some(LinkNameSpaceType::Network);
    Ok(move_into_link_name_space(namespace.as_fd(), network)?)
}

fn open_device() -> io::Result<Tun> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/net/tun")?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: FLAGS,
        rest: [0; 22],
    };
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    // SAFETY: TUNSETIFF reads and may rewrite one `struct ifreq`, which `InterfaceRequest` has the
    // size (40 bytes) and layout of, and which lives in the setter until the call returns.
    unsafe {
        let name_device = Setter::<TUNSETIFF, InterfaceRequest>::new(request);
        rustix::ioctl::ioctl(&device, name_device)?;
    }
    Ok(Tun { device })
}
