"""The steps of a backup, one at each poll of the coordinator.

    hybrid  initializing -> starting -> ready -> finalizing -> succeeded | failed
    live    initializing -> starting -> ready -> finalizing -> succeeded | failed
    cold    initializing -> ready -> finalizing -> succeeded | failed

A finalized hybrid backup stays `ready` until the next poll (or longer, with the switch finalize_lag), and
then merges its snapshot. Finalize of a live or cold backup that is not ready yet is answered with a fault and
yet ends it; a hybrid one goes on until it is ready, and then ends by itself.
"""

import time

from exports import BitmapError, find
from images import ImageError
from storage_daemon import QmpError
from wire import Refused

PATIENCE = float("inf")


class Backing:
    def __init__(self, world, backups):
        self._world = world
        self._backups = backups

    def start(self, backup):
        self._event("backup_started", backup)
        if backup.from_checkpoint and backup.kind.REDEFINES:
            self._redefine(backup)
        state = {"held": None, "at": 0.0}

        def step():
            with self._backups.lock:
                phase = backup.phase
            if phase in ("succeeded", "failed"):
                return True
            if phase in ("initializing", "starting") and self._is_held(backup, state):
                return False
            if phase == "ready" and not backup.is_stopping:
                return False
            if phase in ("ready", "finalizing") and self._waits(backup, phase, state):
                return False
            getattr(self, f"_{phase}")(backup)
            return not backup.is_open

        self._world.coordinator.run(f"backup {backup.id}", step)

    def finalize(self, backup):
        hybrid = backup.kind.NAME == "hybrid"
        if backup.is_stopping or backup.phase not in ("initializing", "starting", "ready"):
            raise Refused(400, f"Cannot stop VM backup: it is already stopped, in the {backup.phase} phase.")
        was_ready = backup.phase == "ready"
        backup.is_stopping = True
        if hybrid:
            self._event("backup_stopped", backup)
            return
        self._backups.set_phase(backup, "finalizing")
        if not was_ready:
            backup.is_aborted = True
            raise Refused(400, f"Cannot stop VM backup: backup {backup.id} was not ready, and is aborted.")
        self._event("backup_finalized", backup)

    def abandon(self, backup):
        """Fails a backup that the engine does not find among its commands."""
        self._event("backup_unmonitored", backup)
        self._fail(backup)

    # phases

    def _initializing(self, backup):
        if backup.kind.NAME == "cold":
            self._begin(backup)
        else:
            self._backups.set_phase(backup, "starting")

    def _starting(self, backup):
        self._begin(backup)

    def _begin(self, backup):
        switches, subject = self._world.switches, self._backups.subject(backup)
        vanishes = switches.take("backup_vanishes", subject)
        if vanishes == "failed" or switches.take("backup_fails", subject):
            self._fail(backup, "backup_failed", vanishes=bool(vanishes))
            return
        backup.vanishes = vanishes is not None
        try:
            backup.kind.begin()
        except (BitmapError, ImageError, QmpError) as error:
            self._world.journal.event("backup_not_started", backup=backup.id, reason=str(error))
            self._fail(backup, "backup_failed")
            return
        with self._backups.lock:
            if backup.phase not in ("initializing", "starting"):
                return  # It was aborted meanwhile, and `_finalizing` ends it.
            if backup.next_checkpoint:
                disks = [one.disk for one in backup.disks if backup.kind.has_bitmap(one.disk)]
                self._world.checkpoints.add(backup.next_checkpoint, backup.vm, disks, backup.description)
                backup.to_checkpoint = backup.next_checkpoint
            self._backups.set_phase(backup, "ready")

    def _ready(self, backup):
        self._backups.set_phase(backup, "finalizing")

    def _finalizing(self, backup):
        if backup.is_aborted:
            self._fail(backup, "backup_not_finalized")
            return
        left = self._world.switches.take("snapshot_left", self._backups.subject(backup))
        if left and backup.snapshot:
            self._event("snapshot_left", backup, snapshot=backup.snapshot)
        else:
            backup.kind.end()
        self._event("backup_succeeded", backup)
        self._backups.set_phase(backup, "succeeded")
        if backup.vanishes:
            self._backups.forget(backup)

    # parts

    def _redefine(self, backup):
        """Redefines the checkpoints on the host, within the request. A failure costs the whole chain."""
        broken = self._world.switches.take("redefine_fails", self._backups.subject(backup))
        if not broken and self._is_valid(backup):
            return
        self._world.checkpoints.remove_all(backup.vm)
        self._fail(backup, "full_needed")
        raise Refused(400)

    def _is_valid(self, backup):
        """Tells whether the host finds the bitmaps of the checkpoint."""
        try:
            for one in backup.disks:
                if one.mode == "incremental":
                    find(one.disk.chain(one.disk), backup.from_checkpoint)
        except BitmapError as error:
            self._world.journal.event("redefinition_failed", backup=backup.id, reason=str(error))
            return False
        return True

    def _fail(self, backup, event=None, vanishes=False):
        backup.kind.abandon()
        if event:
            self._event(event, backup)
        backup.to_checkpoint = None
        if backup.next_checkpoint:
            self._world.checkpoints.forget(backup.next_checkpoint)
        self._backups.set_phase(backup, "failed")
        if vanishes or self._world.options.drops_ended_transfers:
            self._backups.forget(backup)

    def _is_held(self, backup, state):
        """Tells whether the switch backup_stuck holds the backup in its phase."""
        if state["held"] is None:
            held = self._world.switches.take("backup_stuck", self._backups.subject(backup))
            if held is None:
                return False
            state["held"] = PATIENCE if held == "forever" else time.monotonic() + float(held)
        return time.monotonic() < state["held"]

    def _waits(self, backup, phase, state):
        name = "finalize_lag" if phase == "ready" else "merge_slow"
        if state.get("waiting") != name:
            delay = self._world.switches.take(name, self._backups.subject(backup)) or 0
            state["waiting"], state["at"] = name, time.monotonic() + delay
        return time.monotonic() < state["at"]

    def _event(self, kind, backup, **facts):
        self._world.events.add(kind, backup.vm, backup=backup.id, **facts)
