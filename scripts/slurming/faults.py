"""The faults, each in the middle of an array: at a task whose transfer is open."""

import os
import signal
import time
from pathlib import Path

from measure import Failed

MAX_WAIT = 300  # seconds until something is in the middle


def until(what, find):
    """Repeats `find` until it finds something, and returns that."""
    end = time.monotonic() + MAX_WAIT
    while time.monotonic() < end:
        found = find()
        if found:
            return found
        time.sleep(0.05)
    raise Failed(f"{what}: it did not come about in {MAX_WAIT} s")


class Faults:
    """`say` tells what was done."""

    def __init__(self, cluster, site, place, say):
        self.cluster, self.site, self.place, self.say = cluster, site, place, say

    def all(self, job):
        self.kill(job)
        self.restart_imageio(job)
        self.drain(job)

    def _copies(self):
        """The copies at work, as (pid, image): not the shells that started them."""
        found = []
        for one in Path("/proc").iterdir():
            try:
                pid = int(one.name)
                words = (one / "cmdline").read_bytes().split(b"\0")
                # The process that copies has taken its settings along, and has no arguments but these.
                if b"--settings-fd" not in b" ".join(words):
                    continue
                program = os.readlink(one / "exe")
            except (OSError, ValueError):
                continue
            if program == str(self.place / "bin/rhv-mount"):
                found.append(pid)
        return found

    def kill(self, job):
        """Kills a copy whose transfer moves data."""

        def strike():
            moving = {one["id"] for one in self.site.open_transfers() if one["phase"] == "transferring"}
            pids = self._copies()
            if not moving or not pids:
                return None
            os.kill(pids[0], signal.SIGKILL)
            left = {one["id"] for one in self.site.open_transfers() if one["phase"] == "transferring"}
            return left & moving

        until("a copy to kill", strike)
        self.say("killed a copy (SIGKILL)")

    def restart_imageio(self, job):
        """Kills the daemon while transfers are open, and starts it again."""
        open_ = until("open transfers", self.site.open_transfers)
        self.site.restart_imageio()
        self.say(f"killed and restarted ovirt-imageio, with {len(open_)} transfers open")

    def drain(self, job):
        """Drains a node, has its tasks go elsewhere, and takes it back."""

        def running():
            tasks = self.cluster.tasks(job, "RUNNING")
            return [task for task, _, node in tasks if node == "node2"]

        tasks = until("a task on node2", running)
        self.cluster.ask("scontrol", "update", "nodename=node2", "state=drain", "reason=test")
        for task in tasks:
            self.cluster.ask("scontrol", "requeue", f"{job}_{task}", check=False)
        until("node2 to be empty", lambda: not running())
        self.say(f"drained node2, {len(tasks)} tasks requeued")
        time.sleep(2)
        self.cluster.ask("scontrol", "update", "nodename=node2", "state=resume")
