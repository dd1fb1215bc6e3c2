"""Runs a command and measures it: seconds, processor seconds of its process tree, peak memory.

The kernel accounts the processor time of a command and of every child that it waited for. rhv-mount waits for
the tool that works on the mount, so one figure covers both.
"""

import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

MAX_SECONDS = 900  # a command that runs longer is considered hung


@dataclass
class Sample:
    seconds: float
    cpu: float  # user and system seconds
    rss: int = 0  # peak resident size, bytes; 0 if not measured
    operations: float = 0  # per second; only in fio rows

    as_dict = asdict


class Failed(Exception):
    """A contender failed, so the benchmark's figures would be wrong."""


def run(command, **options):
    """Runs `command` to its end; returns its stdout. Raises Failed with its output if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=MAX_SECONDS,
        **options,
    )
    if done.returncode != 0:
        words = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise Failed(f"{os.path.basename(str(command[0]))} ended with {done.returncode}: {words[-800:]}")
    return done.stdout.decode(errors="replace")


def timed(command, begin=time.monotonic, **options):
    """Runs `command`; returns its Sample and its stdout. `begin` waits until it may begin, and returns the
    time at which its clock starts.
    """
    start = begin()
    before = children_cpu()
    output = run(command, **options)
    seconds = time.monotonic() - start
    return Sample(seconds, children_cpu() - before), output


def run_from_ready(command, begin):
    """Starts `command`, waits until it prints a line, and then tells it the time that `begin` returns.
    Returns the rest of its stdout.
    """
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        if not process.stdout.readline():
            raise Failed(f"{os.path.basename(str(command[0]))} did not start: {process.stderr.read()[-800:]}")
        try:
            output, words = process.communicate(f"{begin()}\n", timeout=MAX_SECONDS)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise Failed(f"{os.path.basename(str(command[0]))} ended with {process.returncode}: {words[-800:]}")
    return output


def children_cpu():
    """Returns the processor seconds of all processes that this one, or a child of it, waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def process_cpu(pid):
    """Returns the processor seconds that a live process has used so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss(status):
    """Returns the peak resident size, in bytes, from the text of /proc/PID/status."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def say(*words):
    print("bench:", *words, file=sys.stderr, flush=True)
