"""Dirty bitmaps in qcow2 files: real ones, which qemu keeps up to date while a guest writes.

A bitmap has the id of its checkpoint as its name, as on a host.
"""

import images


def show(path):
    """Returns name -> flags of the bitmaps in the file."""
    details = images.info(path).get("format-specific", {}).get("data", {})
    return {one["name"]: one["flags"] for one in details.get("bitmaps", [])}


def names(path):
    return list(show(path))


def usable(path):
    """Returns the names without those of bitmaps that were not stored, as a crashed VM leaves them."""
    return [name for name, flags in show(path).items() if "in-use" not in flags]


def add(path, name):
    images.qemu_img("bitmap", "--add", path, name)


def remove(path, name):
    images.qemu_img("bitmap", "--remove", path, name)


def disable(path, name):
    images.qemu_img("bitmap", "--disable", path, name)


def merge(path, name, source, source_name):
    images.qemu_img("bitmap", "--merge", source_name, "-b", source, "-F", "qcow2", path, name)
