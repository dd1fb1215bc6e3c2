"""An nbdkit plugin in Python that serves a transfer URL to `nbdfuse`, the only other way to mount one, and to
`nbdcopy`, with which virt-v2v copies.

    nbdkit python nbdkit_imageio.py url=URL cafile=PATH|- connections=N

It keeps a pool of ovirt_imageio's clients. Each request uses one client; a flush goes to all of them.
"""

import bisect
import queue
import threading

import nbdkit
from ovirt_imageio.client import ImageioClient

API_VERSION = 2
settings = {"connections": "4"}
clients = []
idle = queue.Queue()
known = []  # the server's extents, once it was asked
lock = threading.Lock()


def config(key, value):
    settings[key] = value


def config_complete():
    if "url" not in settings:
        raise RuntimeError("url=URL is missing")


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def get_ready():
    for _ in range(int(settings["connections"])):
        cafile = settings.get("cafile", "-")
        client = ImageioClient(settings["url"], cafile=None if cafile == "-" else cafile)
        clients.append(client)
        idle.put(client)


def open(readonly):
    return 1


def get_size(handle):
    return with_client(lambda client: client.size())


def with_client(work):
    client = idle.get()
    try:
        return work(client)
    finally:
        idle.put(client)


def pread(handle, buffer, offset, flags):
    with_client(lambda client: client.read(offset, buffer))


def pwrite(handle, buffer, offset, flags):
    with_client(lambda client: client.write(offset, buffer))


def can_flush(handle):
    return True


def can_multi_conn(handle):
    # A flush over one connection of NBD goes to all clients.
    return True


def can_extents(handle):
    return True


def extents(handle, count, offset, flags):
    """Returns the extents of the range, each as its start, its length and its type; the server is asked once,
    for all.
    """
    with lock:
        if not known:
            known.extend(with_client(lambda client: list(client.extents())))
    zero = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    first = bisect.bisect_right(known, offset, key=lambda extent: extent.start) - 1
    for extent in known[first:]:
        if extent.start >= offset + count:
            return
        yield extent.start, extent.length, zero if extent.zero else 0


def can_zero(handle):
    return True


def zero(handle, count, offset, flags):
    with_client(lambda client: client.zero(offset, count))


def flush(handle, flags):
    held = [idle.get() for _ in clients]
    try:
        for client in held:
            client.flush()
    finally:
        for client in held:
            idle.put(client)
