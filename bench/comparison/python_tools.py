"""Tools from PyPI and crates.io: BitTorrent by libtorrent, magic-wormhole, sendme."""

import pathlib
import secrets
import shutil
import subprocess

from .measure import until
from .tools import Tool, first_line

HERE = pathlib.Path(__file__).resolve().parent


class Torrent(Tool):
    """Two libtorrent sessions that know each other's address: no tracker, no DHT."""

    name, label = "libtorrent", "BitTorrent (libtorrent)"
    encrypted = False
    resumes = True
    unhashed = False

    def __init__(self, prefix):
        self.python = prefix / "bin" / "python"

    def is_there(self):
        return has_module(self.python, "libtorrent")

    def version(self):
        script = "import libtorrent; print('libtorrent', libtorrent.__version__)"
        return first_line(self.python, "-c", script)

    def begin(self, site):
        item = next(site.source.iterdir()).name
        self.torrent = site.scratch / "item.torrent"
        self.port = site.place.free_port()
        ready = site.scratch / "seeding"
        site.serve(self.python, HERE / "torrent.py", "seed", site.source / item, self.torrent,
                   f"{site.place.address}:{self.port}", ready)
        until(ready.exists, 600, "the seeder's hashing")

    def fetch(self, site, item, target):
        return site.fetch(self.python, HERE / "torrent.py", "fetch", self.torrent, target,
                          f"{site.place.address}:{self.port}")


class Wormhole(Tool):
    """Sender and receiver are commands; the mailbox server is our own."""

    name, label = "wormhole", "magic-wormhole (Python)"
    trees = False

    def __init__(self, prefix):
        self.bin = prefix / "bin"
        self.program = str(self.bin / "wormhole")

    def is_there(self):
        return shutil.which(self.program) is not None and has_module(
            self.bin / "python", "wormhole_mailbox_server")

    def begin(self, site):
        port = site.place.free_port()
        address = site.place.address
        site.serve(self.bin / "twist", "wormhole-mailbox", "--usage-db", site.scratch / "usage.db",
                   "--channel-db", site.scratch / "channels.db",
                   "--port", f"tcp:{port}:interface={address}")
        site.until_listening(port)
        self.common = [self.program, "--relay-url", f"ws://{address}:{port}/v1",
                       "--transit-helper", ""]

    def fetch(self, site, item, target):
        code = f"{secrets.randbelow(900) + 1}-{secrets.token_hex(4)}-bench"
        site.serve(*self.common, "send", "--hide-progress", "--code", code, site.source / item)
        return site.fetch(*self.common, "receive", "--accept-file", "--hide-progress",
                          "-o", target / item, code)


class Sendme(Tool):
    """Hashes and imports before it prints a ticket, so a run begins with its `send`."""

    name, label = "sendme", "sendme (iroh)"
    unhashed = False

    def __init__(self, prefix):
        self.program = str(prefix / "bin" / "sendme")

    def fetch(self, site, item, target):
        home = site.scratch / "sendme"
        home.mkdir(exist_ok=True)
        said = home / f"{target.name}.txt"
        process = site.serve("sh", "-c", 'cd "$1" && exec "$2" send --relay disabled "$3"', "sh",
                             home, self.program, site.source / item, output=open(said, "w"))
        self.sending = process
        ticket = until(lambda: ticket_in(said.read_text()), 300, "sendme's ticket")
        return site.fetch("sh", "-c", 'cd "$1" && exec "$2" receive --relay disabled "$3"', "sh",
                          target, self.program, ticket)

    def finish(self):
        self.sending.terminate()
        self.sending.wait()


def has_module(python, name):
    if not python.exists():
        return False
    return subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode == 0


def ticket_in(text):
    words = text.split()
    return next((word for word in words if word.startswith("blob") and len(word) > 60), None)
