"""The attachments of disks to VMs.

A disk is attached to the VM that it names (`vm`), and to each VM that an attachment was made for: by a
client, or by the control socket, as a shareable disk is attached to several. An attachment that is not active
is one whose disk is unplugged: the guest does not see it, and a backup leaves it out.
"""

from dataclasses import dataclass

from volumes import locked_message
from wire import NotFound, Refused, boolean, choice, incomplete, listing

INTERFACES = ("virtio_scsi", "virtio", "ide", "sata", "spapr_vscsi")
SHOWN = tuple("active bootable interface logical_name pass_discard read_only uses_scsi_reservation".split())


@dataclass
class Attachment:
    disk: object
    is_own: bool = False  # it is there although the disk does not name the VM
    bootable: bool | None = None
    interface: str = "virtio_scsi"
    active: bool = True
    read_only: bool = False
    pass_discard: bool = False
    uses_scsi_reservation: bool = False
    logical_name: str | None = None


class Attachments:
    def __init__(self, world):
        self._world = world
        self._known = {}

    # requests

    def list(self, vm, query):
        follow = "disk" in query.get("follow", "").split(",")
        return listing("disk_attachment", [self._show(vm, one, follow) for one in self.of_vm(vm)])

    def show(self, vm, disk_id, query=None):
        follow = "disk" in (query or {}).get("follow", "").split(",")
        return self._show(vm, self._get(vm, disk_id), follow)

    def add(self, vm, body):
        """Attaches a disk that exists; a new one is created with POST /disks here."""
        disk_id = body.get("id") or (body.get("disk") or {}).get("id")
        if not disk_id or "interface" not in body:
            raise incomplete("DiskAttachment [interface|disk.id]")
        disk = self._world.disks.find(disk_id)
        if disk is None:
            raise Refused(400, "Cannot attach Virtual Disk: The specified disk does not exist.")
        self.attach(vm, disk, body)
        return self.show(vm, disk_id)

    def update(self, vm, disk_id, body):
        attachment = self._get(vm, disk_id)
        self._set(attachment, body)
        if body.get("disk"):
            self._world.disks.update(disk_id, body["disk"])
        return self.show(vm, disk_id)

    def remove(self, vm, disk_id):
        """Detaches a disk. As in engines of 2026, its checkpoints and bitmaps go with that."""
        attachment = self._get(vm, disk_id)
        disk = attachment.disk
        with self._world.disks.lock:
            if self._world.vms.status(vm) != "down" and attachment.active:
                raise Refused(409, "Cannot detach Virtual Disk: the disk is plugged to a VM that is not down")
            if disk.holders or disk.status == "locked":
                raise Refused(409, locked_message("detach Virtual Disk", disk))
            self._known.pop((vm.id, disk_id), None)
            if disk.vm in (vm.id, vm.name):
                disk.vm = None
        if self._world.checkpoints:
            self._world.checkpoints.disk_detached(vm, disk)
        self._world.journal.event("disk_detached", disk=disk_id, vm=vm.id)

    # other commands

    def attach(self, vm, disk, spec):
        with self._world.disks.lock:
            if any(one.disk is disk for one in self.of_vm(vm)):
                raise Refused(409, "Cannot attach Virtual Disk: the disk is already attached to the VM.")
            if self.vms_of(disk) and not disk.shareable:
                raise Refused(409, "Cannot attach Virtual Disk: the disk is attached to another VM.")
            if disk.status == "locked":
                raise Refused(409, locked_message("attach Virtual Disk", disk))
            attachment = Attachment(disk, is_own=True)
            self._set(attachment, spec)
            self._known[vm.id, disk.id] = attachment
        self._world.journal.event("disk_attached", disk=disk.id, vm=vm.id)
        return attachment

    def change(self, vm, disk, spec):
        """Changes an attachment by the control socket."""
        self._set(self._get(vm, disk.id), spec)

    def of_vm(self, vm):
        """Returns the VM's attachments in the order of the disks."""
        found = []
        with self._world.disks.lock:
            for disk in self._world.disks.all():
                known = self._known.get((vm.id, disk.id))
                if disk.vm in (vm.id, vm.name) and known is None:
                    known = self._known[vm.id, disk.id] = Attachment(disk)
                if known and (known.is_own or disk.vm in (vm.id, vm.name)):
                    found.append(known)
        return found

    def vms_of(self, disk):
        with self._world.disks.lock:
            own = {
                vm_id for (vm_id, disk_id), one in self._known.items() if disk_id == disk.id and one.is_own
            }
        if disk.vm is None and not own:
            return []
        return [vm for vm in self._world.vms.all() if vm.id in own or disk.vm in (vm.id, vm.name)]

    def is_plugged(self, disk):
        """Tells whether a VM that is not down uses the disk."""
        for vm in self.vms_of(disk):
            if not self._get(vm, disk.id).active:
                continue
            if disk.vm_up if vm.status is None else vm.status != "down":
                return True
        return False

    # parts

    def _get(self, vm, disk_id):
        for attachment in self.of_vm(vm):
            if attachment.disk.id == disk_id:
                return attachment
        raise NotFound

    def _set(self, attachment, spec):
        attachment.interface = choice(spec, "interface", INTERFACES, attachment.interface)
        attachment.logical_name = spec.get("logical_name", attachment.logical_name)
        for name in ("active", "bootable", "read_only", "pass_discard", "uses_scsi_reservation"):
            setattr(attachment, name, boolean(spec, name, getattr(attachment, name)))

    def is_bootable(self, vm, attachment):
        """The first disk is bootable, unless an attachment says which one is."""
        if attachment.bootable is not None:
            return attachment.bootable
        others = self.of_vm(vm)
        return attachment is others[0] and not any(one.bootable for one in others)

    def _show(self, vm, attachment, follow):
        disk = attachment.disk
        shown = {name: getattr(attachment, name) for name in SHOWN}
        href = f"/ovirt-engine/api/disks/{disk.id}"
        return {
            "href": f"/ovirt-engine/api/vms/{vm.id}/diskattachments/{disk.id}",
            "id": disk.id,
            **shown,
            "bootable": self.is_bootable(vm, attachment),
            "disk": self._world.disks.show(disk) if follow else {"href": href, "id": disk.id},
            "vm": {"id": vm.id},
        }
