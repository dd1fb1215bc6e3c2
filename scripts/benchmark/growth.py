"""Table `growth`: what the size of a disk, and the number of its extents, cost a mount when it starts.

The mount asks for the extents of the whole disk at its start, and the server lists them in one answer, so
both must grow with them. The table separates the server's part from the mount's.
"""

import http.client
import os
import ssl
import statistics
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from urllib.parse import urlsplit

from bench import FEW_ROUNDS, GIB, size_name
from contenders import Job, RhvMount
from measure import Failed, children_cpu, say
from storage import MIB, Fragmented, Source, make_disk

TIB = 1 << 40
SIZES, SIZES_DATA = [GIB, 64 * GIB, TIB, 16 * TIB], 256 * MIB
QUICK_SIZES, QUICK_SIZES_DATA = [256 * MIB, 16 * GIB], 16 * MIB
COUNTS, COUNTS_DATA, COUNTS_SIZE = [10, 1000, 100_000, 1_000_000], 400 * MIB, 64 * GIB
QUICK_COUNTS, QUICK_COUNTS_DATA, QUICK_COUNTS_SIZE = [10, 1000], 4 * MIB, 64 * MIB
BLOCK = 4096  # bytes that are read first; the shortest extent
MAX_ANSWER_SECONDS = 300


@dataclass
class Start:
    """One start of a mount. The times are in seconds since its process began."""

    server: float  # seconds that the server takes to list the extents when nothing else is asked
    first_byte: float
    holes: float  # until the mount knows the holes
    rss: int  # peak until then, bytes
    cpu: float  # processor seconds until the end of the unmount

    as_dict = asdict


@dataclass
class Growth:
    """A row: the starts of a mount on one disk."""

    setting: str
    fragments: int  # runs of data, evenly spread; 0 where the size grows
    extents: int  # as many as the server lists, data and holes
    bytes: int  # length of that list
    samples: list = field(default_factory=list)

    def median(self, name):
        return statistics.median(getattr(s, name) for s in self.samples)

    def rss(self):
        return max(s.rss for s in self.samples)

    def cells(self):
        """Returns the columns of the table, as text by title."""
        return {
            "disk": self.setting,
            "extents": f"{self.extents:,}",
            "first byte": duration(self.median("first_byte")),
            "holes known": duration(self.median("holes")),
            "server alone": duration(self.median("server")),
            "its answer": length(self.bytes),
            "memory": f"{self.rss() / MIB:.0f} MiB",
            "CPU s": f"{self.median('cpu'):.2f}",
        }


def duration(seconds):
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def length(size):
    return f"{size / MIB:.1f} MiB" if size >= MIB else f"{size / 1024:.1f} KiB"


def growth(bench):
    """Growth: the start of a mount on larger, and on more fragmented disks

    The first rows have the same data on larger qcow2 disks. The others have raw disks of one size whose data
    is in ever more extents: the same data as long as an extent then has 4 KiB, otherwise 4 KiB in each.
    *first byte* is the time from the start of `rhv-mount` until the first block of the disk was read through
    the mount, *holes known* that until SEEK_HOLE was answered, which needs the server's list of extents. The
    first look at the file waits for that list, too, but for a second at most.
    *server alone* is the time in which the server answers one request for that list when nothing else is
    asked, and *its answer* the length of the list. *memory* is the peak of rhv-mount, and *CPU* its processor
    seconds with the end of the mount.
    """
    many, rows = bench.scale.many, []
    data = SIZES_DATA if many else QUICK_SIZES_DATA
    for size in SIZES if many else QUICK_SIZES:
        source = Source(bench.place / "growth.raw", size, data)
        make = partial(make_disk, bench.place, "qcow2", size, source)
        rows += starts(bench, f"qcow2, {size_name(size)}, {size_name(data)} of data", make, source.path)
        source.path.unlink()
    size, data = (COUNTS_SIZE, COUNTS_DATA) if many else (QUICK_COUNTS_SIZE, QUICK_COUNTS_DATA)
    for count in COUNTS if many else QUICK_COUNTS:
        run = max(data // count // BLOCK, 1) * BLOCK
        room = os.statvfs(bench.place)
        if count * run > 0.9 * room.f_bavail * room.f_frsize:
            say(f"no room for {count:,} extents of {run} bytes, left out")
            continue
        make = partial(Fragmented, bench.place, size, count, run)
        rows += starts(bench, f"raw, {size_name(size)}, {count:,} extents of data", make, None, count)
    return rows


def starts(bench, setting, make, image, fragments=0):
    """Returns the row of the disk that `make` creates, with the content of `image`, or else of its own."""
    if bench.only not in setting:
        return []
    row = Growth(setting, fragments, 0, 0)
    with closing(make()) as disk:
        with open(image or disk.image, "rb") as content:
            expected = content.read(BLOCK)
        for n in range(min(bench.scale.rounds, FEW_ROUNDS)):
            server, answer = list_extents(bench.daemon("https"), disk)
            row.extents, row.bytes = answer.count(b'"start"'), len(answer)
            row.samples.append(start(bench, disk, expected, server))
            first_byte = duration(row.samples[-1].first_byte)
            say(f"{setting}: first byte after {first_byte}, server {duration(server)} (round {n + 1})")
    return [row]


def list_extents(daemon, disk):
    """Returns the seconds that the server takes to list the extents of `disk`, and its answer."""
    url = urlsplit(daemon.ticket(disk, "read"))
    context = ssl.create_default_context(cafile=str(daemon.cafile))
    client = http.client.HTTPSConnection(
        url.hostname, url.port, timeout=MAX_ANSWER_SECONDS, context=context
    )
    with closing(client):
        # The first request of a connection opens the disk.
        client.request("OPTIONS", url.path)
        client.getresponse().read()
        begun = time.monotonic()
        client.request("GET", f"{url.path}/extents")
        response = client.getresponse()
        answer = response.read()
        seconds = time.monotonic() - begun
    if response.status != 200:
        raise Failed(f"the server lists no extents: {response.status}")
    return seconds, answer


def start(bench, disk, expected, server):
    """Mounts `disk`, waits until it can be read and its holes are known, and unmounts."""
    daemon = bench.daemon("https")
    job = Job(bench.place, daemon, daemon.ticket(disk, "read"), None, disk=disk)
    begun, before = time.monotonic(), children_cpu()
    times = []

    def work(file):
        handle = os.open(file, os.O_RDONLY)
        try:
            found = os.pread(handle, BLOCK, 0)
            times.append(time.monotonic() - begun)
            os.lseek(handle, 0, os.SEEK_HOLE)
            times.append(time.monotonic() - begun)
        finally:
            os.close(handle)
        if found != expected:
            raise Failed("the mount shows other bytes than the disk has")

    rss, _ = RhvMount("read").mounted(job, True, work)
    return Start(server, *times, rss, children_cpu() - before)
