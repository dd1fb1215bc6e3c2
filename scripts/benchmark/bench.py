"""The bench of the tables: its scale, its rows, and runs of contenders in turn.

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

from contenders import Job
from measure import run, say
from storage import MIB, Source, make_disk

GIB = 1 << 30
FEW_ROUNDS = 2  # upper bound on the rounds of the tables with many rows


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

    def more(self):
        """Returns the further columns of this table, as text by title."""
        return {}


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

    def in_turn(self, setting, contenders, run, moved, most=None, kind=Row):
        """Runs every contender once per round; returns their rows, each a `kind`. The first contender is the
        baseline.
        """
        if self.only not in setting:
            return []
        rows = [kind(setting, c.name, moved, baseline=n == 0) for n, c in enumerate(contenders)]
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
                    disk.serve_anew()
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
    run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", source.path, output])


def name_of(transport, backend):
    storage = "qcow2" if backend == "qcow2" else f"memory, {backend.removeprefix('slow-')} ms a request"
    return f"{ {'https': 'HTTPS', 'http': 'HTTP', 'unix': 'unix socket'}[transport] }, {storage}"


class With:
    """A contender with a number of connections."""

    def __init__(self, connections, contender):
        self.connections, self.contender = connections, contender
        self.name = f"{contender.name}, {connections} connection{'s'[: connections > 1]}"


class OnDisk:
    """A contender with its own image."""

    def __init__(self, contender, source):
        self.contender, self.source = contender, source
        self.name = f"{contender.name}, {size_name(source.size)}"


def size_name(size):
    units = [(40, "TiB"), (30, "GiB"), (20, "MiB")]
    return next(f"{size >> bits} {unit}" for bits, unit in units if size >= 1 << bits)


def remove(place):
    shutil.rmtree(place, ignore_errors=True)
