"""Samples the working mount: prints a line every ten seconds, and judges the samples at the end.

Memory, threads and descriptors are the kernel's figures of the process. The counters are those of `rhv-mount
status`. The latencies are those of a probe that writes, reads and syncs a few KiB beside the load. Latencies
are shown but not judged, since they would fail on a machine that is busy with other work.
"""

import os
import random
import threading
import time
from pathlib import Path

from load import REGIONS
from measure import Failed
from storage import MIB

SAMPLE_SECONDS = 10
MAX_GROWTH = 1.1  # upper bound on the last quarter's peak memory, relative to the second quarter's
COUNTERS = ("bytes_read", "bytes_written", "bytes_zeroed", "flushes", "replaced", "errors")
PROBES = ("pwrite", "pread", "fsync")


def figures(pid):
    """Returns resident bytes, threads, and descriptors of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) << 10, int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd"))


def percentile(values, part):
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else 0.0


class Gauges(threading.Thread):
    """Samples until `stop`. A probe that fails is a failure of the load."""

    def __init__(self, service, load):
        super().__init__(daemon=True)
        self.service, self.load, self.begun = service, load, time.monotonic()
        self.stopped, self.samples, self.times = threading.Event(), [], {name: [] for name in PROBES}
        self.recent = {name: [] for name in PROBES}

    def run(self):
        print(
            "   time   RSS MiB threads  fds   written      read    zeroed  flushes replaced errors   "
            "p99 ms: pwrite  pread   fsync",
            flush=True,
        )
        try:
            due = time.monotonic() + SAMPLE_SECONDS
            while not self.stopped.wait(0.1):
                self.probe()
                if time.monotonic() >= due:
                    due += SAMPLE_SECONDS
                    self.sample()
        except (Failed, OSError, ValueError, KeyError) as e:
            self.load.fail(f"probe: {e}")

    def stop(self):
        self.stopped.set()
        self.join()

    def probe(self):
        """Writes, reads, and sometimes syncs. Does nothing while a program has the whole file."""
        if not self.load.shared.acquire(blocking=False):
            return
        try:
            with open(self.service.file, "r+b", 0) as file, open(self.load.expected, "r+b", 0) as local:
                offset, length = REGIONS["probe"]
                at, data = offset + random.randrange(length - 4096), random.randbytes(4096)
                self.time("pwrite", lambda: os.pwrite(file.fileno(), data, at))
                os.pwrite(local.fileno(), data, at)
                offset, length = REGIONS["static"]
                at = offset + random.randrange(length - 4096)
                seen = self.time("pread", lambda: os.pread(file.fileno(), 4096, at))
                if seen != os.pread(local.fileno(), 4096, at):
                    raise Failed(f"wrong bytes at {at}")
                if random.random() < 0.1:
                    self.time("fsync", lambda: os.fsync(file.fileno()))
        finally:
            self.load.shared.release()

    def time(self, name, work):
        begun = time.monotonic()
        done = work()
        for times in (self.times, self.recent):
            times[name].append(1000 * (time.monotonic() - begun))
        return done

    def sample(self):
        rss, threads, descriptors = figures(self.service.pid)
        status = self.service.status()
        if status["failure"]:
            raise Failed(f"status: {status['failure']}")
        sample = {"at": time.monotonic() - self.begun, "rss": rss, "threads": threads, "fds": descriptors}
        sample |= {name: status[name] for name in COUNTERS}
        self.samples.append(sample)
        p99 = [percentile(self.recent[name], 0.99) for name in PROBES]
        self.recent = {name: [] for name in PROBES}
        print(
            f"{sample['at']:6.0f}s {rss / MIB:9.1f} {threads:7} {descriptors:4} "
            f"{status['bytes_written'] >> 20:9} "
            f"{status['bytes_read'] >> 20:9} {status['bytes_zeroed'] >> 20:9} {status['flushes']:8} "
            f"{status['replaced']:8} {status['errors']:6} {p99[0]:16.1f} {p99[1]:6.1f} {p99[2]:7.1f}",
            flush=True,
        )

    def quarter(self, number):
        """Returns the samples of a quarter of the time; `number` is 1 to 4."""
        whole = self.samples[-1]["at"]
        return [s for s in self.samples if (number - 1) * whole < 4 * s["at"] <= number * whole]

    def wrong(self):
        """Returns a message for each failure of memory."""
        if len(self.samples) < 8:
            return [f"only {len(self.samples)} samples"]
        peak = max(s["rss"] for s in self.samples)
        second, last = (max(s["rss"] for s in self.quarter(n)) for n in (2, 4))
        words = []
        if peak > self.service.memory:
            limit = self.service.memory >> 20
            words.append(f"RSS was {peak / MIB:.1f} MiB, and the limits add up to {limit} MiB")
        if last > second * MAX_GROWTH:
            words.append(
                f"RSS grew: at most {second / MIB:.1f} MiB in the second quarter, {last / MIB:.1f} in"
                " the last"
            )
        return words

    def table(self):
        """Yields (name, figure) for each line of the final table."""
        if not self.samples:
            return
        last = self.samples[-1]
        rss = [f"{max((s['rss'] for s in self.quarter(n)), default=0) / MIB:.1f}" for n in (1, 2, 3, 4)]
        yield "peak RSS of each quarter, MiB", f"{', '.join(rss)} (limit {self.service.memory >> 20})"
        for name in ("threads", "fds"):
            seen = [s[name] for s in self.samples]
            yield f"{name}, lowest and highest", f"{min(seen)}, {max(seen)}"
        for name in ("written", "read", "zeroed"):
            yield f"MiB {name}", last[f"bytes_{name}"] >> 20
        yield "flush requests", last["flushes"]
        yield "connections replaced", last["replaced"]
        yield "failed and repeated requests", last["errors"]
        for name in PROBES:
            times = self.times[name]
            yield (
                f"probe {name}, ms: median, p99, longest of {len(times)}",
                ", ".join(f"{percentile(times, part):.1f}" for part in (0.5, 0.99, 1)),
            )
