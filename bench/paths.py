#!/usr/bin/env python3
"""`shoal send` and `shoal receive` by code, over each kind of path, alternating.

Usage: bench/paths.py [MB] [ROUNDS] [--delay-ms MS] [--rate-mbit MBIT] [--loss PERCENT] [--paths direct,punched,relayed] [--shoal PATH]

Makes two network namespaces (as root; with --delay-ms over the emulated link of lab/) with a server
beside the sender. `direct` is what it is; for `punched` the sender's own port is closed to the
receiver, so that the roaming lane finds another way; for `relayed` all UDP is closed. Prints per path
the median of: seconds from the start of `receive` to the first verified byte, to its end, MB/s of
the whole and of what came after the first byte, and CPU seconds per GB of sender, receiver and server
together; at the end the most memory that the server had.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PORT = 7001
PATHS = ["direct", "punched", "relayed"]


def run(*words, check=True):
    return subprocess.run(words, check=check, capture_output=True, text=True)


class Network:
    """Two namespaces, joined by a cable or by the emulated link."""

    def __init__(self, settings):
        self.name = f"shoal-paths-{os.getpid()}-"
        self.sender, self.receiver = self.name + "B", self.name + "A"
        self.link = None
        if settings.delay_ms is None:
            for name in [self.sender, self.receiver]:
                run("ip", "netns", "add", name)
                run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", self.sender, "link", "add", "net0", "type", "veth", "peer", "name", "net0", "netns", self.receiver)
            for name, address in [(self.sender, "10.77.0.2"), (self.receiver, "10.77.0.1")]:
                run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "net0")
                run("ip", "-n", name, "link", "set", "net0", "up")
                run("ip", "-n", name, "route", "add", "default", "dev", "net0")
        else:
            words = [settings.lab, "--name", self.name, "--delay-ms", str(settings.delay_ms)]
            words += ["--rate-mbit", str(settings.rate_mbit), "--loss", str(settings.loss)]
            self.link = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            while not self.link.stdout.readline().startswith("ready"):
                pass

    def only(self, path):
        """Closes what a path must not use."""
        run("ip", "netns", "exec", self.sender, "nft", "flush", "ruleset")
        closed = {"direct": None, "punched": f"udp dport {PORT} drop", "relayed": "meta l4proto udp iifname != lo drop"}[path]
        if closed:
            rules = f"table inet closed {{ chain in {{ type filter hook input priority 0; {closed}; }}; }}"
            run("ip", "netns", "exec", self.sender, "nft", rules.replace("chain in", "chain input"))

    def close(self):
        if self.link:
            self.link.send_signal(signal.SIGTERM)
            self.link.wait()
            return
        for name in [self.sender, self.receiver]:
            run("ip", "netns", "del", name, check=False)


def cpu_seconds(process):
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Scene:
    def __init__(self, settings, network, folder):
        self.settings, self.network, self.folder = settings, network, folder
        self.environment = {**os.environ, "SHOAL_NO_LAN": "1", "SHOAL_NO_PORT_MAPPING": "1"}
        self.file = folder / "data.bin"
        with open(self.file, "wb") as file:
            for _ in range(settings.mb):
                file.write(os.urandom(1_000_000))
        self.hash = hashlib.sha256(self.file.read_bytes()).digest()
        self.server = self.start(network.sender, "server", "--addr", "10.77.0.2:8080", "--files-dir", folder / "sf", "--state-dir", folder / "ss")
        self.join = self.event(self.server, "listening")["join"]

    def start(self, namespace, *words):
        command = ["ip", "netns", "exec", namespace, self.settings.shoal, "--json", *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True, env=self.environment)

    def event(self, process, name):
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == name:
                return event
        sys.exit(f"no {name}")

    def move(self, path):
        self.network.only(path)
        sender = self.start(self.network.sender, "send", self.file, "--once", "--port", PORT, "--join", self.join, "--state-dir", self.folder / "anna")
        code = self.event(sender, "offer")["code"]
        target = self.folder / "got"
        server_before = cpu_seconds(self.server.pid)
        started = time.monotonic()
        receiver = self.start(self.network.receiver, "receive", "-y", code, "-o", target, "--join", self.join, "--state-dir", self.folder / "bob")
        first, kind, begun_with = None, None, 0
        for line in receiver.stdout:
            event = json.loads(line)
            if event.get("verified_bytes", 0) > 0 and first is None:
                first, begun_with = time.monotonic() - started, event["verified_bytes"] / 1e6
            for one in event.get("paths") or []:
                kind = one["kind"]
        # Waited for by hand, for its resources.
        _, status, used_receiver = os.wait4(receiver.pid, 0)
        took = time.monotonic() - started
        _, _, used_sender = os.wait4(sender.pid, 0)
        receiver.returncode = sender.returncode = 0
        if status or hashlib.sha256((target / "data.bin").read_bytes()).digest() != self.hash:
            sys.exit(f"{path}: failed ({status})")
        shutil.rmtree(target)
        cpu = cpu_seconds(self.server.pid) - server_before
        cpu += sum(used.ru_utime + used.ru_stime for used in [used_receiver, used_sender])
        begun = (self.settings.mb - begun_with) / (took - first)
        return {"first": first, "took": took, "kind": kind, "rate": self.settings.mb / took, "begun": begun, "cpu": cpu / self.settings.mb * 1000}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mb", nargs="?", type=int, default=512)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--delay-ms", type=float)
    parser.add_argument("--rate-mbit", type=float, default=200)
    parser.add_argument("--loss", type=float, default=0)
    parser.add_argument("--paths", type=lambda text: text.split(","), default=PATHS)
    parser.add_argument("--shoal", default="target/release/shoal")
    parser.add_argument("--lab", default="target/release/shoal-wan")
    settings = parser.parse_args()
    settings.shoal = str(Path(settings.shoal).resolve())
    network = Network(settings)
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(settings, network, Path(folder))
        try:
            paths = settings.paths
            found = {path: [] for path in paths}
            for number in range(settings.rounds):
                for at in range(len(paths)):
                    path = paths[(at + number) % len(paths)]
                    one = scene.move(path)
                    found[path].append(one)
                    print(path, {key: round(value, 3) if isinstance(value, float) else value for key, value in one.items()}, file=sys.stderr)
        finally:
            most = Path(f"/proc/{scene.server.pid}/status").read_text().split("VmHWM:")[1].split()[0]
            scene.server.terminate()
            scene.server.wait()
            network.close()
    print("| path | at the end | first byte s | whole s | MB/s | MB/s once begun | CPU s/GB |\n|---|---|---|---|---|---|---|")
    for path, runs in found.items():
        median = lambda key: statistics.median(one[key] for one in runs)
        kinds = ", ".join(sorted({str(one["kind"]) for one in runs}))
        print(f"| {path} | {kinds} | {median('first'):.2f} | {median('took'):.2f} | {median('rate'):.1f} | {median('begun'):.1f} | {median('cpu'):.2f} |")
    print(f"server: at most {int(most) / 1000:.0f} MB")


if __name__ == "__main__":
    main()
