"""A transfer's session on the host: its qemu-nbd if its format is raw, its ticket, and its URLs.

format=raw gives the guest's view of the disk through qemu-nbd, whatever the disk's own format. Without it, or
with cow, imageio opens the image file itself, and the ticket's size bounds the file's growth. A shallow
transfer is of one layer alone: what the layers below have reads as a hole.
"""

import math
import os

import images
from images import ImageError
from daemon import DaemonError
from exports import BitmapError
from nbd import NbdError, NbdServer
from wire import new_id

OPS = {"upload": ["write"], "download": ["read"]}
COW_OVERHEAD, COW_HEADER = 1.1, 1 << 20


class SessionError(Exception):
    pass


class Session:
    """The constructor starts the whole session, or raises and leaves nothing."""

    def __init__(self, world, transfer):
        self._world = world
        self._transfer = transfer
        self.ticket = new_id()
        world.tickets.append(self.ticket)
        self._nbd = None
        self._is_dirty = False
        try:
            if transfer.backup:
                backend = self._export_backup()
            elif transfer.uses_nbd:
                backend = self._start_nbd()
            else:
                backend = f"file://{transfer.volume.path}"
            world.daemon.add(self._ticket(backend))
        except (DaemonError, NbdError, ImageError) as error:
            self.kill_nbd()
            raise SessionError(str(error)) from error
        self.url = f"{world.daemon.url()}/images/{self.ticket}"
        if transfer.backup and world.switches.take("extents_without_zero", transfer.subject):
            self.url = world.endpoints.replace_host(self.url, world.endpoints.old_imageio())
        self.proxy_url = self._proxied(self.url)
        world.journal.event(
            "ticket_added", transfer=transfer.id, size=transfer.size, ops=OPS[transfer.direction]
        )

    def show(self):
        """Returns the daemon's view of the ticket. Raises DaemonError if the ticket is lost."""
        return self._world.daemon.show(self.ticket)

    def extend(self):
        self._world.daemon.extend(self.ticket, self._world.options.ticket_validity)
        self._world.journal.event("ticket_extended", transfer=self._transfer.id)

    def expire(self):
        self._world.daemon.extend(self.ticket, 0)
        self._world.journal.event("ticket_expired", transfer=self._transfer.id)

    def remove_ticket(self):
        self._world.daemon.remove(self.ticket)
        self._world.journal.event("ticket_removed", transfer=self._transfer.id)

    def stop(self):
        """Removes the ticket, or succeeds if it is lost. After a DaemonError nothing has changed: the caller
        retries.
        """
        self.remove_ticket()
        self.kill_nbd()

    def abandon(self):
        """Removes everything, even what is still in use, because the stand-in ends."""
        self.kill_nbd()
        try:
            self.remove_ticket()
        except DaemonError as error:
            self._world.journal.event("ticket_not_removed", transfer=self._transfer.id, reason=str(error))

    def restart_nbd(self):
        """Restarts the qemu-nbd; returns True if one had ended."""
        return self._nbd is not None and self._nbd.restart()

    def kill_nbd(self):
        if self._nbd:
            self._nbd.stop()
            self._nbd = None

    def _start_nbd(self):
        transfer, volume = self._transfer, self._transfer.volume
        alone = transfer.shallow and volume.format == "cow"
        self._nbd = NbdServer(
            os.path.join(self._world.options.dir, "nbd"),
            transfer.id[:8],
            images.alone(volume.path) if alone else volume.path,
            None if alone else images.QEMU_FORMAT[volume.format],
            read_only=transfer.direction == "download",
            discard=volume.is_sparse_file,
            shared=self._world.options.nbd_shared,
            capacity=volume.capacity,
        )
        return self._nbd.url

    def _export_backup(self):
        """Starts the export of a backup's disk. What is dirty is known where the backup is incremental."""
        transfer, switches = self._transfer, self._world.switches
        backup = transfer.backup
        one = backup.of_disk(transfer.disk_id)
        bitmap = backup.from_checkpoint if one.mode == "incremental" else None
        if bitmap and transfer.shallow:
            raise BitmapError(f"bitmap {bitmap} is of no use to a shallow transfer")
        if bitmap and (phase := switches.take("bitmap_missing", transfer.subject)):
            error = BitmapError(f"bitmap {bitmap} is missing, by a switch")
            error.phase = phase
            raise error
        self._nbd = backup.kind.export(transfer.id[:8], one.disk, bitmap)
        self._is_dirty = bitmap is not None and not switches.take("dirty_missing", transfer.subject)
        return self._nbd.url

    def _ticket(self, backend):
        transfer = self._transfer
        return {
            "uuid": self.ticket,
            "size": transfer.size,
            "url": backend,
            "timeout": self._world.options.ticket_validity,
            "inactivity_timeout": transfer.inactivity_timeout,
            "ops": OPS[transfer.direction],
            "sparse": transfer.volume.is_sparse_file,
            "dirty": self._is_dirty,
            "transfer_id": transfer.id,
        }

    def _proxied(self, url):
        proxy = self._world.options.proxy_url
        if proxy == "same":
            return url
        if proxy == "none":
            return None
        if "://" in proxy:
            return f"{proxy}/images/{self.ticket}"
        return self._world.endpoints.replace_host(url, proxy)


def transfer_size(volume, direction, uses_nbd):
    """Returns the size of a transfer's ticket, in bytes."""
    if uses_nbd or volume.format == "raw":
        return volume.size
    if direction == "download":
        return images.length(volume.path)
    if volume.domain.is_block:
        return volume.capacity or volume.size
    return math.ceil(volume.size * COW_OVERHEAD) + COW_HEADER
