"""Ready memory, which a benchmark in a virtual machine needs for meaningful rates.

A hypervisor that reclaims free memory (balloon, free page reporting) returns it more slowly than most
contenders move bytes: at 0.5 GiB/s where this was observed, which halved the rate of a contender after a
pause. It reclaims whole blocks of 2 MiB. So this module splits memory into smaller pieces: it touches each
MiB of a large mapping, and frees all but a page of it. Such pieces stay with the guest, and the kernel hands
them out first.
"""

import mmap

PIECE = 1 << 20


def make_ready(size):
    """Makes `size` bytes ready, as long as the returned mapping lives, which holds a page of each MiB."""
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_NOHUGEPAGE)
    block = b"\1" * PIECE
    for at in range(0, size, PIECE):
        held[at : at + PIECE] = block
    for at in range(0, size, PIECE):
        held.madvise(mmap.MADV_DONTNEED, at + mmap.PAGESIZE, PIECE - mmap.PAGESIZE)
    return held


def available():
    """Returns the bytes that the kernel can hand out without swapping."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
