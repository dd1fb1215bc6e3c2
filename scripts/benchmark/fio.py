"""Random I/O through a mount, by fio: operations per second in a bounded time, and a check of the storage."""

import json
import random
import subprocess
from contextlib import closing
from dataclasses import dataclass

from contenders import Ceiling, Job
from measure import Failed, Sample, run
from storage import make_disk

SECONDS = 3


@dataclass
class FioJob:
    name: str
    rw: str
    block: str
    engine: tuple

    def words(self, file, region):
        words = ["fio", "--name=job", f"--filename={file}", f"--rw={self.rw}", f"--bs={self.block}"]
        words += [
            f"--size={region}",
            "--time_based",
            f"--runtime={SECONDS}",
            "--randseed=7",
            "--invalidate=1",
        ]
        # Without these options fio would create its own file, or truncate this one.
        words += ["--allow_file_create=0", "--overwrite=1", "--file_append=0", "--output-format=json"]
        return words + list(self.engine)


PSYNC = ("--ioengine=psync",)
AIO = ("--ioengine=libaio", "--iodepth=16", "--direct=1")

JOBS = [
    FioJob("4k random read, psync", "randread", "4k", PSYNC),
    FioJob("4k random write, psync", "randwrite", "4k", (*PSYNC, "--end_fsync=1")),
    FioJob("4k mixed, psync", "randrw", "4k", (*PSYNC, "--end_fsync=1")),
    FioJob("4k random read, libaio 16", "randread", "4k", AIO),
    FioJob("4k random write, libaio 16", "randwrite", "4k", (*AIO, "--end_fsync=1")),
    FioJob("4k mixed, libaio 16", "randrw", "4k", (*AIO, "--end_fsync=1")),
    FioJob("64k random read, libaio 16", "randread", "64k", AIO),
    FioJob("64k random write, libaio 16", "randwrite", "64k", (*AIO, "--end_fsync=1")),
]


def run_job(bench, source, region, job, contender):
    """Runs fio once on a disk that holds `source`, and checks that the storage then holds what the mount
    showed.
    """
    if isinstance(contender, Puts):
        return contender.run(bench, source, region)
    daemon = bench.daemon("https")
    seen, stored = bench.place / "seen.raw", bench.place / "stored.raw"
    figures = {}

    def work(file):
        done = json.loads(run(job.words(file, region)))["jobs"][0]
        figures["operations"] = sum(done[way]["total_ios"] for way in ("read", "write")) / (
            done["job_runtime"] / 1000
        )
        figures["tool"] = (done["usr_cpu"] + done["sys_cpu"]) / 100 * done["job_runtime"] / 1000
        subprocess.run(["dd", f"if={file}", f"of={seen}", "bs=1M", "status=none"], check=True)

    with closing(make_disk(bench.place, "qcow2", source.size, source)) as disk:
        read_only = job.rw == "randread"
        url = daemon.ticket(disk, "read" if read_only else "read,write")
        rss, cpu = contender.mounted(Job(bench.place, daemon, url, source, disk=disk), read_only, work)
        disk.raw(stored)
    run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", seen, stored])
    seen.unlink()
    stored.unlink()
    return Sample(SECONDS, cpu + figures["tool"], rss, figures["operations"])


class Scattered:
    """Blocks of `source`, at random places in its first `region` bytes."""

    MAX_BLOCKS = 6000

    def __init__(self, source, region, block):
        self.path, self.size = source.path, source.size
        count = region // block
        self.places = [block * n for n in random.Random(7).sample(range(count), min(count, self.MAX_BLOCKS))]
        self.block = block

    def write_ranges(self, path):
        path.write_text("".join(f"{place} {self.block}\n" for place in self.places))


class Puts:
    """The same random writes from the bare loop, with a request for each: the server's own rate."""

    def __init__(self, job):
        self.block = int(job.block.removesuffix("k")) << 10
        self.name = f"bare loop, a PUT for each {job.block}"

    def run(self, bench, source, region):
        daemon, scattered = bench.daemon("https"), Scattered(source, region, self.block)
        with closing(make_disk(bench.place, "qcow2", source.size, source)) as disk:
            ended, before = daemon.writes(0)
            sample = Ceiling().upload(Job(bench.place, daemon, daemon.ticket(disk), scattered, disk=disk))
            disk.check(source)
            if (found := daemon.writes(ended + 4)[1] - before) != len(scattered.places):
                raise Failed(f"{found} of {len(scattered.places)} writes arrived")
        sample.operations = len(scattered.places) / sample.seconds
        return sample
