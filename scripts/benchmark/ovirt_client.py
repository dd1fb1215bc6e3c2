"""Moves an image with ovirt_imageio's own client, as `ovirt-img` does, and prints its time and processor
time.

    ovirt_client.py upload|download URL FILE CAFILE|- WORKERS

The program prints "ready", and begins when it is told the time, a number of time.monotonic(), at which its
clock starts. So the clock covers only the library's call, without Python's start, because the benchmark
compares the moving of bytes; and several clients begin at once.
"""

import json
import os
import sys
import time

from measure import peak_rss
from ovirt_imageio import client


def cpu():
    return sum(os.times()[:4])


def main():
    verb, url, file, cafile, workers = sys.argv[1:]
    options = {"cafile": None if cafile == "-" else cafile, "max_workers": int(workers)}
    print("ready", flush=True)
    start = float(sys.stdin.readline())
    before = cpu()
    if verb == "upload":
        # Holes are skipped, as ovirt-img does for a disk that it has just created.
        client.upload(file, url, disk_is_zero=True, **options)
    else:
        client.download(url, file, fmt="raw", **options)
    seconds = time.monotonic() - start
    with open("/proc/self/status") as status:
        rss = peak_rss(status.read())
    print(json.dumps({"seconds": seconds, "cpu": cpu() - before, "rss": rss}))


main()
