"""Image transfers as clients see them: the request, the entity, and the actions.

The creating request runs a transfer's whole start, so its answer normally shows `transferring` already; from
then on the phase machine (see phases) polls the transfer. As in the engine, actions validate next to nothing:
they set a phase, which the machine sees at its next poll. They answer 200 even for a transfer that has ended
or never existed.

As in the engine, an upload whose start fails removes the disk, even one that existed before.
"""

import os
import shutil
import threading
import time
from dataclasses import dataclass, field

from disks import EXCLUSIVE, SHARED, attached_message
from exports import BitmapError
from phases import ENDED, Machine
from session import Session, SessionError, transfer_size
from volumes import Disk, Snapshot, Volume, locked_message
from wire import NotFound, Refused, boolean, choice, incomplete, integer, listing, new_id

ACTIONS = {
    "finalize": "finalizing_success",
    "cancel": "cancelled_user",
    "pause": "paused_user",
    "resume": "resuming",
}
DUMPED = tuple(
    "id disk_id phase direction format policy inactivity_timeout size transferred active created"
    " updated".split()
)
NO_HOST = "Cannot transfer image: there is no host that can access the storage domain."


@dataclass
class Transfer:
    volume: Volume
    disk_id: str
    direction: str
    format: str
    uses_nbd: bool
    size: int
    inactivity_timeout: int
    policy: str
    shallow: bool
    host_id: str
    job: object
    backup: object = None
    id: str = field(default_factory=new_id)
    phase: str = "initializing"
    session: Session | None = None
    active: bool = False
    transferred: int = 0
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    ended: float | None = None
    # for the phase machine only
    start_at: float = 0.0
    next_look: float = 0.0
    expires: float = 0.0
    renewals_failed: int = 0
    finalize_at: float | None = None
    release_at: float = 0.0
    succeeded: bool | None = None

    @property
    def subject(self):
        return f"{self.id} {self.volume.subject}"


class Transfers:
    def __init__(self, world):
        self._world = world
        self._transfers = {}
        self.lock = threading.RLock()
        self.machine = Machine(world, self)

    # requests

    def create(self, body, correlation_id):
        transfer = self._parse(body)
        with self._world.disks.lock:
            self._refuse_if_busy(transfer)
            self._refuse_by_switch(transfer)
            if not transfer.backup:
                transfer.volume.holders[transfer.id] = EXCLUSIVE if transfer.direction == "upload" else SHARED
                self._world.disks.set_status(transfer.volume, "locked")
        transfer.job = self._world.jobs.start(f"Transferring Disk {transfer.volume.name}", correlation_id)
        with self.lock:
            self._transfers[transfer.id] = transfer
        created = {"transfer": transfer.id, "disk": transfer.disk_id, "direction": transfer.direction}
        self._world.journal.event(
            "transfer_created", **created, format=transfer.format, policy=transfer.policy
        )
        self._start(transfer)
        return self.show(transfer.id)

    def list(self):
        with self.lock:
            ids = [transfer.id for transfer in self._living() if not self._is_unlisted(transfer)]
        return listing("image_transfer", [self.show(one) for one in ids])

    def show(self, transfer_id):
        with self.lock:
            transfer = self.get(transfer_id)
            shown = {
                "href": f"/ovirt-engine/api/imagetransfers/{transfer.id}",
                "id": transfer.id,
                "phase": self._world.switches.take("unknown_phase", transfer.subject) or transfer.phase,
                "direction": transfer.direction,
                "format": transfer.format,
                "active": transfer.active,
                "transferred": transfer.transferred,
                "inactivity_timeout": transfer.inactivity_timeout,
                "timeout_policy": transfer.policy,
                "shallow": transfer.shallow,
                "host": {"id": transfer.host_id},
                "image": {"id": transfer.disk_id},
            }
            session = transfer.session
            if session:
                shown.update(self._urls(transfer, session))
            return shown

    def act(self, transfer_id, action):
        with self.lock:
            try:
                transfer = self.get(transfer_id)
            except NotFound:
                return
            if action == "resume" and not transfer.phase.startswith("paused"):
                raise Refused(
                    409, f"Cannot resume image transfer: it is in phase {transfer.phase}, not paused."
                )
            if action == "pause" and transfer.direction == "download":
                raise Refused(400, "Cannot pause image transfer: downloads can't be paused.")
            transfer.updated = time.time()
            if action == "resume":
                slow = self._world.switches.take("resume_slow", transfer.subject) or 0
                transfer.next_look = time.monotonic() + slow
            if action in ACTIONS:
                self.set_phase(transfer, ACTIONS[action])

    # for the machine and the control socket

    def get(self, transfer_id):
        for transfer in self._living():
            if transfer.id == transfer_id:
                return transfer
        raise NotFound

    def set_phase(self, transfer, phase, expected=None):
        """Sets the phase, unless it is a final one, or is not the `expected` one, which the machine has acted
        on.
        """
        with self.lock:
            if transfer.phase in ENDED or (expected and transfer.phase != expected):
                return False
            previous, transfer.phase = transfer.phase, phase
            transfer.updated = time.time()
            if phase in ENDED:
                transfer.ended = time.monotonic()
            changed = {"transfer": transfer.id, "disk": transfer.disk_id, "phase": phase}
            self._world.journal.event("phase", **changed, previous=previous)
            return True

    def forget(self, transfer):
        with self.lock:
            if self._transfers.pop(transfer.id, None):
                self._world.journal.event("transfer_gone", transfer=transfer.id)

    def is_gone(self, transfer):
        with self.lock:
            return transfer.id not in self._transfers

    def all(self):
        with self.lock:
            return self._living()

    def matching(self, pattern):
        with self.lock:
            return [one for one in self._living() if pattern in (None, one.id, one.disk_id, one.volume.name)]

    def dump(self):
        with self.lock:
            return [
                {
                    **{name: getattr(one, name) for name in DUMPED},
                    "ticket": getattr(one.session, "ticket", None),
                    "url": getattr(one.session, "url", None),
                }
                for one in self._living()
            ]

    def stop(self):
        with self.lock:
            sessions = [one.session for one in self._transfers.values() if one.session]
        for session in sessions:
            session.abandon()
        shutil.rmtree(os.path.join(self._world.options.dir, "nbd"), ignore_errors=True)

    def _living(self):
        """Forgets transfers that ended long ago (successful ones sooner than failed ones); returns the
        others.
        """
        options, now = self._world.options, time.monotonic()
        keep = {"finished_success": options.keep_success, "finished_failure": options.keep_failure}
        for transfer in list(self._transfers.values()):
            if transfer.ended is not None and now - transfer.ended > keep[transfer.phase]:
                self.forget(transfer)
        return list(self._transfers.values())

    def _is_unlisted(self, transfer):
        """True where the engine has locked the disk, and not saved the transfer yet."""
        switches = self._world.switches
        is_open = transfer.phase not in ENDED
        return is_open and switches.take("transfer_unlisted", transfer.subject) is not None

    def _urls(self, transfer, session):
        urls = {"transfer_url": session.url, "proxy_url": session.proxy_url}
        host = self._world.switches.take("url_host", transfer.subject)
        if host:
            urls["transfer_url"] = self._world.endpoints.replace_host(urls["transfer_url"], host)
        missing = self._world.switches.take("url_missing", transfer.subject)
        return {name: url for name, url in urls.items() if missing not in (name, "both")}

    # the start

    def _parse(self, body):
        direction = choice(body, "direction", ("upload", "download"), "upload")
        wanted_format = choice(body, "format", ("raw", "cow"))
        policy = choice(body, "timeout_policy", ("legacy", "pause", "cancel"), "legacy")
        inactivity = integer(body, "inactivity_timeout", self._world.options.inactivity_timeout)
        if cap := self._world.options.inactivity_cap:
            inactivity = min(inactivity or cap, cap)
        host_id = (body.get("host") or {}).get("id", self._world.directory.host.id)
        if host_id != self._world.directory.host.id:
            raise Refused(400, NO_HOST)
        backup = self._backup(body, direction, wanted_format)
        volume = self._volume(body, direction)
        uses_nbd = wanted_format == "raw" or backup is not None
        if backup:
            volume, wanted_format = self._backed_up(backup, volume), "raw"
        return Transfer(
            volume,
            volume.id if isinstance(volume, Disk) else volume.disk_id,
            direction,
            wanted_format or volume.format,
            uses_nbd,
            transfer_size(volume, direction, uses_nbd),
            inactivity,
            policy,
            boolean(body, "shallow", False),
            host_id,
            None,
            backup,
        )

    def _backup(self, body, direction, wanted_format):
        """Returns the backup that the request names, or None."""
        if not body.get("backup"):
            return None
        if wanted_format == "cow":
            raise Refused(400, "Cannot transfer image: The format of a backup's transfer can't be COW.")
        if direction != "download":
            raise Refused(400, "Cannot transfer image: only a download can be made of a backup.")
        return self._world.backups.find(body["backup"].get("id"))

    def _backed_up(self, backup, disk):
        """Returns a record of the disk as it is in the backup. Its status and holders are its own, because no
        lock of the disk is taken.
        """
        found = backup.of_disk(disk.id) if isinstance(disk, Disk) else None
        if found is None:
            raise Refused(400, "Cannot transfer image: The disk is not part of the specified VM backup.")
        facts = (disk.format, disk.sparse, found.size, disk.domain, disk.path, disk.image_id)
        return Snapshot(disk.id, disk.name, *facts, status="ok", disk_id=disk.id)

    def _volume(self, body, direction):
        reference = body.get("snapshot") or body.get("disk") or body.get("image") or {}
        if "id" not in reference:
            raise incomplete("ImageTransfer [disk.id|snapshot.id]")
        disks = self._world.disks
        volume = disks.find_snapshot(reference["id"]) if body.get("snapshot") else disks.find(reference["id"])
        if volume is None:
            raise Refused(400, "Cannot transfer image: The specified disk does not exist.")
        if isinstance(volume, Disk) and volume.is_lun:
            raise Refused(400, "Cannot transfer image: The disk's storage type is not supported.")
        if body.get("snapshot") and direction == "upload":
            raise Refused(400, "Cannot transfer image: only a download can be made of a disk snapshot.")
        return volume

    def _refuse_if_busy(self, transfer):
        volume = transfer.volume
        if transfer.backup:
            return
        if isinstance(volume, Disk) and self._world.attachments.is_plugged(volume):
            raise Refused(409, attached_message("transfer image", volume))
        if {"creation", "removal"} & volume.holders.keys():
            raise Refused(409, locked_message("transfer image", volume))
        shares = transfer.direction == "download" and EXCLUSIVE not in volume.holders.values()
        if volume.holders and not shares:
            raise Refused(409, f"Cannot transfer image: Disk {volume.name} is being transferred.")
        if volume.status == "locked":
            raise Refused(409, locked_message("transfer image", volume))
        if volume.status == "illegal":
            raise Refused(
                500, f"Cannot transfer image: The following disks are in illegal status: {volume.name}."
            )

    def _refuse_by_switch(self, transfer):
        switches, subject = self._world.switches, transfer.subject
        if switches.take("transfer_locked", subject):
            raise Refused(409, locked_message("transfer image", transfer.volume))
        fault = switches.take("transfer_fault", subject)
        if fault == "failed" and transfer.direction == "upload":
            self._world.disks.remove(transfer.volume)
        if fault:
            raise Refused(400, NO_HOST)

    def _start(self, transfer):
        held = self._world.switches.take("stay_initializing", transfer.subject)
        if held is not None:
            transfer.start_at = float("inf") if held == "forever" else time.monotonic() + held
        elif self._world.switches.take("paused_before_data", transfer.subject):
            self.set_phase(transfer, "paused_system")
        else:
            try:
                self.machine.start_session(transfer)
            except BitmapError as error:
                self._world.journal.event("session_failed", transfer=transfer.id, reason=str(error))
                self.set_phase(transfer, error.phase)
            except SessionError as error:
                self.machine.end_with_failure(transfer)
                raise Refused(400, f"Cannot transfer image: {error}") from error
        self._world.coordinator.run(f"transfer {transfer.id}", lambda: self.machine.step(transfer))
