"""Starting processes and accounting for them: time, CPU and memory of each end of a transfer.

All processes of an end, with their children and whatever those leave behind, are in one control
group, so CPU time is the kernel's own sum (user + system). Memory is sampled: the sum over the
end's processes of each one's peak resident size. Only processes of these groups are ever ended.
"""

import os
import pathlib
import signal
import subprocess
import threading
import time

CGROUP = pathlib.Path("/sys/fs/cgroup")
SAMPLE_SECONDS = 0.02

# State files beside a large download are smaller.
STATE_MAX_BYTES = 64 * 1024


class Failed(Exception):
    """A run that did not end well; the text says why."""


def cgroup_root():
    """Where control groups that count CPU time can be made, with the file that counts it."""
    if (CGROUP / "cgroup.controllers").exists():
        return CGROUP, "cpu.stat"
    for name in ["cpuacct", "cpu,cpuacct"]:
        if (CGROUP / name / "cpuacct.usage").exists():
            return CGROUP / name, "cpuacct.usage"
    return None, None


class End:
    """One end of a transfer: its processes, their CPU time and their memory."""

    def __init__(self, name, log):
        self.log = log
        self.processes = []
        self.peaks = {}
        self.group = None
        root, self.counter = cgroup_root()
        if root and os.access(root, os.W_OK):
            self.group = root / f"shoal-compare-{os.getpid()}-{name}"
            self.group.mkdir()

    def start(self, command, output=None, environment=None):
        """Starts a process of this end in a session of its own."""
        entry = f"{self.group}/cgroup.procs" if self.group else None

        def enter():
            if entry:
                with open(entry, "w") as procs:
                    procs.write("0")

        clean = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")}
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output or self.log,
            stderr=self.log,
            env=clean | (environment or {}),
            start_new_session=True,
            preexec_fn=enter,
        )
        self.processes.append(process)
        return process

    def cpu_seconds(self):
        """User and system time of all processes so far, or None where it cannot be known."""
        if not self.group:
            return None
        text = (self.group / self.counter).read_text()
        if self.counter == "cpu.stat":
            return int(text.split("usage_usec", 1)[1].split()[0]) / 1e6
        return int(text) / 1e9

    def pids(self):
        if self.group:
            return [int(line) for line in (self.group / "cgroup.procs").read_text().split()]
        return [process.pid for process in self.processes if process.poll() is None]

    def sample(self):
        for pid in self.pids():
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            peak = status.partition("VmHWM:")[2].split(maxsplit=1)
            if peak:
                self.peaks[pid] = max(self.peaks.get(pid, 0), int(peak[0]) / 1024)

    def forget_peaks(self):
        """Starts the count of memory anew: what a daemon once used is not what this run uses."""
        self.peaks.clear()
        for pid in self.pids():
            try:
                pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                continue

    def kill(self):
        """Ends every process of this end at once, as SIGKILL does."""
        for _ in range(100):
            left = self.pids()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for process in self.processes:
                process.poll()
            if not left:
                return
            time.sleep(0.01)

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 5
        while self.pids() and time.monotonic() < deadline:
            for process in self.processes:
                process.poll()
            time.sleep(0.02)
        self.kill()
        if self.group:
            self.group.rmdir()
            self.group = None


class Usage:
    """What the two ends used between `begin` and `end`."""

    def __init__(self, ends):
        self.ends = ends
        self.before = [end.cpu_seconds() for end in ends]
        for end in ends:
            end.forget_peaks()
        self.stop = threading.Event()
        self.sampler = threading.Thread(target=self.run, daemon=True)
        self.sampler.start()

    def run(self):
        while not self.stop.wait(SAMPLE_SECONDS):
            for end in self.ends:
                end.sample()

    def finish(self):
        """CPU seconds and peak MB of each end."""
        self.stop.set()
        self.sampler.join()
        after = [end.cpu_seconds() for end in self.ends]
        cpu = [None if a is None else a - b for a, b in zip(after, self.before)]
        return cpu, [sum(end.peaks.values()) for end in self.ends]


def wait(process, seconds):
    """Waits for success; whether it came in time."""
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    if code != 0:
        raise Failed(f"exit code {code}")
    return True


def until(condition, seconds, what, every=0.002):
    """Polls a condition; its first true value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(every)
    raise Failed(f"{what}: not within {seconds} s")


def stored_bytes(folder, over=STATE_MAX_BYTES):
    """Bytes that take room on the disk, or are about to, in a folder's files larger than `over`."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))
            except OSError:
                continue
            stored = min(status.st_blocks * 512, status.st_size)
            total += stored if stored > over else 0
    return total
