"""The hybrid backup: a snapshot without memory freezes the disks, transfers read the frozen layers, and the
end merges them. The guest goes on meanwhile, and the VM may stop, start and migrate.

The new layers have the bitmap of the new checkpoint, and the bitmaps of the older ones anew.
"""

from exports import LayerExport

DESCRIPTION = "Auto-generated for Backup VM"


class Hybrid:
    NAME = "hybrid"
    REDEFINES = False

    def __init__(self, world, backup):
        self._world = world
        self._backup = backup
        self._frozen = {}

    def begin(self):
        backup, disks = self._backup, [one.disk for one in self._backup.disks]
        bitmap_disks = [disk for disk in disks if disk.format == "cow"]
        self._with_bitmap = [disk.id for disk in bitmap_disks]
        record = self._world.snapshots.make(
            backup.vm, DESCRIPTION, backup.next_checkpoint, bitmap_disks, disks
        )
        self._frozen = {disk.id: disk.snapshots[-1] for disk in disks}
        backup.snapshot = record.id

    def has_bitmap(self, disk):
        return disk.id in self._with_bitmap

    def export(self, name, disk, bitmap):
        frozen = self._frozen[disk.id]
        return LayerExport(self._world, name, frozen.path, frozen.format, disk.chain(frozen), bitmap)

    def end(self):
        if self._backup.snapshot:
            self._world.snapshots.merge(self._backup.vm, self._backup.snapshot)

    def abandon(self):
        """Leaves the snapshot as it is: the engine has lost it."""

    def guest_export(self, disk):
        return None

    def vm_changed(self, crashed):
        """Does nothing: the frozen layers stay."""
