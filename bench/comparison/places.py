"""Where a transfer runs: on loopback, or between two network namespaces of our own."""

import os
import pathlib
import socket
import subprocess
import sys

from .measure import Failed

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


class Loopback:
    """Both ends on 127.0.0.1."""

    title = "loopback"
    address = "127.0.0.1"
    sender = []
    receiver = []

    def congestion(self, _name):
        raise Failed("the congestion control of the machine itself is left alone")

    def free_port(self):
        with socket.socket() as tcp:
            tcp.bind((self.address, 0))
            return tcp.getsockname()[1]

    def close(self):
        pass


class Namespaces:
    """The sender in one namespace at 10.77.0.2, the receiver in another."""

    address = "10.77.0.2"

    def __init__(self):
        if os.geteuid() != 0:
            raise Failed("network namespaces need root")
        self.base = f"shoal-compare-{os.getpid()}-"
        self.near, self.far = self.base + "A", self.base + "B"
        self.receiver = ["ip", "netns", "exec", self.near]
        self.sender = ["ip", "netns", "exec", self.far]
        self.port = 20_000

    def congestion(self, name):
        """Chooses TCP's congestion control for what is sent from one namespace to the other."""
        for inside, device, host in self.routes:
            run("ip", "-n", inside, "route", "replace", f"10.77.0.{host}/32", "dev", device,
                "congctl", name)

    def free_port(self):
        # Nothing else listens in there.
        self.port += 1
        return self.port


class Veth(Namespaces):
    """Joined by a veth pair of MTU 1,500."""

    title = "two namespaces, veth, MTU 1,500"

    def __init__(self):
        super().__init__()
        self.routes = [(self.near, "veth-a", 2), (self.far, "veth-b", 1)]
        made = []
        try:
            for name in [self.near, self.far]:
                run("ip", "netns", "add", name)
                made.append(name)
            run("ip", "link", "add", "veth-a", "netns", self.near, "mtu", 1500,
                "type", "veth", "peer", "name", "veth-b", "netns", self.far, "mtu", 1500)
            for name, device, host in [(self.near, "veth-a", 1), (self.far, "veth-b", 2)]:
                run("ip", "-n", name, "address", "add", f"10.77.0.{host}/24", "dev", device)
                run("ip", "-n", name, "link", "set", device, "up")
                run("ip", "-n", name, "link", "set", "lo", "up")
        except BaseException:
            for name in made:
                run("ip", "netns", "del", name)
            raise

    def close(self):
        for name in [self.near, self.far]:
            run("ip", "netns", "del", name)


class Wan(Namespaces):
    """Joined by the emulated network of lab/."""

    def __init__(self, rate_mbit, loss):
        super().__init__()
        self.routes = [(self.near, "wan0", 2), (self.far, "wan0", 1)]
        self.title = f"50 ms, {rate_mbit} Mbit/s, {loss} % loss"
        self.process = subprocess.Popen(
            # Ahead of everything that is measured, so that packets leave on time.
            ["chrt", "--fifo", "1", wan_program(), "--name", self.base, "--delay-ms", "25",
             "--rate-mbit", str(rate_mbit), "--loss", str(loss)],
            stdout=subprocess.PIPE, text=True,
        )
        if not self.process.stdout.readline().startswith("ready: "):
            raise Failed("the emulated network did not start")

    def close(self):
        self.process.terminate()
        # What was lost and how late packets left: whether the emulation kept up.
        print(self.process.stdout.read().strip(), file=sys.stderr)
        self.process.wait()


def wan_program():
    subprocess.run(
        ["cargo", "build", "--quiet", "-p", "shoal-lab"], cwd=ROOT, check=True,
    )
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "debug" / "shoal-wan"
