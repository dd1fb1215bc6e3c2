"""Moves an image with ovirt_imageio's own client, as `ovirt-img` does, and prints its time and processor
time.

    ovirt_client.py upload|download URL FILE CAFILE|- WORKERS

The clock covers only the library's call, without Python's start, because the benchmark compares the moving of
bytes.
"""

import json
import os
import sys
import time

from ovirt_imageio import client


def cpu():
    return sum(os.times()[:4])


def main():
    verb, url, file, cafile, workers = sys.argv[1:]
    options = {"cafile": None if cafile == "-" else cafile, "max_workers": int(workers)}
    before, start = cpu(), time.monotonic()
    if verb == "upload":
        # Holes are skipped, as ovirt-img does for a disk that it has just created.
        client.upload(file, url, disk_is_zero=True, **options)
    else:
        client.download(url, file, fmt="raw", **options)
    print(json.dumps({"seconds": time.monotonic() - start, "cpu": cpu() - before}))


main()
