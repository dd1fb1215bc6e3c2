"""Disk images as files: created, filled, measured and verified with qemu-img.

A file domain keeps a raw sparse disk as a file with holes, and a raw preallocated one as a fully allocated
file. A block domain is emulated with plain files too. They share only the size limit with logical volumes:
see Volume.capacity in disks.
"""

import json
import os
import shutil
import subprocess

QEMU_FORMAT = {"raw": "raw", "cow": "qcow2"}


class ImageError(Exception):
    pass


def create(path, disk_format, size, preallocated, content=None):
    """Creates an image that reads as zeros, or as the raw file `content` followed by zeros."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    kind = QEMU_FORMAT[disk_format]
    options = ["-o", "preallocation=falloc"] if preallocated else []
    qemu_img("create", "-q", "-f", kind, *options, path, str(size))
    if content:
        qemu_img("convert", "-n", "-f", "raw", "-O", kind, content, path)


def create_layer(path, parent, parent_format, size):
    """Creates a qcow2 file over the parent, with which it reads alike."""
    backing = ["-b", parent, "-F", QEMU_FORMAT[parent_format]]
    qemu_img("create", "-q", "-f", "qcow2", *backing, path, str(size))


def commit(path):
    """Writes the layer into the one below."""
    qemu_img("commit", "-q", "-d", "-f", "qcow2", path)


def rebase(path, parent, parent_format):
    """Names another parent with the same bytes."""
    qemu_img("rebase", "-q", "-u", "-f", "qcow2", "-b", parent, "-F", QEMU_FORMAT[parent_format], path)


def destroy(path):
    """Overwrites the head of an image, so that nothing can read it."""
    with open(path, "r+b") as file:
        file.write(bytes(512))


def resize(path, disk_format, size):
    qemu_img("resize", "-q", "-f", QEMU_FORMAT[disk_format], path, str(size))


def convert(source, disk_format, target, target_format):
    """Makes the target a copy of the image that the source and its layers are."""
    kinds = ["-f", QEMU_FORMAT[disk_format], "-O", QEMU_FORMAT[target_format]]
    qemu_img("convert", *kinds, source, target)


def alone(path):
    """Returns qemu's description of a qcow2 layer without the layers below."""
    file = {"driver": "file", "filename": path}
    return "json:" + json.dumps({"driver": "qcow2", "file": file, "backing": None})


def info(path):
    return json.loads(qemu_img("info", "-U", "--output", "json", path))


def remove(path):
    shutil.rmtree(os.path.dirname(path), ignore_errors=True)


def allocated(path):
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def length(path):
    return os.stat(path).st_size


def problem(path, disk_format, parent=None):
    """Returns why the host would reject an uploaded image (another format, or a backing file other than the
    layer below), or None.
    """
    try:
        found = json.loads(qemu_img("info", "--output", "json", path))
    except ImageError as error:
        return str(error)
    if found["format"] != QEMU_FORMAT[disk_format]:
        return f"the image is {found['format']}, the disk is {QEMU_FORMAT[disk_format]}"
    if found.get("backing-filename") != parent:
        return "the image has a backing file" if parent is None else "the image has another backing file"
    return None


def qemu_img(*arguments):
    """Runs qemu-img and returns what it prints."""
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise ImageError(done.stderr.strip())
    return done.stdout
