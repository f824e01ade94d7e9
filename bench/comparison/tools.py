"""The tools: how each serves a folder, and the command by which the other end fetches from it.

A tool is begun once per place (`serve`), then asked for the receiver's command for each run. Its
daemons belong to the sender's end. All keys, certificates and configurations are made in the
site's scratch folder; nothing of the user's is read or written.
"""

import json
import shutil
import socket
import subprocess

from .measure import Failed, until


class Site:
    """One place with its two ends: what a tool needs to serve and to fetch."""

    def __init__(self, place, ends, scratch, source):
        self.place, self.scratch, self.source = place, scratch, source
        self.sender, self.receiver = ends

    def serve(self, *command, **options):
        return self.sender.start([*self.place.sender, *command], **options)

    def fetch(self, *command, **options):
        return self.receiver.start([*self.place.receiver, *command], **options)

    def until_listening(self, port):
        """Waits for a TCP port of the sender, from where the receiver is."""
        probe = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"

        def connects():
            if not self.place.receiver:
                try:
                    socket.create_connection((self.place.address, port), 1).close()
                    return True
                except OSError:
                    return False
            command = [*self.place.receiver, "python3", "-c", probe, self.place.address, port]
            tried = subprocess.run([str(part) for part in command], stderr=subprocess.DEVNULL)
            return tried.returncode == 0

        until(connects, 20, f"port {port}")


class Tool:
    """A tool. `files` and `trees` say what it can move, `resumes` whether it goes on after a kill."""

    name = label = ""
    program = ""
    files = trees = True
    resumes = False
    unhashed = True
    encrypted = True
    congestion = None

    def is_there(self):
        return shutil.which(self.program) is not None

    def version(self):
        return first_line(self.program, "--version")

    def begin(self, site):
        """Starts what serves the site's source."""

    def fetch(self, site, item, target):
        """Starts the fetch of `item` into the folder `target`."""
        raise NotImplementedError

    def finish(self):
        """Ends what a run left behind at the sender."""


def first_line(*command):
    said = subprocess.run(command, capture_output=True, text=True)
    lines = (said.stdout or said.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


class Copy(Tool):
    """No network at all: the disk's own figure."""

    name, label, program = "cp", "cp", "cp"
    encrypted = False

    def fetch(self, site, item, target):
        return site.receiver.start(["cp", "-r", site.source / item, target])


class CopySynced(Copy):
    name, label = "cp-sync", "cp, then sync"

    def fetch(self, site, item, target):
        return site.receiver.start(
            ["sh", "-c", 'cp -r "$1" "$2" && sync -f "$2"', "sh", site.source / item, target]
        )


class Shoal(Tool):
    """Verified; durable before it ends."""

    name, label = "shoal", "**shoal**, durable"
    resumes = True
    options = []

    def __init__(self, program):
        self.program = str(program)

    def is_there(self):
        return shutil.which(self.program) is not None

    def begin(self, site, hashed=True):
        self.state = site.scratch / self.name
        self.state.mkdir()
        address = site.place.address
        self.ticket = self.daemon(
            site, "listening", "server", "--addr", f"{address}:0",
            "--files-dir", self.state / "own", "--state-dir", self.state / "server",
        )["join"]
        self.daemon(
            site, "announced", "peer", "--join", self.ticket, "--name", "anna",
            "--files-dir", site.source, "--state-dir", self.state / "anna",
        )
        if hashed:
            until(lambda: self.is_hashed(site), 600, "the sender's hashing", every=0.5)

    def daemon(self, site, event, *arguments):
        said = open(self.state / f"{arguments[0]}.json", "w+")
        process = site.serve(self.program, "--json", *arguments, output=said)

        def find():
            if process.poll() is not None:
                raise Failed(f"shoal {arguments[0]} ended")
            text = (self.state / f"{arguments[0]}.json").read_text()
            events = [json.loads(line) for line in text.split("\n")[:-1]]
            return next((found for found in events if found["event"] == event), None)

        return until(find, 60, f"shoal {arguments[0]}")

    def is_hashed(self, site):
        """The sender hashes in the background; it has done so when every file has a hash."""
        listed = subprocess.run(
            [*site.place.receiver, self.program, "--json", "ls", "anna", *self.joined()],
            capture_output=True, text=True,
        )
        events = [json.loads(line) for line in listed.stdout.splitlines()]
        files = [event for event in events if event["event"] == "file"]
        return bool(files) and all(file["hash"] for file in files)

    def joined(self):
        return ["--join", self.ticket, "--state-dir", str(self.state / "bob")]

    def fetch(self, site, item, target):
        return site.fetch(
            self.program, "--json", "get", f"anna:{item}", "-o", target, *self.options,
            *self.joined(), output=open(target / ".." / f"{target.name}.json", "a"),
        )


class ShoalUnsynced(Shoal):
    """Verified, but leaves the writing to the kernel, as the others do."""

    name, label = "shoal-no-sync", "**shoal** `--no-sync`"
    options = ["--no-sync"]

    def is_there(self):
        return super().is_there() and "--no-sync" in subprocess.run(
            [self.program, "get", "--help"], capture_output=True, text=True
        ).stdout


class RsyncDaemon(Tool):
    name, label, program = "rsync-daemon", "rsync daemon", "rsync"
    encrypted = False
    resumes = True

    def begin(self, site):
        self.port = site.place.free_port()
        settings = site.scratch / "rsyncd.conf"
        settings.write_text(
            f"use chroot = no\nuid = root\ngid = root\npid file = {site.scratch}/rsyncd.pid\n"
            f"[data]\npath = {site.source}\nread only = yes\n"
        )
        site.serve("rsync", "--daemon", "--no-detach", "--config", settings,
                   "--address", site.place.address, "--port", self.port)
        site.until_listening(self.port)

    def fetch(self, site, item, target):
        url = f"rsync://{site.place.address}:{self.port}/data/{item}"
        return site.fetch("rsync", "-a", "--append-verify" if site.resuming else "--whole-file",
                          url, f"{target}/")


class Ssh(Tool):
    """What needs an sshd: one of our own, with keys of its own, on a port of its own."""

    program = "ssh"

    def is_there(self):
        return shutil.which("ssh") is not None and shutil.which("/usr/sbin/sshd") is not None

    def version(self):
        return first_line("ssh", "-V")

    def begin(self, site):
        folder = site.scratch / f"ssh-{self.name}"
        folder.mkdir(mode=0o700)
        for key in ["host", "user"]:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key],
                           check=True)
        port = site.place.free_port()
        host = (folder / "host.pub").read_text()
        (folder / "known").write_text(f"[{site.place.address}]:{port} {host}")
        (folder / "sshd").write_text(
            f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\n"
            f"PidFile none\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"Subsystem sftp internal-sftp\n"
        )
        subprocess.run(["mkdir", "-p", "/run/sshd"], check=True)
        site.serve("/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd",
                   "-o", f"ListenAddress={site.place.address}:{port}")
        site.until_listening(port)
        self.host = site.place.address
        self.options = [
            "-F", "none", "-i", str(folder / "user"), "-o", f"Port={port}", "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={folder}/known", "-o", "IdentitiesOnly=yes",
        ]


class Scp(Ssh):
    name, label = "scp", "scp"

    def fetch(self, site, item, target):
        return site.fetch("scp", "-rpq", *self.options, f"{self.host}:{site.source / item}", target)


class RsyncSsh(Ssh):
    name, label = "rsync-ssh", "rsync over ssh"

    def is_there(self):
        return super().is_there() and shutil.which("rsync") is not None

    def version(self):
        return first_line("rsync", "--version")

    def fetch(self, site, item, target):
        return site.fetch("rsync", "-a", "--whole-file", "-e", " ".join(["ssh", *self.options]),
                          f"{self.host}:{site.source / item}", f"{target}/")


class TarSsh(Ssh):
    name, label = "tar-ssh", "tar over ssh"

    def fetch(self, site, item, target):
        script = 'source="$1" item="$2" target="$3"; shift 3; ' \
                 'ssh "$@" tar -C "$source" -cf - "$item" | tar -C "$target" -xf -'
        return site.fetch("bash", "-o", "pipefail", "-c", script, "bash", site.source, item, target,
                          *self.options, self.host)


class Http(Tool):
    """What fetches from nginx; HTTPS with a certificate of our own."""

    trees = False
    scheme = "http"
    server = "/usr/sbin/nginx"

    def is_there(self):
        return shutil.which(self.program) is not None and shutil.which(self.server) is not None

    def version(self):
        return f"{first_line(self.program, '--version')}; {first_line(self.server, '-v')}"

    def begin(self, site):
        folder = site.scratch / f"nginx-{self.name}"
        folder.mkdir()
        address, port = site.place.address, site.place.free_port()
        self.certificate = folder / "certificate"
        tls = ""
        if self.scheme == "https":
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=bench",
                 "-addext", f"subjectAltName=IP:{address}", "-keyout", folder / "key",
                 "-out", self.certificate], check=True, stderr=subprocess.DEVNULL,
            )
            tls = f"ssl_certificate {self.certificate}; ssl_certificate_key {folder}/key;"
        (folder / "settings").write_text(
            f"daemon off; user root; worker_processes 2; pid {folder}/pid; error_log stderr;\n"
            f"events {{}}\nhttp {{ access_log off; sendfile on; client_body_temp_path {folder}/b;"
            f"proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;"
            f"scgi_temp_path {folder}/s;\n server {{ listen {address}:{port}"
            f"{' ssl' if tls else ''}; {tls} root {site.source}; }} }}\n"
        )
        site.serve(self.server, "-p", folder, "-c", folder / "settings")
        site.until_listening(port)
        self.url = f"{self.scheme}://{address}:{port}"


class CurlHttp(Http):
    name, label, program = "curl-http", "curl + nginx, HTTP", "curl"
    encrypted = False
    resumes = True

    def fetch(self, site, item, target):
        trust = ["--cacert", self.certificate] if self.scheme == "https" else []
        resume = ["-C", "-"] if site.resuming else []
        return site.fetch("curl", "-sSf", *trust, *resume, "-o", target / item,
                          f"{self.url}/{item}")


class CurlHttps(CurlHttp):
    name, label = "curl-https", "curl + nginx, HTTPS"
    scheme = "https"
    encrypted = True


class CurlCubic(CurlHttps):
    name, label = "curl-cubic", "curl + nginx, HTTPS, TCP Cubic"
    congestion = "cubic"


class Aria2(Http):
    name, label, program = "aria2", "aria2, 4 connections, HTTP", "aria2c"
    encrypted = False
    resumes = True

    def fetch(self, site, item, target):
        return site.fetch("aria2c", "-q", "-c", "-x4", "-s4", "--file-allocation=none", "--no-conf",
                          "-d", target, f"{self.url}/{item}")


class Rclone(Tool):
    name, label, program = "rclone", "rclone WebDAV, HTTP", "rclone"
    encrypted = False

    def begin(self, site):
        self.port = site.place.free_port()
        site.serve("rclone", "serve", "webdav", site.source, "--read-only", "--config", "",
                   "--addr", f"{site.place.address}:{self.port}")
        site.until_listening(self.port)

    def fetch(self, site, item, target):
        into = target / item if (site.source / item).is_dir() else target
        return site.fetch(
            "rclone", "copy", "-q", "--config", "", "--transfers", "8", "--webdav-vendor", "other",
            "--webdav-url", f"http://{site.place.address}:{self.port}", f":webdav:{item}", into,
        )
