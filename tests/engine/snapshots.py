"""The snapshots of VMs.

A snapshot of a VM is one frozen layer of each of its disks, under an id that is not a layer's. The active
layers belong to the snapshot "Active VM". A snapshot keeps the VM's configuration of its moment (see ovf).

A client makes and removes snapshots in steps (see coordinator): a new one is `locked` until its layers are
there, a removed one until they are merged. The control socket does both at once.
"""

import threading
from dataclasses import dataclass

import layers
from directory import stable_id
from volumes import locked_message, quiet
from wire import Date, NotFound, Refused, listing, new_id

FIRST_SNAPSHOT = 1_600_000_000  # seconds; each further snapshot of `--disk` is an hour younger
HOUR = 3600


@dataclass
class VmSnapshot:
    id: str
    vm: str | None
    description: str
    date: Date
    status: str = "ok"
    configuration: str | None = None


class Snapshots:
    def __init__(self, world):
        self._world = world
        self._records = {}
        self._lock = threading.RLock()

    # requests

    def list(self, vm):
        return listing("snapshot", [self._show(vm, one) for one in self._of_vm(vm)])

    def show(self, vm, snapshot_id, with_configuration=False):
        return self._show(vm, self._get(vm, snapshot_id), with_configuration)

    def list_disks(self, vm, snapshot_id):
        record = self._get(vm, snapshot_id)
        shown = []
        for disk in self._disks(vm):
            for volume in disk.snapshots:
                if volume.vm_snapshot == record.id:
                    place = {"image_id": volume.image_id, "snapshot": {"id": record.id}}
                    shown.append({**self._world.disks.show(disk), "format": volume.format, **place})
        return listing("disk", shown)

    def create(self, vm, body):
        self._refuse_if_busy(vm, "create Snapshot")
        record = self._record(vm, body.get("description", ""), status="locked")

        def step():
            self._freeze(vm, record)
            return True

        self._world.coordinator.run(f"create snapshot {record.id}", step)
        return self._show(vm, record)

    def delete(self, vm, snapshot_id):
        record = self._get(vm, snapshot_id)
        if record.id == active_id_of(vm):
            raise Refused(409, "Cannot remove Snapshot: the active one can't be removed.")
        if self._world.backups and self._world.backups.is_open(vm):
            raise Refused(409, "Cannot remove Snapshot: The VM is during a backup operation.")
        self._refuse_if_busy(vm, "remove Snapshot")
        record.status = "locked"

        def step():
            self.merge(vm, record.id)
            return True

        self._world.coordinator.run(f"remove snapshot {record.id}", step)

    # other commands

    def make(self, vm, description, new_bitmap=None, bitmap_disks=(), disks=None):
        """Makes a snapshot at once. `new_bitmap` is added to the new layers of `bitmap_disks`."""
        record = self._record(vm, description, status="locked")
        self._freeze(vm, record, new_bitmap, bitmap_disks, disks)
        return record

    def merge(self, vm, snapshot_id):
        """Merges the snapshot's layers away, and forgets it."""
        for disk in self._disks(vm):
            for volume in list(disk.snapshots):
                if volume.vm_snapshot == snapshot_id:
                    layers.merge(self._world, disk, volume)
        with self._lock:
            self._records.pop(snapshot_id, None)
        self._world.journal.event("snapshot_removed", vm=vm.id, snapshot=snapshot_id)

    def give_old(self, disk, number):
        """Freezes the active layer of an existing disk as part of the VM's snapshot with this number."""
        vm = self._world.vms.of_disk(disk)
        owner = vm.name if vm else disk.vm or disk.id
        snapshot_id = snapshot_id_of(owner, number)
        date = Date.at(FIRST_SNAPSHOT + HOUR * number)
        record = VmSnapshot(snapshot_id, vm.id if vm else None, f"snapshot {number}", date)
        with self._lock:
            self._records.setdefault(snapshot_id, record)
        layers.push(self._world, disk, snapshot_id)

    def exists(self, snapshot_id):
        return snapshot_id in self._records

    def get(self, vm, snapshot_id):
        return self._get(vm, snapshot_id)

    def dump(self):
        with self._lock:
            return [
                {"id": one.id, "vm": one.vm, "description": one.description, "status": one.status}
                for one in self._records.values()
            ]

    # parts

    def _record(self, vm, description, status="ok"):
        record = VmSnapshot(new_id(), vm.id, description, Date.now(), status)
        with self._lock:
            self._records[record.id] = record
        return record

    def _freeze(self, vm, record, new_bitmap=None, bitmap_disks=(), disks=None):
        disks = self._disks(vm) if disks is None else disks
        with quiet(disks):
            for disk in disks:
                if not disk.is_lun and not disk.shareable:
                    bitmap = new_bitmap if disk in bitmap_disks else None
                    layers.push(self._world, disk, record.id, bitmap)
        if self._world.ovf:
            record.configuration = self._world.ovf.write(vm, record.id)
        record.status = "ok"
        self._world.journal.event("snapshot_made", vm=vm.id, snapshot=record.id)

    def _refuse_if_busy(self, vm, action):
        for disk in self._disks(vm):
            if disk.status == "locked" or any(one.holders for one in disk.chain(disk)):
                raise Refused(409, locked_message(action, disk))

    def _disks(self, vm):
        return [one.disk for one in self._world.attachments.of_vm(vm)]

    def _of_vm(self, vm):
        """Returns the VM's snapshots, oldest first, and the active one."""
        layered = {volume.vm_snapshot for disk in self._disks(vm) for volume in disk.snapshots}
        with self._lock:
            own = [one for one in self._records.values() if one.vm == vm.id or one.id in layered]
        own.sort(key=lambda one: one.date)
        date = own[-1].date if own else Date.at(FIRST_SNAPSHOT)
        return [*own, VmSnapshot(active_id_of(vm), vm.id, "Active VM", date)]

    def _get(self, vm, snapshot_id):
        for record in self._of_vm(vm):
            if record.id == snapshot_id:
                return record
        raise NotFound

    def _show(self, vm, record, with_configuration=False):
        shown = {
            "href": f"/ovirt-engine/api/vms/{vm.id}/snapshots/{record.id}",
            "id": record.id,
            "description": record.description,
            "date": record.date,
            "persist_memorystate": False,
            "snapshot_status": record.status,
            "snapshot_type": "active" if record.id == active_id_of(vm) else "regular",
            "vm": {"id": vm.id},
        }
        if with_configuration and record.configuration:
            configuration = {"type": "ovf", "data": record.configuration}
            shown["initialization"] = {"configuration": configuration}
        return shown


def active_id_of(vm):
    return snapshot_id_of(vm.name, None)


def snapshot_id_of(owner, number):
    """Returns the id of a VM's snapshot, None being the number of the active one. A disk without a VM has
    such snapshots too, which nobody can ask for.
    """
    return stable_id(f"snapshot {owner} {'active' if number is None else number}")
