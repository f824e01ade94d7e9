//! Carries packets between two devices through two [`Direction`]s until it is told to stop.

use std::io;
use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::direction::{Direction, Shape};
use crate::tun::Tun;

/// The largest IP packet.
const PACKET_MAX_BYTES: usize = 65_535;

/// Packets taken from one device before the other one and the clock are looked at again.
const PACKETS_PER_TURN: usize = 64;

/// Ahead of ordinary processes, so that packets leave on time while both cores measure.
const PRIORITY: i32 = -15;

/// Two devices and what lies between them.
#[derive(Debug)]
pub(crate) struct Wan {
    near: Tun,
    far: Tun,
    forth: Direction,
    back: Direction,
    refused: u64,
    started: Instant,
}

impl Wan {
    pub(crate) fn new((near, far): (Tun, Tun), shape: &Shape, seed: u64) -> Self {
        Self {
            near,
            far,
            forth: Direction::new(shape.clone(), seed),
            // Another pattern, so that the two directions do not lose in step.
            back: Direction::new(shape.clone(), !seed),
            refused: 0,
            started: Instant::now(),
        }
    }

    /// Runs until `stop` becomes readable.
    pub(crate) fn run(&mut self, stop: &UnixStream) -> io::Result<()> {
        let mut packet = vec![0; PACKET_MAX_BYTES];
        loop {
            self.deliver();
            let now = self.started.elapsed();
            let due = [self.forth.poll_timeout(), self.back.poll_timeout()];
            let wait = due.into_iter().flatten().min();
            let wait = wait.map(|due| timespec(due.saturating_sub(now)));
            let mut waited = [
                PollFd::new(&self.near, PollFlags::IN),
                PollFd::new(&self.far, PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match poll(&mut waited, wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [near, far, stopped] = waited.map(|fd| !fd.revents().is_empty());
            if stopped {
                return Ok(());
            }
            if near {
                take(&self.near, &mut self.forth, &mut packet, self.started)?;
            }
            if far {
                take(&self.far, &mut self.back, &mut packet, self.started)?;
            }
        }
    }

    /// One line per direction: what became of the packets.
    pub(crate) fn summary(&self) -> Vec<String> {
        let line = |name: &str, direction: &Direction| {
            let counts = direction.counts();
            format!(
                "{name}: {} packets in, {} lost, {} dropped at the queue, {} out ({} bytes), at most {} us late",
                counts.entered,
                counts.lost,
                counts.dropped,
                counts.carried,
                counts.carried_bytes,
                counts.most_late.as_micros(),
            )
        };
        let mut lines = vec![line("A to B", &self.forth), line("B to A", &self.back)];
        if self.refused > 0 {
            lines.push(format!("{} packets refused by the kernel", self.refused));
        }
        lines
    }

    fn deliver(&mut self) {
        let now = self.started.elapsed();
        for (direction, device) in [(&mut self.forth, &self.far), (&mut self.back, &self.near)] {
            while let Some(packet) = direction.poll_arrived(now) {
                self.refused += u64::from(!device.write(&packet));
            }
        }
    }
}

/// Wakes on time and before ordinary processes, as far as the system allows.
pub(crate) fn prefer_this_process() {
    let _as_it_is = rustix::process::setpriority_process(None, PRIORITY);
    let _as_it_is = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

fn take(
    device: &Tun,
    direction: &mut Direction,
    packet: &mut [u8],
    started: Instant,
) -> io::Result<()> {
    for _ in 0..PACKETS_PER_TURN {
        let Some(len) = device.read(packet)? else {
            break;
        };
        direction.handle_packet(&packet[..len], started.elapsed());
    }
    Ok(())
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().cast_signed(),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
