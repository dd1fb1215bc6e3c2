"""VMs: their disks, and their snapshots.

A VM is there because it was added (see control), or because a disk names it: `vm` of a disk is the VM's id or
name. Its snapshots are those of its disks: the disks' snapshots with the same number belong to one snapshot
of the VM, which has an id of its own. The disks' active volumes belong to the snapshot "Active VM".

As in the engine, a list of VMs has pages (`search` with `page N`, and `max`), and follows `disk_attachments`.
"""

from dataclasses import dataclass

from directory import stable_id
from search import select
from wire import Date, NotFound, identifier, listing, new_id

FIRST_SNAPSHOT = 1_600_000_000  # seconds; each further snapshot is an hour younger
HOUR = 3600


@dataclass
class Vm:
    id: str
    name: str
    status: str | None = None


class Vms:
    def __init__(self, world):
        self._world = world
        self._added = {}

    # for the control socket

    def add(self, spec):
        vm = Vm(spec.get("id") or new_id(), spec["name"], spec.get("status", "down"))
        self._added[vm.id] = vm
        self._world.journal.event("vm_existing", vm=vm.id, name=vm.name, status=vm.status)
        return self._dumped(vm)

    def dump(self):
        return [self._dumped(vm) for vm in self.all()]

    # requests

    def list(self, query):
        found = select(self.all(), self._dumped, query)
        return listing("vm", [self._show(vm, query) for vm in found])

    def show(self, vm_id, query):
        return self._show(self.get(vm_id), query)

    def list_attachments(self, vm_id, query):
        vm = self.get(vm_id)
        follow = "disk" in query.get("follow", "").split(",")
        return listing("disk_attachment", [self._attachment(vm, disk, follow) for disk in self._disks(vm)])

    def list_snapshots(self, vm_id):
        vm = self.get(vm_id)
        return listing("snapshot", [self._snapshot(vm, number) for number in self._numbers(vm)])

    def show_snapshot(self, vm_id, snapshot_id):
        vm = self.get(vm_id)
        return self._snapshot(vm, self._number(vm, snapshot_id))

    def list_snapshot_disks(self, vm_id, snapshot_id):
        vm = self.get(vm_id)
        number = self._number(vm, snapshot_id)
        shown = []
        for disk in self._disks(vm) if number is not None else []:
            if number < len(disk.snapshots):
                volume = {"image_id": disk.snapshots[number].id, "snapshot": {"id": snapshot_id}}
                shown.append({**self._world.disks.show(disk), **volume})
        return listing("disk", shown)

    # parts

    def get(self, vm_id):
        for vm in self.all():
            if vm.id == vm_id:
                return vm
        raise NotFound

    def all(self):
        vms = dict(self._added)
        known = {*vms, *(vm.name for vm in vms.values())}
        for disk in self._world.disks.all():
            if disk.vm and disk.vm not in known:
                known.add(disk.vm)
                vm = Vm(vm_id_of(disk.vm), disk.vm)
                vms[vm.id] = vm
        return list(vms.values())

    def of_disk(self, disk):
        """Returns the VM that the disk names, or None."""
        return next((vm for vm in self.all() if disk.vm in (vm.id, vm.name)), None) if disk.vm else None

    def _disks(self, vm):
        return [disk for disk in self._world.disks.all() if disk.vm in (vm.id, vm.name)]

    def _status(self, vm):
        return vm.status or ("up" if any(disk.vm_up for disk in self._disks(vm)) else "down")

    def _dumped(self, vm):
        return {"id": vm.id, "name": vm.name, "status": self._status(vm)}

    def _numbers(self, vm):
        """Returns the numbers of the snapshots, oldest first, and None for the active one."""
        most = max((len(disk.snapshots) for disk in self._disks(vm)), default=0)
        return [*range(most), None]

    def _number(self, vm, snapshot_id):
        for number in self._numbers(vm):
            if snapshot_id_of(vm.name, number) == snapshot_id:
                return number
        raise NotFound

    # representations

    def _show(self, vm, query):
        href = f"/ovirt-engine/api/vms/{vm.id}"
        shown = {"href": href, "id": vm.id, "name": vm.name, "status": self._status(vm), "type": "server"}
        if "disk_attachments" in query.get("follow", "").split(","):
            shown["disk_attachments"] = self.list_attachments(vm.id, {})
        return shown

    def _attachment(self, vm, disk, follow):
        return {
            "href": f"/ovirt-engine/api/vms/{vm.id}/diskattachments/{disk.id}",
            "id": disk.id,
            "active": True,
            "bootable": disk is self._disks(vm)[0],
            "interface": "virtio_scsi",
            "pass_discard": False,
            "read_only": False,
            "uses_scsi_reservation": False,
            "disk": self._world.disks.show(disk) if follow else {"id": disk.id},
            "vm": {"id": vm.id},
        }

    def _snapshot(self, vm, number):
        snapshot_id = snapshot_id_of(vm.name, number)
        latest = max(len(self._numbers(vm)) - 2, 0)
        seconds = FIRST_SNAPSHOT + HOUR * (latest if number is None else number)
        return {
            "href": f"/ovirt-engine/api/vms/{vm.id}/snapshots/{snapshot_id}",
            "id": snapshot_id,
            "description": "Active VM" if number is None else f"snapshot {number}",
            "date": Date.at(seconds),
            "persist_memorystate": False,
            "snapshot_status": "ok",
            "snapshot_type": "active" if number is None else "regular",
            "vm": {"id": vm.id},
        }


def vm_id_of(reference):
    """Returns the id of the VM that a disk names by its id or name."""
    return identifier(reference) or stable_id(f"vm {reference}")


def snapshot_id_of(vm_name, number):
    """Returns the id of a VM's snapshot, None being the number of the active one. A disk without a VM has
    such snapshots too, which nobody can ask for.
    """
    return stable_id(f"snapshot {vm_name} {'active' if number is None else number}")
