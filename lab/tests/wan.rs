//! The emulated link, measured from inside its two namespaces.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// IPv4 and UDP headers, which the link counts too.
const HEADERS_BYTES: usize = 28;

/// Room for all packets of a run, in bytes.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;

/// What is sent at once: half of what the device keeps while `shoal-wan` waits for a processor, so
/// that the link alone loses packets.
const BURST_PACKETS: usize = 5000;

/// A payload of this one byte ends a stream of packets.
const END: [u8; 1] = [0xff];

#[test]
fn round_trip_rate_and_loss_are_what_was_asked_for_and_nothing_stays_behind() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        let _closed = writeln!(
            std::io::stderr(),
            "skipped: root and /dev/net/tun are needed"
        );
        return;
    }
    let wan = Wan::start(&[
        "--delay-ms",
        "20",
        "--rate-mbit",
        "20",
        "--queue-kb",
        "4000",
    ]);
    let round_trip = wan.best_round_trip();
    assert!((40..48).contains(&round_trip.as_millis()), "{round_trip:?}");
    let sent = wan.send_many(3000, 1000);
    assert_eq!(sent.received, 3000, "no loss was asked for");
    assert!((18.0..20.5).contains(&sent.mbit_per_second), "{sent:?}");
    wan.stop();

    let lossy = Wan::start(&[
        "--delay-ms",
        "1",
        "--rate-mbit",
        "50",
        "--queue-kb",
        "9000",
        "--loss",
        "2",
    ]);
    let bursts = (0..4).map(|_| lossy.send_many(BURST_PACKETS, 100).received);
    let lost = 4 * BURST_PACKETS - bursts.sum::<usize>();
    let lost_per_cent = lost as f64 / 200.0;
    assert!((1.5..2.5).contains(&lost_per_cent), "{lost_per_cent} %");
    lossy.stop();
}

/// A running `shoal-wan`, ended when dropped.
struct Wan {
    process: Child,
    said: BufReader<ChildStdout>,
    name: String,
}

#[derive(Debug)]
struct Received {
    received: usize,
    mbit_per_second: f64,
}

impl Wan {
    fn start(arguments: &[&str]) -> Self {
        let name = format!("shoal-test-{}", std::process::id());
        let mut process = Command::new(env!("CARGO_BIN_EXE_shoal-wan"))
            .args(["--name", &name])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("shoal-wan starts");
        let said = BufReader::new(process.stdout.take().expect("piped"));
        let mut wan = Self {
            process,
            said,
            name,
        };
        let mut ready = String::new();
        wan.said.read_line(&mut ready).expect("it speaks");
        assert!(ready.starts_with("ready: "), "{ready:?}");
        wan
    }

    /// Ends it as an operator does, and looks that both namespaces are gone.
    fn stop(mut self) {
        self.terminate();
        let status = self.process.wait().expect("it ends");
        assert!(status.success(), "{status}");
        assert!(!self.path('A').exists() && !self.path('B').exists());
    }

    fn best_round_trip(&self) -> Duration {
        let near = self.socket('A');
        let far = self.socket('B');
        let to = far.local_addr().expect("bound");
        std::thread::scope(|scope| {
            scope.spawn(|| echo(&far));
            let round_trip = |_| {
                let started = Instant::now();
                near.send_to(b"ping", to).expect("sent");
                near.recv_from(&mut [0; 16]).expect("echoed");
                started.elapsed()
            };
            let best = (0..20).map(round_trip).min();
            near.send_to(&END, to).expect("sent");
            best.expect("twenty of them")
        })
    }

    /// Sends packets as fast as the socket takes them and counts what arrives, at which rate.
    fn send_many(&self, count: usize, payload_bytes: usize) -> Received {
        let near = self.socket('A');
        let far = self.socket('B');
        let to = far.local_addr().expect("bound");
        std::thread::scope(|scope| {
            let counted = scope.spawn(|| count_until_end(&far));
            let started = Instant::now();
            for _ in 0..count {
                near.send_to(&vec![0; payload_bytes], to).expect("sent");
            }
            // One of several gets through whatever the loss.
            for _ in 0..20 {
                near.send_to(&END, to).expect("sent");
            }
            let (received, last) = counted.join().expect("counted");
            let bits = (received * (payload_bytes + HEADERS_BYTES) * 8) as f64;
            let elapsed = last.duration_since(started);
            Received {
                received,
                mbit_per_second: bits / elapsed.as_secs_f64() / 1e6,
            }
        })
    }

    /// A socket inside one of the namespaces.
    fn socket(&self, side: char) -> UdpSocket {
        let namespace = File::open(self.path(side)).expect("the namespace");
        let address = if side == 'A' {
            "10.77.0.1:0"
        } else {
            "10.77.0.2:0"
        };
        let bind = move || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).expect("entered");
            let address: SocketAddr = address.parse().expect("an address");
            let socket = UdpSocket::bind(address).expect("bound");
            let deadline = Some(Duration::from_secs(10));
            socket.set_read_timeout(deadline).expect("set");
            // The link alone may lose packets, also while the reader waits for a processor.
            set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).expect("set");
            socket
        };
        std::thread::spawn(bind).join().expect("a socket")
    }

    fn path(&self, side: char) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}{side}", self.name))
    }

    fn terminate(&mut self) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).expect("it runs");
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.terminate();
            self.process.wait().expect("it ends");
        }
    }
}

fn echo(socket: &UdpSocket) {
    let mut packet = [0; 2000];
    loop {
        let (len, from) = socket.recv_from(&mut packet).expect("a packet in time");
        if packet[..len] == END {
            return;
        }
        socket.send_to(&packet[..len], from).expect("sent");
    }
}

/// How many packets come before the end, and when the last of them did.
fn count_until_end(socket: &UdpSocket) -> (usize, Instant) {
    let mut packet = [0; 2000];
    let (mut count, mut last) = (0, None);
    loop {
        let len = socket.recv(&mut packet).expect("a packet in time");
        if packet[..len] == END {
            return (count, last.expect("a packet before the end"));
        }
        count += 1;
        last = Some(Instant::now());
    }
}
