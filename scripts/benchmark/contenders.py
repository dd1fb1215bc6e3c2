"""The contenders: rhv-mount with a tool or without a mount, ovirt_imageio's client, nbdfuse with a tool,
nbdcopy, a bare loop.

Each has `upload(job)` and `download(job)`, which return a Sample; a job names the disk and the transport. A
contender's clock runs from before its first connection until every byte is flushed, or read and written to a
file. For rhv-mount that is the whole process, from its start to the end of its unmount.
"""

import json
import os
import pwd
import shlex
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from measure import Failed, Sample, children_cpu, peak_rss, process_cpu, run, run_from_ready, timed
from storage import TOP, Daemon, Qcow2, Source

BUILT = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")) / "release"
VENV = TOP / "target/venv"
HERE = Path(__file__).resolve().parent

# Sizes of the bare loop's requests, the same as rhv-mount's: the first ones, and all of them where each costs
# time of its own; and the others (src/pool/sizes.rs).
REQUEST_BYTES, NEAR_REQUEST_BYTES = 8 << 20, 4 << 20

MAX_WAIT_SECONDS = 60  # upper bound on the time until a mount shows its file

# These run in a shell; $1 is the file to read, $2 the one to write.
UPLOAD = {
    "qemu-img": 'qemu-img convert -n -f raw -O raw "$1" "$2"',
    "cp": 'cp "$1" "$2"',
    "dd": 'dd if="$1" of="$2" bs=1M status=none',
    "dd bs=512": 'dd if="$1" of="$2" bs=512 status=none',
    "dd bs=4k": 'dd if="$1" of="$2" bs=4k status=none',
    "dd zeros": 'dd if=/dev/zero of="$2" bs=1M count=$(($(stat -c %s "$2") >> 20)) status=none',
}
DOWNLOAD = {
    "qemu-img": 'qemu-img convert -f raw -O raw "$1" "$2"',
    "cp": 'cp "$1" "$2"',
    "dd": 'dd if="$1" of="$2" bs=1M conv=sparse status=none',
}


@dataclass
class Job:
    place: Path
    daemon: Daemon
    url: str
    source: Source
    connections: int = 4
    output: Path = None  # download only
    disk: object = None
    begin: object = time.monotonic  # waits until the clock may start, and returns the time of that

    def url_file(self):
        path = self.place / "url"
        path.write_text(self.url)
        path.chmod(0o600)
        return path

    def cafile_or(self, none):
        return str(self.daemon.cafile or none)


class RhvMount:
    """`rhv-mount ... -- TOOL`, which mounts, copies, flushes and unmounts."""

    def __init__(self, tool, as_user=None, options=()):
        self.tool, self.as_user, self.options = tool, as_user, list(options)
        self.name = " ".join([f"rhv-mount, {tool}", *self.options]) + (" (ordinary user)" if as_user else "")

    def command(self, job, read_only):
        words = [BUILT / "rhv-mount", "--transfer-url-file", job.url_file(), "--log-level", "error"]
        words += ["--connections", str(job.connections), *self.options]
        if job.daemon.cafile:
            words += ["--cafile", job.daemon.cafile]
        if job.daemon.transport != "unix":
            words.append("--no-unix-socket")
        if read_only:
            words.append("--read-only")
        return words

    def upload(self, job):
        return self._run(job, False, UPLOAD[self.tool], job.source.path, "{}")

    def download(self, job):
        return self._run(job, True, DOWNLOAD[self.tool], "{}", job.output)

    def _run(self, job, read_only, script, source, target):
        with tempfile.TemporaryDirectory(dir=job.place) as work:
            status, mountpoint = Path(work) / "status", Path(work) / "mnt"
            mountpoint.mkdir()
            script += ' && cat /proc/$PPID/status > "$3"'
            words = [*self.command(job, read_only), mountpoint, "--", "sh", "-c", script, "sh"]
            words += [source, target, status]
            if self.as_user:
                user = pwd.getpwnam(self.as_user)
                for path in (work, mountpoint, job.url_file()):
                    os.chown(path, user.pw_uid, user.pw_gid)
                words = [
                    "setpriv",
                    f"--reuid={user.pw_uid}",
                    f"--regid={user.pw_gid}",
                    "--clear-groups",
                    *words,
                ]
                words = ["env", f"HOME={work}", *words]
            sample, _ = timed(words, job.begin)
            sample.rss = peak_rss(status.read_text())
            return sample

    def mounted(self, job, read_only, work):
        """Mounts, runs `work(file)`, unmounts; returns the process's peak memory (bytes) and processor
        seconds.
        """
        with tempfile.TemporaryDirectory(dir=job.place) as mountpoint:
            daemon = subprocess.Popen(
                [str(word) for word in [*self.command(job, read_only), "--foreground", mountpoint]],
                stdin=subprocess.DEVNULL,
            )
            file = Path(mountpoint) / "disk"
            try:
                wait_for_file(file, daemon)
                work(file)
                status = Path(f"/proc/{daemon.pid}/status").read_text()
                cpu = process_cpu(daemon.pid)
            finally:
                run([BUILT / "rhv-mount", "umount", mountpoint])
                daemon.wait(60)
            return peak_rss(status), cpu


class RhvCopy(RhvMount):
    """`rhv-mount upload` and `rhv-mount download`, which copy without a mount."""

    def __init__(self):
        super().__init__(None)
        self.name = "rhv-mount without a mount"

    def upload(self, job):
        return self._copy(job, "upload", job.source.path)

    def download(self, job):
        return self._copy(job, "download", job.output, "--force")

    def _copy(self, job, verb, image, *more):
        words = self.command(job, read_only=False)
        sample, _ = timed([words[0], verb, image, *words[1:], *more], job.begin)
        return sample


class OvirtClient:
    """ovirt_imageio's client library, which `ovirt-img` runs."""

    name = "ovirt_imageio client"

    def upload(self, job):
        return self._run(job, "upload", job.source.path)

    def download(self, job):
        return self._run(job, "download", job.output)

    def _run(self, job, verb, file):
        words = [VENV / "bin/python", HERE / "ovirt_client.py", verb, job.url, file]
        output = run_from_ready([*words, job.cafile_or("-"), job.connections], job.begin)
        return Sample(**json.loads(output))


class Ceiling:
    """A bare loop without FUSE and HTTP library, and with one buffer per connection (examples/ceiling.rs).

    With `copies`, threads beside it copy as many bytes that many times, to simulate a client's processor
    time.
    """

    def __init__(self, copies=0):
        self.copies = copies
        self.name = f"bare loop and {copies} copies" if copies else "bare loop"

    def upload(self, job):
        return self._run(job, "put", ["--source", job.source.path])

    def download(self, job):
        return self._run(job, "get", ["--output", job.output])

    def _run(self, job, verb, more):
        ranges = job.place / "ranges"
        job.source.write_ranges(ranges)
        words = [BUILT / "examples/ceiling", verb, job.url]
        words += ["--cafile", job.daemon.cafile] if job.daemon.cafile else ["--plain"]
        words += ["--unix", job.daemon.socket] if job.daemon.socket else []
        words += ["--connections", job.connections, "--request", REQUEST_BYTES, "--ranges", ranges]
        words += ["--then", NEAR_REQUEST_BYTES] if isinstance(job.disk, Qcow2) else []
        words += ["--copies", self.copies] if self.copies else []
        sample, _ = timed([*words, *more])
        if verb == "get":
            os.truncate(job.output, job.source.size)
        return sample


@contextmanager
def nbdkit(job):
    """Serves the job's transfer by nbdkit, with a plugin over ovirt_imageio's client; yields the process and
    its socket.
    """
    socket, log = job.place / "nbdkit.sock", job.place / "nbdkit.log"
    site = next((VENV / "lib").glob("python3*/site-packages"))
    words = ["nbdkit", "--foreground", "--unix", socket, "python", HERE / "nbdkit_imageio.py"]
    words += [f"url={job.url}", f"cafile={job.cafile_or('-')}", f"connections={job.connections}"]
    with open(log, "wb") as out:
        server = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONPATH": str(site)},
        )
    try:
        wait_until(socket.exists, f"nbdkit does not listen: {log.read_text()}")
        yield server, socket
    finally:
        server.terminate()
        server.wait(60)
        socket.unlink(missing_ok=True)


def timed_beside(work):
    """Times `work`, which returns the processor seconds of servers that it does not wait for."""
    start, before = time.monotonic(), children_cpu()
    servers = work()
    return Sample(time.monotonic() - start, max(servers, children_cpu() - before))


class Nbdcopy:
    """nbdcopy over nbdkit, which is virt-v2v's way; its requests have the size that virt-v2v sets."""

    name = "nbdcopy over nbdkit"

    def upload(self, job):
        return timed_beside(lambda: self._copy(job, lambda disk: [job.source.path, disk]))

    def download(self, job):
        return timed_beside(lambda: self._copy(job, lambda disk: [disk, job.output]))

    def _copy(self, job, ends):
        with nbdkit(job) as (server, socket):
            run(["nbdcopy", "--request-size=4194304", "--flush", *ends(f"nbd+unix:///?socket={socket}")])
            return process_cpu(server.pid)


class Nbdfuse:
    """nbdfuse over nbdkit: the only other way to mount a transfer."""

    def __init__(self, tool):
        self.tool = tool
        self.name = f"nbdfuse over nbdkit, {tool}"

    def upload(self, job):
        def work(file):
            run_tool(UPLOAD[self.tool], job.source.path, file)

        return timed_beside(lambda: self.mounted(job, False, work)[1])

    def download(self, job):
        def work(file):
            run_tool(DOWNLOAD[self.tool], file, job.output)

        return timed_beside(lambda: self.mounted(job, True, work)[1])

    def mounted(self, job, read_only, work):
        with tempfile.TemporaryDirectory(dir=job.place) as mountpoint, nbdkit(job) as (server, socket):
            file, mounter = Path(mountpoint) / "disk", None
            try:
                words = ["nbdfuse", *(["--readonly"] if read_only else []), file, "--unix", socket]
                mounter = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL)
                wait_for_file(file, mounter)
                work(file)
                if not read_only:
                    with open(file, "r+b") as disk:
                        os.fsync(disk.fileno())
                rss = sum(peak_rss(Path(f"/proc/{p.pid}/status").read_text()) for p in (server, mounter))
                return rss, process_cpu(server.pid) + process_cpu(mounter.pid)
            finally:
                if mounter:
                    subprocess.run(["fusermount3", "-u", mountpoint], check=False)
                    mounter.wait(60)


def run_tool(script, source, target):
    run(["sh", "-c", script, "sh", source, target])


def wait_until(done, why):
    end = time.monotonic() + MAX_WAIT_SECONDS
    while time.monotonic() < end:
        if done():
            return
        time.sleep(0.001)
    raise Failed(why)


def wait_for_file(file, process):
    def there():
        if process.poll() is not None:
            raise Failed(f"{shlex.join(map(str, process.args))[:60]}...: ended with {process.returncode}")
        return file.exists()

    wait_until(there, f"{file} does not appear")
