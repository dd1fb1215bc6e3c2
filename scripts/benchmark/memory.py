"""Memory that is at hand: what a benchmark in a virtual machine needs before its rates mean anything.

A hypervisor that takes free memory back (balloon, free page reporting) gives it again slower than most contenders move
bytes: 0.5 GiB/s where this was found, so that who ran after a pause was half as fast. It takes whole blocks of 2 MiB. So
memory is split into smaller pieces: each MiB of a large mapping is touched, and all but a page of it given back. Such
pieces stay with the guest, and are what the kernel hands out first.
"""

import mmap

PIECE = 1 << 20


def at_hand(size):
    """Makes `size` bytes ready. They stay so as long as the returned mapping lives, which holds a page of each MiB."""
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_NOHUGEPAGE)
    block = b"\1" * PIECE
    for at in range(0, size, PIECE):
        held[at : at + PIECE] = block
    for at in range(0, size, PIECE):
        held.madvise(mmap.MADV_DONTNEED, at + mmap.PAGESIZE, PIECE - mmap.PAGESIZE)
    return held


def available():
    """Bytes that the kernel would give without swapping."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
