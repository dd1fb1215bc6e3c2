"""The services of the soak: storage, daemon, proxy, and the mount over them.

Without an engine nothing can renew a ticket, so a mount whose ticket is missing in a restarted daemon ends.
Therefore `restart` keeps the proxy closed until the new daemon has the ticket; an engine would have given the
transfer a new one.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path

from measure import Failed, run
from storage import MIB, SCRIPTS, Daemon, Qcow2

CACHE, JOURNAL = 32 * MIB, 64 * MIB
RESTART_SECONDS = (30, 90)  # bounds of the random time between two restarts of the daemon


class Service:
    """`close` undoes the steps of `start`, however many it has taken."""

    def __init__(self, place, size, connections):
        self.place, self.size, self.connections = place, size, connections
        self.program, self.proxy_program = place / "rhv-mount", place / "cutting_proxy"
        self.point, self.file = place / "mnt", place / "mnt/disk"
        self.ticket = str(uuid.uuid4())
        # The mount promises this bound on its memory; the write-behind limit depends on the connections.
        behind = min(max(32 * MIB, 2 * connections * 8 * MIB), 128 * MIB)
        self.memory = 64 * MIB + CACHE + JOURNAL + behind
        self.disk = self.daemon = self.proxy = self.pid = self.restarter = None
        self.stopped = multiprocessing.Event()
        self.restarts = multiprocessing.Value("i", 0)

    def start(self, source, seed, calm):
        self.disk = Qcow2(self.place, self.size, source)
        self.daemon = Daemon(self.place, "https")
        self._give_ticket()
        self.upstream = self.place / "upstream"
        self._open()
        words = [self.proxy_program, self.upstream, str(seed), *(["calm"] if calm else [])]
        self.proxy = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        port = int(self.proxy.stdout.readline())
        url = self.place / "url"
        url.touch(mode=0o600)
        url.write_text(f"https://127.0.0.1:{port}/images/{self.ticket}")
        self.point.mkdir()
        words = [
            self.program,
            "--transfer-url-file",
            url,
            "--cafile",
            self.daemon.cafile,
            "--no-unix-socket",
            "--stats",
        ]
        words += [
            "--cache-size",
            str(CACHE),
            "--journal-size",
            str(JOURNAL),
            "--connections",
            str(self.connections),
        ]
        # rhv-mount does not retry its very first connection, which the proxy may cut: a user would run it
        # again.
        for attempt in range(5):
            try:
                run([*words, "--log-level", "info", "--log-file", self.place / "log", self.point])
                break
            except Failed:
                if attempt == 4:
                    raise
        self.pid = self.status()["pid"]

    def status(self):
        return json.loads(run([self.program, "status", "-o", "json", self.point]))

    def restart(self, orderly):
        """Ends the daemon, and starts it again with the ticket."""
        self.upstream.unlink()
        if not orderly:
            os.kill(int((self.daemon.dir / "pid").read_text()), signal.SIGKILL)
        self.daemon.close()
        (self.daemon.dir / "pid").unlink(missing_ok=True)
        run([SCRIPTS / "imageio", "start", self.daemon.dir, "--tls", "--local", "none"])
        self._give_ticket()
        self._open()
        self.restarts.value += 1

    def restart_now_and_then(self, chance, failed):
        """Restarts the daemon at random times until `stop_restarts`. A separate process does so, forked
        before this one has the disk open: a started program inherits and closes its parent's open files, and
        that close would wait for the daemon.
        """

        def work():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            while not self.stopped.wait(chance.uniform(*RESTART_SECONDS)):
                self.restart(orderly=chance.random() < 0.3)

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()

        def watch():
            process.join()
            if process.exitcode:
                failed(f"the daemon could not be restarted: exit code {process.exitcode}")

        self.restarter = threading.Thread(target=watch)
        self.restarter.start()

    def stop_restarts(self):
        self.stopped.set()
        if self.restarter:
            self.restarter.join()

    def _give_ticket(self):
        options = [f"url={self.disk.url}", f"size={self.size}", "sparse=true", "timeout=1000000"]
        run([SCRIPTS / "imageio", "ticket", self.daemon.dir, self.ticket, *options])

    def _open(self):
        new = self.place / "upstream.new"
        new.write_text((self.daemon.dir / "port").read_text())
        new.rename(self.upstream)

    def umount(self):
        """Runs `rhv-mount umount`; returns its exit code and its output."""
        words = [self.program, "umount", self.point]
        done = subprocess.run(
            [str(w) for w in words], capture_output=True, text=True, timeout=600, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def end_proxy(self):
        """Ends the proxy; returns its counts."""
        self.proxy.terminate()
        done, _ = self.proxy.communicate(timeout=20)
        self.proxy = None
        return json.loads(done)

    def is_mounted(self):
        return f" {self.point} " in Path("/proc/self/mountinfo").read_text()

    def close(self):
        """Ends everything; returns True if nothing is left."""
        self.stop_restarts()
        if self.is_mounted():
            # The daemon or the proxy may be broken, and an ordinary umount would retry for minutes.
            if self.pid and Path(f"/proc/{self.pid}/comm").exists():
                os.kill(self.pid, signal.SIGKILL)
            subprocess.run(["umount", "-l", str(self.point)], check=False, capture_output=True)
            subprocess.run(["fusermount3", "-u", "-z", str(self.point)], check=False, capture_output=True)
            subprocess.run(
                [str(self.program), "umount", str(self.point)], check=False, capture_output=True, timeout=60
            )
        if self.proxy:
            self.proxy.kill()
            self.proxy.wait()
        if self.daemon:
            self.daemon.close()
        if self.disk:
            self.disk.stop()
        for _ in range(100):
            if not self.is_mounted() and not (self.pid and Path(f"/proc/{self.pid}").exists()):
                return True
            time.sleep(0.1)
        return False
