"""The guest's side of a disk: what it writes, and what it reads, at any time.

No VM runs here. Each write is a qemu-io that opens the image read-write as a VM's qemu would, so the bitmaps
in it are kept. During a live backup the image is open in a storage daemon (see live); then the write goes
through that daemon, as the guest's do.

A write is {"offset": N, "length": N} and what to put there: "pattern" (a byte, 1 by default), "file" (a file,
repeated as needed), "zero": true, or "discard": true.
"""

import os
import subprocess

import images
from images import ImageError


class Guest:
    def __init__(self, world):
        self._world = world

    def write(self, disk, writes):
        """Performs the writes in their order, and a flush."""
        commands = [argument for one in writes for argument in ("-c", _command(one))]
        with disk.io:
            live = self._live_export(disk)
            where = live or disk.path
            kind = "raw" if live else images.QEMU_FORMAT[disk.format]
            call = ["qemu-io", "-d", "unmap", "-f", kind, *commands, "-c", "flush", where]
            done = subprocess.run(call, capture_output=True, text=True)
        # qemu-io succeeds even if a command of it fails.
        if done.returncode != 0 or "failed" in done.stdout + done.stderr:
            raise ImageError(f"{done.stdout}{done.stderr}".strip())
        self._world.journal.event("guest_wrote", disk=disk.id, name=disk.name, writes=len(writes))

    def copy(self, disk, path):
        """Copies the guest's bytes of this moment into a raw file."""
        with disk.io:
            live = self._live_export(disk)
            if live:
                images.convert(live, "raw", path, "raw")
            else:
                images.convert(disk.path, disk.format, path, "raw")

    def _live_export(self, disk):
        backups = self._world.backups
        return backups.guest_export(disk) if backups else None


def _command(write):
    place = f"{int(write['offset'])} {int(write['length'])}"
    if write.get("zero"):
        return f"write -z -u {place}"
    if write.get("discard"):
        return f"discard {place}"
    if "file" in write:
        if not os.path.isfile(write["file"]):
            raise ValueError(f"no file {write['file']}")
        return f"write -s {write['file']} {place}"
    return f"write -P {int(write.get('pattern', 1))} {place}"
