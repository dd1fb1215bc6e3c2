"""Events: what the engine notes about its commands, with a code for each kind.

A client finds the events of a backup by the backup's id, which stands in the description
(`GET /events?search=ID`). The newest comes first, as in the engine.
"""

import itertools
import re
import threading
from dataclasses import dataclass, field

from wire import Date, NotFound, listing

CODES = {
    "backup_started": (10790, "normal", "Backup {backup} for VM {vm} started."),
    "full_needed": (
        10791,
        "error",
        "Failed to start the incremental backup {backup} of VM {vm}. A full backup is needed.",
    ),
    "backup_failed": (10792, "error", "Backup {backup} for VM {vm} has failed."),
    "backup_succeeded": (10793, "normal", "Backup {backup} for VM {vm} was completed successfully."),
    "backup_finalized": (10794, "normal", "Backup {backup} for VM {vm} was finalized."),
    "backup_not_finalized": (10795, "error", "Backup {backup} for VM {vm} was not finalized."),
    "backup_stopped": (10796, "normal", "Backup {backup} for VM {vm} was stopped."),
    "checkpoint_deleted": (10797, "normal", "Checkpoint {checkpoint} of VM {vm} was deleted."),
    "checkpoint_not_deleted": (10798, "error", "Checkpoint {checkpoint} of VM {vm} could not be deleted."),
    "scratch_started": (10799, "normal", "Scratch disks of backup {backup} of VM {vm} are being created."),
    "scratch_made": (10805, "normal", "Scratch disks of backup {backup} of VM {vm} were created."),
    "scratch_failed": (10806, "error", "Scratch disks of backup {backup} of VM {vm} can't be created."),
    "snapshot_left": (
        10813,
        "warning",
        "The snapshot {snapshot} of backup {backup} of VM {vm} possibly was not removed.",
    ),
    "backup_unmonitored": (10814, "error", "Backup {backup} for VM {vm} was marked as failed."),
    "attach_failed": (
        175,
        "warning",
        "VM {vm} was imported, but these disks could not be attached: {disks}.",
    ),
}
_TAIL = re.compile(r"\s*(?:sortby\s+(\w+)\s+(asc|desc))?\s*(?:page\s+(\d+))?\s*$", re.IGNORECASE)


@dataclass
class Event:
    index: int
    code: int
    severity: str
    description: str
    vm: str | None
    time: Date = field(default_factory=Date.now)


class Events:
    def __init__(self, world):
        self._world = world
        self._events = []
        self._indices = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, kind, vm, **facts):
        """Notes an event of this kind, about a VM."""
        code, severity, text = CODES[kind]
        description = text.format(vm=vm.name, **facts)
        with self._lock:
            self._events.append(Event(next(self._indices), code, severity, description, vm.id))
        self._world.journal.event("event", code=code, vm=vm.id, description=description)

    def list(self, query):
        """Finds the events whose description contains the searched text, or that have the `code=` of it."""
        text = query.get("search", "")
        tail = _TAIL.search(text)
        text, page = text[: tail.start()].strip().strip('"'), int(tail[3] or 1)
        upwards = (tail[2] or "desc").lower() == "asc"
        with self._lock:
            found = [one for one in self._events if _fits(one, text)]
        if (since := query.get("from", "")).isdigit():
            found = [one for one in found if one.index > int(since)]
        found.sort(key=lambda one: one.index, reverse=not upwards)
        size = int(query["max"]) if query.get("max", "").isdigit() else len(found)
        return listing("event", [self._show(one) for one in found[(page - 1) * size : page * size]])

    def show(self, index):
        with self._lock:
            for event in self._events:
                if str(event.index) == index:
                    return self._show(event)
        raise NotFound

    def dump(self):
        with self._lock:
            return [
                {"id": str(one.index), "code": one.code, "description": one.description}
                for one in self._events
            ]

    def _show(self, event):
        return {
            "href": f"/ovirt-engine/api/events/{event.index}",
            "id": str(event.index),
            "index": event.index,
            "code": event.code,
            "severity": event.severity,
            "description": event.description,
            "time": event.time,
            "origin": "oVirt",
            "vm": {"id": event.vm} if event.vm else None,
        }


def _fits(event, text):
    if found := re.fullmatch(r"(?:type|code)\s*=\s*(\d+)", text):
        return event.code == int(found[1])
    return text.lower() in event.description.lower()
