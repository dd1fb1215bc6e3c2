"""The layers of a disk on storage: a new one on top, and one merged into the one below.

A new layer takes over the bitmaps of the layer below, under the same names and empty, as vdsm does: together
the layers then tell what has changed since a checkpoint. A merge adds the bitmaps of the upper layer to the
lower one's. The lower layer keeps its file, format and id, so a raw disk is raw again after its only snapshot
has been merged.
"""

import os

import bitmaps
import images
from volumes import Snapshot
from wire import new_id


def push(world, disk, vm_snapshot, new_bitmap=None):
    """Freezes the active layer, as part of a VM's snapshot; returns it."""
    with disk.io:
        image_id = new_id()
        path = os.path.join(disk.directory, image_id)
        images.create_layer(path, disk.path, disk.format, disk.size)
        if disk.format == "cow":
            for name in bitmaps.usable(disk.path):
                bitmaps.add(path, name)
            if new_bitmap:
                bitmaps.add(path, new_bitmap)
        frozen = Snapshot(
            disk.image_id,
            f"{disk.name} snapshot {len(disk.snapshots)}",
            disk.format,
            disk.sparse,
            disk.size,
            disk.domain,
            disk.path,
            disk.image_id,
            status="ok",
            capacity=disk.capacity,
            disk_id=disk.id,
            vm_snapshot=vm_snapshot,
        )
        with world.disks.lock:
            disk.snapshots.append(frozen)
            disk.path, disk.image_id, disk.format, disk.sparse = path, image_id, "cow", True
            world.disks.give_capacity(disk)
    return frozen


def merge(world, disk, frozen):
    """Merges the layer above into the frozen one, which takes its place."""
    with disk.io:
        position = disk.snapshots.index(frozen)
        is_active = position == len(disk.snapshots) - 1
        upper = disk if is_active else disk.snapshots[position + 1]
        upper_path = upper.path
        if frozen.size < upper.size:
            images.resize(frozen.path, frozen.format, upper.size)
            frozen.size = upper.size
        if frozen.format == "cow":
            known = bitmaps.names(frozen.path)
            for name in bitmaps.usable(upper_path):
                if name not in known:
                    bitmaps.add(frozen.path, name)
            images.commit(upper_path)
            both = set(bitmaps.usable(frozen.path)) & set(bitmaps.usable(upper_path))
            for name in both:
                bitmaps.merge(frozen.path, name, upper_path, name)
        else:
            images.commit(upper_path)
        with world.disks.lock:
            if is_active:
                disk.snapshots.remove(frozen)
                disk.path, disk.image_id = frozen.path, frozen.image_id
                disk.format, disk.sparse, disk.capacity = frozen.format, frozen.sparse, frozen.capacity
            else:
                above = disk if position + 2 == len(disk.snapshots) else disk.snapshots[position + 2]
                images.rebase(above.path, frozen.path, frozen.format)
                frozen.vm_snapshot = upper.vm_snapshot
                disk.snapshots.remove(upper)
        os.unlink(upper_path)
