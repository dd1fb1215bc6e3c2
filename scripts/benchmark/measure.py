"""Runs a command and accounts for it: seconds, processor seconds of the whole tree, largest memory.

The processor time of a command is the operating system's own accounting of it and of every child that it waited for.
rhv-mount waits for the tool that works on the mount, so one figure holds both.
"""

import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

LIMIT = 900  # seconds; a command that takes longer hangs


@dataclass
class Sample:
    seconds: float
    cpu: float  # user and system seconds
    rss: int = 0  # peak resident size, bytes; 0 where it was not taken
    operations: float = 0  # a second; fio rows only

    as_dict = asdict


class Failed(Exception):
    """A contender did not do its work; the benchmark's figures would be a lie."""


def run(command, **options):
    """Runs `command` to its end; raises with its own words when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=LIMIT,
        **options,
    )
    if done.returncode != 0:
        words = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise Failed(f"{os.path.basename(str(command[0]))} ended with {done.returncode}: {words[-800:]}")
    return done.stdout.decode(errors="replace")


def timed(command, **options):
    """Runs `command`; gives its [`Sample`] and its standard output."""
    before = os.times()
    start = time.monotonic()
    output = run(command, **options)
    seconds = time.monotonic() - start
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Sample(seconds, cpu), output


def process_cpu(pid):
    """Processor seconds that a live process has used so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss(status):
    """The peak resident size in the text of /proc/PID/status, bytes."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def say(*words):
    print("bench:", *words, file=sys.stderr, flush=True)
