"""Brings in what the tools need, by the ordinary clients of Debian, PyPI and crates.io."""

import os
import subprocess
import sys

PACKAGES = {
    "rsync-daemon": ["rsync"],
    "rsync-ssh": ["rsync", "openssh-server", "openssh-client"],
    "scp": ["openssh-server", "openssh-client"],
    "tar-ssh": ["openssh-server", "openssh-client", "tar"],
    "curl-http": ["curl", "nginx-light"],
    "curl-https": ["curl", "nginx-light", "openssl"],
    "curl-cubic": ["curl", "nginx-light", "openssl"],
    "aria2": ["aria2", "nginx-light"],
    "rclone": ["rclone"],
    "libtorrent": ["python3-venv"],
    "wormhole": ["python3-venv"],
}
FROM_PYPI = {
    "libtorrent": ["libtorrent"],
    "wormhole": ["magic-wormhole", "magic-wormhole-mailbox-server"],
}


def install(missing, prefix):
    """Installs what is missing, as far as this user can; the rest stays missing."""
    debian = sorted({package for tool in missing for package in PACKAGES.get(tool, [])})
    if debian and os.geteuid() == 0:
        # Services that come with the packages are not started.
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        attempt(["apt-get", "update", "-qq"], quiet)
        attempt(["apt-get", "install", "-qq", "--no-install-recommends", *debian], quiet)
    pypi = [package for tool in missing for package in FROM_PYPI.get(tool, [])]
    if pypi:
        if not (prefix / "bin" / "pip").exists():
            attempt([sys.executable, "-m", "venv", prefix], os.environ)
        attempt([prefix / "bin" / "pip", "install", "-q", *pypi], os.environ)
    if "sendme" in missing:
        attempt(["cargo", "install", "--locked", "--quiet", "--root", prefix, "sendme"], os.environ)


def attempt(command, environment):
    command = [str(part) for part in command]
    print("installing:", " ".join(command), file=sys.stderr)
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if done.returncode != 0:
        print(f"failed with {done.returncode}: {command[0]}", file=sys.stderr)
