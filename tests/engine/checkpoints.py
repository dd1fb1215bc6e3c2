"""The checkpoints of VMs: from each of them on, a bitmap in every qcow2 disk tells what has changed.

A checkpoint's bitmaps have its id as their name and stay enabled, so each holds all changes since. The chain
of a VM's checkpoints is the order of their making. A checkpoint that was deleted is gone a step later, its
bitmaps with it. If a bitmap can't be removed (the switch checkpoint_stays), it remains, `invalid`.

As in the engine, a checkpoint of a paused VM is deleted too, up to 4.5.6, which destroys the images of its
disks: no client may do that. Nor may one delete an invalid checkpoint while the VM is up: the host has to
define it anew first, which fails where a bitmap is gone, and then the engine removes all checkpoints of the
VM.
"""

import threading
from dataclasses import dataclass, field

import bitmaps
import images
from wire import Date, NotFound, Refused, listing

LAST_THAT_CORRUPTS = [4, 5, 6]


@dataclass
class Checkpoint:
    id: str
    vm: object
    disks: list
    description: str | None
    parent: str | None = None
    state: str = "created"
    created: Date = field(default_factory=Date.now)
    deleting: bool = False


class Checkpoints:
    def __init__(self, world):
        self._world = world
        self._checkpoints = []
        self._lock = threading.RLock()

    # requests

    def list(self, vm):
        return listing("checkpoint", [self._show(one) for one in self.of_vm(vm)])

    def show(self, vm, checkpoint_id):
        return self._show(self.get(vm, checkpoint_id))

    def list_disks(self, vm, checkpoint_id):
        disks = self.get(vm, checkpoint_id).disks
        return listing("disk", [self._world.disks.show(disk) for disk in disks])

    def delete(self, vm, checkpoint_id):
        checkpoint = self.get(vm, checkpoint_id)
        status = self._world.vms.status(vm)
        if self._world.backups.is_open(vm):
            raise Refused(409, "Cannot delete VM checkpoint: The VM is during a backup operation.")
        if checkpoint.deleting:
            raise Refused(409, "Cannot delete VM checkpoint: it is being deleted already.")
        old = self._world.options.version[:3] <= LAST_THAT_CORRUPTS
        if status not in ("up", "down") and not (status == "paused" and old):
            raise Refused(409, "Cannot delete VM checkpoint: VM is neither up nor down.")
        checkpoint.deleting = True
        stays = self._world.switches.take("checkpoint_stays", checkpoint.id)
        if status == "down":
            checkpoint.state = "invalid"

        def step():
            if status == "up" and checkpoint.state == "invalid":
                self.remove_all(vm)
            elif stays:
                checkpoint.deleting = False
                self._world.events.add("checkpoint_not_deleted", vm, checkpoint=checkpoint.id)
            else:
                self._world.events.add("checkpoint_deleted", vm, checkpoint=checkpoint.id)
                self.remove(checkpoint)
            for disk in checkpoint.disks if status == "paused" else ():
                images.destroy(disk.path)
            return True

        self._world.coordinator.run(f"delete checkpoint {checkpoint.id}", step)

    # other commands

    def add(self, checkpoint_id, vm, disks, description):
        with self._lock:
            chain = self.of_vm(vm)
            parent = chain[-1].id if chain else None
            self._checkpoints.append(Checkpoint(checkpoint_id, vm, list(disks), description, parent))
        self._world.journal.event("checkpoint_created", vm=vm.id, checkpoint=checkpoint_id)

    def of_vm(self, vm):
        with self._lock:
            return [one for one in self._checkpoints if one.vm.id == vm.id]

    def get(self, vm, checkpoint_id):
        for checkpoint in self.of_vm(vm):
            if checkpoint.id == checkpoint_id:
                return checkpoint
        raise NotFound

    def remove(self, checkpoint):
        """Removes a checkpoint and its bitmaps; the next one of the chain gets its parent."""
        for disk in checkpoint.disks:
            self.remove_bitmap(disk, checkpoint.id)
        with self._lock:
            if checkpoint in self._checkpoints:
                self._checkpoints.remove(checkpoint)
            for one in self._checkpoints:
                if one.parent == checkpoint.id:
                    one.parent = checkpoint.parent
        self._world.journal.event("checkpoint_removed", vm=checkpoint.vm.id, checkpoint=checkpoint.id)

    def remove_all(self, vm):
        """Removes the chain of a VM, as a failed redefinition does, or a snapshot that is restored."""
        for checkpoint in self.of_vm(vm):
            self.remove(checkpoint)

    def forget(self, checkpoint_id):
        """Removes the record of a checkpoint whose backup has failed, but not its bitmaps."""
        with self._lock:
            self._checkpoints = [one for one in self._checkpoints if one.id != checkpoint_id]

    def remove_bitmap(self, disk, name):
        """Removes a bitmap from all layers of a disk."""
        with disk.io:
            for volume in disk.chain(disk):
                if volume.format == "cow" and name in bitmaps.names(volume.path):
                    bitmaps.remove(volume.path, name)

    def disk_detached(self, vm, disk):
        for checkpoint in self.of_vm(vm):
            if disk in checkpoint.disks:
                self.remove_bitmap(disk, checkpoint.id)
                checkpoint.disks.remove(disk)

    def change(self, vm, checkpoint_id, spec):
        """Changes the `state` by the control socket, or what is on storage: `bitmap` is `removed` or
        `disabled` in the disk `disk`, or in all disks.
        """
        checkpoint = self.get(vm, checkpoint_id)
        checkpoint.state = spec.get("state", checkpoint.state)
        for disk in checkpoint.disks:
            if spec.get("disk") not in (None, disk.id, disk.name):
                continue
            if spec.get("bitmap") == "removed":
                self.remove_bitmap(disk, checkpoint.id)
            elif spec.get("bitmap") == "disabled":
                with disk.io:
                    bitmaps.disable(disk.path, checkpoint.id)
        return self._show(checkpoint)

    def dump(self):
        with self._lock:
            return [
                {
                    "id": one.id,
                    "vm": one.vm.id,
                    "parent": one.parent,
                    "state": one.state,
                    "disks": [disk.id for disk in one.disks],
                }
                for one in self._checkpoints
            ]

    def _show(self, checkpoint):
        href = f"/ovirt-engine/api/vms/{checkpoint.vm.id}/checkpoints/{checkpoint.id}"
        return {
            "href": href,
            "id": checkpoint.id,
            "creation_date": checkpoint.created,
            "description": checkpoint.description,
            "parent_id": checkpoint.parent,
            "state": checkpoint.state,
            "vm": {"id": checkpoint.vm.id},
        }
