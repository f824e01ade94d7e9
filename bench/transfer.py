#!/usr/bin/env python3
"""One large file from peer to peer on loopback: rate, CPU and memory of both ends.

Usage: bench/transfer.py [SIZE_MB] [RUNS]        (default 2048 and 5)

Needs a release build (cargo build --release). Each run fetches the file into a new folder, verified
and durable, alternating with `cp` + `sync` of the same file as the disk's own figure in that
minute. Prints medians and ranges; CPU is user + system seconds per GB (10^9 bytes).
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHOAL = ROOT / "target" / "release" / "shoal"
TICKS = os.sysconf("SC_CLK_TCK")


def daemon(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")}
    return subprocess.Popen(
        [SHOAL, "--json", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=open(folder / "log.txt", "a"),
        env=environment,
        text=True,
    )


def event(process, name):
    for line in process.stdout:
        found = json.loads(line)
        if found["event"] == name:
            return found
    sys.exit(f"{process.args} ended before it said {name}")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mb(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def wait_until_hashed(state, ticket, name):
    """The sender hashes in the background; wait, so that every run is the same."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        listed = subprocess.run(
            [SHOAL, "--json", "ls", "anna", "--join", ticket, "--state-dir", state],
            capture_output=True, text=True, check=True,
        ).stdout
        if any(json.loads(line).get("hash") for line in listed.splitlines()):
            return
        time.sleep(0.1)
    sys.exit(f"{name} was not hashed in time")


def figures(name, unit, values):
    middle = statistics.median(values)
    return f"{name}: {middle:.2f} {unit} ({min(values):.2f}–{max(values):.2f})"


def main():
    size_mb = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    gigabytes = size_mb * 2**20 / 1e9
    base = pathlib.Path(tempfile.mkdtemp(prefix="shoal-bench-", dir=os.environ.get("BENCH_DIR")))
    (base / "anna").mkdir()
    subprocess.run(
        f"head -c {size_mb}M /dev/zero | openssl enc -aes-128-ctr -pass pass:bench -nosalt "
        f"-pbkdf2 2>/dev/null > {base / 'anna' / 'large.bin'}",
        shell=True, check=True,
    )
    server = daemon(base, "server", "--addr", "127.0.0.1:0", "--files-dir", base / "own",
                    "--state-dir", base / "server")
    daemons = [server]
    try:
        ticket = event(server, "listening")["join"]
        anna = daemon(base, "peer", "--join", ticket, "--name", "anna", "--files-dir",
                      base / "anna", "--state-dir", base / "anna-state")
        daemons.append(anna)
        event(anna, "announced")
        wait_until_hashed(base / "bob-state", ticket, "large.bin")
        rates, copies, senders, receivers, peaks = [], [], [], [], []
        for run in range(runs):
            before = cpu_seconds(anna.pid)
            started = time.monotonic()
            receiver = subprocess.Popen(
                [SHOAL, "--json", "get", "large.bin", "-o", base / f"got-{run}",
                 "--state-dir", base / "bob-state", "--join", ticket],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(receiver.pid, 0)
            seconds = time.monotonic() - started
            if status != 0:
                sys.exit("the fetch failed")
            rates.append(gigabytes * 1000 / seconds)
            receivers.append((usage.ru_utime + usage.ru_stime) / gigabytes)
            senders.append((cpu_seconds(anna.pid) - before) / gigabytes)
            peaks.append(usage.ru_maxrss / 1024)
            started = time.monotonic()
            copy = base / f"copy-{run}"
            subprocess.run(["cp", base / "anna" / "large.bin", copy], check=True)
            subprocess.run(["sync", copy], check=True)
            copies.append(gigabytes * 1000 / (time.monotonic() - started))
        print(f"{size_mb} MiB from peer to peer on loopback, {runs} runs, verified and durable")
        print(figures("  shoal get", "MB/s", rates))
        print(figures("  cp + sync, alternating", "MB/s", copies))
        print(figures("  ratio to cp + sync", "", [a / b for a, b in zip(rates, copies)]))
        print(figures("  CPU of the sender", "s/GB", senders))
        print(figures("  CPU of the receiver", "s/GB", receivers))
        print(f"  peak memory: sender {peak_mb(anna.pid):.0f} MB, receiver {max(peaks):.0f} MB")
        print(f"  (the files are kept in {base}: remove them when all comparisons are done)")
    finally:
        for process in daemons:
            process.terminate()
            process.wait()


main()
