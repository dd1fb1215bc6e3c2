"""The faults, each in the middle of an array: at a task whose transfer is open."""

import os
import signal
import time

from cluster import copies_at_work
from measure import Failed

MAX_WAIT = 300  # seconds until something is in the middle
PREFERRED = 3  # seconds for which a copy that moves data is looked for; later on any that has a transfer


class Faults:
    """`say` tells what was done."""

    def __init__(self, cluster, site, place, say):
        self.cluster, self.site, self.place, self.say = cluster, site, place, say

    def all(self, copies):
        """Commits the three, when a quarter, a half and three quarters of the copies are done. Each of the
        first two leaves a task to be done again, which Slurm starts when it is asked for, so there is one for
        the next fault.
        """
        for number, commit in enumerate((self.kill, self.drain, self.restart_imageio), 1):
            share = len(copies.disks) * number // 4
            self._until(copies.job, "a share of the copies", lambda _: copies.done() >= share)
            commit(copies.job)

    def _until(self, job, what, find):
        """Repeats `find`, which is told the seconds, until it finds something, and returns that."""
        begun = hastened = time.monotonic()
        while (now := time.monotonic()) < begun + MAX_WAIT:
            found = find(now - begun)
            if found:
                return found
            if now > hastened + 1:
                self.cluster.hasten(job)
                hastened = now
            time.sleep(0.02)
        raise Failed(f"{what}: it did not come about in {MAX_WAIT} s")

    def _open(self, job, phases=None):
        """The ids of the open transfers."""
        if not self.cluster.tasks(job):
            raise Failed("the array was over before all faults had come")
        return {one["id"] for one in self.site.open_transfers() if phases in (None, one["phase"])}

    def kill(self, job):
        """Kills a copy whose transfer is open, and moves data if there is such a one."""

        def strike(seconds):
            phase = "transferring" if seconds < PREFERRED else None
            open_, pids = self._open(job, phase), copies_at_work(self.place)
            if not open_ or not pids:
                return None
            try:
                os.kill(pids[0], signal.SIGKILL)
            except ProcessLookupError:
                return None  # It was over meanwhile.
            return True

        self._until(job, "a copy to kill", strike)
        self.say("killed a copy (SIGKILL)")

    def restart_imageio(self, job):
        """Kills the daemon while transfers are open, and starts it again: while each of them moves data, if
        such a moment comes. A copy that is about to connect fails then, and leaves a raw disk whose head
        nobody has seen to the user.
        """

        def strike(seconds):
            open_ = self._open(job)
            moving = {one["id"] for one in self.site.open_transfers() if one["transferred"]}
            return open_ if seconds >= PREFERRED or open_ <= moving else None

        open_ = self._until(job, "open transfers", strike)
        self.site.restart_imageio()
        self.say(f"killed and restarted ovirt-imageio, with {len(open_)} transfers open")

    def drain(self, job):
        """Drains a node, has its tasks go elsewhere, and takes it back."""

        def tasks(node=None):
            self._open(job)
            running = self.cluster.tasks(job, "RUNNING")
            return [(task, where) for task, _, where in running if node in (None, where)]

        def drain(_):
            for _, node in tasks()[:1]:
                self._set(node, "drain")
                moved = [f"{job}_{task}" for task, _ in tasks(node)]
                for task in moved:
                    self.cluster.ask("scontrol", "requeue", task, check=False)
                if moved:
                    return node, len(moved)
                # It was over meanwhile.
                self._set(node, "resume")
            return None

        node, count = self._until(job, "a task on a node", drain)
        self._until(job, f"{node} to be empty", lambda _: not tasks(node))
        self.say(f"drained {node}, {count} tasks requeued")
        time.sleep(2)
        self._set(node, "resume")

    def _set(self, node, state):
        self.cluster.ask("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")
