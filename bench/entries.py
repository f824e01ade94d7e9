#!/usr/bin/env python3
"""A tree of very many tiny files: what memory and time it costs server, peer and `shoal get`.

Usage: bench/entries.py [FILES] [--bytes N] [--per-folder N] [--no-sync] [--program PATH]
                                                             (default 1,000,000 files of 16 bytes)

Needs a release build: cargo build --release. Files lie in folders of 1,000. Says each process's
peak resident memory (VmHWM) at every step, and how much of the manifest had been heard when the
first file had its name. Bounded in time; ends only the processes that it started.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Seconds that one step may take.
LIMIT = 900


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=16, help="size of each file")
    parser.add_argument("--per-folder", type=int, default=1000)
    parser.add_argument("--no-sync", action="store_true", help="passed on to get")
    parser.add_argument("--hashed", action="store_true", help="waits until all is hashed before the get")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "target" / "release" / "shoal")
    parser.add_argument("--dir", type=pathlib.Path, help="where data goes; default: BENCH_DIR")
    return parser.parse_args()


def make(folder, settings):
    for start in range(0, settings.files, settings.per_folder):
        parent = folder / f"{start // settings.per_folder:04}"
        parent.mkdir(parents=True)
        for at in range(start, min(start + settings.per_folder, settings.files)):
            content = f"{at:x}".encode().ljust(settings.bytes, b".")[:settings.bytes]
            descriptor = os.open(parent / f"file-{at:07}.txt", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(descriptor, content)
            os.close(descriptor)


def memory_mb(pid, field):
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    value = text.partition(f"{field}:")[2].split(maxsplit=1)
    return int(value[0]) / 1024 if value else 0.0


def cpu_seconds(pid):
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Daemon:
    """A server or peer: its events, its memory, its end."""

    def __init__(self, name, command, log):
        self.name, self.events = name, []
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def event(self, name):
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            found = next((one for one in self.events if one["event"] == name), None)
            if found:
                return found
            if self.process.poll() is not None:
                sys.exit(f"{self.name} ended")
            time.sleep(0.01)
        sys.exit(f"{self.name} did not say '{name}' in {LIMIT} s")

    def told(self):
        pid = self.process.pid
        return (f"{self.name} {memory_mb(pid, 'VmRSS'):.0f} MB now, {memory_mb(pid, 'VmHWM'):.0f} MB "
                f"at most, {cpu_seconds(pid):.1f} CPU s")

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Getting:
    """A `get`, with the first moment at which a file of the tree has its final name."""

    def __init__(self, command, target, log):
        self.started = time.monotonic()
        self.first, self.listed_first = None, None
        self.peak_mb, self.cpu, self.progress = 0.0, 0.0, {}
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )
        reader = threading.Thread(target=self.listen, daemon=True)
        reader.start()
        try:
            while self.process.poll() is None:
                if time.monotonic() - self.started > LIMIT:
                    sys.exit(f"get did not end in {LIMIT} s")
                self.look(target)
                time.sleep(0.02)
        finally:
            self.process.kill()
        self.seconds = time.monotonic() - self.started
        reader.join()

    def look(self, target):
        pid = self.process.pid
        self.peak_mb = max(self.peak_mb, memory_mb(pid, "VmHWM"))
        self.cpu = max(self.cpu, cpu_seconds(pid))
        if self.first is None and target.is_dir():
            folder = next((entry for entry in os.scandir(target) if entry.is_dir()), None)
            if folder and next(os.scandir(folder), None):
                self.first = time.monotonic() - self.started
                self.listed_first = self.progress.get("files")

    def listen(self):
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] in ["progress", "done", "error"]:
                self.progress = event


def run(settings, base, log):
    tree = base / "anna" / "tree"
    started = time.monotonic()
    make(tree, settings)
    print(f"{settings.files} files of {settings.bytes} bytes made in {time.monotonic() - started:.0f} s")
    program, daemons = settings.program, []
    try:
        server = Daemon("server", [
            program, "--json", "server", "--addr", "127.0.0.1:0",
            "--files-dir", base / "own", "--state-dir", base / "server",
        ], log)
        daemons.append(server)
        ticket = server.event("listening")["join"]
        started = time.monotonic()
        peer = Daemon("peer", [
            program, "--json", "peer", "--join", ticket, "--name", "anna",
            "--files-dir", base / "anna", "--state-dir", base / "peer",
        ], log)
        daemons.append(peer)
        peer.event("announced")
        print(f"announced after {time.monotonic() - started:.1f} s: {server.told()}; {peer.told()}")
        if settings.hashed:
            wait_hashed(program, base)
            print(f"hashed after {time.monotonic() - started:.1f} s: {server.told()}; {peer.told()}")
        get(settings, base, ticket, log)
        print(f"after the get: {server.told()}; {peer.told()}")
    finally:
        for daemon in reversed(daemons):
            daemon.end()


def wait_hashed(program, base):
    deadline = time.monotonic() + LIMIT
    last = f"{max(path.name for path in (base / 'anna' / 'tree').iterdir())}"
    while time.monotonic() < deadline:
        listed = subprocess.run(
            [program, "--json", "ctl", "--state-dir", base / "server", "files", f"tree/{last}/"],
            capture_output=True, text=True,
        ).stdout
        events = [json.loads(line) for line in listed.splitlines()]
        files = [one for one in events if one.get("event") == "file"]
        if files and all(one.get("hash") for one in files):
            return
        time.sleep(1)
    sys.exit("not hashed in time")


def get(settings, base, ticket, log):
    command = [settings.program, "--json", "get", "anna:tree"]
    command += ["-o", base / "got", "--join", ticket, "--state-dir", base / "getter"]
    command += ["--no-sync"] if settings.no_sync else []
    getting = Getting(command, base / "got" / "tree", log)
    done = getting.progress
    if done.get("event") != "done" or done.get("fetched") != settings.files:
        sys.exit(f"get failed: {done}")
    first = "never" if getting.first is None else f"{getting.first:.1f} s"
    print(f"got in {getting.seconds:.1f} s: get {getting.peak_mb:.0f} MB at most, {getting.cpu:.1f} CPU s; "
          f"the first file was there after {first}, with {getting.listed_first} files listed")


def main():
    settings = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(
        prefix="shoal-entries-", dir=settings.dir or os.environ.get("BENCH_DIR"),
    ) as name:
        base = pathlib.Path(name)
        with open(base / "log.txt", "w+") as log:
            try:
                run(settings, base, log)
            except SystemExit:
                log.flush()
                print((base / "log.txt").read_text()[-2000:], file=sys.stderr)
                raise


main()
