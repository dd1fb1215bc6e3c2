"""The load: many programs use one disk at once, and each checks its bytes.

A round has two halves. In the first half all workers run at once, each in its own region:

    fio          random reads and writes with checksums, direct; the same through psync with fsyncs;
                 sequential writes
    copies       dd of a piece of the image, compared with cmp
    model        writes, holes and fsyncs, repeated on a local file; reads must match that file
    reader       reads the static region, and compares it; reads a little everywhere

In the second half, one program at a time uses the whole file: an image is copied onto it, which truncates it
first, and the file is truncated and grown again; it is always compared with a local file. A worker that sees
a wrong byte or an error, which it never should, ends the soak.
"""

import ctypes
import os
import random
import subprocess
import threading
import time

from measure import Failed
from storage import MIB

SIZE = 1024 * MIB
REGIONS = {  # offset, length
    "direct": (0, 96 * MIB),
    "buffered": (96 * MIB, 64 * MIB),
    "sequential": (160 * MIB, 128 * MIB),
    "copies": (288 * MIB, 256 * MIB),
    "model": (544 * MIB, 128 * MIB),
    "probe": (672 * MIB, 8 * MIB),
    "static": (680 * MIB, 128 * MIB),
}
FIRST_HALF_SECONDS = 45
WHOLE = (
    'cp --sparse=always "$1" "$2"',
    'qemu-img convert -f raw -O raw "$1" "$2"',
    'dd if="$1" of="$2" bs=1M conv=sparse status=none',
    'cat "$1" > "$2"',
    'qemu-img convert -n -W -f raw -O raw "$1" "$2"',
)
FIO = {
    "direct": "--rw=randrw --bsrange=4k-256k --ioengine=libaio --iodepth=8 --direct=1",
    "buffered": "--rw=randwrite --bsrange=512-64k --ioengine=psync --fsync=32",
    "sequential": "--rw=write --bs=1m --ioengine=psync --end_fsync=1",
}
COPIES = ("bs=1M", "bs=1M oflag=direct", "bs=100k", "bs=4M conv=fsync")
PUNCH = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
libc = ctypes.CDLL(None, use_errno=True)


def punch(descriptor, offset, length):
    if libc.fallocate(descriptor, PUNCH, ctypes.c_long(offset), ctypes.c_long(length)):
        number = ctypes.get_errno()
        raise OSError(number, f"punch: {os.strerror(number)}")


# A started program inherits this process's open files of the disk and closes them, and each close waits for
# the written bytes. With vfork the whole process would wait for that.
subprocess._USE_VFORK = False


class Load:
    def __init__(self, place, file, image, seed):
        self.place, self.file, self.image = place, file, image
        self.expected = place / "expected.raw"
        self.chance = random.Random(seed)
        self.stop, self.failure, self.counts, self.children = threading.Event(), None, {}, set()
        self.lock = threading.Lock()
        self.shared = threading.Lock()  # held by the probe while it writes, and by the user of the whole file

    def run(self, until):
        """Runs rounds until `until`. Then the disk equals `expected`, and its last writes are not flushed."""
        while not self.over(until):
            self.half(min(until, time.monotonic() + FIRST_HALF_SECONDS))
            self.whole()
        self.half(time.monotonic() + 2, ("model",))

    def over(self, until):
        return self.stop.is_set() or time.monotonic() >= until

    def half(self, until, names=("direct", "buffered", "sequential", "copies", "model", "static")):
        works = {"copies": self.copies, "model": self.model, "static": self.reader}
        threads = []
        for name in names:
            work, seed = works.get(name, self.fio), self.chance.randrange(1 << 30)
            arguments = (work, name, until, random.Random(seed))
            threads.append(threading.Thread(target=self.guarded, args=arguments, daemon=True))
        for thread in threads:
            thread.start()
        # After a failure, a worker that hangs in the mount is abandoned; the end of the mount releases it.
        for thread in threads:
            while thread.is_alive() and not self.stop.is_set():
                thread.join(0.2)
        self.check()

    def guarded(self, work, name, until, chance):
        try:
            work(name, until, chance)
        except (Failed, OSError, ValueError) as e:
            self.fail(f"{name}: {e}")

    def fail(self, words):
        """Records the first failure, which may have caused the others, and ends the load."""
        with self.lock:
            if not self.stop.is_set():
                self.failure = words
                print(f"soak: {words}", flush=True)
        self.end()

    def check(self):
        if self.stop.is_set():
            raise Failed(self.failure or "stopped")

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def rows(self):
        return [(f"load: {name}", n) for name, n in sorted(self.counts.items())]

    def shell(self, script, *words):
        """Runs a program of the load; `end` kills it."""
        child = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script, "sh", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self.children.add(child)
        said, _ = child.communicate()
        self.children.discard(child)
        if child.returncode:
            raise Failed(f"{script}: exit code {child.returncode}: {said[-600:]}")

    def end(self):
        """Stops the workers and kills their programs."""
        self.stop.set()
        for child in list(self.children):
            try:
                os.killpg(child.pid, 9)
            except ProcessLookupError:
                pass

    def fio(self, name, until, chance):
        offset, length = REGIONS[name]
        script = (
            f'cd "$2" && fio --name={name} --filename="$1" --offset={offset} --size={length} {FIO[name]} '
            f"--verify=crc32c --verify_fatal=1 --verify_state_save=0 --do_verify=1 --allow_file_create=0 "
            f"--overwrite=1 --file_append=0 --randseed=$3 --minimal"
        )
        while not self.over(until):
            self.shell(script, self.file, self.place, chance.randrange(1 << 30))
            self.count(f"fio {name}")
        self.refresh(name)

    def refresh(self, name):
        """Takes the region's bytes as the expected ones: the workers have compared them already."""
        offset, length = REGIONS[name]
        at, step = offset, 8 * MIB
        with open(self.file, "rb", 0) as source, open(self.expected, "r+b") as target:
            while at < offset + length:
                target.seek(at)
                target.write(os.pread(source.fileno(), step, at))
                at += step

    def copies(self, name, until, chance):
        offset, length = REGIONS[name]
        while not self.over(until):
            start = chance.randrange((SIZE - length) // MIB)
            piece, how = self.place / "piece", chance.choice(COPIES)
            self.shell(
                'dd if="$1" of="$2" bs=1M skip=$3 count=$4 status=none',
                self.image,
                piece,
                start,
                length // MIB,
            )
            self.shell(copy_script(how), piece, self.file, offset)
            self.shell('cmp -n $4 "$1" "$2" 0 $3', piece, self.file, offset, length)
            piece.unlink()
            self.count("copies")
        self.refresh(name)

    def model(self, name, until, chance):
        offset, length = REGIONS[name]
        file, local = os.open(self.file, os.O_RDWR), os.open(self.expected, os.O_RDWR)
        noise = chance.randbytes(2 * MIB)
        try:
            while not self.over(until):
                size = min(int(chance.paretovariate(0.4) * 512), MIB)
                at = offset + chance.randrange(length - size)
                match chance.choices(("write", "punch", "read", "fsync"), (10, 3, 10, 1))[0]:
                    case "write":
                        start = chance.randrange(MIB)
                        data = noise[start : start + size]
                        for target in (file, local):
                            if os.pwrite(target, data, at) != size:
                                raise Failed("a short write")
                    case "punch":
                        punch(file, at, size)
                        punch(local, at, size)
                    case "read":
                        if os.pread(file, size, at) != os.pread(local, size, at):
                            raise Failed(f"wrong bytes in {size} bytes at {at}")
                    case "fsync":
                        os.fsync(file)
                self.count("model operations")
        finally:
            os.close(file)
            os.close(local)

    def reader(self, name, until, chance):
        offset, length = REGIONS[name]
        with open(self.file, "rb", 0) as file, open(self.expected, "rb", 0) as local:
            while not self.over(until):
                start = offset + chance.randrange(length - MIB)
                for at in range(start, min(start + 32 * MIB, offset + length), MIB):
                    if os.pread(file.fileno(), MIB, at) != os.pread(local.fileno(), MIB, at):
                        raise Failed(f"wrong bytes in the MiB at {at}")
                for at in range(0, SIZE, 32 * MIB):
                    if not os.pread(file.fileno(), 64 << 10, at):
                        raise Failed(f"nothing is read at {at}")
                self.count("reads compared")

    def whole(self):
        with self.shared:
            self.use_whole_file()
        self.check()

    def use_whole_file(self):
        """Copies an image over the whole file, then truncates a part of it away."""
        script = self.chance.choice(WHOLE)
        self.shell(script, self.image, self.file)
        self.shell('cp --sparse=always "$1" "$2"', self.image, self.expected)
        if os.path.getsize(self.file) != SIZE:
            raise Failed(f"{script}: the file is {os.path.getsize(self.file)} bytes long")
        self.shell('cmp "$1" "$2"', self.expected, self.file)
        self.count("whole images")
        for _ in range(3):
            kept = self.chance.randrange(SIZE // 2, SIZE)
            for path in (self.file, self.expected):
                os.truncate(path, kept)
                os.truncate(path, SIZE)
            self.count("truncates")
        self.shell('cmp "$1" "$2"', self.expected, self.file)


def copy_script(how):
    """Returns a dd command that copies into the middle of a file. dd uses only the last oflag and the last
    conv, so each list is joined.
    """
    words = ["oflag=seek_bytes", "conv=notrunc"]
    for word in how.split():
        key, _, value = word.partition("=")
        words = [f"{w},{value}" if w.startswith(f"{key}=") else w for w in words]
    block = next(word for word in how.split() if word.startswith("bs="))
    return f'dd if="$1" of="$2" {block} seek=$3 {" ".join(words)} status=none'
