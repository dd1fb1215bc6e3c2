"""The tables of the benchmark; each is a function that returns its rows, and its docstring is the table's
title.
"""

from contextlib import closing

import fio
from backups import backup
from bench import FEW_ROUNDS, GIB, OnDisk, With, name_of
from contenders import Ceiling, Nbdcopy, Nbdfuse, OvirtClient, RhvCopy, RhvMount
from growth import growth
from line import line
from measure import Failed
from several import several
from storage import MIB, Source, make_disk

UNPRIVILEGED = "nobody"
COPIES = 6  # so many bring the bare loop to about the processor time per byte of rhv-mount and qemu-img


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


def upload(bench):
    """Upload: a raw image onto a new disk"""
    source, rows = bench.source(bench.scale.disk, bench.scale.data), []
    for transport, backend in settings(bench.scale):
        contenders = [
            OvirtClient(),
            RhvCopy(),
            RhvMount("qemu-img"),
            RhvMount("cp"),
            RhvMount("dd"),
            Ceiling(),
            Ceiling(COPIES),
        ]
        if backend == "qcow2" and transport != "http":
            contenders.append(Nbdcopy())
        if backend == "qcow2" and transport == "https":
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
            RhvCopy(),
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
        if backend == "qcow2" and transport != "http":
            contenders.append(Nbdcopy())
        if backend == "qcow2" and transport == "https":
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


def sparse(bench):
    """Mostly empty disks: 1 TiB against a small one with the same data, and nothing but zeros"""
    scale, rows = bench.scale, []
    data = min(GIB, scale.data)
    small, large = scale.disk, (1 << 40 if scale.many else 16 * scale.disk)
    images = [Source(bench.place / f"sparse-{size}.raw", size, data) for size in (small, large)]
    contenders = [OnDisk(RhvMount("qemu-img"), image) for image in images]
    contenders += [OnDisk(RhvCopy(), image) for image in images]
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
    "line": line,
    "several": several,
    "growth": growth,
    "backup": backup,
}
