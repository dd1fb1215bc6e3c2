"""Runs lists of disks through Slurm with faults, and judges what is there then. See the head of
scripts/slurm.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

from cluster import Cluster
from faults import Faults
from measure import Failed, run
from engine import Site
from storage import MIB, TOP, Source

JOB = TOP / "packaging/slurm/disks.sbatch"
MAX_SECONDS = 1800  # an array that runs longer is considered hung
STATES = ("/var/lib/rhv-mount", "~/.local/state/rhv-mount", f"/tmp/rhv-mount-{os.getuid()}/state")


def arguments():
    parser = argparse.ArgumentParser(prog="slurm", description="a list of disks through Slurm, with faults")
    parser.add_argument("--disks", type=int, help="how many [default: 40]")
    parser.add_argument("--quick", action="store_true", help="six small disks")
    parser.add_argument("--program", type=Path, required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.disks = args.disks or (6 if args.quick else 40)
    return args


def say(*words):
    print("slurm:", *words, flush=True)


class Disk:
    """An image, the disk that it is uploaded into, and the file that this is downloaded into."""

    def __init__(self, place, number, size):
        self.name, self.id = f"disk{number:02}", str(uuid.uuid4())
        self.format = "qcow2" if number % 2 else "raw"
        self.size = size
        self.image = place / f"images/{self.name}.{self.format}"
        self.copy = place / f"copies/{self.name}.{self.format}"
        raw = place / "raw"
        # Half of it is data, in runs of 3 MiB; each image has a head of its own.
        Source(raw, size, size // 2, 3 * MIB)
        with raw.open("r+b") as file:
            file.seek(4096)
            file.write(self.id.encode() * 200)
        run(["qemu-img", "convert", "-f", "raw", "-O", self.format, raw, self.image])
        raw.unlink()


class List:
    """A list of copies in one direction, its array, and its outcomes."""

    def __init__(self, place, task, disks):
        self.place, self.task, self.disks = place, task, disks
        self.file, self.outcomes = place / f"{task}.list", place / f"{task}.jsonl"
        rows = [(task, self.image(disk), disk.name, disk.id) for disk in disks]
        self.file.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
        self.job, self.seconds = None, 0.0

    def image(self, disk):
        return disk.image if self.task == "upload" else disk.copy

    def run(self, cluster, faults=None):
        """Runs the array, with faults in the middle, until no task is left."""
        begun = time.monotonic()
        words = ["sbatch", "--parsable", f"--array=1-{len(self.disks)}", f"--chdir={self.place}"]
        words += [f"--output={self.place}/out/%A_%a", JOB, self.file, self.outcomes, "-c", "prod"]
        environment = {
            "PATH": f"{self.place}/bin:{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(self.place / "config"),
        }
        self.job = cluster.ask(*words, **environment).strip()
        if faults:
            faults.all(self)
        end = begun + MAX_SECONDS
        while cluster.tasks(self.job):
            if time.monotonic() > end:
                raise Failed(f"the {self.task}s are not over after {MAX_SECONDS} s")
            cluster.hasten(self.job)
            time.sleep(0.2)
        self.seconds = time.monotonic() - begun

    def done(self):
        return sum(line["exit_status"] == 0 for line in self.lines())

    def lines(self):
        if not self.outcomes.exists():
            return []
        # The last line may be on its way into the file.
        lines = self.outcomes.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def of(self, disk):
        """The lines about a disk, and how often Slurm has started its task again."""
        image = str(self.image(disk))
        return [line for line in self.lines() if line["image"] == image]

    def restarts(self, cluster):
        shown = cluster.ask("scontrol", "show", "job", "-o", self.job)
        found = re.findall(r"ArrayTaskId=(\d+) .*?Restarts=(\d+)", shown)
        return {int(task): int(restarts) for task, restarts in found}


def notes_of(place):
    """The notes that rhv-mount has of transfers to images below `place`."""
    states = [Path(state).expanduser() for state in STATES]
    states = [state for state in states if os.access(state, os.R_OK | os.X_OK)]
    notes = [note for state in states for note in state.iterdir() if note.is_file()]
    return [note for note in notes if str(place).encode() in note.read_bytes()]


def judge(copies, site):
    """Returns what is wrong with a list that is over."""
    wrong, disks = [], {}
    for one in site.state()["disks"]:
        disks.setdefault(one["name"], []).append(one)
    for disk in copies.disks:
        there = disks.get(disk.name, [])
        if [one["id"] for one in there] != [disk.id]:
            wrong.append(f"{disk.name}: there are {len(there)} disks of this name")
            continue
        if (there[0]["status"], there[0]["locked_by"]) != ("ok", []):
            wrong.append(f"{disk.name}: {there[0]['status']}, locked by {there[0]['locked_by']}")
        done = [line for line in copies.of(disk) if line["exit_status"] == 0]
        if [line["verified"] for line in done] != [True]:
            wrong.append(f"{disk.name}: {len(done)} runs have done the {copies.task}: {copies.of(disk)}")
        other = there[0]["path"] if copies.task == "upload" else disk.copy
        form = "raw" if there[0]["format"] == "raw" else "qcow2"
        form = form if copies.task == "upload" else disk.format
        try:
            run(["qemu-img", "compare", "-q", "-f", disk.format, "-F", form, disk.image, other])
        except Failed as e:
            wrong.append(f"{disk.name}: {copies.image(disk)} and {other} differ: {e}")
    if len(disks) != len(copies.disks):
        wrong.append(f"there are {len(disks)} disks instead of {len(copies.disks)}")
    wrong += [f"transfer {one['id']} is left: {one['phase']}" for one in site.open_transfers()]
    return wrong + [f"a note is left: {note}" for note in notes_of(copies.place)]


def table(lists, cluster, transfers):
    """A row for each disk: of each list its seconds, the runs that left a line, and Slurm's restarts."""
    heads = ["disk", "format", "MiB"]
    for one in lists:
        heads += [f"{one.task}, s", "attempts", "restarts", "verified"]
    heads.append("transfers")
    print("\n| " + " | ".join(heads) + " |\n| " + " | ".join("---" for _ in heads) + " |")
    restarts = [one.restarts(cluster) for one in lists]
    for number, disk in enumerate(lists[0].disks, 1):
        row = [disk.name, disk.format, disk.size // MIB]
        for one, again in zip(lists, restarts):
            line = (one.of(disk) or [{}])[-1]
            row += [f"{line.get('seconds', 0):.1f}", line.get("attempt"), again.get(number, "?")]
            row.append("yes" if line.get("verified") else line.get("unverified"))
        row.append(transfers[disk.id])
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def copy_all(args, place, cluster, site):
    """Runs both lists, each twice; returns what is wrong."""
    for name in ("images", "copies", "out", "bin"):
        (place / name).mkdir()
    shutil.copy2(args.program, place / "bin/rhv-mount")
    # Sizes differ, so that the tasks do not march in step; one is no multiple of a cluster.
    sizes = [8 * MIB, 12 * MIB] if args.quick else [16 * MIB, 32 * MIB, 48 * MIB, 64 * MIB - 512]
    disks = [Disk(place, number, sizes[number % len(sizes)]) for number in range(1, args.disks + 1)]
    site.start()
    cluster.start()
    say(f"{len(disks)} images, {sum(disk.size for disk in disks) // MIB} MiB; Slurm with 2 nodes and "
        f"{cluster.licences} licences; ovirt-imageio; in {place}")
    faults = Faults(cluster, site, place, say)
    lists, wrong = [List(place, task, disks) for task in ("upload", "download")], []
    for copies in lists:
        copies.run(cluster, faults)
        wrong += judge(copies, site)
        say(f"{copies.task}s: over after {copies.seconds:.0f} s, {len(copies.lines())} lines")
    transfers = site.transfers()
    table(lists, cluster, transfers)
    # A killed copy gives its licence back before anybody can end its transfer, and has no line.
    in_use = {line.get("transfer") for copies in lists for line in copies.lines()}
    most = site.most_at_a_time(in_use)
    say(f"most transfers in use at once: {most}, licences: {cluster.licences} (open at once, with those that "
        f"killed copies have left: {site.most_at_a_time()})")
    if most > cluster.licences:
        wrong.append(f"{most} transfers were in use at once, with {cluster.licences} licences")
    for copies in lists:
        before = len(copies.lines())
        copies.run(cluster)
        wrong += judge(copies, site)
        say(f"{copies.task}s again: {len(copies.lines()) - before} copied, {copies.seconds:.0f} s")
        if len(copies.lines()) != before:
            wrong.append(f"the second run of the {copies.task}s has copied something")
    if site.transfers() != transfers:
        wrong.append("the second runs have opened transfers")
    return wrong


def keep(place):
    """Keeps what explains a failure."""
    kept = Path(tempfile.mkdtemp(prefix="slurm-failed-"))
    for one in [*place.glob("*.jsonl"), *place.glob("out/*"), *place.glob("slurm/*.log")]:
        shutil.copy(one, kept)
    log = place / "engine/engine.log"
    if log.exists():
        shutil.copy(log, kept)
    say(f"the logs are kept in {kept}")


def interrupted(number, _frame):
    raise SystemExit(128 + number)


def main():
    args = arguments()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        signal.signal(number, interrupted)
    # The names of unix sockets are short.
    place = Path(tempfile.mkdtemp(prefix="rhv-mount-slurm-", dir="/var/tmp"))
    place.chmod(0o755)
    cluster, site = Cluster(place, 2 if args.quick else 4), Site(place)
    try:
        wrong = copy_all(args, place, cluster, site)
    except (Failed, OSError, subprocess.SubprocessError) as e:
        wrong = [str(e)]
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        if sys.exc_info()[0] is None and wrong:
            keep(place)
        cluster.stop()
        site.stop()
        # Their engine is gone.
        for note in notes_of(place):
            note.unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
    for one in wrong:
        print(f"slurm: FAILED: {one}", file=sys.stderr)
    if not wrong:
        say("all disks have arrived, identical, none twice; nothing is left locked, running or behind")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
