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
    _qemu_img("create", "-q", "-f", kind, *options, path, str(size))
    if content:
        _qemu_img("convert", "-n", "-f", "raw", "-O", kind, content, path)


def copy(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    subprocess.run(["cp", "--sparse=auto", source, target], check=True)


def remove(path):
    shutil.rmtree(os.path.dirname(path), ignore_errors=True)


def allocated(path):
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def length(path):
    return os.stat(path).st_size


def problem(path, disk_format):
    """Returns why the host would reject an uploaded image (another format, or a backing file), or None."""
    try:
        info = json.loads(_qemu_img("info", "--output", "json", path))
    except ImageError as error:
        return str(error)
    if info["format"] != QEMU_FORMAT[disk_format]:
        return f"the image is {info['format']}, the disk is {QEMU_FORMAT[disk_format]}"
    if "backing-filename" in info:
        return "the image has a backing file"
    return None


def _qemu_img(*arguments):
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise ImageError(done.stderr.strip())
    return done.stdout
