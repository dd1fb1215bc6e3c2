"""The records of disks, and of the layers below them.

A Volume is one image file and the object of a transfer: a disk (its active layer), or a snapshot of one (a
frozen layer). Clients see its `status`. Its `holders`, the commands that hold its lock, are independent of
that: after a transfer the status is ok before the lock is free.

A disk's snapshots are real layers, oldest first: each qcow2 file has the one before as its backing file, and
the active layer has the newest. The disk's id stays, and its `image_id` and `path` become those of the new
layer. `io` serializes whatever changes the files: the guest's writes, new layers, merges and bitmaps. All
disks of a VM are frozen in one moment, with all of these held.
"""

import contextlib
import os
import threading
from dataclasses import dataclass, field

from directory import Domain
from wire import new_id


@dataclass
class Volume:
    id: str
    name: str
    format: str
    sparse: bool
    size: int
    domain: Domain
    path: str
    image_id: str = field(default_factory=new_id)
    status: str = "locked"
    initial_size: int | None = None
    capacity: int | None = None
    holders: dict = field(default_factory=dict)

    @property
    def subject(self):
        return f"{self.id} {self.name}"

    @property
    def is_sparse_file(self):
        return self.sparse and not self.domain.is_block


@dataclass
class Snapshot(Volume):
    disk_id: str = ""
    vm_snapshot: str = ""


@dataclass
class Disk(Volume):
    description: str | None = None
    content_type: str = "data"
    backup: str = "none"
    vm: str | None = None
    vm_up: bool = False
    shareable: bool = False
    wipe_after_delete: bool = False
    is_lun: bool = False
    snapshots: list = field(default_factory=list)
    io: object = field(default_factory=threading.RLock, repr=False, compare=False)

    @property
    def directory(self):
        return os.path.dirname(self.path)

    def parent_of(self, volume):
        """Returns the layer below, or None."""
        below = self.snapshots
        if volume is not self:
            below = self.snapshots[: self.snapshots.index(volume)]
        return below[-1] if below else None

    def chain(self, volume):
        """Returns the layers from this one down to the oldest."""
        below = self.snapshots
        if volume is not self:
            below = self.snapshots[: self.snapshots.index(volume)]
        return [volume, *reversed(below)]


@contextlib.contextmanager
def quiet(disks):
    """Keeps the guest from writing to any of the disks meanwhile, as a frozen guest does."""
    with contextlib.ExitStack() as stack:
        for disk in sorted(disks, key=lambda one: one.id):
            stack.enter_context(disk.io)
        yield


def locked_message(action, volume):
    return (
        f"Cannot {action}: The following disks are locked: {volume.name}. Please try again in a few minutes."
    )
