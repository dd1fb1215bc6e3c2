"""The live backup of a running VM: its qemu, here a storage daemon, copies what the guest overwrites to
scratch disks, and exports the disks as they were, with what is dirty since a checkpoint.

All disks are frozen in one transaction, which also adds the bitmaps of the new checkpoint. The export for the
guest's writes is there before that, so that they pass the copying. Scratch disks are illegal disks that a
client sees; they go with the backup.

If the VM is powered off, its server is gone, and requests of transfers fail; finalize takes that for the end.
A crash also leaves the bitmaps unusable.
"""

import os

import images
from cold import lock, unlock
from exports import SharedExport, find
from nbd import NbdError
from storage_daemon import QmpError, StorageDaemon
from volumes import quiet


class Live:
    NAME = "live"
    REDEFINES = True

    def __init__(self, world, backup):
        self._world = world
        self._backup = backup
        self._daemon = None
        self._scratch = {}
        self._with_bitmap = []
        self._holders = {}
        lock(world, backup)

    def begin(self):
        switches, backup = self._world.switches, self._backup
        subject = self._world.backups.subject(backup)
        if switches.take("freeze_fails", subject) and backup.is_consistent:
            raise QmpError("the guest could not be frozen")
        self._make_scratch_disks(subject)
        with self._quiet():
            for one in backup.disks:
                if one.mode == "incremental":
                    # They are looked for before the daemon has the images, and marks the bitmaps as in use.
                    self._holders[one.disk.id] = find(one.disk.chain(one.disk), backup.from_checkpoint)
            directory = os.path.join(self._world.options.dir, "nbd")
            self._daemon = StorageDaemon(directory, backup.id[:8])
            for number, one in enumerate(backup.disks):
                self._open(node_of(number), one)
            self._freeze()

    def has_bitmap(self, disk):
        return disk.id in self._with_bitmap

    def export(self, name, disk, bitmap):
        if not self._daemon.is_running():
            raise NbdError("the VM that has the disk does not run")
        return SharedExport(self._url(export_of(self._number(disk))))

    def end(self):
        with self._quiet():
            self._stop_daemon()
        self._clean_up()

    def abandon(self):
        with self._quiet():
            self._stop_daemon()
        for one in self._backup.disks:
            if one.disk.id in self._with_bitmap:
                self._world.checkpoints.remove_bitmap(one.disk, self._backup.next_checkpoint)
        self._with_bitmap = []
        self._clean_up()

    def guest_export(self, disk):
        if self._daemon is None or not self._daemon.is_running():
            return None
        return f"nbd+unix:///guest-{node_of(self._number(disk))}?socket={self._daemon.socket}"

    def vm_changed(self, crashed):
        if self._world.vms.status(self._backup.vm) != "down" or self._daemon is None:
            return
        with self._quiet():
            if crashed:
                self._daemon.kill()
            else:
                self._stop_daemon()

    # parts

    def _quiet(self):
        return quiet([one.disk for one in self._backup.disks])

    def _make_scratch_disks(self, subject):
        backup, disks = self._backup, self._world.disks
        self._event("scratch_started")
        for one in backup.disks:
            name = f"VM {backup.vm.name} backup {backup.id} scratch disk for {one.disk.name}"
            self._scratch[one.disk.id] = disks.add_scratch(name, one.disk)
        if self._world.switches.take("scratch_fails", subject):
            self._event("scratch_failed")
            raise QmpError("no room for the scratch disks")
        self._event("scratch_made")

    def _open(self, node, one):
        """Opens a disk, and the way of the guest to it."""
        run, disk, scratch = self._daemon.run, one.disk, self._scratch[one.disk.id]
        driver = images.QEMU_FORMAT[disk.format]
        run(
            "blockdev-add",
            **{"driver": driver, "node-name": node, "discard": "unmap", "file": file_of(disk.path)},
        )
        guest = {"id": f"guest-{node}", "type": "nbd", "node-name": node, "name": f"guest-{node}"}
        run("block-export-add", **guest, writable=True)
        images.create(scratch.path, "cow", disk.size, False)
        copy = {"driver": "qcow2", "node-name": f"scratch-{node}", "backing": node}
        run("blockdev-add", **copy, file=file_of(scratch.path))
        if one.mode == "incremental":
            copied = bitmap_of(node)
            run("block-dirty-bitmap-add", node=node, name=copied, disabled=True)
            name = self._backup.from_checkpoint
            sources = [{"node": node, "name": name}, *self._lower_bitmaps(node, disk, name)]
            run("block-dirty-bitmap-merge", node=node, target=copied, bitmaps=sources)

    def _lower_bitmaps(self, node, disk, name):
        """Opens the layers below that have the bitmap too; returns their references."""
        references = []
        for number, volume in enumerate(self._holders[disk.id][1:]):
            lower = f"{node}-below-{number}"
            self._daemon.run(
                "blockdev-add",
                **{"driver": "qcow2", "node-name": lower, "read-only": True, "file": file_of(volume.path)},
                backing=None,
            )
            references.append({"node": lower, "name": name})
        return references

    def _freeze(self):
        actions, backup = [], self._backup
        for number, one in enumerate(backup.disks):
            node = node_of(number)
            if one.disk.format == "cow":
                bitmap = {"node": node, "name": backup.next_checkpoint, "persistent": True}
                actions.append({"type": "block-dirty-bitmap-add", "data": bitmap})
                self._with_bitmap.append(one.disk.id)
            job = {"device": node, "job-id": f"job-{node}", "target": f"scratch-{node}", "sync": "none"}
            actions.append({"type": "blockdev-backup", "data": job})
        self._daemon.run("transaction", actions=actions)
        for number, one in enumerate(backup.disks):
            node = node_of(number)
            export = {"id": node, "type": "nbd", "node-name": f"scratch-{node}", "name": export_of(number)}
            if one.mode == "incremental":
                export["bitmaps"] = [{"node": node, "name": bitmap_of(node)}]
            self._daemon.run("block-export-add", **export, **{"allocation-depth": True})

    def _number(self, disk):
        return next(n for n, one in enumerate(self._backup.disks) if one.disk is disk)

    def _url(self, export):
        return f"nbd:unix:{self._daemon.socket}:exportname={export}"

    def _stop_daemon(self):
        """Ends the daemon in order; one that is gone counts as done."""
        if self._daemon is None:
            return
        for number, _ in enumerate(self._backup.disks):
            for command, arguments in (
                ("block-export-del", {"id": node_of(number), "mode": "hard"}),
                ("block-export-del", {"id": f"guest-{node_of(number)}", "mode": "hard"}),
                ("block-job-cancel", {"device": f"job-{node_of(number)}", "force": True}),
            ):
                try:
                    if self._daemon.is_running():
                        self._daemon.run(command, **arguments)
                except (OSError, QmpError):
                    continue
        self._daemon.quit()

    def _clean_up(self):
        for scratch in self._scratch.values():
            self._world.disks.drop_scratch(scratch)
        self._scratch = {}
        unlock(self._world, self._backup)

    def _event(self, kind):
        self._world.events.add(kind, self._backup.vm, backup=self._backup.id)


def node_of(number):
    return f"sd{chr(ord('a') + number)}" if number < 26 else f"sd-{number}"


def export_of(number):
    return node_of(number)


def bitmap_of(node):
    return f"backup-{node}"


def file_of(path):
    return {"driver": "file", "filename": path}
