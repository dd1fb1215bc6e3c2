"""Disks and their snapshots: how they are created, shown, locked and removed (see volumes for the records).

Creation and removal are commands with steps (see coordinator). The store's lock guards all fields; qemu-img
runs without it.
"""

import os
import threading
import time

import images
from search import select
from snapshots import snapshot_id_of
from volumes import Disk, locked_message
from wire import NotFound, Refused, boolean, choice, identifier, incomplete, integer, listing, new_id

EXCLUSIVE, SHARED = "exclusive", "shared"
DUMPED = tuple(
    "id name status format sparse size path image_id initial_size capacity vm vm_up"
    " wipe_after_delete".split()
)


class Disks:
    def __init__(self, world):
        self._world = world
        self._disks = {}
        self.lock = threading.RLock()

    # requests

    def create(self, body, correlation_id):
        disk = self._parse(body)
        job = self._world.jobs.start(f"Creating Disk {disk.name}", correlation_id)
        delay = self._world.switches.take("disk_slow", disk.subject) or 0
        illegal = self._world.switches.take("disk_illegal", disk.subject)
        with self.lock:
            if disk.id in self._disks:
                raise Refused(409, f"Cannot add Virtual Disk: a disk with the id {disk.id} exists already.")
            disk.holders["creation"] = EXCLUSIVE
            self._disks[disk.id] = disk
        self._world.journal.event(
            "disk_created", disk=disk.id, name=disk.name, format=disk.format, sparse=disk.sparse
        )
        ready_at = time.monotonic() + delay

        def step():
            if time.monotonic() < ready_at:
                return False
            failed = illegal
            try:
                images.create(disk.path, disk.format, disk.size, not disk.sparse)
            except images.ImageError as error:
                failed = True
                self._world.journal.event("disk_creation_failed", disk=disk.id, reason=str(error))
            with self.lock:
                disk.holders.pop("creation")
                self.set_status(disk, "illegal" if failed else "ok")
            job.finish(not failed)
            return True

        self._world.coordinator.run(f"create disk {disk.id}", step)
        return {**self.show(disk), "creation_status": "in_progress"}

    def delete(self, disk_id):
        with self.lock:
            disk = self.get(disk_id)
            if disk.holders or disk.status == "locked":
                raise Refused(409, locked_message("remove Virtual Disk", disk))
            if self._world.attachments.is_plugged(disk):
                raise Refused(409, attached_message("remove Virtual Disk", disk))
            self.remove(disk)

    def list(self, query):
        def facts(disk):
            return {"id": disk.id, "name": disk.name, "alias": disk.name, "status": disk.status}

        with self.lock:
            found = select(self._disks.values(), facts, query, has_pages=False)
            return listing("disk", [self.show(disk) for disk in found])

    def list_snapshots(self, query, disk_id=None, domain_id=None):
        """Lists the volumes below the active ones; with `include_active`, these too."""
        with self.lock:
            disks = [self.get(disk_id)] if disk_id else self._disks.values()
            disks = [one for one in disks if domain_id in (None, one.domain.id)]
            active = query.get("include_active", "false") in ("", "true")
            layered = [disk for disk in disks if not disk.is_lun]
            volumes = [volume for disk in layered for volume in self._volumes(disk, active)]
            return listing("disk_snapshot", volumes)

    # other commands

    def get(self, disk_id):
        disk = self._disks.get(disk_id)
        if disk is None:
            raise NotFound
        return disk

    def all(self):
        with self.lock:
            return list(self._disks.values())

    def find(self, disk_id):
        return self._disks.get(disk_id)

    def find_snapshot(self, snapshot_id):
        for disk in self.all():
            for snapshot in disk.snapshots:
                if snapshot_id in (snapshot.id, snapshot.image_id):
                    return snapshot
        return None

    def update(self, disk_id, body):
        """Changes a disk as PUT does, also while its VM runs."""
        disk = self.get(disk_id)
        backup = choice(body, "backup", ("none", "incremental"), disk.backup)
        size = integer(body, "provisioned_size", disk.size)
        if backup == "incremental" and disk.format == "raw":
            raise Refused(400, "Cannot edit Virtual Disk: Incremental backup is not supported for RAW disks.")
        if size < disk.size:
            raise Refused(400, "Cannot edit Virtual Disk: New disk size cannot be smaller than the current.")
        with self.lock:
            if disk.status == "locked" or disk.holders:
                raise Refused(409, locked_message("edit Virtual Disk", disk))
            disk.backup = backup
            disk.name = body.get("name") or body.get("alias") or disk.name
            disk.description = body.get("description", disk.description)
        if size > disk.size:
            with disk.io:
                images.resize(disk.path, disk.format, size)
                disk.size = size
        self._world.journal.event("disk_changed", disk=disk.id, changes=body)
        return self.show(disk)

    def convert(self, disk_id, body, correlation_id):
        """Converts a disk to the format that the body wants, in a step: its bytes stay, its volume is new."""
        disk, wanted = self.get(disk_id), body.get("disk") or {}
        disk_format = choice(wanted, "format", ("raw", "cow"), disk.format)
        backup = choice(wanted, "backup", ("none", "incremental"), disk.backup)
        with self.lock:
            if disk.status == "locked" or disk.holders:
                raise Refused(409, locked_message("convert Virtual Disk", disk))
            if self._world.attachments.is_plugged(disk):
                raise Refused(409, attached_message("convert Virtual Disk", disk))
            if disk.snapshots or (disk_format == "raw" and backup == "incremental"):
                raise Refused(409, "Cannot convert Virtual Disk: the disk can't have that format.")
            disk.holders["conversion"] = EXCLUSIVE
            self.set_status(disk, "locked")
        job = self._world.jobs.start(f"Converting Disk {disk.name}", correlation_id)

        def step():
            image_id = new_id()
            path = os.path.join(disk.directory, image_id)
            images.convert(disk.path, disk.format, path, disk_format)
            os.unlink(disk.path)
            with self.lock:
                disk.path, disk.image_id, disk.format, disk.backup = path, image_id, disk_format, backup
                disk.sparse = disk.sparse or disk_format == "cow"
                self.give_capacity(disk)
                disk.holders.pop("conversion")
                self.set_status(disk, "ok")
            job.finish()
            return True

        self._world.coordinator.run(f"convert disk {disk.id}", step)

    def set_status(self, volume, status):
        with self.lock:
            if volume.status == status:
                return
            volume.status = status
        self._world.journal.event("disk_status", disk=volume.id, name=volume.name, status=status)

    def remove(self, disk):
        """Locks the disk at once, and removes it a step later."""
        with self.lock:
            disk.holders["removal"] = EXCLUSIVE
            self.set_status(disk, "locked")

        def step():
            images.remove(disk.path)
            with self.lock:
                self._disks.pop(disk.id, None)
            self._world.journal.event("disk_removed", disk=disk.id, name=disk.name)
            return True

        self._world.coordinator.run(f"remove disk {disk.id}", step)

    def add_existing(self, spec):
        """Adds an existing disk, for a start option or the control socket."""
        domain = self._world.directory.find_domain({"name": spec["domain"]} if "domain" in spec else {})
        size = int(spec["size"])
        disk = self._new(
            spec.get("id") or new_id(),
            spec["name"],
            spec.get("format", "raw"),
            bool(spec.get("sparse", True)),
            size,
            domain,
            spec.get("initial_size") or size + (size >> 3),
            new_id(),
        )
        disk.vm, disk.vm_up = spec.get("vm"), bool(spec.get("vm_up", spec.get("vm")))
        disk.content_type = spec.get("content_type", "data")
        disk.backup = spec.get("backup", "none")
        disk.wipe_after_delete = bool(spec.get("wipe_after_delete"))
        disk.shareable, disk.is_lun = bool(spec.get("shareable")), bool(spec.get("is_lun"))
        if not disk.is_lun:
            images.create(disk.path, disk.format, disk.size, not disk.sparse, spec.get("content"))
        for number in range(int(spec.get("snapshots", 0))):
            self._world.snapshots.give_old(disk, number)
        disk.status = spec.get("status", "ok")
        with self.lock:
            self._disks[disk.id] = disk
        self._world.journal.event("disk_existing", disk=disk.id, name=disk.name, status=disk.status)
        return disk

    def change(self, disk_id, spec):
        with self.lock:
            disk = self.get(disk_id)
            for name in ("status", "name", "vm", "vm_up", "shareable", "wipe_after_delete"):
                if name in spec:
                    setattr(disk, name, spec[name])
        self._world.journal.event("disk_changed", disk=disk.id, changes=spec)
        return disk

    def add_scratch(self, name, source):
        """Adds the scratch disk of a live backup: clients see it, illegal, and can do nothing with it."""
        scratch = self._new(new_id(), name, "cow", True, source.size, source.domain, None, new_id())
        scratch.content_type, scratch.status = "backup_scratch", "illegal"
        with self.lock:
            self._disks[scratch.id] = scratch
        return scratch

    def drop_scratch(self, scratch):
        images.remove(scratch.path)
        with self.lock:
            self._disks.pop(scratch.id, None)

    def give_capacity(self, disk):
        """Gives a thin disk of a block domain, or its new layer, the size of its logical volume."""
        disk.capacity = None
        if disk.domain.is_block and disk.format == "cow":
            extent = self._world.options.block_extent
            wanted = self._world.options.block_chunk if disk.initial_size is None else disk.initial_size
            disk.capacity = max(-(-wanted // extent), 1) * extent

    # representations

    def show_alone(self, disk):
        """Shows a disk with the VM that it is attached to, which no list of disks tells."""
        vms = [{"id": vm.id} for vm in self._world.attachments.vms_of(disk)]
        return {**self.show(disk), "vms": {"vm": vms} if vms else None}

    def show(self, disk):
        shown = {
            "href": f"/ovirt-engine/api/disks/{disk.id}",
            "id": disk.id,
            "name": disk.name,
            "alias": disk.name,
            "description": disk.description or "",
            "status": disk.status,
            "content_type": disk.content_type,
            "storage_type": "lun" if disk.is_lun else "image",
            "propagate_errors": False,
            "shareable": disk.shareable,
            "wipe_after_delete": disk.wipe_after_delete,
        }
        return {**shown, **(self._show_lun(disk) if disk.is_lun else self._show_image(disk))}

    def _show_lun(self, disk):
        unit = {"id": f"36001405{disk.id.replace('-', '')[:24]}", "size": disk.size, "status": "used"}
        storage = {"type": "iscsi", "logical_units": {"logical_unit": [unit]}}
        return {"lun_storage": storage}

    def _show_image(self, disk):
        allocated = images.allocated(disk.path)
        below = sum(images.allocated(one.path) for one in disk.snapshots)
        return {
            "format": disk.format,
            "sparse": disk.sparse,
            "provisioned_size": disk.size,
            "actual_size": allocated,
            "total_size": allocated + below,
            "initial_size": disk.initial_size,
            "backup": disk.backup,
            "image_id": disk.image_id,
            "qcow_version": "qcow2_v3" if disk.format == "cow" else None,
            "storage_domains": {"storage_domain": [{"id": disk.domain.id}]},
            "snapshot": {"id": self._active_snapshot(disk)},
        }

    def dump(self):
        with self.lock:
            return [
                {
                    **{name: getattr(disk, name) for name in DUMPED},
                    "domain": disk.domain.name,
                    "locked_by": list(disk.holders),
                    "snapshots": [{"id": one.id, "path": one.path} for one in disk.snapshots],
                }
                for disk in self._disks.values()
            ]

    def _active_snapshot(self, disk):
        vm = self._world.vms.of_disk(disk)
        return snapshot_id_of(vm.name if vm else disk.id, None)

    def _volumes(self, disk, active):
        """Shows the disk's snapshots, oldest first, and its `active` layer if asked for."""
        shown = []
        for volume in [*disk.snapshots, disk] if active else disk.snapshots:
            own = disk.image_id if volume is disk else volume.id
            below = disk.parent_of(volume)
            snapshot = self._active_snapshot(disk) if volume is disk else volume.vm_snapshot
            facts = {"snapshot": {"id": snapshot}, "parent": {"id": below.id} if below else None}
            shown.append({**self._show_volume(disk, volume, own), **facts})
        return shown

    def _show_volume(self, disk, volume, volume_id):
        return {
            "href": f"/ovirt-engine/api/disks/{disk.id}/disksnapshots/{volume_id}",
            "id": volume_id,
            "name": disk.name,
            "alias": disk.name,
            "status": volume.status,
            "format": volume.format,
            "sparse": volume.sparse,
            "provisioned_size": volume.size,
            "actual_size": images.allocated(volume.path),
            "storage_type": "image",
            "disk": {"id": disk.id},
            "storage_domains": {"storage_domain": [{"id": volume.domain.id}]},
        }

    # parts of a new disk

    def _parse(self, body):
        size = integer(body, "provisioned_size")
        disk_format = choice(body, "format", ("raw", "cow"))
        if size is None or disk_format is None:
            raise incomplete("Disk [provisionedSize|format]")
        references = (body.get("storage_domains") or {}).get("storage_domain") or []
        if not references:
            raise incomplete("Disk [storageDomains.storageDomain.id|name]")
        domain = self._world.directory.find_domain(references[0])
        if "id" in body and not identifier(body["id"]):
            raise Refused(400, f"Not a UUID: {body['id']}")
        name = body.get("name") or body.get("alias") or ""
        sparse = boolean(body, "sparse", True)
        initial_size = integer(body, "initial_size")
        image_id = body.get("image_id") or new_id()
        disk = self._new(
            body.get("id") or new_id(), name, disk_format, sparse, size, domain, initial_size, image_id
        )
        disk.description = body.get("description")
        disk.content_type = choice(body, "content_type", ("data", "iso"), "data")
        disk.backup = choice(body, "backup", ("none", "incremental"), "none")
        disk.wipe_after_delete = boolean(body, "wipe_after_delete", False)
        self._check(disk)
        return disk

    def _check(self, disk):
        raw, incremental = disk.format == "raw", disk.backup == "incremental"
        if not disk.domain.attached or not disk.domain.active:
            raise Refused(409, "Cannot add Virtual Disk. The relevant Storage Domain is inaccessible.")
        wrong = (
            (raw and disk.sparse and disk.domain.is_block)
            or (raw and incremental)
            or (not raw and not disk.sparse and not incremental)
            or (disk.content_type == "iso" and (not raw or disk.sparse))
        )
        if wrong:
            allocation = "sparse" if disk.sparse else "preallocated"
            raise Refused(
                409,
                f"Cannot add Virtual Disk. Disk configuration ({disk.format.upper()} {allocation} "
                f"backup-{disk.backup}) is incompatible with the storage domain type.",
            )

    def _new(self, disk_id, name, disk_format, sparse, size, domain, initial_size, image_id):
        path = os.path.join(self._world.options.dir, "images", domain.name, disk_id, image_id)
        disk = Disk(
            disk_id, name, disk_format, sparse, size, domain, path, image_id, initial_size=initial_size
        )
        self.give_capacity(disk)
        return disk


def attached_message(action, disk):
    return f"Cannot {action}: The following disks are attached to VMs that are not down: {disk.name}."
