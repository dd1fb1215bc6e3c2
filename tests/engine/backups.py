"""Backups of VMs as clients see them: the request, the entity, its disks, and finalize.

The kind of a backup is the engine's choice: hybrid where the VM's compatibility level has it, unless the
request has `legacy=true`; otherwise live for a VM that is up, cold for one that is down. The parameter
`use_active`, which the API's documentation has, is not read, as in the engine. What a kind does is in hybrid,
live and cold, and the steps in between are those of the backing (see backing).

Disks that can't take part (shareable, direct LUNs, unplugged) are left out without a word. A disk is backed
up incrementally if the checkpoint that the request names has it, and whole otherwise.

Ended backups are forgotten after a while, like transfers; an engine before 4.4.7 forgets one as soon as it
has failed.
"""

import threading
import time
from dataclasses import dataclass, field

from backing import Backing
from cold import Cold
from hybrid import Hybrid
from live import Live
from phases import ENDED as TRANSFER_ENDED
from volumes import locked_message
from wire import Date, NotFound, Refused, identifier, listing, new_id

MAX_DESCRIPTION = 1024
OPEN = ("initializing", "starting", "ready", "finalizing")


@dataclass
class BackedDisk:
    disk: object
    mode: str
    size: int


@dataclass
class Backup:
    id: str
    vm: object
    disks: list
    from_checkpoint: str | None
    description: str | None
    is_consistent: bool
    phase: str = "initializing"
    to_checkpoint: str | None = None
    next_checkpoint: str | None = None  # the id of a checkpoint that is not there yet
    created: Date = field(default_factory=Date.now)
    modified: Date = field(default_factory=Date.now)
    snapshot: str | None = None
    kind: object = None
    has_own_id: bool = False
    is_stopping: bool = False
    is_aborted: bool = False
    vanishes: bool = False
    ended: float | None = None

    @property
    def is_open(self):
        return self.phase in OPEN

    def of_disk(self, disk_id):
        return next((one for one in self.disks if one.disk.id == disk_id), None)


class Backups:
    def __init__(self, world):
        self._world = world
        self._backups = {}
        self.lock = threading.RLock()
        self._backing = Backing(world, self)

    # requests

    def create(self, vm, body, query):
        kind = self._kind(vm, query)
        with self.lock:
            backup = self._parse(vm, body, query, kind)
            self._backups[backup.id] = backup
        journalled = {"backup": backup.id, "vm": vm.id, "backup_kind": kind.NAME}
        modes = {one.disk.id: one.mode for one in backup.disks}
        self._world.journal.event("backup_created", **journalled, modes=modes)
        self._backing.start(backup)
        return self._show(backup)

    def list(self, vm):
        with self.lock:
            return listing("backup", [self._show(one) for one in self._living() if one.vm.id == vm.id])

    def show(self, backup_id):
        with self.lock:
            return self._show(self.get(backup_id))

    def list_disks(self, backup_id):
        with self.lock:
            disks = self.get(backup_id).disks
            return listing(
                "disk", [{**self._world.disks.show(one.disk), "backup_mode": one.mode} for one in disks]
            )

    def finalize(self, backup_id):
        with self.lock:
            backup = self.get(backup_id)
            if self._world.switches.take("finalize_conflict", self.subject(backup)):
                raise Refused(409, self._busy_message(backup))
            if backup.phase == "ready" and not backup.is_stopping:
                self._end_transfers(backup)
            self._backing.finalize(backup)

    # for other parts

    def get(self, backup_id):
        for backup in self._living():
            if backup.id == backup_id:
                return backup
        raise NotFound

    def find(self, backup_id):
        """Returns the backup that a transfer names, or refuses the transfer."""
        with self.lock:
            backup = next((one for one in self._living() if one.id == backup_id), None)
        if backup is None:
            raise Refused(400, "Cannot transfer image: The specified VM backup does not exist.")
        if backup.phase != "ready":
            raise Refused(409, "Cannot transfer image: The specified VM backup is not ready.")
        return backup

    def is_open(self, vm):
        with self.lock:
            return any(one.is_open and one.vm.id == vm.id for one in self._backups.values())

    def forget(self, backup):
        with self.lock:
            if self._backups.pop(backup.id, None):
                self._world.journal.event("backup_gone", backup=backup.id)

    def set_phase(self, backup, phase):
        with self.lock:
            previous, backup.phase = backup.phase, phase
            backup.modified = Date.now()
            if phase in ("succeeded", "failed"):
                backup.ended = time.monotonic()
        self._world.journal.event("backup_phase", backup=backup.id, phase=phase, previous=previous)

    def subject(self, backup):
        return f"{backup.id} {backup.vm.id} {backup.vm.name} {backup.description or ''}"

    def guest_export(self, disk):
        """Returns the URL through which the guest writes while a live backup has its disk, or None."""
        with self.lock:
            opened = [one for one in self._backups.values() if one.is_open]
        urls = [one.kind.guest_export(disk) for one in opened if one.of_disk(disk.id)]
        return next((url for url in urls if url), None)

    def vm_changed(self, vm, crashed):
        """Tells the open backups of a VM that its status has changed."""
        with self.lock:
            found = [one for one in self._backups.values() if one.is_open and one.vm.id == vm.id]
        for backup in found:
            backup.kind.vm_changed(crashed)

    def engine_restarted(self):
        """Does what the start of an engine does: it fails the backups whose commands it doesn't find, which
        are those with an id that the client has chosen.
        """
        with self.lock:
            found = [one for one in self._backups.values() if one.is_open and one.has_own_id]
        for backup in found:
            self._backing.abandon(backup)
        return len(found)

    def stop(self):
        for backup in list(self._backups.values()):
            if backup.is_open:
                backup.kind.abandon()

    def dump(self):
        with self.lock:
            return [
                {
                    **self._show(one),
                    "kind": one.kind.NAME,
                    "disks": [{"id": each.disk.id, "mode": each.mode} for each in one.disks],
                }
                for one in self._living()
            ]

    # parts

    def _kind(self, vm, query):
        hybrid = self._world.vms.level(vm) >= (4, 7) and query.get("legacy") != "true"
        if hybrid:
            return Hybrid
        return Live if self._world.vms.status(vm) == "up" else Cold

    def _parse(self, vm, body, query, kind):
        wanted = (body.get("disks") or {}).get("disk")
        attached = {one.disk.id: one for one in self._world.attachments.of_vm(vm)}
        ids = [one.get("id") for one in wanted or []]
        if any(self._world.disks.find(one) is None for one in ids):
            raise Refused(400, "Cannot backup VM: The specified disks do not exist.")
        if wanted is None or any(one not in attached for one in ids):
            raise Refused(500, "null")  # The engine fails at a null pointer here.
        backup_id = body.get("id") or new_id()
        self._refuse(vm, body, backup_id)
        used = [attached[one] for one in ids]
        used = [one for one in used if one.active and not one.disk.shareable and not one.disk.is_lun]
        used = [one.disk for one in used if not self._is_dropped(vm, one.disk)]
        if not used:
            raise Refused(400, "Cannot backup VM: The specified disks do not exist.")
        locked = [disk for disk in used if disk.status == "locked" or disk.holders]
        if locked:
            raise Refused(409, locked_message("backup VM", locked[0]))
        base = self._base(vm, body.get("from_checkpoint_id"))
        consistent = query.get("require_consistency") in ("", "true")
        backup = Backup(
            backup_id,
            vm,
            [BackedDisk(disk, self._mode(disk, base), disk.size) for disk in used],
            base.id if base else None,
            body.get("description"),
            consistent,
            has_own_id=bool(body.get("id")),
        )
        if kind is Hybrid or any(disk.format == "cow" for disk in used):
            backup.next_checkpoint = new_id()
        backup.kind = kind(self._world, backup)
        return backup

    def _is_dropped(self, vm, disk):
        return self._world.switches.take("disk_dropped", f"{vm.id} {vm.name} {disk.subject}")

    def _refuse(self, vm, body, backup_id):
        if vm.is_engine:
            raise Refused(409, "Cannot backup VM: The hosted engine VM can't be backed up.")
        if len(body.get("description") or "") > MAX_DESCRIPTION:
            raise Refused(400, "Cannot backup VM: The description is too long.")
        if not identifier(backup_id) or backup_id in self._backups:
            raise Refused(400, "Cannot backup VM: The backup id is in use.")
        if self._world.vms.status(vm) not in ("up", "down"):
            raise Refused(409, "Cannot backup VM: VM is neither up nor down.")
        if self.is_open(vm):
            raise Refused(409, "Cannot backup VM: The VM is during a backup operation.")
        if body.get("from_checkpoint_id") and self._world.vms.level(vm) < (4, 5):
            raise Refused(400, "Cannot backup VM: Incremental backup is not supported at this level.")

    def _base(self, vm, checkpoint_id):
        if not checkpoint_id:
            return None
        try:
            base = self._world.checkpoints.get(vm, checkpoint_id)
        except NotFound:
            raise Refused(400, "Cannot backup VM: The specified checkpoint does not exist.") from None
        if base.state != "created":
            raise Refused(400, "Cannot backup VM: The specified checkpoint is invalid.")
        return base

    def _mode(self, disk, base):
        return "incremental" if base and disk.format == "cow" and disk in base.disks else "full"

    def _end_transfers(self, backup):
        """Refuses to finalize a backup with active transfers, or cuts them, as old engines do."""
        transfers = self._world.transfers
        active = [one for one in transfers.all() if one.backup is backup and one.phase not in TRANSFER_ENDED]
        if active and not self._world.options.cuts_transfers:
            raise Refused(409, self._busy_message(backup))
        for transfer in active:
            transfers.set_phase(transfer, "cancelled_system")

    def _busy_message(self, backup):
        return f"Cannot stop VM backup: There are active image transfers for VM backup {backup.id}."

    def _living(self):
        """Forgets backups that ended long ago; returns the others."""
        options, now = self._world.options, time.monotonic()
        keep = {"succeeded": options.keep_success, "failed": options.keep_failure}
        for backup in list(self._backups.values()):
            if backup.ended is not None and now - backup.ended > keep[backup.phase]:
                self.forget(backup)
        return list(self._backups.values())

    def _show(self, backup):
        href = f"/ovirt-engine/api/vms/{backup.vm.id}/backups/{backup.id}"
        return {
            "href": href,
            "id": backup.id,
            "phase": backup.phase,
            "description": backup.description,
            "creation_date": backup.created,
            "modification_date": backup.modified,
            "from_checkpoint_id": backup.from_checkpoint,
            "to_checkpoint_id": backup.to_checkpoint,
            "vm": {"id": backup.vm.id},
            "snapshot": {"id": backup.snapshot} if backup.snapshot else None,
        }
