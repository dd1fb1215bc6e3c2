"""The server side: source images, the disks behind the tickets, and checks of their bytes.

Everything is in memory if it fits, so that the figures do not depend on this machine's disks.
"""

import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from measure import Failed, run

TOP = Path(__file__).resolve().parent.parent.parent
SCRIPTS = TOP / "scripts"
MIB = 1 << 20
MAX_RUN = 32 * MIB  # bytes in a run of data of a source image, unless a table says otherwise


def workplace(need):
    """Creates a directory for `need` bytes, which the caller removes. As root this mounts a tmpfs, so the
    program must have its own mount namespace.
    """
    if os.geteuid() == 0:
        words = ["mount", "-t", "tmpfs", "-o", f"mode=1777,size={need}", "bench", "/dev/shm"]
        subprocess.run(words, check=False)
    for place in ("/dev/shm", TOP / "target/tmp", "/var/tmp"):
        try:
            os.makedirs(place, exist_ok=True)
            room = os.statvfs(place)
        except OSError:
            continue
        if room.f_bavail * room.f_frsize >= need:
            return Path(tempfile.mkdtemp(prefix="bench-", dir=place))
    raise Failed(f"no place for {need >> 20} MiB of images; free some memory, or reduce --data")


class Source:
    """A raw image of `size` bytes with `data` random bytes in runs of up to `longest` bytes (at most 32 MiB),
    evenly spread.
    """

    def __init__(self, path, size, data, longest=MAX_RUN):
        self.path, self.size, self.data = Path(path), size, data
        runs = max(1, -(-data // longest))
        step = size // runs // MIB * MIB
        self.ranges = []
        noise = random.Random(4)
        block = noise.randbytes(MAX_RUN + 4096)
        with open(path, "wb") as image:
            image.truncate(size)
            left = data
            for n in range(runs):
                length = min(longest, left)
                left -= length
                # Each run has another shift and another head, so that no two are alike.
                shift = noise.randrange(4096)
                image.seek(n * step)
                image.write((noise.randbytes(4096) + block[shift + 4096 : shift + length])[:length])
                if length:
                    self.ranges.append((n * step, length))

    def write_ranges(self, path):
        Path(path).write_text("".join(f"{start} {length}\n" for start, length in self.ranges))


class Daemon:
    """ovirt-imageio: `https` or `http` without its local socket, or `unix` with it."""

    def __init__(self, place, transport):
        self.dir, self.transport, self.tickets = Path(place) / f"imageio-{transport}", transport, 0
        scheme = "--http" if transport == "http" else "--tls"
        local = "path" if transport == "unix" else "none"
        run([SCRIPTS / "imageio", "start", self.dir, scheme, "--local", local])
        self.cafile = None if transport == "http" else self.dir / "ca.pem"
        self.socket = self.dir / "local.sock" if transport == "unix" else None
        if self.socket:
            # As on a host, any user may connect; the ticket grants access.
            self.dir.chmod(0o755)
            self.socket.chmod(0o666)

    def ticket(self, disk, ops="read,write"):
        """Creates a ticket for `disk`; returns its transfer URL."""
        self.tickets += 1
        name = f"bench-{os.getpid()}-{self.tickets}"
        words = [f"url={disk.url}", f"size={disk.size}", f"ops={ops}", "timeout=3000", "sparse=true"]
        return run([SCRIPTS / "imageio", "ticket", self.dir, name, *words]).strip()

    def writes(self, connections):
        """Waits until all connections, and at least `connections`, have ended; counts them and their writes
        of data.
        """
        for _ in range(100):
            lines = (self.dir / "log").read_text(errors="replace").splitlines()
            begun = sum(" OPEN " in line for line in lines)
            ends = [line for line in lines if " CLOSE " in line]
            if connections <= begun == len(ends):
                break
            time.sleep(0.1)
        else:
            raise Failed(f"of {begun} connections, {len(ends)} have ended; there should be {connections}")
        return len(ends), sum(int(ops) for line in ends for ops in re.findall(r"\[write (\d+) ops", line))

    def close(self):
        run([SCRIPTS / "imageio", "stop", self.dir])


class Qcow2:
    """A qcow2 image behind qemu-nbd, as oVirt has behind most tickets."""

    name = "qcow2"

    def __init__(self, place, size, source=None):
        self.dir = Path(tempfile.mkdtemp(prefix="disk-", dir=place))
        self.size, self.image = size, self.dir / "disk.qcow2"
        if source is None:
            run(["qemu-img", "create", "-q", "-f", "qcow2", self.image, str(size)])
        else:
            run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", source.path, self.image])
        self.url = f"nbd:unix:{self.dir}/nbd.sock"
        self.serve()

    def serve(self):
        run([SCRIPTS / "nbd", "start", self.dir, self.image, "qcow2"])

    def serve_anew(self):
        """Starts another qemu-nbd, as a host does for each transfer: the last one has memory at hand."""
        self.stop()
        self.serve()

    def check(self, source):
        """Compares the image with `source`, byte by byte, on the server's side."""
        self.stop()
        run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", source.path, self.image])

    def raw(self, path):
        self.stop()
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.image, path])

    def stop(self):
        run([SCRIPTS / "nbd", "stop", self.dir])

    def close(self):
        self.stop()
        shutil.rmtree(self.dir)


class Fragmented:
    """A raw image behind qemu-nbd with `count` runs of `length` random bytes at equal distances, and holes
    between them. Both are multiples of 4 KiB.
    """

    def __init__(self, place, size, count, length):
        self.dir = Path(tempfile.mkdtemp(prefix="disk-", dir=place))
        self.size, self.image = size, self.dir / "disk.raw"
        step, noise = size // count // 4096 * 4096, random.Random(5).randbytes(length)
        with open(self.image, "wb") as image:
            image.truncate(size)
            for n in range(count):
                os.pwrite(image.fileno(), noise, n * step)
        run([SCRIPTS / "nbd", "start", self.dir, self.image, "raw", "--read-only"])
        self.url = f"nbd:unix:{self.dir}/nbd.sock"

    def close(self):
        run([SCRIPTS / "nbd", "stop", self.dir])
        shutil.rmtree(self.dir)


class Slow:
    """Memory behind nbdkit that takes `delay` ms for each request, like distant storage."""

    def __init__(self, place, size, delay, source=None):
        self.dir = Path(tempfile.mkdtemp(prefix="disk-", dir=place))
        self.size, self.socket = size, self.dir / "nbd.sock"
        self.url, self.uri = f"nbd:unix:{self.socket}", f"nbd+unix:///?socket={self.socket}"
        self.server = subprocess.Popen(
            ["nbdkit", "--foreground", "--unix", self.socket, "--filter=delay", "memory"]
            + [f"size={size}", f"rdelay={delay}ms", f"wdelay={delay}ms", f"delay-zero={delay}ms"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(500):
            if self.socket.exists():
                break
            time.sleep(0.02)
        else:
            raise Failed("nbdkit does not listen")
        if source is not None:
            run(["nbdcopy", source.path, self.uri])

    def serve_anew(self):
        """Keeps nbdkit, whose memory is the disk."""

    def check(self, source):
        copy = self.dir / "copy.raw"
        self.raw(copy)
        run(["cmp", source.path, copy])
        copy.unlink()

    def raw(self, path):
        run(["nbdcopy", self.uri, path])

    def close(self):
        self.server.terminate()
        self.server.wait(20)
        shutil.rmtree(self.dir)


def make_disk(place, backend, size, source=None):
    """Creates a disk, empty or with the content of `source`. `backend` is `qcow2`, or `slow-N` for N ms per
    request.
    """
    if backend == "qcow2":
        return Qcow2(place, size, source)
    return Slow(place, size, int(backend.removeprefix("slow-")), source)
