"""The cases: what is moved, where, and what is looked at."""

import json
import shutil
import subprocess
import sys
import time

from . import material, table
from .measure import STATE_MAX_BYTES, End, Failed, Usage, stored_bytes, until, wait
from .places import Loopback, Veth, Wan
from .tools import Site

DEFAULT_TOOLS = {
    "large": "shoal shoal-no-sync cp cp-sync rclone rsync-daemon curl-http curl-https aria2 scp "
             "rsync-ssh libtorrent wormhole",
    "small": "shoal shoal-no-sync cp rsync-daemon tar-ssh rsync-ssh scp libtorrent",
    "tiny": "shoal shoal-no-sync cp rsync-daemon tar-ssh rsync-ssh",
    "resume": "shoal curl-https rsync-daemon aria2 libtorrent",
    "first-byte": "shoal curl-https rsync-daemon rsync-ssh scp rclone",
    "veth": "shoal shoal-no-sync curl-http curl-https scp rsync-ssh",
    "wan": "shoal curl-https curl-cubic scp rsync-ssh",
    "smoke": "shoal shoal-no-sync cp rsync-daemon tar-ssh scp curl-https rclone aria2",
}
DEFAULT_SIZE_MB = {"large": 2048, "resume": 2048, "first-byte": 8192, "veth": 2048, "wan": 100}
# Mbit/s, per cent lost, and how many times the data: a fast link needs more to get up to speed.
WAN_LINKS = [(200, 0, 1), (200, 0.1, 1), (200, 1, 1), (1000, 0, 10)]


class Bench:
    """One comparison: its tools, folder and settings. `failures` counts what did not work."""

    def __init__(self, tools, folder, settings):
        self.tools, self.folder, self.settings = tools, folder, settings
        self.runs = settings.runs
        self.failures = 0
        self.log = open(folder / "log.txt", "a")

    def size_bytes(self, case):
        return (self.settings.size_mb or DEFAULT_SIZE_MB[case]) * 2**20

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def fail(self, tool, reason):
        self.failures += 1
        self.say(f"  {tool.name}: FAILED: {reason}")

    def open_site(self, tool, place, source, name):
        scratch = self.folder / f"scratch-{name}"
        scratch.mkdir()
        ends = [End(f"{name}-{end}", self.log) for end in ["sender", "receiver"]]
        site = Site(place, ends, scratch, source)
        site.resuming = False
        return site

    def sites(self, place, source, label):
        """Begins every tool; those that do not begin count as failed and are left out."""
        opened = {}
        for tool in self.tools:
            site = self.open_site(tool, place, source, f"{label}-{tool.name}")
            opened[tool.name] = site
            try:
                tool.begin(site)
            except (Failed, OSError, subprocess.CalledProcessError) as reason:
                self.fail(tool, reason)
                close(site)
                del opened[tool.name]
        return opened

    def alternate(self, sites, one):
        """Every tool once per round, each round beginning with another one."""
        results = {tool.name: [] for tool in self.tools}
        for number in range(self.runs):
            shift = number % len(self.tools)
            for tool in self.tools[shift:] + self.tools[:shift]:
                results[tool.name].append(None)
                if sites is not None and tool.name not in sites:
                    continue
                target = self.folder / "got" / f"{len(list((self.folder / 'got').iterdir()))}-{tool.name}"
                target.mkdir()
                try:
                    results[tool.name][-1] = one(tool, sites and sites[tool.name], target)
                except (Failed, OSError, subprocess.CalledProcessError) as reason:
                    self.fail(tool, reason)
                subprocess.run(["sync", "-f", self.folder])
        return results


def close(site):
    for end in [site.receiver, site.sender]:
        end.close()


def once(bench, tool, site, item, total):
    """One transfer, measured and compared; cut short at the limit."""
    def run(target):
        if tool.congestion or site.place.sender:
            site.place.congestion(tool.congestion or "bbr")
        usage = Usage([site.sender, site.receiver])
        started = time.monotonic()
        try:
            in_time = wait(tool.fetch(site, item, target), bench.settings.limit)
            seconds = time.monotonic() - started
        finally:
            cpu, peaks = usage.finish()
            tool.finish()
        note, moved = "", total
        if in_time:
            material.compare(site.source / item, target / item)
        else:
            is_tree = (site.source / item).is_dir()
            # Never nothing, so that a rate can be told.
            moved = max(1, stored_bytes(target, 0 if is_tree else STATE_MAX_BYTES))
            moved = min(moved, total)
            site.receiver.kill()
            note = f"cut at {bench.settings.limit} s"
        bench.say(f"  {tool.name}: {seconds:.2f} s, {moved / 1e6 / seconds:.1f} MB/s {note}")
        return table.Result(seconds, moved, cpu, peaks, note)
    return run


def drop_file(target):
    """Frees what one large file took; trees stay until the end, because deleting many files
    makes the next creations slow."""
    shutil.rmtree(target)


def transfers(bench, place, title, made, label):
    """Moves one item with every tool, `runs` times, and prints the table."""
    source, item, total = made
    bench.say(f"{title}, {place.title}")
    sites = bench.sites(place, source, label)

    def one(tool, site, target):
        result = once(bench, tool, site, item, total)(target)
        if (source / item).is_file():
            drop_file(target)
        return result

    try:
        results = bench.alternate(sites, one)
    finally:
        for site in sites.values():
            close(site)
    print(table.transfers(f"{title}, {place.title}", bench.tools, results), end="\n\n", flush=True)


def make_large(bench, case):
    source = bench.folder / f"source-{case}"
    return source, *material.large(source, bench.size_bytes(case))


def make_tree(bench, case, count, sizes):
    source = bench.folder / f"source-{case}"
    return source, *material.tree(source, count, sizes)


def large(bench):
    made = make_large(bench, "large")
    transfers(bench, Loopback(), f"One file of {made[2] >> 20} MiB", made, "large")


def small(bench):
    made = make_tree(bench, "small", 10_000, (4096, 65_536))
    transfers(bench, Loopback(), "10,000 files of 4 to 64 KiB", made, "small")


def tiny(bench):
    made = make_tree(bench, "tiny", 100_000, (1024, 1024))
    transfers(bench, Loopback(), "100,000 files of 1 KiB", made, "tiny")


def veth(bench):
    made = make_large(bench, "veth")
    place = Veth()
    try:
        transfers(bench, place, f"One file of {made[2] >> 20} MiB", made, "veth")
    finally:
        place.close()


def wan(bench):
    for rate, loss, times in WAN_LINKS:
        label = f"wan-{rate}-{loss}"
        source = bench.folder / f"source-{label}"
        made = (source, *material.large(source, bench.size_bytes("wan") * times))
        place = Wan(rate, loss)
        try:
            transfers(bench, place, f"One file of {made[2] >> 20} MiB", made, label)
        finally:
            place.close()


def smoke(bench):
    bench.settings.size_mb = bench.settings.size_mb or 8
    made = make_large(bench, "smoke")
    transfers(bench, Loopback(), f"One file of {made[2] >> 20} MiB", made, "large")
    bench.tools = [tool for tool in bench.tools if tool.trees]
    made = make_tree(bench, "smoke-tree", 300, (1024, 65_536))
    transfers(bench, Loopback(), "300 files of 1 to 64 KiB", made, "tree")


def resume(bench):
    """Killed at half, begun again: the time of both together, beside an uninterrupted run."""
    source, item, total = make_large(bench, "resume")
    bench.tools = [tool for tool in bench.tools if tool.resumes]
    sites = bench.sites(Loopback(), source, "resume")

    def one(tool, site, target):
        site.resuming = True
        whole = once(bench, tool, site, item, total)(target).seconds
        drop_file(target)
        target.mkdir()
        started = time.monotonic()
        tool.fetch(site, item, target)
        until(lambda: stored_bytes(target) >= total / 2, 120, "half of the file")
        site.receiver.kill()
        kept = stored_bytes(target)
        if not wait(tool.fetch(site, item, target), bench.settings.limit):
            raise Failed("the second attempt did not end")
        seconds = time.monotonic() - started
        material.compare(source / item, target / item)
        again = fetched_again(target, total - kept)
        drop_file(target)
        bench.say(f"  {tool.name}: {whole:.2f} s, with a kill {seconds:.2f} s")
        return whole, seconds, seconds / whole, again and 100 * again / total

    try:
        results = bench.alternate(sites, one)
    finally:
        for site in sites.values():
            close(site)
    columns = ["uninterrupted, s", "with a kill at half, s", "ratio", "moved twice, % of the file"]
    title = f"Resume: {total >> 20} MiB, SIGKILL of the receiver at half, begun again, loopback"
    print(table.values(title, columns, bench.tools, results, 2), end="\n\n", flush=True)


def fetched_again(target, missing):
    """What the second command received beyond what was missing on the disk; only shoal says."""
    said = target.parent / f"{target.name}.json"
    if not said.exists():
        return None
    events = [json.loads(line) for line in said.read_text().splitlines() if line.endswith("}")]
    received = [event["bytes"] for event in events if event["event"] == "done"]
    return max(0, received[-1] - missing) if received else None


def first_byte(bench):
    """From the command to the first bytes on the receiver's disk; nothing was hashed before."""
    source, item, _ = make_large(bench, "first-byte")
    bench.tools = [tool for tool in bench.tools if tool.unhashed]

    def one(tool, _, target):
        site = bench.open_site(tool, Loopback(), source, f"{target.name}")
        try:
            if tool.name.startswith("shoal"):
                tool.begin(site, hashed=False)
            else:
                tool.begin(site)
            started = time.monotonic()
            process = tool.fetch(site, item, target)
            until(lambda: stored_bytes(target) or process.poll(), 120, "a first byte")
            elapsed = time.monotonic() - started
            if process.poll():
                raise Failed(f"exit code {process.returncode}")
            site.receiver.kill()
        finally:
            close(site)
        drop_file(target)
        bench.say(f"  {tool.name}: {elapsed * 1000:.0f} ms")
        return (elapsed * 1000,)

    results = bench.alternate(None, one)
    title = f"First bytes on the disk of a {bench.size_bytes('first-byte') >> 20} MiB file that " \
            "nobody hashed, loopback"
    print(table.values(title, ["ms after the command"], bench.tools, results, 0), end="\n\n")


CASES = {
    "large": large, "small": small, "tiny": tiny, "resume": resume, "first-byte": first_byte,
    "veth": veth, "wan": wan, "smoke": smoke,
}
