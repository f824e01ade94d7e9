"""One end of a BitTorrent transfer, run by the Python that has libtorrent.

Usage: torrent.py seed PATH TORRENT HOST:PORT READY | torrent.py fetch TORRENT FOLDER HOST:PORT
"""

import pathlib
import sys
import time

import libtorrent


def session(listen):
    return libtorrent.session({
        "listen_interfaces": listen,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        # TCP: uTP gives way to whatever else the machine does.
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "allow_multiple_connections_per_ip": True,
        "alert_mask": 0,
    })


def add(owner, torrent, folder):
    return owner.add_torrent({"ti": libtorrent.torrent_info(torrent), "save_path": folder})


def seed(path, torrent, listen, ready):
    storage = libtorrent.file_storage()
    libtorrent.add_files(storage, path)
    made = libtorrent.create_torrent(storage)
    parent = str(pathlib.Path(path).parent)
    libtorrent.set_piece_hashes(made, parent)
    pathlib.Path(torrent).write_bytes(libtorrent.bencode(made.generate()))
    owner = session(listen)
    handle = add(owner, torrent, parent)
    while not handle.status().is_seeding:
        time.sleep(0.01)
    pathlib.Path(ready).touch()
    while True:
        time.sleep(3600)


def fetch(torrent, folder, provider):
    host, port = provider.rsplit(":", 1)
    owner = session("0.0.0.0:0")
    handle = add(owner, torrent, folder)
    started = 0.0
    while not handle.status().is_seeding:
        if time.monotonic() - started > 1 and handle.status().num_peers == 0:
            handle.connect_peer((host, int(port)))
            started = time.monotonic()
        time.sleep(0.005)


command, *arguments = sys.argv[1:]
{"seed": seed, "fetch": fetch}[command](*arguments)
