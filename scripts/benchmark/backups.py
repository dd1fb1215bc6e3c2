"""Table `backup`: all disks of a VM, in one run of rhv-mount, disk by disk, and by the SDK's own example."""

import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path

from contenders import BUILT, VENV
from engine import Site
from measure import MAX_SECONDS, Failed, Sample, children_cpu, peak_rss, run
from storage import MIB, TOP

DISKS, QUICK_DISKS = 10, 2
QUICK_DATA = 32 * MIB
VM, VM_ID = "web", str(uuid.uuid4())


class Place:
    """An engine with a VM whose disks all hold `source`, and the directory that a backup goes to."""

    def __init__(self, bench, source, disks):
        self.site, self.source = Site(bench.place / "backup"), source
        self.site.place.mkdir()
        self.names = [f"{VM}_{n}" for n in range(disks)]
        self.directory = self.site.place / "files"

    def start(self):
        self.site.start(finalize_seconds=0)
        attachments = []
        for name in self.names:
            order = {"name": name, "format": "cow", "size": self.source.size}
            disk = self.site.control("POST", "/disks", {**order, "content": str(self.source.path)})
            attachments.append({"disk": disk["id"], "bootable": not attachments})
        vm = {"name": VM, "id": VM_ID, "status": "up", "level": "4.7", "attachments": attachments}
        self.site.control("POST", "/vms", [vm])
        (self.site.place / "config/ovirt.conf").write_text(
            "[prod]\nengine_url = {url}\nusername = admin@internal\npassword = secret\n"
            "cafile = {cafile}\n".format(**self.site.ready)
        )
        (self.site.place / ".config").symlink_to(self.site.place / "config")

    def check(self):
        """Compares each file with the source, and removes them all."""
        files = list(self.directory.rglob("*.qcow2"))
        if len(files) != len(self.names):
            raise Failed(f"there are {len(files)} files of {len(self.names)} disks")
        for file in files:
            run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", self.source.path, file])
        shutil.rmtree(self.directory)
        # An incremental backup would follow otherwise.
        self.site.control("DELETE", f"/vms/{VM}/checkpoints")

    def stop(self):
        self.site.stop()
        shutil.rmtree(self.site.place)


class AllAtOnce:
    """`rhv-mount backup` of the VM."""

    name = "rhv-mount, all at once"

    def run(self, place):
        return measured([*self.command(place)], place)

    def command(self, place):
        return [BUILT / "rhv-mount", "backup", place.directory, "--vm", VM, "-c", "prod", "--no-unix-socket"]


class DiskByDisk(AllAtOnce):
    """The same for each disk, one after the other."""

    name = "rhv-mount, one after the other"

    def run(self, place):
        each = [measured([*self.command(place), "--include", name], place) for name in place.names]
        return Sample(
            sum(one.seconds for one in each), sum(one.cpu for one in each), max(one.rss for one in each)
        )


class Example:
    """The SDK's example of a backup, which its users run."""

    name = "backup_vm.py of the SDK"

    def run(self, place):
        place.directory.mkdir()
        words = [VENV / "bin/python", "-B", TOP / "target/sdk/examples/backup_vm.py", "-c", "prod"]
        words += ["--logfile", place.site.place / "example.log", "full", VM_ID]
        return measured([*words, "--backup-dir", place.directory], place)


def measured(words, place):
    """Runs a command to its end; returns its Sample, whose memory is that of its own process."""
    log, home, most = place.site.place / "out", str(place.site.place), 0
    begun, before = time.monotonic(), children_cpu()
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(map(str, words)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "HOME": home, "XDG_CONFIG_HOME": f"{home}/config"},
        )
        while process.poll() is None:
            most = max(most, peak_rss(Path(f"/proc/{process.pid}/status").read_text()))
            if time.monotonic() > begun + MAX_SECONDS:
                process.kill()
            time.sleep(0.01)
    if process.returncode != 0:
        end = log.read_text(errors="replace")[-800:]
        raise Failed(f"{Path(words[0]).name} ended with {process.returncode}: {end}")
    return Sample(time.monotonic() - begun, children_cpu() - before, most)


def backup(bench):
    """Backup: a running VM of ten disks, in full, over HTTPS

    Each disk has an equal part of the same data. The engine is the stand-in of the tests, whose steps are
    shorter than a real one's. The waits for them are in the clock, and are most of it where they come for each
    disk: the client's processor is busy for a small part of the time there.
    The clock runs from the start of the command to its end, with the login, the backup's begin and end, and,
    for rhv-mount, the comparison of each file with the disk. *memory* is that of the command's own process.
    """
    count = DISKS if bench.scale.many else QUICK_DISKS
    total = bench.scale.data if bench.scale.many else QUICK_DATA
    source = bench.source(bench.scale.disk // count // MIB * MIB, total // count // MIB * MIB)
    place = Place(bench, source, count)
    try:
        place.start()

        def run_one(contender):
            sample = contender.run(place)
            place.check()
            return sample

        contenders = [Example(), DiskByDisk(), AllAtOnce()]
        return bench.in_turn(f"{count} disks", contenders, run_one, count * source.data)
    finally:
        place.stop()
