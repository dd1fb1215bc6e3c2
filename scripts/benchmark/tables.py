"""The tables of the benchmark; each is a function that returns its rows, and its docstring is the table's
title.

A row is one contender in one setting. The contenders of a setting take turns, round by round, so that a slow
phase of the machine slows all of them. After each run the bytes are compared on the other side.
"""

import os
import shutil
import statistics
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fio
from contenders import Ceiling, Job, Nbdfuse, OvirtClient, RhvMount
from measure import Failed, say
from storage import MIB, Source, make_disk

GIB = 1 << 30
UNPRIVILEGED = "nobody"
FEW_ROUNDS = 2  # upper bound on the rounds of the tables with many rows
COPIES = 6  # so many bring the bare loop to about the processor time per byte of rhv-mount and qemu-img


@dataclass
class Scale:
    """The amount of data, and the number of rounds and settings."""

    data: int  # bytes of data in the image of the main tables
    disk: int  # size of that image, bytes
    rounds: int
    many: bool = True  # run every setting; otherwise one of each kind


@dataclass
class Row:
    setting: str
    contender: str
    bytes: int
    samples: list = field(default_factory=list)
    baseline: bool = False
    operations: bool = False

    def rate(self):
        """Returns the median of MiB/s, or of operations per second."""
        if self.operations:
            return statistics.median(s.operations for s in self.samples)
        return statistics.median(self.bytes / MIB / s.seconds for s in self.samples)

    def spread(self):
        rates = [s.operations if self.operations else self.bytes / MIB / s.seconds for s in self.samples]
        return min(rates), max(rates)

    def cpu(self):
        return statistics.median(s.cpu for s in self.samples)

    def rss(self):
        return max(s.rss for s in self.samples)


class Bench:
    """A place for all images, and the daemons, each started when first needed."""

    def __init__(self, place, scale, start_daemon, only=""):
        self.place, self.scale, self.only = place, scale, only
        self.start_daemon, self.daemons, self.sources = start_daemon, {}, {}

    def daemon(self, transport):
        if transport not in self.daemons:
            self.daemons[transport] = self.start_daemon(self.place, transport)
        return self.daemons[transport]

    def source(self, size, data):
        if (size, data) not in self.sources:
            for old in self.sources.values():
                old.path.unlink()
            self.sources = {(size, data): Source(self.place / f"source-{size}-{data}.raw", size, data)}
        return self.sources[size, data]

    def close(self):
        for daemon in self.daemons.values():
            daemon.close()

    def in_turn(self, setting, contenders, run, moved, most=None):
        """Runs every contender once per round; returns their rows. The first contender is the baseline."""
        if self.only not in setting:
            return []
        rows = [Row(setting, c.name, moved, baseline=n == 0) for n, c in enumerate(contenders)]
        for n in range(min(self.scale.rounds, most or self.scale.rounds)):
            # Each round begins with another contender, because the first after a pause finds less ready
            # memory.
            turns = list(zip(rows, contenders, strict=True))
            for row, contender in turns[n % len(turns) :] + turns[: n % len(turns)]:
                row.samples.append(run(contender))
                sample = row.samples[-1]
                say(f"{setting}, {row.contender}: {moved / MIB / sample.seconds:.0f} MiB/s (round {n + 1})")
        return rows

    def upload(self, transport, backend, source, contender, connections=4):
        with closing(make_disk(self.place, backend, source.size)) as disk:
            sample = self.upload_onto(disk, transport, source, contender, connections)
            disk.check(source)
        return sample

    def upload_onto(self, disk, transport, source, contender, connections=4):
        daemon = self.daemon(transport)
        job = Job(self.place, daemon, daemon.ticket(disk), source, connections, disk=disk)
        return contender.upload(job)

    @contextmanager
    def filled(self, transport, backend, source):
        """Creates a disk that holds `source`; yields a function that downloads it."""
        daemon = self.daemon(transport)
        with closing(make_disk(self.place, backend, source.size, source)) as disk:
            with tempfile.TemporaryDirectory(dir=self.place) as out:
                os.chmod(out, 0o777)

                def run(contender, connections=4):
                    output = Path(out) / "out.raw"
                    url = daemon.ticket(disk, "read")
                    sample = contender.download(
                        Job(self.place, daemon, url, source, connections, output, disk)
                    )
                    compare(source, output)
                    output.unlink()
                    return sample

                yield run


def compare(source, output):
    """Compares two raw images. Holes count as zeros, and those on both sides cost nothing."""
    from measure import run

    run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", source.path, output])


def settings(scale):
    if not scale.many:
        return [("https", "qcow2"), ("unix", "slow-5")]
    return [
        ("https", "qcow2"),
        ("http", "qcow2"),
        ("unix", "qcow2"),
        ("unix", "slow-5"),
        ("unix", "slow-20"),
        ("https", "slow-20"),
    ]


def name_of(transport, backend):
    storage = "qcow2" if backend == "qcow2" else f"memory, {backend.removeprefix('slow-')} ms a request"
    return f"{ {'https': 'HTTPS', 'http': 'HTTP', 'unix': 'unix socket'}[transport] }, {storage}"


def upload(bench):
    """Upload: a raw image onto a new disk"""
    source, rows = bench.source(bench.scale.disk, bench.scale.data), []
    for transport, backend in settings(bench.scale):
        contenders = [
            OvirtClient(),
            RhvMount("qemu-img"),
            RhvMount("cp"),
            RhvMount("dd"),
            Ceiling(),
            Ceiling(COPIES),
        ]
        if transport == "https" and backend == "qcow2":
            contenders.append(Nbdfuse("qemu-img"))
        rows += bench.in_turn(
            name_of(transport, backend),
            contenders,
            lambda contender: bench.upload(transport, backend, source, contender),
            source.data,
        )
    return rows


def download(bench):
    """Download: a disk into a raw file"""
    source, rows = bench.source(bench.scale.disk, bench.scale.data), []
    for transport, backend in settings(bench.scale):
        contenders = [
            OvirtClient(),
            RhvMount("qemu-img"),
            RhvMount("cp"),
            RhvMount("dd"),
            Ceiling(),
            Ceiling(COPIES),
        ]
        # An ordinary user can't verify that the unix socket is the server's, and may not be able to reach a
        # build in somebody's home, where the quick form runs.
        if backend == "qcow2" and transport != "unix" and bench.scale.many:
            contenders.append(RhvMount("qemu-img", as_user=UNPRIVILEGED))
        if transport == "https" and backend == "qcow2":
            contenders.append(Nbdfuse("qemu-img"))
        with bench.filled(transport, backend, source) as run:
            rows += bench.in_turn(name_of(transport, backend), contenders, run, source.data)
    return rows


def connections(bench):
    """Connections: the same work over 1, 2, 4 and 8"""
    source, rows = bench.source(bench.scale.disk, bench.scale.data), []
    backends = ["slow-20", "slow-5"] if bench.scale.many else ["slow-5"]
    counts = [1, 2, 4, 8] if bench.scale.many else [1, 4]
    tools = ["qemu-img"] if bench.scale.many else ["dd"]
    for backend in backends:
        with bench.filled("unix", backend, source) as run:
            contenders = [With(n, c) for c in [OvirtClient(), *map(RhvMount, tools)] for n in counts]
            rows += bench.in_turn(
                f"upload, {name_of('unix', backend)}",
                contenders,
                lambda c: bench.upload("unix", backend, source, c.contender, c.connections),
                source.data,
                FEW_ROUNDS,
            )
            rows += bench.in_turn(
                f"download, {name_of('unix', backend)}",
                contenders,
                lambda c: run(c.contender, c.connections),
                source.data,
                FEW_ROUNDS,
            )
    return rows


def journal(bench):
    """Journal: the cost of keeping answered writes until a flush (--retry-time 0 keeps none)"""
    source, rows = bench.source(bench.scale.disk, bench.scale.data), []
    contenders = [RhvMount("qemu-img", options=["--retry-time", "0"]), RhvMount("qemu-img")]
    for transport in ["unix", "https"] if bench.scale.many else ["https"]:
        # All runs use the same disk, whose memory is then ready.
        with closing(make_disk(bench.place, "qcow2", source.size, source)) as disk:
            rows += bench.in_turn(
                f"upload, {name_of(transport, 'qcow2')}, the same disk again",
                contenders,
                lambda contender, transport=transport: bench.upload_onto(disk, transport, source, contender),
                source.data,
            )
            disk.check(source)
    return rows


class With:
    """A contender with a number of connections."""

    def __init__(self, connections, contender):
        self.connections, self.contender = connections, contender
        self.name = f"{contender.name}, {connections} connection{'s'[: connections > 1]}"


def sparse(bench):
    """Mostly empty disks: 1 TiB against a small one with the same data, and nothing but zeros"""
    scale, rows = bench.scale, []
    data = min(GIB, scale.data)
    small, large = scale.disk, (1 << 40 if scale.many else 16 * scale.disk)
    images = [Source(bench.place / f"sparse-{size}.raw", size, data) for size in (small, large)]
    contenders = [OnDisk(RhvMount("qemu-img"), image) for image in images]
    contenders += [OnDisk(OvirtClient(), image) for image in images]

    rows += bench.in_turn(
        "upload, unix socket, qcow2",
        contenders,
        lambda c: bench.upload("unix", "qcow2", c.source, c.contender),
        data,
    )

    def download(contender):
        with bench.filled("unix", "qcow2", contender.source) as run:
            return run(contender.contender)

    rows += bench.in_turn("download, unix socket, qcow2", contenders, download, data)
    for image in images:
        image.path.unlink()
    return rows + zeros(bench)


class OnDisk:
    """A contender with its own image."""

    def __init__(self, contender, source):
        self.contender, self.source = contender, source
        size = source.size
        units = [(40, "TiB"), (30, "GiB"), (20, "MiB")]
        shown = next(f"{size >> bits} {unit}" for bits, unit in units if size >= 1 << bits)
        self.name = f"{contender.name}, {shown}"


def zeros(bench):
    size = 16 * GIB if bench.scale.many else bench.scale.disk
    image = Source(bench.place / "zeros.raw", size, 0)

    def run(contender):
        ended, before = bench.daemon("https").writes(0)
        sample = bench.upload("https", "qcow2", image, contender)
        if bench.daemon("https").writes(ended + 4)[1] != before:
            raise Failed("zeros went to the server as data")
        return sample

    rows = bench.in_turn("zeros onto a new disk, HTTPS", [RhvMount("dd zeros")], run, size)
    image.path.unlink()
    return rows


def small(bench):
    """Small and random requests, against the only other mount, and the server's own rate of such writes"""
    rows = []
    source = bench.source(bench.scale.disk // 4, bench.scale.data // 4)
    region = min(256 * MIB, source.size // 2)
    for block in ("dd bs=512", "dd bs=4k"):
        tiny = Source(bench.place / "tiny.raw", region // 32, region // 32)
        rows += bench.in_turn(
            f"{block}, HTTPS, qcow2",
            [Nbdfuse(block), RhvMount(block)],
            lambda contender, tiny=tiny: bench.upload("https", "qcow2", tiny, contender),
            tiny.data,
            FEW_ROUNDS,
        )
        tiny.path.unlink()
    for job in fio.JOBS if bench.scale.many else fio.JOBS[:3]:
        found = bench.in_turn(
            f"fio {job.name}, HTTPS, qcow2",
            [Nbdfuse("fio"), RhvMount("fio"), *([fio.Puts(job)] if job.rw == "randwrite" else [])],
            lambda contender, job=job: fio.run_job(bench, source, region, job, contender),
            region,
            FEW_ROUNDS,
        )
        for row in found:
            row.operations = True
        rows += found
    return rows


TABLES = {
    "upload": upload,
    "download": download,
    "journal": journal,
    "connections": connections,
    "sparse": sparse,
    "small": small,
}


def remove(place):
    shutil.rmtree(place, ignore_errors=True)
