#!/usr/bin/env python3
"""How long a transfer pauses when a network changes beneath it: bench/moves.py [ROUNDS]

Runs, as root, the tests in which one of two people moves, a router gets another address or forgets its
ports, or the relay restarts in the middle of a transfer, and prints for each the longest time in which
nothing new was verified (progress is told every half second, so that much is within the figure), and how
many bytes came to the receiver for each byte of the file.
"""

import re
import statistics
import subprocess
import sys

WHICH = "binary(nats) and (test(goes_on) or test(interrupts_nothing) or test(found_again) or test(needs_the_server_no_more))"
SAID = re.compile(r"the longest pause was ([0-9.]+) s, (\d+) bytes came for (\d+)")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found = {}
    for _ in range(rounds):
        words = ["cargo", "nextest", "run", "--workspace", "--no-capture", "--no-fail-fast", "-E", WHICH]
        run = subprocess.run(words, capture_output=True, text=True)
        if run.returncode:
            sys.exit(run.stdout + run.stderr)
        test = None
        for line in (run.stdout + run.stderr).splitlines():
            begun = re.match(r"\s*START\s.*nats (\S+)", line)
            test = begun.group(1) if begun else test
            said = SAID.search(line)
            if said:
                pause, came, size = said.groups()
                found.setdefault(test, []).append((float(pause), int(came) / int(size)))
    print("| what happens | longest pause, s | received for each byte |\n|---|---|---|")
    for test, runs in sorted(found.items()):
        pauses = [pause for pause, _ in runs]
        spread = f"{statistics.median(pauses):.1f} ({min(pauses):.1f}–{max(pauses):.1f})"
        print(f"| {test.replace('_', ' ')} | {spread} | {max(share for _, share in runs):.2f} |")


if __name__ == "__main__":
    main()
