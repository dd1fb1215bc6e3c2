"""Table `line`: copies between hosts that are far apart, over a line that a proxy simulates.

The proxy (examples/line.rs) delays both directions, and bounds the rate that all connections share. Client,
daemon and storage are the same as in the other tables.
"""

import json
import subprocess
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from bench import FEW_ROUNDS, Row
from contenders import BUILT, Ceiling, OvirtClient, RhvMount
from measure import Failed, run, say
from storage import MIB, Source

LINE = BUILT / "examples/line"
LINES = [(1000, 2), (1000, 20), (200, 80)]  # Mbit/s, ms of a round trip
QUICK_LINES = [(200, 20)]
DATA, DISK, RUN = 400 * MIB, 1600 * MIB, 4 * MIB  # the image: its data, its size, its runs of data
QUICK_DATA, QUICK_DISK = 16 * MIB, 64 * MIB


@dataclass
class LineRow(Row):
    mbit: int = 0

    def more(self):
        share = self.rate() * MIB * 8 / (self.mbit * 1e6)
        return {"of the line": f"{share:.0%}"}


class Distant:
    """A daemon at the other end of a line. Its tickets have the URL of the line's near end."""

    def __init__(self, daemon, mbit, round_trip):
        self.daemon, self.transport, self.cafile, self.socket = daemon, daemon.transport, daemon.cafile, None
        port = (daemon.dir / "port").read_text().strip()
        self.proxy = subprocess.Popen(
            [str(LINE), port, str(round_trip), str(mbit)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = self.proxy.stdout.readline().strip()
        if not self.port:
            raise Failed("the line does not listen")

    def ticket(self, disk, ops="read,write"):
        url = urlsplit(self.daemon.ticket(disk, ops))
        return url._replace(netloc=f"{url.hostname}:{self.port}").geturl()

    def close(self):
        self.proxy.terminate()
        self.proxy.wait(20)
        self.proxy.stdout.close()


def line(bench):
    """Line: a distant server, over HTTPS onto and from qcow2

    A proxy bounds the rate that all connections share, and delays each direction by half the round trip
    (examples/line.rs, which says what it leaves out: above all, TCP's slow start). The image has runs of
    data of 4 MiB. *of the line* is the share of the line's rate that data filled, from the contender's start
    to its end.
    """
    many, rows = bench.scale.many, []
    data, disk = (DATA, DISK) if many else (QUICK_DATA, QUICK_DISK)
    source = Source(bench.place / "line.raw", disk, data, RUN)
    contenders = [OvirtClient(), RhvMount("qemu-img"), RhvMount("cp"), Ceiling()]
    for mbit, round_trip in LINES if many else QUICK_LINES:
        name = f"{mbit // 1000} Gbit/s" if mbit >= 1000 else f"{mbit} Mbit/s"
        name += f", {round_trip} ms"
        show_check(name, mbit, round_trip)
        # Runs find the line as they find a daemon, by its name.
        bench.daemons[name] = Distant(bench.daemon("https"), mbit, round_trip)
        kind = partial(LineRow, mbit=mbit)
        rows += bench.in_turn(
            f"upload, {name}",
            contenders,
            lambda contender, name=name: bench.upload(name, "qcow2", source, contender),
            data,
            FEW_ROUNDS,
            kind,
        )
        with bench.filled(name, "qcow2", source) as download:
            rows += bench.in_turn(f"download, {name}", contenders, download, data, FEW_ROUNDS, kind)
        bench.daemons.pop(name).close()
    source.path.unlink()
    return rows


def show_check(name, mbit, round_trip):
    """Measures a line of this shape by itself, and says what came out, by which a reader can judge the
    rows.
    """
    found = json.loads(run([LINE, "--check", round_trip, mbit]))
    say(
        f"line of {name}, by itself: a round trip takes {found['round_trip']:.1f} ms, "
        f"one to connect {found['connect']:.1f}; filled to {found['up']:.1%} up, {found['down']:.1%} down"
    )
