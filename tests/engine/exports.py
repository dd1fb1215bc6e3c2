"""The export of a transfer of a backup's disk: the frozen or locked layers of the disk, through qemu-nbd.

With a bitmap, the export tells what is dirty since a checkpoint. As a host does, this looks for the bitmap
from the upper layer down. One that is missing everywhere, or in a layer above one that has it, or that was
not stored (its VM crashed) or not kept up, fails the transfer's start. A bitmap in several layers is merged
in an overlay, which is served instead.
"""

import json
import os

import bitmaps
import images
from nbd import NbdServer


class BitmapError(Exception):
    """The transfer does not start; its request succeeds, and then it has this `phase`."""

    phase = "cancelled_system"


class LayerExport:
    """A qemu-nbd of its own for one transfer."""

    def __init__(self, world, name, path, disk_format, chain, bitmap):
        self._overlay = None
        directory = os.path.join(world.options.dir, "nbd")
        os.makedirs(directory, exist_ok=True)
        if bitmap:
            holders = find(chain, bitmap)
            if len(holders) > 1:
                path = self._overlay = os.path.join(directory, f"{name}.qcow2")
                merge(path, chain, holders, bitmap)
                disk_format = "cow"
        file = {"driver": "file", "filename": path}
        node = {"driver": images.QEMU_FORMAT[disk_format], "file": file}
        self._server = NbdServer(
            directory,
            name,
            "json:" + json.dumps(node),
            None,
            read_only=True,
            discard=False,
            shared=world.options.nbd_shared,
            bitmap=bitmap,
            direct=True,
        )
        self.url = f"nbd:unix:{self._server.socket}"

    def restart(self):
        return self._server.restart()

    def stop(self):
        self._server.stop()
        if self._overlay and os.path.exists(self._overlay):
            os.unlink(self._overlay)


class SharedExport:
    """An export of a server that serves others too, and is not the transfer's to end."""

    def __init__(self, url):
        self.url = url

    def restart(self):
        return False

    def stop(self):
        """Does nothing."""


def find(chain, bitmap):
    """Returns the layers that have the bitmap, the upper first; raises BitmapError if it is of no use."""
    holders, ended = [], False
    for volume in chain:
        flags = bitmaps.show(volume.path).get(bitmap) if volume.format == "cow" else None
        if flags is None:
            ended = True
            continue
        if ended:
            raise BitmapError(f"bitmap {bitmap} is missing in a layer above {volume.path}")
        if "in-use" in flags or "auto" not in flags:
            raise BitmapError(f"bitmap {bitmap} of {volume.path} can't be used: {', '.join(flags)}")
        holders.append(volume)
    if not holders:
        raise BitmapError(f"bitmap {bitmap} does not exist")
    return holders


def merge(path, chain, holders, bitmap):
    images.create_layer(path, chain[0].path, chain[0].format, chain[0].size)
    bitmaps.add(path, bitmap)
    for volume in holders:
        bitmaps.merge(path, bitmap, volume.path, bitmap)
