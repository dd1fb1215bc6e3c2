"""The qemu-nbd process behind a transfer: it serves an image on a unix socket, as a host does for imageio.

The image is a path, or qemu's description of a node ("json:...") without a format.

`capacity` limits the image file's size as a logical volume would: qemu-nbd runs under a file size limit, and
its client gets ENOSPC for a write beyond it. Python starts children with the default action of SIGXFSZ, which
would kill qemu-nbd instead; `restore_signals=False` leaves the signal ignored.
"""

import os
import subprocess
import time

START_SECONDS = 20


class NbdError(Exception):
    pass


class NbdServer:
    def __init__(
        self,
        directory,
        name,
        image,
        qemu_format,
        *,
        read_only,
        discard,
        shared,
        capacity=None,
        bitmap=None,
        direct=False,
    ):
        self._base = os.path.join(directory, name)
        self.socket = self._base + ".sock"
        self.url = f"nbd:unix:{self.socket}"
        os.makedirs(directory, exist_ok=True)
        command = ["qemu-nbd", f"--socket={self.socket}", f"--shared={shared}"]
        if qemu_format:
            command.append(f"--format={qemu_format}")
        command += ["--persistent", "--allocation-depth", f"--pid-file={self._base}.pid"]
        if bitmap:
            command.append(f"--bitmap={bitmap}")
        command += ["--cache=none", "--aio=native"] if direct else ["--cache=writeback"]
        if read_only:
            command.append("--read-only")
        elif discard:
            command += ["--discard=unmap", "--detect-zeroes=unmap"]
        else:
            command.append("--detect-zeroes=on")
        if capacity is not None:
            command = ["prlimit", f"--fsize={capacity}", *command]
        self._command = [*command, image]
        self._start()

    def restart(self):
        """Restarts the process if it has ended by itself, as a supervising host does."""
        if self._process.poll() is None:
            return False
        os.unlink(self._base + ".pid")
        self._start()
        return True

    def _start(self):
        with open(self._base + ".log", "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                restore_signals=False,
                start_new_session=True,
            )
        self._wait_until_it_listens()

    def stop(self):
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for suffix in (".sock", ".pid", ".log"):
            if os.path.exists(self._base + suffix):
                os.unlink(self._base + suffix)

    def _wait_until_it_listens(self):
        deadline = time.monotonic() + START_SECONDS
        while not self._has_pid_file():
            if self._process.poll() is not None or time.monotonic() > deadline:
                with open(self._base + ".log", encoding="utf-8", errors="replace") as log:
                    reason = log.read().strip()
                self.stop()
                raise NbdError(f"qemu-nbd did not start: {reason}")
            time.sleep(0.005)

    def _has_pid_file(self):
        try:
            return os.path.getsize(self._base + ".pid") > 0
        except FileNotFoundError:
            return False
