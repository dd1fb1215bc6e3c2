"""VMs.

A VM is there because it was added (see control), created by a client, or because a disk names it: `vm` of a
disk is the VM's id or name. One that only a disk names is up while such a disk has `vm_up`; any other has its
own status. Its disks are its attachments (see attachments), its snapshots are in snapshots.

As in the engine, a list of VMs has pages (`search` with `page N`, and `max`), and follows `disk_attachments`.
"""

from dataclasses import dataclass

from directory import stable_id
from search import select
from wire import NotFound, Refused, identifier, new_id, listing

STATUSES = tuple("up down paused suspended saving_state powering_up powering_down not_responding".split())


@dataclass
class Vm:
    id: str
    name: str
    status: str | None = None
    description: str = ""
    level: str | None = None  # the compatibility level, if it is not that of the cluster
    is_engine: bool = False  # it is the VM in which a hosted engine runs


class Vms:
    def __init__(self, world):
        self._world = world
        self._added = {}

    # for the control socket

    def add(self, spec):
        """Adds a VM; its `attachments` are a list of {"disk": ID, ...} with the members of an attachment."""
        vm = Vm(spec.get("id") or new_id(), spec["name"])
        self._added[vm.id] = vm
        facts = {name: value for name, value in spec.items() if name != "attachments"}
        self.change(vm.id, {"status": "down", **facts})
        for attachment in spec.get("attachments", []):
            self._world.attachments.attach(vm, self._world.disks.get(attachment["disk"]), attachment)
        self._world.journal.event("vm_existing", vm=vm.id, name=vm.name, status=vm.status)
        return self._dumped(vm)

    def change(self, reference, spec):
        """Changes `status`, `name`, `description`, `level` or `is_engine` of a VM, known by its id or name,
        and `attachments`, a list of {"disk": ID, ...}.
        """
        vm = self.find(reference)
        if vm is None:
            raise NotFound
        self._added[vm.id] = vm
        if spec.get("status") not in (None, *STATUSES):
            raise ValueError(f"no status of a VM: {spec['status']}")
        was = self.status(vm)
        for name in ("status", "name", "description", "level", "is_engine"):
            if name in spec:
                setattr(vm, name, spec[name])
        if self.status(vm) != was and self._world.backups:
            self._world.backups.vm_changed(vm, crashed=bool(spec.get("crashed")))
        for one in spec.get("attachments", []):
            self._world.attachments.change(vm, self._world.disks.get(one["disk"]), one)
        self._world.journal.event("vm_changed", vm=vm.id, changes=spec)
        return self._dumped(vm)

    def dump(self):
        return [self._dumped(vm) for vm in self.all()]

    # requests

    def list(self, query):
        found = select(self.all(), self._dumped, query)
        return listing("vm", [self._show(vm, query) for vm in found])

    def show(self, vm_id, query):
        return self._show(self.get(vm_id), query)

    # parts

    def get(self, vm_id):
        for vm in self.all():
            if vm.id == vm_id:
                return vm
        raise NotFound

    def find(self, reference):
        return next((vm for vm in self.all() if reference in (vm.id, vm.name)), None)

    def all(self):
        vms = dict(self._added)
        known = {*vms, *(vm.name for vm in vms.values())}
        for disk in self._world.disks.all():
            if disk.vm and disk.vm not in known:
                known.add(disk.vm)
                vm = Vm(vm_id_of(disk.vm), disk.vm)
                vms[vm.id] = vm
        return list(vms.values())

    def create(self, vm):
        """Adds a VM that a client has created."""
        if self.find(vm.id):
            raise Refused(409, "Cannot import VM. VM with the same identifier already exists.")
        self._added[vm.id] = vm
        self._world.journal.event("vm_created", vm=vm.id, name=vm.name)

    def delete(self, vm_id, keeps_disks=False):
        """Removes a VM that is down, and its disks if it does not keep them."""
        vm = self.get(vm_id)
        if self.status(vm) != "down":
            raise Refused(409, "Cannot remove VM: VM is running.")
        if self._world.backups and self._world.backups.is_open(vm):
            raise Refused(409, "Cannot remove VM: The VM is during a backup operation.")
        for attachment in self._world.attachments.of_vm(vm):
            if keeps_disks or attachment.disk.shareable or attachment.disk.is_lun:
                self._world.attachments.remove(vm, attachment.disk.id)
            else:
                self._world.disks.delete(attachment.disk.id)
        self._added.pop(vm.id, None)

    def of_disk(self, disk):
        """Returns the first VM that the disk is attached to, or None."""
        named = next((vm for vm in self.all() if disk.vm in (vm.id, vm.name)), None) if disk.vm else None
        return named or next(iter(self._world.attachments.vms_of(disk)), None)

    def status(self, vm):
        if vm.status:
            return vm.status
        disks = [one.disk for one in self._world.attachments.of_vm(vm)]
        return "up" if any(disk.vm_up for disk in disks) else "down"

    def level(self, vm):
        """Returns the compatibility level as two numbers."""
        text = vm.level or self._world.options.level
        return tuple(int(number) for number in text.split("."))

    def _dumped(self, vm):
        return {"id": vm.id, "name": vm.name, "status": self.status(vm)}

    def _show(self, vm, query):
        href = f"/ovirt-engine/api/vms/{vm.id}"
        shown = {"href": href, "id": vm.id, "name": vm.name, "status": self.status(vm), "type": "server"}
        shown["description"] = vm.description
        shown["cluster"] = {"id": self._world.directory.cluster.id}
        if vm.level:
            major, minor = self.level(vm)
            shown["custom_compatibility_version"] = {"major": major, "minor": minor}
        if query.get("all_content") == "true":
            data = self._world.ovf.write(vm, as_ova=query.get("ovf_as_ova") == "true")
            shown["initialization"] = {"configuration": {"type": "ovf", "data": data}}
        if "disk_attachments" in query.get("follow", "").split(","):
            shown["disk_attachments"] = self._world.attachments.list(vm, {})
        return shown


def vm_id_of(reference):
    """Returns the id of the VM that a disk names by its id or name."""
    return identifier(reference) or stable_id(f"vm {reference}")
