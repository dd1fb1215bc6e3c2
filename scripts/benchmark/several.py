"""Table `several`: mounts that copy at the same time, each a disk of its own, against as many clients."""

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

from bench import FEW_ROUNDS, Row, compare
from contenders import Job, OvirtClient, RhvMount
from measure import Failed, Sample, children_cpu, say
from storage import MIB, make_disk

COUNTS, QUICK_COUNTS = [1, 4, 20], [1, 2]
QUICK_DATA = 32 * MIB
MAX_START_SECONDS = 60  # bound on the time until all are ready to begin


@dataclass
class Crowd(Sample):
    """The Sample of several contenders at once: `seconds` until the slowest ended, the `cpu` of all, and the
    largest `rss`.
    """

    fastest: float = 0  # seconds until the first one ended
    total_rss: int = 0  # sum of the peaks, bytes


class SeveralRow(Row):
    def more(self):
        unfairness = statistics.median(s.seconds / s.fastest for s in self.samples)
        total = max(s.total_rss for s in self.samples)
        return {"slowest / fastest": f"{unfairness:.2f}", "memory of all": f"{total / MIB:.0f} MiB"}


def several(bench):
    """Several: 1, 4 and 20 mounts that copy at once, over HTTPS onto and from qcow2

    Each mount, or client, has a disk of its own, and an equal part of the same data. All begin at once; the
    rate is that of all data, until the last one ends. *slowest / fastest* compares the times until the last
    and the first one end: 1 is fair. *memory* is the largest peak of one process, *memory of all* the sum of
    the peaks; the clients' leave out their qemu-nbd.
    """
    scale, rows = bench.scale, []
    total = scale.data if scale.many else QUICK_DATA
    for count in COUNTS if scale.many else QUICK_COUNTS:
        data = total // count // MIB * MIB
        source = bench.source(scale.disk // count // MIB * MIB, data)
        contenders = [OvirtClient(), RhvMount("qemu-img"), RhvMount("cp")]
        rows += bench.in_turn(
            f"upload, {count} at once",
            contenders,
            lambda contender, count=count, source=source: upload(bench, source, count, contender),
            count * data,
            FEW_ROUNDS,
            SeveralRow,
        )
        with ExitStack() as stack:
            disks = [disk_in(stack, bench, source, source) for _ in range(count)]
            rows += bench.in_turn(
                f"download, {count} at once",
                contenders,
                lambda contender, disks=disks, source=source: download(bench, source, disks, contender),
                count * data,
                FEW_ROUNDS,
                SeveralRow,
            )
    return rows


def disk_in(stack, bench, source, content=None):
    return stack.enter_context(closing(make_disk(bench.place, "qcow2", source.size, content)))


def upload(bench, source, count, contender):
    with ExitStack() as stack:
        disks = [disk_in(stack, bench, source) for _ in range(count)]
        crowd = at_once(contender.upload, jobs(bench, source, disks, "read,write"))
        for disk in disks:
            disk.check(source)
    return crowd


def download(bench, source, disks, contender):
    work = jobs(bench, source, disks, "read")
    crowd = at_once(contender.download, work)
    for job in work:
        compare(source, job.output)
        job.output.unlink()
    return crowd


def jobs(bench, source, disks, ops):
    """Returns a Job for each disk, with a directory of its own for the files that contenders leave."""
    daemon, work = bench.daemon("https"), []
    for n, disk in enumerate(disks):
        place = bench.place / f"several-{n}"
        place.mkdir(exist_ok=True)
        work.append(
            Job(place, daemon, daemon.ticket(disk, ops), source, output=place / "out.raw", disk=disk)
        )
    return work


def at_once(move, work):
    """Runs `move(job)` for each job, all from one moment on; returns their Crowd."""
    begun = []
    gate = threading.Barrier(len(work), lambda: begun.append(time.monotonic()), MAX_START_SECONDS)

    def begin():
        try:
            gate.wait()
        except threading.BrokenBarrierError:
            raise Failed("not all of the contenders were ready") from None
        return begun[0]

    def one(job):
        job.begin = begin
        try:
            return move(job)
        except BaseException as e:
            say(f"{job.place.name}: {e}")
            # The others would wait for this one.
            gate.abort()
            raise

    before = children_cpu()
    with ThreadPoolExecutor(len(work)) as threads:
        samples = list(threads.map(one, work))
    # A Sample that counts this program's children counts those of the other threads, too: the sum is then
    # above what all children used. The clients count their own, without Python's start, so the sum is below.
    cpu = min(children_cpu() - before, sum(s.cpu for s in samples))
    ends, peaks = [s.seconds for s in samples], [s.rss for s in samples]
    return Crowd(max(ends), cpu, max(peaks), fastest=min(ends), total_rss=sum(peaks))
