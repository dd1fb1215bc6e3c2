"""The cold backup of a VM that is down: bitmaps are added, and transfers read the locked disks."""

import bitmaps
from exports import LayerExport

HOLDER = "backup"


class Cold:
    NAME = "cold"
    REDEFINES = False

    def __init__(self, world, backup):
        self._world = world
        self._backup = backup
        self._with_bitmap = []
        lock(world, backup)

    def begin(self):
        for one in self._backup.disks:
            if one.disk.format == "cow":
                with one.disk.io:
                    bitmaps.add(one.disk.path, self._backup.next_checkpoint)
                self._with_bitmap.append(one.disk.id)

    def has_bitmap(self, disk):
        return disk.id in self._with_bitmap

    def export(self, name, disk, bitmap):
        return LayerExport(self._world, name, disk.path, disk.format, disk.chain(disk), bitmap)

    def end(self):
        unlock(self._world, self._backup)

    def abandon(self):
        for one in self._backup.disks:
            if one.disk.id in self._with_bitmap:
                self._world.checkpoints.remove_bitmap(one.disk, self._backup.next_checkpoint)
        self._with_bitmap = []
        unlock(self._world, self._backup)

    def guest_export(self, disk):
        return None

    def vm_changed(self, crashed):
        """Does nothing: a VM in a cold backup does not start."""


def lock(world, backup):
    with world.disks.lock:
        for one in backup.disks:
            one.disk.holders[HOLDER] = "exclusive"
            world.disks.set_status(one.disk, "locked")


def unlock(world, backup):
    with world.disks.lock:
        for one in backup.disks:
            if one.disk.holders.pop(HOLDER, None):
                world.disks.set_status(one.disk, "ok")
