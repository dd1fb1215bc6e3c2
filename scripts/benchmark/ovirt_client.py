"""Moves an image with ovirt_imageio's own client, as `ovirt-img` does, and prints what that took.

    ovirt_client.py upload|download URL FILE CAFILE|- WORKERS

Only the library's call is timed, not Python's start: what is compared is the moving of bytes.
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
        # As ovirt-img does for a disk that it has just made: holes are left alone.
        client.upload(file, url, disk_is_zero=True, **options)
    else:
        client.download(url, file, fmt="raw", **options)
    print(json.dumps({"seconds": time.monotonic() - start, "cpu": cpu() - before}))


main()
