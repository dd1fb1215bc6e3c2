"""A qemu-storage-daemon that has the images of a running VM open, and its control protocol (QMP).

It is the part of a VM's qemu that a live backup needs: it writes the guest's data, keeps the bitmaps, and
copies what the guest is about to overwrite to a scratch disk. Commands are sent one at a time.
"""

import json
import os
import socket
import subprocess
import time

START_SECONDS = 20


class QmpError(Exception):
    pass


class StorageDaemon:
    def __init__(self, directory, name):
        os.makedirs(directory, exist_ok=True)
        self._base = os.path.join(directory, name)
        self.socket = self._base + ".nbd"
        monitor = self._base + ".qmp"
        command = ["qemu-storage-daemon", "--chardev", f"socket,path={monitor},server=on,wait=off,id=qmp"]
        command += ["--monitor", "chardev=qmp", "--nbd-server", f"addr.type=unix,addr.path={self.socket}"]
        with open(self._base + ".log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--pidfile", self._base + ".pid"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._connect(monitor)
        except (OSError, QmpError) as error:
            self.kill()
            raise QmpError(f"qemu-storage-daemon did not start: {error}") from error

    def run(self, command, **arguments):
        """Runs a command and returns its answer; raises QmpError if it fails."""
        order = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(order).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def is_running(self):
        return self._process.poll() is None

    def quit(self):
        """Ends the daemon in order: it stores the bitmaps in the images."""
        if self.is_running():
            try:
                self.run("quit")
                self._process.wait(timeout=20)
            except (OSError, QmpError, subprocess.TimeoutExpired):
                self._process.kill()
        self.kill()

    def kill(self):
        """Ends the daemon as a crash does, which leaves its bitmaps in use, and removes its files."""
        if self.is_running():
            self._process.kill()
        self._process.wait()
        for suffix in (".nbd", ".qmp", ".pid", ".log"):
            if os.path.exists(self._base + suffix):
                os.unlink(self._base + suffix)

    def _connect(self, monitor):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(30)
                self._socket.connect(monitor)
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._reader = self._socket.makefile("r", encoding="utf-8")
        self._read()
        self.run("qmp_capabilities")

    def _read(self):
        """Reads one message that is no event."""
        while True:
            line = self._reader.readline()
            if not line:
                raise QmpError("the daemon has ended")
            message = json.loads(line)
            if "event" not in message:
                return message
