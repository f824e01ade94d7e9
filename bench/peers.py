#!/usr/bin/env python3
"""Many connected peers: what each costs the server in memory.

Usage: bench/peers.py [PEERS] [FILES_EACH]        (default 1000 and 10)

Needs release builds: cargo build --release && cargo build --release -p shoal-node --example crowd
All peers run in one other process, each with an identity, a socket and a session of its own.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RELEASE = ROOT / "target" / "release"


def memory_mb(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main():
    peers = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    files = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        base = pathlib.Path(name)
        server = subprocess.Popen(
            [RELEASE / "shoal", "--json", "server", "--addr", "127.0.0.1:0", "--files-dir",
             base / "own", "--state-dir", base / "server"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        crowd = None
        try:
            ticket = json.loads(server.stdout.readline())["join"]
            empty = memory_mb(server.pid)
            crowd = subprocess.Popen(
                [RELEASE / "examples" / "crowd", ticket, str(peers), str(files)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            print(crowd.stdout.readline().strip())
            full = memory_mb(server.pid)
            time.sleep(15)
            idle = memory_mb(server.pid)
            status = subprocess.run(
                [RELEASE / "shoal", "ctl", "--state-dir", base / "server", "status"],
                capture_output=True, text=True, check=True,
            ).stdout
            print(status.strip())
            print(f"server memory: {empty:.1f} MB empty, {full:.1f} MB when all had connected, "
                  f"{idle:.1f} MB after 15 s")
            print(f"per peer: {(idle - empty) * 1024 / peers:.1f} KB with {files} files each")
        finally:
            for process in filter(None, [crowd, server]):
                if process.stdin:
                    process.stdin.close()
                process.terminate()
                process.wait()


main()
